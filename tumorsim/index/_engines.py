"""Engines behind one protocol: exact blocked search, and pynndescent with exact re-ranking."""

import threading
import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Coordinates", "Engine", "ExactEngine", "PyNNDescentEngine"]

BLOCK_BYTES = 32 * 2**20  # of one block of approximate distances
APPROXIMATE_FROM = 1_000  # rows below which pynndescent would only be slower than exact search
WIDEST = 200  # neighbors a query up to which pynndescent is asked; its recall falls beyond


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Map features (n, n_features) to where distances are Euclidean: scale, unit length, projection."""

    scale: np.ndarray | None = None
    unit_length: bool = False
    basis: np.ndarray | None = None  # (n_coordinates, n_features)

    def __call__(self, X):
        """Return float64 coordinates (n, n_coordinates); a row's bits do not depend on its company."""
        points = self._scaled(X)
        return points if self.basis is None else np.einsum("ij,kj->ik", points, self.basis)

    def in_bulk(self, X):
        """Return the same to float64 rounding, by BLAS, which rounds differently from block to block."""
        points = self._scaled(X)
        return points if self.basis is None else points @ self.basis.T

    def _scaled(self, X):
        points = np.asarray(X, dtype=np.float64)
        points = points if self.scale is None else points * self.scale
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


def _fill(distances, found, of_query, row, exact):
    """Write the nearest of pairs (query, row, distance) into (n_queries, n_neighbors), ties by row."""
    order = np.lexsort((row, exact, of_query))
    of_query, row, exact = of_query[order], row[order], exact[order]
    rank = np.arange(len(row)) - np.searchsorted(of_query, of_query)
    keep = rank < distances.shape[1]
    distances[of_query[keep], rank[keep]] = exact[keep]
    found[of_query[keep], rank[keep]] = row[keep]


class Engine(Protocol):
    """What `TumorIndex` asks of an engine."""

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows, each (n_queries, n_neighbors), by distance, then row number.

        What is missing when fewer rows are selected has distance inf and row -1.
        """


class ExactEngine:
    """Blocked float32 products choose candidates with a rounding bound; float64 distances decide.

    The squared distance g of a float32 product is off by at most c (|q|² + |x|²), so every row whose g minus
    its bound is at most the n-th smallest g plus bound is a candidate, and no true neighbor is lost.
    """

    def __init__(self, embeddings, coordinates):
        self.embeddings, self.coordinates = embeddings, coordinates
        n, step = len(embeddings), 65_536
        blocks = [slice(start, start + step) for start in range(0, n, step)]
        self._center = sum(coordinates.in_bulk(embeddings[b]).sum(axis=0) for b in blocks) / n
        largest = max(np.abs(self._centered(embeddings[b])).max() for b in blocks)
        self._unit = float(largest) or 1.0  # float32 squares must neither overflow nor underflow
        points = np.empty((n, len(self._center)), dtype=np.float32)
        for b in blocks:
            points[b] = self._centered(embeddings[b]) / self._unit
        self.points = points
        self._norms = np.einsum("ij,ij->i", points, points, dtype=np.float64)
        self._bound = (points.shape[1] + 8) * float(np.finfo(np.float32).eps)

    def _centered(self, X):
        """Return coordinates relative to the archive's mean, which cost float32 less."""
        return self.coordinates.in_bulk(X) - self._center

    def scaled(self, X):
        """Return features X as float32 points beside `points`."""
        return (self._centered(X) / self._unit).astype(np.float32)

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `Engine` says; exact, ties by row number."""
        queries = self.coordinates(X)
        distances = np.full((len(queries), n_neighbors), np.inf)
        found = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        rows = None if selection.allowed is None else np.flatnonzero(selection.allowed)
        points, norms = (self.points, self._norms) if rows is None else (self.points[rows], self._norms[rows])
        if len(points) == 0:
            return distances, found
        step = max(1, BLOCK_BYTES // (4 * len(points)))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            block = selection.of(part)
            of_query, row = self._candidates(queries[part], points, norms, n_neighbors, block, rows)
            exact = self.coordinates.distances(self.embeddings, row, queries[part], of_query)
            _fill(distances[part], found[part], of_query, row, exact)
        return distances, found

    def _candidates(self, queries, points, norms, n_neighbors, selection, rows):
        """Return pairs (query of this block, row of the archive) that hold every true neighbor."""
        scaled = (queries - self._center) / self._unit
        own = self._bound * np.einsum("ij,ij->i", scaled, scaled)
        tiny = 1e-30  # products below float32's range
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # queries that are absurdly far: all are candidates
            product = (-2 * scaled).astype(np.float32) @ points.T
            upper = product + ((1 + self._bound) * norms + tiny).astype(np.float32)
            product += ((1 - self._bound) * norms - tiny).astype(np.float32)
            selection.exclude_from(upper, rows)
            last = min(n_neighbors, len(points)) - 1
            upper.partition(last, axis=1)
            limit = (upper[:, last] + 2 * own).astype(np.float32)
            limit = np.nextafter(limit, np.float32(np.inf))[:, None]
            flat = np.flatnonzero(~(product > limit))  # a NaN is kept
        of_query, column = np.divmod(flat, len(points))
        row = column if rows is None else rows[column]
        keep = selection.pairs_allowed(of_query, row)
        return of_query[keep], row[keep]


_numba_lock = threading.Lock()  # numba's workqueue layer aborts the process when two threads use it at once


class PyNNDescentEngine:
    """Candidates from a pynndescent graph, exact distances; exact search where filters select few."""

    def __init__(self, embeddings, coordinates, *, random_state=0):
        self.embeddings, self.coordinates, self.random_state = embeddings, coordinates, random_state
        self.exact = ExactEngine(embeddings, coordinates)
        self._graph = None

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `Engine` says."""
        n = len(self.embeddings)
        share = 1.0 if selection.allowed is None else selection.allowed.mean()
        wanted = n_neighbors + selection.most_excluded()
        wanted = n if share == 0 else int(np.ceil(1.5 * wanted / share)) + 10
        if n < APPROXIMATE_FROM or wanted > min(WIDEST, n) or share < 0.2:
            return self.exact.nearest(X, n_neighbors, selection)
        queries = self.coordinates(X)
        candidates = self._query(X, wanted)
        of_query, place = np.nonzero(candidates >= 0)
        row = candidates[of_query, place].astype(np.int64)
        keep = selection.pairs_allowed(of_query, row)
        if selection.allowed is not None:
            keep &= selection.allowed[row]
        of_query, row = of_query[keep], row[keep]
        exact = self.coordinates.distances(self.embeddings, row, queries, of_query)
        distances = np.full((len(queries), n_neighbors), np.inf)
        found = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        _fill(distances, found, of_query, row, exact)
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            distances[short], found[short] = self.exact.nearest(X[short], n_neighbors, selection.of(short))
        return distances, found

    def _query(self, X, n_neighbors):
        """Return candidate rows (n_queries, n_neighbors) from the graph, which the first call builds."""
        with _numba_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's remarks about its own threading and deprecations
            if self._graph is None:
                from pynndescent import NNDescent

                graph = NNDescent(
                    self.exact.points,
                    metric="euclidean",
                    random_state=self.random_state,
                    search_tree_leaf_size=60,
                    search_tree_leaf_budget=8,
                )
                graph.prepare()
                self._graph = graph
            return self._graph.query(self.exact.scaled(X), k=n_neighbors)[0]
