"""Approximate engines, which find candidates, and the choice of an engine by name."""

import threading
import warnings

import numpy as np

from tumorsim._validation import check_choice, check_text, import_extra
from tumorsim.index._exact import CandidateEngine, ExactEngine, padded
from tumorsim.index._milvus import MilvusEngine

FAISS = "faiss", "This engine", "faiss"  # module, what needs it, extra
_numba_lock = threading.Lock()  # numba's workqueue layer aborts the process when two threads use it at once


class PyNNDescentEngine(CandidateEngine):
    """A neighbor graph, for many queries in one process; compiles for half a minute in every process."""

    def _build(self):
        """Return the graph."""
        with _numba_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's remarks about its own threading and deprecations
            from pynndescent import NNDescent

            trees = {"search_tree_leaf_size": 60, "search_tree_leaf_budget": 8}
            points = self.frame.points(self.embeddings)
            graph = NNDescent(points, metric="euclidean", random_state=0, **trees)
            graph.prepare()
            return graph

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) from the graph."""
        with _numba_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return built.query(points, k=n_candidates)[0]


class FaissEngine(CandidateEngine):
    """A hierarchical navigable small world (arXiv:1603.09320): built in minutes for a million tumors."""

    n_links, build_width, least_width = 32, 80, 100  # the widths are of searches, in building and queries

    def _build(self):
        """Return the graph, which holds the points."""
        faiss = import_extra(*FAISS)
        points = self.frame.points(self.embeddings)
        graph = faiss.IndexHNSWFlat(points.shape[1], self.n_links)
        graph.hnsw.efConstruction = self.build_width
        graph.add(points)
        return graph

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) from the graph."""
        parameters = import_extra(*FAISS).SearchParametersHNSW(efSearch=max(self.least_width, n_candidates))
        return built.search(points, n_candidates, params=parameters)[1]


class FaissCompactEngine(CandidateEngine):
    """Product quantization (arXiv:1812.09162): at most 16 bytes per tumor in memory, all of them scanned."""

    oversampling, widest = 16.0, 4_000  # codes are coarse, and scanning them is quick
    most_codes, n_training = 32, 50_000  # codes of 4 bits, rows that they are learned from

    def _build(self):
        """Return the codes; the points themselves are not kept."""
        faiss = import_extra(*FAISS)
        n, width = len(self.embeddings), len(self.frame.center)
        codes = min(self.most_codes, width)
        index = faiss.IndexPQFastScan(-(-width // codes) * codes, codes, 4)
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(n, self.n_training, replace=False)) if n > self.n_training else slice(None)
        index.train(padded(self.frame.points(self.embeddings[rows]), index.d))
        for i in range(0, n, self.n_training):
            index.add(padded(self.frame.points(self.embeddings[i : i + self.n_training]), index.d))
        return index

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) by the distance of points to codes."""
        return built.search(padded(points, built.d), n_candidates)[1]


ENGINES = {
    "exact": ExactEngine,
    "pynndescent": PyNNDescentEngine,
    "faiss": FaissEngine,
    "faiss-compact": FaissCompactEngine,
    "milvus": MilvusEngine,
}


def check_engine(engine, uri, collection):
    """Raise unless an engine's name, and the address of a collection in Milvus, go together."""
    check_choice(engine, "engine", ENGINES)
    for name, value in (("uri", uri), ("collection", collection)):
        if engine == "milvus":
            check_text(value, name)
        elif value is not None:
            raise ValueError(f"Parameter '{name}' belongs to engine='milvus'. Got engine={engine!r}.")


def make_engine(engine, archive, uri, collection):
    """Return the engine of this name for the rows of an `Archive`."""
    if engine == "milvus":
        return MilvusEngine(archive, uri, collection)
    return ENGINES[engine](archive.embeddings, archive.coordinates)
