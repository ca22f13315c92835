"""Contrast, rim fraction and necrotic share: measured while scans are embedded, and queried by."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import phantoms
import pytest
from archives import write_cohort
from numpy.testing import assert_allclose
from test_cli import ask, run

from tumorsim import Case, Cohort, Tumor, TumorIndex, find_similar, load_cohort
from tumorsim.geometry import ENHANCEMENT
from tumorsim.io import _images as images_module
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.retrieval import embed_archive

COLUMNS = list(ENHANCEMENT)


@pytest.fixture(scope="module")
def archive():
    """Return twelve tumors in six scans: balls, and rings around a dark core."""
    return phantoms.cohort(6, per_scan=2)


@pytest.fixture(scope="module")
def embedder(archive):
    """Return an embedder that was trained for a second."""
    return phantoms.tiny(max_epochs=1).fit(archive)


@pytest.fixture(scope="module")
def embedded(embedder, archive):
    """Return embeddings and columns of the archive."""
    return embed_archive(embedder, archive)


@pytest.fixture(scope="module")
def index(embedder, embedded):
    """Return the index of the archive with its measures."""
    return TumorIndex().fit(embedded[0], metadata=embedded[1], space=embedder.space_)


def of(columns):
    """Return the three columns of a table of columns as an array (n_tumors, 3)."""
    return pd.DataFrame(columns)[COLUMNS].to_numpy(dtype=float)


def test_rings_and_balls_are_told_apart(archive, embedder, embedded):
    """260 in a brain of about 100, the core of a ring 40; the embeddings are those of transform."""
    X, columns = embedded
    table = pd.DataFrame(columns)
    ring = table["label_type"] == "metastasis"
    assert table.loc[~ring, "contrast"].between(2.2, 3.0).all()
    assert (table.loc[~ring, "necrotic_share"] == 0).all()
    assert_allclose(table.loc[~ring, "rim_fraction"], 0.5, atol=1e-3)  # one brightness all over
    assert table.loc[ring, "necrotic_share"].between(0.05, 0.25).all()
    assert (table.loc[ring, "rim_fraction"] > 0.52).all()
    assert table.loc[ring, "contrast"].max() < table.loc[~ring, "contrast"].min()
    assert_allclose(X, embedder.transform(archive), atol=1e-5)
    own = archive.table.drop(columns=["image", "mask"])
    pd.testing.assert_frame_equal(table[own.columns], own, check_dtype=False)


@pytest.mark.parametrize("orientation", ["LAS", "PIR"])
def test_axes_and_intensity_units_change_nothing(embedder, embedded, orientation):
    """The same scans stored otherwise, in other units and with an offset, as a DICOM intercept is one."""
    stored = phantoms.cohort(6, per_scan=2, orientation=orientation)
    units, cases = [], {}
    for tumor in stored:
        image, affine = tumor.case.image
        ids = {"case_id": tumor.case.case_id, "patient_id": tumor.patient_id}
        case = cases.setdefault(id(tumor.case), Case((7 * image - 300, affine), tumor.case.mask, **ids))
        units.append(Tumor(case, tumor.bbox, tumor_id=tumor.tumor_id, mask_value=tumor.mask_value))
    assert_allclose(of(embed_archive(embedder, Cohort(units))[1]), of(embedded[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "mgz"])
def test_file_formats_change_nothing(embedder, embedded, tmp_path, suffix):
    """NIfTI and MGH files of the same voxels measure the same."""
    tumors = phantoms.cohort(2, per_scan=2)
    case = tumors[0].case
    files = {}
    for name, (array, affine) in {"image": case.image, "mask": case.mask}.items():
        files[name] = tmp_path / f"{name}.{suffix}"
        if suffix == "mgz":
            nib.save(nib.MGHImage(array.astype(np.float32), affine), files[name])
        else:
            save_nifti(files[name], array, affine)
    case = Case(files["image"], files["mask"], case_id="s0", patient_id="p")
    rows = [Tumor(case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value) for t in tumors[:2]]
    assert_allclose(of(embed_archive(embedder, Cohort(rows))[1]), of(embedded[1])[:2], rtol=1e-5)


def test_each_image_and_mask_is_read_once(embedder, tmp_path, monkeypatch):
    """Two tumors a scan: their table costs no reading beyond that for the embeddings."""
    cohort = write_cohort(phantoms.cohort(2, per_scan=2), tmp_path)
    read, load = [], images_module.load_image
    monkeypatch.setattr("tumorsim.records._case.load_image", lambda path: read.append(path) or load(path))
    embed_archive(embedder, cohort)
    assert sorted(read) == sorted(path for case in cohort.cases for path in (case.image, case.mask))


def test_each_tumor_of_a_query_is_measured_once(embedder, index, archive, monkeypatch):
    """A query's table has what was measured while it was embedded; its mask is not measured again."""
    measured, measure = [], Tumor.measure
    monkeypatch.setattr(Tumor, "measure", lambda t, m=None: measured.append(t.tumor_id) or measure(t, m))
    answer = find_similar(embedder, index, archive[:2])
    assert len(answer.queries) == 2 and sorted(measured) == sorted(answer.queries.tumor_ids)


