"""Whitened distances: Mahalanobis with a covariance of the archive that is shrunk towards a sphere."""

import numpy as np

__all__ = ["whitening_basis"]

MOST_ROWS = 50_000  # that the covariance is estimated on


def whitening_basis(embeddings, features):
    """Return a basis (n_coordinates, n_coordinates) in which an archive has the unit covariance.

    `features` maps embeddings to the coordinates of plain distances; None: they are them.

    The covariance is that of Ledoit and Wolf (2004), which shrinks that of the archive towards a multiple of
    the unit matrix, by as much as its number of rows demands. It is of at most 50,000 rows, drawn with a
    fixed seed. An archive without any spread keeps its distances.

    References
    ----------
    O. Ledoit and M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices,
    J. Multivar. Anal. 88 (2004), Section 3.
    """
    from sklearn.covariance import ledoit_wolf

    n = len(embeddings)
    rows = slice(None)
    if n > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(n, MOST_ROWS, replace=False))
    X = np.asarray(embeddings[rows], dtype=np.float64)
    X = X if features is None else features(X)
    width = X.shape[1]
    spread = X.std() if n > 1 else 0.0
    if not spread > 0:
        return np.eye(width)
    covariance, _ = ledoit_wolf((X - X.mean(axis=0)) / spread)  # of order 1, whatever the unit
    values, directions = np.linalg.eigh(covariance)
    if values[-1] <= 0:
        return np.eye(width)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    return (directions / np.sqrt(values)).T / spread
