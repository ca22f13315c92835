"""A scan on the network's grid: RAS+ order, one spacing, one intensity scale."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from tumorsim._validation import check_spacing
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import box_to_grid, ras_affine, ras_box, spacing_from_affine, to_ras, to_storage

_VERSION = 1  # part of every cache key and fingerprint: raise it when prepared voxels change
MAX_VOXELS = 512**3
_ROWS = 16  # of the matrix of an axis at a time


@dataclass(frozen=True)
class Volume:
    """A scan on the network's grid.

    Attributes
    ----------
    image : ndarray of shape (x, y, z), dtype=float16
        RAS+ order; 0 is air, 1 the median of the brain.
    mask : ndarray of shape (x, y, z), dtype=uint8, or None
        Share of each voxel that is tumor, 0 to 255.
    spacing : tuple of float
        Millimetres per voxel of this grid.
    source_shape, source_affine
        Grid of the case.
    """

    image: np.ndarray
    mask: np.ndarray | None
    spacing: tuple
    source_shape: tuple
    source_affine: np.ndarray

    def boxes(self, boxes):
        """Map boxes (n, 2, 3) of the case's voxels onto this grid; int64 (n, 2, 3)."""
        source = self.source_shape, self.source_affine
        grids = spacing_from_affine(ras_affine(*source)[1]), self.spacing, self.image.shape
        mapped = [box_to_grid(ras_box(box, *source), *grids) for box in boxes]
        return np.array(mapped, dtype=np.int64).reshape(-1, 2, 3)

    def to_source(self, array):
        """Bring a float array (x, y, z) of this grid back to the case's own voxels, linearly."""
        shape, affine = ras_affine(self.source_shape, self.source_affine)
        array = resample(array, self.spacing, spacing_from_affine(affine), shape)
        return to_storage(array, self.source_affine)


@dataclass(frozen=True)
class Preprocessing:
    """How a scan becomes what the network reads.

    Parameters
    ----------
    spacing : float or tuple of 3 float
        Millimetres per voxel of the network's grid.
    least_shape : int or tuple of 3 int, default=1
        Voxels to which `pad` fills up a smaller scan: those of a training patch, so that what the network
        sees around a thin stack is what it saw in training.

    Examples
    --------
    >>> image = np.arange(720, dtype=np.float32).reshape(8, 9, 10)
    >>> Preprocessing(2.0).prepare(image, np.eye(4)).image.shape
    (4, 5, 5)
    """

    spacing: tuple
    least_shape: tuple = 1

    def __post_init__(self):
        object.__setattr__(self, "spacing", tuple(check_spacing(self.spacing).tolist()))
        object.__setattr__(self, "least_shape", tuple(np.broadcast_to(self.least_shape, 3).tolist()))

    def to_dict(self):
        """Return what JSON can hold; `Preprocessing(**d)` without ``version`` restores it."""
        return asdict(self) | {"version": _VERSION}

    @classmethod
    def from_dict(cls, values):
        """Restore from `to_dict`."""
        version = values.get("version")
        if version != _VERSION:
            raise ValueError(f"Preprocessing version must be {_VERSION}. Got {version}; update tumorsim.")
        return cls(values["spacing"], values["least_shape"])

    def shape_of(self, shape, affine):
        """Return how many voxels of this spacing cover a scan of `shape` and `affine`, on each axis."""
        shape, affine = ras_affine(shape, affine)
        extent = np.asarray(shape) * spacing_from_affine(affine) / np.asarray(self.spacing)
        return tuple(int(n) for n in np.maximum(1, np.ceil(extent - 1e-3)))

    def pad(self, image):
        """Fill up an image (x, y, z) with air to `least_shape`; returns it and where the scan begins (3,)."""
        missing = np.maximum(np.array(self.least_shape) - image.shape, 0)
        before = missing // 2
        return np.pad(image, np.stack([before, missing - before], axis=1)), before

    def prepare(self, image, affine, mask=None):
        """Return the scan as a `Volume`.

        Parameters
        ----------
        image : ndarray of shape (nx, ny, nz)
            Intensities in any unit and storage order.
        affine : ndarray of shape (4, 4)
            Voxel → RAS+ mm.
        mask : ndarray of shape (nx, ny, nz), dtype=bool, optional
            Tumor voxels.

        Raises
        ------
        GeometryError
            If the grid would be too large to hold, or the image has one intensity only.
        """
        ras_shape, ras = ras_affine(image.shape, affine)
        spacing, shape = spacing_from_affine(ras), self.shape_of(image.shape, affine)
        if math.prod(shape) > MAX_VOXELS:
            rule = f"The scan would have {shape} voxels at {self.spacing} mm, which is too many."
            field = f"it states a field of view of {(spacing * ras_shape).round().tolist()} mm"
            raise GeometryError(f"{rule} Check its header: {field}.")
        _intensity_range(image)  # before resampling, whose rounding makes a constant image vary
        on_grid = resample(to_ras(image, affine), spacing, self.spacing, shape)
        on_grid = normalize_intensity(on_grid, self.spacing).astype(np.float16)
        if mask is not None:
            share = resample(to_ras(mask.astype(np.uint8), affine), spacing, self.spacing, shape)
            mask = np.round(255 * share).astype(np.uint8)
        return Volume(on_grid, mask, self.spacing, tuple(image.shape), np.asarray(affine))

    def prepare_case(self, case, *, mask=None, cache=None):
        """Read a `Case` and prepare it, through a `VoxelCache` where one is given."""
        if cache is not None:
            return cache.get(self, case, mask, lambda: self.prepare_case(case, mask=mask))
        return self.prepare(case.load_image(), case.affine, mask)


