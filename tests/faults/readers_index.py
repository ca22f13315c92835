"""Damaged index folders, with checksums that fit and that do not, and Parquet files of indices."""

import hashlib
import json

import numpy as np

from tumorsim import EmbeddingSpace, TumorIndex

from ._engine import Reader

_TABLE = {
    "tumor_id": ["007", "NA", "x y"],
    "patient_id": ["1e5", "p", "q"],
    "label_type": ["None", None, "größer"],
    "volume_mm3": [1.5, np.nan, 300.0],
    "held_out": [True, False, True],
    "mixed": [1, "a", True],
}


def _index(metric="euclidean"):
    """Return an index of three tumors with columns of every kind."""
    space = EmbeddingSpace(
        "ab" * 8, {"type": [[0.5, -1, 0, 0]]}, [1.0, 2, 3, 4], {"type": [0.0]}, {"type": 1.0}
    )
    X = np.arange(12.0).reshape(3, 4) ** 1.1
    return TumorIndex(metric=metric).fit(X, metadata=_TABLE, space=space)


def _folders(folder):
    """Write two index folders, one of which was edited."""
    for name, metric in (("plain", "euclidean"), ("edited", "cosine")):
        _index(metric).save(folder / name)
    with TumorIndex.edit(folder / "edited") as index:
        index.remove("NA")
    for name in ("plain", "edited"):
        (folder / name / "write.lock").unlink(missing_ok=True)
    return [folder / "plain", folder / "edited"]


def _sign(folder):
    """Give the manifest the sizes and checksums of the files that it names, as a forger would."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["files"].values():
            if not (folder / entry["name"]).is_file():  # such as /dev/zero
                continue
            content = (folder / entry["name"]).read_bytes()
            entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.pop("sha256", None)
        content = json.dumps(manifest, sort_keys=True).encode("ascii")
        path.write_text(json.dumps({**manifest, "sha256": hashlib.sha256(content).hexdigest()}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass


def _use(index):
    """Search an index that was accepted; its rows, ids and space fit together."""
    assert len(index.embeddings_) == len(index.metadata_) == index.n_samples_fit_
    assert index.metadata_["tumor_id"].is_unique and all(type(t) is str for t in index.metadata_["tumor_id"])
    index.search(np.ones((1, index.n_features_in_)), 2)
    index.remove(index.metadata_["tumor_id"][0]) if index.n_samples_fit_ > 1 else None
    repr(index)


def _read_plain(folder):
    """Load and verify a folder as it is."""
    index = TumorIndex.load(folder)
    TumorIndex.verify(folder)
    _use(index)


def _read_signed(folder):
    """Load a folder whose checksums fit whatever it holds."""
    _sign(folder)
    _use(TumorIndex.load(folder))


def _parquet(folder):
    """Write a Parquet file of an index, and one without its description."""
    import pyarrow
    from pyarrow import parquet

    _index().to_parquet(folder / "index.parquet")
    table = pyarrow.table({"embedding": [[1.0, 2.0], [3.0, 4.0]], "label_type": ["a", None]})
    parquet.write_table(table, folder / "other.parquet", compression="none")
    return sorted(folder.iterdir())


def _read_parquet(path):
    """Import a Parquet file, and search what it gave."""
    _use(TumorIndex.from_parquet(path))


_WORDS = (
    *(b"embeddings-1.npy", b"metadata-1.npz", b"../", b"/dev/zero", b'"uri"', b'"milvus"', b"http://x"),
    *(b"'descr': ", b"'<f4'", b"'|O'", b"'>f8'", b"'fortran_order': ", b"'shape': ", b"(3, 4)", b"(3, 4, 1)"),
    *(b"values0.npy", b"codes0.npy", b"header.npy", b"n_rows.npy", b"\x93NUMPY", b"(9999999999,)", b'"size"'),
    *(b"Int64", b"object", b"boolean", b"float64", b"null"),
)
_PARQUET = (b"PAR1", b"embedding", b"tumorsim-index", b"tumor_id", b"dtypes", b"Int64", b"object")

READERS = [
    Reader("index", _folders, _read_plain, _WORDS, ci=150),
    Reader("index-signed", _folders, _read_signed, _WORDS, ci=300),
    Reader("parquet", _parquet, _read_parquet, _PARQUET, needs=("pyarrow",), ci=150),
]
