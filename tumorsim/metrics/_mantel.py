"""Two distance matrices, correlated given others."""

import numpy as np

from tumorsim._validation import check_integer

__all__ = ["partial_mantel"]


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
    n_permutations = check_integer(n_permutations, "n_permutations", minimum=0)
    first = _check_symmetric(distances, "distances", None)
    n = len(first)
    matrices = [first, _check_symmetric(others, "others", n)]
    matrices += [_check_symmetric(control, "controls", n) for control in controls]
    groups = np.arange(n) if groups is None else np.asarray(groups)
    if groups.shape != (n,):
        raise ValueError(f"'groups' must have an entry a row, {n}. Got shape {groups.shape}.")
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


def _check_symmetric(matrix, name, n):
    """Return a finite symmetric matrix as float64 (n, n)."""
    array = np.asarray(matrix, dtype=np.float64)
    wanted = "square" if n is None else f"({n}, {n})"
    if array.ndim != 2 or array.shape != ((len(array),) * 2 if n is None else (n, n)):
        raise ValueError(f"'{name}' must be {wanted}. Got shape {array.shape}.")
    if not np.isfinite(array).all() or not np.allclose(array, array.T, rtol=1e-6, atol=1e-9):
        raise ValueError(f"'{name}' must be finite and symmetric. Got a matrix that is not.")
    return array
