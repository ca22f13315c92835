"""Who asks whom: galleries and queries of other patients, and the order in which tumors answer."""

from hashlib import sha256

import numpy as np
import pandas as pd

from tumorsim._validation import check_choice
from tumorsim.evaluation._bootstrap import patient_weights
from tumorsim.evaluation._knn import _check_pair
from tumorsim.evaluation._leaks import check_apart

__all__ = ["Questions", "pair_blocks", "rank_gallery"]

METRICS = ("euclidean", "cosine", "hamming")


def rank_gallery(X, query_X, *, metric="euclidean"):
    """Return the rows of the gallery by distance from each query, nearest first.

    Parameters
    ----------
    X : array-like of shape (n_gallery, n_features)
    query_X : array-like of shape (n_queries, n_features)
    metric : {"euclidean", "cosine", "hamming"}, default="euclidean"

    Returns
    -------
    ndarray of shape (n_queries, n_gallery), dtype=int64
        Among equal distances the earlier row is first.

    Raises
    ------
    ValueError
        If the gallery or the queries are empty, not finite, or of another number of features.
    """
    from scipy.spatial.distance import cdist

    check_choice(metric, "metric", METRICS)
    X, query_X = (np.asarray(a, dtype=np.float64) for a in (X, query_X))
    for array, name in ((X, "X"), (query_X, "query_X")):
        if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
            raise ValueError(
                f"'{name}' must be finite numbers (n, n_features), not empty. Got shape {array.shape}."
            )
    if X.shape[1] != query_X.shape[1]:
        raise ValueError(
            f"Gallery and queries must have the same features. Got {X.shape[1]} and {query_X.shape[1]}."
        )
    return np.argsort(cdist(query_X, X, metric), axis=1, kind="stable")


def pair_blocks(X, table, query_X, query_table, folds):
    """Return embeddings and table of all tumors, and the rows of gallery and queries of each block."""
    X, table = _check_pair(X, table, "X", "table")
    if (query_X is None) != (query_table is None) or (query_X is None) == (folds is None):
        raise ValueError("Give either 'query_X' and 'query_table', or 'folds'. Got another choice of them.")
    if folds is not None:
        folds = np.asarray(folds)
        names = np.unique(folds)
        if folds.shape != (len(X),) or len(names) < 2:
            raise ValueError(f"'folds' must have an entry a tumor, {len(X)}, of two folds or more.")
        blocks = [(np.flatnonzero(folds != name), np.flatnonzero(folds == name)) for name in names]
    else:
        query_X, query_table = _check_pair(query_X, query_table, "query_X", "query_table")
        if X.shape[1] != query_X.shape[1]:
            raise ValueError(
                f"Gallery and queries must have the same features. Got {X.shape[1]} and {query_X.shape[1]}."
            )
        blocks = [(np.arange(len(X)), np.arange(len(X), len(X) + len(query_X)))]
        X, table = np.concatenate([X, query_X]), pd.concat([table, query_table], ignore_index=True)
    for gallery, query in blocks:
        check_apart(table.iloc[gallery], table.iloc[query])
    return X, table, blocks


class Questions:
    """Who asks whom, in which order tumors answer, and how often patients are drawn."""

    def __init__(self, X, table, blocks, metric, n_resamples, random_state):
        self.table = table
        self.blocks = blocks  # rows of gallery and of queries
        self.rows = np.concatenate([query for _, query in blocks])
        self.patients = table["patient_id"].to_numpy(dtype=str)[self.rows]
        # rows of the table, nearest first: a (n_queries, n_gallery) a block
        self.orders = [g[rank_gallery(X[g], X[q], metric=metric)] for g, q in blocks]
        self._drawing = random_state, n_resamples
        ids = table["tumor_id" if "tumor_id" in table else "patient_id"].astype(str).to_numpy()[self.rows]
        self.name = sha256(repr((random_state, n_resamples, ids.tolist())).encode()).hexdigest()[:16]

    def weights(self, known):
        """Return how often each of the known queries counts, (1 + n_resamples, n_known)."""
        return patient_weights(self.patients[known], *self._drawing)

    def lists(self, missing):
        """Return `orders` without the rows that are `missing` (n_rows,)."""
        return [order[~missing[order]].reshape(len(order), -1) for order in self.orders]
