"""What searches need of an archive besides its rows: engines, codes, aspects, calibration, made once."""

import hashlib

import numpy as np
import pandas as pd

from tumorsim.index._aspects import make_aspects, weighted_points
from tumorsim.index._exact import Coordinates, ExactEngine
from tumorsim.index._faiss import FaissCompactEngine, FaissEngine
from tumorsim.index._filters import where_mask
from tumorsim.index._metadata import group_codes, is_missing
from tumorsim.index._milvus import Collection, MilvusEngine
from tumorsim.index._novelty import calibrate
from tumorsim.index._pynndescent import PyNNDescentEngine
from tumorsim.index._whitening import whitening_basis

__all__ = ["ENGINES", "METRICS", "Archive"]

ENGINES = {
    "exact": ExactEngine,
    "pynndescent": PyNNDescentEngine,
    "faiss": FaissEngine,
    "faiss-compact": FaissCompactEngine,
    "milvus": MilvusEngine,
}
METRICS = ("euclidean", "cosine", "whitened")
HELD_OUT = "held_out"  # metadata column: patients that the embedder was not fitted on


class Archive:
    """Base of `TumorIndex`: `embeddings_` and `metadata_`, and what is derived from them at first use."""

    @property
    def aspects_(self):
        """Names of the aspects that `search` knows."""
        return tuple(self._aspects())

    def __getstate__(self):
        state = super().__getstate__()
        return {name: {} if name == "_cache" else value for name, value in state.items()}

    def _hold(self, embeddings, metadata):
        """Replace the archive, and forget what was derived from the old one."""
        self.embeddings_ = embeddings
        self.metadata_ = metadata
        self.n_samples_fit_ = len(embeddings)
        self._cache = {}

    def _change(self, embeddings, metadata, *, written=(), removed=()):
        """Replace the archive by one where `written` rows differ and the ids `removed` are gone."""
        if self.engine != "milvus":
            return self._hold(embeddings, metadata)
        collection, frame, _ = self._engine()._ready()  # refuses a collection that others have changed
        if self.metric == "whitened":  # every point depends on all rows
            self._hold(embeddings, metadata)
            return self._publish()
        if len(removed):
            collection.delete(removed)
        if len(written):
            collection.upsert(embeddings[written], metadata.iloc[written], frame)
        return self._hold(embeddings, metadata)

    def _publish(self):
        """Fill the collection with all rows, in place of what it holds."""
        about = {
            "fingerprint": self._fingerprint(),
            **self._description(),
        }
        for name in ("engine", "uri", "collection", "size"):
            del about[name]
        self._collection().create(about, self.embeddings_, self.metadata_, self._coordinates())

    def _refuse_collection(self):
        """Raise if the collection exists."""
        collection = self._collection()
        if collection.exists():
            about = collection.about()
            raise ValueError(
                f"{collection} exists: {collection.count()} tumors of fingerprint {about['fingerprint']!r}. "
                "Give fit(…, overwrite=True) to replace it, or another name."
            )

    def _fingerprint(self):
        """Return that of the space, or None."""
        return None if self.space_ is None else self.space_.fingerprint

    def _collection(self):
        """Return the Milvus collection."""
        return self._cached("collection", lambda: Collection(self.uri, self.collection))

    def _ids(self):
        """Return the pandas Index of tumor ids."""
        return self._cached("ids", lambda: pd.Index(self.metadata_["tumor_id"]))

    def _cached(self, key, make):
        """Return what was made under `key` for this archive, making it at the first call."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _last(self, name, key, make):
        """Return what was made under `key`, keeping only the last one of `name`: it may be large."""
        held, value = self._cache.get(name, (None, None))
        if held != key:
            value = make()
            self._cache[name] = (key, value)
        return value

    def _codes(self, columns):
        """Return codes of the archive's rows for `columns`, and the dict value → code."""
        return self._cached(("codes", columns), lambda: group_codes(self.metadata_, columns))

    def _patients(self, table=None, n_queries=0):
        """Return codes of the archive's patients, and of the queries' (-1: not known to the archive).

        Without the column patient_id every tumor is a patient of its own.
        """
        if "patient_id" not in self.metadata_:
            return np.arange(self.n_samples_fit_), np.full(n_queries, -1)
        codes, lookup = self._codes(("patient_id",))
        if table is None or "patient_id" not in table:
            return codes, np.full(n_queries, -1)
        own = [-1 if is_missing(value) else lookup.get((value,), -1) for value in table["patient_id"]]
        return codes, np.array(own, dtype=np.int64)

    def _engine(self):
        """Return the engine of plain distances."""

        def make():
            options = {}
            if self.engine == "milvus":
                options = {"collection": self._collection, "tumor_ids": self._ids}
                options["fingerprint"] = self._fingerprint()
            return ENGINES[self.engine](self.embeddings_, self._coordinates(), **options)

        return self._cached("engine", make)

    def _coordinates(self):
        """Return the `Coordinates` of plain distances."""
        features = None if self.space_ is None else self.space_.coordinates
        basis = whitening_basis(self.embeddings_, features) if self.metric == "whitened" else None
        return Coordinates(features, self.metric == "cosine", basis)

    def _weighted_engine(self, weights):
        """Return the exact engine of weighted aspects, its points, and which rows have all measures."""

        def make():
            points = weighted_points(self._aspects(), weights, self.embeddings_, self.metadata_)
            known = ~np.isnan(points).any(axis=1)
            points[~known] = 0
            return ExactEngine(points, Coordinates()), points, known

        return self._last("weighted", tuple(weights.items()), make)

    def _aspects(self):
        """Return name → `Aspect` of the archive."""

        def make():
            codes = self._patients()[0]
            unit_length = self.metric == "cosine"
            return make_aspects(self.embeddings_, self.metadata_, self.space_, unit_length, codes)

        return self._cached("aspects", make)

    def _calibration(self, engine, points, allowed, conditions, key):
        """Return the `Calibration` of the rows that are allowed and meet `conditions`."""
        codes = self._patients()[0]
        eligible = None
        if conditions is not None:
            eligible = where_mask(self.metadata_, conditions)
        elif HELD_OUT in self.metadata_:
            values = [v for v in self.metadata_[HELD_OUT].tolist() if not is_missing(v)]
            if values and all(isinstance(v, bool) for v in values):
                eligible = where_mask(self.metadata_, {HELD_OUT: True})
        digests = [None if m is None else hashlib.sha256(m.tobytes()).digest() for m in (allowed, eligible)]
        return self._last(
            "calibration", (key, *digests), lambda: calibrate(engine, points, allowed, eligible, codes)
        )
