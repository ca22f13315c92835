"""Exact search: float32 products choose candidates within a rounding bound, float64 distances decide."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Coordinates", "ExactEngine", "Frame", "fill"]

BLOCK_BYTES = 8 * 2**20  # of pairs that are measured at once
N_QUERIES, N_POINTS = 256, 8_192  # of one float32 product: 8 MB, which stays in a processor's cache
GROUPS = 16  # of the points of one product, whose minima bound the n-th smallest
MAPPED = 65_536  # rows mapped at once: bounds the float64 copies
TINY = 1e-30  # products below float32's range


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Map embeddings (n, n_features) to where distances are Euclidean: features, unit length, projection."""

    features: Callable | None = None  # of float64 embeddings; None: themselves
    unit_length: bool = False
    basis: np.ndarray | None = None  # (n_coordinates, number of features)

    def __call__(self, X):
        """Return float64 coordinates (n, n_coordinates); a row's bits do not depend on its company."""
        points = self._features(X)
        return points if self.basis is None else np.einsum("ij,kj->ik", points, self.basis)

    def in_bulk(self, X):
        """Return the same to float64 rounding, by BLAS, which rounds differently from block to block."""
        points = self._features(X)
        return points if self.basis is None else points @ self.basis.T

    def _features(self, X):
        points = np.asarray(X, dtype=np.float64)
        points = points if self.features is None else self.features(points)
        if self.unit_length:
            points = points / np.abs(points).max(axis=1, keepdims=True)  # squares must not underflow
            points = points / np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
        return points

    def distances(self, X, rows, queries, of_query):
        """Return float64 distances of pairs X[rows[i]], queries[of_query[i]], in blocks of bounded memory."""
        found = np.empty(len(rows))
        step = max(1, BLOCK_BYTES // (8 * max(X.shape[1], queries.shape[1])))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            difference = self(X[rows[part]]) - queries[of_query[part]]
            found[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
        return found


@dataclass(frozen=True, eq=False)
class Frame:
    """Float32 points of an archive's coordinates: about its mean, within ±1, which costs float32 least.

    Parameters
    ----------
    coordinates : Coordinates
    center : ndarray of shape (n_coordinates,)
    unit : float
    """

    coordinates: Coordinates
    center: np.ndarray
    unit: float

    @classmethod
    def of(cls, embeddings, coordinates):
        """Return the frame of embeddings (n, n_features)."""
        blocks = [embeddings[i : i + MAPPED] for i in range(0, len(embeddings), MAPPED)]
        center = sum(coordinates.in_bulk(b).sum(axis=0) for b in blocks) / len(embeddings)
        largest = max(np.abs(coordinates.in_bulk(b) - center).max() for b in blocks)
        return cls(coordinates, center, float(largest) or 1.0)  # squares must neither overflow nor underflow

    def points(self, X):
        """Return features (n, n_features) as C-ordered float32 points (n, n_coordinates)."""
        points = np.empty((len(X), len(self.center)), dtype=np.float32)
        for i in range(0, len(X), MAPPED):
            points[i : i + MAPPED] = (self.coordinates.in_bulk(X[i : i + MAPPED]) - self.center) / self.unit
        return points


def fill(distances, found, of_query, row, exact):
    """Write the nearest of pairs (query, row, distance) into (n_queries, n_neighbors), ties by row."""
    order = np.lexsort((row, exact, of_query))
    of_query, row, exact = of_query[order], row[order], exact[order]
    rank = np.arange(len(row)) - np.searchsorted(of_query, of_query)
    keep = rank < distances.shape[1]
    distances[of_query[keep], rank[keep]] = exact[keep]
    found[of_query[keep], rank[keep]] = row[keep]


class ExactEngine:
    """Compare with every row, and lose no true neighbor to rounding.

    With q and x in the frame, b = (n_coordinates + 8) ε of float32 and g = |x|² - 2 q·x, the float32 product
    L of (x, (1 - b) |x|²) and (-2 q, 1) lies within b |q|² below and b |q|² + 2 b |x|² above g. Since
    |x|² ≤ 2 |q|² + 2 D for a squared distance D = g + |q|², the n-th smallest L bounds the n-th smallest D
    from above: (1 - 4 b) D ≤ L + (1 + 5 b) |q|². Every row whose L does not exceed that bound by the first
    inequality is a candidate, and float64 distances decide among them.
    """

    def __init__(self, embeddings, coordinates):
        self.embeddings, self.coordinates = embeddings, coordinates
        self.frame = Frame.of(embeddings, coordinates)
        n, width = len(embeddings), len(self.frame.center)
        self._bound = (width + 8) * float(np.finfo(np.float32).eps)
        self._points = np.empty((n, width + 1), dtype=np.float32)
        for i in range(0, n, MAPPED):
            part = slice(i, i + MAPPED)
            points = self.frame.points(embeddings[part])
            norms = np.einsum("ij,ij->i", points, points, dtype=np.float64)
            self._points[part, :-1], self._points[part, -1] = points, (1 - self._bound) * norms - TINY

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `Engine` says; exact, ties by row number."""
        queries = self.coordinates(X)
        distances = np.full((len(queries), n_neighbors), np.inf)
        found = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        rows = None if selection.allowed is None else np.flatnonzero(selection.allowed)
        wanted = n_neighbors + selection.most_excluded()
        for start in range(0, len(queries), N_QUERIES):
            part = slice(start, start + N_QUERIES)
            of_query, row = self._candidates(queries[part], rows, wanted)
            keep = selection.of(part).pairs_allowed(of_query, row)
            of_query, row = of_query[keep], row[keep]
            exact = self.coordinates.distances(self.embeddings, row, queries[part], of_query)
            fill(distances[part], found[part], of_query, row, exact)
        return distances, found

    def _candidates(self, queries, rows, wanted):
        """Return pairs (query of this block, row of the archive) that hold every true neighbor.

        `rows` are those that are allowed, None for all; `wanted` neighbors a query are sought among them.
        """
        scaled = (queries - self.frame.center) / self.frame.unit
        square = np.einsum("ij,ij->i", scaled, scaled)
        left = np.ones((len(scaled), scaled.shape[1] + 1), dtype=np.float32)
        n = len(self._points) if rows is None else len(rows)
        smallest = np.full((len(scaled), wanted), np.inf, dtype=np.float32)  # minima of groups, so far
        of_query, row, value = [], [], []
        # Queries that are absurdly far overflow: all rows are candidates then, and so is a NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            left[:, :-1] = -2 * scaled
            for start in range(0, n, N_POINTS):
                some = slice(start, min(start + N_POINTS, n))
                product = left @ (self._points[some] if rows is None else self._points[rows[some]]).T
                smallest = _merge(smallest, _group_minima(product, wanted))
                limit = self._limit(smallest.max(axis=1), square)
                flat = np.flatnonzero(~(product > limit[:, None]))
                query, column = np.divmod(flat, product.shape[1])
                of_query.append(query)
                row.append(column + start if rows is None else rows[column + start])
                value.append(product.ravel()[flat])
            if not row:
                return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
            of_query, row, value = np.concatenate(of_query), np.concatenate(row), np.concatenate(value)
            keep = ~(value > limit[of_query])  # the limit has fallen since the first points
        return of_query[keep], row[keep]

    def _limit(self, largest, square):
        """Return the largest L of a candidate, (n_queries,), if `largest` bounds the n-th smallest L."""
        b = self._bound
        distance = (largest.astype(np.float64) + (1 + 5 * b) * square + 2 * TINY) / (1 - 4 * b)
        limit = (distance - (1 - b) * square).astype(np.float32)
        return np.nextafter(limit, np.float32(np.inf))


def _group_minima(product, wanted):
    """Return minima (n_queries, n_groups) of groups of columns, at least `wanted` where there are as many.

    The n-th smallest of them is at least the n-th smallest of all.
    """
    n_queries, n_points = product.shape
    width = n_points // GROUPS
    if width < 4 * wanted:
        return product
    minima = product[:, : width * GROUPS].reshape(n_queries, GROUPS, width).min(axis=1)
    return np.hstack([minima, product[:, width * GROUPS :]])


def _merge(smallest, more):
    """Return the smallest (n_queries, n) of (n_queries, n) values and more values."""
    n = smallest.shape[1]
    both = np.hstack([smallest, more])
    both.partition(n - 1, axis=1)
    return both[:, :n]
