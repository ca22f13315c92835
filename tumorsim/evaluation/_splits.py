"""Splits of an archive that keep a patient, or a run of case numbers, on one side."""

import numpy as np

from tumorsim._validation import check_integer, check_real

__all__ = ["block_folds", "split_patients"]


def block_folds(labels, n_folds=5):
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


def split_patients(patient_ids, *, test_share=0.2, random_state=0):
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
