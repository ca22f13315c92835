"""Slices of a series → one array with its affine, or the reason why they are no volume."""

import contextlib
import itertools

import numpy as np

from tumorsim._validation import install_hint
from tumorsim.exceptions import DicomError, GeometryError
from tumorsim.geometry import check_affine
from tumorsim.io.dicom._open import close_reading, pixel_source

__all__ = ["load_volume", "stack"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNEVEN = 0.05  # of the distance of two slices: rounding in headers, table motion; a gap is 1 and more
_ROUNDING_MM = 0.02  # positions are written with two decimals by some


def stack(frames):
    """Sort the frames of a series by position and return their grid.

    Parameters
    ----------
    frames : list of Frame

    Returns
    -------
    frames : list of Frame
        By position along the normal of the slices.
    shape : tuple of 3 int
        Columns, rows, slices: the array's x, y, z.
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Raises
    ------
    DicomError
        If there are fewer than two slices; sizes, spacings or directions differ; slices lie at one position,
        are missing, or are not stacked at right angles (gantry tilt).
    """
    if len(frames) < 2:
        raise DicomError(f"A volume needs at least two slices. Got {len(frames)}.")
    first = frames[0]
    if any(f.shape != first.shape for f in frames):
        raise DicomError("Mixed geometry: the slices differ in rows and columns.")
    spacings = np.array([f.spacing for f in frames])
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise DicomError("Mixed geometry: the slices differ in pixel spacing.")
    directions = np.array([f.directions for f in frames])
    if np.ptp(directions, axis=0).max() > 2e-3:  # about 0.1 degree
        raise DicomError("Mixed geometry: the slices differ in orientation.")
    row, column = (_unit(v) for v in directions.mean(axis=0).reshape(2, 3))
    normal = _unit(np.cross(row, column))
    positions = np.array([f.position for f in frames])
    order = np.argsort(positions @ normal, kind="stable")
    frames, positions = [frames[i] for i in order], positions[order]
    _check_even(np.diff(positions @ normal))
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    affine = np.eye(4)
    affine[:3, 0] = row * spacings[0, 1]  # along a row, from column to column
    affine[:3, 1] = column * spacings[0, 0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    try:
        check_affine(affine, what="the slices")
    except GeometryError as err:
        tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
        raise DicomError(
            f"Gantry tilt: the slices are stacked at {tilt:.2f} degrees to their normal (allowed: 0.1). "
            "Resample the series to a rectangular grid."
        ) from err
    stray = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(frames)), step), axis=1).max()
    if stray > max(_UNEVEN * np.linalg.norm(step), _ROUNDING_MM):
        raise DicomError(f"Mixed geometry: a slice lies {stray:.2f} mm from its place in the stack.")
    rows, columns = first.shape
    return frames, (columns, rows, len(frames)), LPS_TO_RAS @ affine


def load_volume(frames):
    """Read the voxels of sorted frames.

    Parameters
    ----------
    frames : list of Frame
        As `stack` returns them.

    Returns
    -------
    array : ndarray of shape (nx, ny, nz)
        Columns, rows, slices, in the files' integer type where none is rescaled, else float32.

    Raises
    ------
    DicomError
        If pixels are truncated, cannot be decoded, or are no gray values.
    """
    from pydicom.pixels import iter_pixels

    rescaled = any((f.slope, f.intercept) != (1, 0) for f in frames)
    rows, columns = frames[0].shape
    volume = None
    place = {(f.path, f.index): z for z, f in enumerate(frames)}
    by_file = itertools.groupby(sorted(frames, key=lambda f: (f.path, f.index or 0)), key=lambda f: f.path)
    for path, group in by_file:
        group = list(group)
        indices = None if group[0].index is None else [f.index for f in group]
        with close_reading("A slice's pixels"), _decoder_checked(path):
            for frame, pixels in zip(group, iter_pixels(pixel_source(path), indices=indices), strict=True):
                if pixels.shape != (rows, columns):
                    raise DicomError(f"Slices must hold one gray value a pixel. Got shape {pixels.shape}.")
                if volume is None:
                    kind = np.float32 if rescaled or pixels.dtype.kind == "f" else pixels.dtype
                    volume = np.empty((columns, rows, len(frames)), kind, order="F")
                if not rescaled and pixels.dtype != volume.dtype:
                    raise DicomError("Mixed geometry: the slices differ in bits or sign of their pixels.")
                plane = pixels.T
                if rescaled:
                    plane = plane * np.float32(frame.slope) + np.float32(frame.intercept)
                volume[:, :, place[frame.path, frame.index]] = plane
    return volume


def _check_even(gaps):
    """Raise unless slices follow each other at one distance; `gaps` (n - 1,) in mm, sorted slices."""
    typical = np.median(gaps)
    twice = int((gaps < max(_UNEVEN * typical, 1e-3)).sum())
    if twice:
        raise DicomError(
            f"Duplicates: {twice} slice{'s lie' if twice > 1 else ' lies'} where another one does. Several "
            "volumes (echoes, times) share the series, or files were exported twice."
        )
    wide = gaps[gaps > (1 + _UNEVEN) * typical + _ROUNDING_MM]
    if wide.size:
        missing = int(np.maximum(np.round(wide / typical) - 1, 0).sum())
        what = f"{missing} missing" if missing else "uneven distances"
        raise DicomError(
            f"Slice gap: {what}. Slices lie {typical:.2f} mm apart, and at {wide.size} "
            f"place{'s' if wide.size > 1 else ''} up to {wide.max():.2f} mm."
        )
    if (gaps < (1 - _UNEVEN) * typical - _ROUNDING_MM).any():
        raise DicomError(f"Slice gap: uneven distances, from {gaps.min():.2f} to {gaps.max():.2f} mm.")


@contextlib.contextmanager
def _decoder_checked(path):
    """Say so where pixels cannot be read because their decoder is not installed."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.pixels import get_decoder

    try:
        yield
    except (RuntimeError, NotImplementedError) as err:
        syntax = read_file_meta_info(path).TransferSyntaxUID
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise DicomError(
                f"No decoder is installed for pixels compressed as {syntax.name}. {install_hint('dicom')} "
                "For HTJ2K run also 'pip install pylibjpeg[openjpeg]'. Or export uncompressed."
            ) from err
        raise


def _unit(vector):
    """Return a vector (3,) at length 1."""
    return vector / np.linalg.norm(vector)
