"""Affines, spacings, boxes and the shape of lesions; arrays in, arrays out."""

import numpy as np

from tumorsim._validation import check_mask_value
from tumorsim.exceptions import GeometryError, GridMismatchError

__all__ = [
    "ENHANCEMENT", "SURROUNDINGS_MM", "bbox_from_mask", "box_to_grid", "check_affine", "check_same_grid",
    "crop_slices", "lesion_enhancement", "lesion_shape", "ras_affine", "ras_box", "ras_permutation",
    "select_mask", "spacing_from_affine", "to_ras", "to_storage", "upper_half",
]  # fmt: skip

ENHANCEMENT = ("contrast", "rim_fraction", "necrotic_share")  # of `lesion_enhancement`
SURROUNDINGS_MM = (3.0, 8.0)  # from a lesion: the brain that it is compared with
_ENHANCES = 1.2  # times the brain, from which on a lesion is said to enhance
_SLACK = 1e-3  # voxels: spacings are products of float32, or differences of positions with three decimals


def check_affine(affine, *, what="image"):
    """Return `affine` as float64 (4, 4), or say why it cannot map voxels to millimetres.

    Raises
    ------
    GeometryError
        If it is not a finite (4, 4) matrix, has an axis of no length, or is sheared by more than
        about 0.1 degree (a gantry tilt, for instance).
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError(f"The affine of {what} must be a finite 4 x 4 matrix. Got {affine.tolist()}.")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        last = affine[3].tolist()
        raise GeometryError(f"The last row of the affine of {what} must be 0 0 0 1. Got {last}.")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-6).any():
        rule = f"The affine of {what} has zero spacing on an axis: {spacing.round(6).tolist()} mm."
        raise GeometryError(f"{rule} Repair the header, for instance from the scanner's slice thickness.")
    axes = affine[:3, :3] / spacing
    angles = np.abs(axes.T @ axes - np.eye(3)).max()
    if angles > 2e-3:  # sine of 0.11 degree: rounding in headers stays below this
        raise GeometryError(
            f"The axes of {what} are sheared by {np.degrees(np.arcsin(min(angles, 1.0))):.2f} degrees "
            "(allowed: 0.1). Resample the scan to a rectangular grid."
        )
    return affine


def spacing_from_affine(affine):
    """Return the voxel's edge lengths in mm, shape (3,), of a (4, 4) affine."""
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def check_same_grid(shape, affine, other_shape, other_affine, *, case_id):
    """Raise ``GridMismatchError`` unless two arrays share shape and, at every corner, position."""
    what = f"Image and mask of case '{case_id}'"
    remedy = "Resample the mask onto the image with nearest-neighbor interpolation."
    if tuple(shape) != tuple(other_shape):
        shapes = f"{tuple(shape)} and {tuple(other_shape)}"
        raise GridMismatchError(f"{what} have different shapes: {shapes}. {remedy}")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    distance = np.linalg.norm(((affine - other_affine) @ corners)[:3], axis=0).max()
    if distance > 0.01:
        how = f"their affines differ by {distance:.2f} mm (allowed: 0.01 mm)"
        raise GridMismatchError(f"{what} lie on different grids: {how}. {remedy}")


