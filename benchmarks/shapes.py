"""Depths in a mask and boxes from edges in voxels."""

import numpy as np

__all__ = ["depth_inside", "rounded_box"]


def depth_inside(mask, spacing):
    """Return mm from each voxel of a mask to the nearest one outside, 0 outside; beyond the array is outside.

    Parameters
    ----------
    mask : ndarray of shape (nx, ny, nz), dtype=bool
    spacing : array-like of shape (3,)
        Millimetres per voxel.

    Returns
    -------
    ndarray of shape (nx, ny, nz), dtype=float64
    """
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]


def rounded_box(edges, shape):
    """Round edges (2, 3) in voxels to a box of at least one voxel per side inside `shape`; int64 (2, 3)."""
    start = np.clip(np.round(edges[0]), 0, np.array(shape) - 1)
    return np.stack([start, np.clip(np.round(edges[1]), start + 1, shape)]).astype(np.int64)
