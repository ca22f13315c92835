"""What a random ranking would score, relevance from ids, and means in which every class counts alike."""

import numpy as np

from benchmarks._checks import check_integer

__all__ = ["chance_levels", "macro_average", "ndcg_chance", "relevance_of_neighbors"]


def relevance_of_neighbors(neighbors, gallery_ids, gallery_labels, query_labels):
    """Return whether each neighbor has the label of its query.

    Parameters
    ----------
    neighbors : array-like of shape (n_queries, n_ranked)
        Ids of gallery tumors, nearest first.
    gallery_ids : array-like of shape (n_gallery,)
        Each once.
    gallery_labels : array-like of shape (n_gallery,)
        None or NaN is no label, and relevant for nobody.
    query_labels : array-like of shape (n_queries,)

    Returns
    -------
    ndarray of shape (n_queries, n_ranked), dtype=bool
        For `precision_at_k` and the others.

    Raises
    ------
    ValueError
        If the gallery is empty, an id is twice in it, or a neighbor is not in it.

    Examples
    --------
    >>> relevance_of_neighbors([["b", "a"]], ["a", "b"], ["glioma", "meningioma"], ["glioma"])
    array([[False,  True]])
    """
    ids, neighbors = np.asarray(gallery_ids), np.atleast_2d(np.asarray(neighbors))
    labels, wanted = np.asarray(gallery_labels, dtype=object), np.asarray(query_labels, dtype=object)
    if not len(ids):
        raise ValueError("The gallery must not be empty. Got no 'gallery_ids'.")
    if len(labels) != len(ids) or len(wanted) != len(neighbors):
        raise ValueError(
            "Labels must have one entry per gallery tumor and per query. Got "
            f"{len(labels)} for {len(ids)} tumors and {len(wanted)} for {len(neighbors)} queries."
        )
    order = np.argsort(ids, kind="stable")
    if len(np.unique(ids)) < len(ids):
        raise ValueError("'gallery_ids' must name each tumor once. Got one twice.")
    rows = order[np.minimum(np.searchsorted(ids, neighbors, sorter=order), len(ids) - 1)]
    unknown = ids[rows] != neighbors
    if unknown.any():
        raise ValueError(
            f"Every neighbor must be a tumor of the gallery. Got unknown id '{neighbors[unknown][0]}' "
            f"({int(unknown.sum())} such entries)."
        )
    same = labels[rows] == wanted[:, None]
    return same.astype(bool) & np.array([value is not None and value == value for value in wanted])[:, None]


def chance_levels(n_relevant, n_gallery, k):
    """Return what a random ranking scores on average.

    Parameters
    ----------
    n_relevant : int or array-like of shape (n_queries,)
        Relevant tumors in the gallery.
    n_gallery : int
        Tumors in the gallery.
    k : int
        Cutoff of precision and recall.

    Returns
    -------
    dict
        ``precision_at_k``, ``recall_at_k``, ``average_precision`` and ``reciprocal_rank``, each a float or an
        ndarray of shape (n_queries,); NaN where nothing is relevant, but 0 for precision and reciprocal rank.

    Raises
    ------
    ValueError
        If the gallery is empty, `k` is larger than it, or more are relevant than there are.

    Notes
    -----
    Of N tumors, R relevant: R / N; k / N; ``(H + (R - 1) (N - H) / (N - 1)) / N`` with the harmonic number H
    of N; and the mean of 1 / rank of the first of R ranks drawn without return.

    Examples
    --------
    >>> found = chance_levels(1, 2, 1)
    >>> found["precision_at_k"], found["average_precision"], found["reciprocal_rank"]
    (0.5, 0.75, 0.75)
    """
    k = _cutoff(k, n_gallery)
    single = np.ndim(n_relevant) == 0
    relevant = np.atleast_1d(np.asarray(n_relevant, dtype=np.int64))
    if (relevant < 0).any() or (relevant > n_gallery).any():
        raise ValueError(f"'n_relevant' must be from 0 to {n_gallery}, the gallery. Got {relevant.max()}.")
    harmonic = (1 / np.arange(1, n_gallery + 1)).sum()
    average = (harmonic + (relevant - 1) * (n_gallery - harmonic) / max(n_gallery - 1, 1)) / n_gallery
    first = {int(r): _first_rank(int(r), n_gallery) for r in np.unique(relevant)}
    found = {
        "precision_at_k": relevant / n_gallery,
        "recall_at_k": np.where(relevant > 0, k / n_gallery, np.nan),
        "average_precision": np.where(relevant > 0, average, np.nan),
        "reciprocal_rank": np.array([first[int(r)] for r in relevant]),
    }
    return {name: float(values[0]) if single else values for name, values in found.items()}


def ndcg_chance(gallery_gains, k):
    """Return what `ndcg_at_k` of a random ranking is on average.

    Parameters
    ----------
    gallery_gains : array-like of shape (n_gallery,) or (n_queries, n_gallery)
        Gains of the whole gallery, in any order.
    k : int
        Cutoff.

    Returns
    -------
    float, or ndarray of shape (n_queries,)
        NaN where the whole gallery has no gain.

    Raises
    ------
    ValueError
        If the gallery is empty or `k` is larger than it.
    """
    gains = np.asarray(gallery_gains, dtype=np.float64)
    k = _cutoff(k, gains.shape[-1])
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = -np.sort(-gains, axis=-1)[..., :k] @ discount
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing has a gain
        level = gains.mean(axis=-1) * discount.sum() / best
    return float(level) if gains.ndim == 1 else level


def macro_average(values, classes):
    """Return the mean of the classes' means, so that every class counts alike.

    Parameters
    ----------
    values : array-like of shape (n_queries,)
        NaN is left out, and a class of which nothing else is there.
    classes : array-like of shape (n_queries,)
        Class of each query.

    Returns
    -------
    float
        NaN where there is nothing to average.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> macro_average([1, 1, 1, 0], ["a", "a", "a", "b"])
    0.5
    """
    values, classes = np.asarray(values, dtype=np.float64), np.asarray(classes).astype(str)
    if values.shape != classes.shape or values.ndim != 1:
        raise ValueError(
            f"'values' and 'classes' must be of one length. Got {values.shape} and {classes.shape}."
        )
    known = ~np.isnan(values)
    if not known.any():
        return float("nan")
    means = [values[known & (classes == name)].mean() for name in np.unique(classes[known])]
    return float(np.mean(means))


def _first_rank(n_relevant, n_gallery):
    """Return the mean of 1 / rank of the first relevant tumor in a random order, 0 without any."""
    if not n_relevant:
        return 0.0
    ranks = np.arange(1, n_gallery - n_relevant + 1)
    later = (n_gallery - n_relevant - ranks + 1) / (n_gallery - ranks)  # P(first at rank + 1) / P(at rank)
    share = n_relevant / n_gallery * np.cumprod(np.concatenate([[1.0], later]))
    return float((share / np.arange(1, len(share) + 1)).sum())


def _cutoff(k, n_gallery):
    """Return `k` as int between 1 and the size of the gallery."""
    if not n_gallery:
        raise ValueError("The gallery must not be empty. Got no tumors.")
    if check_integer(k, "k", minimum=1) > n_gallery:
        raise ValueError(f"Parameter 'k' must be at most the {n_gallery} tumors of the gallery. Got {k}.")
    return int(k)
