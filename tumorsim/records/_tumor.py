"""`Tumor`: one lesion of a case."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from tumorsim._validation import check_box, check_mask_value, check_text
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import crop_slices, lesion_shape, select_mask
from tumorsim.records._case import Case, of_file
from tumorsim.records._view import tumor_html
from tumorsim.records.columns import MEASURES, clean_id, clean_label


class Tumor:
    """One lesion of a case: its box, its labels.

    Parameters
    ----------
    case : Case
        The scan that shows it.
    bbox : array-like of shape (2, 3)
        First voxel inside and first voxel outside, per axis, in voxels of the case.
    tumor_id : str
        Unique within a cohort, for instance ``"sub-012/1"``.
    labels : dict of str, optional
        Task → value; None or a missing key is an unknown label.
    mask_value : int or str, optional
        Voxels of the case's mask that are tumor: ``1``, ``"1+3"``; default all above 0, ``">0"``.
    metadata : dict, optional
        Further columns of the manifest, carried along untouched.

    Raises
    ------
    TypeError, GeometryError
        If an argument has the wrong type, or the box is malformed. Whether the box lies inside the image
        is checked by `check`, since that reads the header.
    """

    def __init__(
        self, case: Case, bbox: ArrayLike, *, tumor_id: str, labels: Mapping[str, object] | None = None,
        mask_value: int | str | None = None, metadata: Mapping[str, object] | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(case, Case):
            raise TypeError(f"'case' must be a Case. Got {type(case).__name__}.")
        self.case = case
        self.tumor_id = clean_id(tumor_id, "tumor_id")
        self.bbox = check_box(bbox, what=f"The box of tumor '{tumor_id}'")
        self.mask_value = ">0" if mask_value is None else str(mask_value)
        check_mask_value(self.mask_value)
        self.labels = {check_text(t, "task name"): clean_label(v, t) for t, v in (labels or {}).items()}
        self.metadata = dict(metadata or {})
        self._measured = None  # what `measure` found, and of which box and values

    def __repr__(self):
        labels = ", ".join(f"{k}={v!r}" for k, v in self.labels.items() if v is not None)
        return f"Tumor(tumor_id={self.tumor_id!r}{', ' + labels if labels else ''})"

    _repr_html_ = tumor_html

    @property
    def patient_id(self) -> str:
        """The patient's identifier."""
        return self.case.patient_id

    def check(self) -> None:
        """Raise ``GeometryError`` unless the box lies inside the image; reads the header only."""
        check_box(self.bbox, shape=self.case.shape, what=f"The box of tumor '{self.tumor_id}'")

    def load_mask(self) -> np.ndarray | None:
        """Return the lesion's voxels inside its box as bool, or None where the case has no mask."""
        mask = self.case.load_mask()
        return None if mask is None else self.select(mask)

    def select(self, mask: np.ndarray) -> np.ndarray:
        """Return as bool the lesion's voxels in the box, cut from the case's `mask` (nx, ny, nz)."""
        return select_mask(mask[crop_slices(self.bbox)], self.mask_value)

    def measure(self, mask: np.ndarray | None = None) -> dict[str, float]:
        """Return size, shape and place as a dict of float.

        Parameters
        ----------
        mask : ndarray of shape (nx, ny, nz), optional
            The case's mask if it is at hand; otherwise it is read.

        Returns
        -------
        dict
            The values of `geometry.lesion_shape` and the centroid ``x_mm, y_mm, z_mm`` in RAS+ mm of the
            scan. Without a mask, volume is that of the ellipsoid inside the box, diameter is the box's
            longest side, and shape is NaN.

        Raises
        ------
        GeometryError
            If the mask has no voxel in the box.
        """
        mask = self.case.load_mask() if mask is None else mask
        spacing = self.case.spacing
        if mask is None:
            sides = (self.bbox[1] - self.bbox[0]) * spacing
            shape = {"volume_mm3": float(np.pi / 6 * sides.prod()), "diameter_mm": float(sides.max())}
            shape |= {"sphericity": np.nan, "elongation": np.nan}
            center = (self.bbox.sum(axis=0) - 1) / 2
        else:
            inside = self.select(mask)
            if not inside.any():
                what = f"The mask of case '{self.case.case_id}' has no voxel of value {self.mask_value}"
                where = f"in the box of tumor '{self.tumor_id}'{of_file(self.case.mask)}"
                raise GeometryError(f"{what} {where}. Check mask_value.")
            shape = lesion_shape(inside, spacing)
            center = self.bbox[0] + np.argwhere(inside).mean(axis=0)
        x, y, z = self.case.affine[:3, :3] @ center + self.case.affine[:3, 3]
        return shape | {"x_mm": float(x), "y_mm": float(y), "z_mm": float(z)}

    def _table_measures(self, load_mask):
        """Return `MEASURES`: those of `metadata`; others are measured once, by the mask of `load_mask()`."""
        given = {name: self.metadata[name] for name in MEASURES if name in self.metadata}
        if len(given) == len(MEASURES):
            return given
        key = (self.case, self.bbox.tobytes(), self.mask_value)
        if self._measured is None or self._measured[0] != key:
            self._measured = key, self.measure(load_mask())
        return self._measured[1] | given


def check_tumors(tumors):
    """Return a list of Tumor, or raise ``TypeError``."""
    rule = "'tumors' must be a Cohort or a sequence of Tumor."
    if isinstance(tumors, Tumor):
        raise TypeError(f"{rule} Got one Tumor; wrap it in a list.")
    try:
        tumors = list(tumors)
    except TypeError as err:
        raise TypeError(f"{rule} Got {type(tumors).__name__}.") from err
    for tumor in tumors:
        if not isinstance(tumor, Tumor):
            raise TypeError(f"{rule} Got an element {type(tumor).__name__}.")
    return tumors
