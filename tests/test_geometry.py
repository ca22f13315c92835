"""Affines, boxes and the shape of lesions, against known shapes and against nibabel."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tumorsim import geometry as g
from tumorsim.exceptions import GeometryError, GridMismatchError

SHAPE = (5, 6, 7)
ORIENTATIONS = [
    "".join(sign[i] for i in order)
    for sign in itertools.product("RL", "AP", "SI")
    for order in itertools.permutations(range(3))
]


def affine_of(orientation, spacing=(1.0, 1.5, 2.0), origin=(-3.0, 4.0, 5.0), tilt_deg=0.0):
    """Return an affine whose storage axes point as `orientation` says, tilted about z."""
    axes = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    turn = np.radians(tilt_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.array([axes[c] for c in orientation], float).T * spacing
    affine[:3, 3] = origin
    return affine


affines = st.builds(
    affine_of,
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(0.3, 8)] * 3),
    st.tuples(*[st.floats(-200, 200)] * 3),
    st.floats(-40, 40),
)


@st.composite
def boxes(draw, shape=SHAPE):
    """Draw a non-empty box inside `shape`."""
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    return np.array([start, stop])


def test_there_are_48_orientations():
    """All signs and orders of three axes are tested below."""
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_to_ras_agrees_with_nibabel(orientation):
    """Array, shape and affine equal those of nibabel's closest canonical image."""
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    affine = affine_of(orientation, tilt_deg=20)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int32), affine))
    np.testing.assert_array_equal(g.to_ras(array, affine), np.asanyarray(expected.dataobj))
    shape, ras = g.ras_affine(SHAPE, affine)
    assert shape == expected.shape
    assert_allclose(ras, expected.affine, atol=1e-4)  # nibabel stores affines as float32


@given(affines)
@settings(deadline=None)
def test_to_storage_undoes_to_ras(affine):
    """There and back gives the same array."""
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    np.testing.assert_array_equal(g.to_storage(g.to_ras(array, affine), affine), array)


@given(affines, boxes())
@settings(deadline=None)
def test_ras_box_is_the_box_of_the_reordered_mask(affine, box):
    """Moving the box gives what measuring the moved mask gives."""
    mask = np.zeros(SHAPE, bool)
    mask[g.crop_slices(box)] = True
    np.testing.assert_array_equal(g.ras_box(box, SHAPE, affine), g.bbox_from_mask(g.to_ras(mask, affine)))


@given(affines, st.tuples(*[st.integers(0, n - 1) for n in SHAPE]))
@settings(deadline=None)
def test_reordering_moves_no_voxel(affine, voxel):
    """A voxel lies at the same millimetres before and after its axes are reordered."""
    mark = np.zeros(SHAPE, bool)
    mark[voxel] = True
    moved = np.argwhere(g.to_ras(mark, affine))[0]
    _, ras = g.ras_affine(SHAPE, affine)
    before, after = affine @ [*voxel, 1], ras @ [*moved, 1]
    assert_allclose(after, before, atol=1e-9)  # rounding of coordinates below 300 mm
    assert (np.diag(ras)[:3] > 0).all()


@given(st.tuples(*[st.floats(0.3, 8)] * 3), affines)
@settings(deadline=None)
def test_spacing_ignores_orientation(spacing, affine):
    """Spacing is the length of the affine's columns, whatever their direction."""
    rescaled = affine.copy()
    rescaled[:3, :3] *= np.array(spacing) / g.spacing_from_affine(affine)
    assert_allclose(g.spacing_from_affine(rescaled), spacing, rtol=1e-12)
    g.check_affine(rescaled)


@given(boxes(), st.tuples(*[st.floats(0.5, 7)] * 3), st.floats(0.5, 3))
@settings(deadline=None)
def test_box_to_grid_covers_and_is_tight(box, spacing, new):
    """The resampled box holds the old one in millimetres, and less than one voxel more on each side."""
    spacing, new_spacing = np.array(spacing), np.array([new] * 3)
    new_shape = np.ceil(np.array(SHAPE) * spacing / new_spacing - 1e-6).astype(int)
    moved = g.box_to_grid(box, spacing, new_spacing, new_shape)
    assert moved.dtype == np.int64
    assert (moved[0] >= 0).all() and (moved[1] <= new_shape).all() and (moved[0] < moved[1]).all()
    edges = box[1] * spacing / new_spacing
    slack = (1e-5 + 16 * np.finfo(np.float32).eps * edges) * new_spacing  # what headers in float32 lose
    assert (moved[0] * new_spacing <= box[0] * spacing + slack).all()
    assert (moved[1] * new_spacing >= box[1] * spacing - slack).all()
    assert (moved[0] * new_spacing > box[0] * spacing - new_spacing - slack).all()
    assert (moved[1] * new_spacing < box[1] * spacing + new_spacing + slack).all()


