"""Scores under weights of the queries, and the intervals that resampled patients give."""

import numpy as np
from numpy.typing import ArrayLike

N_RESAMPLES = 1_000


def patient_weights(patients: ArrayLike, random_state: int, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """Return how often each query counts in the sample itself and in each resample of patients.

    Parameters
    ----------
    patients : array-like of shape (n_queries,)
        Patient of each query; all queries of a patient count alike.
    random_state : int
        Seed; the same seed gives the same resamples of the same patients.
    n_resamples : int, default=1000
        Of the bootstrap.

    Returns
    -------
    ndarray of shape (1 + n_resamples, n_queries), dtype=float64
        The first row is one everywhere.
    """
    _, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    n = patient.max() + 1
    drawn = np.random.default_rng(random_state).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return np.vstack([np.ones(n), drawn])[:, patient]


def interval(values: np.ndarray) -> dict[str, float]:
    """Return a statistic with its 95 % interval.

    Parameters
    ----------
    values : ndarray of shape (1 + n_resamples,)
        The statistic of the sample, then of each resample; NaN where it is not defined.

    Returns
    -------
    dict
        ``value``, ``ci_low`` and ``ci_high``; the ends are NaN where no resample has a value.
    """
    defined = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(defined, (2.5, 97.5)) if len(defined) else (np.nan, np.nan)
    return {"value": float(values[0]), "ci_low": float(low), "ci_high": float(high)}


def balanced_accuracy(correct: np.ndarray, classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, for each row of weights, the mean over its classes of the weighted mean in the class.

    Parameters
    ----------
    correct : ndarray of shape (n_queries,)
        Whether each query was predicted correctly, or any score per query.
    classes : ndarray of shape (n_queries,)
        True class of each query.
    weights : ndarray of shape (n_weightings, n_queries)
        As `patient_weights` returns them.

    Returns
    -------
    ndarray of shape (n_weightings,), dtype=float64
        A class that a row of weights leaves out does not count in this row.
    """
    is_class = (classes[:, None] == np.unique(classes)).astype(float)
    total = weights @ is_class
    hits = weights @ (is_class * correct[:, None])
    held = total > 0
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=held)
    return recall.sum(axis=1) / held.sum(axis=1)


def mean_absolute_error(truth, predicted, weights):
    """Return the mean absolute error under each row of weights (n_weightings, n_queries)."""
    return weights @ np.abs(truth - predicted) / np.maximum(weights.sum(axis=1), 1)


def r2(truth, predicted, weights):
    """Return R² under each row of weights, NaN where the truth does not vary."""
    centered = truth - truth.mean()
    n = weights.sum(axis=1)
    total = weights @ centered**2 - (weights @ centered) ** 2 / np.maximum(n, 1)
    varies = total > 1e-12 * np.maximum(n, 1) * (centered**2).mean()
    lost = weights @ (truth - predicted) ** 2
    return 1 - np.divide(lost, total, out=np.full(len(n), np.nan), where=varies)


def spearman(truth, predicted, weights):
    """Return Spearman's ρ under each row of weights, NaN where a side does not vary."""
    found = []
    step = max(1, 2_000_000 // len(truth))  # rows of weights at a time, to bound the memory
    for start in range(0, len(weights), step):
        w = weights[start : start + step]
        a, b = (_centered_ranks(values, w) for values in (truth, predicted))
        product = np.sqrt((w * a * a).sum(axis=1) * (w * b * b).sum(axis=1))
        shared, missing = (w * a * b).sum(axis=1), np.full(len(w), np.nan)
        found.append(np.divide(shared, product, out=missing, where=product > 1e-9))
    return np.concatenate(found)


def _centered_ranks(values, weights):
    """Return mid-ranks about their mean, (n_weightings, n), as if value i occurred weights[:, i] times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    rank = np.cumsum(size, axis=1) - size / 2  # + 1/2, the same for all
    return rank[:, group] - weights.sum(axis=1, keepdims=True) / 2


STATISTICS = {"mae": mean_absolute_error, "r2": r2, "spearman": spearman}
