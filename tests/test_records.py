"""Case, Tumor, Cohort: what they check, what they measure, how they are sliced."""

import os
import pickle

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tumorsim import Case, Cohort, Tumor
from tumorsim.exceptions import CohortError, GeometryError, GridMismatchError, ManifestError
from tumorsim.geometry import bbox_from_mask, ras_box
from tumorsim.io import save_nifti
from tumorsim.records import columns
from tumorsim.records.columns import MEASURES


def tumor_of(case, tumor_id=None, **options):
    """Return the tumor that is the case's whole mask."""
    return Tumor(
        case, bbox_from_mask(case.load_mask() > 0), tumor_id=tumor_id or f"{case.case_id}/1", **options
    )


def test_case_in_memory_knows_its_geometry(make_case):
    """Shape, spacing and affine are those of the array."""
    case = make_case(spacing=(1.0, 1.5, 2.0))
    assert case.shape == (20, 24, 28)
    assert_allclose(case.spacing, (1, 1.5, 2))
    assert case.has_mask and "scan" in repr(case)


def test_case_of_files_equals_case_in_memory(make_case, write_case, tmp_path):
    """Reading files late gives what the arrays gave."""
    memory = make_case(orientation="PIR")
    files = write_case(memory, tmp_path)
    assert files.shape == memory.shape
    assert_allclose(files.affine, memory.affine, atol=1e-5)  # headers are float32
    assert_array_equal(files.load_image(), memory.load_image())
    assert_array_equal(files.load_mask(), memory.load_mask())
    again = pickle.loads(pickle.dumps(files))
    assert again.shape == files.shape


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((3, 4, 5)), TypeError, "path, a nibabel image or"),
        ((np.zeros((3, 4)), np.eye(4)), GeometryError, "3-D array"),
        ((np.zeros((3, 4, 0)), np.eye(4)), GeometryError, "3-D array"),
        ((np.zeros((3, 4, 5)), np.zeros((4, 4))), GeometryError, "case 'a'"),
        ((np.full((3, 4, 5), "x"), np.eye(4)), TypeError, "numeric"),
        ((np.zeros((3, 4, 5), complex), np.eye(4)), TypeError, "numeric"),
    ],
)
def test_case_refuses_what_is_no_image(image, error, message):
    """Arrays without an affine, flat, empty or of text are refused at once."""
    with pytest.raises(error, match=message):
        Case(image, case_id="a", patient_id="p")


@pytest.mark.parametrize("orientation", ["RAS", "PIR"])
def test_case_takes_nibabel_images(make_case, orientation):
    """An image of nibabel gives the voxels and affine that its file gives; a further axis of 1 goes."""
    memory = make_case(orientation=orientation)
    image = nib.Nifti1Image(memory.image[0][..., None], memory.image[1])
    mask = nib.Nifti1Image(memory.mask[0].astype(np.int32), memory.mask[1])
    case = Case(image, mask, case_id="a", patient_id="p")
    assert_array_equal(case.load_image(), memory.load_image())
    assert_array_equal(case.load_mask(), memory.load_mask())
    assert_allclose(case.affine, memory.affine, atol=1e-5)  # headers are float32
    assert case.shape == memory.shape and case.load_image().dtype == np.float32
    flat = nib.Nifti1Image(np.zeros((3, 4), np.float32), np.eye(4))
    with pytest.raises(GeometryError, match=r"image of case 'a' must be a 3-D image\. Got 2 dimensions"):
        Case(flat, case_id="a", patient_id="p")


