"""`Cohort`: a sequence of tumors with a table of them."""

from functools import cached_property

import numpy as np

from tumorsim.exceptions import CohortError
from tumorsim.records._tumor import MEASURES, Tumor

__all__ = ["Cohort", "group_by_case"]

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
    >>> from tumorsim import Case
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

    def _repr_html_(self):
        from tumorsim.records._view import cohort_html

        return cohort_html(self)

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
        for indices in group_by_case(self):
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

        groups = group_by_case(self)
        problems = []
        for rows in tqdm(groups, "checking scans", disable=None if progress else True, leave=False):
            tumors = [self[row] for row in rows]
            case = tumors[0].case
            for step in _case_checks(case, tumors, voxels):
                try:
                    step()
                except (OSError, ValueError) as err:
                    problems.append(f"case '{case.case_id}' ({_name_of(case.image)}): {err}")
                    break
        if problems:
            many = f"{len(problems)} of {len(groups)} scans cannot be used:"
            raise CohortError("\n  ".join([many, *problems]))


def group_by_case(tumors):
    """Return row numbers grouped by case, in order of first appearance; list of lists."""
    groups = {}
    for row, tumor in enumerate(tumors):
        groups.setdefault(id(tumor.case), []).append(row)
    return list(groups.values())


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


def _index_dtype(key):
    """Choose bool or int for an index sequence; an empty list selects nothing."""
    kind = np.asarray(key).dtype.kind
    if kind == "b":
        return bool
    if kind in "iu" or len(key) == 0:
        return np.int64
    raise TypeError(f"A Cohort is indexed by integers, booleans or a slice. Got {key!r}.")


def _name_of(source):
    """Return the path of a source, or 'in memory'."""
    return source if isinstance(source, str) else "in memory"