@given(boxes(), st.integers(-8, 8), st.integers(-8, 8))
@settings(deadline=None)
def test_box_on_the_grid_stays_there_in_float32(box, more, less):
    """Edges on the grid stay on it when both spacings are some float32 roundings off."""
    eps = np.finfo(np.float32).eps
    spacing, new_spacing = np.full(3, 3.0) * (1 + more * eps), np.full(3, 0.5) * (1 + less * eps)
    found = g.box_to_grid(box, spacing, new_spacing, np.array(SHAPE) * 6)
    np.testing.assert_array_equal(found, box * 6)


@given(boxes())
def test_box_to_the_same_grid_stays(box):
    """Resampling to the same spacing changes no box, rounding or not."""
    spacing = np.array([0.1, 0.3, 0.7])
    np.testing.assert_array_equal(g.box_to_grid(box, spacing, spacing, SHAPE), box)


@given(boxes())
def test_bbox_from_mask_finds_the_box(box):
    """Two opposite corners suffice to give the whole box."""
    mask = np.zeros(SHAPE, bool)
    mask[tuple(box[0])] = mask[tuple(box[1] - 1)] = True
    found = g.bbox_from_mask(mask)
    np.testing.assert_array_equal(found, box)
    assert found.dtype == np.int64


def test_bbox_of_nothing_is_an_error():
    """An empty mask has no box."""
    with pytest.raises(ValueError, match="at least one foreground voxel"):
        g.bbox_from_mask(np.zeros((7, 8, 9), bool))


def test_select_mask_takes_values_above_zero():
    """'>0' leaves out background and negative marks; values select exactly themselves."""
    mask = np.array([-1, 0, 1, 2, 3], np.int16)
    assert g.select_mask(mask, None).tolist() == [False, False, True, True, True]
    assert g.select_mask(mask, (1, 3)).tolist() == [False, False, True, False, True]
    assert g.select_mask(mask, ">0").tolist() == g.select_mask(mask, None).tolist()
    assert g.select_mask(mask, "1+3").tolist() == g.select_mask(mask, (1, 3)).tolist()
    assert not g.select_mask(mask.astype(np.uint8), (300,)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:3], "4 x 4"),
        (lambda a: np.where(np.eye(4) == 1, np.nan, a), "finite"),
        (lambda a: a * [0, 1, 1, 1], "zero spacing"),
        (lambda a: a + np.array([[0, 0.05, 0, 0]] + [[0] * 4] * 3), "sheared by 1.91 degrees"),
        (lambda a: a + np.array([[0] * 4] * 3 + [[1, 0, 0, 0]]), "last row"),
    ],
)
def test_check_affine_says_what_is_wrong(change, message):
    """An affine that maps no voxels to a rectangular grid is refused."""
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    g.check_affine(affine)
    with pytest.raises(GeometryError, match=message):
        g.check_affine(change(affine))


def test_check_same_grid_measures_at_the_far_corner():
    """A small rotation counts by what it does at the far end of the image, in millimetres."""
    affine, other = np.eye(4), np.eye(4)
    other[0, 2] = 0.001  # 1 mm at 1000 voxels
    g.check_same_grid((5, 6, 10), affine, (5, 6, 10), other, case_id="a")
    with pytest.raises(GridMismatchError, match=r"case 'a' lie on different grids: .* differ by 1\.00 mm"):
        g.check_same_grid((5, 6, 1001), affine, (5, 6, 1001), other, case_id="a")
    with pytest.raises(GridMismatchError, match=r"different shapes: \(5, 6, 7\) and \(5, 7, 6\)"):
        g.check_same_grid((5, 6, 7), affine, (5, 7, 6), affine, case_id="a")


def ellipsoid(radii_mm, spacing, shape=(48, 50, 52)):
    """Return a mask of an ellipsoid in the middle of a grid."""
    grid = (np.indices(shape).reshape(3, -1).T - (np.array(shape) - 1) / 2) * spacing / radii_mm
    return (np.linalg.norm(grid, axis=1) <= 1).reshape(shape)


def test_shape_of_a_ball():
    """A ball of radius 10 mm has its volume, diameter, sphericity and elongation."""
    shape = g.lesion_shape(ellipsoid((10, 10, 10), (1, 1, 1)), (1, 1, 1))
    assert_allclose(shape["volume_mm3"], 4 / 3 * np.pi * 1000, rtol=0.01)  # voxels on the edge: below 1 %
    assert_allclose(
        shape["diameter_mm"], 20, atol=1.8
    )  # to the outer corners of voxels: up to sqrt(3) mm more
    assert_allclose(shape["sphericity"], 1, atol=0.02)  # Crofton's estimate is good to 1 % at this size
    assert_allclose(shape["elongation"], 1, atol=1e-3)  # symmetric up to the grid's unequal sides


