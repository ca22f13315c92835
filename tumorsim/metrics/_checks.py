"""What rankings must be, with one wording."""

import numpy as np

from tumorsim._validation import check_integer

__all__ = [
    "check_cutoff",
    "check_gallery",
    "check_ranked",
    "check_relevance",
    "check_total",
    "divide",
    "unwrap",
]


def check_gallery(array):
    """Refuse anything but (n_queries, n_ranked) with neighbors in it."""
    if array.ndim != 2:
        raise ValueError(f"Rankings must have shape (n_ranked,) or (n_queries, n_ranked). Got {array.shape}.")
    if 0 in array.shape:
        raise ValueError(f"The gallery must not be empty. Got rankings of shape {array.shape}.")


def check_ranked(values, name):
    """Return values as float64 (n_queries, n_ranked) and whether one query was given alone."""
    array = np.asarray(values)
    if array.dtype.kind not in "buif" and array.size:
        raise ValueError(f"'{name}' must hold numbers. Got dtype {array.dtype}.")
    single = array.ndim == 1
    array = array.astype(np.float64)[None] if single else array.astype(np.float64)
    check_gallery(array)
    return array, single


def check_relevance(relevance):
    """Return relevance as 0.0 or 1.0, shape (n_queries, n_ranked), and whether one query was given alone."""
    array, single = check_ranked(relevance, "relevance")
    if not np.isin(array, (0, 1)).all():
        raise ValueError("'relevance' must be 0 or 1. For graded relevance use ndcg_at_k.")
    return array, single


def check_cutoff(k, ranked):
    """Return `k` as int between 1 and the number of ranked neighbors."""
    k = check_integer(k, "k", minimum=1)
    if k > ranked.shape[1]:
        raise ValueError(f"Parameter 'k' must be at most the {ranked.shape[1]} ranked neighbors. Got {k}.")
    return k


def check_total(n_relevant, relevant):
    """Return the number of relevant tumors in the gallery of each query, shape (n_queries,)."""
    found = relevant.sum(axis=1)
    if n_relevant is None:
        return found
    total = np.broadcast_to(np.asarray(n_relevant, dtype=np.float64), found.shape)
    if (total < found).any():
        raise ValueError("'n_relevant' must be at least the number of relevant neighbors in 'relevance'.")
    return total


def divide(numerator, denominator):
    """Return the quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def unwrap(values, single):
    """Return a float for a query given alone, else the array of shape (n_queries,)."""
    return float(values[0]) if single else values
