"""Simulated cohorts: reproducible, labeled by their geometry, on files as in memory."""

import csv

import numpy as np
import pytest

from tumorsim import Case, make_cohort
from tumorsim.anatomy import place_labels, region_at
from tumorsim.geometry import bbox_from_mask, crop_slices, to_ras
from tumorsim.simulation._anatomy import load_head
from tumorsim.simulation._scan import draw_scan
from tumorsim.simulation._simulate import TEMPLATE, _place_tumors, _type_of
from tumorsim.simulation._tumors import TYPES, draw_lesion

SPACING = 4.0  # mm; coarse, for speed


@pytest.fixture(scope="module")
def cohort():
    """Twelve patients in memory."""
    return make_cohort(12, random_state=3, spacing=SPACING)


def arrays(cohort):
    """Return (image, mask, affine) of each scan."""
    return [(case.load_image(), case.load_mask(), case.affine) for case in cohort.cases]


@pytest.mark.slow
def test_same_seed_gives_the_same_scans_whatever_their_number_and_jobs(cohort):
    """Patient i is the same with fewer patients and in worker processes."""
    for other in (
        make_cohort(3, random_state=3, spacing=SPACING),
        make_cohort(2, random_state=3, spacing=SPACING, n_jobs=2),
    ):
        for expected, found in zip(arrays(cohort), arrays(other), strict=False):
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_array_equal(a, b)
        first = cohort[: len(other)]
        assert list(first.tumor_ids) == list(other.tumor_ids)
        assert [t.labels for t in first] == [t.labels for t in other]


def test_another_seed_gives_other_scans(cohort):
    """The seed matters, and patients of one cohort differ."""
    other = make_cohort(1, random_state=4, spacing=SPACING)
    scans = [*arrays(cohort)[:2], *arrays(other)]
    for i, j in ((0, 1), (0, 2)):
        assert scans[i][0].shape != scans[j][0].shape or not np.array_equal(scans[i][0], scans[j][0])


def test_boxes_are_those_of_the_mask_values(cohort):
    """Each tumor has a mask value of its own, its box, and at least 14 mm3; no voxel is left over."""
    for case in cohort.cases:
        mask = case.load_mask()
        tumors = [t for t in cohort if t.case is case]
        assert sorted(np.unique(mask)) == list(range(len(tumors) + 1))
        for j, tumor in enumerate(tumors, start=1):
            assert tumor.mask_value == str(j) and tumor.tumor_id == f"{case.case_id}/{j}"
            np.testing.assert_array_equal(tumor.bbox, bbox_from_mask(mask == j))
            assert (mask == j).sum() * case.spacing.prod() >= 14
            assert tumor.metadata["dataset"] == "simulated" and tumor.metadata["anatomy"] == "mni152"
    cohort.check(voxels=True)


@pytest.mark.parametrize("seed", range(6))
def test_centroid_in_mni_space_lies_where_the_mask_does(seed):
    """The deformation takes the mask's voxels to the centroid that labels are taken from."""
    rng = np.random.default_rng(seed)
    number = TYPES["metastasis"].count(rng)
    scan, lesions, depths, mask = _place_tumors(rng, "metastasis", number, TEMPLATE, SPACING, (TEMPLATE,))
    for j, (lesion, (index, depth)) in enumerate(zip(lesions, depths, strict=True), start=1):
        truth = scan.points[index[depth > 0]].mean(axis=0)
        in_mask = np.isin(scan.voxel, np.flatnonzero((mask == j).ravel()))
        # a voxel is up to 6.5 mm thick, so a mask's centroid is off by a part of that
        assert np.linalg.norm(scan.points[in_mask].mean(axis=0) - truth) < 0.5 * scan.spacing.max()
        assert np.linalg.norm(lesion.center - truth) < 0.5 * lesion.radius + 0.5 * scan.spacing.max()


@pytest.mark.parametrize("seed", range(4))
def test_axes_of_a_scan_point_right_front_and_up(seed):
    """MNI x, y and z grow along the stored axes before these are reordered, so left is the patient's left."""
    scan = draw_scan(np.random.default_rng(seed), SPACING, load_head())
    where = np.stack(np.unravel_index(scan.voxel, scan.shape), axis=-1)
    for axis in range(3):
        assert np.corrcoef(where[:, axis], scan.points[:, axis])[0, 1] > 0.9


def test_labels_agree_with_where_the_tumor_lies_in_the_head(cohort):
    """Tumors labeled left, rear or lower lie on that side of the head, however axes are stored."""
    orders = {tuple(np.sign(case.affine[:3, :3].round(6)).ravel()) for case in cohort.cases}
    assert len(orders) > 4
    values = {
        "hemisphere": ("left", "right"),
        "front_rear": ("rear", "front"),
        "upper_lower": ("lower", "upper"),
    }
    offsets = {value: [] for pair in values.values() for value in pair}
    for tumor in cohort:
        image = to_ras(tumor.case.load_image(), tumor.case.affine)
        middle = np.argwhere(image > 0.3 * np.percentile(image, 95)).mean(axis=0)
        inside = np.zeros(tumor.case.shape, bool)
        inside[crop_slices(tumor.bbox)] = tumor.load_mask()
        center = np.argwhere(to_ras(inside, tumor.case.affine)).mean(axis=0)
        for axis, task in enumerate(values):
            if tumor.labels[task] is not None:
                offsets[tumor.labels[task]].append(center[axis] - middle[axis])
    for low, high in values.values():
        assert np.median(offsets[low]) < np.median(offsets[high])
    assert np.median(offsets["left"]) < 0 < np.median(offsets["right"])


