"""Lesions of two dates: registration, pairs, growth, manifests, the command, ids in a SEG."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from test_cli import run
from visits import make_visits

from tumorsim import Case, match_dates
from tumorsim import matching as match_module
from tumorsim.anatomy import register_dates
from tumorsim.answers import courses
from tumorsim.geometry import bbox_from_mask
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.matching import _pair_lesions as pair_lesions
from tumorsim.matching import match_manifest
from tumorsim.report import save_match


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """Return a simulated patient of two dates on files, several lesions."""
    return make_visits(1, random_state=2, spacing=4.0, output_dir=tmp_path_factory.mktemp("visits"))


def at(visits, visit):
    """Return the tumors of a visit."""
    return [t for t in visits if t.metadata["visit"] == visit]


def truth(visits):
    """Return the true pairs of tumor ids."""
    parts = {t.tumor_id: set(t.metadata["lesions"].split("+")) for t in visits}
    return {
        (b.tumor_id, a.tumor_id)
        for b in at(visits, 1)
        for a in at(visits, 2)
        if parts[b.tumor_id] & parts[a.tumor_id]
    }


def pairs(table):
    """Return the pairs of tumor ids that a table holds."""
    return {
        (b, a)
        for row in table.itertuples()
        for b in row.tumors_before.split(";")
        for a in row.tumors_after.split(";")
        if b and a
    }


@pytest.fixture
def no_registration(monkeypatch):
    """Let scans lie on each other as their headers say."""
    monkeypatch.setattr(match_module, "register_dates", lambda before, after: (np.eye(4), 0.9))


def ball(center, radius, shape=(50, 52, 54)):
    """Return a ball of voxels."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((grid - center) ** 2).sum(axis=-1) <= radius**2


def case(name, *balls, patient="p"):
    """Return a case of 1 mm voxels whose mask are balls."""
    mask = np.any(balls, axis=0) if balls else np.zeros((50, 52, 54), bool)
    return Case((mask.astype(np.float32), np.eye(4)), (mask, np.eye(4)), case_id=name, patient_id=patient)


@pytest.mark.slow
def test_rigid_registration_finds_a_known_turn():
    """A simulated scan, turned by 8 degrees and shifted, comes back within 1 mm at the brain's edge."""
    from scipy.spatial.transform import Rotation

    tumor = make_visits(1, random_state=5, spacing=4.0)[0]
    image, affine, mask = tumor.case.load_image(), tumor.case.affine, tumor.case.load_mask() > 0
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", (8, -5, 6), degrees=True).as_matrix()
    moved[:3, 3] = 12, -7, 9
    to_after, quality = register_dates((image, affine, mask), (image, moved @ affine, mask))
    corners = np.array([[60, 0, 0], [-60, 0, 0], [0, 70, 0], [0, -80, 0], [0, 0, 60]]) + affine[:3, 3]
    corners += affine[:3, :3] @ (np.array(image.shape) / 2)
    wanted, found = (corners @ m[:3, :3].T + m[:3, 3] for m in (moved, to_after))
    assert np.linalg.norm(wanted - found, axis=1).max() < 1 and quality > 0.95
    assert_allclose(to_after[:3, :3] @ to_after[:3, :3].T, np.eye(3), atol=1e-9)


def test_simulated_dates_are_matched(visits):
    """All pairs of a patient are found, on another scanner and in another pose."""
    table = match_dates(at(visits, 1), at(visits, 2), dates=("2024-01-01", "2024-07-01"))
    assert pairs(table) == truth(visits) and len(truth(visits)) > 0
    same = table[table["status"] == "same"]
    ratio = same["volume_after_mm3"] / same["volume_before_mm3"]
    assert_allclose(same["growth_percent"], 100 * (ratio - 1), atol=0.01)
    months = 182 / (365.25 / 12)
    assert_allclose(same["volume_ratio_per_month"], np.log(ratio) / months, atol=1e-3)


