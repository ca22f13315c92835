"""The check of an archive: every planted fault is found where it was planted, and nothing else."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tumorsim import load_cohort, make_cohort
from tumorsim.checks import COLUMNS, _digest, _variants, check_archive, exit_code
from tumorsim.cli import app
from tumorsim.exceptions import ManifestError
from tumorsim.manifest import save_manifest, tumors_from_case
from tumorsim.records.columns import MEASURES

N_CASES = 20


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Return the manifest of 20 simulated patients of all types, whole heads and stripped ones."""
    folder = tmp_path_factory.mktemp("clean")
    make_cohort(N_CASES, random_state=11, spacing=4.0, output_dir=folder)
    return folder / "manifest.csv"


class Archive:
    """A copy of an archive that faults are planted in; `planted` is the set of (check, case) that follow."""

    def __init__(self, source, folder):
        self.folder, self.planted = folder, set()
        self.cohort = load_cohort(source)
        self.table = pd.read_csv(source, dtype=str, keep_default_na=False)
        for column in ("image", "mask"):
            self.table[column] = [str((source.parent / path).resolve()) for path in self.table[column]]
        self.free = list(self.table["case_id"].unique())

    def case(self, fits=lambda tumor: True):
        """Take a case whose first tumor fits and that no other fault uses."""
        firsts = {t.case.case_id: t for t in reversed(list(self.cohort))}
        case_id = next(name for name in self.free if fits(firsts[name]))
        self.free.remove(case_id)
        return firsts[case_id].case

    def expect(self, check, case):
        """Note that `check` must tell of a case (or of no case: '')."""
        self.planted.add((check, case if isinstance(case, str) else case.case_id))

    def replace(self, case, column, array, affine):
        """Give a case another image or mask."""
        path = self.folder / f"{case.case_id}-{column}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), path)
        self.table.loc[self.table["case_id"] == case.case_id, column] = str(path)
        return path

    def cell(self, tumor, column, value):
        """Change a cell of a tumor."""
        self.table.loc[self.table["tumor_id"] == tumor.tumor_id, column] = value

    def one_tumor(self, case, box):
        """Leave a case one tumor, with this box and any voxel of the mask."""
        rows = self.table.index[self.table["case_id"] == case.case_id]
        self.table = self.table.drop(rows[1:])
        self.table.loc[rows[0], ["x0", "y0", "z0", "x1", "y1", "z1"]] = np.ravel(box).astype(str)
        self.table.loc[rows[0], "mask_value"] = ">0"

    def check(self):
        """Write the manifest, check it, and return the findings."""
        path = self.folder / "archive.csv"
        self.table.to_csv(path, index=False)
        return check_archive(path)


def far_from_the_midline(tumor):
    """Tell whether a tumor lies well on its side."""
    return abs(tumor.metadata["mni_x_mm"]) > 25 and tumor.labels["hemisphere"] is not None


