"""What an embedder must beat: volume and place, intensity figures, radiomics."""

import importlib.util
import logging

import numpy as np
import phantoms
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.baselines import intensity_features, radiomics_features, volume_place_features
from benchmarks.label_free import head_center
from tumorsim import Case, Cohort, Tumor, make_cohort
from tumorsim.exceptions import GeometryError

HAS_MIRP = importlib.util.find_spec("mirp") is not None
needs_mirp = pytest.mark.skipif(not HAS_MIRP, reason="radiomics need mirp, an extra")

LESIONS = [("meningioma", (12, 20, 17), (4, 5, 3)), ("metastasis", (27, 22, 16), (5, 4, 5))]
FUNCTIONS = [
    volume_place_features,
    intensity_features,
    pytest.param(radiomics_features, marks=[needs_mirp, pytest.mark.slow]),
]


def scaled(tumors, factor):
    """Return the tumors of one scan in an image `factor` times as bright."""
    old = tumors[0].case
    case = Case((factor * old.image[0], old.image[1]), old.mask, case_id="bright", patient_id=old.patient_id)
    return [Tumor(case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value) for t in tumors]


def box_phantom(spacing, inside=300.0):
    """Return a tumor of 6 × 8 × 4 voxels in the middle of a box-shaped head of 100, and what it is cut of.

    The tumor's inner 2 × 4 × 4 voxels are 50.
    """
    image, mask = np.zeros((40, 44, 24), np.float32), np.zeros((40, 44, 24), np.uint8)
    image[5:35, 6:38, 2:22] = 100
    image[17:23, 18:26, 10:14], mask[17:23, 18:26, 10:14] = inside, 2
    image[19:21, 20:24, 10:14] = 50
    affine = np.diag([*spacing, 1.0])
    return Tumor(
        Case((image, affine), (mask, affine), case_id="box", patient_id="box"),
        [(17, 18, 10), (23, 26, 14)],
        tumor_id="box/1",
        mask_value=2,
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_storage_axes_change_nothing(function):
    """The same scan stored along other axes gives the same figures, on unequal voxel sides."""
    affine = phantoms.affine_of((2.0, 1.5, 3.0))
    plain = function(phantoms.scan("a", LESIONS, affine=affine))
    turned = function(phantoms.scan("a", LESIONS, affine=affine, orientation="PIL"))
    assert plain.dtype == np.float64
    assert np.isfinite(plain).all()
    assert_allclose(turned, plain, rtol=1e-6, atol=1e-9)  # sums in another order


@pytest.mark.parametrize("function", FUNCTIONS[:2])
def test_brightness_changes_nothing(function):
    """Another unit of intensity gives the same figures."""
    tumors = phantoms.scan("a", LESIONS)
    assert_allclose(function(scaled(tumors, 7.0)), function(tumors), rtol=1e-4, atol=1e-5)  # float32 images


@pytest.mark.parametrize("function", FUNCTIONS[:2])
def test_rows_stand_for_themselves(function):
    """Rows follow the order given, and the company of other tumors changes nothing."""
    cohort = make_cohort(3, random_state=2, spacing=4.0)
    together = function(cohort)
    assert len(together) == len(cohort) > 1
    order = np.arange(len(cohort))[::-1]
    assert_array_equal(function(cohort[order]), together[order])
    assert_array_equal(function([cohort[0]]), together[:1])


def test_volume_and_place_by_hand():
    """Volume is that of the voxels; the centroid is in units of 20 mm from the head's center, RAS+."""
    spacing = np.array([1.0, 2.0, 3.0])
    tumor = box_phantom(spacing)
    found = volume_place_features([tumor])[0]
    diameter = (6 / np.pi * 6 * 8 * 4 * 6.0) ** (1 / 3)
    head = np.array([19.5, 21.5, 11.5]) * spacing  # the box of 5:35, 6:38, 2:22
    center = np.array([19.5, 21.5, 11.5]) * spacing  # the tumor's
    assert_allclose(head_center(tumor.case), head)
    assert_allclose(found, [np.log2(diameter), *((center - head) / 20)], atol=1e-12)


def test_place_is_signed_and_volume_counts_doublings():
    """A tumor to the right has positive x; radii twice as long add 1 to the first column."""
    right, left = ("meningioma", (28, 22, 17), (6, 6, 6)), ("meningioma", (11, 22, 17), (3, 3, 3))
    large, small = volume_place_features(phantoms.scan("a", [right, left]))
    assert large[1] > 0 > small[1]
    assert_allclose(large[1] - small[1], 17 * 2.0 / 20, atol=1e-6)  # 17 voxels of 2 mm
    assert_allclose(large[0] - small[0], 1, atol=0.1)  # balls of 3 and 6 voxels are not round


def test_volume_and_place_need_no_mask():
    """Without a mask both are those of the box."""
    (tumor,) = phantoms.scan("a", LESIONS[:1], with_mask=False)
    masked = volume_place_features(phantoms.scan("a", LESIONS[:1]))
    boxed = volume_place_features([tumor])
    assert_allclose(boxed[:, 1:], masked[:, 1:], atol=1e-6)
    assert_allclose(boxed[:, 0], masked[:, 0], atol=0.3)  # an ellipsoid in its box of whole voxels


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 7.0), (4.0, 4.0, 4.0), (1.0, 1.0, 1.0)])
def test_intensity_by_hand(spacing):
    """Mean, spread and percentiles of 160 voxels of 3 and 32 of 0.5; the rim is 2 mm, or one voxel."""
    found = intensity_features([box_phantom(spacing)])[0]
    values = np.array([3.0] * 160 + [0.5] * 32)
    # the median is taken of all of the head's middle, hence not of the tumor; 1e-6: float32
    assert_allclose(found[:2], [values.mean(), values.std()], rtol=1e-6)
    assert_allclose(found[3:], np.percentile(values, (10, 90)), rtol=1e-6)
    if spacing[2] == 7:  # rim of two voxels in the slices: core is all dark
        assert_allclose(found[2], 3 - 0.5, rtol=1e-6)
    elif spacing[2] == 4:  # core of 4 × 6 × 2 voxels, 16 of them dark
        core = (32 * 3 + 16 * 0.5) / 48
        assert_allclose(found[2], (values.sum() - 48 * core) / 144 - core, rtol=1e-5)
    else:  # two voxels from every side: no core, as the tumor is four slices thick
        assert_allclose(found[2], 0, atol=1e-6)


