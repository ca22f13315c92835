"""What a space of embeddings is like: hubs, dimensions in use, how close classes lie and how evenly all."""

import numpy as np

from tumorsim._validation import check_real

__all__ = ["alignment", "antihub_share", "effective_rank", "hubness", "k_occurrence", "uniformity"]


def k_occurrence(neighbors, n_gallery):
    """Count how often each tumor of the gallery is among the neighbors of a query.

    Parameters
    ----------
    neighbors : array-like of shape (n_queries, k), dtype=int
        Row numbers of the k nearest gallery tumors.
    n_gallery : int
        Tumors in the gallery.

    Returns
    -------
    ndarray of shape (n_gallery,), dtype=int64
        For `hubness` and `antihub_share`.

    Raises
    ------
    ValueError
        If the gallery is empty, or a row number is not one of it.

    Examples
    --------
    >>> k_occurrence([[0, 1], [0, 2], [0, 1]], 4)
    array([3, 2, 1, 0])
    """
    neighbors = np.asarray(neighbors)
    if neighbors.ndim != 2 or neighbors.dtype.kind not in "iu":
        raise ValueError(
            f"'neighbors' must be row numbers (n_queries, k). Got shape {neighbors.shape}, {neighbors.dtype}."
        )
    if n_gallery < 1 or 0 in neighbors.shape:
        raise ValueError(
            f"The gallery must not be empty. Got {n_gallery} tumors, neighbors {neighbors.shape}."
        )
    if neighbors.min() < 0 or neighbors.max() >= n_gallery:
        raise ValueError(
            f"'neighbors' must be rows of the gallery, 0 to {n_gallery - 1}. Got {neighbors.min()} to "
            f"{neighbors.max()}."
        )
    return np.bincount(neighbors.ravel(), minlength=n_gallery)


def hubness(occurrence):
    """Return the skewness of the k-occurrence: large where a few tumors are everybody's neighbors.

    Parameters
    ----------
    occurrence : array-like of shape (n_gallery,)
        As `k_occurrence` counts it.

    Returns
    -------
    float
        0 where all occur equally often.

    References
    ----------
    Radovanović, Nanopoulos and Ivanović, "Hubs in Space", JMLR 11, 2487-2531, 2010.

    Examples
    --------
    >>> round(hubness([0, 0, 0, 4]), 3)
    1.155
    """
    counts = _occurrence(occurrence)
    centered = counts - counts.mean()
    spread = np.sqrt((centered**2).mean())
    return float((centered**3).mean() / spread**3) if spread > 0 else 0.0


def antihub_share(occurrence):
    """Return the share of gallery tumors that are nobody's neighbor.

    Parameters
    ----------
    occurrence : array-like of shape (n_gallery,)
        As `k_occurrence` counts it.

    Returns
    -------
    float
        From 0 to 1.

    Examples
    --------
    >>> antihub_share([3, 2, 1, 0])
    0.25
    """
    return float((_occurrence(occurrence) == 0).mean())


def effective_rank(X):
    """Return how many dimensions embeddings use: the exponential of the entropy of their singular values.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings, which are centered first.

    Returns
    -------
    float
        From 1 to the number of features; 0 where all tumors have one embedding.

    References
    ----------
    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Examples
    --------
    >>> round(effective_rank([[1, 0], [-1, 0], [0, 1], [0, -1]]), 6)
    2.0
    """
    X = _embeddings(X)
    size = np.linalg.svd(X - X.mean(axis=0), compute_uv=False)
    if size[0] <= 1e-12 * max(1.0, np.abs(X).max()):
        return 0.0
    share = size / size.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def alignment(X, labels):
    """Return the mean squared distance of tumors with one label, on the unit sphere; low is close.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings; their length is divided out.
    labels : array-like of shape (n_tumors,)
        Pairs of one label count; None and NaN are left out.

    Returns
    -------
    float
        From 0 to 4; NaN without a pair.

    References
    ----------
    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on
    the hypersphere", ICML 2020.

    Examples
    --------
    >>> round(alignment([[1, 0], [0, 2], [3, 0]], ["a", "a", "b"]), 6)
    2.0
    """
    X, labels = _embeddings(X), np.asarray(labels, dtype=object)
    if labels.shape != (len(X),):
        raise ValueError(f"'labels' must have an entry a tumor, {len(X)}. Got shape {labels.shape}.")
    known = np.array([value is not None and value == value for value in labels])
    squared, pairs = _pairs(X[known])
    names = labels[known].astype(str)
    same = names[pairs[0]] == names[pairs[1]]
    return float(squared[same].mean()) if same.any() else float("nan")


def uniformity(X, *, t=2.0):
    """Return the logarithm of the mean Gaussian potential of all pairs, on the unit sphere; low is even.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings; their length is divided out.
    t : float, default=2.0
        Of the potential ``exp(-t * squared distance)``.

    Returns
    -------
    float
        From ``-4 t`` to 0, which is all in one place.

    References
    ----------
    Wang and Isola, ICML 2020, as in `alignment`.

    Examples
    --------
    >>> round(uniformity([[1, 0], [2, 0], [-1, 0]], t=0.25), 4)  # (1 + 2 / e) / 3
    -0.5472
    """
    t = check_real(t, "t", minimum=0, exclusive=True)
    squared, _ = _pairs(_embeddings(X))
    return float(np.log(np.exp(-t * squared).mean()))


def _pairs(X):
    """Return squared distances of all pairs on the unit sphere, and the pairs' rows."""
    if len(X) < 2:
        raise ValueError(f"Pairs need at least two tumors. Got {len(X)}.")
    unit = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    pairs = np.triu_indices(len(X), 1)
    return np.maximum(2 - 2 * (unit @ unit.T)[pairs], 0), pairs


def _embeddings(X):
    """Return finite embeddings as float64 (n, n_features), not empty."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or 0 in X.shape or not np.isfinite(X).all():
        raise ValueError(
            f"'X' must be finite numbers (n_tumors, n_features), not empty. Got shape {X.shape}."
        )
    return X


def _occurrence(occurrence):
    """Return counts as float64 (n_gallery,), not empty."""
    counts = np.asarray(occurrence, dtype=np.float64)
    if counts.ndim != 1 or not len(counts) or (counts < 0).any():
        raise ValueError(f"'occurrence' must be counts, one a gallery tumor. Got shape {counts.shape}.")
    return counts
