"""Candidates from a pynndescent graph."""

import threading
import warnings

from tumorsim.index._engines import CandidateEngine

__all__ = ["PyNNDescentEngine"]

_numba_lock = threading.Lock()  # numba's workqueue layer aborts the process when two threads use it at once


class PyNNDescentEngine(CandidateEngine):
    """A neighbor graph, for many queries in one process; compiles for half a minute in every process."""

    def _build(self):
        """Return the graph."""
        with _numba_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's remarks about its own threading and deprecations
            from pynndescent import NNDescent

            graph = NNDescent(
                self.frame.points(self.embeddings),
                metric="euclidean",
                random_state=0,
                search_tree_leaf_size=60,
                search_tree_leaf_budget=8,
            )
            graph.prepare()
            return graph

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) from the graph."""
        with _numba_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return built.query(points, k=n_candidates)[0]
