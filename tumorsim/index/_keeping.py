"""Where an index is kept: directories, Milvus collections, Parquet files."""

import contextlib
from pathlib import Path

import numpy as np

from tumorsim._validation import check_choice, check_fitted
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._archive import ENGINES, METRICS, Archive
from tumorsim.index._metadata import check_metadata
from tumorsim.index._milvus import Collection
from tumorsim.index._parquet import read_parquet, write_parquet
from tumorsim.index._storage import read_index, verify_index, write_index, write_lock
from tumorsim.spaces import EmbeddingSpace

__all__ = ["KeptArchive"]


class KeptArchive(Archive):
    """Base of `TumorIndex`: saving and loading."""

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
            If another thread or process keeps writing.
        """
        check_fitted(self, "embeddings_")
        path = Path(directory).resolve()
        with write_lock(path):
            self._write(path)

    @classmethod
    def load(cls, directory):
        """Read an index that `save` wrote; embeddings stay on disk until they are used.

        Parameters
        ----------
        directory : str or Path
            The index; one of an older schema version is read, and the next `save` writes the new one.

        Returns
        -------
        TumorIndex
            Fitted.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        IndexMismatchError
            If it holds no index, or a damaged one. Files above 32 MB are only measured; see `verify`.
        """
        embeddings, metadata, manifest = read_index(directory)
        index = cls._restore(manifest, f"The manifest of index '{directory}'")
        index._origin = (Path(directory).resolve(), manifest["generation"])
        index._hold(embeddings, metadata)
        return index

    @classmethod
    @contextlib.contextmanager
    def edit(cls, directory):
        """Load an index, let it be changed, and save it, while other writers wait.

        Where the block ends with an error nothing is saved.

        Parameters
        ----------
        directory : str or Path
            The index.

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
        path = Path(directory).resolve()
        if not path.is_dir():
            cls.load(directory)  # says that it does not exist
        with write_lock(path):
            index = cls.load(directory)
            yield index
            index._write(path)

    @staticmethod
    def verify(directory):
        """Check all files of an index directory against their checksums, and what they hold.

        Parameters
        ----------
        directory : str or Path
            The index.

        Returns
        -------
        dict
            Its manifest.

        Raises
        ------
        FileNotFoundError
            If there is no such directory.
        IndexMismatchError
            If something is damaged; the message names what.
        """
        return verify_index(directory)

    @classmethod
    def connect(cls, uri, collection):
        """Read an index from a Milvus collection that another client filled.

        Embeddings and metadata are copied into this process. Whole numbers with missing values among them
        become float64 on the way.

        Parameters
        ----------
        uri : str
            A file or a server, as in `TumorIndex`.
        collection : str
            Name.

        Returns
        -------
        TumorIndex
            Fitted.

        Raises
        ------
        ConnectionError
            If no Milvus answers.
        IndexMismatchError
            If there is no such collection, or it is none of tumorsim's.
        """
        held = Collection(uri, collection)
        index = cls._restore({"engine": "milvus", **held.about()}, str(held))
        index.set_params(uri=uri, collection=collection)
        index._origin = None
        embeddings, records = held.read()
        index._hold(embeddings, check_metadata(records, len(records)))
        return index

    def to_parquet(self, path):
        """Write a Parquet file for other tools: the metadata, and a column ``embedding`` of float32 lists.

        Parameters
        ----------
        path : str or Path
            Replaced atomically. `from_parquet` restores metric, space and dtypes from it.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        ImportError
            Without pyarrow: ``pip install tumorsim[parquet]``.
        """
        check_fitted(self, "embeddings_")
        write_parquet(path, self.embeddings_, self.metadata_, self._description())

    @classmethod
    def from_parquet(cls, path):
        """Make an index of a Parquet file, from `to_parquet` or with such columns.

        Parameters
        ----------
        path : str or Path
            A row a tumor; ``embedding`` holds lists of numbers, all other columns are metadata.

        Returns
        -------
        TumorIndex
            Fitted; with the exact engine where it was ``"milvus"``, whose collection stays where it is.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            Without pyarrow.
        IndexMismatchError, TypeError, ValueError
            If the file cannot be made an index.
        """
        X, table, described = read_parquet(path)
        if not described:
            return cls().fit(X, metadata=table)
        index = cls._restore(described, f"The description in '{path}'")
        if index.engine == "milvus":
            index.set_params(engine="exact", uri=None, collection=None)
        index._origin = None
        index._hold(index._check_X(X), check_metadata(table, len(X)))
        return index

    @classmethod
    def _restore(cls, described, what):
        """Return an index without rows that has the parameters, features and space of a description."""
        try:
            given = {name: described.get(name) for name in ("uri", "collection")}
            index = cls(metric=described["metric"], engine=described["engine"], **given)
            check_choice(index.metric, "metric", METRICS)
            check_choice(index.engine, "engine", ENGINES)
            index.n_features_in_ = described["n_features"]
            if described["feature_names"] is not None:
                index.feature_names_in_ = np.array(described["feature_names"], dtype=object)
            index.space_ = (
                None if described["space"] is None else EmbeddingSpace.from_dict(described["space"])
            )
        except (KeyError, ValueError) as err:
            raise IndexMismatchError(f"{what} is damaged: {err}.") from err
        return index

    def _write(self, path):
        """Write the next generation; the caller holds the lock."""
        expected = self._origin[1] if self._origin is not None and self._origin[0] == path else None
        description = self._description()
        generation = write_index(path, self.embeddings_, self.metadata_, description, expected=expected)
        self._origin = (path, generation)

    def _description(self):
        """Return what a file says of the index beside its rows, as JSON."""
        local = self.uri is not None and "://" not in self.uri
        return {
            "metric": self.metric,
            "engine": self.engine,
            "uri": str(Path(self.uri).resolve()) if local else self.uri,
            "collection": self.collection,
            "size": self.n_samples_fit_,
            "n_features": self.n_features_in_,
            "feature_names": self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None,
            "space": None if self.space_ is None else self.space_.to_dict(),
        }
