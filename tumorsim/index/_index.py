"""`TumorIndex`: nearest tumors among embeddings, with filters, as a scikit-learn estimator."""

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from tumorsim._validation import check_fitted, check_integer, check_real
from tumorsim.index._aspects import SIZE_COLUMN, check_weights, weighted_points
from tumorsim.index._filters import Selection, nearest_per_group, select
from tumorsim.index._life import LivingArchive
from tumorsim.index._metadata import as_table
from tumorsim.index._novelty import p_values

__all__ = ["TumorIndex"]


class TumorIndex(LivingArchive, BaseEstimator):
    """Find the nearest tumors among any embeddings.

    Parameters
    ----------
    metric : {"euclidean", "cosine", "whitened"}, default="euclidean"
        Distance between embeddings; cosine is 1 - cosine of the angle; whitened is Mahalanobis' with the
        archive's own covariance, shrunk as Ledoit and Wolf do. Aspects are never whitened.
    engine : {"exact", "pynndescent", "faiss", "faiss-compact", "milvus"}, default="exact"
        ``"exact"`` compares with every tumor. The others find candidates, which are measured exactly, and
        leave small archives, selective filters, p-values and aspects to the exact engine.
        ``"pynndescent"`` compiles for half a minute in every process, then answers many queries faster.
        ``"faiss"`` (HNSW) and ``"faiss-compact"`` (codes of 16 bytes a tumor) need
        ``pip install tumorsim[faiss]``, ``"milvus"`` needs ``pip install tumorsim[milvus]``.
    uri : str, optional
        Of a Milvus: a file (``"archive.db"``, embedded) or a server (``"http://host:19530"``).
    collection : str, optional
        Name in that Milvus; `fit` makes it.

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

    def __init__(self, metric="euclidean", engine="exact", uri=None, collection=None):
        self.metric = metric
        self.engine = engine
        self.uri = uri
        self.collection = collection

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