def test_masks_of_neighbors_do_not_count():
    """A tumor's figures are of its own voxels, even where another lesion reaches into its box."""
    lesions = [("meningioma", (16, 20, 17), (5, 5, 5)), ("metastasis", (22, 24, 17), (4, 4, 4))]
    tumors = phantoms.scan("a", lesions)
    assert (tumors[0].case.load_image()[tumors[0].case.load_mask() == 2] < 100).any()
    assert_allclose(
        intensity_features(tumors)[0, 1], 0, atol=1e-4
    )  # evenly bright; the other has a dark core


@pytest.mark.parametrize("function", [intensity_features, pytest.param(radiomics_features, marks=needs_mirp)])
def test_what_cannot_be_measured_is_named(function):
    """A missing mask and a mask without the tumor's value are refused by name."""
    with pytest.raises(ValueError, match="Case 'a' has none; leave out tumor 'a/1'"):
        function(phantoms.scan("a", LESIONS, with_mask=False))
    (tumor,) = phantoms.scan("a", LESIONS[:1])
    with pytest.raises(GeometryError, match="no voxel of value 9 in the box of tumor 'a/9'"):
        function([Tumor(tumor.case, tumor.bbox, tumor_id="a/9", mask_value=9)])


def test_unknown_library_is_refused():
    """Only mirp is known."""
    with pytest.raises(ValueError, match=r"'library' must be 'mirp'\. Got 'pyradiomics'"):
        radiomics_features([], library="pyradiomics")


@pytest.mark.skipif(HAS_MIRP, reason="mirp is installed")
def test_missing_library_is_explained():
    """Without mirp the message says what to install."""
    with pytest.raises(ImportError, match=r"pip install '\.\[radiomics\]'"):
        radiomics_features(phantoms.scan("a", LESIONS))


@needs_mirp
@pytest.mark.slow
def test_radiomics_have_the_same_columns_for_every_tumor(capsys):
    """A lesion of one voxel has all columns, none infinite; nothing is printed, logging is left alone."""
    handlers = list(logging.getLogger().handlers)
    speck = ("meningioma", (20, 30, 17), (0.5, 0.5, 0.5))
    tumors = Cohort(phantoms.scan("a", [*LESIONS, speck]))
    features = radiomics_features(tumors)
    assert features.shape[0] == 3
    assert features.shape[1] > 150
    assert np.isfinite(features).all()
    assert_array_equal(radiomics_features([tumors[1]])[0], features[1])
    assert logging.getLogger().handlers == handlers
    assert capsys.readouterr().out == ""