def plant(archive):
    """Plant one fault of every kind, each in a case of its own."""
    a = archive
    case = a.case()
    a.table.loc[a.table["case_id"] == case.case_id, "image"] = "nowhere.nii.gz"
    a.expect("file missing", case)

    case = a.case()
    path = a.replace(case, "image", case.load_image(), case.affine)
    path.write_bytes(path.read_bytes()[:2000])
    a.expect("unreadable", case)

    case = a.case()
    image = case.load_image().astype(np.float32)
    image[0, 0, 0] = np.nan
    a.replace(case, "image", image, case.affine)
    a.expect("unreadable", case)

    case = a.case()
    affine = case.affine.copy()
    affine[0, 3] += 1.5
    a.replace(case, "mask", case.load_mask(), affine)
    a.expect("grids differ", case)

    case, other = a.case(), a.case(far_from_the_midline)
    image = nib.Nifti1Image(other.load_image().astype(np.float64), other.affine)
    mask = nib.Nifti1Image(other.load_mask(), other.affine)
    turn = np.array([[2, 1], [0, 1], [1, -1]])
    for column, stored in (("image", image.as_reoriented(turn)), ("mask", mask.as_reoriented(turn))):
        a.replace(case, column, np.asarray(stored.dataobj), stored.affine)
    found = np.argwhere(np.asarray(mask.as_reoriented(turn).dataobj))
    a.one_tumor(case, [found.min(axis=0), found.max(axis=0) + 1])
    a.table.loc[a.table["case_id"] == case.case_id, "label_hemisphere"] = ""
    a.expect("duplicated voxels", max((case, other), key=lambda c: list(a.table["case_id"]).index(c.case_id)))

    case = a.case(lambda t: np.diff(t.bbox, axis=0).min() >= 4 and t.case.shape[2] > 28)  # no tiny lesion
    box = next(t.bbox for t in a.cohort if t.case is case)
    low = int(np.clip(box[0][2] - 4, 0, case.shape[2] - 24))
    lost = np.eye(4) @ np.diag([*np.sign(np.diag(case.affine)[:3]) + (np.diag(case.affine)[:3] == 0), 1])
    image, mask = (array[:, :, low : low + 24] for array in (case.load_image(), case.load_mask()))
    image = np.pad(image, ((20, 20), (20, 20), (0, 0)))
    mask = np.pad(mask, ((20, 20), (20, 20), (0, 0)))
    a.replace(case, "image", image, lost)
    a.replace(case, "mask", mask, lost)
    found = np.argwhere(mask)
    a.one_tumor(case, [found.min(axis=0), found.max(axis=0) + 1])
    a.table.loc[a.table["case_id"] == case.case_id, "label_hemisphere"] = ""
    a.expect("suspect spacing", case)

    case = a.case(far_from_the_midline)  # the label is wrong
    tumor = next(t for t in a.cohort if t.case is case)
    a.cell(tumor, "label_hemisphere", {"left": "right", "right": "left"}[tumor.labels["hemisphere"]])
    a.expect("side conflict", case)

    case = a.case(far_from_the_midline)  # the header is wrong
    mirror = np.diag([-1.0, 1, 1, 1]) @ case.affine
    a.replace(case, "image", case.load_image(), mirror)
    a.replace(case, "mask", case.load_mask(), mirror)
    a.expect("side conflict", case)

    case = a.case()
    mask = np.zeros(case.shape, np.uint8)
    box = next(t.bbox for t in a.cohort if t.case is case)
    one = box.sum(axis=0) // 2
    mask[tuple(one)] = 1
    shrink = (8 / case.spacing.prod()) ** (1 / 3)
    affine = case.affine @ np.diag([shrink, shrink, shrink, 1])  # a voxel of 8 mm3 is no lesion
    a.replace(case, "mask", mask, affine)
    a.replace(case, "image", case.load_image(), affine)
    a.one_tumor(case, [one, one + 1])
    a.table.loc[a.table["case_id"] == case.case_id, "label_hemisphere"] = ""
    a.expect("tiny lesion", case)

    case = a.case()
    mask = (case.load_image() > np.median(case.load_image())).astype(np.uint8)
    a.replace(case, "mask", mask, case.affine)
    found = np.argwhere(mask)
    a.one_tumor(case, [found.min(axis=0), found.max(axis=0) + 1])
    a.table.loc[a.table["case_id"] == case.case_id, "label_hemisphere"] = ""
    a.expect("huge lesion", case)

    case = a.case()
    a.replace(case, "image", np.full(case.shape, 7, np.int16), case.affine)
    a.expect("constant image", case)

    case = a.case()
    image = case.load_image().astype(np.float32)
    image[:2, :2] = image.min() - image.max()
    a.replace(case, "image", image, case.affine)
    a.expect("padding", case)

    case = a.case()
    mask, corner = np.zeros(case.shape, np.uint8), np.array(case.shape) - 4
    mask[tuple(slice(c, c + 3) for c in corner)] = 1
    image = case.load_image()
    image[tuple(slice(c - 1, c + 4) for c in corner)] = image.min()
    a.replace(case, "mask", mask, case.affine)
    a.replace(case, "image", image, case.affine)
    a.one_tumor(case, [corner, corner + 3])
    a.table.loc[a.table["case_id"] == case.case_id, "label_hemisphere"] = ""
    a.expect("lesion in air", case)

    case = a.case()
    mask = case.load_mask().astype(np.float32)
    mask[mask > 0] += 0.5
    a.replace(case, "mask", mask, case.affine)
    a.expect("mask unusable", case)

    case = a.case()
    a.table.loc[a.table["case_id"] == case.case_id, "mask_value"] = "9"
    a.expect("empty lesion", case)

    case = a.case()
    a.one_tumor(case, [(5, 5, 5), (5, 9, 9)])
    a.expect("row unusable", case)

    meningiomas = a.table.index[(a.table["label_type"] == "meningioma") & a.table["case_id"].isin(a.free)]
    a.table.loc[meningiomas[0], "label_type"] = "Menin-gioma"
    a.expect("label spelling", "")


