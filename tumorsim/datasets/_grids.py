"""Masks that lie on another grid than their image; DICOM series; contours → masks."""

import os

import numpy as np

from tumorsim.exceptions import GeometryError, GridMismatchError
from tumorsim.geometry import check_same_grid

__all__ = ["mask_from_contours", "mask_on_grid", "read_series"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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


def read_series(folder):
    """Read one DICOM series, a file a slice.

    Parameters
    ----------
    folder : str
        Holds the files of one series, and no other.

    Returns
    -------
    image : ndarray of shape (nx, ny, nz), dtype=float32
        Columns, rows, slices; slices in the order of their position.
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Raises
    ------
    GeometryError
        If pydicom is missing, a file cannot be read, or the slices do not make one regular volume.
    """
    try:
        import pydicom
    except ImportError as err:
        raise GeometryError(
            f"'{folder}' is DICOM, which needs pydicom. Run 'pip install tumorsim[datasets]'."
        ) from err
    slices = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".") or not os.path.isfile(path):
            continue
        try:
            slices.append(pydicom.dcmread(path))
        except pydicom.errors.InvalidDicomError:
            continue  # a licence text, a checksum list
    slices = [one for one in slices if "ImagePositionPatient" in one and "PixelData" in one]
    if not slices:
        raise GeometryError(f"'{folder}' holds no DICOM images.")
    orientation = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*orientation)
    positions = np.array([one.ImagePositionPatient for one in slices], float)
    order = np.argsort(positions @ normal)
    slices, positions = [slices[i] for i in order], positions[order]
    _check_regular(folder, slices, positions @ normal)
    rows, columns = (float(v) for v in slices[0].PixelSpacing)  # between rows, between columns
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[0] * columns, orientation[1] * rows
    last = positions[-1] - positions[0]
    affine[:3, 2] = last / (len(slices) - 1) if len(slices) > 1 else normal * float(slices[0].SliceThickness)
    affine[:3, 3] = positions[0]
    try:
        pixels = [_intensities(one) for one in slices]
    except Exception as err:  # a missing decoder, a truncated stream: whatever pydicom raises
        raise GeometryError(f"The pixels of '{folder}' cannot be read: {err}") from err
    return np.stack(pixels, axis=-1), _LPS_TO_RAS @ affine


def _check_regular(folder, slices, depths):
    """Raise ``GeometryError`` unless slices share a grid and lie at even distances."""
    for tag, tolerance in (
        ("Rows", 0),
        ("Columns", 0),
        ("PixelSpacing", 1e-4),
        ("ImageOrientationPatient", 1e-4),
    ):
        values = np.array([np.atleast_1d(np.asarray(one[tag].value, float)) for one in slices])
        if np.abs(values - values[0]).max() > tolerance:
            raise GeometryError(f"The slices of '{folder}' differ in {tag}: it holds more than one series.")
    steps = np.diff(depths)
    if len(steps) and (steps.min() < 1e-3 or np.ptp(steps) > 0.1 * np.median(steps)):
        raise GeometryError(
            f"The slices of '{folder}' must lie at even distances. Got {steps.min():.2f} to "
            f"{steps.max():.2f} mm: slices are missing, or are there twice."
        )


def _intensities(one):
    """Return the pixels of a slice as float32 (columns, rows), rescaled as its header says."""
    pixels = one.pixel_array.T.astype(np.float32)
    return pixels * np.float32(one.get("RescaleSlope", 1)) + np.float32(one.get("RescaleIntercept", 0))


def mask_from_contours(contours, shape, affine):
    """Fill contours on the slices (third axis) of a grid.

    Parameters
    ----------
    contours : sequence of array-like of shape (n, 3)
        Closed polygons, each in one slice; points in LPS mm. Where two overlap on a slice there is a hole.
    shape : tuple of 3 int
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Returns
    -------
    mask : ndarray of shape `shape`, dtype=bool
        Voxels whose center is inside.

    Raises
    ------
    GeometryError
        If a contour is oblique to the slices by more than half a voxel, or lies outside of them.
    """
    from matplotlib.path import Path as Polygon

    to_voxel = np.linalg.inv(affine) @ _LPS_TO_RAS
    mask = np.zeros(shape, bool)
    for contour in contours:
        points = np.asarray(contour, float).reshape(-1, 3) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        if len(points) < 3:
            continue
        k = int(np.round(points[:, 2].mean()))
        if not 0 <= k < shape[2] or np.abs(points[:, 2] - k).max() > 0.5 + 1e-6:
            raise GeometryError(
                f"A contour must lie in one slice of its image. Got slices {points[:, 2].min():.2f} to "
                f"{points[:, 2].max():.2f} of {shape[2]}. Check that contours and image are of one series."
            )
        low = np.clip(np.floor(points[:, :2].min(axis=0)).astype(int), 0, shape[:2])
        high = np.clip(np.ceil(points[:, :2].max(axis=0)).astype(int) + 1, 0, shape[:2])
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        inside = Polygon(points[:, :2]).contains_points(grid.reshape(-1, 2)).reshape(grid.shape[:2])
        mask[low[0] : high[0], low[1] : high[1], k] ^= inside
    return mask
