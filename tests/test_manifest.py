"""Scan tables → manifests → cohorts, and what is said of bad rows."""

import csv
import importlib.util
import os
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorsim import Case, Cohort, Tumor, load_cohort
from tumorsim.exceptions import ManifestError
from tumorsim.io import save_nifti
from tumorsim.manifest import build_manifest, save_manifest, tumors_from_case
from tumorsim.records.columns import MEASURES, is_blank

TWO = (((5, 6, 7), (3, 3, 3)), ((14, 17, 20), (4, 4, 5)))  # two ellipsoids, the second larger
SCAN_COLUMNS = ("patient_id", "case_id", "image", "mask", "label_type")


def write_csv(path, rows):
    """Write dicts as CSV, empty where a key is missing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def archive(tmp_path, make_case, write_case):
    """Rows of a scan table with two scans of two tumors and one of one, files in scans/."""
    folder = tmp_path / "scans"
    rows = []
    for case_id, patient_id, ellipsoids in (("007", "01", TWO), ("008", "01", TWO[1:]), ("b", "null1", TWO)):
        write_case(make_case(case_id, patient_id, ellipsoids=ellipsoids), folder)
        files = {kind: f"scans/{case_id}_{kind}.nii.gz" for kind in ("image", "mask")}
        rows.append({"patient_id": patient_id, "case_id": case_id, **files, "label_type": "glioma"})
    rows[2]["label_type"] = ""
    return rows


def tables_equal(one, other):
    """Raise unless two cohorts have the same table: columns, types, values."""
    pd.testing.assert_frame_equal(one.table, other.table)


# Scan table → manifest → cohort


def test_build_and_load_agree(tmp_path, archive):
    """The manifest that is written loads as the cohort that was returned: ids, boxes, labels, measures."""
    built = build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "out" / "archive.csv")
    loaded = load_cohort(tmp_path / "out" / "archive.csv")
    tables_equal(built, loaded)
    assert loaded.tumor_ids.tolist() == ["007/1", "007/2", "008/1", "b/1", "b/2"]
    assert loaded.patient_ids.tolist() == ["01", "01", "01", "null1", "null1"]
    assert loaded.labels["type"].tolist() == ["glioma", "glioma", "glioma", None, None]
    assert len(loaded.cases) == 3 and loaded[0].case is loaded[1].case
    loaded.check(voxels=True)
    raw = pd.read_csv(tmp_path / "out" / "archive.csv", dtype=str, keep_default_na=False)
    assert raw.loc[0, "image"] == "../scans/007_image.nii.gz"
    assert set(MEASURES) <= set(raw.columns)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["archive.csv"]


def test_measures_of_the_manifest_spare_the_masks(tmp_path, archive):
    """A cohort whose manifest has measures makes its table without reading a mask."""
    build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "archive.csv")
    cohort = load_cohort(tmp_path / "archive.csv")
    for row in archive:
        os.remove(tmp_path / row["mask"])
    assert cohort.table["volume_mm3"].gt(0).all()


def test_save_and_load_agree(tmp_path, archive):
    """A slice of a cohort can be saved elsewhere, and loads equal."""
    cohort = build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "archive.csv")[[3, 0]]
    save_manifest(cohort, tmp_path / "deep" / "er" / "some.csv")
    tables_equal(cohort, load_cohort(tmp_path / "deep" / "er" / "some.csv"))


def test_save_refuses_cohorts_in_memory(make_case, tmp_path):
    """There is no file to name; the error says what to do, and nothing is written."""
    with pytest.raises(ManifestError, match=r"'scan' in memory.*save_nifti"):
        save_manifest(tumors_from_case(make_case()), tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_mask_value_column_overrides_the_argument(tmp_path, make_case, write_case):
    """A scan's own mask_value goes before the argument; an empty one leaves it."""
    rows = []
    for case_id, value in (("a", "2"), ("b", "")):
        write_case(make_case(case_id, ellipsoids=TWO, values=(1, 2)), tmp_path)
        files = {kind: f"{case_id}_{kind}.nii.gz" for kind in ("image", "mask")}
        rows.append({"patient_id": "p", "case_id": case_id, **files, "mask_value": value})
    cohort = build_manifest(write_csv(tmp_path / "scans.csv", rows), tmp_path / "m.csv", mask_value=1)
    assert cohort.table["mask_value"].tolist() == ["2", "1"]
    assert cohort[0].bbox.tolist() != cohort[1].bbox.tolist()
    tables_equal(cohort, load_cohort(tmp_path / "m.csv"))


