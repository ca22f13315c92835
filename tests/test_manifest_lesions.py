"""Masks → lesions: boxes, merging, order, names."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tumorsim import Case, Cohort, Tumor
from tumorsim.exceptions import GeometryError
from tumorsim.manifest import tumors_from_case
from tumorsim.records.columns import MEASURES

TWO = (((5, 6, 7), (3, 3, 3)), ((14, 17, 20), (4, 4, 5)))  # two ellipsoids, the second larger


def find_lesions(mask, spacing, **options):
    """Return the boxes of the lesions of a mask in a scan of `spacing` mm."""
    affine = np.diag([*spacing, 1.0])
    image, mask = np.zeros(mask.shape, np.float32), mask.astype(np.uint8)
    case = Case((image, affine), (mask, affine), case_id="a", patient_id="p")
    return [tumor.bbox for tumor in tumors_from_case(case, **options)]


def slow_groups(mask, spacing, distance):
    """Return the boxes of merged components, by comparing all pairs of voxels."""
    labels, n = ndimage.label(mask, np.ones((3, 3, 3)))
    voxels = [np.argwhere(labels == i + 1) for i in range(n)]
    groups = list(range(n))
    for i in range(n):
        for j in range(i):
            steps = np.abs(voxels[i][:, None] - voxels[j][None])
            gap = np.linalg.norm(np.maximum(steps - 1, 0) * spacing, axis=2).min()
            if gap < distance * (1 - 1e-6):
                groups = [groups[i] if g == groups[j] else g for g in groups]
    merged = [np.concatenate([v for v, g in zip(voxels, groups, strict=True) if g == h]) for h in set(groups)]
    return {(tuple(v.min(0)), tuple(v.max(0) + 1)): len(v) for v in merged}


@given(
    st.integers(0, 10_000),
    st.sampled_from([(1.0, 1.0, 1.0), (0.7, 0.9, 3.0), (0.9375, 0.9375, 6.5)]),
    st.sampled_from([0.0, 1.0, 2.0, 3.5, 10.0]),
)
@settings(deadline=None, max_examples=60)
def test_lesions_equal_the_slow_way(seed, spacing, distance):
    """Boxes and their order are those of an exhaustive comparison of voxels."""
    mask = np.random.default_rng(seed).random((9, 11, 13)) < 0.03
    expected = slow_groups(mask, spacing, distance)
    found = find_lesions(mask, spacing, min_volume_mm3=0, merge_distance_mm=distance)
    keys = [(tuple(box[0].tolist()), tuple(box[1].tolist())) for box in found]
    assert sorted(keys) == sorted((tuple(map(int, a)), tuple(map(int, b))) for a, b in expected)
    volumes = [expected[key] for key in keys]
    assert volumes == sorted(volumes, reverse=True)


def test_boxes_are_known_ones():
    """Two ellipsoids are two lesions, the larger first, in int64."""
    mask = np.zeros((20, 24, 28), bool)
    mask[2:5, 3:7, 4:9] = True
    mask[10:16, 12:20, 15:25] = True
    boxes = find_lesions(mask, (1, 1, 1))
    assert [box.tolist() for box in boxes] == [[[10, 12, 15], [16, 20, 25]], [[2, 3, 4], [5, 7, 9]]]
    assert all(box.dtype == np.int64 for box in boxes)


@pytest.mark.parametrize(("empty", "n"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_gap_is_measured_between_surfaces(empty, n):
    """Pieces with one empty voxel of 1 mm between them are nearer than 2 mm, with two they are not."""
    mask = np.zeros((20, 8, 9), bool)
    mask[2:6, 2:6, 2:6] = True
    mask[6 + empty : 10 + empty, 2:6, 2:6] = True
    assert len(find_lesions(mask, (1, 1, 1), merge_distance_mm=2)) == n
    assert len(find_lesions(mask, (2, 2, 2), merge_distance_mm=4)) == n


def test_thick_slices_are_no_distance():
    """Pieces in neighboring slices merge by their gap in the plane, however thick the slices."""
    mask = np.zeros((12, 8, 5), bool)
    mask[1:4, 2:5, 1] = True
    mask[5:8, 2:5, 2] = True
    assert len(find_lesions(mask, (0.9, 0.9, 6.5))) == 1
    mask[:, :, 2] = False
    mask[1:4, 2:5, 3] = True
    assert len(find_lesions(mask, (0.9, 0.9, 6.5))) == 2


def test_pieces_count_together():
    """Four pieces of 8 mm3 that nearly touch are a lesion of 32 mm3; a lonely one is dropped."""
    mask = np.zeros((20, 24, 28), bool)
    for x in (2, 5, 8, 11):
        mask[x : x + 2, 2:4, 2:4] = True
    mask[15:17, 20:22, 20:22] = True
    boxes = find_lesions(mask, (1, 1, 1), min_volume_mm3=14)
    assert [box.tolist() for box in boxes] == [[[2, 2, 2], [13, 4, 4]]]


def test_volume_limit_forgives_rounding_of_headers():
    """14 voxels of 1 mm are 14 mm3 also where float32 headers make them a little less."""
    mask = np.zeros((20, 8, 9), bool)
    mask[:14, 2, 2] = True
    mask[:13, 6, 6] = True
    assert len(find_lesions(mask, (0.9999999, 1, 1))) == 1


def test_only_small_lesions_keep_the_largest_with_a_warning():
    """A scan of tiny lesions is not lost."""
    mask = np.zeros((20, 8, 9), bool)
    mask[2, 2, 2] = mask[10:12, 2, 2] = True
    with pytest.warns(UserWarning, match=r"smaller than 14 mm3; kept the largest, of 2\.00 mm3"):
        boxes = find_lesions(mask, (1, 1, 1))
    assert [box.tolist() for box in boxes] == [[[10, 2, 2], [12, 3, 3]]]


def test_an_image_is_no_mask():
    """Noise falls into thousands of pieces and is refused."""
    mask = np.random.default_rng(0).random((90, 91, 92)) < 0.03
    with pytest.raises(GeometryError, match="10000 separate pieces"):
        find_lesions(mask, (1, 1, 1))


@pytest.mark.parametrize("name", ["min_volume_mm3", "merge_distance_mm"])
def test_negative_limits_are_refused(name):
    """Volumes and distances are not below 0."""
    with pytest.raises(ValueError, match=f"'{name}' must be at least 0"):
        find_lesions(np.ones((3, 4, 5), bool), (1, 1, 1), **{name: -1})


def test_ragged_masks_are_fast():
    """A head-sized mask of 64 ragged pieces takes seconds at most, on any machine."""
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256, 155), bool)
    corners = [(x, y, z) for x in (20, 80, 140, 200) for y in (20, 80, 140, 200) for z in (10, 50, 90, 130)]
    for x, y, z in corners:
        blob = ndimage.gaussian_filter(rng.standard_normal((24, 24, 12)), 2) > -0.02
        mask[x : x + 24, y : y + 24, z : z + 12] = blob
    start = time.perf_counter()
    boxes = find_lesions(mask, (1, 1, 1), merge_distance_mm=10)
    assert time.perf_counter() - start < 10
    assert len(boxes) == 64


def test_tumors_from_case_are_named_and_measured(make_case):
    """Tumors are numbered by size, carry labels and metadata, and their measures need no second reading."""
    case = make_case("sub-01", ellipsoids=TWO)
    cohort = tumors_from_case(case, labels={"type": "glioma"}, metadata={"visit": 1})
    assert cohort.tumor_ids.tolist() == ["sub-01/1", "sub-01/2"]
    assert cohort[0].bbox.tolist() == [[10, 13, 15], [19, 22, 26]]
    assert cohort.labels["type"].tolist() == ["glioma", "glioma"]
    assert cohort[0].metadata["visit"] == 1 and cohort[0].metadata["measured_from"] == "mask"
    plain = Cohort(Tumor(case, t.bbox, tumor_id=t.tumor_id, labels=t.labels) for t in cohort)
    pd.testing.assert_frame_equal(cohort.table.drop(columns=["visit", "tumors_in_scan"]), plain.table)
    assert cohort.table["tumors_in_scan"].tolist() == [2, 2]


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "ASL"])
def test_lesions_do_not_depend_on_storage(make_case, orientation):
    """The same scan stored otherwise has the same tumors, of the same size at the same place."""
    one = tumors_from_case(make_case(ellipsoids=TWO)).table[list(MEASURES)]
    other = tumors_from_case(make_case(ellipsoids=TWO, orientation=orientation)).table[list(MEASURES)]
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)  # float32 affines


def test_by_value_makes_one_lesion_a_value(make_case):
    """Touching tumors of two values stay apart, pieces of one value together; the number is the value."""
    ellipsoids = (((5, 6, 7), (3, 3, 3)), ((9, 6, 7), (3, 3, 3)), ((14, 17, 20), (3, 3, 3)))
    case = make_case(ellipsoids=ellipsoids, values=(2, 5, 2))
    assert len(tumors_from_case(case)) == 2
    cohort = tumors_from_case(case, by_value=True)
    assert cohort.tumor_ids.tolist() == ["scan/2", "scan/5"]
    mask = case.load_mask()
    for tumor, value in zip(cohort, (2, 5), strict=True):
        assert tumor.mask_value == str(value)
        assert tumor.load_mask().sum() == (mask == value).sum()
    assert tumors_from_case(case, by_value=True, mask_value=5).tumor_ids.tolist() == ["scan/5"]


def test_tumors_from_case_names_the_case(make_case):
    """Without a mask, or with none of its values, the error names the case and the values there are."""
    with pytest.raises(GeometryError, match="'scan' needs a mask or a box"):
        tumors_from_case(make_case(with_mask=False))
    with pytest.raises(GeometryError, match=r"'scan' has no voxel of value 4\. Got values 0, 1\."):
        tumors_from_case(make_case(), mask_value=4)
    with pytest.warns(UserWarning, match="lesion of case 'scan' is smaller than 1e\\+06 mm3"):
        assert len(tumors_from_case(make_case(), min_volume_mm3=1e6)) == 1
