"""Metrics of the lab: hubs, dimensions and evenness of a space of embeddings, and correlated distances."""

import numpy as np

from benchmarks._checks import check_integer, check_real

__all__ = [
    "alignment",
    "antihub_share",
    "effective_rank",
    "hubness",
    "k_occurrence",
    "partial_mantel",
    "uniformity",
]


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
    """Return the skewness of the k-occurrence: large where a few tumors are neighbors of most others.

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
    """Return the share of gallery tumors that are no query's neighbor.

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
        raise ValueError(f"'labels' must have one entry per tumor, {len(X)}. Got shape {labels.shape}.")
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
    t = check_real(t, "t", exclusive=True)
    squared, _ = _pairs(_embeddings(X))
    return float(np.log(np.exp(-t * squared).mean()))


def partial_mantel(distances, others, controls=(), groups=None, *, n_permutations=999, random_state=None):
    """Correlate two distance matrices, given others, and test that by permuting patients.

    Rows of one patient are first averaged, so that a patient counts once however many tumors there are, and
    pairs within a patient do not count. Pearson's r is that of the residuals of both matrices (each pair of
    patients once) after least squares on the controls and a constant.

    Parameters
    ----------
    distances, others : array-like of shape (n, n)
        Symmetric.
    controls : sequence of array-like of shape (n, n), default=()
        Symmetric; what is to be held fixed.
    groups : array-like of shape (n,), optional
        Patient of each row; default each row its own.
    n_permutations : int, default=999
        Of patients in `distances`. 0 leaves the p-value out.
    random_state : int, optional
        Seed.

    Returns
    -------
    correlation : float
        From -1 to 1; NaN where a side does not vary beyond the controls.
    p_value : float
        One-sided: the share of permutations, the given order among them, with at least this correlation.

    Raises
    ------
    ValueError
        If a matrix is not symmetric, finite and of the shape of the others, or there are fewer than four
        patients.

    Notes
    -----
    The p-value assumes that patients could be exchanged, and controls that act linearly. Where both matrices
    follow a control in another way, or a trend that no control holds (two centers, say), it is too small, in
    simulations by a factor of about two: Guillot and Rousset, Methods in Ecology and Evolution 4, 336-344,
    2013.

    References
    ----------
    Smouse, Long and Sokal, Systematic Zoology 35, 627-632, 1986.

    Examples
    --------
    >>> x = np.array([0.0, 1.0, 3.0, 7.0, 8.0])
    >>> d = np.abs(x[:, None] - x)
    >>> round(partial_mantel(d, 2 * d + 1, n_permutations=0)[0], 6)
    1.0
    """
    n_permutations = check_integer(n_permutations, "n_permutations")
    first = _check_symmetric(distances, "distances", None)
    n = len(first)
    matrices = [first, _check_symmetric(others, "others", n)]
    matrices += [_check_symmetric(control, "controls", n) for control in controls]
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"'groups' must have one entry per row, {n}. Got shape {groups.shape}.")
    _, patient = np.unique(groups, return_inverse=True)
    member = (patient == np.arange(patient.max() + 1)[:, None]).astype(np.float64)
    member /= member.sum(axis=1, keepdims=True)
    first, second, *fixed = (member @ matrix @ member.T for matrix in matrices)
    n_patients = len(first)
    if n_patients < 4:
        raise ValueError(f"A partial Mantel test needs at least four patients. Got {n_patients}.")

    pairs = np.triu_indices(n_patients, 1)
    basis = np.column_stack([np.ones(len(pairs[0])), *(matrix[pairs] for matrix in fixed)])
    left, size, _ = np.linalg.svd(
        basis / np.maximum(np.linalg.norm(basis, axis=0), 1e-300), full_matrices=False
    )
    basis = left[:, size > 1e-10 * size[0]]

    def residual(values):
        rest = values - basis @ (basis.T @ values)
        length = np.linalg.norm(rest)
        known = length > 1e-9 * np.linalg.norm(values)
        return rest / length if known else np.full(len(values), np.nan)

    target = residual(second[pairs])
    found = float(residual(first[pairs]) @ target)
    if not n_permutations or np.isnan(found):
        return found, np.nan
    rng = np.random.default_rng(random_state)
    as_large = 1
    for _ in range(n_permutations):
        order = rng.permutation(n_patients)
        as_large += residual(first[np.ix_(order, order)][pairs]) @ target >= found - 1e-12
    return found, float(as_large / (n_permutations + 1))


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
        raise ValueError(f"'occurrence' must be counts, one per gallery tumor. Got shape {counts.shape}.")
    return counts


def _check_symmetric(matrix, name, n):
    """Return a finite symmetric matrix as float64 (n, n)."""
    array = np.asarray(matrix, dtype=np.float64)
    wanted = "square" if n is None else f"({n}, {n})"
    if array.ndim != 2 or array.shape != ((len(array),) * 2 if n is None else (n, n)):
        raise ValueError(f"'{name}' must be {wanted}. Got shape {array.shape}.")
    if not np.isfinite(array).all() or not np.allclose(array, array.T, rtol=1e-6, atol=1e-9):
        raise ValueError(f"'{name}' must be finite and symmetric. Got a matrix that is not.")
    return array
