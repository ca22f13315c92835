"""A folder of mixed DICOM → an archive: the right scans, every reason, and no name in any byte."""

import csv
import gzip
import multiprocessing
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
from grids import ellipsoid_mask, reorder
from numpy.testing import assert_array_equal
from test_cli import run

from tumorsim import load_cohort
from tumorsim.exceptions import DicomError, ManifestError
from tumorsim.geometry import to_ras
from tumorsim.io import load_image, save_nifti
from tumorsim.manifest import Pseudonyms, build_manifest, import_dicom, load_dicom_case, survey_dicom

SHAPE = (20, 18, 14)
AFFINE = np.array([[1.5, 0, 0, -20], [0, 1.2, 0, -15], [0, 0, 2, -10], [0, 0, 0, 1.0]])
FIRST, SECOND = "PATIENT-ONE-881", "PATIENT-TWO-882"
NAMED = {"identity": dicoms.IDENTITY}
SECRETS = (*dicoms.SECRETS, FIRST, SECOND, "20240501", "20240611", "2024-05-01", "2024-06-11")


def head(seed, *, lesions=(((6, 8, 6), (3, 3, 2)),)):
    """Return an image and its mask in RAS+ order; no two seeds are alike."""
    mask = ellipsoid_mask(SHAPE, lesions)
    image = np.random.default_rng(seed).integers(0, 500, SHAPE) + 800 * mask.astype(int)
    return image.astype(np.uint16), mask


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Return a folder as a PACS exports it, and what its T1c series hold: case → (image, mask, affine).

    Two patients, three studies, a CT, T2 and localizer, a truncated file and a bad header; files without
    suffix, two orders of axes, JPEG and enhanced series; identities in every tag that has room.
    """
    folder, truth = tmp_path_factory.mktemp("export"), {}
    studies = [pydicom.uid.generate_uid() for _ in range(3)]
    two = (((6, 8, 6), (3, 3, 2)), ((14, 9, 8), (2, 3, 2)))

    first = {"patient_id": FIRST, "study": studies[0], "date": "20240501", **NAMED}
    image, mask = head(1, lesions=two)
    truth["first"] = image, mask, AFFINE
    (array, affine), (drawn, _) = reorder(image, AFFINE, "LPS"), reorder(mask, AFFINE, "LPS")
    paths = dicoms.write_series(
        folder / "A/1", array, affine, description="T1 post Featherstonehaugh", **first
    )
    regions = {
        "GTV Featherstonehaugh": dicoms.contours_of(drawn > 0, affine),
        "Cochlea_L": dicoms.contours_of(ellipsoid_mask(drawn.shape, [((9, 9, 3), (2, 2, 2))]) > 0, affine),
    }
    dicoms.write_rtstruct(folder / "A/2/plan", regions, paths, **NAMED)
    dicoms.write_series(folder / "A/3", array, affine, description="AX T2", **first)
    dicoms.write_series(folder / "A/4", array[:, :, :3], affine, description="Scout Gd", **first)

    later = {"patient_id": FIRST, "study": studies[1], "date": "20240611", **NAMED}
    image, mask = head(2)
    truth["later"] = image, mask, AFFINE
    (array, affine), (drawn, _) = reorder(image, AFFINE, "ASL"), reorder(mask, AFFINE, "ASL")
    paths = dicoms.write_series(folder / "B/1", array, affine, compress="JPEGLosslessProcess14_1", **later)
    dicoms.write_seg(folder / "B/2/seg", [drawn > 0], paths, names=("Metastasis",))

    second = {"patient_id": SECOND, "study": studies[2], "date": "20240501", **NAMED}
    image, _ = head(3)
    truth["second"] = image, None, AFFINE
    dicoms.write_enhanced(folder / "C/1/file", image, AFFINE, **second)
    dicoms.write_series(folder / "C/2", image, AFFINE, modality="CT", **second)
    dicoms.write_series(folder / "C/3", image, AFFINE, description="T1 pre", **second)
    gap = dicoms.write_series(folder / "C/4", image, AFFINE, **second)
    gap[5].unlink()
    cut = dicoms.write_series(folder / "C/5", image, AFFINE, **second)
    cut[2].write_bytes(cut[2].read_bytes()[:-100])
    bad = dicoms.write_series(folder / "C/6", image[:, :, :2], AFFINE, **second)
    bad[1].write_bytes(bad[1].read_bytes().replace(b"1.200000\\1.500000", b"Wilhelmi\\1.500000"))
    lost = dicoms.write_series(folder / "C/7", image[:, :, :2], AFFINE, **second)
    lost[0].write_bytes(lost[0].read_bytes()[:200])
    return folder, truth


@pytest.fixture(scope="module")
def imported(export, tmp_path_factory):
    """Return what an import of the export returns, and the manifest's path."""
    output = tmp_path_factory.mktemp("archive") / "archive.csv"
    cohort, report = import_dicom(export[0], output)
    return cohort, report, output