def test_nibabel_images_say_what_their_files_say(tmp_path, make_case):
    """An image without orientation says so, and one whose file is damaged or cut off is refused by name."""
    image = nib.Nifti1Image(make_case().image[0], np.eye(4))
    image.header["sform_code"] = image.header["qform_code"] = 0
    assert not Case(image, case_id="a", patient_id="p").states_orientation
    assert Case(
        nib.Nifti1Image(make_case().image[0], np.eye(4)), case_id="a", patient_id="p"
    ).states_orientation
    nib.save(image, tmp_path / "a.nii.gz")
    whole = (tmp_path / "a.nii.gz").read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1  # of the checksum
    for content in (bytes(flipped), whole[:-30]):
        (tmp_path / "a.nii.gz").write_bytes(content)
        with pytest.raises(GeometryError, match=r"image of case 'a' cannot be read.*damaged"):
            Case(nib.load(tmp_path / "a.nii.gz"), case_id="a", patient_id="p")


def test_rescaled_nibabel_images_are_rescaled(tmp_path):
    """Slope and intercept of a file that nibabel opened are applied, as they are to a path."""
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.set_slope_inter(2, 7)
    nib.save(image, tmp_path / "a.nii.gz")
    opened = Case(nib.load(tmp_path / "a.nii.gz"), case_id="a", patient_id="p")
    by_path = Case(tmp_path / "a.nii.gz", case_id="a", patient_id="p")
    assert_array_equal(opened.load_image(), by_path.load_image())
    assert opened.load_image().dtype == by_path.load_image().dtype == np.float32


def test_nan_voxels_are_counted(make_case):
    """NaN and infinite voxels are an error that says how many."""
    case = make_case()
    case.image[0][0, 0, :3] = (np.nan, np.inf, -np.inf)
    with pytest.raises(GeometryError, match=r"case 'scan' must be finite\. Got 3"):
        case.load_image()


def test_mask_must_lie_on_the_grid(make_case):
    """A mask moved by half a millimetre is refused with the distance."""
    case = make_case()
    moved = case.mask[1].copy()
    moved[0, 3] += 0.5
    case = Case(case.image, (case.mask[0], moved), case_id="sub-012", patient_id="p")
    for read in (case.check_grid, case.load_mask):
        with pytest.raises(GridMismatchError, match=r"'sub-012' .* differ by 0\.50 mm"):
            read()


def test_mask_must_be_whole_numbers(make_case):
    """A float mask of whole numbers is taken; interpolated edges are refused."""
    case = make_case()
    whole = Case(case.image, (case.mask[0].astype(np.float32), case.mask[1]), case_id="a", patient_id="p")
    assert whole.load_mask().dtype == np.int32
    assert_array_equal(whole.load_mask(), case.load_mask())
    half = Case(case.image, (case.mask[0] * 0.5, case.mask[1]), case_id="a", patient_id="p")
    with pytest.raises(GeometryError, match="whole numbers"):
        half.load_mask()


def test_bool_mask_is_taken(make_case):
    """True and False are 1 and 0."""
    case = make_case()
    bools = Case(case.image, (case.mask[0] > 0, case.mask[1]), case_id="a", patient_id="p")
    assert_array_equal(bools.load_mask(), case.load_mask())


def test_case_without_mask_has_none(make_case):
    """No mask is None, and its grid is no error."""
    case = make_case(with_mask=False)
    case.check_grid()
    assert not case.has_mask and case.load_mask() is None


def test_tumor_measures_its_ellipsoid(make_case):
    """Volume and centroid are those of the ellipsoid that was drawn, in millimetres of the scan."""
    case = make_case(
        ellipsoids=(((9, 12, 14), (5, 6, 7)),), spacing=(1.0, 1.5, 2.0), origin=(-10.0, -15.0, -20.0)
    )
    tumor = tumor_of(case)
    assert tumor.bbox.tolist() == [[4, 6, 7], [15, 19, 22]]
    measures = tumor.measure()
    assert set(measures) == set(MEASURES)
    assert measures["volume_mm3"] == tumor.load_mask().sum() * 3.0
    assert_allclose(measures["volume_mm3"], 4 / 3 * np.pi * 5 * 6 * 7 * 3, rtol=0.05)  # voxels on the edge
    center = [measures[name] for name in ("x_mm", "y_mm", "z_mm")]
    assert_allclose(center, (-10 + 9, -15 + 12 * 1.5, -20 + 14 * 2), atol=1e-9)


