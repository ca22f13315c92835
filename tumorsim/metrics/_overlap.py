"""How much two rankings or two masks have in common."""

import numpy as np

from tumorsim.metrics._checks import check_cutoff, check_gallery

__all__ = ["dice", "neighbor_overlap_at_k"]


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
        check_gallery(array)
        k = check_cutoff(k, array)
    if len(first) != len(second):
        raise ValueError(
            f"Both rankings must have one row per query. Got {len(first)} and {len(second)} rows."
        )
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