def test_the_right_scans_come_out(export, imported):
    """Both T1c studies with masks become tumors, voxel for voxel; patients and visits are told apart."""
    cohort, _, output = imported
    truth = export[1]
    assert len(cohort) == 3 and len(cohort.cases) == 2 and len(set(cohort.patient_ids)) == 1
    for case, name in zip(cohort.cases, ("first", "later"), strict=True):
        image, mask, affine = truth[name]
        assert_array_equal(to_ras(case.load_image(), case.affine), to_ras(image, affine))
        assert_array_equal(to_ras(case.load_mask(), case.affine) > 0, to_ras(mask, affine) > 0)
    visits = [np.datetime64(cohort[i].metadata["visit"]) for i in (0, 2)]
    assert visits[1] - visits[0] == np.datetime64("2024-06-11") - np.datetime64("2024-05-01")
    loaded = load_cohort(output)
    assert loaded.table.drop(columns=["image", "mask"]).equals(cohort.table.drop(columns=["image", "mask"]))
    loaded.check(voxels=True)


def test_every_series_is_accounted_for(imported):
    """Used or not, each series and damaged file is in the report, with its reason."""
    _, report, output = imported
    found = {line["where"]: (line["status"], line["reason"]) for line in report}
    assert found["A/1"] == ("tumors", "2 tumors") and found["B/1"] == ("tumors", "1 tumor")
    assert found["A/2"] == found["B/2"] == ("mask", "")
    assert found["C/1"] == ("no tumors", "no SEG or RTSTRUCT was drawn on it")
    expected = {
        "A/3": "not T1, by its name",
        "A/4": "a localizer, map, angiogram",
        "C/2": "modality CT, not MR",
        "C/3": "T1 without contrast, by its name",
        "C/4": "Slice gap: 1 missing",
        "C/5": "A slice's pixels cannot be read",
        "C/6": "1 of its 2 files cannot be used: PixelSpacing cannot be read as 2 numbers",
    }
    for where, reason in expected.items():
        assert found[where][0] == "skipped" and reason in found[where][1]
    damaged = sorted(Path(line["where"]).parent.as_posix() for line in report if line["status"] == "damaged")
    assert damaged == ["C/6", "C/7"]
    with open(output.with_name("archive_files") / "series.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report) and "where" not in rows[0]
    assert [row["reason"] for row in rows] == [line["reason"] for line in report]


def test_no_identity_is_in_any_byte(imported):
    """Names, dates, numbers and private tags are in no file, also unpacked, and in no file's name."""
    _, _, output = imported
    files = [path for path in output.parent.rglob("*") if path.is_file()]
    assert {"archive.csv", "archive.key", "scans.csv", "series.csv"} <= {path.name for path in files}
    assert sum(path.name.endswith(".nii.gz") for path in files) == 5
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content += gzip.decompress(content)
        content += str(path.relative_to(output.parent)).encode()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
        assert b"1.2.826.0.1.3680043" not in content  # the root of the source's UIDs


def test_a_later_import_knows_the_patient(export, imported, tmp_path):
    """With the same key a patient keeps the pseudonym in another archive; with another key not."""
    cohort, _, output = imported
    same, _ = import_dicom(export[0] / "B", tmp_path / "b.csv", key_file=output.with_suffix(".key"))
    assert same[0].tumor_id == cohort[2].tumor_id and same.patient_ids[0] == cohort.patient_ids[0]
    other, _ = import_dicom(export[0] / "B", tmp_path / "c.csv")
    assert other.patient_ids[0] != cohort.patient_ids[0]
    if os.name == "posix":
        assert (tmp_path / "c.key").stat().st_mode & 0o077 == 0
    again, _ = import_dicom(export[0] / "B", tmp_path / "c.csv")
    assert again.tumor_ids.tolist() == other.tumor_ids.tolist()


def test_patient_ids_can_be_kept(export, tmp_path):
    """Told so, PatientID and date stay; names still do not, and no file is called after the patient."""
    cohort, report = import_dicom(export[0] / "B", tmp_path / "b.csv", keep_patient_ids=True)
    assert cohort.patient_ids.tolist() == [FIRST] and report[0]["visit"] == "20240611"
    content = (tmp_path / "b.csv").read_text()
    assert not [secret for secret in dicoms.SECRETS if secret in content]
    assert not [path for path in tmp_path.rglob("*") if FIRST in path.name]


def test_the_scan_table_takes_masks_of_ones_own(imported, tmp_path):
    """Scans without a mask are in scans.csv; filled in, it makes a manifest like any scan table."""
    _, _, output = imported
    table = output.with_name("archive_files") / "scans.csv"
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["mask"]) for row in rows] == [True, True, False]
    image, affine = load_image(table.parent / rows[2]["image"])
    save_nifti(tmp_path / "mask.nii.gz", image > 480, affine)
    rows[2]["mask"] = str(tmp_path / "mask.nii.gz")
    for row in rows:
        row["image"] = str(table.parent / row["image"])
        row["mask"] = str(table.parent / row["mask"])
    with open(tmp_path / "scans.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    cohort = build_manifest(tmp_path / "scans.csv", tmp_path / "archive.csv")
    assert len(cohort.cases) == 3 and len(set(cohort.patient_ids)) == 2


def test_patterns_say_what_is_t1c_and_what_a_tumor(export, tmp_path):
    """A pattern makes the organ the tumor, and another takes the T2 series."""
    cohort, _ = import_dicom(export[0] / "A", tmp_path / "a.csv", include="cochlea")
    assert len(cohort) == 1
    with pytest.raises(
        ManifestError, match=r"No tumor was found in .*: 1 T1c scan could be read.*scans\.csv"
    ):
        import_dicom(export[0] / "A", tmp_path / "b.csv", series="T2")
    with pytest.raises(ManifestError, match="No tumor was found"):
        import_dicom(export[0] / "A", tmp_path / "b.csv", exclude="gtv")
    with pytest.raises(ValueError, match="'include' must be a regular expression"):
        import_dicom(export[0] / "A", tmp_path / "c.csv", include="(")
    assert not list(tmp_path.glob("c*")) and not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("patient", ["", "NA", "nan", "None", "ANONYMOUS", "Anonymized^Patient", "-", "#"])
def test_a_scan_without_patient_is_refused(tmp_path, patient):
    """Whose it is cannot be guessed: two patients of no id, or of a word for none, are not one."""
    image, mask = head(1)
    paths = dicoms.write_series(tmp_path / "dicom", image, AFFINE, patient_id=patient)
    dicoms.write_seg(tmp_path / "dicom" / "seg", [mask > 0], paths)
    with pytest.raises(ManifestError, match="0 T1c scans could be read"):
        import_dicom(tmp_path / "dicom", tmp_path / "a.csv")
    with open(tmp_path / "a_files" / "series.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert "PatientID is empty or names nobody" in row["reason"]
    assert row["patient_id"] == row["visit"] == ""
    with pytest.raises(DicomError, match="PatientID is empty"):
        load_dicom_case(tmp_path / "dicom", key_file=tmp_path / "a.key")


def test_a_damaged_mask_leaves_the_scan(export, tmp_path):
    """The scan is converted, without tumors and with the reason."""
    shutil.copytree(export[0] / "A", tmp_path / "A")
    plan = tmp_path / "A" / "2" / "plan"
    content = plan.read_bytes()
    start = content.find(b"CLOSED_PLANAR")
    plan.write_bytes(content[: start + 200])
    with pytest.raises(ManifestError, match="1 T1c scan could be read, none with a usable"):
        import_dicom(tmp_path / "A", tmp_path / "a.csv")
    with open(tmp_path / "a_files" / "series.csv", newline="") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert any("cannot be read" in reason for reason in reasons)


def test_the_survey_shows_names_and_writes_nothing(export, tmp_path, monkeypatch):
    """What patterns are matched with is told, with the verdict of each series and region."""
    monkeypatch.chdir(tmp_path)
    lines = list(survey_dicom(export[0]))
    assert any("'T1 post Featherstonehaugh'" in line and "T1c, 20 x 18 x 14" in line for line in lines)
    assert any("'GTV Featherstonehaugh', 'Cochlea_L' (no tumor)" in line for line in lines)
    assert any("skipped: modality CT" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_memory_is_that_of_one_scan(tmp_path):
    """Four scans take no more than one, but for what is known of their slices."""
    shape, peaks = (128, 128, 20), []
    image = np.zeros(shape, np.uint16)
    mask = ellipsoid_mask(shape, [((40, 40, 9), (6, 6, 4))])
    for i in range(4):
        paths = dicoms.write_series(tmp_path / "dicom" / str(i), image, AFFINE, patient_id=f"p{i}")
        dicoms.write_seg(tmp_path / "dicom" / str(i) / "seg", [mask > 0], paths)
    for folder in ("dicom/0", "dicom/1", "dicom"):  # the first import loads libraries
        tracemalloc.start()
        cohort, _ = import_dicom(tmp_path / folder, tmp_path / "a.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(cohort) == 4
    assert peaks[2] < peaks[1] + 0.5 * image.nbytes


# One new patient


def test_a_new_patient_is_read_at_once(export, imported):
    """Image, mask and ids of the archive's key; without a key nothing of the patient."""
    cohort, _, output = imported
    case, scan = load_dicom_case(export[0] / "B", key_file=output.with_suffix(".key"))
    assert (case.patient_id, case.case_id) == (cohort[2].case.patient_id, cohort[2].case.case_id)
    assert_array_equal(case.load_image(), cohort[2].case.load_image())
    assert_array_equal(case.load_mask(), cohort[2].case.load_mask())
    assert scan.shape == case.shape
    case, _ = load_dicom_case(export[0] / "A")
    assert (case.patient_id, case.case_id) == ("unknown", "query") and case.has_mask
    assert not load_dicom_case(export[0] / "A", with_mask=False)[0].has_mask
    with pytest.raises(DicomError, match=r"must hold one contrast-enhanced T1 series\. Got 2"):
        load_dicom_case(export[0])
    with pytest.raises(FileNotFoundError, match="Key file"):
        load_dicom_case(export[0] / "A", key_file="gone.key")


def test_regions_that_are_no_tumor_are_told(export):
    """Where an RTSTRUCT is there and names no tumor, a warning says so before anything is proposed."""
    with pytest.warns(UserWarning, match="no region of its SEG or RTSTRUCT is a tumor by its name"):
        case, _ = load_dicom_case(export[0] / "A", exclude="gtv")
    assert not case.has_mask


# As planning systems export


def write_gamma_knife(folder):
    """Write a Gamma Knife export, contours drawn on the T2; return mask and affine of the target."""
    same = {"patient_id": FIRST, "study": pydicom.uid.generate_uid(), "space": pydicom.uid.generate_uid()}
    image, mask = head(4)
    (array, affine), (drawn, _) = reorder(image, AFFINE, "LPS"), reorder(mask, AFFINE, "LPS")
    t1 = {
        "description": "t1_mpr_tra_iso_stereo",
        "ScanningSequence": "GR",
        "EchoTime": "3",
        "RepetitionTime": "9",
    }
    dicoms.write_series(folder / "T1", array, affine, **t1, **same, **NAMED)
    t2 = dicoms.write_series(folder / "T2", array, affine, description="t2_ci3d_tra", **same, **NAMED)
    regions = {
        "target": dicoms.contours_of(drawn > 0, affine),
        "Cochlea L": dicoms.contours_of(ellipsoid_mask(drawn.shape, [((9, 9, 3), (2, 2, 2))]) > 0, affine),
        "*Skull": dicoms.contours_of(ellipsoid_mask(drawn.shape, [((9, 9, 6), (8, 8, 5))]) > 0, affine),
        "Vol2016": [],
    }
    dicoms.write_rtstruct(folder / "RS", regions, t2, **NAMED)
    others = {"RTDoseStorage": "RTDOSE", "RTPlanStorage": "RTPLAN", "SecondaryCaptureImageStorage": "OT"}
    for name, modality in others.items():
        rows = {"Rows": 8, "Columns": 8, "NumberOfFrames": 3} if modality != "RTPLAN" else {}
        options = {"patient_id": FIRST, "study": same["study"], "series": pydicom.uid.generate_uid()}
        (folder / modality).mkdir()
        other = dicoms.base(getattr(pydicom.uid, name), description="x", modality=modality, **options, **rows)
        dicoms.save(other, folder / modality / "file")
    return drawn, affine


def test_a_gamma_knife_export_comes_out_right(tmp_path):
    """The plain command finds the target on the T1, says what it took on trust, skips all else by name."""
    drawn, affine = write_gamma_knife(tmp_path / "in")
    output = run("manifest --dicom", tmp_path / "in", "-o", tmp_path / "a.csv").output
    cohort = load_cohort(tmp_path / "a.csv")
    assert len(cohort) == 1
    case = cohort.cases[0]
    assert_array_equal(to_ras(case.load_mask(), case.affine) > 0, to_ras(drawn, affine) > 0)
    with open(tmp_path / "a_files" / "series.csv", newline="") as file:
        rows = {(row["status"], row["modality"], row["reason"]) for row in csv.DictReader(file)}
    trust = "contrast was not stated; taken for its SEG or RTSTRUCT"
    drawn_on = "its RTSTRUCT was drawn on another series of the same coordinates"
    unknown = "1 region left out whose name says nothing of a tumor (see --roi)"
    assert rows == {
        ("tumors", "MR", f"1 tumor; {trust}; {drawn_on}; {unknown}"),
        ("mask", "RTSTRUCT", ""),
        ("skipped", "MR", "not T1, by its name"),
        *(("skipped", kind, f"modality {kind}, not MR") for kind in ("RTDOSE", "RTPLAN", "OT")),
    }
    assert "contrast was not stated" in output and "damaged" not in output
    assert not [secret for secret in (*dicoms.SECRETS, FIRST) if secret in output]
    with pytest.warns(UserWarning, match="contrast was not stated"):
        assert load_dicom_case(tmp_path / "in")[0].load_mask().sum() == (drawn > 0).sum()


def test_nothing_imported_prints_the_reasons(tmp_path):
    """Each series' reason is on the screen, alike ones on one line."""
    write_gamma_knife(tmp_path / "in")
    (tmp_path / "in" / "RS").unlink()
    error = run("manifest --dicom", tmp_path / "in", "-o", tmp_path / "a.csv", code=2).stderr
    for reason in (
        "T1 MR: T1 without contrast: neither",
        "T2 MR: not T1",
        "RTDOSE RTDOSE: modality RTDOSE, not MR",
    ):
        assert reason in error
    assert "Traceback" not in error


@pytest.mark.parametrize("kept", [False, True])
def test_tracking_of_segments_becomes_columns(tmp_path, kept):
    """TrackingUID and TrackingID of each lesion's own segment, hidden as the ids are."""
    two = (((6, 8, 6), (3, 3, 2)), ((14, 9, 8), (2, 3, 2)))
    image, mask = head(1, lesions=two)
    x = np.indices(SHAPE)[0]
    halves = [(mask > 0) & (x > 10), (mask > 0) & (x <= 10)]
    for visit in ("a", "b"):
        paths = dicoms.write_series(tmp_path / visit / "mr", image, AFFINE)
        dicoms.write_seg(tmp_path / visit / "seg", halves, paths, names=("Tumor 1", "Tumor 2"))
        seg = pydicom.dcmread(tmp_path / visit / "seg")
        for i, segment in enumerate(seg.SegmentSequence):
            segment.TrackingUID, segment.TrackingID = f"1.2.3.{i}", f"Featherstonehaugh {i}"
        seg.save_as(tmp_path / visit / "seg")
    import_dicom(tmp_path, tmp_path / "out" / "a.csv", keep_patient_ids=kept)
    table = load_cohort(tmp_path / "out" / "a.csv").table
    right = table["x_mm"] > AFFINE[0, 0] * 10 + AFFINE[0, 3]
    for column, texts in (("tracking_uid", "1.2.3."), ("tracking_id", "Featherstonehaugh ")):
        values = [table[column][right == side].unique().tolist() for side in (True, False)]
        assert [len(v) for v in values] == [1, 1] and values[0] != values[1]
        assert (values == [[f"{texts}0"], [f"{texts}1"]]) is kept


def test_an_import_is_for_its_owner_alone(tmp_path):
    """New files and folders are readable by nobody else; one that is replaced keeps its mode."""
    if os.name != "posix":
        pytest.skip("no modes")
    image, mask = head(1)
    paths = dicoms.write_series(tmp_path / "in" / "mr", image, AFFINE)
    dicoms.write_seg(tmp_path / "in" / "seg", [mask > 0], paths)
    for _ in range(2):
        import_dicom(tmp_path / "in", tmp_path / "a.csv")
        made = [tmp_path / "a.csv", tmp_path / "a.key", *tmp_path.glob("a_files/*"), tmp_path / "a_files"]
        modes = {path.name: path.stat().st_mode & 0o777 for path in made}
        assert modes.pop("a_files") == 0o700
        assert len(modes) == 6 and set(modes.values()) == {0o600}
    (tmp_path / "a.csv").chmod(0o640)
    import_dicom(tmp_path / "in", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o640


# Pseudonyms


def _name(path, gate, names):
    """Wait, then put the pseudonym that the key file gives into a queue."""
    gate.wait()
    names.put(Pseudonyms.of_file(path).patient("1"))


def test_processes_that_make_a_key_at_once_agree(tmp_path):
    """Whoever comes first, all of them use the key that lasts; no other file is left."""
    context = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    )
    for turn in range(2):
        path, gate, names = tmp_path / f"{turn}" / "a.key", context.Barrier(6), context.Queue()
        processes = [context.Process(target=_name, args=(path, gate, names)) for _ in range(6)]
        for process in processes:
            process.start()
        found = {names.get(timeout=60) for _ in processes}
        for process in processes:
            process.join()
        assert found == {Pseudonyms.of_file(path, create=False).patient("1")}
        assert [file.name for file in path.parent.iterdir()] == ["a.key"]


def test_who_comes_second_takes_the_key_of_the_first(tmp_path, monkeypatch):
    """Both saw no file: the second one neither fails nor replaces the key."""
    first = Pseudonyms.of_file(tmp_path / "a.key").patient("1")
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path, **more: path.suffix != ".key" and real(path, **more))
    assert Pseudonyms.of_file(tmp_path / "a.key").patient("1") == first
    assert [file.name for file in tmp_path.iterdir()] == ["a.key"]


def test_a_key_that_is_not_written_whole_is_not_there(tmp_path, monkeypatch):
    """A full disk leaves no key file, so that the next run makes one."""

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Pseudonyms.of_file(tmp_path / "a.key")
    assert not list(tmp_path.iterdir())


def test_pseudonyms_have_80_bits():
    """Twenty hexadecimal digits: a million patients collide with a probability of one in 10**12."""
    names = Pseudonyms(b"sixteen bytes ok")
    assert re.fullmatch("P[0-9a-f]{20}", names.patient("1"))
    assert re.fullmatch("P[0-9a-f]{20}-[0-9a-f]{8}", names.case("1", "1.2"))
    assert re.fullmatch("L[0-9a-f]{20}", names.tracking("tracking_id", "1"))


def test_pseudonyms_depend_on_key_and_patient(tmp_path):
    """One key, one patient, one name; other kinds of ids are hashed apart; keys are checked."""
    names = Pseudonyms.of_file(tmp_path / "a.key")
    again = Pseudonyms.of_file(tmp_path / "a.key", create=False)
    assert names.patient("1") == again.patient("1") != Pseudonyms.of_file(tmp_path / "b.key").patient("1")
    assert len({names.patient(str(i)) for i in range(500)}) == 500
    assert names.case("1", "1.2") != names.case("1", "1.3")
    assert names.visit("1", "not a date") == "" and names.visit("1", "20240501") < "2024-05-01"
    assert (tmp_path / "a.key").read_text().strip() not in repr(names)
    (tmp_path / "c.key").write_text("secret")
    with pytest.raises(ManifestError, match="must hold 64 hexadecimal digits"):
        Pseudonyms.of_file(tmp_path / "c.key")
    with pytest.raises(ValueError, match="at least 16 bytes"):
        Pseudonyms(b"short")


def test_patient_ids_that_differ_in_case_or_zeros_are_told(tmp_path):
    """P01 and p01, 0012 and 12 may be one patient each; after pseudonyms nobody could tell."""
    for i, patient in enumerate(("p01", "P01", "0012", "12", "x")):
        image = np.ones((12, 12, 8), np.uint16)
        dicoms.write_series(tmp_path / "in" / str(i), image, np.eye(4), patient_id=patient)
    with pytest.warns(UserWarning, match="2 patients may have several ids"), pytest.raises(ValueError):
        import_dicom(tmp_path / "in", tmp_path / "out.csv")


def test_one_patient_written_in_several_ways_is_one(tmp_path):
    """Composed, decomposed and with a zero-width character, 7 and 7.0: one pseudonym each, as in tables."""
    ids = ("M\u00fcller", "Mu\u0308ller", "M\u00fcl\u200bler", "7", "7.0", "ANON-08")
    image, mask = head(1)
    for i, patient in enumerate(ids):
        paths = dicoms.write_series(tmp_path / "in" / str(i), image + i, AFFINE, patient_id=patient)
        dicoms.write_seg(tmp_path / "in" / f"seg{i}", [mask > 0], paths)
    for keep in (False, True):
        cohort, _ = import_dicom(tmp_path / "in", tmp_path / f"{keep}.csv", keep_patient_ids=keep)
        assert len(cohort) == 6 and sorted(np.unique(cohort.patient_ids, return_counts=True)[1]) == [1, 2, 3]