def test_further_columns_are_carried(tmp_path, archive):
    """Numbers stay numbers where all are; codes, long numbers and text stay text; empty is missing."""
    extra = [
        {"age": "61", "dose": "2.5", "site": "007", "uid": "12345678901234567890", "note": 'said "no", left'},
        {"age": "48", "dose": "", "site": "010", "uid": "1", "note": "zwei\nZeilen, schön"},
        {"age": "70", "dose": "NA", "site": "011", "uid": "2", "note": ""},
    ]
    rows = [row | more for row, more in zip(archive, extra, strict=True)]
    built = build_manifest(write_csv(tmp_path / "scans.csv", rows), tmp_path / "m.csv")
    loaded = load_cohort(tmp_path / "m.csv")
    tables_equal(built, loaded)
    first, last = loaded[0].metadata, loaded[4].metadata
    assert first["age"] == 61 and isinstance(first["age"], int)
    assert first["dose"] == 2.5 and np.isnan(last["dose"])
    assert first["site"] == "007" and first["uid"] == "12345678901234567890"
    assert first["note"] == 'said "no", left' and last["note"] is None
    assert loaded[2].metadata["note"] == "zwei\nZeilen, schön"


visible = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
ids = visible.filter(lambda text: not is_blank(text) and text.casefold() != "none")


@given(st.lists(st.tuples(ids, ids, st.one_of(st.none(), visible)), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=20)
def test_any_text_survives_the_round_trip(tmp_path_factory, texts, data):
    """Whatever signs, quotes and commas ids and labels hold, they come back."""
    folder = tmp_path_factory.mktemp("texts")
    save_nifti(folder / "image.nii", np.zeros((5, 6, 7), np.float32), np.eye(4))
    tumors, seen = [], set()
    for patient_id, case_id, label in texts:
        if case_id in seen:
            continue
        seen.add(case_id)
        start = np.array([data.draw(st.integers(0, n - 1)) for n in (5, 6, 7)])
        case = Case(folder / "image.nii", case_id=case_id, patient_id=patient_id)
        labels = {"type": label, "any, thing": "x"}
        tumors.append(Tumor(case, [start, start + 1], tumor_id=f"{case_id}/1", labels=labels))
    cohort = Cohort(tumors)
    save_manifest(cohort, folder / "m.csv")
    tables_equal(cohort, load_cohort(folder / "m.csv"))


def test_box_needs_no_mask_and_mask_no_box(tmp_path, archive):
    """A manifest by hand may have a box, or a mask whose voxels are one tumor."""
    first = archive[0]
    files = {"patient_id": "p", "case_id": "a", "image": first["image"]}
    box = dict(zip(("x0", "y0", "z0", "x1", "y1", "z1"), (1, 2, 3, "4.0", 6, 8), strict=True))
    by_hand = [files | {"tumor_id": "a/box"} | box]
    by_hand.append(files | {"case_id": "b", "tumor_id": "b/all", "mask": first["mask"]})
    cohort = load_cohort(write_csv(tmp_path / "hand.csv", by_hand))
    assert cohort[0].bbox.tolist() == [[1, 2, 3], [4, 6, 8]]
    mask = cohort[1].case.load_mask()
    assert cohort[1].load_mask().sum() == (mask > 0).sum()
    assert cohort.table["measured_from"].tolist() == ["box", "mask"]
    save_manifest(cohort, tmp_path / "again.csv")
    tables_equal(cohort, load_cohort(tmp_path / "again.csv"))


def test_missing_measures_are_worked_out(tmp_path, archive):
    """A row whose measures are empty is measured from its mask."""
    build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "m.csv")
    expected = load_cohort(tmp_path / "m.csv").table
    frame = pd.read_csv(tmp_path / "m.csv", dtype=str, keep_default_na=False)
    frame.loc[1, ["volume_mm3", "x_mm"]] = ""
    frame.to_csv(tmp_path / "m.csv", index=False)
    pd.testing.assert_frame_equal(load_cohort(tmp_path / "m.csv").table, expected)


