"""The immutable content of an index: embeddings, metadata, space and metric, and what follows from them."""

from functools import cached_property

import numpy as np
import pandas as pd

from tumorsim._validation import check_choice, is_missing, printable
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._address import allowed_uri
from tumorsim.index._aspects import make_aspects, measured_aspect, random_pairs, weighted_points
from tumorsim.index._engines import check_engine
from tumorsim.index._exact import Coordinates, PartialEngine, whitening_basis
from tumorsim.index._tables import as_table, check_metadata, group_codes, join_tables, replace_rows
from tumorsim.spaces import EmbeddingSpace

METRICS = ("euclidean", "cosine", "whitened")
MAPPED_DOUBLINGS = 3  # of volume that are as far in a map as all else in the unit of an aspect


class Archive:
    """Rows of an index. None of its attributes is ever changed; what is derived is made at first use.

    `embeddings` are float32 (n_rows, n_features), `metadata` are as `check_metadata` returns them.
    """

    def __init__(self, embeddings, metadata, space, metric, feature_names=None):
        self.embeddings, self.metadata = embeddings, metadata
        self.space, self.metric, self.feature_names = space, metric, feature_names
        self._codes, self._last = {}, {}  # by columns, by name

    def __len__(self):
        return len(self.embeddings)

    def __reduce__(self):
        """Return what `__init__` was given; derived parts are made again."""
        return Archive, (self.embeddings, self.metadata, self.space, self.metric, self.feature_names)

    def description(self):
        """Return what files say of the archive beside its rows, as JSON."""
        return {
            "metric": self.metric,
            "n_features": self.embeddings.shape[1],
            "feature_names": self.feature_names,
            "space": None if self.space is None else self.space.to_dict(),
        }

    def with_rows(self, embeddings, metadata):
        """Return an archive of the same space and metric with other rows."""
        return Archive(embeddings, metadata, self.space, self.metric, self.feature_names)

    def added(self, X, metadata):
        """Return the archive with more rows, and their numbers."""
        table = as_table(metadata, len(X), "metadata")
        for column in ("tumor_id", "patient_id", "case_id"):
            if column in self.metadata and column not in table:
                raise ValueError(f"'metadata' of added tumors must have the index's column '{column}'.")
        table = check_metadata(table, len(X))
        held = table["tumor_id"][table["tumor_id"].isin(self.ids)]
        if len(held):
            got = f"Got '{held.iloc[0]}', which the index holds ({len(held)} in all)."
            raise ValueError(f"Every 'tumor_id' must be unique. {got} Update it, or remove it first.")
        rows = np.arange(len(self), len(self) + len(X))
        return self.with_rows(np.concatenate([self.embeddings, X]), join_tables(self.metadata, table)), rows

    def updated(self, X, metadata):
        """Return the archive with other values of the tumors in `metadata`, and their row numbers."""
        table = as_table(metadata, None if X is None else len(X), "metadata")
        if "tumor_id" not in table:
            raise ValueError("'metadata' of updated tumors must have the column 'tumor_id'.")
        table = check_metadata(table, len(table))
        rows = self.rows_of(table["tumor_id"])
        embeddings = self.embeddings if X is None else np.array(self.embeddings)
        if X is not None:
            embeddings[rows] = X
        return self.with_rows(embeddings, replace_rows(self.metadata, table, rows)), rows

    def without(self, tumor_ids):
        """Return the archive without the tumors of these ids."""
        keep = np.ones(len(self), dtype=bool)
        keep[self.rows_of(tumor_ids)] = False
        if not keep.any():
            raise ValueError("An index must keep at least one tumor. Got all of its ids to remove.")
        return self.with_rows(self.embeddings[keep], self.metadata[keep].reset_index(drop=True))

    def rows_of(self, tumor_ids):
        """Return the row numbers of tumor ids, all of which must be held."""
        rows = self.ids.get_indexer(list(tumor_ids))
        if (rows < 0).any():
            unknown = list(tumor_ids)[int(np.argmax(rows < 0))]
            raise ValueError(f"'tumor_ids' must be held by the index. Got unknown {unknown!r}.")
        return rows

    def check_space(self, space):
        """Raise unless embeddings of `space` can be compared with those of the archive."""
        check_type(space)
        if self.space is None:
            rule = f"The index was fitted without a space, to check that of {space.fingerprint!r} against."
            raise IndexMismatchError(f"{rule} Fit it with space=embedder.space_.")
        if space.fingerprint != self.space.fingerprint:
            got = f"The index has fingerprint {self.space.fingerprint!r}, got {space.fingerprint!r}."
            rule = "Embeddings and index come from different embedders."
            raise IndexMismatchError(f"{rule} {got} Embed both with the same model.")

    @property
    def fingerprint(self):
        """Fingerprint of the space, or None."""
        return None if self.space is None else self.space.fingerprint

    @property
    def in_words(self):
        """Size, model and metric."""
        tumors = "1 tumor" if len(self) == 1 else f"{len(self):,} tumors"
        model = "no model" if self.space is None else f"model {printable(self.fingerprint[:12])}"
        return f"{tumors}, {model}, metric {self.metric}"

    @cached_property
    def ids(self):
        """The pandas Index of tumor ids."""
        return pd.Index(self.metadata["tumor_id"])

    @cached_property
    def coordinates(self):
        """The `Coordinates` of plain distances."""
        features = None if self.space is None else self.space.coordinates
        basis = whitening_basis(self.embeddings, features) if self.metric == "whitened" else None
        return Coordinates(features, self.metric == "cosine", basis)

    @cached_property
    def aspects(self):
        """Name → `Aspect`."""
        codes = self.patients()[0]
        return make_aspects(self.embeddings, self.metadata, self.space, self.metric == "cosine", codes)

    def codes(self, columns):
        """Return codes of the rows for a tuple of columns, and the dict value → code."""
        if columns not in self._codes:
            self._codes[columns] = group_codes(self.metadata, columns)
        return self._codes[columns]

    def patients(self, table=None, n_queries=0):
        """Return codes of the rows' patients, by default the rows, and of the queries' (-1: not here)."""
        codes, lookup = np.arange(len(self)), {}
        if "patient_id" in self.metadata:
            codes, lookup = self.codes(("patient_id",))
        if table is None or "patient_id" not in table:
            return codes, np.full(n_queries, -1)
        own = [-1 if is_missing(value) else lookup.get((value,), -1) for value in table["patient_id"]]
        return codes, np.array(own, dtype=np.int64)

    def weighted(self, weights):
        """Return the aspects by name, the engine of weighted ones, and its points, NaN where missing."""

        def make():
            columns = [name for name in weights if name not in self.aspects]
            pairs = random_pairs(self.patients()[0]) if columns else None
            aspects = self.aspects | {name: measured_aspect(self.metadata, [name], pairs) for name in columns}
            points, *about = weighted_points(aspects, weights, self.embeddings, self.metadata)
            return aspects, PartialEngine(points, *about), points

        return self.last("weighted", tuple(weights.items()), make)

    def points(self, X, metadata, weights):
        """Return points of embeddings, default the archive's, whose distances a search by weights takes."""
        if not weights:
            return self.coordinates(self.embeddings if X is None else X)
        held, engine, points = self.weighted(weights)
        middle = np.nan_to_num(np.nanmean(points, axis=0))
        if X is not None:
            table = None if metadata is None else as_table(metadata, len(X), "metadata")
            points = weighted_points(held, weights, X, table)[0]
        points = np.where(np.isnan(points), middle, points)
        if engine.size_weight:
            points[:, -1] *= np.sqrt(engine.size_weight) / MAPPED_DOUBLINGS
        return points

    def last(self, name, key, make):
        """Return what was made under `key`, keeping only the last one of `name`, since it may be large."""
        held, value = self._last.get(name, (None, None))
        if held != key:
            value = make()
            self._last[name] = (key, value)
        return value