def test_visits_do_not_depend_on_their_number_and_keep_the_brain():
    """Patient 1 is the same alone; true volumes of a grown lesion are the ball's."""
    one, two = make_visits(1, random_state=4, spacing=4.0), make_visits(2, random_state=4, spacing=4.0)
    assert_allclose(one[0].case.load_image(), two[0].case.load_image())
    assert one[0].metadata == two[0].metadata
    for tumor in one:
        assert 0.3 < tumor.metadata["true_volume_mm3"] / tumor.measure()["volume_mm3"] < 3


def test_what_stripping_takes_of_a_lesion_is_known(visits):
    """A tumor at the sella lies outside a stripped brain: its mask lacks what `stripped_share` says."""
    before, after = (next(t for t in at(visits, n) if t.metadata["lesions"] == "1") for n in (1, 2))
    shown = before.measure()["volume_mm3"] / before.metadata["true_volume_mm3"]
    assert before.metadata["stripped_share"] > 0.5 and after.metadata["stripped_share"] == 0
    assert abs(shown - (1 - before.metadata["stripped_share"])) < 0.1


def test_every_status_is_told(no_registration):
    """Balls that stay, go, come, meet and part get their status, volumes of pieces are summed."""
    near, far = ball((10, 10, 10), 3), ball((40, 40, 40), 4)
    left, right = ball((20, 40, 20), 3), ball((29, 40, 20), 3)
    both = ball((24, 40, 20), 8)
    found = match_dates(case("a", near, left, right), case("b", near, both, far))
    assert sorted(found["status"]) == ["merged", "new", "same"]
    merged = found[found["status"] == "merged"].iloc[0]
    assert (
        merged["volume_before_mm3"] == left.sum() + right.sum() and merged["volume_after_mm3"] == both.sum()
    )
    assert merged["category"] == "larger"
    back = match_dates(case("b", near, both, far), case("a", near, left, right))
    assert sorted(back["status"]) == ["same", "split", "vanished"]


def test_an_empty_mask_is_a_date_without_lesions(no_registration):
    """All lesions vanish, or are new; two empty masks give no row."""
    some, none = case("a", ball((10, 10, 10), 3)), case("b")
    assert match_dates(some, none)["status"].tolist() == ["vanished"]
    assert match_dates(none, some)["status"].tolist() == ["new"]
    assert len(match_dates(none, none)) == 0


def test_categories_keep_to_their_limits(no_registration):
    """+40 % is larger, less is stable; the error of a cube's volume is that of the formula."""
    cube = np.zeros((50, 52, 54), bool)
    cube[10:20, 10:20, 10:20] = True
    more, less = cube.copy(), cube.copy()
    more[10:20, 10:20, 20:24] = True  # exactly +40 %
    less[10:20, 10:20, 20:23] = True
    found = [match_dates(case("a", cube), case("b", other)).iloc[0] for other in (more, less, cube)]
    assert [row["category"] for row in found] == ["larger", "stable", "stable"]
    error = np.sqrt(3 * 100**2 / 6)
    assert_allclose(found[2]["volume_before_error_mm3"], error, atol=1e-3)
    assert_allclose(found[2]["growth_error_percent"], 100 * np.sqrt(2) * error / 1000, atol=1e-3)


def test_likeness_decides_what_place_leaves_open():
    """Two lesions between two others go to those that they look like."""
    cube = np.argwhere(np.ones((3, 3, 3)))
    before, after = [cube, np.add(cube, [6, 0, 0])], [np.add(cube, [3, 3, 0]), np.add(cube, [3, -3, 0])]
    crossed = pair_lesions(before, after, tolerance_mm=4.0, likeness=np.array([[0, 1], [1, 0]]))
    straight = pair_lesions(before, after, tolerance_mm=4.0, likeness=np.array([[1, 0], [0, 1]]))
    assert (crossed, straight) == ([([0], [1]), ([1], [0])], [([0], [0]), ([1], [1])])