def test_spreadsheet_quirks_are_read(tmp_path, archive):
    """A byte-order mark, Windows line ends, blanks around cells, empty rows and short rows do no harm."""
    lines = [
        ", ".join(SCAN_COLUMNS) + ",",
        *(",".join(row[c] for c in SCAN_COLUMNS) + "," for row in archive),
    ]
    lines[3] = lines[3].rstrip(",")
    text = "\r\n".join([*lines, "", ",,,,,", ""])
    (tmp_path / "scans.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    cohort = build_manifest(tmp_path / "scans.csv", tmp_path / "m.csv")
    assert cohort.tumor_ids.tolist() == ["007/1", "007/2", "008/1", "b/1", "b/2"]


def test_manifest_is_found_through_links(tmp_path, archive):
    """Relative paths hold when the manifest's folder is reached by a link."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real" / "deep", target_is_directory=True)
    except OSError as err:  # Windows without the right to make links
        pytest.skip(f"links cannot be made here: {err}")
    build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "link" / "m.csv")
    for folder in ("link", "real/deep"):
        assert len(load_cohort(tmp_path / folder / "m.csv")) == 5


# Bad tables and bad rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("patient_id,case_id,tumor_id,image\n", "no rows"),
        ("patient_id\tcase_id\np\tc\n", "no column 'tumor_id'"),
        ("patient_id,case_id,tumor_id\np,c,t\n", "Missing: 'image'"),
        ("patient_id,case_id,tumor_id,image,image\np,c,t,i,j\n", "Got twice: image"),
        ("patient_id,case_id,tumor_id,image,label_\np,c,t,i,j\n", "label_<task>"),
        ("patient_id,case_id,image,mask\np,c,i,m\n", "This is a scan table; run 'tumorsim manifest"),
        ('patient_id,case_id,tumor_id,image\np,c,t,"i\n', "line 2: not readable as CSV"),
        (b"patient_id,case_id,tumor_id,image\np,c,t,\x81\n", "UTF-8"),
        ("patient_id,case_id\np,c\n".encode("utf-16-le"), "UTF-8"),
        (b"\xff\xfea", "UTF-8"),
        (b"\x00\x01\x02\xff binary", "UTF-8"),
        (b"PK\x03\x04\xff\xfe binary", "cannot be read as Excel"),
        (b"PAR1 and nothing", "cannot be read as Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 old", "of the old kind, or has a password"),
    ],
)
def test_bad_tables_are_explained(tmp_path, text, message):
    """What is no manifest is refused in words that say what to do."""
    path = tmp_path / "archive.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError, match=message):
        load_cohort(path)


def test_missing_table_is_named(tmp_path):
    """A manifest that is not there is a FileNotFoundError."""
    with pytest.raises(FileNotFoundError, match=r"archive\.csv"):
        load_cohort(tmp_path / "archive.csv")


def test_build_refuses_manifests_and_overwriting(tmp_path, archive):
    """A manifest is no scan table; a scan table is not replaced; a table without masks is no scan table."""
    scans = write_csv(tmp_path / "scans.csv", archive)
    with pytest.raises(ValueError, match="must not replace its scan table"):
        build_manifest(scans, scans)
    build_manifest(scans, tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="manifest already"):
        build_manifest(tmp_path / "m.csv", tmp_path / "n.csv")
    rows = [{k: v for k, v in row.items() if k != "mask"} for row in archive]
    with pytest.raises(ManifestError, match="Missing: 'mask'"):
        build_manifest(write_csv(tmp_path / "scans.csv", rows), tmp_path / "n.csv")


def affine_with(**cells):
    """Return the identity with some cells changed; keys are like r0c1."""
    affine = np.eye(4)
    for key, value in cells.items():
        affine[int(key[1]), int(key[3])] = value
    return affine


def write_bad_scans(folder):
    """Write one scan for each way of being bad; return rows, and the reason expected for each."""
    shape = (9, 10, 11)
    image, mask = np.ones(shape, np.float32), np.zeros(shape, np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    nan = image.copy()
    nan[0, 0, 0] = np.nan
    noise = np.random.default_rng(0).standard_normal((60, 61, 62)).astype(np.float32)
    eye = np.eye(4)
    bad = {
        "grid": ((image, eye), (mask, affine_with(r0c3=3)), "affines differ by 3.00 mm"),
        "shape": ((image, eye), (mask[:-1], eye), "different shapes"),
        "shear": ((image, affine_with(r0c1=0.2)), (mask, affine_with(r0c1=0.2)), "sheared"),
        "zero": ((image, affine_with(r2c2=0)), (mask, affine_with(r2c2=0)), "zero spacing"),
        "empty": ((image, eye), (mask * 0, eye), "no voxel of value >0"),
        "4d": ((np.stack([image] * 2, axis=-1), eye), (mask, eye), "3-D image"),
        "4dmask": ((image, eye), (np.stack([mask] * 2, axis=-1), eye), "3-D image"),
        "hole": ((nan, eye), (mask, eye), "must be finite. Got 1"),
        "half": ((image, eye), (mask * np.float32(0.5), eye), "whole numbers"),
        "cut": ((noise, eye), (noise > 9, eye), "cannot be read"),
        "gone": (None, (mask, eye), "image 'gone_t1c.nii.gz' does not exist"),
        "gonemask": ((image, eye), None, "mask 'gonemask_mask.nii.gz' does not exist"),
    }
    rows, reasons = [], []
    for case_id, (*sources, reason) in bad.items():
        for source, kind in zip(sources, ("t1c", "mask"), strict=True):
            if source is not None:
                save_nifti_with_sform(folder / f"{case_id}_{kind}.nii.gz", *source)
        files = {"image": f"{case_id}_t1c.nii.gz", "mask": f"{case_id}_mask.nii.gz"}
        rows.append({"patient_id": "p", "case_id": case_id, **files})
        reasons.append(reason)
    path = folder / "cut_t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])
    return rows, reasons


def save_nifti_with_sform(path, array, affine):
    """Write an affine that no quaternion can express, as some converters do."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8 if array.dtype == bool else array.dtype)
    header.set_sform(affine, code=1)
    nib.save(nib.Nifti1Image(array.astype(header.get_data_dtype()), None, header), path)


@pytest.fixture
def bad_scans(tmp_path):
    """Return a scan table of bad rows and one good, and the reason expected at each line."""
    rows, reasons = write_bad_scans(tmp_path)
    mask = np.zeros((9, 10, 11), np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    save_nifti(tmp_path / "good.nii.gz", np.ones((9, 10, 11), np.float32), np.eye(4))
    save_nifti(tmp_path / "good_mask.nii.gz", mask, np.eye(4))
    good = {"patient_id": "p", "case_id": "good", "image": "good.nii.gz", "mask": "good_mask.nii.gz"}
    rows = [good, *rows, good, good | {"case_id": ""}, good | {"case_id": "no patient", "patient_id": " "}]
    rows += [good | {"case_id": "no mask", "mask": ""}, good | {"case_id": "no image", "image": ""}]
    reasons += ["case_id 'good' must be unique. It is in line 2", "'case_id' must be", "'patient_id' must be"]
    reasons += ["needs a mask or a box", "'image' must be"]
    return write_csv(tmp_path / "scans.csv", rows), dict(enumerate(reasons, 3))


def test_all_bad_scans_are_reported_before_anything_is_written(tmp_path, bad_scans):
    """Each bad row is listed with line, file and reason; the message has the first and the count."""
    scans, reasons = bad_scans
    output = tmp_path / "out" / "archive.csv"
    with pytest.raises(ManifestError) as caught:
        build_manifest(scans, output)
    message = str(caught.value)
    assert "line 3:" in message and "affines differ" in message
    assert f"{len(reasons) - 1} more rows are bad; see '" in message and "archive.csv.errors.txt'" in message
    assert [p.name for p in output.parent.iterdir()] == ["archive.csv.errors.txt"]
    listed = (output.parent / "archive.csv.errors.txt").read_text(encoding="utf-8").splitlines()
    assert len(listed) == len(reasons)
    with open(scans, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for text, (line, reason) in zip(listed, reasons.items(), strict=True):
        assert f"scans.csv', line {line}: " in text and reason in text
        assert line > 14 or f"'{rows[line - 2]['image']}'" in text or f"'{rows[line - 2]['mask']}'" in text
        assert text.count(str(tmp_path)) == 1  # the table; its files are named as it names them


def test_skip_bad_goes_on_and_says_so(tmp_path, bad_scans):
    """With skip_bad the good row is built, a warning counts the others, and the list is there."""
    scans, reasons = bad_scans
    output = tmp_path / "out" / "archive.csv"
    with pytest.warns(UserWarning, match=f"without {len(reasons)} of {len(reasons) + 1} rows.*errors.txt"):
        cohort = build_manifest(scans, output, skip_bad=True)
    assert cohort.tumor_ids.tolist() == ["good/1"]
    tables_equal(cohort, load_cohort(output))
    assert len((tmp_path / "out" / "archive.csv.errors.txt").read_text().splitlines()) == len(reasons)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path, archive):
    """A table with no good row is an error, since an empty archive helps nobody."""
    rows = [row | {"image": "gone.nii"} for row in archive]
    with pytest.raises(ManifestError, match=r"image 'gone\.nii' does not exist"):
        build_manifest(write_csv(tmp_path / "scans.csv", rows), tmp_path / "m.csv", skip_bad=True)


def test_a_second_try_clears_the_list_of_errors(tmp_path, archive):
    """Once the table is mended, the old list goes, and an old manifest stays until then."""
    output = tmp_path / "m.csv"
    build_manifest(write_csv(tmp_path / "scans.csv", archive[:1]), output)
    before = output.read_bytes()
    bad = [archive[0], archive[1] | {"mask": "gone.nii"}]
    with pytest.raises(ManifestError, match=r"line 3: mask 'gone\.nii' does not exist\. 1 row is bad; see"):
        build_manifest(write_csv(tmp_path / "scans.csv", bad), output)
    assert output.read_bytes() == before and (tmp_path / "m.csv.errors.txt").exists()
    build_manifest(write_csv(tmp_path / "scans.csv", archive), output)
    assert not (tmp_path / "m.csv.errors.txt").exists()


def good_row(archive, **change):
    """Return a manifest row with a box on the archive's first scan."""
    row = {"patient_id": "p", "case_id": "a", "tumor_id": "a/1", "image": archive[0]["image"], "mask": ""}
    return row | dict(zip(("x0", "y0", "z0", "x1", "y1", "z1"), (1, 1, 1, 4, 5, 6), strict=True)) | change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tumor_id": "a/1"}, r"tumor_id 'a/1' must be unique\. It is in line 2 too"),
        ({"tumor_id": ""}, "'tumor_id' must be non-empty"),
        ({"patient_id": "q"}, "case_id 'a' must have one patient_id. Got 'q' here and 'p' in line 2"),
        ({"image": "scans/b_image.nii.gz"}, "case_id 'a' must have one image"),
        ({"mask": "scans/b_mask.nii.gz"}, "case_id 'a' must have one mask"),
        ({"case_id": "c", "image": "gone.nii"}, r"image 'gone\.nii' does not exist"),
        ({"case_id": "c", "mask": "gone.nii"}, r"mask 'gone\.nii' does not exist"),
        ({"z1": 99}, r"'a/2' must lie inside the image of shape \(20, 24, 28\)"),
        ({"x1": 1}, "must start before it stops"),
        ({"x1": ""}, "must be six whole numbers, or empty"),
        ({"x1": "a"}, "must be six whole numbers, or empty"),
        ({"x1": "2.5"}, "whole numbers of voxels"),
        ({"mask_value": "x"}, "mask_value must be"),
        (dict.fromkeys(("x0", "y0", "z0", "x1", "y1", "z1"), ""), "needs a mask or a box"),
    ],
)
def test_bad_rows_of_a_manifest(tmp_path, archive, change, reason):
    """Each kind of bad row is reported with its line, and can be skipped."""
    rows = [good_row(archive), good_row(archive, **({"tumor_id": "a/2"} | change))]
    path = write_csv(tmp_path / "m.csv", rows)
    with pytest.raises(ManifestError, match=rf"m\.csv', line 3: .*{reason}"):
        load_cohort(path)
    with pytest.warns(UserWarning, match=rf"without 1 of 2 rows.*line 3: .*{reason}"):
        assert load_cohort(path, skip_bad=True).tumor_ids.tolist() == ["a/1"]
    assert not (tmp_path / "m.csv.errors.txt").exists()