def test_a_clean_archive_has_no_findings(clean):
    """Twenty simulated patients give an empty table, and the exit code 0."""
    findings = check_archive(clean)
    assert findings.empty, findings.to_string()
    assert list(findings.columns) == list(COLUMNS) and exit_code(findings) == 0
    result = CliRunner().invoke(app, ["check", str(clean)])
    assert result.exit_code == 0 and "Found nothing wrong" in result.output


def test_every_planted_fault_is_found_and_nothing_else(clean, tmp_path):
    """Each fault is told of, of the case that has it, with a severity and a remedy."""
    archive = Archive(clean, tmp_path)
    plant(archive)
    findings = archive.check()
    told = set(zip(findings["check"], findings["case_id"], strict=True))
    assert told == archive.planted, findings.to_string()
    assert findings["remedy"].str.len().gt(10).all() and findings["problem"].str.len().gt(10).all()
    assert findings["severity"].isin(["error", "warning"]).all()
    assert findings["severity"].is_monotonic_increasing  # errors first
    assert findings["line"].between(2, len(archive.table) + 1).all()
    assert exit_code(findings) == 2


def test_the_same_scan_twice_of_one_patient_is_a_warning(clean, tmp_path):
    """Equal voxels under one patient leak nothing into another: no error."""
    archive = Archive(clean, tmp_path)
    rows = archive.table["case_id"] == archive.table["case_id"].iloc[0]
    copy = archive.table[rows].copy()
    copy["case_id"] += "-again"
    copy["tumor_id"] = [f"{name}-again" for name in copy["tumor_id"]]
    archive.table = pd.concat([archive.table, copy], ignore_index=True)
    findings = archive.check()
    told = findings[["check", "severity", "case_id"]].to_numpy().tolist()
    assert told == [["duplicated voxels", "warning", copy["case_id"].iloc[0]]]
    assert exit_code(findings) == 1


