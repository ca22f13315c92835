"""Engines behind one protocol: exact search, and approximate ones that are re-ranked exactly."""

import threading
from functools import cached_property
from typing import Protocol

import numpy as np

from tumorsim.index._exact import ExactEngine, Frame, fill

__all__ = ["CandidateEngine", "Engine"]

APPROXIMATE_FROM = 1_000  # rows below which candidates would only be slower than exact search
SELECTIVE = 0.2  # share of allowed rows below which exact search looks at them all


class Engine(Protocol):
    """What `TumorIndex` asks of an engine."""

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows, each (n_queries, n_neighbors), by distance, then row number.

        What is missing when fewer rows are selected has distance inf and row -1.
        """


class CandidateEngine:
    """Base of approximate engines: candidates beyond what is wanted, filtered, then measured exactly.

    Small archives, filters that select few rows, and questions for many neighbors are answered by exact
    search, as is every query whose candidates do not suffice. A subclass gives `_build` and `_query`.

    Parameters
    ----------
    embeddings : ndarray of shape (n_rows, n_features)
    coordinates : Coordinates
    """

    approximate_from = APPROXIMATE_FROM
    oversampling = 1.5  # candidates for each row that is wanted
    widest = 200  # candidates a query up to which the engine is asked; recall falls beyond

    def __init__(self, embeddings, coordinates):
        self.embeddings, self.coordinates = embeddings, coordinates
        self._lock = threading.Lock()
        self._built = None

    @cached_property
    def exact(self):
        """The exact engine of the same rows, made at first use."""
        return ExactEngine(self.embeddings, self.coordinates)

    @cached_property
    def frame(self):
        """Float32 points of rows and queries."""
        return Frame.of(self.embeddings, self.coordinates)

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `Engine` says."""
        n = len(self.embeddings)
        share = 1.0 if selection.allowed is None else selection.allowed.mean()
        wanted = (n_neighbors + selection.most_excluded()) / max(share, 1 / n)
        wanted = int(np.ceil(self.oversampling * wanted)) + 10
        if n < self.approximate_from or wanted > min(self.widest, n) or share < SELECTIVE:
            return self.exact.nearest(X, n_neighbors, selection)
        queries = self.coordinates(X)
        candidates = self._query(self._ready(), self.frame.points(X), wanted)
        of_query, place = np.nonzero(candidates >= 0)
        row = candidates[of_query, place].astype(np.int64)
        keep = selection.pairs_allowed(of_query, row)
        if selection.allowed is not None:
            keep &= selection.allowed[row]
        of_query, row = of_query[keep], row[keep]
        exact = self.coordinates.distances(self.embeddings, row, queries, of_query)
        distances = np.full((len(queries), n_neighbors), np.inf)
        found = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        fill(distances, found, of_query, row, exact)
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            distances[short], found[short] = self.exact.nearest(X[short], n_neighbors, selection.of(short))
        return distances, found

    def _ready(self):
        """Return what `_build` makes, which the first thread that asks does."""
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built

    def _build(self):
        """Return what `_query` searches."""
        raise NotImplementedError

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) near points of the frame, -1 where there are fewer."""
        raise NotImplementedError
