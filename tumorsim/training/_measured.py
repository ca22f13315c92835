"""A head that is learned from embeddings and measured columns, once the network is trained."""

import numpy as np

from tumorsim._validation import is_missing
from tumorsim.geometry import ENHANCEMENT
from tumorsim.records.columns import IN_SCAN
from tumorsim.spaces import MeasuredHead, read_measure

COLUMNS = ("volume_mm3", "sphericity", "elongation", *ENHANCEMENT, IN_SCAN)


def fit_measured_head(X, table, labels, classes, *, sample_weight=None, possible=None, C=0.05):
    """Return a `MeasuredHead` by multinomial logistic regression, an archive's classes weighing the same.

    Parameters
    ----------
    X : ndarray of shape (n_tumors, n_features)
    table : DataFrame
        Their columns; those of `COLUMNS` that are there are read.
    labels : array-like of shape (n_tumors,)
        What is not among the `classes` is left out.
    classes : list of str
        At least two, each of which needs tumors.
    sample_weight : array-like of shape (n_tumors,), optional
    possible : array-like of shape (n_tumors, n_classes), dtype=bool, optional
        Classes that a tumor's archive holds, and is told from: one collected of few types does not teach that
        its scanners speak against the rest. Default: all.
    C : float, default=0.05
        Inverse strength of the L2 penalty on standardized inputs.

    Raises
    ------
    ValueError
        If a class has no tumor.
    """
    labels = np.array(["" if is_missing(label) else str(label) for label in labels], dtype=object)
    truth = labels[:, None] == np.array(classes, dtype=object)
    empty = [name for name, members in zip(classes, truth.T, strict=True) if not members.any()]
    if empty or len(classes) < 2:
        raise ValueError(f"A measured head needs tumors of each class, of two at least. Got none of {empty}.")
    rows, k, columns = truth.any(axis=1), len(classes), {}
    for name in (name for name in COLUMNS if name in table):
        values = read_measure(table, name)[rows]
        if np.isfinite(values).any():
            low, high = np.nanpercentile(values, (1, 99))
            columns[name] = (low, np.nanmean(np.clip(values, low, high)), high), np.zeros((2, k))
    terms = MeasuredHead(np.zeros((k, X.shape[1])), np.zeros(k), columns).terms(table)
    inputs = np.hstack([X, np.broadcast_to(terms, (len(X), terms.shape[1]))])[rows]
    middle, unit = inputs.mean(axis=0), inputs.std(axis=0)
    unit[unit == 0] = 1
    weight = np.array(np.ones(len(rows)) if sample_weight is None else sample_weight, dtype=float)
    possible = np.ones_like(truth) if possible is None else np.asarray(possible, dtype=bool)
    truth, weight, possible = truth[rows], weight[rows], possible[rows]
    for kind in np.unique(possible, axis=0):
        here = (possible == kind).all(axis=1)
        sums = weight[here] @ truth[here]
        weight[here] *= sums.sum() / np.count_nonzero(sums) / (truth[here] @ sums)
    found = _regress((inputs - middle) / unit, truth, C * weight / weight.mean(), ~truth & ~possible).T
    slopes = found[:, :-1] / unit
    parts = slopes[:, X.shape[1] :].T.reshape(-1, 2, k)
    columns = {name: (held[0], part) for (name, held), part in zip(columns.items(), parts, strict=True)}
    return MeasuredHead(slopes[:, : X.shape[1]], found[:, -1] - slopes @ middle, columns)


def _regress(inputs, truth, weight, barred):
    """Return slopes and, last, offsets (p + 1, k) of a softmax over classes that are not `barred` (n, k)."""
    from scipy import optimize, special

    def loss(flat):
        slopes, offsets = np.split(flat.reshape(shape), [-1])
        logs = special.log_softmax(np.where(barred, -np.inf, inputs @ slopes + offsets), axis=1)
        error = weight[:, None] * (np.exp(logs) - truth)
        gradient = np.vstack([inputs.T @ error + slopes, error.sum(axis=0)])
        return (slopes**2).sum() / 2 - weight @ logs[truth], gradient.ravel()

    shape = (inputs.shape[1] + 1, truth.shape[1])
    return optimize.minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)
