"""`Cohort`: a sequence of tumors with a table of them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from tumorsim.exceptions import CohortError
from tumorsim.records._table import row_of_tumor, tumors_of_table
from tumorsim.records._tumor import Tumor
from tumorsim.records._view import cohort_html
from tumorsim.records.columns import ID_COLUMNS, LABEL_PREFIX, MEASURED_FROM, MEASURES, OWN_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    import pandas as pd

    from tumorsim.records._case import Case


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

    def __init__(self, tumors: Iterable[Tumor]) -> None:
        self._tumors = list(tumors)
        seen = set()
        for tumor in self._tumors:
            if not isinstance(tumor, Tumor):
                raise TypeError(f"A Cohort holds Tumor objects. Got {type(tumor).__name__}.")
            if tumor.tumor_id in seen:
                raise ValueError(f"A 'tumor_id' must be unique in a cohort. Got '{tumor.tumor_id}' twice.")
            seen.add(tumor.tumor_id)

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, *, check: bool = True,
        on_error: Callable[[Hashable, Exception], object] | None = None,
    ) -> Cohort:  # fmt: skip
        """Make a cohort from a table, one row per tumor: what `Cohort.table` returns, or a manifest holds.

        Parameters
        ----------
        table : DataFrame
            Columns as in `tumorsim.load_cohort`; ``image`` and ``mask`` may hold whatever `Case` takes.
        check : bool, default=True
            Whether files must exist, grids fit and boxes lie inside the image; headers are read for it.
        on_error : callable, optional
            Called with the name of a row in the table's index and the exception, for each row that cannot be
            used; the others are taken. Default: raise.

        Returns
        -------
        Cohort
            Tumors in the order of the rows; those of one scan share its Case.

        Raises
        ------
        ManifestError
            If a column is missing, or rows cannot be used: all of them are listed.

        Examples
        --------
        >>> import pandas as pd
        >>> row = {"patient_id": "p", "case_id": "a", "tumor_id": "a/1", "image": "a.nii.gz"}
        >>> row |= {"x0": 1, "y0": 2, "z0": 3, "x1": 4, "y1": 5, "z1": 6, "label_type": "glioma"}
        >>> cohort = Cohort.from_table(pd.DataFrame([row]), check=False)
        >>> cohort[0].labels, cohort[0].bbox.tolist()
        ({'type': 'glioma'}, [[1, 2, 3], [4, 5, 6]])
        """
        return cls(tumors_of_table(table, check=check, on_error=on_error))

    def __len__(self) -> int:
        return len(self._tumors)

    def __iter__(self) -> Iterator[Tumor]:
        return iter(self._tumors)

    def __getitem__(self, key: object) -> Tumor | Cohort:
        """Return a Tumor for an int, a Cohort for a slice, an integer array or a boolean array."""
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._tumors[key]
        rows = key if isinstance(key, slice) else np.asarray(key)
        if not isinstance(key, slice) and rows.dtype.kind != "b":
            if rows.dtype.kind not in "iu" and rows.size:
                raise TypeError(f"A Cohort is indexed by integers, booleans or a slice. Got {key!r}.")
            rows = rows.astype(np.int64)  # no rows are floats
        return Cohort(self._tumors[i] for i in np.atleast_1d(np.arange(len(self))[rows]))

    def __add__(self, other: Cohort) -> Cohort:
        if not isinstance(other, Cohort):
            return NotImplemented
        return Cohort([*self, *other])

    def __repr__(self):
        return f"Cohort({len(self)} tumors, {len(self.cases)} scans, {len(set(self.patient_ids))} patients)"

    _repr_html_ = cohort_html

    @property
    def patient_ids(self) -> np.ndarray:
        """Patient of each tumor, ndarray of str; pass it as ``groups=`` to scikit-learn's splitters."""
        return np.array([tumor.patient_id for tumor in self], dtype=object)

    @property
    def tumor_ids(self) -> np.ndarray:
        """Identifier of each tumor, ndarray of str."""
        return np.array([tumor.tumor_id for tumor in self], dtype=object)

    @property
    def cases(self) -> list[Case]:
        """The scans, each once, in order of first appearance."""
        return list({id(tumor.case): tumor.case for tumor in self}.values())

    @property
    def labels(self) -> pd.DataFrame:
        """DataFrame, one row per tumor, one column per task; a missing label is None."""
        import pandas as pd

        tasks = list(dict.fromkeys(task for tumor in self for task in tumor.labels))
        columns = {t: pd.Series([m.labels.get(t) for m in self], dtype=object) for t in tasks}
        return pd.DataFrame(columns, index=range(len(self)))

    @property
    def table(self) -> pd.DataFrame:
        """DataFrame, one row per tumor: ids, files, box, labels, further columns, size, shape and place.

        Measures that the manifest carries are taken from there; the others are worked out from the masks
        on first use. ``measured_from`` says whether size comes from the mask or only from the box.
        """
        import pandas as pd

        rows = [None] * len(self)
        for indices in group_by_case(self):
            load_mask = functools.cache(self[indices[0]].case.load_mask)
            for i in indices:
                rows[i] = row_of_tumor(self[i], self[i]._table_measures(load_mask))
        labels = self.labels.add_prefix(LABEL_PREFIX)
        table = pd.DataFrame(rows, columns=None if rows else [*ID_COLUMNS, "image"])
        first = [c for c in OWN_COLUMNS if c in table]
        last = [c for c in (*MEASURES, MEASURED_FROM) if c in table]
        return pd.concat([table[first], labels, table.drop(columns=[*first, *last]), table[last]], axis=1)

    def summary(self) -> pd.DataFrame:
        """Return counts by tumor type, as the paper's Table 1.

        Returns
        -------
        DataFrame
            One row per type and one for all: patients, scans, tumors, tumors per scan, median volume in ml
            and its 5th and 95th percentile. Tumors of unknown type are the row ``unknown``.
        """
        import pandas as pd

        table = self.table
        kind = table.get("label_type", pd.Series("unknown", table.index)).fillna("unknown")
        parts = [*table.groupby(kind.to_numpy()), ("all", table)]
        rows = {}
        for name, part in parts:
            volume = part["volume_mm3"].to_numpy(dtype=float) / 1000
            low, middle, high = np.percentile(volume, (5, 50, 95)) if len(part) else (np.nan,) * 3
            scans = len(part[["patient_id", "case_id"]].drop_duplicates())
            row = {"patients": part["patient_id"].nunique(), "scans": scans, "tumors": len(part)}
            row |= {"tumors_per_scan": len(part) / max(scans, 1), "median_volume_ml": middle}
            rows[name] = row | {"p5_volume_ml": low, "p95_volume_ml": high}
        return pd.DataFrame.from_dict(rows, orient="index").round(2).rename_axis("type")

    def check(self, *, voxels: bool = False, progress: bool = False) -> None:
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
            try:
                _ = case.shape
                case.check_grid()
                for tumor in tumors:
                    tumor.check()
                if voxels:
                    case.load_image()
                    mask = case.load_mask()
                    for tumor in tumors if case.has_mask else ():
                        tumor.measure(mask)
            except (OSError, ValueError) as err:
                source = case.image if isinstance(case.image, str) else "in memory"
                problems.append(f"case '{case.case_id}' ({source}): {err}")
        if problems:
            many = f"{len(problems)} of {len(groups)} scans cannot be used:"
            raise CohortError("\n  ".join([many, *problems]))


def group_by_case(tumors):
    """Return row numbers grouped by case, in order of first appearance; list of lists."""
    groups = {}
    for row, tumor in enumerate(tumors):
        groups.setdefault(id(tumor.case), []).append(row)
    return list(groups.values())
