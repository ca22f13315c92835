"""What the house talks about: `Case` (a scan), `Tumor` (a lesion in it), `Cohort` (many tumors)."""

import os
from functools import cached_property

import numpy as np

from tumorsim._validation import check_box, check_mask_value, check_text
from tumorsim.exceptions import CohortError, GeometryError
from tumorsim.geometry import (
    check_affine,
    check_same_grid,
    crop_slices,
    lesion_shape,
    select_mask,
    spacing_from_affine,
)
from tumorsim.io import load_image, read_geometry

__all__ = ["Case", "Cohort", "Tumor"]

MEASURES = ("volume_mm3", "diameter_mm", "sphericity", "elongation", "x_mm", "y_mm", "z_mm")


class Case:
    """One contrast-enhanced T1 scan of a patient, with its mask where there is one; voxels are read late.

    Parameters
    ----------
    image : str, Path or tuple (array, affine)
        A NIfTI or NRRD file, or an array of shape (nx, ny, nz) with its affine (voxel → RAS+ mm).
    mask : str, Path or tuple (array, affine), optional
        Integers on the image's own grid, 0 background.
    case_id, patient_id : str
        Identifiers; a patient's scans share `patient_id`.

    Raises
    ------
    TypeError, GeometryError
        If an array is not 3-D numeric, or its affine is no use.

    Examples
    --------
    >>> case = Case((np.zeros((7, 8, 9), np.float32), np.eye(4)), case_id="a", patient_id="p")
    >>> case.shape, case.spacing.tolist(), case.has_mask
    ((7, 8, 9), [1.0, 1.0, 1.0], False)
    """

    def __init__(self, image, mask=None, *, case_id, patient_id):
        self.case_id = check_text(case_id, "case_id")
        self.patient_id = check_text(patient_id, "patient_id")
        self.image = _check_source(image, f"image of case '{case_id}'")
        self.mask = None if mask is None else _check_source(mask, f"mask of case '{case_id}'")

    def __repr__(self):
        return f"Case(case_id={self.case_id!r}, patient_id={self.patient_id!r}, has_mask={self.has_mask})"

    @property
    def has_mask(self):
        """Whether a mask was given."""
        return self.mask is not None

    @cached_property
    def _geometry(self):
        return (
            read_geometry(self.image) if isinstance(self.image, str) else (self.image[0].shape, self.image[1])
        )

    @property
    def shape(self):
        """Shape (nx, ny, nz), from the header."""
        return self._geometry[0]

    @property
    def affine(self):
        """Voxel → RAS+ mm, shape (4, 4), from the header."""
        return self._geometry[1]

    @property
    def spacing(self):
        """Millimetres per voxel, shape (3,)."""
        return spacing_from_affine(self.affine)

    def load_image(self):
        """Return the voxels, shape (nx, ny, nz); a file is read each time.

        Raises
        ------
        GeometryError
            If the file cannot be read, or holds NaN or infinite voxels.
        """
        array = load_image(self.image)[0] if isinstance(self.image, str) else self.image[0]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).sum())
            raise GeometryError(
                f"The image of case '{self.case_id}' must be finite. Got {bad} NaN or infinite voxels"
                f"{_of_file(self.image)}. Replace them, for instance by the background value."
            )
        return array

    def load_mask(self):
        """Return the mask's integers, shape (nx, ny, nz), or None where there is no mask.

        Raises
        ------
        GridMismatchError
            If it does not lie on the image's grid.
        GeometryError
            If it holds anything but whole numbers.
        """
        if self.mask is None:
            return None
        self.check_grid()
        array = load_image(self.mask)[0] if isinstance(self.mask, str) else self.mask[0]
        if array.dtype.kind == "f":
            whole = np.isfinite(array) & (array == np.round(array))
            if not whole.all():
                raise GeometryError(
                    f"The mask of case '{self.case_id}' must hold whole numbers{_of_file(self.mask)}. Got "
                    f"{int((~whole).sum())} voxels that are not. Resample masks with nearest-neighbor "
                    "interpolation."
                )
            array = array.astype(np.int32)
        return array

    def check_grid(self):
        """Raise ``GridMismatchError`` unless image and mask share a grid; reads headers only."""
        if self.mask is not None:
            mask = (
                read_geometry(self.mask) if isinstance(self.mask, str) else (self.mask[0].shape, self.mask[1])
            )
            check_same_grid(self.shape, self.affine, *mask, case_id=self.case_id)


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

    def __init__(self, case, bbox, *, tumor_id, labels=None, mask_value=None, metadata=None):
        if not isinstance(case, Case):
            raise TypeError(f"'case' must be a Case. Got {type(case).__name__}.")
        self.case = case
        self.tumor_id = check_text(tumor_id, "tumor_id")
        self.bbox = check_box(bbox, what=f"The box of tumor '{tumor_id}'")
        self.mask_value = ">0" if mask_value is None else str(mask_value)
        check_mask_value(self.mask_value)
        self.labels = {task: _check_label(value, task) for task, value in (labels or {}).items()}
        self.metadata = dict(metadata or {})

    def __repr__(self):
        labels = ", ".join(f"{k}={v!r}" for k, v in self.labels.items() if v is not None)
        return f"Tumor(tumor_id={self.tumor_id!r}{', ' + labels if labels else ''})"

    @property
    def patient_id(self):
        """The patient's identifier."""
        return self.case.patient_id

    def check(self):
        """Raise ``GeometryError`` unless the box lies inside the image; reads the header only."""
        check_box(self.bbox, shape=self.case.shape, what=f"The box of tumor '{self.tumor_id}'")

    def load_mask(self):
        """Return the lesion's voxels inside its box as bool, or None where the case has no mask."""
        mask = self.case.load_mask()
        return None if mask is None else self.select(mask)

    def select(self, mask):
        """Return as bool the lesion's voxels in the box, cut from the case's `mask` (nx, ny, nz)."""
        return select_mask(mask[crop_slices(self.bbox)], check_mask_value(self.mask_value))

    def measure(self, mask=None):
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
                raise GeometryError(
                    f"The mask of case '{self.case.case_id}' has no voxel of value {self.mask_value} in the "
                    f"box of tumor '{self.tumor_id}'{_of_file(self.case.mask)}. Check mask_value."
                )
            shape = lesion_shape(inside, spacing)
            center = self.bbox[0] + np.argwhere(inside).mean(axis=0)
        x, y, z = self.case.affine[:3, :3] @ center + self.case.affine[:3, 3]
        return shape | {"x_mm": float(x), "y_mm": float(y), "z_mm": float(z)}