@pytest.mark.parametrize("orientation", ["LAS", "PIR", "SRA", "LPI"])
def test_measures_do_not_depend_on_storage(make_case, orientation):
    """The same scan stored otherwise gives the same size, shape and place."""
    place = {"rotation_deg": 15.0, "ellipsoids": (((7, 10, 16), (4, 5, 6)), ((12, 14, 14), (3, 2, 5)))}
    plain, turned = make_case(**place), make_case(orientation=orientation, **place)
    assert plain.load_mask().shape != turned.load_mask().shape or orientation in ("LAS", "LPI")
    one, other = tumor_of(plain), tumor_of(turned)
    assert_array_equal(ras_box(other.bbox, turned.shape, turned.affine), one.bbox)
    for name, value in one.measure().items():
        assert_allclose(other.measure()[name], value, rtol=1e-5, atol=1e-5, err_msg=name)  # float32 affines


def test_tumor_takes_only_its_values(make_case):
    """mask_value chooses voxels inside the box."""
    case = make_case(ellipsoids=(((6, 6, 6), (3, 3, 3)), ((6, 6, 12), (2, 2, 2))), values=(1, 3))
    mask = case.load_mask()
    box = bbox_from_mask(mask > 0)
    for value, expected in ((3, mask == 3), ("1+3", mask > 0), (None, mask > 0)):
        tumor = Tumor(case, box, tumor_id="a", mask_value=value)
        assert tumor.load_mask().sum() == expected.sum()
    with pytest.raises(GeometryError, match="no voxel of value 2 in the box of tumor 'a'"):
        Tumor(case, box, tumor_id="a", mask_value=2).measure()


def test_tumor_known_by_its_box_has_a_size(make_case):
    """Without a mask volume is the ellipsoid's in the box; shape is unknown, not invented."""
    tumor = Tumor(make_case(with_mask=False), [(2, 4, 6), (6, 8, 12)], tumor_id="a")
    measures = tumor.measure()
    assert_allclose(measures["volume_mm3"], np.pi / 6 * 4 * 6 * 12)
    assert measures["diameter_mm"] == 12
    assert np.isnan(measures["sphericity"]) and np.isnan(measures["elongation"])
    assert_allclose(measures["x_mm"], -10 + 3.5)


def test_tumor_refuses_a_box_outside(make_case):
    """check() compares with the image; a malformed box is refused at once."""
    case = make_case()
    tumor = Tumor(case, [(0, 0, 20), (5, 5, 29)], tumor_id="scan/1")
    with pytest.raises(
        GeometryError, match=r"tumor 'scan/1' must lie inside the image of shape \(20, 24, 28\)"
    ):
        tumor.check()
    with pytest.raises(GeometryError, match="start before it stops"):
        Tumor(case, [(5, 0, 0), (5, 2, 2)], tumor_id="a")
    with pytest.raises(TypeError, match="must be a Case"):
        Tumor("scan.nii", [(0, 0, 0), (1, 1, 1)], tumor_id="a")


MISSING_WORDS = (
    r"NA na nan NaN None NULL null N/A n/a <NA> NaT #N/A #NV #REF! #WERT! #DIV/0! (null) \N".split()
)


@pytest.mark.parametrize("word", ["", " ", "\u200b", "none", *MISSING_WORDS])
@pytest.mark.parametrize("name", ["patient_id", "case_id"])
def test_missing_ids_are_refused(make_case, name, word):
    """No case has an id that only says that there is none, in code and in tables in memory."""
    ids = {"patient_id": "p", "case_id": "a", name: word}
    with pytest.raises(ValueError, match=f"'{name}' must be non-empty"):
        make_case(**ids)
    row = {"patient_id": "p", "case_id": "a", "tumor_id": "t", "image": make_case().image, name: word}
    with pytest.raises(ManifestError, match=f"row 0: '{name}' must be non-empty"):
        Cohort.from_table(pd.DataFrame([row]), check=False)