def test_the_command_prints_writes_and_exits(clean, tmp_path):
    """Only warnings exit with 1, errors with 2; JSON and CSV hold the same table."""
    archive = Archive(clean, tmp_path)
    rows = archive.table.index[archive.table["label_type"] == "meningioma"]
    archive.table.loc[rows[0], "label_type"] = "Meningioma"
    archive.check()
    result = CliRunner().invoke(app, ["check", str(tmp_path / "archive.csv")])
    assert result.exit_code == 1 and "label spelling" in result.output and "1 warning" in result.output
    archive.table.loc[rows[0], "mask"] = archive.table.loc[rows[0], "image"] = "nowhere.nii.gz"
    archive.table.to_csv(tmp_path / "archive.csv", index=False)
    words = ["check", str(tmp_path / "archive.csv"), "--json", "-o", str(tmp_path / "findings.csv")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    listed = json.loads(result.stdout)
    written = pd.read_csv(tmp_path / "findings.csv", keep_default_na=False)
    assert [one["check"] for one in listed] == written["check"].tolist()
    assert "file missing" in written["check"].tolist() and set(listed[0]) == set(COLUMNS)


def test_what_is_no_archive_is_an_error(tmp_path):
    """A missing file and a table of scans end with exit code 2 and say what to do."""
    result = CliRunner().invoke(app, ["check", str(tmp_path / "none.csv")])
    assert result.exit_code == 2 and "does not exist" in result.output
    (tmp_path / "scans.csv").write_text("patient_id,case_id,image,mask\na,b,c,d\n")
    with pytest.raises(ManifestError, match="This is a scan table"):
        check_archive(tmp_path / "scans.csv")


def test_a_type_that_tells_the_data_set_is_noted(clean, tmp_path):
    """Where every data set holds one type a note says so, and notes do not change the exit code."""
    archive = Archive(clean, tmp_path)
    archive.table["dataset"] = "set of " + archive.table["label_type"]
    archive.table.loc[0, "dataset"] = archive.table["dataset"].iloc[-1]  # one stray tumor changes nothing
    findings = archive.check()
    assert findings["check"].tolist() == ["type is data set"] and findings["severity"].tolist() == ["note"]
    assert exit_code(findings) == 0


def test_digest_knows_the_same_voxels():
    """Axes, numeric type and zero padding do not matter; one other voxel, or two exchanged values, do."""
    image = np.random.default_rng(0).integers(1, 900, (7, 8, 9)).astype(np.int16)
    same = _digest(image)
    assert same == _digest(image[::-1].transpose(2, 0, 1)) == _digest(image.astype(np.float32))
    assert same == _digest(np.pad(image, 3))
    changed = image.copy()
    changed[0, 0, 0] += 1
    assert same != _digest(changed)
    assert _digest(np.array([1.0, 4.0])) != _digest(np.array([2.0, 3.0]))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"meningioma": 9, "Meningioma": 2}, [("Meningioma", "meningioma")]),
        ({"meningioma": 9, "menigioma": 1}, [("menigioma", "meningioma")]),
        ({"pituitary_adenoma": 3, "pituitary adenoma": 3}, [("pituitary_adenoma", "pituitary adenoma")]),
        ({"stage II": 9, "stage III": 1}, []),
        ({"grade 1": 9, "grade 2": 1}, []),
        ({"meningioma": 9, "menigioma": 8}, []),  # two values of like frequency are two values
        ({"frontal": 9, "temporal": 1, "occipital": 1, "parietal": 1, "left": 5, "right": 1}, []),
    ],
)
def test_spelling_variants(counts, expected):
    """Case, blanks and rare slips are variants; grades, stages and other words are not."""
    assert list(_variants(counts)) == expected


@pytest.mark.real
def test_real_scans_are_not_slandered(real_data, tmp_path):
    """Seventeen real scans of other scanners, whole and stripped, thick and thin, give no error."""
    from tumorsim.manifest import build_manifest

    table = pd.read_csv(real_data / "real" / "scans.csv", dtype=str, keep_default_na=False)
    table = table[table["mask"] != ""]
    for column in ("image", "mask"):
        table[column] = [str(real_data / "real" / path) for path in table[column]]
    table.to_csv(tmp_path / "scans.csv", index=False)
    build_manifest(tmp_path / "scans.csv", tmp_path / "real.csv")
    findings = check_archive(tmp_path / "real.csv")
    assert not (findings["severity"] == "error").any(), findings.to_string()


@pytest.fixture
def two_tumors(tmp_path, make_case, write_case):
    """Return the manifest of one case of two tumors, in files, that lie on the left and are said to."""
    lesions = (((5, 12, 14), (3, 4, 5)), ((6, 20, 24), (2, 2, 2)))
    case = write_case(make_case("c1", "p1", ellipsoids=lesions, shape=(60, 24, 28)), tmp_path)
    cohort = tumors_from_case(case, labels={"hemisphere": "left"})
    save_manifest(cohort, tmp_path / "archive.csv")
    return tmp_path / "archive.csv"