class Cohort:
    """A sequence of tumors, sliced as scikit-learn's splitters slice.

    Parameters
    ----------
    tumors : iterable of Tumor
        Their ``tumor_id`` must be unique.

    Raises
    ------
    TypeError, ValueError
        If an element is not a Tumor, or two share an id.

    Examples
    --------
    >>> case = Case((np.zeros((7, 8, 9), np.float32), np.eye(4)), case_id="a", patient_id="p")
    >>> boxes = [[(0, 0, 0), (2, 2, 2)], [(3, 3, 3), (5, 6, 7)]]
    >>> labels = {"type": "glioma"}
    >>> cohort = Cohort(Tumor(case, b, tumor_id=f"a/{i}", labels=labels) for i, b in enumerate(boxes))
    >>> len(cohort), cohort[1].tumor_id, len(cohort[:1]), len(cohort[[True, False]])
    (2, 'a/1', 1, 1)
    """

    def __init__(self, tumors):
        self._tumors = list(tumors)
        seen = set()
        for tumor in self._tumors:
            if not isinstance(tumor, Tumor):
                raise TypeError(f"A Cohort holds Tumor objects. Got {type(tumor).__name__}.")
            if tumor.tumor_id in seen:
                raise ValueError(
                    f"Every 'tumor_id' must be unique in a cohort. Got '{tumor.tumor_id}' twice."
                )
            seen.add(tumor.tumor_id)

    def __len__(self):
        return len(self._tumors)

    def __iter__(self):
        return iter(self._tumors)

    def __getitem__(self, key):
        """Return a Tumor for an int, a Cohort for a slice, an integer array or a boolean array."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._tumors[key]
        chosen = np.arange(len(self))[
            key if isinstance(key, slice) else np.asarray(key, dtype=_index_dtype(key))
        ]
        cohort = Cohort(self._tumors[i] for i in np.atleast_1d(chosen))
        if "table" in self.__dict__:
            cohort.__dict__["table"] = self.table.iloc[np.atleast_1d(chosen)].reset_index(drop=True)
        return cohort

    def __add__(self, other):
        if not isinstance(other, Cohort):
            return NotImplemented
        return Cohort([*self, *other])

    def __repr__(self):
        return f"Cohort({len(self)} tumors, {len(self.cases)} scans, {len(set(self.patient_ids))} patients)"

    @property
    def patient_ids(self):
        """Patient of each tumor, ndarray of str; pass it as ``groups=`` to scikit-learn's splitters."""
        return np.array([tumor.patient_id for tumor in self], dtype=object)

    @property
    def tumor_ids(self):
        """Identifier of each tumor, ndarray of str."""
        return np.array([tumor.tumor_id for tumor in self], dtype=object)

    @property
    def cases(self):
        """The scans, each once, in order of first appearance."""
        return list({id(tumor.case): tumor.case for tumor in self}.values())

    @property
    def labels(self):
        """DataFrame, a row a tumor, a column a task; a missing label is None."""
        import pandas as pd

        tasks = list(dict.fromkeys(task for tumor in self for task in tumor.labels))
        columns = {t: pd.Series([m.labels.get(t) for m in self], dtype=object) for t in tasks}
        return pd.DataFrame(columns, index=range(len(self)))

    @cached_property
    def table(self):
        """DataFrame, a row a tumor: ids, files, box, labels, further columns, size, shape and place.

        Measures that the manifest carries are taken from there; the others are worked out from the masks
        on first use. ``measured_from`` says whether size comes from the mask or only from the box.
        """
        import pandas as pd

        rows = [None] * len(self)
        by_case = {}
        for i, tumor in enumerate(self):
            by_case.setdefault(id(tumor.case), []).append(i)
        for indices in by_case.values():
            case = self[indices[0]].case
            needed = any(set(MEASURES) - set(self[i].metadata) for i in indices)
            mask = case.load_mask() if needed else None
            for i in indices:
                rows[i] = _row(self[i], mask)
        labels = self.labels.add_prefix("label_")
        table = pd.DataFrame(rows, columns=None if rows else ["patient_id", "case_id", "tumor_id", "image"])
        first = [c for c in _ROW_COLUMNS if c in table]
        last = [c for c in (*MEASURES, "measured_from") if c in table]
        return pd.concat([table[first], labels, table.drop(columns=[*first, *last]), table[last]], axis=1)

    def summary(self):
        """Return counts by tumor type, as the paper's Table 1.

        Returns
        -------
        DataFrame
            A row a type and one for all: patients, scans, tumors, tumors a scan, median volume in ml and
            its 5th and 95th percentile. Tumors of unknown type are the row ``unknown``.
        """
        import pandas as pd

        table = self.table
        kind = (
            table["label_type"].fillna("unknown")
            if "label_type" in table
            else pd.Series("unknown", table.index)
        )
        parts = [*table.groupby(kind.to_numpy()), ("all", table)]
        rows = {}
        for name, part in parts:
            volume = part["volume_mm3"].to_numpy(dtype=float) / 1000
            low, middle, high = np.percentile(volume, (5, 50, 95)) if len(part) else (np.nan,) * 3
            scans = len(part[["patient_id", "case_id"]].drop_duplicates())
            rows[name] = {
                "patients": part["patient_id"].nunique(),
                "scans": scans,
                "tumors": len(part),
                "tumors_per_scan": round(len(part) / max(scans, 1), 2),
                "median_volume_ml": round(middle, 2),
                "p5_volume_ml": round(low, 2),
                "p95_volume_ml": round(high, 2),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("type")

    def check(self, *, voxels=False, progress=False):
        """Look for geometry errors in every scan and report all of them together.

        Parameters
        ----------
        voxels : bool, default=False
            Read the voxels too: NaN or infinite intensities, masks without a voxel in the box.
        progress : bool, default=False
            Show a progress bar.

        Raises
        ------
        CohortError
            With one line a bad scan: case, file, reason.
        """
        from tqdm import tqdm

        by_case = {}
        for tumor in self:
            by_case.setdefault(id(tumor.case), (tumor.case, []))[1].append(tumor)
        problems = []
        for case, tumors in tqdm(by_case.values(), "checking scans", disable=not progress, leave=False):
            for step in _case_checks(case, tumors, voxels):
                try:
                    step()
                except (OSError, ValueError) as err:
                    problems.append(f"case '{case.case_id}' ({_name_of(case.image)}): {err}")
                    break
        if problems:
            many = f"{len(problems)} of {len(by_case)} scans cannot be used:"
            raise CohortError("\n  ".join([many, *problems]))


_ROW_COLUMNS = (
    "patient_id",
    "case_id",
    "tumor_id",
    "image",
    "mask",
    "mask_value",
    "x0",
    "y0",
    "z0",
    "x1",
    "y1",
    "z1",
)


def _case_checks(case, tumors, voxels):
    """Yield the checks of one scan, cheap ones first."""
    yield lambda: case.shape
    yield case.check_grid
    for tumor in tumors:
        yield tumor.check
    if voxels:
        yield case.load_image
        if case.has_mask:
            mask = []
            yield lambda: mask.append(case.load_mask())
            for tumor in tumors:
                yield lambda tumor=tumor: tumor.measure(mask[0])


def _row(tumor, mask):
    """Return one tumor's manifest columns and measures as a dict; `mask` is its case's, if it is needed."""
    case = tumor.case
    given = {name: tumor.metadata[name] for name in MEASURES if name in tumor.metadata}
    measures = given if len(given) == len(MEASURES) else tumor.measure(mask) | given
    row = {"patient_id": case.patient_id, "case_id": case.case_id, "tumor_id": tumor.tumor_id}
    row["image"] = case.image if isinstance(case.image, str) else None
    row["mask"] = case.mask if isinstance(case.mask, str) else None
    row["mask_value"] = tumor.mask_value
    row |= dict(zip(("x0", "y0", "z0", "x1", "y1", "z1"), tumor.bbox.ravel().tolist(), strict=True))
    taken = {*row, *measures, "measured_from"}
    row |= {name: value for name, value in tumor.metadata.items() if name not in taken}
    row |= {name: measures[name] for name in MEASURES}
    row["measured_from"] = tumor.metadata.get("measured_from", "mask" if case.has_mask else "box")
    return row


def _check_source(source, what):
    """Return a path as str, or (array, affine) checked."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if not isinstance(source, tuple | list) or len(source) != 2:
        raise TypeError(f"The {what} must be a path or (array, affine). Got {type(source).__name__}.")
    array = np.asarray(source[0])
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "uif":
        raise TypeError(f"The {what} must be a numeric array. Got dtype {array.dtype}.")
    if array.ndim != 3 or 0 in array.shape:
        raise GeometryError(f"The {what} must be a 3-D array with voxels. Got shape {array.shape}.")
    return array, check_affine(source[1], what=what)


def _check_label(value, task):
    """Return a label as str, or None where it is missing (None, NaN, empty text)."""
    check_text(task, "task name")
    if (
        value is None
        or type(value).__name__ == "NAType"
        or value != value
        or (isinstance(value, str) and not value.strip())
    ):
        return None
    return check_text(str(value), f"label of task '{task}'")


def _index_dtype(key):
    """Choose bool or int for an index sequence; an empty list selects nothing."""
    kind = np.asarray(key).dtype.kind
    if kind == "b":
        return bool
    if kind in "iu" or len(key) == 0:
        return np.int64
    raise TypeError(f"A Cohort is indexed by integers, booleans or a slice. Got {key!r}.")


def _of_file(source):
    """Return " in '<path>'" for a file, nothing for an array."""
    return f" in '{source}'" if isinstance(source, str) else ""


def _name_of(source):
    """Return the path of a source, or 'in memory'."""
    return source if isinstance(source, str) else "in memory"