def test_one_id_written_in_several_ways_is_one_patient(make_case):
    """Composed or decomposed, with invisible characters, odd blanks or a decimal, an id is the same."""
    ways = [
        "M\u00fcller A",
        "Mu\u0308ller A",
        " M\u00fcl\u200bler\u00a0A\u200e",
        "\ufeffM\u00fcller\u202fA\u2060",
    ]
    assert {make_case(patient_id=way).patient_id for way in ways} == {"M\u00fcller A"}
    assert {make_case(patient_id=way).patient_id for way in ("7", "7.0", "7,0", "7.00")} == {"7"}
    assert (
        make_case(patient_id="7.10").patient_id == "7.10"
        and make_case(patient_id="7,000").patient_id == "7,000"
    )
    labels = {"type": "Gli\u200bom\u00a0IV ", "grade": "2,0", "side": "2.0"}
    assert tumor_of(make_case(), labels=labels).labels == {"type": "Gliom IV", "grade": "2", "side": "2"}


def test_ids_that_may_be_one_patient_are_found():
    """Letter case, leading zeros, wide letters, dashes and blanks make variants; other ids do not."""
    dashes = ["a-01", "a\u201301", "a 1", "a_1", "a1"]
    assert columns.id_variants(dashes) == [dashes[:4]]
    ids = ["p01", "P01", "p1", "x-1", "x-10", "7", "007", "p01", "\uff30\uff10\uff11", "p10"]
    assert columns.id_variants(ids) == [["p01", "P01", "p1", "\uff30\uff10\uff11"], ["7", "007"]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\x1b[2Jb", r"without control characters. Got 'a\\x1b"),
        ("1,23457E+11", "a spreadsheet has shortened"),
        ("1.2e+05", "a spreadsheet has shortened"),
    ],
)
def test_ids_that_act_or_lost_digits_are_refused(make_case, value, message):
    """Control characters and numbers without all their digits are no ids; labels have no controls either."""
    with pytest.raises(ValueError, match=message):
        make_case(patient_id=value)
    if "control" in message:
        with pytest.raises(ValueError, match=r"label of task 'type'.*control"):
            tumor_of(make_case(), labels={"type": value})


def test_an_image_is_not_its_own_mask(tmp_path, make_case, write_case):
    """One file given twice is refused, however its path is written, and a missing mask is called a mask."""
    case = write_case(make_case(), tmp_path)
    same = Case(case.image, tmp_path / "." / os.path.basename(case.image), case_id="a", patient_id="p")
    with pytest.raises(ValueError, match="mask of case 'a' is its image"):
        same.check_grid()
    with pytest.raises(FileNotFoundError, match=r"Mask '.*gone\.nii' of case 'a'"):
        Case(case.image, tmp_path / "gone.nii", case_id="a", patient_id="p").load_mask()


def test_missing_labels_are_none(make_case):
    """None, NaN, pandas' NA, blanks and words for missing are one thing: unknown; the rest is text."""
    labels = {
        "a": None,
        "b": float("nan"),
        "c": "  ",
        "d": pd.NA,
        "e": 2,
        "f": "glioma",
        "g": np.nan,
        "h": pd.NaT,
    }
    labels |= {f"w{i}": word for i, word in enumerate(MISSING_WORDS)} | {"n": "none"}
    tumor = tumor_of(make_case(), labels=labels)
    assert {k: v for k, v in tumor.labels.items() if v is not None} == {"e": "2", "f": "glioma", "n": "none"}
    assert "glioma" in repr(tumor)