@pytest.mark.parametrize("n_bad", [3, 5, 6])
def test_few_bad_rows_are_in_the_message_many_in_a_file(tmp_path, archive, n_bad):
    """Up to five bad rows are listed in the message; more go to a file next to the manifest."""
    rows = [good_row(archive), *(good_row(archive, tumor_id=f"a/{i}", x1=99) for i in range(2, 2 + n_bad))]
    with pytest.raises(ManifestError) as caught:
        load_cohort(write_csv(tmp_path / "m.csv", rows))
    text = str(caught.value)
    assert f"{n_bad - 1} more rows are bad" in text
    in_message = sum(f"line {line}: " in text for line in range(3, 3 + n_bad))
    in_file = tmp_path / "m.csv.errors.txt"
    if n_bad <= 5:
        assert in_message == n_bad and not in_file.exists()
    else:
        assert in_message == 1 and len(in_file.read_text().splitlines()) == n_bad


def test_lines_are_counted_with_line_breaks_in_cells(tmp_path, archive):
    """A cell of two lines moves the rows below, and the reported line is that of an editor."""
    rows = [good_row(archive, note="two\nlines"), good_row(archive, tumor_id="a/2", x1=99)]
    with pytest.raises(ManifestError, match="line 4: "):
        load_cohort(write_csv(tmp_path / "m.csv", rows))