def resample(array, spacing, new_spacing, new_shape, *, offset=(0.0, 0.0, 0.0)):
    """Resample onto another grid along the same axes; linear, and anti-aliased where it coarsens.

    The kernel is a triangle as wide as the coarser of the two voxels, applied axis by axis.

    Parameters
    ----------
    array : ndarray of shape (x, y, z)
    spacing, new_spacing : array-like of shape (3,)
        Millimetres per voxel before and after.
    new_shape : tuple of 3 int
    offset : array-like of shape (3,), default=(0, 0, 0)
        From the first edge of the old grid to that of the new one, in mm; outside, the last voxels go on.

    Returns
    -------
    ndarray of shape `new_shape`, dtype=float32

    Examples
    --------
    >>> ramp = np.arange(8, dtype=np.float32).reshape(8, 1, 1)
    >>> [round(float(v), 2) for v in resample(ramp, (1, 1, 1), (2, 1, 1), (4, 1, 1)).ravel()]
    [0.71, 2.5, 4.5, 6.29]
    """
    array = np.asarray(array)
    array = array.astype(np.float32, order="K", copy=not array.flags.writeable)  # torch warns of read-only
    layout = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    array = np.ascontiguousarray(array.transpose(layout))  # files have x innermost: no copy, but of flipped
    old, new, lag = (np.asarray(v, dtype=float)[layout] for v in (spacing, new_spacing, offset))
    tensor, wanted = torch.from_numpy(array), [int(n) for n in np.asarray(new_shape)[layout]]
    # What shrinks most comes first, since the other axes then have less to do; among equals the outermost.
    for axis in sorted(range(3), key=lambda axis: round(wanted[axis] / array.shape[axis], 1)):
        ratio, start, shape = new[axis] / old[axis], lag[axis] / old[axis], tensor.shape
        if abs(ratio - 1) < 1e-6 and not start and shape[axis] == wanted[axis]:
            continue
        rows = tensor.reshape(math.prod(shape[:axis]), shape[axis], -1)
        parts = []
        for weights, first in _axis_weights(shape[axis], wanted[axis], ratio, start):
            seen = rows[:, first : first + weights.shape[1]]
            parts.append(weights @ seen if seen.shape[2] > 1 else (seen[..., 0] @ weights.T)[..., None])
        tensor = torch.cat(parts, dim=1).reshape(*shape[:axis], wanted[axis], *shape[axis + 1 :])
    return np.ascontiguousarray(tensor.numpy().transpose(np.argsort(layout)))


def normalize_intensity(image, spacing):
    """Put air at 0 and the median of the brain at 1; whole heads and stripped brains alike.

    The brain is taken from the middle of the head: the central half, along each axis, of the foreground's
    extent, of which only the upper 150 mm count. Beyond ten times the brain, intensities are compressed.

    Parameters
    ----------
    image : ndarray of shape (x, y, z), dtype=float32
        RAS+ order, any unit, negative values allowed.
    spacing : array-like of shape (3,)
        Millimetres per voxel.

    Returns
    -------
    ndarray of shape (x, y, z), dtype=float32

    Raises
    ------
    GeometryError
        If the image has one intensity only.
    """
    floor, top = _intensity_range(image)
    foreground = image > floor + 0.1 * (top - floor)
    center = []
    for axis in range(3):
        share = foreground.mean(axis=tuple(a for a in range(3) if a != axis))
        inside = np.flatnonzero(share > 0.1 * share.max())  # a tenth: ignore noise and the table
        low, high = inside[0], inside[-1] + 1
        if axis == 2:
            low = max(low, high - int(np.ceil(150 / spacing[2])))
        quarter = (high - low) // 4
        center.append(slice(low + quarter, max(high - quarter, low + quarter + 1)))
    brain = image[tuple(center)][foreground[tuple(center)]]
    unit = (np.median(brain) if brain.size else top) - floor
    scaled = np.maximum((image - floor) / max(unit, 1e-6 * (top - floor)), 0)
    return np.where(scaled > 10, 10 + np.log1p(np.maximum(scaled - 10, 0)), scaled).astype(np.float32)


def head_level(image):
    """Return the intensity of air, and that above which an image shows the head; raise if it is constant."""
    floor, top = _intensity_range(image)
    return floor, floor + 0.1 * (top - floor)


def _intensity_range(image):
    """Return the intensities of air and of the brightest tissue, or raise ``GeometryError``."""
    sample = image[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)]
    floor, top = np.percentile(sample, (0.5, 99))
    if top <= floor:
        floor, top = float(image.min()), float(image.max())
    if top <= floor:
        raise GeometryError(f"The image has one intensity only ({floor:g}), so it shows nothing.")
    return floor, top


def _axis_weights(n_in, n_out, ratio, start):
    """Yield the matrix that resamples an axis by `ratio` from `start`, in blocks with their first column."""
    reach = int(np.ceil(max(ratio, 1.0)))
    for row in range(0, n_out, _ROWS):
        position = start + (np.arange(row, min(row + _ROWS, n_out)) + 0.5) * ratio - 0.5
        position = np.clip(position, 0, n_in - 1)
        first, last = max(0, int(position[0]) - reach), min(n_in, int(position[-1]) + reach + 1)
        distance = np.abs(position[:, None] - np.arange(first, last)[None])
        weights = np.maximum(0, 1 - distance / max(ratio, 1.0))
        yield torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)), first