@pytest.fixture
def cohort(make_case):
    """Three scans of two patients with four tumors, some labels missing."""
    cases = [make_case("a", "p1"), make_case("b", "p1", spacing=(2.0, 2.0, 2.0)), make_case("c", "p2")]
    box = [(0, 0, 0), (10, 13, 15)]
    return Cohort(
        [
            tumor_of(cases[0], labels={"type": "glioma", "side": "left"}),
            tumor_of(cases[1], labels={"type": "meningioma"}),
            Tumor(cases[1], box, tumor_id="b/2", metadata={"visit": 2}),
            tumor_of(cases[2], labels={"type": "glioma"}),
        ]
    )


def test_cohort_is_a_sequence(cohort):
    """Length, iteration, integers, slices, index arrays and masks work as scikit-learn expects."""
    assert [t.tumor_id for t in cohort] == ["a/1", "b/1", "b/2", "c/1"]
    assert cohort[-1].tumor_id == cohort[np.int64(3)].tumor_id == "c/1"
    assert cohort[1:3].tumor_ids.tolist() == ["b/1", "b/2"]
    assert cohort[np.array([3, 0])].tumor_ids.tolist() == ["c/1", "a/1"]
    assert cohort[np.array([False, True, False, True])].tumor_ids.tolist() == ["b/1", "c/1"]
    assert len(cohort[[]]) == 0 and len(cohort[:0]) == 0
    assert cohort.patient_ids.tolist() == ["p1", "p1", "p1", "p2"]
    assert [case.case_id for case in cohort.cases] == ["a", "b", "c"]
    assert repr(cohort) == "Cohort(4 tumors, 3 scans, 2 patients)"
    with pytest.raises(IndexError):
        cohort[4]
    with pytest.raises(TypeError, match="indexed by"):
        cohort["a/1"]


def test_group_split_keeps_patients_together(cohort):
    """scikit-learn's splitter takes a cohort and its patients."""
    from sklearn.model_selection import GroupKFold

    for train, test in GroupKFold(2).split(cohort, groups=cohort.patient_ids):
        assert not set(cohort[train].patient_ids) & set(cohort[test].patient_ids)


def test_cohort_refuses_doubles_and_strangers(cohort):
    """Ids are unique, elements are tumors, and adding checks it too."""
    with pytest.raises(ValueError, match="'a/1' twice"):
        Cohort([cohort[0], cohort[0]])
    with pytest.raises(ValueError, match="'c/1' twice"):
        cohort + cohort[3:]
    with pytest.raises(TypeError, match="Got str"):
        Cohort(["a"])
    assert len(cohort[:2] + cohort[2:]) == 4


def test_labels_have_a_row_a_tumor(cohort):
    """Tasks are columns, unknown is None; without any task the rows are still there."""
    labels = cohort.labels
    assert list(labels) == ["type", "side"] and len(labels) == 4
    assert labels["type"].tolist() == ["glioma", "meningioma", None, "glioma"]
    assert labels["side"].tolist() == ["left", None, None, None]
    assert cohort[2:3].labels.shape == (1, 0)


def test_table_has_the_manifest_columns(cohort):
    """Ids, box, labels, further columns, measures: a row a tumor, in order."""
    table = cohort.table
    assert list(table)[:3] == ["patient_id", "case_id", "tumor_id"]
    assert list(table)[-8:] == [*MEASURES, "measured_from"]
    assert table["tumor_id"].tolist() == ["a/1", "b/1", "b/2", "c/1"]
    for i, tumor in enumerate(cohort):
        assert table.loc[i, ["x0", "y0", "z0", "x1", "y1", "z1"]].tolist() == tumor.bbox.ravel().tolist()
        assert_allclose(table.loc[i, "volume_mm3"], tumor.measure()["volume_mm3"])
    assert table["visit"].dropna().tolist() == [2]
    assert (table["measured_from"] == "mask").all()


def test_table_of_a_slice_is_the_slice_of_the_table(cohort):
    """Slicing before or after the table is worked out gives the same rows."""
    chosen = [3, 1]
    before = cohort[chosen].table
    _ = cohort.table
    after = cohort[chosen].table
    pd.testing.assert_frame_equal(before, after[before.columns])
    assert after.index.tolist() == [0, 1]


