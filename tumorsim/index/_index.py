"""`TumorIndex`: nearest tumors among embeddings, with filters, as a scikit-learn estimator."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from tumorsim._validation import check_choice, check_fitted, printable
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._address import is_file
from tumorsim.index._archive import METRICS, Archive, check_cosines, check_features, restore
from tumorsim.index._aspects import check_weights
from tumorsim.index._engines import check_engine, make_engine
from tumorsim.index._milvus import Collection
from tumorsim.index._parquet import read_parquet, write_parquet
from tumorsim.index._search import kneighbors, search
from tumorsim.index._store import Store
from tumorsim.index._tables import check_metadata
from tumorsim.spaces import EmbeddingSpace

Metadata = pd.DataFrame | Mapping[str, Sequence] | Sequence[Mapping[str, object]]
Space = EmbeddingSpace | None


class TumorIndex(BaseEstimator):
    """Find the nearest tumors among any embeddings.

    Parameters
    ----------
    metric : {"euclidean", "cosine", "whitened"}, default="euclidean"
        Distance between embeddings. Cosine is 1 - cosine of the angle. Whitened is the Mahalanobis distance
        with the archive's own covariance, shrunk as Ledoit and Wolf do. Aspects are never whitened.
    engine : {"exact", "pynndescent", "faiss", "faiss-compact", "milvus"}, default="exact"
        ``"exact"`` compares with every tumor. The others, for very large archives, find candidates, which are
        measured exactly, and leave small archives, selective filters, p-values and aspects to the exact
        engine. The page on engines compares them, and says what to install.
    uri : str, optional
        Address of a Milvus: a file (``"archive.db"``, embedded) or a server (``"https://host:19530"``).
    collection : str, optional
        Name in that Milvus; `fit` makes it.

    Attributes
    ----------
    embeddings_ : ndarray of shape (n_samples, n_features), dtype=float32
        The archive's rows, unscaled; mapped from its file after `load`.
    metadata_ : DataFrame
        One row per tumor; missing text is None.
    space_ : EmbeddingSpace or None
        Of the embedder that made the rows.
    n_samples_fit_, n_features_in_ : int
        Number of tumors, and of features.

    Examples
    --------
    >>> archive = {"tumor_id": ["a", "b", "c"], "patient_id": ["p", "p", "q"]}
    >>> index = TumorIndex().fit([[0.0], [1.0], [5.0]], metadata=archive)
    >>> index
    <TumorIndex: 3 tumors, no model, metric euclidean, engine exact>
    >>> index.search([[1.4]], n_neighbors=2)[["rank", "distance", "tumor_id"]].round(3)
       rank  distance tumor_id
    0     1       0.4        b
    1     2       3.6        c
    """

    def __init__(
        self, metric: str = "euclidean", engine: str = "exact", uri: str | None = None,
        collection: str | None = None,
    ):  # fmt: skip
        self.metric, self.engine, self.uri, self.collection = metric, engine, uri, collection

    def __repr__(self, N_CHAR_MAX=700):
        """Return size, model, metric and engine; before `fit` the parameters, as scikit-learn does."""
        if not hasattr(self, "embeddings_"):
            return super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        return f"<TumorIndex: {self._archive.in_words}, engine {self.engine}>"

    @property
    def aspects_(self) -> tuple[str, ...]:
        """Names of what `search` can weigh beside columns of numbers: tasks, place, size and look."""
        return tuple(self._archive.aspects)

    def aspect_weights(self, aspects: Mapping[str, float] | str | None = None) -> dict[str, float]:
        """Return the weights that `search` uses for its parameter `aspects`; empty is the plain distance."""
        return check_weights(aspects, self._fitted())

    def fit(
        self, X: ArrayLike, y=None, *, metadata: Metadata | None = None, space: Space = None, overwrite=False
    ) -> Self:
        """Hold embeddings and what is known of their tumors, and return the index.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings; kept as float32.
        y : ignored
            Here because scikit-learn passes it.
        metadata : DataFrame, dict of columns or list of dicts, optional
            One row per sample. Ids (``patient_id``, ``case_id``, ``tumor_id``) are text; without ``tumor_id``
            the row number is the id. Dates become ISO text.
        space : EmbeddingSpace, optional
            ``embedder.space_``; its scale multiplies features before distances, of archive and query alike.
        overwrite : bool, default=False
            Whether a Milvus collection of that name may be replaced; nothing else is ever overwritten here.

        Raises
        ------
        TypeError, ValueError
            If a parameter, embeddings, metadata or space cannot be used, or the collection exists.
        """
        check_choice(self.metric, "metric", METRICS)
        check_engine(self.engine, self.uri, self.collection)
        X = self._check_X(X, self.metric, reset=True)
        names = self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None
        archive = Archive(X, check_metadata(metadata, len(X)), check_features(space, X), self.metric, names)
        if self.engine == "milvus":
            make_engine(self.engine, archive, self.uri, self.collection).publish(overwrite=overwrite)
        self._store = None
        return self._hold(archive)

    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | np.ndarray:
        """Return the nearest rows as scikit-learn's `NearestNeighbors` does: by the plain distance.

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
        ValueError
            If there are fewer rows than `n_neighbors`.
        """
        archive = self._fitted()
        X = None if X is None else self._check_X(X, archive.metric)
        distances, rows = kneighbors(archive, self._get_engine, X, n_neighbors)
        return (distances, rows) if return_distance else rows

    def search(
        self, X: ArrayLike, n_neighbors: int = 5, *, query_metadata: Metadata | None = None,
        space: Space = None, where: Mapping[str, object] | None = None,
        exclude: str | Sequence[str] | None = None, aspects: Mapping[str, float] | str | None = None,
        max_per_patient: int | None = 1, alpha: float | None = 0.05,
        calibration: Mapping[str, object] | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Return the nearest tumors of each query as a table.

        Filters act before the nearest are taken, so the result is exact however selective they are.

        Parameters
        ----------
        X : array-like of shape (n_queries, n_features)
            Embeddings of the same embedder.
        n_neighbors : int, default=5
            Rows per query; fewer where fewer tumors are left.
        query_metadata : DataFrame, dict of columns or list of dicts, optional
            One row per query: ``patient_id`` and ``case_id`` for `exclude`, and measured columns.
        space : EmbeddingSpace, optional
            ``embedder.space_`` of the queries; another fingerprint than the index's is refused.
        where : mapping of str to condition, optional
            Column of the metadata (``type`` falls back to ``label_type``) → a value (None: missing); a list,
            tuple or set of values; ``(operator, value)`` with ``<``, ``<=``, ``>``, ``>=``, ``==`` or ``!=``;
            or a list of such pairs, which must all hold.
        exclude : {"same_patient", "same_case"}, sequence of str, or sequence of lists of str, optional
            Leave out tumors of the query's patient or case, or these tumor ids, or for each query a list.
        aspects : mapping of str to float or "embedding", optional
            Weights of `aspects_` and of columns of numbers. The distance is the root of the weighted sum of
            their squares: Hellinger's between what heads infer, 0 to 1 of size, others in units of their
            median. Where a tumor lacks a measure, the other aspects share its weight. Default: 1 for ``type``
            (else all tasks), ``place`` and ``size`` (volume_mm3; within twofold is nearly alike), 0.05 for
            ``look`` (features beyond the heads). ``"embedding"``: the plain distance, also the default of
            other metrics and of bare arrays.
        max_per_patient : int or None, default=1
            Most tumors of one patient among the results of a query, if the metadata have ``patient_id``.
        alpha : float or None, default=0.05
            A p-value of at most `alpha` is called no close match; None leaves both columns out.
        calibration : mapping of str to condition, optional
            Which tumors calibrate p-values, as in `where`; the embedder should not know their patients.
            Default: those whose boolean column ``held_out`` is true, if the metadata have it, else all.

        Returns
        -------
        DataFrame
            ``query`` (row of `X`), ``rank`` (from 1), ``distance``, for each aspect ``distance_<aspect>`` and
            ``closer_than_<aspect>`` (share of random pairs of patients that are farther), ``p_value`` and
            ``no_close_match`` (equal in all rows of a query; NaN and False where there are too few patients),
            then the neighbor's metadata. By distance, ties by row number.

        Raises
        ------
        IndexMismatchError, TypeError, ValueError
            If queries come from another embedder, a parameter is malformed, or a column or aspect is unknown.
        """
        archive = self._fitted(space)
        X = self._check_X(X, archive.metric)
        conditions = (query_metadata, where, exclude, aspects, max_per_patient, alpha, calibration)
        return search(archive, self._get_engine, X, n_neighbors, *conditions)

    def coordinates(
        self, X: ArrayLike | None = None, *, metadata: Metadata | None = None,
        aspects: Mapping[str, float] | str | None = "embedding",
    ) -> np.ndarray:  # fmt: skip
        """Return points whose Euclidean distances order tumors as a search does, but for size; for maps.

        Of aspects, and under the metrics euclidean and whitened, the distance of two points is that of their
        tumors; but sizes lie along an axis of their logarithms, three doublings apart being 1, and a missing
        measure is put at the archive's mean. Under cosine the points have unit length, and half the squared
        distance is 1 - cosine.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features), optional
            Embeddings of the same embedder; default: the archive's.
        metadata : DataFrame, dict of columns or list of dicts, optional
            Of `X`, with measured columns.
        aspects : mapping of str to float or "embedding", default="embedding"
            As in `search`.

        Returns
        -------
        ndarray of shape (n_rows, n_coordinates), dtype=float64
        """
        archive = self._fitted()
        X = None if X is None else self._check_X(X, archive.metric)
        return archive.points(X, metadata, check_weights(aspects, archive))

    def check_space(self, space: Space) -> None:
        """Raise unless embeddings of `space` can be compared with those of the index.

        Parameters
        ----------
        space : EmbeddingSpace or None
            ``embedder.space_``, so that a wrong model is refused before it embeds; None is not checked.

        Raises
        ------
        IndexMismatchError
            If its fingerprint is not the index's, or the index was fitted without a space.
        """
        self._fitted(space)

    def add(self, X: ArrayLike, *, metadata: Metadata, space: Space = None) -> Self:
        """Append tumors, and return the index.

        Parameters
        ----------
        X, metadata, space
            As in `fit`, of the same embedder. `metadata` must have ``tumor_id`` and the other id columns of
            the index. Other columns may be new or absent; values are then missing.

        Raises
        ------
        IndexMismatchError, TypeError, ValueError
            If the embeddings come from another embedder, an id is held already, or something is malformed.
        """
        archive = self._fitted(space)
        archive, rows = archive.added(self._check_X(X, archive.metric), metadata)
        return self._change(archive, written=rows)

    def update(self, X: ArrayLike | None = None, *, metadata: Metadata, space: Space = None) -> Self:
        """Replace embeddings and metadata of tumors, which keep their rows, and return the index.

        Parameters
        ----------
        X, metadata, space
            As in `fit`, of the same embedder; without `X` only metadata change. `metadata` must have
            ``tumor_id``. Its columns replace the values of these tumors, new ones are missing in all others,
            and absent ones stay as they are.

        Raises
        ------
        IndexMismatchError, TypeError, ValueError
            If the embeddings come from another embedder, an id is unknown, or something is malformed.
        """
        archive = self._fitted(space)
        archive, rows = archive.updated(None if X is None else self._check_X(X, archive.metric), metadata)
        return self._change(archive, written=rows)

    def remove(self, tumor_ids: str | Sequence[str]) -> Self:
        """Drop tumors by id, and return the index.

        Parameters
        ----------
        tumor_ids : str or sequence of str
            Ids that the index holds.

        Raises
        ------
        ValueError
            If an id is unknown, or no tumor would be left.
        """
        ids = [tumor_ids] if isinstance(tumor_ids, str) else list(dict.fromkeys(tumor_ids))
        return self._change(self._fitted().without(ids), removed=ids)

    def save(self, directory: str | Path) -> None:
        """Write the index; a reader sees the old one or the new one, whenever the writer is killed.

        Parameters
        ----------
        directory : str or Path
            New, empty, or an index, which is replaced.

        Raises
        ------
        IndexMismatchError, TimeoutError
            If the directory holds something else, or has been changed since this index was loaded from it,
            or another thread or process keeps writing for ten seconds.
        """
        self._fitted()
        store = Store(directory)
        if self._store is not None and self._store.path == store.path:
            store.generation = self._store.generation
        with store.lock():
            self._write(store)

    @classmethod
    def load(cls, directory: str | Path, *, uri: str | None = None) -> Self:
        """Return the index that `save` wrote; embeddings stay on disk until they are used.

        A folder may name a Milvus file, but only `uri` or the environment variable TUMORSIM_MILVUS_URI may
        name a server. The token in TUMORSIM_MILVUS_TOKEN is for the server of TUMORSIM_MILVUS_URI alone.

        Parameters
        ----------
        directory : str or Path
            The index.
        uri : str, optional
            Address of its collection; default: that of the folder, where it may name it.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        IndexMismatchError
            If it holds no index, or a damaged one. Files above 32 MB are only measured; see `verify`.
        """
        store = Store(directory)
        embeddings, metadata, manifest = store.read()
        what = f"The manifest of index '{directory}'"
        return cls._restored(manifest, embeddings, metadata, what, store, uri)

    @classmethod
    @contextlib.contextmanager
    def edit(cls, directory: str | Path, *, uri: str | None = None) -> Iterator[Self]:
        """Load an index, let it be changed, and save it unless there is an error, while other writers wait.

        Parameters
        ----------
        directory : str or Path
            The index.
        uri : str, optional
            As in `load`.

        Yields
        ------
        TumorIndex
            As `load` returns it.

        Raises
        ------
        FileNotFoundError, IndexMismatchError
            As `load`.
        TimeoutError
            If another thread or process keeps writing for ten seconds.

        Examples
        --------
        >>> import tempfile
        >>> from tumorsim import TumorIndex
        >>> TumorIndex().fit([[0.0], [1.0]]).save(folder := tempfile.mkdtemp())
        >>> with TumorIndex.edit(folder) as index:
        ...     _ = index.remove("0")
        >>> TumorIndex.load(folder).metadata_["tumor_id"].tolist()
        ['1']
        """
        cls.load(directory, uri=uri)  # says what is wrong before a lock is made
        with Store(directory).lock():
            index = cls.load(directory, uri=uri)
            yield index
            index._write(index._store)

    @staticmethod
    def verify(directory: str | Path) -> dict:
        """Check an index directory: checksums of all files, and what they hold. Return its manifest.

        Parameters
        ----------
        directory : str or Path
            The index.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        IndexMismatchError
            If something is damaged; the message names what.
        """
        return Store(directory).read(everything=True)[2]

    @classmethod
    def connect(cls, uri: str, collection: str) -> Self:
        """Return the index of a Milvus collection, which another client may have filled.

        Embeddings and metadata are copied into this process; whole numbers with gaps become float64.

        Parameters
        ----------
        uri : str
            A file or a server, as in `TumorIndex`.
        collection : str
            Name.

        Raises
        ------
        ConnectionError
            If no Milvus answers.
        IndexMismatchError
            If there is no such collection, or it was not made by tumorsim.
        """
        held = Collection(uri, collection)
        described = {**held.about(), "engine": "milvus", "uri": uri, "collection": collection}
        embeddings, records = held.read()
        return cls._restored(described, embeddings, check_metadata(records, len(records)), str(held), uri=uri)

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file for other tools: the metadata, and a column ``embedding`` of float32 lists.

        Parameters
        ----------
        path : str or Path
            Replaced atomically. `from_parquet` restores metric, space and dtypes from it.

        Raises
        ------
        ImportError
            Without pyarrow: ``pip install '.[parquet]'`` in a clone.
        """
        archive = self._fitted()
        write_parquet(path, archive.embeddings, archive.metadata, self._description())

    @classmethod
    def from_parquet(cls, path: str | Path) -> Self:
        """Return the index of a Parquet file, from `to_parquet` or with such columns.

        Where its engine was ``"milvus"`` it is exact, and the collection is left alone.

        Parameters
        ----------
        path : str or Path
            One row per tumor; ``embedding`` holds lists of numbers, all other columns are metadata.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            Without pyarrow.
        IndexMismatchError
            If the file is damaged, or cannot be made an index.
        """
        X, table, described = read_parquet(path)
        try:
            if not described:
                return cls().fit(X, metadata=table)
            if described.get("engine") == "milvus":
                described |= {"engine": "exact", "uri": None, "collection": None}
            index = cls._restored(described, X, check_metadata(table, len(X)), "The description in it")
            index._check_X(X, index.metric)
        except (TypeError, ValueError) as err:
            raise IndexMismatchError(f"'{path}' cannot be made an index: {printable(err)}") from err
        return index

    @classmethod
    def _restored(cls, described, embeddings, metadata, what, store=None, uri=None):
        """Return an index of rows and the description that belongs to them; `what` names it in errors."""
        parameters, archive = restore(described, embeddings, metadata, what, uri)
        index = cls(**parameters)
        index.n_features_in_, index._store = embeddings.shape[1], store
        if archive.feature_names is not None:
            index.feature_names_in_ = np.array(archive.feature_names, dtype=object)
        return index._hold(archive)

    def _description(self):
        """Return what files say of the index beside its rows, as JSON."""
        uri = str(Path(self.uri).resolve()) if self.uri is not None and is_file(self.uri) else self.uri
        address = {"engine": self.engine, "uri": uri, "collection": self.collection}
        return address | {"size": len(self._archive)} | self._archive.description()

    def _write(self, store):
        """Write the next generation to a store whose lock is held."""
        store.write(self._archive.embeddings, self._archive.metadata, self._description())
        self._store = store

    def _hold(self, archive):
        """Take over an archive; its engine is made at first use."""
        self._archive = archive
        self.embeddings_, self.metadata_, self.space_ = archive.embeddings, archive.metadata, archive.space
        self.n_samples_fit_ = len(archive)
        return self

    def _change(self, archive, *, written=(), removed=()):
        """Take over an archive where `written` rows differ and the ids `removed` are gone."""
        if self.engine == "milvus":
            self._get_engine(self._archive).write(archive, written, removed)
        return self._hold(archive)

    def _get_engine(self, archive):
        """Return the engine of plain distances of an archive, made at first use."""
        which = (self.engine, self.uri, self.collection)
        return archive.last("engine", which, lambda: make_engine(which[0], archive, *which[1:]))

    def _fitted(self, space=None):
        """Return the archive, with which embeddings of `space` must be comparable."""
        check_fitted(self, "embeddings_")
        if space is not None:
            self._archive.check_space(space)
        return self._archive

    def _check_X(self, X, metric, *, reset=False):
        """Return embeddings as finite float32 (n, n_features), a copy if `reset`; no row is 0 for cosine."""
        plain = type(X) is np.ndarray and X.dtype == np.float32 and X.flags.c_contiguous and not reset
        plain = plain and X.shape[1:] == (self.n_features_in_,) and len(X)
        if not plain or hasattr(self, "feature_names_in_") or not np.isfinite(X).all():  # else all is well
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
                X = validate_data(self, X, reset=reset, dtype=np.float32, order="C", copy=reset)
        return check_cosines(X) if metric == "cosine" else X
