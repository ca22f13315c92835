"""Slices of a series → one array with its affine, or the reason why they are no volume."""

import itertools

import numpy as np

from tumorsim._validation import counted, install_hint
from tumorsim.exceptions import DicomError, GeometryError
from tumorsim.geometry import check_affine
from tumorsim.io.dicom._folder import LPS_TO_RAS
from tumorsim.io.dicom._open import open_dicom, reading

__all__ = ["load_volume", "stack"]

_UNEVEN = 0.05  # of the distance of two slices: rounding in headers, table motion; a gap is 1 and more
_ROUNDING_MM = 0.02  # positions are written with two decimals by some


def stack(frames):
    """Return a series' frames by position along their normal, shape (x, y, z) and RAS+ affine (4, 4)."""
    if len(frames) < 2:
        raise DicomError(f"A volume needs at least two slices. Got {len(frames)}.")
    if len({f.shape for f in frames}) > 1:
        raise DicomError("Mixed geometry: the slices differ in rows and columns.")
    affines = np.array([f.affine for f in frames])
    spacings = np.linalg.norm(affines[:, :3, :2], axis=1)
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        raise DicomError("Mixed geometry: the slices differ in pixel spacing.")
    directions = affines[:, :3, :2] / spacings[:, None]
    if np.ptp(directions, axis=0).max() > 2e-3:  # about 0.1 degree
        raise DicomError("Mixed geometry: the slices differ in orientation.")
    directions = directions.mean(axis=0) / np.linalg.norm(directions.mean(axis=0), axis=0)
    normal = np.cross(*directions.T)
    normal /= np.linalg.norm(normal)
    order = np.argsort(affines[:, :3, 3] @ normal, kind="stable")
    positions = affines[order, :3, 3]
    _check_even(np.diff(positions @ normal))
    step = (positions[-1] - positions[0]) / (len(frames) - 1)
    affine = np.eye(4)
    affine[:3] = np.column_stack([directions * spacings[order[0]], step, positions[0]])
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
    return [frames[i] for i in order], (*frames[0].shape, len(frames)), LPS_TO_RAS @ affine


def load_volume(frames):
    """Return the voxels (nx, ny, nz) of sorted frames, in the files' type or, where rescaled, float32."""
    from pydicom.pixels import iter_pixels

    rescaled = any(f.scale != (1, 0) for f in frames)
    volume = None
    place = {id(f): z for z, f in enumerate(frames)}
    by_file = itertools.groupby(sorted(frames, key=lambda f: (f.path, f.index or 0)), key=lambda f: f.path)
    for path, group in by_file:
        group = list(group)
        indices = None if group[0].index is None else [f.index for f in group]
        with reading("A slice's pixels"):
            syntax = open_dicom(path, "A slice's header", []).file_meta.TransferSyntaxUID
            arrays = iter_pixels(path, indices=indices, transfer_syntax_uid=syntax)
            for frame, pixels in zip(group, _decoded(arrays), strict=True):
                if pixels.shape != frame.shape[::-1]:
                    raise DicomError(f"Slices must hold one gray value a pixel. Got shape {pixels.shape}.")
                if volume is None:
                    kind = np.float32 if rescaled or pixels.dtype.kind == "f" else pixels.dtype
                    volume = np.empty((*frame.shape, len(frames)), kind, order="F")
                if not rescaled and pixels.dtype != volume.dtype:
                    raise DicomError("Mixed geometry: the slices differ in bits or sign of their pixels.")
                plane = pixels.T
                if rescaled:
                    plane = plane * np.float32(frame.scale[0]) + np.float32(frame.scale[1])
                volume[:, :, place[id(frame)]] = plane
    return volume


def _decoded(arrays):
    """Pass arrays on; say so where they cannot be decoded because their decoder is not installed."""
    try:
        yield from arrays
    except (RuntimeError, NotImplementedError) as err:
        if isinstance(err, NotImplementedError) or "missing dependencies" in str(err):
            raise DicomError(
                f"No decoder is installed for these compressed pixels. {install_hint('dicom')} For HTJ2K run "
                "also 'pip install pylibjpeg[openjpeg]'. Or export uncompressed."
            ) from err
        raise


def _check_even(gaps):
    """Raise unless slices follow each other at one distance; `gaps` (n - 1,) in mm, sorted slices."""
    typical = np.median(gaps)
    twice = int((gaps < max(_UNEVEN * typical, 1e-3)).sum())
    if twice:
        raise DicomError(
            f"Duplicates: {counted(twice, 'slice')} {'lies' if twice == 1 else 'lie'} where another does. "
            "Several volumes (echoes, times) are in the series, or files were exported twice."
        )
    odd = gaps[np.abs(gaps - typical) > _UNEVEN * typical + _ROUNDING_MM]
    if odd.size:
        missing = int(np.maximum(np.round(odd / typical) - 1, 0).sum())
        raise DicomError(
            f"Slice gap: {f'{missing} missing' if missing else 'uneven distances'}. Slices lie {typical:.2f} "
            f"mm apart, and at {counted(odd.size, 'place')} up to {odd.max():.2f} mm."
        )