def test_shape_of_an_ellipsoid_follows_its_axes():
    """Elongation is the ratio of the two longest axes, diameter the longest, on an uneven grid too."""
    spacing = (0.8, 1.0, 2.0)
    shape = g.lesion_shape(ellipsoid((8, 12, 20), spacing), spacing)
    assert_allclose(shape["volume_mm3"], 4 / 3 * np.pi * 8 * 12 * 20, rtol=0.02)
    assert_allclose(shape["elongation"], 12 / 20, rtol=0.03)  # thick voxels blur the long axis
    assert_allclose(shape["diameter_mm"], 40, atol=2.5)  # one voxel diagonal


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.94, 0.94, 6.5)])
@pytest.mark.parametrize("radii", [(10, 10, 10), (15, 15, 15), (10, 15, 20)])
def test_sphericity_holds_on_thick_slices(radii, spacing):
    """A lesion's sphericity is that of its ellipsoid, whether slices are thin or thick."""
    a, b, c = radii
    p = 1.6075  # Knud Thomsen's formula for the surface of an ellipsoid, good to 1.1 %
    surface = 4 * np.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    expected = np.pi ** (1 / 3) * (6 * 4 / 3 * np.pi * a * b * c) ** (2 / 3) / surface
    measured = g.lesion_shape(ellipsoid(radii, spacing), spacing)["sphericity"]
    assert_allclose(measured, expected, atol=0.06)  # steps of 6.5 mm on a lesion of 20 mm


def test_one_slice_is_no_ball():
    """A disk one voxel thick has about the sphericity of a flat cylinder."""
    disk = ellipsoid((15, 15, 1), (1, 1, 1), (40, 41, 3))
    disk[..., [0, 2]] = False
    volume, surface = np.pi * 15**2, 2 * np.pi * 15**2 + 2 * np.pi * 15
    expected = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    measured = g.lesion_shape(disk, (1, 1, 1))["sphericity"]
    assert_allclose(measured, expected, rtol=0.15)  # axis-parallel faces count 7 % low, a one-voxel rim more


@given(st.tuples(*[st.floats(0.3, 10)] * 3))
@settings(deadline=None)
def test_shape_is_finite_on_any_spacing(spacing):
    """However uneven the voxels, a lesion's measures are finite and within their bounds."""
    mask = np.zeros((7, 8, 9), bool)
    mask[2:5, 1:6, 3:8] = True
    shape = g.lesion_shape(mask, spacing)
    assert_allclose(shape["volume_mm3"], 75 * np.prod(spacing))
    assert 0 < shape["sphericity"] <= 1 and 0 < shape["elongation"] <= 1
    assert_allclose(shape["diameter_mm"], np.linalg.norm(np.array([3, 5, 5]) * spacing))


def test_a_stick_is_less_spherical_than_a_ball():
    """Sphericity and elongation fall from ball to stick, and stay within their bounds."""
    stick = np.zeros((40, 7, 9), bool)
    stick[2:38, 3, 4] = True
    long, ball = g.lesion_shape(stick, (1, 1, 1)), g.lesion_shape(ellipsoid((8, 8, 8), (1, 1, 1)), (1, 1, 1))
    assert long["sphericity"] < 0.7 < ball["sphericity"] <= 1
    assert 0 < long["elongation"] < 0.05 < ball["elongation"] <= 1


@pytest.mark.parametrize("voxels", [[(3, 3, 3)], [(3, 3, 3), (4, 4, 4)], [(1, 2, z) for z in range(6)]])
def test_shape_of_a_few_voxels_is_finite(voxels):
    """The smallest lesions have a shape too, and volume is exact."""
    mask = np.zeros((7, 8, 9), bool)
    mask[tuple(np.array(voxels).T)] = True
    shape = g.lesion_shape(mask, (1, 2, 3))
    assert shape["volume_mm3"] == 6 * len(voxels)
    assert np.isfinite(list(shape.values())).all()
    assert 0 < shape["sphericity"] <= 1 and 0 < shape["elongation"] <= 1


@given(st.sampled_from(ORIENTATIONS))
@settings(deadline=None, max_examples=10)
def test_shape_does_not_depend_on_storage(orientation):
    """The same lesion stored along other axes measures the same."""
    spacing = np.array([1.0, 1.5, 2.0])
    mask = ellipsoid((4, 6, 9), spacing, (12, 14, 16))
    mask[:4, :5, 3] = True  # a spur breaks the symmetry
    affine = affine_of(orientation)
    permutation, _ = g.ras_permutation(affine)
    turned = g.lesion_shape(g.to_ras(mask, affine), spacing[permutation])
    for name, value in g.lesion_shape(mask, spacing).items():
        assert_allclose(turned[name], value, rtol=1e-9, err_msg=name)  # order of summation


