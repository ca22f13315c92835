"""Volume → picture arrays: which voxel lands on which pixel."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tumorsim.geometry import ras_affine, ras_box, to_ras
from tumorsim.rendering import PLANES, display_window, find_background, orthogonal_slices, scale_bar_mm


def _volume():
    """Return an image of distinct voxels, shape (7, 8, 9)."""
    return np.arange(7 * 8 * 9, dtype=np.float32).reshape(7, 8, 9)


def test_pixels_are_voxels_in_radiological_order():
    """At one pixel a voxel each plane is the plain slice, with right, anterior or superior at its start."""
    image = _volume()
    pictures = orthogonal_slices(image, (3, 4, 4), (1, 1, 1), 7, n_pixels=7, window=(0, 255))
    gray = np.minimum(image, 255)
    assert_array_equal(pictures["axial"].pixels, gray[::-1, 1:8, 4][:, ::-1].T)
    assert_array_equal(pictures["coronal"].pixels, gray[::-1, 4, 1:8][:, ::-1].T)
    assert_array_equal(pictures["sagittal"].pixels, gray[3, 1:8, 1:8][::-1, ::-1].T)
    assert [pictures[p].marks for p in PLANES] == ["RLAP", "RLSI", "APSI"]


def test_left_of_the_patient_is_on_the_right():
    """A spot at the patient's left, front and top shows right and up; in the sagittal plane left and up."""
    image = np.zeros((20, 20, 20))
    image[2, 16, 17] = 1
    pictures = orthogonal_slices(image, (2, 16, 17), (1, 1, 1), 20, n_pixels=20, window=(0, 1))
    for picture in pictures.values():  # the lesion itself is always in the middle
        assert picture.pixels[9:11, 9:11].max() > 0
    middle = {"axial": (9.5, 9.5, 17), "coronal": (9.5, 16, 9.5), "sagittal": (2, 9.5, 9.5)}
    places = {}
    for plane, center in middle.items():
        picture = orthogonal_slices(image, center, (1, 1, 1), 20, n_pixels=20, window=(0, 1))[plane]
        places[plane] = tuple(np.argwhere(picture.pixels > 0).mean(axis=0))
    assert places["axial"] == (3, 17)  # row, column: up, to the right
    assert places["coronal"] == (2, 17)
    assert places["sagittal"] == (2, 3)  # the nose is on the left


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_storage_order_does_not_show(axes):
    """The same scan stored in another axis order gives the same pictures, outlines and boxes."""
    image, affine = _volume(), np.diag([1.0, 2.0, 3.0, 1.0])
    mask = np.zeros(image.shape, np.uint8)
    mask[2:4, 3:6, 4:6] = 1
    stored = nib.Nifti1Image(image, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    )
    stored_mask = nib.Nifti1Image(mask, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    )
    found = np.argwhere(np.asarray(stored_mask.dataobj))
    bbox = np.stack([found.min(axis=0), found.max(axis=0) + 1])
    _, new_affine = ras_affine(stored.shape, stored.affine)
    args = [
        to_ras(np.asarray(stored.dataobj), stored.affine),
        (3, 4, 4),
        np.linalg.norm(new_affine[:3, :3], axis=0),
    ]
    seen = orthogonal_slices(
        *args,
        30,
        mask=to_ras(np.asarray(stored_mask.dataobj), stored.affine) > 0,
        bbox=ras_box(bbox, stored.shape, stored.affine),
        n_pixels=30,
    )
    expected = orthogonal_slices(
        image, (3, 4, 4), (1, 2, 3), 30, mask=mask > 0, bbox=[(2, 3, 4), (4, 6, 6)], n_pixels=30
    )
    for plane in PLANES:
        assert_array_equal(seen[plane].pixels, expected[plane].pixels)
        assert_array_equal(seen[plane].mask, expected[plane].mask)
        assert_allclose(seen[plane].box, expected[plane].box)


def test_outline_has_the_lesions_size_on_thick_slices():
    """A box-shaped lesion on 1 x 1 x 6 mm voxels covers exactly its millimetres in every plane."""
    mask = np.zeros((40, 40, 10), bool)
    mask[10:20, 12:30, 4:6] = True  # 10 x 18 x 12 mm
    pictures = orthogonal_slices(
        mask.astype(float),
        (14.5, 20.5, 4.5),
        (1, 1, 6),
        60,
        mask=mask,
        bbox=[(10, 12, 4), (20, 30, 6)],
        n_pixels=120,
    )
    areas = {plane: picture.mask.sum() * picture.pixel_mm**2 for plane, picture in pictures.items()}
    assert areas == {"axial": 180.0, "coronal": 120.0, "sagittal": 216.0}
    for picture in pictures.values():
        rows, columns = np.flatnonzero(picture.mask.any(axis=1)), np.flatnonzero(picture.mask.any(axis=0))
        assert_allclose(picture.box, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=1e-9)


