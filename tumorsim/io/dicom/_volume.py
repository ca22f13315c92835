"""Slices of a series → one array with its affine, or the reason why they are no volume."""

import contextlib
import itertools
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from tumorsim._validation import counted, install_hint
from tumorsim.exceptions import DicomError, GeometryError
from tumorsim.geometry import check_affine
from tumorsim.io.dicom._folder import LPS_TO_RAS
from tumorsim.io.dicom._open import MAX_VOXELS, open_dicom, reading

_UNEVEN = 0.05  # of the distance of two slices: rounding in headers, table motion; a gap is 1 and more
_ROUNDING_MM = 0.02  # positions are written with two decimals by some


def assemble(frames, *, by_slice_location=False):
    """Return what `_stack` does and notes: what is there twice, or odd among many, costs only itself."""
    notes, kept = [], _without_copies(frames)
    if len(kept) < len(frames):
        notes.append(f"{counted(len(frames) - len(kept), 'image')} of {len(frames)} was there twice")
    places = np.array([f.affine[:3, 3] for f in kept])
    if len(kept) > 2 and np.ptp(places, axis=0).max() < 1e-3 and _regular(kept):
        if not by_slice_location:
            raise DicomError(
                f"All {len(kept)} slices have the same ImagePositionPatient, but SliceLocation and "
                "InstanceNumber are regular: an anonymizer's fault. Export the series anew, or place its "
                "slices by SliceLocation (--by-slice-location)."
            )
        kept = [_moved(f) for f in kept]
        notes.append("slices are placed by SliceLocation, so their order may be the wrong way round")
    try:
        return *_stack(kept), notes
    except DicomError:
        usual = _usual(kept) if kept else []
        odd = len(kept) - len(usual)
        if 0 < odd <= max(3, len(usual) // 3) and odd < len(usual):
            notes.append(f"{odd} of {len(kept)} images left out: orientation or size differs")
            with contextlib.suppress(DicomError):  # it is missed in the stack, so it is no stray image
                return *_stack(usual), notes
        raise


def _usual(frames):
    """Return the frames that have the size and orientation of most of them."""
    kind, _ = Counter((f.space, f.shape) for f in frames).most_common(1)[0]
    usual = [f for f in frames if (f.space, f.shape) == kind]
    typical = np.median([f.affine[:3, :2] for f in usual], axis=0)
    return [f for f in usual if np.abs(f.affine[:3, :2] - typical).max() <= 0.01 * np.abs(typical).max()]


def _without_copies(frames):
    """Return frames without those of the same SOPInstanceUID, place and voxels as another."""
    kept = defaultdict(list)
    for f in frames:
        same = kept[(f.uid, f.index) if f.uid else id(f)]
        if not any(
            np.array_equal(f.affine, o.affine)
            and (f.shape, f.scale, f.order) == (o.shape, o.scale, o.order)
            and np.array_equal(load_volume([f]), load_volume([o]))
            for o in same
        ):
            same.append(f)
    return list(itertools.chain(*kept.values()))


def _regular(frames):
    """Tell whether SliceLocation goes up or down evenly with InstanceNumber."""
    if any(None in f.order for f in frames):
        return False
    number, place = np.diff(sorted(f.order for f in frames), axis=0).T
    return number.min() > 0 and abs(place).min() > 0 and np.ptp(place) <= _UNEVEN * abs(place[0])


def _moved(frame):
    """Return a frame whose coordinate along its normal (to the left, back or head) is SliceLocation."""
    normal = frame.affine[:3, 2] / np.linalg.norm(frame.affine[:3, 2])
    normal = normal * np.sign(normal[np.abs(normal).argmax()])
    affine = frame.affine.copy()
    affine[:3, 3] += normal * (frame.order[1] - normal @ affine[:3, 3])
    return replace(frame, affine=affine)


def _stack(frames):
    """Return a series' frames by position along their normal, shape (x, y, z) and RAS+ affine (4, 4)."""
    if len(frames) < 2:
        raise DicomError(f"A volume needs at least two slices. Got {len(frames)}.")
    if len({f.space for f in frames}) > 1:
        raise DicomError("Mixed geometry: the slices differ in their frame of reference.")
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
        rule = f"Gantry tilt: the slices are stacked at {tilt:.2f} degrees to their normal (allowed: 0.1)."
        raise DicomError(f"{rule} Resample the series to a rectangular grid.") from err
    stray = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(frames)), step), axis=1).max()
    if stray > max(_UNEVEN * np.linalg.norm(step), _ROUNDING_MM):
        raise DicomError(f"Mixed geometry: a slice lies {stray:.2f} mm from its place in the stack.")
    return [frames[i] for i in order], (*frames[0].shape, len(frames)), LPS_TO_RAS @ affine