def test_rows_with_too_many_cells_are_bad(tmp_path, archive):
    """An unquoted comma shifts cells, so the row is refused rather than misread."""
    path = write_csv(tmp_path / "m.csv", [good_row(archive), good_row(archive, tumor_id="a/2")])
    path.write_text(path.read_text().rstrip() + ",surplus\n")
    with pytest.raises(ManifestError, match=r"line 3: the header has 11 columns, this row 12\."):
        load_cohort(path)


def test_manifest_may_be_a_table_in_memory(tmp_path, archive):
    """A DataFrame gives the cohort that its file gives; bad rows are named by its index."""
    cohort = build_manifest(write_csv(tmp_path / "scans.csv", archive), tmp_path / "m.csv")
    again = load_cohort(cohort.table)
    tables_equal(cohort, again)
    table = cohort.table.set_index(pd.Index(["r", "s", "t", "u", "v"]))
    table.loc["t", "image"] = "gone.nii"
    with pytest.raises(ManifestError, match=r"'table', row t: image 'gone\.nii' does not exist\."):
        load_cohort(table)
    with pytest.warns(UserWarning, match="without 1 of 5 rows"):
        assert len(load_cohort(table, skip_bad=True)) == 4


def test_text_among_measures_is_refused(tmp_path, archive):
    """A measure must be a number, or later sums would fail far from the cause."""
    rows = [good_row(archive, volume_mm3="big")]
    with pytest.raises(ManifestError, match=r"column 'volume_mm3' must hold numbers\. Got 'big'"):
        load_cohort(write_csv(tmp_path / "m.csv", rows))