def test_bad_dates_and_patients_are_refused(no_registration):
    """Two patients, dates the wrong way round or unreadable, a scan without mask."""
    one = case("a", ball((10, 10, 10), 3))
    with pytest.raises(ValueError, match=r"of one patient\. Got the patients 'p' and 'q'"):
        match_dates(one, case("b", ball((10, 10, 10), 3), patient="q"))
    with pytest.raises(ValueError, match="later scan must have the later date"):
        match_dates(one, one, dates=("2024-05-01", "2024-05-01"))
    with pytest.raises(ValueError, match=r"written as 2024-05-31\. Got 'May'"):
        match_dates(one, one, dates=("May", "June"))
    for dates in (("2024-05-01",), ("2024-05-01", "2024-06-01", "2024-07-01")):
        with pytest.raises(ValueError, match=f"'dates' must be two, the earlier first. Got {len(dates)}"):
            match_dates(one, one, dates=dates)
    with pytest.raises(ValueError, match=r"must have no semicolon. Got 'x;y/1'"):
        match_dates(one, case("x;y", ball((10, 10, 10), 3)))
    bare = Case(one.image, case_id="c", patient_id="p")
    with pytest.raises(ValueError, match="Case 'c' needs a mask"):
        match_dates(one, bare)


def test_manifest_gets_lesion_ids_over_three_dates(no_registration, tmp_path):
    """One lesion keeps its id over three dates; changes per month are columns of the later tumors."""
    from tumorsim import Cohort
    from tumorsim.manifest import tumors_from_case

    tumors = []
    for n, radius in enumerate((3, 4, 5)):
        mask = ball((10, 10, 10), radius) | (ball((40, 40, 40), 3) if n else False)
        files = [tmp_path / f"{kind}{n}.nii.gz" for kind in ("image", "mask")]
        for file, dtype in zip(files, (np.float32, np.uint8), strict=True):
            save_nifti(file, mask.astype(dtype), np.eye(4))
        one = Case(*files, case_id=f"s{n}", patient_id="p")
        tumors += tumors_from_case(one, metadata={"date": f"2024-0{n + 1}-01"})
    tumors += tumors_from_case(Case(*files, case_id="undated", patient_id="p"))
    save_manifest(Cohort(reversed(tumors)), tmp_path / "archive.csv")
    table, _ = match_manifest(tmp_path / "archive.csv", tmp_path / "matched.csv")
    written = pd.read_csv(tmp_path / "matched.csv", dtype={"lesion_id": str}).set_index("tumor_id")
    assert (
        table["status"].tolist() == ["same", "new", "same", "same"]
        and table["case_after"].tolist()[-1] == "s2"
    )
    assert sorted(written.groupby("lesion_id").size()) == [1, 1, 2, 3]  # a scan without a date stands alone
    grown = written.loc["s2/1"]
    assert grown["lesion_id"] == written.loc["s0/1", "lesion_id"] and grown["volume_ratio_per_month"] > 0
    assert np.isnan(written.loc["s0/1", "volume_ratio_per_month"])
    shuffled = pd.read_csv(tmp_path / "matched.csv", dtype=str).iloc[::-1]
    shuffled.loc[shuffled["case_id"] == "s2", "lesion_id"] = None  # a date that has come since
    shuffled.to_csv(tmp_path / "later.csv", index=False)
    again = match_manifest(tmp_path / "later.csv")[1]
    assert {t.tumor_id: t.metadata["lesion_id"] for t in again} == written["lesion_id"].to_dict()
    with pytest.raises(ValueError, match="needs a column 'date'"):
        match_manifest(
            pd.DataFrame(written.reset_index())
            .drop(columns="date")
            .assign(image=str(tmp_path / "image0.nii.gz"), mask=str(tmp_path / "mask0.nii.gz"), case_id="s0")
        )