def check_cosines(X):
    """Return embeddings (n, n_features) if no row is 0."""
    zero = np.flatnonzero(~X.any(axis=1))
    if len(zero):
        rule = "Every row must differ from 0 to have a cosine."
        raise ValueError(f"{rule} Got zeros in row {zero[0]}. Use metric='euclidean'.")
    return X


def check_features(space, X):
    """Return the space of embeddings (n, n_features): None, or an `EmbeddingSpace` of as many features."""
    if space is None:
        return None
    if check_type(space).n_features not in (None, X.shape[1]):
        raise ValueError(f"'space' has {space.n_features} features. Got embeddings of {X.shape[1]}.")
    return space


def check_type(space):
    """Return `space` if it is an `EmbeddingSpace`."""
    if not isinstance(space, EmbeddingSpace):
        raise TypeError(f"'space' must be an EmbeddingSpace. Got {type(space).__name__}.")
    return space


def restore(described, embeddings, metadata, what, uri=None):
    """Return parameters of `TumorIndex` and the `Archive` of rows and the description that `what` names."""
    try:
        names, space = described["feature_names"], described["space"]
        parameters = {name: described.get(name) for name in ("metric", "engine", "uri", "collection")}
        check_choice(parameters["metric"], "metric", METRICS)
        check_engine(*(parameters[name] for name in ("engine", "uri", "collection")))
        if parameters["engine"] == "milvus":
            parameters["uri"] = allowed_uri(parameters["uri"], uri, what)
        space = check_features(None if space is None else EmbeddingSpace.from_dict(space), embeddings)
        if names is not None and [type(name) for name in names] != [str] * embeddings.shape[1]:
            raise ValueError("'feature_names' must name every feature")
    except IndexMismatchError:
        raise
    except (KeyError, TypeError, ValueError) as err:
        raise IndexMismatchError(f"{what} is damaged: {printable(err)}.") from err
    return parameters, Archive(embeddings, metadata, space, parameters["metric"], names)