def test_a_plane_is_never_a_blend_of_two_slices():
    """Between two thick slices the nearer one is shown, for image and mask alike."""
    image = np.zeros((9, 9, 4))
    image[..., 2] = 100
    mask = image > 0
    picture = orthogonal_slices(image, (4, 4, 1.6), (1, 1, 7), 9, mask=mask, n_pixels=9, window=(0, 100))[
        "axial"
    ]
    assert (picture.pixels == 255).all() and picture.mask.all()


def test_coarse_pixels_average_the_voxels_under_them():
    """A checkerboard finer than the pixels is gray, not an alias of itself."""
    image = np.indices((64, 64, 64)).sum(axis=0) % 2
    picture = orthogonal_slices(image, (31.5, 31.5, 31.5), (1, 1, 1), 64, n_pixels=16, window=(0, 1))["axial"]
    assert_allclose(picture.pixels, 127.5, atol=1)  # rounding to 8 bit


def test_planes_may_cut_elsewhere_than_in_the_middle():
    """`through` chooses the slice, `center` stays in the middle of the picture."""
    image = _volume()
    args = {"n_pixels": 7, "window": (0, 503)}
    moved = orthogonal_slices(image, (3, 4, 4), (1, 1, 1), 7, through=(3, 4, 6), **args)["axial"]
    assert_array_equal(
        moved.pixels, orthogonal_slices(image, (3, 4, 6), (1, 1, 1), 7, **args)["axial"].pixels
    )


def test_outside_the_scan_is_black():
    """Pixels beyond the array are 0 and not part of the lesion."""
    image = np.full((5, 5, 5), 10.0)
    picture = orthogonal_slices(
        image, (2, 2, 2), (1, 1, 1), 15, mask=np.ones((5, 5, 5), bool), n_pixels=15, window=(0, 10)
    )["coronal"]
    assert picture.pixels.sum() == 25 * 255 and picture.mask.sum() == 25
    assert picture.pixels[:5].max() == 0 and not picture.mask[:5].any()


def test_background_of_a_standardized_scan_is_black():
    """Zeros around a brain whose intensities lie on both sides of 0 are shown black."""
    image = np.zeros((16, 16, 16))
    image[4:12, 4:12, 4:12] = np.random.default_rng(0).normal(size=(8, 8, 8))
    assert find_background(image) == 0
    picture = orthogonal_slices(image, (7.5, 7.5, 7.5), (1, 1, 1), 16, n_pixels=16, background=0)["axial"]
    assert picture.pixels[:3].max() == 0
    assert 90 < picture.pixels[4:12, 4:12].mean() < 165


def test_background_of_noise_is_unknown():
    """Where the corners differ there is no value that stands for the surroundings."""
    assert find_background(np.random.default_rng(0).normal(size=(8, 8, 8))) is None


def test_window_of_a_constant_image_is_not_empty():
    """Black stays below white where every voxel is the same."""
    assert display_window(np.full((4, 4), 3.0)) == (3.0, 4.0)
    assert display_window(np.full((4, 4), 3.0), background=3.0) == (3.0, 4.0)


def test_window_ignores_few_extreme_voxels():
    """A handful of very bright voxels does not darken the rest."""
    values = np.linspace(0, 1, 10_000)
    values[:20] = 1e6
    assert display_window(values)[1] < 1.0


@pytest.mark.parametrize(("extent", "length"), [(200, 50), (100, 20), (80, 20), (79, 10), (15, 2), (2, 0.5)])
def test_scale_bar_is_round(extent, length):
    """The bar is 1, 2 or 5 times a power of ten, and at most a quarter of the picture."""
    assert scale_bar_mm(extent) == length


def test_shapes_are_checked():
    """A mask of another shape, or an image that is not 3-D, is refused."""
    with pytest.raises(ValueError, match="image's shape"):
        orthogonal_slices(_volume(), (3, 3, 3), (1, 1, 1), 9, mask=np.ones((2, 2, 2), bool))
    with pytest.raises(ValueError, match="must be 3-D"):
        orthogonal_slices(_volume()[0], (3, 3, 3), (1, 1, 1), 9)
