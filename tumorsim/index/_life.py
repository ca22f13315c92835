"""The life of an index: tumors come, change and go."""

import numpy as np
from sklearn.utils.validation import validate_data

from tumorsim._validation import check_choice, check_fitted, check_text
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._archive import ENGINES, METRICS
from tumorsim.index._keeping import KeptArchive
from tumorsim.index._metadata import as_table, check_metadata, join_tables, replace_rows
from tumorsim.spaces import EmbeddingSpace

__all__ = ["LivingArchive"]


class LivingArchive(KeptArchive):
    """Base of `TumorIndex`: fitting and changing."""

    def fit(self, X, y=None, *, metadata=None, space=None, overwrite=False):
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
        overwrite : bool, default=False
            Whether a Milvus collection of that name may be replaced; nothing else is ever overwritten here.

        Returns
        -------
        TumorIndex
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter, embeddings, metadata or space cannot be used, or the collection exists.
        """
        self._check_parameters()
        X = self._check_X(X, reset=True)
        table = check_metadata(metadata, len(X))
        if space is not None and not isinstance(space, EmbeddingSpace):
            raise TypeError(f"'space' must be an EmbeddingSpace. Got {type(space).__name__}.")
        if space is not None and space.n_features not in (None, X.shape[1]):
            raise ValueError(f"'space' has {space.n_features} features. Got embeddings of {X.shape[1]}.")
        self._cache = {}
        if self.engine == "milvus" and not overwrite:
            self._refuse_collection()
        self.space_ = space
        self._origin = None
        self._hold(X, table)
        if self.engine == "milvus":
            self._publish()
        return self

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
                f"({len(held)} in all). Update it, or remove it first."
            )
        joined = join_tables(self.metadata_, table)
        rows = np.arange(self.n_samples_fit_, self.n_samples_fit_ + len(X))
        self._change(np.concatenate([self.embeddings_, X]), joined, written=rows)
        return self

    def update(self, X=None, *, metadata, space=None):
        """Replace embeddings and metadata of tumors that the index holds; they keep their places.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), optional
            New embeddings; default: only metadata change.
        metadata : DataFrame, dict of columns or list of dicts
            A row a tumor, with ``tumor_id``. Its columns replace the values of these tumors, new ones are
            missing in all others, and absent ones stay as they are.
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
            If a tumor id is unknown, or embeddings or metadata cannot be used.

        Examples
        --------
        >>> from tumorsim import TumorIndex
        >>> index = TumorIndex().fit([[0.0], [1.0]], metadata={"tumor_id": ["a", "b"]})
        >>> index.update(metadata={"tumor_id": ["b"], "outcome": ["controlled"]}).metadata_
          tumor_id     outcome
        0        a        None
        1        b  controlled
        """
        check_fitted(self, "embeddings_")
        self._check_space(space)
        embeddings = None if X is None else self._check_X(X)
        if embeddings is not None:
            table = as_table(metadata, len(embeddings), "metadata")
        else:
            n_rows = len(next(iter(metadata.values()), ())) if isinstance(metadata, dict) else len(metadata)
            table = as_table(metadata, n_rows, "metadata")
        if "tumor_id" not in table:
            raise ValueError("'metadata' of updated tumors must have the column 'tumor_id'.")
        table = check_metadata(table, len(table))
        rows = self._rows_of(table["tumor_id"])
        replaced = self.embeddings_
        if embeddings is not None:
            replaced = np.array(self.embeddings_)
            replaced[rows] = embeddings
        self._change(replaced, replace_rows(self.metadata_, table, rows), written=rows)
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
        wanted = [tumor_ids] if isinstance(tumor_ids, str) else list(dict.fromkeys(tumor_ids))
        keep = np.ones(self.n_samples_fit_, dtype=bool)
        keep[self._rows_of(wanted)] = False
        if not keep.any():
            raise ValueError("An index must keep at least one tumor. Got all of its ids to remove.")
        table = self.metadata_[keep].reset_index(drop=True)
        self._change(self.embeddings_[keep], table, removed=wanted)
        return self

    def _rows_of(self, tumor_ids):
        """Return the rows of tumor ids that must be held."""
        rows = self._ids().get_indexer(list(tumor_ids))
        if (rows < 0).any():
            unknown = list(tumor_ids)[int(np.argmax(rows < 0))]
            raise ValueError(f"'tumor_ids' must be held by the index. Got unknown {unknown!r}.")
        return rows

    def _check_parameters(self):
        """Raise unless metric, engine, uri and collection go together."""
        check_choice(self.metric, "metric", METRICS)
        check_choice(self.engine, "engine", ENGINES)
        for name in ("uri", "collection"):
            value = getattr(self, name)
            if self.engine == "milvus":
                check_text(value, name)
            elif value is not None:
                raise ValueError(
                    f"Parameter '{name}' belongs to engine='milvus'. Got engine={self.engine!r}."
                )

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
