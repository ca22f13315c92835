"""The rows of an archive that may be results of a query."""

import operator as op
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tumorsim._validation import check_choice, printable
from tumorsim.index._exact import empty
from tumorsim.index._tables import TO_MEASURE, check_ids, is_missing, kind_of, kind_of_dtype

_COMPARE = {"==": op.eq, "!=": op.ne, "<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}
_DATE, _FROM = re.compile(r"\d{4}-\d\d-\d\d"), re.compile(r"\d{4}(-\d\d(-\d\d.*)?)?")  # in order as text
MOST_LISTED = 12  # values of a column in a message
_SAME = {"same_patient": ("patient_id",), "same_case": ("patient_id", "case_id")}


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of the archive that may be results; the default is all of them.

    A query may not have rows of its own code; a negative query code is that of no row.
    """

    allowed: np.ndarray | None = None  # (n_rows,) booleans
    row_codes: np.ndarray | None = None  # (n_rows,) integers
    query_codes: np.ndarray | None = None  # (n_queries,) integers
    left_out: list | None = None  # of each query an array of rows that it may not have

    def of(self, queries):
        """Return the selection of some of the queries."""
        codes = None if self.query_codes is None else self.query_codes[queries]
        left_out = self.left_out and [self.left_out[i] for i in np.arange(len(self.left_out))[queries]]
        return Selection(self.allowed, self.row_codes, codes, left_out)

    def among(self, rows):
        """Return the selection where `rows`, ascending, are the whole archive."""
        allowed, codes = (None if part is None else part[rows] for part in (self.allowed, self.row_codes))
        left_out = self.left_out and [np.flatnonzero(np.isin(rows, some)) for some in self.left_out]
        return Selection(allowed, codes, self.query_codes, left_out)

    def pairs_allowed(self, of_query, row):
        """Tell for pairs of query and row whether the query may have the row, shape (n_pairs,)."""
        may = np.ones(len(row), dtype=bool) if self.allowed is None else self.allowed[row]
        if self.query_codes is not None:
            may &= self.query_codes[of_query] != self.row_codes[row]
        for query, rows in enumerate(self.left_out or ()):
            if len(rows):
                may &= (of_query != query) | ~np.isin(row, rows)
        return may

    def most_excluded(self):
        """Return the largest number of rows that one of the queries loses by its code or by name."""
        most = max(map(len, self.left_out or ()), default=0)
        if self.query_codes is None or not (self.query_codes >= 0).any():
            return most
        codes = self.query_codes[self.query_codes >= 0]
        return most + int(np.bincount(self.row_codes, minlength=codes.max() + 1)[codes].max())


def select(metadata, where, exclude, query_table, n_queries, codes_of):
    """Return the `Selection` of `where` and `exclude` of a search; `codes_of` is `Archive.codes`."""
    allowed = None if where is None else where_mask(metadata, where)
    if exclude is None:
        return Selection(allowed)
    if isinstance(exclude, str):
        check_choice(exclude, "exclude", tuple(_SAME))
        columns = _columns_of_same(exclude, metadata, query_table)
        row_codes, lookup = codes_of(columns)
        keys = zip(*(query_table[column] for column in columns), strict=True)
        query_codes = np.fromiter((lookup.get(key, -1) for key in keys), dtype=np.int64, count=n_queries)
        return Selection(allowed, row_codes, query_codes)
    if len(exclude) and all(isinstance(ids, list) for ids in exclude):
        if len(exclude) != n_queries:
            rule = f"Lists of tumor ids in 'exclude' must be as many as the {n_queries} queries."
            raise ValueError(f"{rule} Got {len(exclude)}.")
        rows = (np.flatnonzero(metadata["tumor_id"].isin(ids)) if ids else np.arange(0) for ids in exclude)
        return Selection(allowed, left_out=list(rows))
    if not all(isinstance(value, str) for value in exclude):
        rule = "Parameter 'exclude' must be 'same_patient', 'same_case' or tumor ids as text."
        raise TypeError(f"{rule} Got {exclude!r}.")
    others = ~metadata["tumor_id"].isin(list(exclude)).to_numpy()
    return Selection(others if allowed is None else allowed & others)


def where_mask(table: pd.DataFrame, where: Mapping[str, object]) -> np.ndarray:
    """Return which rows of a table meet all conditions of `where`.

    Parameters
    ----------
    table : DataFrame
        Metadata, such as ``index.metadata_``.
    where : mapping of str to condition
        Column to condition, as in `TumorIndex.search`.

    Returns
    -------
    ndarray of shape (n_rows,), dtype=bool

    Raises
    ------
    TypeError, ValueError
        If a column is unknown, or a condition does not suit its column.
    """
    if not isinstance(where, Mapping):
        raise TypeError(f"Parameter 'where' must map columns to conditions. Got {type(where).__name__}.")
    mask = np.ones(len(table), dtype=bool)
    for key, condition in where.items():
        column = key if key in table else f"label_{key}"
        if column not in table:
            listed = ", ".join(table.columns)
            rule = f"'where' must name columns of the metadata. Got {key!r}; columns are {listed}."
            raise ValueError(rule + TO_MEASURE.get(key, ""))
        mask &= _condition_mask(table[column], condition, column)
    return mask


def nearest_per_group(engine, X, n_neighbors, selection, codes, limit):
    """Return distances and rows (n_queries, n_neighbors) of `engine.nearest`, at most `limit` per code."""
    n = len(codes)
    distances, rows = empty(len(X), n_neighbors)
    pending, depth = np.arange(len(X)), min(2 * n_neighbors + 8, n)
    while len(pending):
        near, found = engine.nearest(X[pending], depth, selection.of(pending))
        held = found >= 0
        groups = (np.arange(len(found))[:, None] * (n + 1) + np.where(held, codes[found], n)).ravel()
        order = np.argsort(groups, kind="stable")
        occurrence = np.empty(found.shape, dtype=np.int64)
        occurrence.flat[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
        keep = held & (occurrence < limit)
        rank = np.cumsum(keep, axis=1) - 1
        done = (rank[:, -1] >= n_neighbors - 1) | ~held[:, -1] | (depth == n)
        query, place = np.nonzero(keep & (rank < n_neighbors) & done[:, None])
        target = pending[query], rank[query, place]
        distances[target], rows[target] = near[query, place], found[query, place]
        pending, depth = pending[~done], min(4 * depth, n)
    return distances, rows


def _columns_of_same(exclude, metadata, query_table):
    """Return the columns that must agree; a case id need only be unique within its patient."""
    needed = _SAME[exclude][-1]
    for what, table in (("metadata", metadata), ("query_metadata", query_table)):
        if table is None or needed not in table:
            got = "no table" if table is None else f"columns {', '.join(table.columns)}"
            raise ValueError(f"exclude='{exclude}' needs column '{needed}' in '{what}'. Got {got}.")
    check_ids(query_table, "query_metadata")
    return tuple(c for c in _SAME[exclude] if c in metadata and c in query_table)


def _condition_mask(series, condition, name):
    """Return which values of one column meet one condition."""
    pairs = [condition] if _is_comparison(condition) else condition
    if isinstance(pairs, list) and pairs and all(_is_comparison(pair) for pair in pairs):
        mask = np.logical_and.reduce([_compare(series, *pair, name) for pair in pairs])
        sought = [value for sign, value in pairs if sign == "=="] if len(pairs) == 1 else []
    else:
        several = isinstance(condition, list | tuple | set | frozenset | np.ndarray)
        sought = list(condition) if several else [condition]
        masks = [_compare(series, "==", value, name) for value in sought]
        mask = np.logical_or.reduce([np.zeros(len(series), dtype=bool), *masks])
    if not mask.any() and any(isinstance(value, str) for value in sought):
        values = " or ".join(repr(printable(value)) for value in sought)
        raise ValueError(f"'where' selects nothing: no '{name}' is {values}. {_held(series)}")
    return mask


def _held(series):
    """Say which values a column has, the most frequent ones first."""
    counts = series.value_counts()
    listed = ", ".join(f"{printable(value, 60)!r} ({n})" for value, n in counts[:MOST_LISTED].items())
    rest = f" and {len(counts) - MOST_LISTED} more" if len(counts) > MOST_LISTED else ""
    return f"Its values are {listed}{rest}." if len(counts) else "It has no values."


def _is_comparison(condition):
    """Tell whether a condition is (operator, value)."""
    pair = isinstance(condition, tuple) and len(condition) == 2
    return pair and isinstance(condition[0], str) and condition[0] in _COMPARE


def _compare(series, operator, value, name):
    """Return where `series` <operator> `value` holds; a missing value only equals None."""
    missing = series.isna().to_numpy()
    if is_missing(value):
        if operator not in ("==", "!="):
            raise ValueError(f"'where' cannot order column '{name}' by a missing value. Got {operator!r}.")
        return missing if operator == "==" else ~missing
    kind, mask = kind_of(value), np.zeros(len(series), dtype=bool)
    if missing.all():
        return mask
    present = series[~missing]
    kinds = {kind_of(v) for v in present} if series.dtype == object else {kind_of_dtype(series.dtype)}
    held = " and ".join(sorted(kinds))
    if kind not in kinds:
        raise TypeError(f"Column '{name}' holds {held}. Got {value!r} in 'where'.")
    if operator not in ("==", "!=") and len(kinds) > 1:
        raise TypeError(f"'where' cannot order column '{name}', which holds {held}.")
    if kind == "text" and operator not in ("==", "!=") and not _FROM.fullmatch(value):
        if all(map(_DATE.match, present)):
            raise ValueError(f"Column '{name}' holds dates such as 2024-05-31. Got {value!r} in 'where'.")
    mask[~missing] = np.asarray(_COMPARE[operator](present, value), dtype=bool)
    return mask