def test_table_trusts_measures_of_the_manifest(make_case):
    """Measures in the metadata are taken, missing ones worked out; ids cannot be overwritten."""
    metadata = {"volume_mm3": 5.0, "measured_from": "report", "case_id": "other", "dose": 20}
    row = Cohort([tumor_of(make_case(), metadata=metadata)]).table.iloc[0]
    assert row["volume_mm3"] == 5 and row["measured_from"] == "report"
    assert row["diameter_mm"] > 10 and row["case_id"] == "scan" and row["dose"] == 20


def test_table_follows_its_tumors(cohort, monkeypatch):
    """Labels, metadata and boxes that change after a table was made are in the next; masks are read once."""
    assert cohort.table.loc[0, "label_type"] == "glioma" and "dose" not in cohort.table
    reads = []
    load_mask = Case.load_mask
    monkeypatch.setattr(Case, "load_mask", lambda case: reads.append(case.case_id) or load_mask(case))
    cohort[0].labels["type"] = "metastasis"
    cohort[1].metadata["dose"] = 20
    table = cohort.table
    assert table.loc[0, "label_type"] == "metastasis" and table.loc[1, "dose"] == 20 and reads == []
    cohort[0].bbox = cohort[0].bbox + np.array([[0, 0, 0], [1, 1, 1]])
    assert cohort.table.loc[0, "x1"] == table.loc[0, "x1"] + 1
    cohort[0].metadata["volume_mm3"] = 5.0
    assert cohort[[0]].table.loc[0, "volume_mm3"] == 5.0 and reads == ["a"]


@pytest.fixture
def stored(cohort, write_case, tmp_path):
    """Return the cohort with its scans as files."""
    files = {case.case_id: write_case(case, tmp_path) for case in cohort.cases}
    return Cohort(
        Tumor(files[t.case.case_id], t.bbox, tumor_id=t.tumor_id, labels=t.labels, metadata=t.metadata)
        for t in cohort
    )


def test_cohort_of_its_own_table_is_the_same(stored):
    """A table turned into a cohort gives the table; tumors of one scan share its Case."""
    again = Cohort.from_table(stored.table)
    pd.testing.assert_frame_equal(again.table, stored.table)
    assert again[1].case is again[2].case and len(again.cases) == 3
    joined = pd.concat([stored[:2].table, stored[2:].table])  # the index starts again at 0
    assert Cohort.from_table(joined).tumor_ids.tolist() == stored.tumor_ids.tolist()
    assert again[2].labels == {"type": None, "side": None} and again[2].metadata["visit"] == 2


def test_table_of_records_may_hold_images(cohort):
    """What a Case takes may stand in a table; without a box the mask is the tumor."""
    case = cohort[0].case
    row = {"patient_id": "p", "case_id": "a", "tumor_id": "a/1", "image": case.image, "mask": case.mask}
    tumor = Cohort.from_table(pd.DataFrame([row]))[0]
    assert tumor.bbox.tolist() == bbox_from_mask(case.load_mask() > 0).tolist()
    assert tumor.metadata == {} and tumor.labels == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tumor_id": "a/1"}, r"row 1: tumor_id 'a/1' must be unique\. It is in row 0 too"),
        ({"tumor_id": None}, "row 1: 'tumor_id' must be non-empty"),
        ({"patient_id": 7}, r"row 1: 'patient_id' must be text\. Got 7"),
        (
            {"case_id": "a", "patient_id": "q"},
            "case_id 'a' must have one patient_id. Got 'q' here and 'p1' in",
        ),
        ({"image": "gone.nii"}, "row 1: image 'gone.nii' does not exist"),
        ({"x1": 99}, "row 1: .*must lie inside the image"),
        ({"x1": None}, "row 1: The box .* must be six whole numbers, or empty"),
        ({"mask_value": "x"}, "row 1: mask_value must be"),
        ({"volume_mm3": "big"}, "row 1: The column 'volume_mm3' must hold numbers"),
    ],
)
def test_bad_rows_of_a_table_are_listed(stored, change, reason):
    """A row that cannot be used is an error with its name; `on_error` gets it, and the rest is taken."""
    table = stored.table.astype(object)
    for column, value in change.items():
        table.loc[1, column] = value
    with pytest.raises(ManifestError, match=rf"rows cannot be used:[\s\S]*{reason}"):
        Cohort.from_table(table)
    noted = []
    used = Cohort.from_table(table, on_error=lambda name, err: noted.append(name))
    assert 1 in noted and len(used) == 4 - len(noted) and "a/1" in used.tumor_ids


