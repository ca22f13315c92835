"""Arrays stored along other axes, and masks of ellipsoids."""

import nibabel as nib
import numpy as np


def reorder(array, affine, orientation):
    """Return an array and its affine stored along other axes, by nibabel: 'LAS', 'PIR' and so on."""
    image = nib.Nifti1Image(array, affine)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(orientation))
    )
    image = image.as_reoriented(change)
    return np.asanyarray(image.dataobj), image.affine


def ellipsoid_mask(shape, ellipsoids, values=None):
    """Return a uint8 mask of ellipsoids (center, radii) in voxels; `values` default to 1."""
    grid = np.indices(shape)
    mask = np.zeros(shape, np.uint8)
    for i, (center, radii) in enumerate(ellipsoids):
        scaled = [(g - c) / r for g, c, r in zip(grid, center, radii, strict=True)]
        mask[sum(s * s for s in scaled) <= 1] = 1 if values is None else values[i]
    return mask
