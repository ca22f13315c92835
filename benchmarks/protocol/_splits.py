"""Folds of case numbers, and checks that no query can meet itself in the gallery."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from benchmarks._checks import check_integer

__all__ = ["block_folds", "check_apart"]

# what a copy, mirrored or not, has in common with its original; the place to the right changes in a mirror
SAME_IN_A_MIRROR = ("volume_mm3", "diameter_mm", "sphericity", "elongation", "y_mm", "z_mm")


def block_folds(labels: ArrayLike, n_folds: int = 5) -> np.ndarray:
    """Return the fold of each row: contiguous blocks within each label.

    Where case numbers run by label, a block of all rows would leave a label out; and since neighbors in
    number could be one patient, rows are not drawn at random.

    Parameters
    ----------
    labels : array-like of shape (n_tumors,)
        In the order of case numbers.
    n_folds : int, default=5

    Returns
    -------
    ndarray of shape (n_tumors,), dtype=int64
        From 0.

    Examples
    --------
    >>> block_folds(["a", "a", "b", "b"], 2)
    array([0, 1, 0, 1])
    """
    n_folds = check_integer(n_folds, "n_folds", minimum=2)
    labels = np.asarray(labels).astype(str)
    folds = np.zeros(len(labels), dtype=np.int64)
    for name in np.unique(labels):
        for fold, rows in enumerate(np.array_split(np.flatnonzero(labels == name), n_folds)):
            folds[rows] = fold
    return folds


def check_apart(gallery: pd.DataFrame, queries: pd.DataFrame) -> None:
    """Raise unless no query could meet itself in the gallery.

    Parameters
    ----------
    gallery, queries : DataFrame
        ``cohort.table`` of each: ``patient_id``, ``tumor_id``, measures.

    Raises
    ------
    ValueError
        If a tumor is on both sides, or a patient is, whatever the date; or if a tumor of one side has the
        size, shape and place of a tumor of another patient on the other side, as a scan has that was
        mirrored, or entered twice, under another name.
    """
    rules = {
        "tumor_id": "A query must not be in the gallery",
        "patient_id": "A patient must be on one side only, at all dates",
    }
    for column, rule in rules.items():
        if column in gallery and column in queries:
            both = sorted(set(gallery[column].astype(str)) & set(queries[column].astype(str)))
            if both:
                raise ValueError(f"{rule}. Got {column} '{both[0]}' on both sides ({len(both)} such).")
    if all(column in table for table in (gallery, queries) for column in SAME_IN_A_MIRROR):
        keys = [_rounded(table) for table in (gallery, queries)]
        twice = keys[1].merge(keys[0], on=list(SAME_IN_A_MIRROR), suffixes=("_query", "_gallery"))
        if len(twice):
            first = twice.iloc[0]
            raise ValueError(
                f"Copies and mirrored copies of a patient's scan must carry the patient's id. Got tumors "
                f"'{first['tumor_query']}' (query) and '{first['tumor_gallery']}' (gallery) of one size,"
                f" shape and place under two patients ({len(twice)} such pairs)."
            )


def _rounded(table):
    """Return the measures that survive a mirror, to a thousandth, of tumors that have all of them."""
    values = table[list(SAME_IN_A_MIRROR)].astype(float).round(3)
    named = values.assign(tumor=table["tumor_id"] if "tumor_id" in table else np.arange(len(table)))
    return named[np.isfinite(values.to_numpy()).all(axis=1)]
