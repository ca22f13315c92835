"""`TumorIndex`: nearest tumors among embeddings, with filters, as a scikit-learn estimator."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from tumorsim._validation import check_choice, check_fitted, check_integer, check_real
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._archive import ENGINES, METRICS, Archive
from tumorsim.index._aspects import SIZE_COLUMN, check_weights, weighted_points
from tumorsim.index._filters import Selection, nearest_per_group, select
from tumorsim.index._metadata import as_table, check_metadata, join_tables
from tumorsim.index._novelty import p_values
from tumorsim.index._storage import read_index, write_index
from tumorsim.spaces import EmbeddingSpace

__all__ = ["TumorIndex"]


class TumorIndex(Archive, BaseEstimator):
    """Find the nearest tumors among any embeddings.

    Parameters
    ----------
    metric : {"euclidean", "cosine", "whitened"}, default="euclidean"
        Distance between embeddings; cosine is 1 - cosine of the angle; whitened is Mahalanobis' with the
        archive's own covariance, shrunk as Ledoit and Wolf do. Aspects are never whitened.
    engine : {"exact", "pynndescent"}, default="exact"
        ``"exact"`` compares with every tumor. ``"pynndescent"`` compiles for half a minute in every process,
        then answers many queries of one process faster; its candidates are re-ranked exactly, and it leaves
        small archives, selective filters and aspects to the exact engine.

    Attributes
    ----------
    embeddings_ : ndarray of shape (n_samples, n_features), dtype=float32
        The archive's rows, unscaled; mapped from its file after `load`.
    metadata_ : DataFrame
        A row a tumor; missing text is None.
    space_ : EmbeddingSpace or None
        Of the embedder that made the rows.
    aspects_ : tuple of str
        What `search` can weigh: of the space, ``place`` and ``size``.
    n_samples_fit_ : int
        Number of tumors.
    n_features_in_ : int
        Number of features.

    Examples
    --------
    >>> archive = {"tumor_id": ["a", "b", "c"], "patient_id": ["p", "p", "q"]}
    >>> index = TumorIndex().fit([[0.0], [1.0], [5.0]], metadata=archive)
    >>> index.search([[1.4]], n_neighbors=2)[["rank", "distance", "tumor_id"]].round(3)
       rank  distance tumor_id
    0     1       0.4        b
    1     2       3.6        c
    """

    def __init__(self, metric="euclidean", engine="exact"):
        self.metric = metric
        self.engine = engine

    def fit(self, X, y=None, *, metadata=None, space=None):
        """Hold embeddings and what is known of their tumors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings; kept as float32.
        y : ignored
            Here because scikit-learn passes it.
        metadata : DataFrame, dict of columns or list of dicts, optional
            A row a sample. Ids (``patient_id``, ``case_id``, ``tumor_id``) are text; without ``tumor_id`` the
            row number is the id. Dates become ISO text.
        space : EmbeddingSpace, optional
            ``embedder.space_``; its scale multiplies features before distances, of archive and query alike.

        Returns
        -------
        TumorIndex
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter, the embeddings, the metadata or the space cannot be used.
        """
        check_choice(self.metric, "metric", METRICS)
        check_choice(self.engine, "engine", tuple(ENGINES))
        X = self._check_X(X, reset=True)
        table = check_metadata(metadata, len(X))
        if space is not None and not isinstance(space, EmbeddingSpace):
            raise TypeError(f"'space' must be an EmbeddingSpace. Got {type(space).__name__}.")
        if space is not None and space.n_features not in (None, X.shape[1]):
            raise ValueError(f"'space' has {space.n_features} features. Got embeddings of {X.shape[1]}.")
        self.space_ = space
        self._origin = None
        self._hold(X, table)
        return self

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        """Return the nearest rows, as scikit-learn's `NearestNeighbors` does.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features), optional
            Default: every row of the archive, which is then not its own neighbor.
        n_neighbors : int, default=5
            At most the number of rows.
        return_distance : bool, default=True
            Whether to return distances too.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors), dtype=float64
            Only if `return_distance`.
        rows : ndarray of shape (n_queries, n_neighbors), dtype=int64
            By distance, ties by row number.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If there are fewer rows than `n_neighbors`.
        """
        check_fitted(self, "embeddings_")
        n_neighbors = check_integer(5 if n_neighbors is None else n_neighbors, "n_neighbors", minimum=1)
        n = self.n_samples_fit_
        available = n - (X is None)
        if n_neighbors > available:
            raise ValueError(
                f"Parameter 'n_neighbors' must be at most the {available} other rows. Got {n_neighbors}."
            )
        own = np.arange(n) if X is None else None
        X = self.embeddings_ if X is None else self._check_X(X)
        distances, rows = self._engine().nearest(X, n_neighbors, Selection(None, own, own))
        return (self._to_metric(distances), rows) if return_distance else rows

    def search(
        self,
        X,
        n_neighbors=5,
        *,
        query_metadata=None,
        space=None,
        where=None,
        exclude=None,
        aspects=None,
        max_per_patient=1,
        alpha=0.05,
        calibration=None,
    ):
        """Return the nearest tumors of each query as a table.

        Filters act before the nearest are taken, so the answer is exact however selective they are.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Embeddings of the same embedder.
        n_neighbors : int, default=5
            Rows a query; fewer where fewer tumors are left.
        query_metadata : DataFrame, dict of columns or list of dicts, optional
            A row a query: ``patient_id`` and ``case_id`` for `exclude`, ``volume_mm3`` for the aspect size.
        space : EmbeddingSpace, optional
            ``embedder.space_`` of the queries; refused if its fingerprint is not the index's.
        where : mapping of str to condition, optional
            Column of the metadata (``type`` falls back to ``label_type``) → a value; a list, tuple or set
            of values; ``(operator, value)`` with ``<``, ``<=``, ``>``, ``>=``, ``==`` or ``!=``; a list of
            such pairs, which must all hold; or None, which a missing value meets and nothing else does.
        exclude : {"same_patient", "same_case"} or sequence of str, optional
            Leave out tumors of the query's patient or case, or these tumor ids.
        aspects : mapping of str to float, optional
            Weights of aspects of the space, and of ``size`` (log volume; needs volume_mm3 of archive and
            queries; tumors without it cannot answer). Distance is then the root of the weighted sum of their
            squares, each in units of its median over pairs of the archive.
        max_per_patient : int or None, default=1
            Tumors that one patient may take in an answer, if the metadata have ``patient_id``.
        alpha : float or None, default=0.05
            A p-value of at most `alpha` is called no close match; None leaves both columns out.
        calibration : mapping of str to condition, optional
            Which tumors calibrate p-values, in the grammar of `where`; they should be of patients that the
            embedder was not fitted on. Default: those whose boolean column ``held_out`` is true, if the
            metadata have it, else all.

        Returns
        -------
        DataFrame
            ``query`` (row of `X`), ``rank`` (from 1), ``distance``, for each aspect ``distance_<aspect>`` and
            ``closer_than_<aspect>`` (share of random pairs of different patients of the archive that are
            farther), ``p_value`` and ``no_close_match`` (of the query, equal in all its rows; NaN and False
            where there are too few patients), then the neighbor's metadata. By distance, ties by row number.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        IndexMismatchError
            If the queries come from another embedder.
        TypeError, ValueError
            If a parameter is malformed, or a column or an aspect is unknown.
        """
        check_fitted(self, "embeddings_")
        self._check_space(space)
        n_neighbors = check_integer(n_neighbors, "n_neighbors", minimum=1)
        limit = check_integer(max_per_patient, "max_per_patient", minimum=1, allow_none=True)
        alpha = check_real(alpha, "alpha", minimum=0, maximum=1, exclusive=True, allow_none=True)
        weights = None if aspects is None else check_weights(aspects, self._aspects(), self.space_)
        X = self._check_X(X)
        table = None if query_metadata is None else as_table(query_metadata, len(X), "query_metadata")
        selection = select(self.metadata_, where, exclude, table, len(X), self._codes)
        if weights is None:
            engine, points, queries = self._engine(), self.embeddings_, X
        else:
            engine, points, known = self._weighted_engine(weights)
            queries = self._weighted_queries(weights, X, table)
            if not known.all():
                allowed = known if selection.allowed is None else known & selection.allowed
                selection = Selection(allowed, selection.row_codes, selection.query_codes)
        codes, own = self._patients(table, len(X))
        n_neighbors = min(n_neighbors, self.n_samples_fit_)
        if limit is None or "patient_id" not in self.metadata_:
            distances, rows = engine.nearest(queries, n_neighbors, selection)
        else:
            distances, rows = nearest_per_group(engine, queries, n_neighbors, selection, codes, limit)
        query, place = np.nonzero(rows >= 0)
        answer = {"query": query, "rank": place + 1}
        answer["distance"] = self._to_metric(distances[query, place], weights)
        answer |= self._aspect_columns(query, rows[query, place], X, table)
        if alpha is not None:
            engine = getattr(engine, "exact", engine)
            nearest = engine.nearest(queries, 1, Selection(selection.allowed, codes, own))[0][:, 0]
            key = None if weights is None else tuple(weights.items())
            calibrated = self._calibration(engine, points, selection.allowed, calibration, key)
            p = p_values(calibrated, nearest, own, alpha)
            answer |= {"p_value": p[query], "no_close_match": p[query] <= alpha}
        taken = [column for column in answer if column in self.metadata_]
        if taken:
            raise ValueError(
                f"Column '{taken[0]}' of the metadata is the name of an answer's column. Rename it."
            )
        neighbors = self.metadata_.iloc[rows[query, place]].reset_index(drop=True)
        return pd.concat([pd.DataFrame(answer), neighbors], axis=1)

    def add(self, X, *, metadata, space=None):
        """Append tumors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings of the same embedder.
        metadata : DataFrame, dict of columns or list of dicts
            A row a sample, with ``tumor_id`` and the other id columns of the index. Other columns may be new
            or absent; values are then missing.
        space : EmbeddingSpace, optional
            ``embedder.space_``; refused if its fingerprint is not the index's.

        Returns
        -------
        TumorIndex
            Itself.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        IndexMismatchError
            If the embeddings come from another embedder.
        TypeError, ValueError
            If a tumor id is held already, or embeddings or metadata cannot be used.
        """
        check_fitted(self, "embeddings_")
        self._check_space(space)
        X = self._check_X(X)
        table = as_table(metadata, len(X), "metadata")
        for column in ("tumor_id", "patient_id", "case_id"):
            if column in self.metadata_ and column not in table:
                raise ValueError(f"'metadata' of added tumors must have the index's column '{column}'.")
        table = check_metadata(table, len(X))
        held = table["tumor_id"][table["tumor_id"].isin(self.metadata_["tumor_id"])]
        if len(held):
            raise ValueError(
                f"Every 'tumor_id' must be unique in an index. Got '{held.iloc[0]}', which the index holds "
                f"({len(held)} in all). Remove it first."
            )
        self._hold(np.concatenate([self.embeddings_, X]), join_tables(self.metadata_, table))
        return self

    def remove(self, tumor_ids):
        """Drop tumors by id.

        Parameters
        ----------
        tumor_ids : str or sequence of str
            Ids that the index holds.

        Returns
        -------
        TumorIndex
            Itself.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ValueError
            If an id is unknown, or no tumor would be left.
        """
        check_fitted(self, "embeddings_")
        wanted = {tumor_ids} if isinstance(tumor_ids, str) else set(tumor_ids)
        unknown = wanted - set(self.metadata_["tumor_id"])
        if unknown:
            raise ValueError(
                f"'tumor_ids' must be held by the index. Got unknown {sorted(unknown, key=str)[0]!r}."
            )
        keep = ~self.metadata_["tumor_id"].isin(wanted).to_numpy()
        if not keep.any():
            raise ValueError("An index must keep at least one tumor. Got all of its ids to remove.")
        self._hold(self.embeddings_[keep], self.metadata_[keep].reset_index(drop=True))
        return self

    def save(self, directory):
        """Write the index; a reader sees the old one or the new one, whenever the writer is killed.

        Parameters
        ----------
        directory : str or Path
            New, empty, or an index, which is replaced.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        IndexMismatchError
            If the directory holds something else, or has been changed since this index was loaded from it.
        TimeoutError
            If another process keeps writing.
        """
        check_fitted(self, "embeddings_")
        path = Path(directory).resolve()
        expected = self._origin[1] if self._origin is not None and self._origin[0] == path else None
        description = {
            "metric": self.metric,
            "engine": self.engine,
            "size": self.n_samples_fit_,
            "n_features": self.n_features_in_,
            "feature_names": self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None,
            "space": None if self.space_ is None else self.space_.to_dict(),
        }
        generation = write_index(path, self.embeddings_, self.metadata_, description, expected=expected)
        self._origin = (path, generation)

    @classmethod
    def load(cls, directory):
        """Read an index that `save` wrote; embeddings stay on disk until they are used.

        Parameters
        ----------
        directory : str or Path
            The index.

        Returns
        -------
        TumorIndex
            Fitted.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        IndexMismatchError
            If it holds no index, or a damaged one.
        """
        embeddings, metadata, manifest = read_index(directory)
        try:
            index = cls(metric=manifest["metric"], engine=manifest["engine"])
            index.n_features_in_ = manifest["n_features"]
            if manifest["feature_names"] is not None:
                index.feature_names_in_ = np.array(manifest["feature_names"], dtype=object)
            index.space_ = None if manifest["space"] is None else EmbeddingSpace.from_dict(manifest["space"])
        except (KeyError, ValueError) as err:
            raise IndexMismatchError(f"The manifest of index '{directory}' is damaged: {err}.") from err
        index._origin = (Path(directory).resolve(), manifest["generation"])
        index._hold(embeddings, metadata)
        return index

    def _check_X(self, X, *, reset=False):
        """Return embeddings as float32 (n, n_features) that the index owns, finite and with a direction."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
            X = validate_data(self, X, reset=reset, dtype=np.float32, order="C", copy=reset)
        if self.metric == "cosine":
            zero = np.flatnonzero(~X.any(axis=1))
            if len(zero):
                rule = "Every row must differ from 0 to have a cosine."
                raise ValueError(f"{rule} Got zeros in row {zero[0]}. Use metric='euclidean'.")
        return X

    def _check_space(self, space):
        """Raise unless embeddings of `space` can be compared with the archive's; None is not checked."""
        if space is None:
            return
        if not isinstance(space, EmbeddingSpace):
            raise TypeError(f"'space' must be an EmbeddingSpace. Got {type(space).__name__}.")
        if self.space_ is None:
            raise IndexMismatchError(
                f"The index was fitted without a space, so embeddings of {space.fingerprint!r} cannot be "
                "checked against it. Fit it with space=embedder.space_."
            )
        if space.fingerprint != self.space_.fingerprint:
            raise IndexMismatchError(
                f"Embeddings and index come from different embedders. The index has fingerprint "
                f"{self.space_.fingerprint!r}, got {space.fingerprint!r}. Embed both with the same model."
            )

    def _weighted_queries(self, weights, X, table):
        """Return queries as points of weighted aspects."""
        queries = weighted_points(self._aspects(), weights, X, table)
        unknown = np.flatnonzero(np.isnan(queries).any(axis=1))
        if len(unknown):
            raise ValueError(
                f"Aspect 'size' needs a volume greater than 0 in column '{SIZE_COLUMN}' of 'query_metadata'. "
                f"Got none for query {unknown[0]}."
            )
        return queries

    def _aspect_columns(self, query, rows, X, table):
        """Return columns of each aspect's distance, and of the share of random pairs that are farther."""
        distances = {}
        for name, aspect in self._aspects().items():
            if not aspect.measured or (table is not None and SIZE_COLUMN in table):
                distances[name] = aspect.between(rows, self.embeddings_, self.metadata_, query, X, table)
        closer = {
            f"closer_than_{name}": self._aspects()[name].closer_than(d) for name, d in distances.items()
        }
        return {f"distance_{name}": d for name, d in distances.items()} | closer

    def _to_metric(self, distances, weights=None):
        """Return distances in the index's metric: between unit vectors, 1 - cosine is half the square."""
        return distances**2 / 2 if self.metric == "cosine" and weights is None else distances