@pytest.fixture
def two_patients(tmp_path):
    """Return the manifest of two patients at two dates, two balls each, as a table."""
    from tumorsim import Cohort
    from tumorsim.manifest import tumors_from_case

    mask = ball((10, 10, 10), 3) | ball((40, 40, 40), 4)
    for kind, dtype in (("image", np.float32), ("mask", np.uint8)):
        save_nifti(tmp_path / f"{kind}.nii.gz", mask.astype(dtype), np.eye(4))
    tumors = []
    for patient in "pq":
        for n in (1, 2):
            files = tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz"
            scan = Case(*files, case_id=f"{patient}{n}", patient_id=patient)
            tumors += tumors_from_case(scan, metadata={"date": f"2024-0{n}-01"})
    save_manifest(Cohort(tumors), tmp_path / "archive.csv")
    return pd.read_csv(tmp_path / "archive.csv", dtype=str)


def lesion_ids(table, path):
    """Match a table that is written to `path`; return tumor_id → lesion_id."""
    table.to_csv(path, index=False)
    return {t.tumor_id: t.metadata["lesion_id"] for t in match_manifest(path)[1]}


def test_lesion_ids_by_hand_are_kept(no_registration, two_patients, tmp_path):
    """Numbers with gaps stay numbers, two patients may use one id, and what the match denies is told."""
    table = two_patients.assign(lesion_id=["1", "2", None, None] * 2)
    ids = lesion_ids(table, tmp_path / "hand.csv")
    assert ids == {f"{patient}{n}/{k}": str(k) for patient in "pq" for n in (1, 2) for k in (1, 2)}
    wrong = two_patients.assign(lesion_id=["1", "2", "2", "1", None, None, None, None])
    with pytest.warns(UserWarning, match=r"disagrees with the lesion_id of 2 tumors: 'p2/1': '2' became '1'"):
        assert lesion_ids(wrong, tmp_path / "wrong.csv")["p2/1"] == "1"


def test_a_new_match_leaves_nothing_of_the_last(no_registration, two_patients, tmp_path):
    """Where dates are corrected, the tumor that is first now has no change."""
    two_patients.to_csv(tmp_path / "archive.csv", index=False)
    match_manifest(tmp_path / "archive.csv", tmp_path / "matched.csv")
    table = pd.read_csv(tmp_path / "matched.csv", dtype=str)
    table["date"] = table["date"].map({"2024-01-01": "2024-02-01", "2024-02-01": "2024-01-01"})
    table.to_csv(tmp_path / "swapped.csv", index=False)
    for tumor in match_manifest(tmp_path / "swapped.csv")[1]:
        assert ("status" in tumor.metadata) == (tumor.case.case_id in ("p1", "q1"))


def test_dates_that_leave_the_order_open_are_refused(no_registration, two_patients, tmp_path):
    """Two scans of one date, and two dates of one scan, are named before anything is matched."""
    same = two_patients.assign(date="2024-01-01")
    with pytest.raises(ValueError, match=r"Scans of patient 'p' must differ in 'date'.*'p1' and 'p2'"):
        lesion_ids(same, tmp_path / "same.csv")
    several = two_patients.assign(date=[f"2024-01-{n + 1:02}" for n in range(8)])
    with pytest.raises(ValueError, match="Case 'p1' must have one 'date'"):
        lesion_ids(several, tmp_path / "several.csv")


def test_courses_are_of_one_patient():
    """Two patients with a lesion of one name have a course each."""
    names = {"patient_id": ["p", "p", "q", "q"], "lesion_id": ["L1"] * 4, "volume_mm3": [400, 800, 5000, 100]}
    archive = pd.DataFrame(names | {"date": ["2024-01-01", "2024-02-01"] * 2})
    found = courses(archive[:1].assign(query=0, rank=1), archive)
    assert found["volume_mm3"].tolist() == [400, 800]


@pytest.mark.slow
@pytest.mark.real
def test_real_dates_have_their_tumor_twice(real_data):
    """The main tumor of four patients is found at both dates (ragged masks: merged within 10 mm)."""
    folder = real_data / "real"
    for number in range(1, 5):
        sides = [
            Case(folder / f"btp-0{number}-{when}_t1c.nii.gz", folder / f"btp-0{number}-{when}_mask.nii.gz",
                 case_id=when, patient_id=f"btp-0{number}")
            for when in ("pre", "post")
        ]  # fmt: skip
        table = match_dates(*sides, merge_distance_mm=10.0, min_volume_mm3=100.0)
        largest = table.loc[table["volume_before_mm3"].idxmax()]
        assert largest["status"] in ("same", "merged", "split") and largest["registration_quality"] > 0.6


