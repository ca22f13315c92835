"""A head that is learned from embeddings and measured columns, once the network is trained."""

import numpy as np

from tumorsim._validation import is_missing
from tumorsim.geometry import ENHANCEMENT
from tumorsim.records.columns import IN_SCAN
from tumorsim.spaces import MeasuredHead, read_measure

COLUMNS = ("volume_mm3", "sphericity", "elongation", *ENHANCEMENT, IN_SCAN)


def fit_measured_head(X, table, labels, classes, *, sample_weight=None, C=0.05):
    """Return a `MeasuredHead` by multinomial logistic regression, classes weighing the same.

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
    C : float, default=0.05
        Inverse strength of the L2 penalty on standardized inputs.

    Raises
    ------
    ValueError
        If a class has no tumor.
    """
    from sklearn.linear_model import LogisticRegression

    labels = np.array(["" if is_missing(label) else str(label) for label in labels], dtype=object)
    of = [np.flatnonzero(labels == name) for name in classes]
    empty = [name for name, rows in zip(classes, of, strict=True) if not len(rows)]
    if empty or len(classes) < 2:
        raise ValueError(f"A measured head needs tumors of each class, of two at least. Got none of {empty}.")
    rows = np.sort(np.concatenate(of))
    k, columns = len(classes), {}
    for name in (name for name in COLUMNS if name in table):
        values = read_measure(table, name)[rows]
        if np.isfinite(values).any():
            low, high = np.nanpercentile(values, (1, 99))
            columns[name] = (low, np.nanmean(np.clip(values, low, high)), high), np.zeros((2, k))
    terms = MeasuredHead(np.zeros((k, X.shape[1])), np.zeros(k), columns).terms(table)
    inputs = np.hstack([X, np.broadcast_to(terms, (len(X), terms.shape[1]))])[rows]
    middle, unit = inputs.mean(axis=0), inputs.std(axis=0)
    unit[unit == 0] = 1
    weight = np.zeros(len(labels))
    for members in of:
        weight[members] = 1 if sample_weight is None else np.asarray(sample_weight)[members]
        weight[members] *= len(rows) / k / weight[members].sum()
    model = LogisticRegression(C=C, max_iter=5000)
    model.fit((inputs - middle) / unit, labels[rows].astype(str), sample_weight=weight[rows])
    found, offsets = model.coef_, model.intercept_
    if k == 2:
        found, offsets = np.vstack([-found, found]) / 2, np.hstack([-offsets, offsets]) / 2
    order = [list(model.classes_).index(name) for name in classes]
    found = found[order] / unit
    offsets, found = offsets[order] - found @ middle, found - found.mean(axis=0)
    slopes = found[:, X.shape[1] :].T.reshape(-1, 2, k)
    columns = {name: (held[0], part) for (name, held), part in zip(columns.items(), slopes, strict=True)}
    return MeasuredHead(found[:, : X.shape[1]], offsets - offsets.mean(), columns)