def load_volume(frames):
    """Return the voxels (nx, ny, nz) of sorted frames, in the files' type or, where rescaled, float32."""
    from pydicom.pixels import iter_pixels

    shape = (*frames[0].shape, len(frames))
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        raise DicomError(f"A scan must have at most {MAX_VOXELS} voxels. Got {shape}.", frames[0].path)
    rescaled = any(f.scale != (1, 0) for f in frames)
    stated = Counter(f.padding for f in frames if f.padding)  # some write it into a part of the slices only
    volume, padded, usual = None, {}, next((one for one, _ in stated.most_common(1)), None)
    place = {id(f): z for z, f in enumerate(frames)}
    by_file = itertools.groupby(sorted(frames, key=lambda f: (f.path, f.index or 0)), key=lambda f: f.path)
    for path, group in by_file:
        group = list(group)
        indices = None if group[0].index is None else [f.index for f in group]
        with reading("A slice's pixels", path):
            syntax = open_dicom(path, "A slice's header", []).file_meta.TransferSyntaxUID
            if syntax.is_deflated:
                arrays = iter_pixels(open_dicom(path, "A slice's pixels", pixels=True), indices=indices)
            else:
                arrays = iter_pixels(path, indices=indices, transfer_syntax_uid=syntax)
            for frame, pixels in zip(group, _decoded(arrays), strict=True):
                if pixels.shape != frame.shape[::-1]:
                    raise DicomError(f"Slices must hold one gray value a pixel. Got shape {pixels.shape}.")
                if volume is None:
                    kind = np.float32 if rescaled or pixels.dtype.kind == "f" else pixels.dtype
                    volume = np.empty(shape, kind, order="F")
                if not rescaled and pixels.dtype != volume.dtype:
                    raise DicomError("Mixed geometry: the slices differ in bits or sign of their pixels.")
                plane, z = pixels.T, place[id(frame)]
                if usual is not None:
                    low, high = frame.padding or usual
                    padded[z] = (plane >= low) & (plane <= high)
                if rescaled:
                    plane = plane * np.float32(frame.scale[0]) + np.float32(frame.scale[1])
                volume[:, :, z] = plane
    if any(one.any() for one in padded.values()):
        step = max(1, volume.size >> 20)
        planes = (volume[:, :, z][~padded[z]] if z in padded else volume[:, :, z] for z in range(shape[2]))
        inside = np.concatenate([plane.ravel()[::step] for plane in planes])
        # Air as normalize_intensity measures it, where there is any: in stripped brains it is what is padded
        air, top = np.percentile(inside, (0.5, 99)) if inside.size else (0, 0)
        air = air if air <= 0.1 * top else 0
        for z, one in padded.items():
            volume[:, :, z][one] = air
    return volume


def _decoded(arrays):
    """Pass arrays on; say so where they cannot be decoded because their decoder is not installed."""
    try:
        yield from arrays
    except (RuntimeError, NotImplementedError) as err:
        if isinstance(err, NotImplementedError) or "missing dependencies" in str(err):
            remedy = "For HTJ2K run also 'pip install pylibjpeg[openjpeg]'. Or export uncompressed."
            what = f"No decoder is installed for these compressed pixels. {install_hint('dicom')} {remedy}"
            raise DicomError(what) from err
        raise


def _check_even(gaps):
    """Raise unless slices follow each other at one distance; `gaps` (n - 1,) in mm, sorted slices."""
    typical = np.median(gaps)
    twice = int((gaps < max(_UNEVEN * typical, 1e-3)).sum())
    if twice:
        what = f"Duplicates: {counted(twice, 'slice')} {'lies' if twice == 1 else 'lie'} where another does."
        why = "Several volumes (echoes, times) are in the series, or files were exported twice."
        raise DicomError(f"{what} {why}")
    odd = gaps[np.abs(gaps - typical) > _UNEVEN * typical + _ROUNDING_MM]
    if odd.size:
        missing = int(np.maximum(np.round(odd / typical) - 1, 0).sum())
        raise DicomError(
            f"Slice gap: {f'{missing} missing' if missing else 'uneven distances'}. Slices lie {typical:.2f} "
            f"mm apart, and at {counted(odd.size, 'place')} up to {odd.max():.2f} mm."
        )