def strip_codes(folder):
    """Take out of all NIfTI files of a folder which way their axes point."""
    for path in folder.glob("*.nii.gz"):
        image = nib.load(path)
        image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
        image.set_sform(None, 0)
        nib.save(image, path)


def mirror_sforms(folder):
    """Let the sforms of a folder's NIfTI files mirror their qforms."""
    for path in folder.glob("*.nii.gz"):
        image = nib.load(path)
        image.set_qform(image.affine, 1)
        image.set_sform(np.diag([-1, 1, 1, 1]) @ image.affine, 1)
        nib.save(image, path)


@pytest.mark.parametrize("spoil", [strip_codes, mirror_sforms])
def test_scan_of_unknown_orientation_is_told_and_gets_no_side_conflict(two_tumors, spoil):
    """Codes of 0 and mirrored forms mirror the scan: a warning with a remedy, not an exchanged label."""
    assert "side conflict" not in set(check_archive(two_tumors)["check"])
    spoil(two_tumors.parent)
    (found,) = check_archive(two_tumors).query("check == 'orientation unknown'").to_dict("records")
    assert (found["severity"], found["case_id"], found["line"]) == ("warning", "c1", 2)
    assert "left and right are a guess" in found["problem"] and "set_sform" in found["remedy"]
    assert "side conflict" not in set(check_archive(two_tumors)["check"])


def test_damaged_stream_is_unreadable_with_the_reason(two_tumors):
    """A wrong checksum is an error that names file and reason."""
    path = two_tumors.parent / "c1_image.nii.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    found = check_archive(two_tumors).iloc[0]
    assert found["check"] == "unreadable" and "c1_image.nii.gz" in found["problem"]
    assert "CRC check failed" in found["problem"]


def test_a_damaged_mask_that_is_not_measured_is_a_finding(two_tumors):
    """A table without sizes and shapes is checked like any other, and its scan's mask read once."""
    table = pd.read_csv(two_tumors, dtype=str)
    table.drop(columns=[*MEASURES, "measured_from"]).to_csv(two_tumors, index=False)
    mask = two_tumors.parent / table["mask"][0]
    mask.write_bytes(mask.read_bytes()[:-30])
    assert check_archive(two_tumors)["check"].tolist()[0] == "mask unusable"


@pytest.mark.parametrize(("patient_id", "told"), [("ANONYMOUS", 1), ("unknown", 1), ("?", 1), ("anna", 0)])
def test_a_patient_of_no_name_is_told(two_tumors, patient_id, told):
    """Scans whose patients are not known would be left out as those of one."""
    table = pd.read_csv(two_tumors, dtype=str).assign(patient_id=patient_id, case_id=["a", "b"])
    table.to_csv(two_tumors, index=False)
    findings = check_archive(two_tumors)
    assert findings["problem"].str.contains("has 2 scans: one patient, or several").sum() == told


def test_image_as_its_own_mask_is_found(two_tumors):
    """A mask column that names the image, or a copy of it, is an error."""
    table = pd.read_csv(two_tumors)
    image = two_tumors.parent / "c1_image.nii.gz"
    (two_tumors.parent / "copy.nii.gz").write_bytes(image.read_bytes())
    stored = nib.load(image)
    whole = nib.Nifti1Image(np.asanyarray(stored.dataobj).round().astype(np.int16), stored.affine)
    nib.save(whole, image)
    nib.save(whole, two_tumors.parent / "copy.nii.gz")
    for name, check in ((image.name, "row unusable"), ("copy.nii.gz", "mask unusable")):
        table.assign(mask=name).to_csv(two_tumors, index=False)
        found = check_archive(two_tumors)
        found = found[found["severity"] == "error"].iloc[0]
        assert found["check"] == check and "of case 'c1'" in found["problem"] and "image" in found["problem"]
