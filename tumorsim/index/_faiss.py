"""Candidates from faiss: a navigable graph, or compact codes."""

import numpy as np

from tumorsim.index._engines import CandidateEngine

__all__ = ["FaissCompactEngine", "FaissEngine"]


def _import_faiss():
    """Return faiss, or say how to install it."""
    try:
        import faiss
    except ImportError as err:
        raise ImportError("This engine needs faiss. Run 'pip install tumorsim[faiss]'.") from err
    return faiss


class FaissEngine(CandidateEngine):
    """A hierarchical navigable small world: built in minutes for a million tumors, compiles nothing.

    References
    ----------
    Y. Malkov and D. Yashunin, Efficient and robust approximate nearest neighbor search using hierarchical
    navigable small world graphs (arXiv:1603.09320).
    """

    n_links = 32
    build_width, least_width = 80, 100  # of the search for neighbors, while building and asking

    def _build(self):
        """Return the graph; it holds the points, and n_links numbers a row and layer."""
        faiss = _import_faiss()
        points = self.frame.points(self.embeddings)
        graph = faiss.IndexHNSWFlat(points.shape[1], self.n_links)
        graph.hnsw.efConstruction = self.build_width
        graph.add(points)
        return graph

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) from the graph."""
        parameters = _import_faiss().SearchParametersHNSW(efSearch=max(self.least_width, n_candidates))
        return built.search(points, n_candidates, params=parameters)[1]


class FaissCompactEngine(CandidateEngine):
    """Product quantization in codes of 4 bits: at most 16 bytes a tumor in memory, all of them scanned.

    References
    ----------
    F. André, A.-M. Kermarrec and N. Le Scouarnec, Quicker ADC: unlocking the hidden potential of product
    quantization with SIMD (arXiv:1812.09162).
    """

    oversampling, widest = 16.0, 4_000  # codes are coarse, and scanning them is quick
    most_codes = 32  # of 4 bits
    n_training = 50_000  # rows that the codes are learned from

    def _build(self):
        """Return the codes; the points themselves are not kept."""
        faiss = _import_faiss()
        n, width = len(self.embeddings), len(self.frame.center)
        codes = min(self.most_codes, width)
        index = faiss.IndexPQFastScan(-(-width // codes) * codes, codes, 4)
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(n, self.n_training, replace=False)) if n > self.n_training else slice(None)
        index.train(_padded(self.frame.points(self.embeddings[rows]), index.d))
        for i in range(0, n, self.n_training):
            index.add(_padded(self.frame.points(self.embeddings[i : i + self.n_training]), index.d))
        return index

    def _query(self, built, points, n_candidates):
        """Return rows (n_queries, n_candidates) by the distance of points to codes."""
        return built.search(_padded(points, built.d), n_candidates)[1]


def _padded(points, width):
    """Return points with zeros up to `width` coordinates."""
    return np.ascontiguousarray(np.pad(points, ((0, 0), (0, width - points.shape[1]))))
