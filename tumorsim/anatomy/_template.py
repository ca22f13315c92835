"""The MNI152 template as a registration sees it: what is there at each place, and points to compare."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from tumorsim.geometry import spacing_from_affine
from tumorsim.preprocessing import resample

__all__ = ["BRAIN", "CENTER", "SCALE", "coarsen", "load_template", "tissue_points"]

CENTER = np.array([0.0, -16.0, 10.0])  # MNI mm, middle of the brain
SCALE = 1.05  # MNI mm a mm of an average person
_SHELLS_MM = (0, 4, 8, 12, 16, 20, 28, 36)  # outside the brain: fluid, bone, marrow, scalp, air, or nothing
BRAIN = 4  # column of `tissue_points`
_FACE_MM = -20.0  # MNI z below which only the first shells are compared: faces and necks differ


@lru_cache(maxsize=1)
def load_template():
    """Return T1 (stripped), gray and white matter and brain mask, each (197, 233, 189), and the affine."""
    from nilearn import datasets

    names = ("template", "gm_template", "wm_template", "brain_mask")
    images = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    return [np.asarray(i.dataobj, dtype=np.float32) for i in images], np.asarray(images[0].affine, float)


@lru_cache(maxsize=1)
def _template_maps():
    """Return T1, gray and white matter, brain and shells round the brain on 2 mm voxels, and their affine."""
    from scipy.ndimage import distance_transform_edt

    arrays, affine = load_template()
    pad = _SHELLS_MM[-1]
    moved = affine.copy()
    moved[:3, 3] -= pad
    maps, affines = zip(*(coarsen(np.pad(array, pad), moved, 2.0) for array in arrays), strict=True)
    outside = distance_transform_edt(maps[3] < 0.5, sampling=2.0)
    shells = [((outside > low) & (outside <= high)).astype(np.float32) for low, high in pairwise(_SHELLS_MM)]
    return [*maps, *shells], affines[0]


@lru_cache(maxsize=4)
def tissue_points(spacing):
    """Return points (n, 3) in MNI mm where scans are compared, and what is there (n, 12)."""
    fine, affine = _template_maps()
    maps, affines = zip(*(coarsen(array, affine, spacing) for array in fine), strict=True)
    z = affines[0][2, 3] + spacing * np.arange(maps[0].shape[2])
    near = (sum(maps[3:6]) > 0.5) | ((sum(maps[3:]) > 0.5) & (z > _FACE_MM))
    index = np.argwhere(near)
    columns = [np.ones(len(index)), *(array[tuple(index.T)] for array in maps)]
    return index @ affines[0][:3, :3].T + affines[0][:3, 3], np.stack(columns, axis=1).astype(np.float64)


def coarsen(array, affine, spacing):
    """Resample an array in RAS+ order to voxels of at least `spacing` mm; returns it and its affine."""
    old = spacing_from_affine(affine)
    new = np.maximum(old, spacing)
    shape = tuple(int(n) for n in np.maximum(1, np.ceil(np.array(array.shape) * old / new - 1e-3)))
    axes = affine[:3, :3] / old
    moved = np.eye(4)
    moved[:3, :3] = axes * new
    moved[:3, 3] = affine[:3, 3] + axes @ ((new - old) / 2)
    return resample(array, old, new, shape), moved
