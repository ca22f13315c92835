"""Splits that keep a patient on one side."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tumorsim._validation import check_real
from tumorsim.manifest import save_manifest


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
        got = f"Got {test_share} of {len(patients)}."
        raise ValueError(f"Parameter 'test_share' must leave patients on both sides. {got}")
    held_out = np.random.default_rng(random_state).permutation(patients)[:n_test]
    is_test = np.isin(patient_ids, held_out)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def hold_out_patients(cohort, model, *, test_share=0.2, random_state=0):
    """Split a cohort as `split_patients`, and write both sides beside a model file.

    Parameters
    ----------
    cohort : Cohort
        Tumors with patient ids.
    model : Path
        Model file; beside ``m.safetensors`` the manifests are ``m-trained.csv`` and ``m-held-out.csv``.
    test_share, random_state : float, int
        As in `split_patients`.

    Returns
    -------
    train, test : Cohort
        No patient is in both.
    """
    split = split_patients(cohort.patient_ids, test_share=test_share, random_state=random_state)
    sides = [cohort[rows] for rows in split]
    for side, name in zip(sides, ("trained", "held-out"), strict=True):
        save_manifest(side, Path(model).with_name(f"{Path(model).stem}-{name}.csv"))
    return sides


def check_one_patient(table: pd.DataFrame, query_table: pd.DataFrame) -> None:
    """Raise if a tumor is in gallery and queries under two patients: its own copy would be its neighbor."""
    if "tumor_id" not in table or "tumor_id" not in query_table:
        return
    both = table[["tumor_id", "patient_id"]].merge(query_table[["tumor_id", "patient_id"]], on="tumor_id")
    wrong = both[both["patient_id_x"] != both["patient_id_y"]]
    if len(wrong):
        first = wrong.iloc[0]
        got = f"'{first['tumor_id']}' of '{first['patient_id_x']}' in the gallery and"
        also = f"of '{first['patient_id_y']}' in the queries ({len(wrong)} such tumors)"
        raise ValueError(f"A tumor must have one patient. Got {got} {also}.")
