"""The commands on DICOM: import, query straight from a series, a proposed mask as SEG."""

import shutil

import dicoms
import numpy as np
import pandas as pd
import phantoms
import pytest
from dicoms import load_mask
from test_cli import run

from tumorsim.io import load_image
from tumorsim.io.dicom import find_scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with four patients' DICOM, and the archive and index that commands made of it."""
    path = tmp_path_factory.mktemp("cli-dicom")
    for i, tumor in enumerate(phantoms.cohort(4)):
        image, affine = tumor.case.image
        scan = path / "dicom" / str(i)
        paths = dicoms.write_series(
            scan / "t1c",
            image.round().astype(np.uint16),
            affine,
            patient_id=f"ID-{i}",
            identity=dicoms.IDENTITY,
        )
        contours = dicoms.contours_of(tumor.case.load_mask() > 0, affine)
        dicoms.write_rtstruct(scan / "plan", {"GTV": contours}, paths)
    result = run("manifest --dicom", path / "dicom", "-o", path / "archive.csv")
    assert "4 tumors in 4 scans" in result.output and "Keep it" in result.output
    assert not [secret for secret in (*dicoms.SECRETS, "ID-0") if secret in result.output]
    run("index build", path / "archive.csv", "-o", path / "index", "--device cpu")
    return path


def test_query_from_dicom_finds_the_same_tumor(folder, tmp_path):
    """With its RTSTRUCT a series is nearest to itself; with the archive's key its own patient is left out."""
    ask = ("query", folder / "index", "--dicom", folder / "dicom" / "2")
    ask += ("--device cpu --overwrite -o", tmp_path / "near.csv")
    result = run(*ask, "--keep-same --report", tmp_path / "answer.html")
    near, archive = pd.read_csv(tmp_path / "near.csv"), pd.read_csv(folder / "archive.csv")
    assert "proposed by the model" not in result.output and near["query_tumor_id"][0] == "query/1"
    assert near["distance"][0] == pytest.approx(0, abs=1e-3)
    own = near["tumor_id"][0]
    page = (tmp_path / "answer.html").read_text()
    assert not [secret for secret in (*dicoms.SECRETS, "ID-2") if secret in result.output + page]
    run(*ask, "--key-file", folder / "archive.key", "--exclude same_patient")
    near = pd.read_csv(tmp_path / "near.csv")
    assert len(near) == 3 and own not in near["tumor_id"].tolist()
    assert near["query_tumor_id"][0] == own and own in archive["tumor_id"].tolist()


def test_segment_writes_a_seg_that_comes_back(folder, tmp_path):
    """The proposed mask is on the series' slices, as SEG and as NIfTI alike."""
    source = folder / "dicom" / "1" / "t1c"
    files = ("--seg", tmp_path / "seg.dcm", "-o", tmp_path / "mask.nii.gz")
    run("segment --dicom", source, *files, "--threshold 0 --device cpu")
    shutil.copytree(source, tmp_path / "both")
    shutil.copy(tmp_path / "seg.dcm", tmp_path / "both")
    assert load_mask(find_scan(tmp_path / "both")).all()
    assert load_image(tmp_path / "mask.nii.gz")[0].all()


def test_a_dry_run_shows_and_writes_nothing(folder, tmp_path):
    """Series and regions by name, no file."""
    output = run("manifest --dicom", folder / "dicom", "--dry-run").output
    assert output.count("T1c, ") == 4 and output.count("mask: 'GTV'") == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("manifest -o {t}/a.csv", "either a table of scans or --dicom"),
        ("manifest --dicom {f}/gone -o {t}/a.csv", "does not exist"),
        ("manifest --dicom {f}/index -o {t}/a.csv", "holds no DICOM file"),
        ("query {f}/index x.nii.gz --key-file {f}/archive.key --exclude same_patient", "--patient-id"),
        ("query {f}/index", "either a scan or --dicom"),
        ("query {f}/index --dicom {f}/dicom", "must hold one contrast-enhanced T1 series. Got 4"),
        ("segment --dicom {f}/dicom/1", "Give a file to write"),
        ("segment {f}/x.nii.gz --seg {t}/seg.dcm", "Give a file to write"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, command, message):
    """Exit code 2, the reason in one line, and no file."""
    result = run(command.format(f=folder, t=tmp_path), code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert not list(tmp_path.iterdir())
