"""`Case`: one scan of a patient."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tumorsim.exceptions import GeometryError
from tumorsim.geometry import check_affine, check_same_grid, spacing_from_affine
from tumorsim.io import arrays_of_nibabel, load_image, read_geometry, states_orientation, voxel_key
from tumorsim.records._view import case_html
from tumorsim.records.columns import clean_id

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    Source = str | os.PathLike | SpatialImage | tuple[np.ndarray, np.ndarray]

_MOST_LESIONS = 20  # a mask of larger values is compared with the image
_MOST_VALUES = 1000  # of a mask; label maps of whole brains have 200
_MASK_REMEDY = "Name the file that holds the segmentation."


class Case:
    """One contrast-enhanced T1 scan of a patient, with its mask where there is one; files are read late.

    Parameters
    ----------
    image : str, Path, nibabel image or tuple (array, affine)
        A NIfTI or NRRD file, an image of nibabel (its voxels are read at once), or an array of shape
        (nx, ny, nz) with its affine (voxel → RAS+ mm).
    mask : str, Path, nibabel image or tuple (array, affine), optional
        Integers on the image's own grid, 0 background.
    case_id, patient_id : str
        Identifiers, kept as `columns.clean_id` writes them; a patient's scans share `patient_id`.

    Raises
    ------
    TypeError, ValueError, GeometryError
        If an id is missing, an array is not 3-D numeric, or its affine is no use.

    Examples
    --------
    >>> case = Case((np.zeros((7, 8, 9), np.float32), np.eye(4)), case_id="a", patient_id="p")
    >>> case.shape, case.spacing.tolist(), case.has_mask
    ((7, 8, 9), [1.0, 1.0, 1.0], False)
    """

    def __init__(self, image: Source, mask: Source | None = None, *, case_id: str, patient_id: str) -> None:
        self.case_id = clean_id(case_id, "case_id")
        self.patient_id = clean_id(patient_id, "patient_id")
        self.image = _check_source(image, f"image of case '{case_id}'")
        self.mask = None if mask is None else _check_source(mask, f"mask of case '{case_id}'")
        if hasattr(image, "dataobj"):
            self.states_orientation = states_orientation(image)
        self._voxel_key = None  # of the voxels that were read last

    def __repr__(self):
        return f"Case(case_id={self.case_id!r}, patient_id={self.patient_id!r}, has_mask={self.has_mask})"

    _repr_html_ = case_html

    @property
    def has_mask(self) -> bool:
        """Whether a mask was given."""
        return self.mask is not None

    @cached_property
    def _geometry(self):
        return _geometry_of(self.image)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (nx, ny, nz), from the header."""
        return self._geometry[0]

    @property
    def affine(self) -> np.ndarray:
        """Voxel → RAS+ mm, shape (4, 4), from the header."""
        return self._geometry[1]

    @property
    def spacing(self) -> np.ndarray:
        """Millimetres per voxel, shape (3,)."""
        return spacing_from_affine(self.affine)

    @cached_property
    def states_orientation(self) -> bool:
        """Whether the file says which way its axes point, so that left and right are known; arrays do."""
        return not isinstance(self.image, str) or states_orientation(self.image)

    def load_image(self) -> np.ndarray:
        """Return the voxels, shape (nx, ny, nz); a file is read each time.

        Raises
        ------
        GeometryError
            If the file cannot be read, or holds NaN or infinite voxels.
        """
        array = load_image(self.image)[0] if isinstance(self.image, str) else self.image[0]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            rule = f"The image of case '{self.case_id}' must be finite."
            got = f"Got {bad} NaN or infinite voxels{of_file(self.image)}."
            raise GeometryError(f"{rule} {got} Replace them, for instance by the background value.")
        self._voxel_key = voxel_key(array, self.affine)
        return array

    @property
    def voxel_key(self) -> str:
        """Hash of the voxels that were read last (`io.voxel_key`); where none were, the image is read."""
        if self._voxel_key is None:
            self.load_image()
        return self._voxel_key

    def load_mask(self) -> np.ndarray | None:
        """Return the mask's integers, shape (nx, ny, nz), or None where there is no mask.

        Raises
        ------
        GridMismatchError
            If it does not lie on the image's grid.
        GeometryError
            If it holds anything but whole numbers.
        ValueError
            If it is the image.
        """
        if self.mask is None:
            return None
        self.check_grid()
        array = np.ascontiguousarray(load_image(self.mask)[0] if isinstance(self.mask, str) else self.mask[0])
        if array.dtype.kind == "f":
            whole = np.isfinite(array) & (array == np.round(array))
            if not whole.all():
                rule = f"The mask of case '{self.case_id}' must hold whole numbers{of_file(self.mask)}."
                got = f"Got {int((~whole).sum())} voxels that are not."
                raise GeometryError(f"{rule} {got} Resample masks with nearest-neighbor interpolation.")
            array = array.astype(np.int32)
        if array.max() > _MOST_LESIONS and np.array_equal(array, self.load_image()):
            raise ValueError(f"The mask of case '{self.case_id}' has the voxels of its image. {_MASK_REMEDY}")
        if array.max() > _MOST_VALUES and len(np.unique(array)) > _MOST_VALUES:
            got = f"has more than {_MOST_VALUES} values, as an image has{of_file(self.mask)}"
            raise ValueError(f"The mask of case '{self.case_id}' {got}. {_MASK_REMEDY}")
        return array

    def check_grid(self) -> None:
        """Raise ``GridMismatchError`` unless image and mask are two files on one grid; reads headers."""
        if self.mask is not None:
            if isinstance(self.mask, str) and not os.path.exists(self.mask):
                raise FileNotFoundError(f"Mask '{self.mask}' of case '{self.case_id}' does not exist.")
            check_same_grid(self.shape, self.affine, *_geometry_of(self.mask), case_id=self.case_id)
            if isinstance(self.image, str) and isinstance(self.mask, str):
                if os.path.samefile(self.image, self.mask):
                    raise ValueError(f"The mask of case '{self.case_id}' is its image. {_MASK_REMEDY}")


def _geometry_of(source):
    """Return shape and affine of a checked source: a path, or (array, affine)."""
    return read_geometry(source) if isinstance(source, str) else (source[0].shape, source[1])


def _check_source(source, what):
    """Return a path as str, or (array, affine) checked."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if hasattr(source, "dataobj") and hasattr(source, "affine"):
        source = arrays_of_nibabel(source, what=f"The {what}")
    if not isinstance(source, tuple | list) or len(source) != 2:
        got = type(source).__name__
        raise TypeError(f"The {what} must be a path, a nibabel image or (array, affine). Got {got}.")
    array = np.asarray(source[0])
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "uif":
        raise TypeError(f"The {what} must be a numeric array. Got dtype {array.dtype}.")
    if array.ndim != 3 or 0 in array.shape:
        raise GeometryError(f"The {what} must be a 3-D array with voxels. Got shape {array.shape}.")
    return array, check_affine(source[1], what=what)


def of_file(source):
    """Return " in '<path>'" for a file, nothing for an array."""
    return f" in '{source}'" if isinstance(source, str) else ""