def test_scans_from_a_cache_are_measured_too(embedder, embedded, archive, tmp_path):
    """Voxels that the cache holds are not prepared again, but measured all the same."""
    cached = phantoms.tiny(max_epochs=1, cache_dir=tmp_path / "cache").fit(archive)
    for _ in range(2):
        assert_allclose(of(embed_archive(cached, archive)[1]), of(embedded[1]))


def test_one_can_query_by_a_measured_column(embedder, index, archive):
    """Neighbors come in the order of the difference, filters act on the column, and it is reported."""
    query = archive[:1]
    answer = find_similar(embedder, index, query, n_neighbors=4, aspects={"contrast": 1}, keep_same=True)
    own = answer.queries.table["contrast"][0]
    table = index.metadata_[index.metadata_["patient_id"] != query.patient_ids[0]]
    apart = np.sort(np.abs(table["contrast"] - own))
    found = answer.neighbors[answer.neighbors["patient_id"] != query.patient_ids[0]]
    gaps = np.abs(found["contrast"].to_numpy() - own)
    assert (np.diff(gaps) >= 0).all() and gaps[0] == pytest.approx(apart[0])
    assert {"distance_contrast", "closer_than_contrast"} <= set(answer.neighbors)
    rings = find_similar(embedder, index, query, where={"necrotic_share": (">=", 0.05)}).neighbors
    assert set(rings["label_type"]) == {"metastasis"}
    assert set(COLUMNS).isdisjoint(query.table)  # the caller's tumors stay as they were


def test_tumors_with_a_box_drop_out(embedder, archive):
    """Without a mask nothing is measured: of an archive of both, only tumors with a mask are near in it."""
    boxes = phantoms.cohort(6, per_scan=2, with_mask=False)
    assert set(COLUMNS).isdisjoint(embed_archive(embedder, boxes)[1])
    X, columns = embed_archive(embedder, Cohort([*archive[:6], *boxes[6:]]))
    assert np.isnan(of(columns)[6:]).all() and not np.isnan(of(columns)[:6]).any()
    index = TumorIndex().fit(X, metadata=columns, space=embedder.space_)
    answer = find_similar(embedder, index, archive[6:7], n_neighbors=12, aspects={"rim_fraction": 1})
    assert set(answer.neighbors["measured_from"]) == {"mask"}


def test_an_index_without_the_columns_keeps_working_and_says_how_to_get_them(embedder, archive):
    """An index that was built before them, asked for them as an aspect or a condition."""
    old = TumorIndex().fit(embedder.transform(archive), metadata=archive.table, space=embedder.space_)
    assert len(find_similar(embedder, old, archive[:1]).neighbors) == 5
    for asked in ({"aspects": {"contrast": 1}}, {"where": {"necrotic_share": (">=", 0.3)}}):
        with pytest.raises(ValueError, match="Embed the archive again, and rebuild the index"):
            find_similar(embedder, old, archive[:1], **asked)