def ras_permutation(affine):
    """Return the storage axes (3,), int64, that become R, A and S, and which must be reversed, bool."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine)  # per storage axis: RAS axis and sign
    permutation = np.argsort(orientation[:, 0]).astype(np.int64)
    return permutation, orientation[permutation, 1] < 0


def ras_affine(shape, affine):
    """Return shape and affine after the axes are put in the nearest RAS+ order, never rotated."""
    permutation, flips = ras_permutation(affine)
    shape = np.asarray(shape)[permutation]
    columns = affine[:3, :3][:, permutation]
    result = np.eye(4)
    result[:3, :3] = columns * np.where(flips, -1, 1)
    result[:3, 3] = affine[:3, 3] + columns @ np.where(flips, shape - 1, 0)
    return tuple(int(n) for n in shape), result


def to_ras(array, affine):
    """Return `array` (nx, ny, nz) as a view with its axes in the nearest RAS+ order."""
    permutation, flips = ras_permutation(affine)
    return np.flip(np.transpose(array, permutation), tuple(np.flatnonzero(flips)))


def to_storage(array, affine):
    """Undo `to_ras`: bring a RAS+ ordered array back to the axes of the storage `affine`."""
    permutation, flips = ras_permutation(affine)
    return np.transpose(np.flip(array, tuple(np.flatnonzero(flips))), np.argsort(permutation))


def ras_box(bbox, shape, affine):
    """Return a box of storage voxels as a box of the RAS+ ordered array; int64 (2, 3)."""
    permutation, flips = ras_permutation(affine)
    start, stop = np.asarray(bbox)[:, permutation]
    size = np.asarray(shape)[permutation]
    return np.stack([np.where(flips, size - stop, start), np.where(flips, size - start, stop)])


def box_to_grid(bbox, spacing, new_spacing, new_shape):
    """Return the smallest box of a resampled grid that covers a half-open box of another; int64 (2, 3).

    Both grids start at the same edge (not center) of their first voxel, so a voxel edge at index i lies at
    i * spacing mm; spacings are (3,), mm per voxel. At least one voxel on each axis, inside `new_shape`.
    """
    edges = np.asarray(bbox) * (np.asarray(spacing) / np.asarray(new_spacing))
    start, stop = np.floor(edges[0] + _SLACK), np.ceil(edges[1] - _SLACK)  # an edge on the grid stays there
    start = np.clip(start, 0, np.asarray(new_shape) - 1)
    stop = np.clip(stop, start + 1, new_shape)
    return np.stack([start, stop]).astype(np.int64)


def crop_slices(bbox):
    """Return a half-open (2, 3) box as a tuple of three slices."""
    return tuple(slice(int(a), int(b)) for a, b in zip(bbox[0], bbox[1], strict=True))


def bbox_from_mask(mask):
    """Return the smallest box that holds every foreground voxel.

    Parameters
    ----------
    mask : ndarray of shape (nx, ny, nz), dtype=bool
        Foreground voxels, axes as in the image.

    Returns
    -------
    bbox : ndarray of shape (2, 3), dtype=int64
        First voxel inside and first voxel outside, per axis.

    Raises
    ------
    ValueError
        If `mask` has no foreground voxel.

    Examples
    --------
    >>> mask = np.zeros((7, 8, 9), bool)
    >>> mask[2:4, 3, 5:8] = True
    >>> bbox_from_mask(mask).tolist()
    [[2, 3, 5], [4, 4, 8]]
    """
    mask = np.asarray(mask, dtype=bool)
    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if lines[0].size == 0:
        raise ValueError("The mask must have at least one foreground voxel. Got none.")
    return np.array([[line[0] for line in lines], [line[-1] + 1 for line in lines]], dtype=np.int64)


def select_mask(mask, mask_value):
    """Return as bool the voxels that a mask value selects: ``1``, ``"1+3"``, ``(1, 3)``; ``">0"`` or None."""
    values = mask_value if isinstance(mask_value, tuple) else check_mask_value(mask_value)
    return mask > 0 if values is None else np.isin(mask, values)


def lesion_shape(mask, spacing):
    """Measure one lesion: volume, longest diameter, sphericity, elongation.

    Parameters
    ----------
    mask : ndarray of shape (nx, ny, nz), dtype=bool
        The lesion's voxels; cropped to its box or not.
    spacing : array-like of shape (3,)
        Millimetres per voxel.

    Returns
    -------
    dict of float
        ``volume_mm3``: voxels times voxel volume. ``diameter_mm``: longest distance between two corners
        of its voxels. ``sphericity``: surface of the ball of equal volume over the lesion's surface
        (Crofton's estimate), at most 1. ``elongation``: square root of the second over the first principal
        moment, 1 for a ball, towards 0 for a stick. On slices as thick as the lesion, the last two describe
        the slices more than the lesion.

    References
    ----------
    Image Biomarker Standardisation Initiative, arXiv:1612.07003, 3.1.7 and 3.1.14; surface: G. Lehmann and D.
    Legland, "Efficient N-dimensional surface estimation using Crofton formula", Insight Journal, 2012.

    Examples
    --------
    >>> cube = np.ones((4, 4, 4), bool)
    >>> shape = lesion_shape(cube, (1, 1, 1))
    >>> shape["volume_mm3"], round(shape["elongation"], 2)
    (64.0, 1.0)
    """
    from scipy.ndimage import binary_erosion
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    spacing = np.asarray(spacing, dtype=np.float64)
    mask = np.asarray(mask, dtype=bool)
    mask = np.pad(mask[crop_slices(bbox_from_mask(mask))], 1)
    voxels = np.argwhere(mask)
    volume = len(voxels) * spacing.prod()

    offsets = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij")).reshape(3, -1).T
    surface = np.argwhere(mask & ~binary_erosion(mask))
    corners = np.unique((surface[:, None] + offsets).reshape(-1, 3), axis=0) * spacing
    diameter = pdist(corners[ConvexHull(corners).vertices]).max()

    sphericity = min(1.0, np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / _surface_area(mask, spacing))

    moments = np.cov((voxels * spacing).T, bias=True).reshape(3, 3) if len(voxels) > 1 else np.zeros((3, 3))
    moments = np.linalg.eigvalsh(moments + np.diag(spacing**2 / 12))  # a voxel is a brick, not a point
    return {
        "volume_mm3": float(volume),
        "diameter_mm": float(diameter),
        "sphericity": float(sphericity),
        "elongation": float(np.sqrt(moments[1] / moments[2])),
    }


def lesion_enhancement(image, mask, spacing, *, brain):
    """Measure how a lesion enhances, in ratios that no scanner's scale changes.

    Parameters
    ----------
    image : ndarray of shape (nx, ny, nz)
        Intensities in RAS+ order, air at 0, of the lesion and 8 mm around it.
    mask : ndarray of shape (nx, ny, nz), dtype=bool
        The lesion's voxels; what a closed rim encloses, in 3-D or in a slice, is taken as part of it.
    spacing : array-like of shape (3,)
        Millimetres per voxel.
    brain : ndarray of shape (nx, ny, nz), dtype=bool
        Voxels that may count as surrounding brain: neither air nor another lesion.

    Returns
    -------
    dict of float
        ``contrast``: mean of the lesion over the median of the brain 3 to 8 mm around it. ``rim_fraction``:
        share of the enhancement, which is what is brighter than that brain, in the outer half of the lesion's
        volume, nearest to its surface; 0.5 in a solid lesion, 1 in a ring. ``necrotic_share``: share of the
        volume that is darker than a third of the way from the brain to the lesion's 95th percentile, in
        connected parts that reach the inner half of the volume. The last two are NaN where that percentile is
        below 1.2 times the brain, so that nothing enhances; all are NaN without a lesion or with fewer than
        10 voxels of brain.

    Examples
    --------
    >>> far = np.linalg.norm(np.indices((41, 41, 41)) - 20, axis=0)
    >>> ring = np.where(far < 10, np.where(far < 7, 0.5, 2.0), 1.0)
    >>> found = lesion_enhancement(ring, far < 10, (1, 1, 1), brain=far >= 10)
    >>> {name: round(value, 2) for name, value in found.items()}
    {'contrast': 1.51, 'rim_fraction': 0.75, 'necrotic_share': 0.33}
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

    spacing = np.asarray(spacing, dtype=np.float64)
    step = max(1, int((np.count_nonzero(mask) / 4096) ** (1 / 3)))  # some thousand voxels tell enough
    steps = np.where(spacing < 2 * spacing.min(), step, 1)
    part = tuple(slice(None, None, step) for step in steps)
    image, mask, brain, spacing = image[part], mask[part], brain[part], spacing * steps
    across = 2 - np.argmax(spacing[::-1])  # the axis of the thickest slices, whose rims have no bottom
    inside = binary_fill_holes(mask, np.ones(np.where(np.arange(3) == across, 1, 3)))
    inside, (near, far) = binary_fill_holes(inside), SURROUNDINGS_MM
    distance = distance_transform_edt(~inside, spacing)
    around = image[brain & (distance > near) & (distance <= far)]
    found = dict.fromkeys(ENHANCEMENT, np.nan)
    if len(around) < 10 or not inside.any():
        return found
    level, values = float(np.median(around)), image[inside].astype(np.float64)
    bright, found["contrast"] = np.percentile(values, 95), float(values.mean() / level)
    if bright < _ENHANCES * level:
        return found
    depth = distance_transform_edt(np.pad(inside, 1), spacing)[1:-1, 1:-1, 1:-1][inside]
    outer, enhancement = upper_half(-depth.round(6)), np.maximum(values - level, 0)
    found["rim_fraction"] = float(outer @ enhancement / enhancement.sum())
    dark = np.zeros(inside.shape, dtype=bool)
    dark[inside] = values < level + (bright - level) / 3
    parts = label(dark)[0][inside]
    found["necrotic_share"] = float(np.isin(parts, np.setdiff1d(parts[outer < 1], 0)).mean())
    return found


def upper_half(values):
    """Return weights (n,) that sum to n / 2: 1 above the median, a share each for those that tie at it."""
    middle = np.sort(values)[len(values) // 2]
    above, tie = values > middle, values == middle
    return above + tie * (len(values) / 2 - above.sum()) / tie.sum()


def _surface_area(mask, spacing):
    """Return the surface in mm2 of a bool `mask` whose border is background: Crofton's estimate.

    Four times the mean projected area; along a direction it is the number of runs of voxels that end there
    times the area per line. The 26 directions are weighted by their share of the sphere.
    """
    from scipy.spatial import SphericalVoronoi

    steps = np.array([step for step in np.ndindex(3, 3, 3) if step != (1, 1, 1)]) - 1
    length = np.linalg.norm(steps * spacing, axis=1)
    weights = SphericalVoronoi(steps * spacing / length[:, None]).calculate_areas() / (4 * np.pi)
    ends = [(mask & ~np.roll(mask, tuple(-step), axis=(0, 1, 2))).sum() for step in steps]
    return 4 * spacing.prod() * float((weights * ends / length).sum())