def test_labels_at_known_places():
    """Thresholds are those of the vocabulary; the area is that of the nearest landmark."""
    labels = place_labels([-37.0, -5, 56])
    assert labels == {
        "region": "frontal",
        "hemisphere": "left",
        "front_rear": "front",
        "upper_lower": "upper",
    }
    assert place_labels([4.9, -18.1, 9.9])["hemisphere"] is None
    assert place_labels([5.1, -18.1, 9.9])["hemisphere"] == "right"
    assert place_labels([0, -18.1, 9.9])["front_rear"] == "rear"
    assert place_labels([0, -18.0, 9.9])["upper_lower"] == "lower"
    assert region_at([[25, -36, -36], [0, -80, -30]]).tolist() == ["cerebellopontine_angle", "cerebellum"]


def test_types_come_in_their_shares():
    """Shares are those of the table within a patient or two, and `types` narrows them."""
    drawn = [_type_of(5, i, tuple(TYPES)) for i in range(100)]
    for name, kind in TYPES.items():
        assert abs(drawn.count(name) - 100 * kind.weight) <= 2
    only = make_cohort(2, random_state=0, spacing=SPACING, types=["schwannoma"])
    assert set(only.labels["type"]) == {"schwannoma"}


def test_metastases_are_many_and_others_few():
    """Half of the patients have one metastasis, some five and more; other types are mostly single."""
    counts = {
        name: [kind.count(rng) for rng in map(np.random.default_rng, range(600))]
        for name, kind in TYPES.items()
    }
    assert np.mean(np.array(counts["metastasis"]) == 1) == pytest.approx(0.49, abs=0.06)  # 3 standard errors
    assert np.mean(np.array(counts["metastasis"]) >= 5) == pytest.approx(0.11, abs=0.04)
    assert 1.1 < np.mean(counts["meningioma"]) < 1.3
    assert 1.0 <= np.mean(counts["schwannoma"]) < 1.08


def test_every_type_is_found_in_the_cerebellopontine_angle():
    """Place does not give the type away: no type owns the cerebellopontine angle, nor the cerebrum."""
    rng = np.random.default_rng(0)
    for name in TYPES:
        areas = region_at([draw_lesion(name, rng, load_head()).center for _ in range(150)])
        assert (areas == "cerebellopontine_angle").any()
        assert np.isin(areas, ["frontal", "parietal", "temporal", "occipital"]).any()


def test_tumors_are_brighter_than_what_surrounds_them(cohort):
    """The bright part of a tumor exceeds the median of the tissue near it in nearly every tumor."""
    brighter = []
    for tumor in cohort:
        box = bbox_from_mask(tumor.case.load_mask() == int(tumor.mask_value)) + np.array([[-2], [2]])
        box = np.clip(box, 0, tumor.case.shape)
        image = tumor.case.load_image()[crop_slices(box)].astype(float)
        mask = tumor.case.load_mask()[crop_slices(box)]
        brighter.append(np.percentile(image[mask == int(tumor.mask_value)], 75) > np.median(image[mask == 0]))
    assert np.mean(brighter) > 0.9


def test_files_hold_what_memory_holds(tmp_path):
    """Images, masks, boxes and labels read back from files equal those of the cohort in memory."""
    expected = make_cohort(2, random_state=3, spacing=SPACING)
    found = make_cohort(2, random_state=3, spacing=SPACING, output_dir=tmp_path)
    for a, b in zip(expected.cases, found.cases, strict=True):
        assert isinstance(b.image, str)
        np.testing.assert_array_equal(a.load_image(), b.load_image())
        np.testing.assert_array_equal(a.load_mask(), b.load_mask())
        np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)  # NIfTI stores float32
    with open(tmp_path / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tumor_id"] for row in rows] == list(expected.tumor_ids)
    for row, tumor in zip(rows, expected, strict=True):
        case = Case(tmp_path / row["image"], tmp_path / row["mask"], case_id="a", patient_id="a")
        box = np.array([int(row[c]) for c in ("x0", "y0", "z0", "x1", "y1", "z1")]).reshape(2, 3)
        np.testing.assert_array_equal(box, bbox_from_mask(case.load_mask() == int(row["mask_value"])))
        assert {k: row[f"label_{k}"] or None for k in tumor.labels} == tumor.labels
        assert row["dataset"] == "simulated"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_patients": 0}, ValueError, "'n_patients' must be at least 1"),
        ({"spacing": 0.1}, ValueError, "'spacing' must be at least"),
        ({"types": ["wart"]}, ValueError, "'types' must be one of"),
        ({"types": []}, ValueError, "at least one of metastasis"),
        ({"types": "metastasis"}, TypeError, "sequence"),
        ({"random_state": "a"}, TypeError, "'random_state' must be an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    """An argument out of its range is refused before anything is simulated."""
    with pytest.raises(error, match=message):
        make_cohort(**({"n_patients": 1} | arguments))
