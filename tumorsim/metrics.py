"""Scores of a ranking, and what two rankings or two masks have in common: arrays in, numbers out."""

import numpy as np

from tumorsim._validation import check_integer

__all__ = [
    "average_precision", "dice", "mean_average_precision", "ndcg_at_k", "neighbor_overlap_at_k",
    "precision_at_k", "recall_at_k", "reciprocal_rank",
]  # fmt: skip


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
    relevant, single = _check_relevance(relevance)
    k = _check_cutoff(k, relevant)
    return _unwrap(relevant[:, :k].mean(axis=1), single)


def recall_at_k(relevance, k, *, n_relevant=None):
    """Return the share of all relevant tumors that is among the `k` nearest.

    Parameters
    ----------
    relevance, k
        As in `precision_at_k`.
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
    relevant, single = _check_relevance(relevance)
    k = _check_cutoff(k, relevant)
    total = _check_total(n_relevant, relevant)
    return _unwrap(_divide(relevant[:, :k].sum(axis=1), total), single)


def average_precision(relevance, *, n_relevant=None):
    """Return the precision averaged over the ranks of the relevant tumors.

    Parameters
    ----------
    relevance, n_relevant
        As in `recall_at_k`.

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
    relevant, single = _check_relevance(relevance)
    total = _check_total(n_relevant, relevant)
    ranks = np.arange(1, relevant.shape[1] + 1)
    precisions = np.cumsum(relevant, axis=1) / ranks
    return _unwrap(_divide((precisions * relevant).sum(axis=1), total), single)


def mean_average_precision(relevance, *, n_relevant=None):
    """Return `average_precision` averaged over the queries for which something is relevant.

    Parameters
    ----------
    relevance : array-like of shape (n_queries, n_ranked)
        1 or True where the neighbor of that rank is relevant, nearest first.
    n_relevant : int or array-like of shape (n_queries,), optional
        As in `recall_at_k`.

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
    relevant, single = _check_relevance(relevance)
    first = np.argmax(relevant, axis=1)
    return _unwrap(np.where(relevant.any(axis=1), 1.0 / (first + 1), 0.0), single)


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
    ranked, single = _check_ranked(gains, "gains")
    k = _check_cutoff(k, ranked)
    pool = ranked if gallery_gains is None else _check_ranked(gallery_gains, "gallery_gains")[0]
    if len(pool) != len(ranked):
        got = f"{len(pool)} rows for {len(ranked)} queries"
        raise ValueError(f"'gallery_gains' must have one row per query. Got {got}.")
    for name, array in (("gains", ranked), ("gallery_gains", pool)):
        if not np.isfinite(array).all() or (array < 0).any():
            raise ValueError(f"'{name}' must be finite and at least 0. Got {array.min()}.")
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = -np.sort(-pool, axis=1)[:, :k]
    return _unwrap(_divide(ranked[:, :k] @ discount, best @ discount[: best.shape[1]]), single)


def neighbor_overlap_at_k(neighbors, other, k):
    """Return the share of the `k` nearest that two rankings have in common, averaged over queries.

    Parameters
    ----------
    neighbors, other : array-like of shape (n_queries, n_ranked)
        Ids or row numbers of the neighbors, nearest first; an id occurs once in a row.
    k : int
        Cutoff, from 1 to n_ranked.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the gallery is empty, `k` is larger than it, or the numbers of queries differ.

    Examples
    --------
    >>> neighbor_overlap_at_k([[1, 2, 3]], [[3, 1, 9]], 3)
    0.6666666666666666
    """
    first, second = np.atleast_2d(np.asarray(neighbors)), np.atleast_2d(np.asarray(other))
    for array in (first, second):
        _check_gallery(array)
        k = _check_cutoff(k, array)
    if len(first) != len(second):
        raise ValueError(f"Both rankings need one row per query. Got {len(first)} and {len(second)} rows.")
    shared = (first[:, :k, None] == second[:, None, :k]).any(axis=2)
    return float(shared.mean())


def dice(predicted, truth):
    """Return the Dice overlap ``2 |A ∩ B| / (|A| + |B|)`` of two masks; 1 if both are empty.

    Parameters
    ----------
    predicted, truth : array-like of one shape
        Non-zero is foreground.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> dice([1, 1, 0], [0, 1, 1])
    0.5
    """
    a, b = np.asarray(predicted) != 0, np.asarray(truth) != 0
    if a.shape != b.shape:
        raise ValueError(f"'predicted' and 'truth' must have one shape. Got {a.shape} and {b.shape}.")
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else float(2 * int((a & b).sum()) / total)


def _check_gallery(array):
    """Refuse anything but (n_queries, n_ranked) with neighbors in it."""
    if array.ndim != 2:
        raise ValueError(f"Rankings must have shape (n_ranked,) or (n_queries, n_ranked). Got {array.shape}.")
    if 0 in array.shape:
        raise ValueError(f"The gallery must not be empty. Got rankings of shape {array.shape}.")


def _check_ranked(values, name):
    """Return values as float64 (n_queries, n_ranked) and whether one query was given alone."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif" and array.size:
        raise ValueError(f"'{name}' must hold numbers. Got dtype {array.dtype}.")
    single = array.ndim == 1
    array = array.astype(np.float64)[None] if single else array.astype(np.float64)
    _check_gallery(array)
    return array, single


def _check_relevance(relevance):
    """Return relevance as 0.0 or 1.0, shape (n_queries, n_ranked), and whether one query was given alone."""
    array, single = _check_ranked(relevance, "relevance")
    if not np.isin(array, (0, 1)).all():
        raise ValueError("'relevance' must be 0 or 1. For graded relevance use ndcg_at_k.")
    return array, single


def _check_cutoff(k, ranked):
    """Return `k` as int between 1 and the number of ranked neighbors."""
    k = check_integer(k, "k", minimum=1)
    if k > ranked.shape[1]:
        raise ValueError(f"Parameter 'k' must be at most the {ranked.shape[1]} ranked neighbors. Got {k}.")
    return k


def _check_total(n_relevant, relevant):
    """Return the number of relevant tumors in the gallery of each query, shape (n_queries,)."""
    found = relevant.sum(axis=1)
    if n_relevant is None:
        return found
    total = np.broadcast_to(np.asarray(n_relevant, dtype=np.float64), found.shape)
    if (total < found).any():
        raise ValueError("'n_relevant' must be at least the number of relevant neighbors in 'relevance'.")
    return total


def _divide(numerator, denominator):
    """Return the quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _unwrap(values, single):
    """Return a float for a query given alone, else the array of shape (n_queries,)."""
    return float(values[0]) if single else values