def ring(radius, core_share, spacing=(1, 1, 1), *, noise=0.0):
    """Return image, mask and spacing of a ring of 2 around a core of 0.5 in a brain of 1.

    Voxels are means of finer ones, as of a scanner; the mask holds those of which half is lesion.
    """
    spacing = np.array(spacing, float)
    fine = np.maximum(1, np.round(3 * spacing)).astype(int)  # per voxel: about three per mm
    shape = np.ceil(2 * (radius + 10) / spacing).astype(int)
    axes = [
        (np.arange(n * f) + 0.5) * s / f - n * s / 2 + off
        for n, f, s, off in zip(shape, fine, spacing, (0.13, -0.21, 0.37), strict=True)
    ]
    far = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))

    def scanned(array):
        return array.reshape(np.stack([shape, fine], axis=1).ravel()).mean(axis=(1, 3, 5))

    inner = radius * core_share ** (1 / 3)
    image = scanned(np.where(far < inner, 0.5, np.where(far < radius, 2.0, 1.0)))
    image += noise * np.random.default_rng(0).normal(size=image.shape)
    return image, scanned(far < radius) >= 0.5, spacing


def enhancement_of(image, mask, spacing):
    """Return contrast, rim fraction and necrotic share; all around is brain."""
    return np.array(list(g.lesion_enhancement(image, mask, spacing, brain=~mask).values()))


def truth_of(core_share):
    """Return the three of a ring by hand: all that enhances lies in what the core leaves."""
    return np.array([2 - 1.5 * core_share, min(1, 0.5 / (1 - core_share)), core_share])


@given(st.floats(8, 13), st.floats(0, 0.8), st.floats(1e-3, 1e4))
@settings(max_examples=15, deadline=None)
def test_enhancement_of_a_ring_is_that_of_its_core_share(radius, core_share, scale):
    """At 1 mm: edges that voxels share with the brain take 0.06 of the contrast."""
    if core_share < 0.02:  # a core of a few voxels is blurred away
        core_share = 0.0
    image, mask, spacing = ring(radius, core_share, noise=0.03)
    found = enhancement_of(image, mask, spacing)
    assert (np.abs(found - truth_of(core_share)) <= (0.06, 0.04, 0.03)).all()
    assert_allclose(enhancement_of(scale * image, mask, spacing), found, rtol=1e-6)


@pytest.mark.parametrize("core_share", [0.0, 0.1, 0.4, 0.8])
def test_enhancement_of_a_large_ring_needs_not_every_voxel(core_share):
    """42 mm across at 1 mm: every second voxel is looked at, and the truth is as near."""
    found = enhancement_of(*ring(21, core_share, noise=0.03))
    assert (np.abs(found - truth_of(core_share)) <= (0.06, 0.04, 0.03)).all()


@pytest.mark.parametrize("core_share", [0.0, 0.1, 0.25, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("radius", [8, 12, 20])
def test_enhancement_bears_thick_slices(radius, core_share):
    """Slices of 5 mm blur a ball of 16 mm most: 0.2 of the contrast, a tenth of rim and necrosis."""
    found = enhancement_of(*ring(radius, core_share, (1, 1, 5), noise=0.03))
    assert (np.abs(found - truth_of(core_share)) <= (0.2, 0.1, 0.13)).all()


def test_a_mask_of_the_rim_measures_as_one_of_the_whole():
    """The core that a rim encloses belongs to the lesion, whether the mask has it or not."""
    image, mask, spacing = ring(10, 0.4)
    rim = mask & (image > 1.5)
    assert rim.sum() < 0.7 * mask.sum()
    assert_allclose(enhancement_of(image, rim, spacing), enhancement_of(image, mask, spacing), atol=0.02)


def test_what_does_not_enhance_has_neither_rim_nor_necrosis():
    """Darker than the brain throughout, in noise: a contrast, and nothing to compare the dark with."""
    image, mask, spacing = ring(10, 0, noise=0.03)
    contrast, *others = enhancement_of(np.where(mask, image - 1.3, image), mask, spacing)
    assert contrast == pytest.approx(0.7, abs=0.06) and np.isnan(others).all()


def test_surrounding_brain_is_what_the_caller_says():
    """A bright lesion beside it, left out, changes nothing; without any brain nothing is known."""
    image, mask, spacing = ring(10, 0)
    other = ~mask & (np.arange(len(image)) < 18)[:, None, None]
    image = np.where(other, 5.0, image)
    found = g.lesion_enhancement(image, mask, spacing, brain=~mask & ~other)
    assert found["contrast"] == pytest.approx(2, abs=0.06)
    for lesion in (mask, np.zeros_like(mask)):
        assert np.isnan(list(g.lesion_enhancement(image, lesion, spacing, brain=mask).values())).all()
