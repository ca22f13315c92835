"""Masks that lie on another grid than their image."""

import numpy as np

from tumorsim.exceptions import GridMismatchError
from tumorsim.geometry import check_same_grid

__all__ = ["mask_on_grid"]


def mask_on_grid(mask, mask_affine, shape, affine, *, case_id):
    """Return a mask (nx, ny, nz) of integers on the grid of an image, by nearest neighbor where grids differ.

    Raises
    ------
    GridMismatchError
        If nothing of the mask lies inside the image.
    """
    try:
        check_same_grid(shape, affine, mask.shape, mask_affine, case_id=case_id)
    except GridMismatchError:
        pass
    else:
        return mask
    from scipy.ndimage import affine_transform

    to_mask = np.linalg.inv(mask_affine) @ affine  # voxel of the image → voxel of the mask
    moved = affine_transform(
        mask, to_mask[:3, :3], to_mask[:3, 3], output_shape=shape, order=0, prefilter=False
    )
    if mask.any() and not moved.any():
        raise GridMismatchError(
            f"Nothing of the mask of case '{case_id}' lies inside its image. Check that both are of one scan."
        )
    return moved