def test_parquet_round_trip(tmp_path, archive):
    """A Parquet manifest equals the CSV one."""
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, an extra")
    pd.DataFrame(archive).to_parquet(tmp_path / "scans.parquet")
    built = build_manifest(tmp_path / "scans.parquet", tmp_path / "m.parquet")
    tables_equal(built, load_cohort(tmp_path / "m.parquet"))
    assert built.patient_ids.tolist() == ["01", "01", "01", "null1", "null1"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_is_explained(tmp_path, archive):
    """Reading or writing Parquet without pyarrow says what to install, and writes nothing."""
    (tmp_path / "scans.parquet").write_bytes(b"PAR1")
    scans = write_csv(tmp_path / "scans.csv", archive)
    for source, output in (("scans.parquet", "m.csv"), (scans, "m.parquet")):
        with pytest.raises(ManifestError, match=r"pip install '\.\[parquet\]'"):
            build_manifest(tmp_path / source, tmp_path / output)
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.real
def test_real_scans_have_sensible_lesions(real_data, tmp_path):
    """The NRRD scans have the lesions that their authors say, and a wide merge joins ragged rims."""
    with open(real_data / "real" / "scans.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["case_id"].startswith(("brain", "btp-02"))]
    for row in rows:
        row |= {kind: str(real_data / "real" / row[kind]) for kind in ("image", "mask")}
    scans = write_csv(tmp_path / "scans.csv", rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = build_manifest(scans, tmp_path / "near.csv")
        wide = build_manifest(scans, tmp_path / "wide.csv", merge_distance_mm=10)
    counts = near.table["case_id"].value_counts()
    assert counts["brain1"] == 2 and counts["brain2"] == 1
    assert len(wide) < len(near)
    assert (wide.table["case_id"].value_counts()[["btp-02-pre", "btp-02-post"]] == 1).all()
    tables_equal(near, load_cohort(tmp_path / "near.csv"))


def test_scans_of_unknown_orientation_are_named(tmp_path, archive):
    """Files that state no orientation are taken, with a warning that names scans and remedy."""
    for name in ("007_image", "007_mask"):
        path = tmp_path / "scans" / f"{name}.nii.gz"
        image = nib.load(path)
        image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
        image.set_sform(None, 0)
        nib.save(image, path)
    write_csv(tmp_path / "scans.csv", archive)
    with pytest.warns(UserWarning, match=r"(?s)In 1 scan the file states no orientation.*set_sform.*007"):
        cohort = build_manifest(tmp_path / "scans.csv", tmp_path / "archive.csv")
    assert len(cohort.cases) == 3


def test_control_characters_of_a_header_stay_out_of_messages(tmp_path):
    """Escape codes in names of columns do not reach a terminal, nor where one looks like a missing name."""
    table = tmp_path / "archive.csv"
    table.write_text("patient_id,case_id,tumor_id,image\x0cmask\np,c,t,i\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="image") as caught:
        load_cohort(table)
    assert "\x0c" not in str(caught.value) and "image\ufffdmask" in str(caught.value)