def test_unchecked_tables_read_no_file(stored):
    """Without checks files may be gone; a column that is missing is an error all the same."""
    table = stored.table.assign(image="gone.nii", mask=None)
    assert Cohort.from_table(table, check=False).tumor_ids.tolist() == ["a/1", "b/1", "b/2", "c/1"]
    with pytest.raises(ManifestError, match=r"Missing: image\. Got"):
        Cohort.from_table(table.drop(columns="image"))


def test_empty_cohort_has_an_empty_table():
    """No tumors: no rows, no error."""
    assert len(Cohort([]).table) == 0 and Cohort([]).patient_ids.tolist() == []


def test_summary_counts_by_type(cohort):
    """Patients, scans and tumors of each type and of all are counted by hand."""
    summary = cohort.summary()
    assert summary.index.tolist() == ["glioma", "meningioma", "unknown", "all"]
    assert summary["tumors"].tolist() == [2, 1, 1, 4]
    assert summary["patients"].tolist() == [2, 1, 1, 2]
    assert summary["scans"].tolist() == [2, 1, 1, 3]
    assert summary.loc["all", "tumors_per_scan"] == 1.33
    volume = cohort.table["volume_mm3"].median() / 1000
    assert_allclose(summary.loc["all", "median_volume_ml"], volume, atol=0.005)  # two decimals


def test_check_reports_all_bad_scans(make_case, write_case, tmp_path):
    """One error lists every scan that cannot be used, with file and reason."""
    good, far, nan = make_case("good"), write_case(make_case("far"), tmp_path), make_case("hole")
    nan.image[0][0, 0, 0] = np.nan
    gone = Case(tmp_path / "gone.nii", case_id="gone", patient_id="p")
    box = [(0, 0, 0), (3, 3, 3)]
    tumors = [tumor_of(good), Tumor(far, [(0, 0, 0), (99, 3, 3)], tumor_id="far/1")]
    tumors += [tumor_of(nan), Tumor(gone, box, tumor_id="gone/1")]
    cohort = Cohort(tumors)
    with pytest.raises(
        CohortError, match=r"2 of 4 scans.*\n.*far_image\.nii\.gz.*99.*\n.*gone\.nii.*not exist"
    ):
        cohort.check()
    with pytest.raises(CohortError, match=r"3 of 4 scans[\s\S]*case 'hole' \(in memory\)"):
        cohort.check(voxels=True)
    cohort[:1].check(voxels=True)


def test_check_finds_masks_without_the_lesion(make_case):
    """A box that holds no voxel of the mask is found when voxels are read."""
    cohort = Cohort([Tumor(make_case(), [(0, 0, 0), (2, 2, 2)], tumor_id="scan/1")])
    cohort.check()
    with pytest.raises(CohortError, match="no voxel of value >0"):
        cohort.check(voxels=True)


def test_check_finds_4d_masks(make_case, tmp_path):
    """A mask with several volumes is refused from its header."""
    case = make_case()
    save_nifti(tmp_path / "mask.nii.gz", np.stack([case.mask[0]] * 2, axis=-1), case.mask[1])
    case = Case(case.image, tmp_path / "mask.nii.gz", case_id="a", patient_id="p")
    with pytest.raises(GeometryError, match=r"mask\.nii\.gz' must be a 3-D image"):
        case.check_grid()