def test_a_column_of_the_archive_s_own_stays(embedder, archive):
    """A manifest with a column of that name, such as the contrast agent, keeps it."""
    rows = archive.table.drop(columns=["volume_mm3"]).assign(contrast="gadobutrol")
    columns = embed_archive(embedder, Cohort.from_table(pd.DataFrame(_with_files(rows, archive))))[1]
    assert set(columns["contrast"]) == {"gadobutrol"} and min(columns["rim_fraction"]) > 0.4


def _with_files(table, cohort):
    """Return a table of a cohort in memory with its images and masks."""
    sources = {"image": [tumor.case.image for tumor in cohort], "mask": [tumor.case.mask for tumor in cohort]}
    return table.drop(columns=["image", "mask"]).assign(**sources)


def test_the_commands_query_by_a_measured_column(made_folder, tmp_path):
    """`tumorsim query --aspect contrast=1 --where necrotic_share>=0.05`, and its sheet has the measures."""
    mask = (
        "--mask",
        made_folder / "s0_mask.nii.gz",
        "--report",
        tmp_path / "answer.html",
        "-o",
        tmp_path / "a.csv",
    )
    asked = ("--aspect", "contrast=1", "--where", "necrotic_share>=0.05", "--overwrite")
    assert "contrast" in ask(made_folder, *mask, *asked).stdout
    found = pd.read_csv(tmp_path / "a.csv")
    assert set(found["label_type"]) == {"metastasis"} and found["distance_contrast"].is_monotonic_increasing
    page = (tmp_path / "answer.html").read_text(encoding="utf-8")
    for name in ("Contrast to the brain", "Rim fraction (50 %: solid)", "Necrotic share"):
        assert name in page
    assert re.search(r"<td>[12]\.\d\d ×", " ".join(page.split()))


def test_one_can_query_by_radiomics_as_the_page_says(made_folder, tmp_path, monkeypatch):
    """The code and commands of the docs' page: features of mirp, joined by tumor_id, are aspects."""
    pytest.importorskip("mirp")
    page = (Path(__file__).parents[1] / "docs" / "answers.md").read_text(encoding="utf-8")
    page = page.split("### Radiomics")[1].split("\n## ")[0]
    code, commands = page.split("```python\n")[1].split("```\n")
    commands = [line.split("tumorsim ")[1] for line in commands.splitlines() if line.startswith("    ")]
    archive = pd.read_csv(made_folder / "archive.csv", dtype=str)
    archive[["image", "mask"]] = str(made_folder) + "/" + archive[["image", "mask"]]
    monkeypatch.chdir(tmp_path)
    for rows, name in ((archive[:1], "new"), (archive[1:], "archive")):
        rows.to_csv("archive.csv", index=False)
        exec(code, {})
        Path("archive_radiomics.csv").rename(f"{name}_radiomics.csv")
    model = ("--model", made_folder / "model.safetensors", "--device cpu")
    run(commands[0], *model)
    run(commands[1], *model, "-o near.csv")
    feature = commands[1].split("--aspect ")[1].split("=")[0]
    own, near = pd.read_csv("new_radiomics.csv")[feature][0], pd.read_csv("near.csv")[feature]
    assert len(near) == 5 and (near - own).abs().is_monotonic_increasing and near.nunique() > 1


def test_saved_measures_come_back(embedder, archive, tmp_path):
    """Embeddings of files measure as those in memory, and a manifest with the columns keeps their values."""
    cohort = write_cohort(archive, tmp_path)
    columns = embed_archive(embedder, cohort)[1]
    given = cohort.table.assign(contrast=9.0, rim_fraction=0.1, necrotic_share=0.2)
    given.to_csv(tmp_path / "given.csv", index=False)
    assert_allclose(of(embed_archive(embedder, load_cohort(tmp_path / "given.csv"))[1]), [[9, 0.1, 0.2]] * 12)
    assert not np.isnan(of(columns)).any()
    save_manifest(cohort, tmp_path / "plain.csv")
    assert set(COLUMNS).isdisjoint(pd.read_csv(tmp_path / "plain.csv"))