def test_the_page_says_where_the_category_is_not_sure(no_registration, tmp_path):
    """A lesion whose growth is as near a limit as its error reaches is marked; others are not."""
    from tumorsim.report import save_match

    radii = {"before": (4, 9), "after": (4.4, 9)}
    sides = [case(n, ball((10, 10, 10), r), ball((30, 30, 30), s)) for n, (r, s) in radii.items()]
    table = match_dates(*sides)
    assert table["category"].tolist() == ["stable", "larger"]  # largest first
    off = (table["growth_percent"] - 40).abs() < 1.96 * table["growth_error_percent"]
    assert off.sum() == 1
    page = save_match(tmp_path / "page.html", *sides, table).read_text(encoding="utf-8")
    assert page.count("but the limit of +40 % lies within the error") == 1 and "RANO 2.0" in page


def test_the_page_outlines_what_was_matched(no_registration, tmp_path):
    """Voxels of other mask values beside the lesion have no outline: the page is that of the lesion alone."""
    mask = np.uint8(ball((25, 25, 25), 4)) + 2 * (ball((25, 25, 25), 8) & ~ball((25, 25, 25), 4))
    image, pages = np.float32(mask), []
    for labels in (mask, np.where(mask == 1, mask, 0)):
        one, two = (
            Case((image, np.eye(4)), (np.uint8(labels), np.eye(4)), case_id=n, patient_id="p") for n in "ab"
        )
        save_match(tmp_path / "page.html", one, two, match_dates(one, two, mask_value=1))
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]


def test_boxes_of_visits_hold_their_lesions(visits):
    """A tumor's box is that of voxels of its mask."""
    for tumor in visits:
        inside = tumor.select(tumor.case.load_mask())
        assert bbox_from_mask(inside).tolist() == [[0, 0, 0], list(inside.shape)]


def test_the_command_matches_two_scans_and_draws_them(no_registration, tmp_path):
    """Table, JSON and page are written; the page shows both dates of each lesion, and nothing is replaced."""
    import json

    arguments = ["match"]
    for name, balls in (
        ("before", [ball((10, 10, 10), 3)]),
        ("after", [ball((10, 10, 10), 5), ball((40, 40, 40), 4)]),
    ):
        mask = np.any(balls, axis=0)
        save_nifti(tmp_path / f"{name}.nii.gz", mask.astype(np.float32), np.eye(4))
        save_nifti(tmp_path / f"{name}_mask.nii.gz", mask.astype(np.uint8), np.eye(4))
        arguments.append(str(tmp_path / f"{name}.nii.gz"))
    for name in ("before", "after"):
        arguments += [f"--mask-{name}", str(tmp_path / f"{name}_mask.nii.gz")]
    arguments += ["--dates", "2024-03-01,2024-06-03", "-o", str(tmp_path / "table.csv"), "--json"]
    result = run(*arguments, "--report", tmp_path / "page.html")
    rows = json.loads(result.stdout)
    assert [row["status"] for row in rows] == ["same", "new"] and rows[0]["growth_mm3_per_month"] > 0
    assert pd.read_csv(tmp_path / "table.csv")["status"].tolist() == ["same", "new"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 8 and "L1: same" in page and "L2: new" in page and "nan" not in page
    assert "before.nii.gz" in page and "after.nii.gz" in page  # as the footer names the scans
    growth, error = rows[0]["growth_percent"], rows[0]["growth_error_percent"]
    assert (growth - 40 < 1.96 * error) == ("lies within the error" in page)
    assert "exists already" in run(*arguments, code=2).stderr
    for option in ("--dates 2024-01-01,2024-02-01", "--mask-value 7", "--by-value", "--min-volume-mm3 50"):
        assert "are for two scans" in run("match", arguments[1], option, code=2).stderr
