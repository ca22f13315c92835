"""Scores of a ranking: arrays in, numbers out."""

import numpy as np

from tumorsim.metrics._checks import (
    check_cutoff,
    check_ranked,
    check_relevance,
    check_total,
    divide,
    unwrap,
)

__all__ = [
    "average_precision",
    "mean_average_precision",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
]


def precision_at_k(relevance, k):
    """Return the share of relevant tumors among the `k` nearest.

    Parameters
    ----------
    relevance : array-like of shape (n_ranked,) or (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.
    k : int
        Cutoff, from 1 to n_ranked.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        Precision of each query.

    Raises
    ------
    ValueError
        If the gallery is empty, `k` is larger than it, or relevance is not 0 or 1.

    Examples
    --------
    >>> precision_at_k([1, 0, 1, 0], 3)
    0.6666666666666666
    """
    relevant, single = check_relevance(relevance)
    k = check_cutoff(k, relevant)
    return unwrap(relevant[:, :k].mean(axis=1), single)


def recall_at_k(relevance, k, *, n_relevant=None):
    """Return the share of all relevant tumors that is among the `k` nearest.

    Parameters
    ----------
    relevance : array-like of shape (n_ranked,) or (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.
    k : int
        Cutoff, from 1 to n_ranked.
    n_relevant : int or array-like of shape (n_queries,), optional
        Relevant tumors in the whole gallery; default those in `relevance`, which then must rank all of it.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        Recall of each query; NaN where nothing is relevant.

    Raises
    ------
    ValueError
        As `precision_at_k`, or if `n_relevant` is less than the relevant tumors in `relevance`.
    """
    relevant, single = check_relevance(relevance)
    k = check_cutoff(k, relevant)
    total = check_total(n_relevant, relevant)
    return unwrap(divide(relevant[:, :k].sum(axis=1), total), single)


def average_precision(relevance, *, n_relevant=None):
    """Return the precision averaged over the ranks of the relevant tumors.

    Parameters
    ----------
    relevance : array-like of shape (n_ranked,) or (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.
    n_relevant : int or array-like of shape (n_queries,), optional
        Relevant tumors in the whole gallery; default those in `relevance`.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        Average precision of each query; NaN where nothing is relevant.

    Raises
    ------
    ValueError
        As `recall_at_k`.

    Examples
    --------
    >>> average_precision([1, 0, 1])  # (1/1 + 2/3) / 2
    0.8333333333333333
    """
    relevant, single = check_relevance(relevance)
    total = check_total(n_relevant, relevant)
    ranks = np.arange(1, relevant.shape[1] + 1)
    precisions = np.cumsum(relevant, axis=1) / ranks
    return unwrap(divide((precisions * relevant).sum(axis=1), total), single)


def mean_average_precision(relevance, *, n_relevant=None):
    """Return `average_precision` averaged over the queries for which something is relevant.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.
    n_relevant : int or array-like of shape (n_queries,), optional
        Relevant tumors in the whole gallery; default those in `relevance`.

    Returns
    -------
    float
        The mean.

    Raises
    ------
    ValueError
        As `recall_at_k`, or if nothing is relevant for any query.
    """
    values = np.atleast_1d(average_precision(relevance, n_relevant=n_relevant))
    if np.isnan(values).all():
        raise ValueError("Mean average precision needs a query with a relevant tumor. Got none relevant.")
    return float(np.nanmean(values))


def reciprocal_rank(relevance):
    """Return 1 / rank of the first relevant tumor, 0 where none is relevant.

    Parameters
    ----------
    relevance : array-like of shape (n_ranked,) or (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        Reciprocal rank of each query.

    Raises
    ------
    ValueError
        If the gallery is empty or relevance is not 0 or 1.

    Examples
    --------
    >>> reciprocal_rank([0, 0, 1, 1])
    0.3333333333333333
    """
    relevant, single = check_relevance(relevance)
    first = np.argmax(relevant, axis=1)
    return unwrap(np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0), single)


def ndcg_at_k(gains, k, *, gallery_gains=None):
    """Return the normalized discounted cumulative gain of the `k` nearest, for graded relevance.

    Parameters
    ----------
    gains : array-like of shape (n_ranked,) or (n_queries, n_ranked)
        Non-negative gain of the neighbor of each rank, nearest first.
    k : int
        Cutoff, from 1 to n_ranked.
    gallery_gains : array-like of shape (n_gallery,) or (n_queries, n_gallery), optional
        Gains of the whole gallery, in any order, from which the best possible ranking is made; default
        `gains`, which then must rank all of it.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        Between 0 and 1; NaN where the whole gallery has no gain.

    Raises
    ------
    ValueError
        If the gallery is empty, `k` is larger than it, or a gain is negative or not finite.

    References
    ----------
    Järvelin and Kekäläinen, ACM TOIS 20 (2002): gain divided by log2(rank + 1).
    """
    ranked, single = check_ranked(gains, "gains")
    k = check_cutoff(k, ranked)
    pool = ranked if gallery_gains is None else check_ranked(gallery_gains, "gallery_gains")[0]
    if len(pool) != len(ranked):
        raise ValueError(
            f"'gallery_gains' must have one row per query. Got {len(pool)} rows for {len(ranked)} queries."
        )
    for name, array in (("gains", ranked), ("gallery_gains", pool)):
        if not np.isfinite(array).all() or (array < 0).any():
            raise ValueError(f"'{name}' must be finite and at least 0. Got {array.min()}.")
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = -np.sort(-pool, axis=1)[:, :k]
    return unwrap(divide(ranked[:, :k] @ discount, best @ discount[: best.shape[1]]), single)
