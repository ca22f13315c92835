"""Splits that keep a patient on one side, and checks that no query can meet itself in the gallery."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tumorsim._validation import check_integer, check_real
from tumorsim.manifest import save_manifest

__all__ = ["block_folds", "check_apart", "check_one_patient", "hold_out_patients", "split_patients"]

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


def split_patients(
    patient_ids: ArrayLike, *, test_share: float = 0.2, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two so that no patient is on both sides.

    Parameters
    ----------
    patient_ids : array-like of shape (n_tumors,)
    test_share : float, default=0.2
        Share of the patients, greater than 0 and less than 1, that are held out.
    random_state : int, default=0

    Returns
    -------
    train_rows, test_rows : ndarray of int64
        In ascending order.

    Raises
    ------
    ValueError
        If a side would be empty.

    Examples
    --------
    >>> train, test = split_patients(["a", "a", "b", "c"], test_share=0.3)
    >>> len(train) + len(test)
    4
    """
    patient_ids = np.asarray(patient_ids, dtype=str)
    patients = np.unique(patient_ids)
    n_test = round(check_real(test_share, "test_share", minimum=0, maximum=1) * len(patients))
    if not 0 < n_test < len(patients):
        raise ValueError(
            f"Parameter 'test_share' must leave patients on both sides. Got {test_share} of {len(patients)}."
        )
    held_out = np.random.default_rng(random_state).permutation(patients)[:n_test]
    is_test = np.isin(patient_ids, held_out)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def hold_out_patients(cohort, model, *, test_share=0.2, random_state=0):
    """Split a cohort as `split_patients`, and write both sides beside a model file.

    Beside ``m.safetensors`` they are ``m-trained.csv`` and ``m-held-out.csv``; returns both cohorts.
    """
    split = split_patients(cohort.patient_ids, test_share=test_share, random_state=random_state)
    sides = [cohort[rows] for rows in split]
    for side, name in zip(sides, ("trained", "held-out"), strict=True):
        save_manifest(side, Path(model).with_name(f"{Path(model).stem}-{name}.csv"))
    return sides


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


def check_one_patient(table: pd.DataFrame, query_table: pd.DataFrame) -> None:
    """Raise if a tumor is in gallery and queries under two patients: its own copy would be its neighbor."""
    if "tumor_id" not in table or "tumor_id" not in query_table:
        return
    both = table[["tumor_id", "patient_id"]].merge(query_table[["tumor_id", "patient_id"]], on="tumor_id")
    wrong = both[both["patient_id_x"] != both["patient_id_y"]]
    if len(wrong):
        first = wrong.iloc[0]
        raise ValueError(
            f"A tumor must have one patient. Got '{first['tumor_id']}' of '{first['patient_id_x']}' in the "
            f"gallery and of '{first['patient_id_y']}' in the queries ({len(wrong)} such tumors)."
        )


def _rounded(table):
    """Return the measures that survive a mirror, to a thousandth, of tumors that have all of them."""
    values = table[list(SAME_IN_A_MIRROR)].astype(float).round(3)
    named = values.assign(tumor=table["tumor_id"] if "tumor_id" in table else np.arange(len(table)))
    return named[np.isfinite(values.to_numpy()).all(axis=1)]
