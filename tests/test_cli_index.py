"""An index's life on the command line, from embeddings files: no network is needed."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.cli import app
from tumorsim.io import save_embeddings

SPACE = EmbeddingSpace("3fa1", {"type": [[1.0, 0.0, 0.0]]})


def run(*parts, code=0):
    """Run a command and check its exit code; return its output, errors included."""
    result = CliRunner().invoke(app, [str(part) for part in parts])
    assert result.exit_code == code, f"{parts}: {result.output} {result.exception!r}"
    return result.output


def embeddings(path, first, n, *, space=SPACE, value=None, patients=None):
    """Write an embeddings file of tumors t<first> …, two a patient."""
    rows = range(first, first + n)
    columns = {
        "patient_id": patients or [f"p{i // 2}" for i in rows],
        "case_id": [f"p{i // 2}-2021" for i in rows],
        "tumor_id": [f"t{i}" for i in rows],
        "label_type": ["glioma" if i % 3 else None for i in rows],
    }
    X = np.array([[i, 1, 0] if value is None else [value] * 3 for i in rows], dtype=np.float32)
    save_embeddings(path, X, columns, space.to_dict())
    return path


@pytest.fixture
def index(tmp_path):
    """Return the folder of an index of six tumors."""
    run("index", "build", embeddings(tmp_path / "archive.npz", 0, 6), "-o", tmp_path / "index")
    return tmp_path / "index"


def ids(directory):
    """Return the tumor ids of an index."""
    return TumorIndex.load(directory).metadata_["tumor_id"].tolist()


@pytest.mark.filterwarnings("default")
def test_added_patients_under_another_spelling_are_told(index, tmp_path):
    """P0 beside p0 may be one patient, which the tumors of one would then flatter."""
    new = embeddings(tmp_path / "new.npz", 6, 2, patients=["P0", "p4"])
    assert "patient_id p0 and P0 may be one patient" in " ".join(run("index", "add", index, new).split())


def test_the_weeks_new_cases_are_added(index, tmp_path):
    """They are searched afterwards, once; those of another model are refused with both fingerprints."""
    week = embeddings(tmp_path / "week.npz", 6, 2)
    assert "now holds 8 tumors, 2 of them new" in run("index", "add", index, week)
    assert ids(index) == [f"t{i}" for i in range(8)]
    assert "Got 't6', which the index holds" in run("index", "add", index, week, code=2)
    other = embeddings(tmp_path / "other.npz", 8, 2, space=EmbeddingSpace("9c07"))
    refused = run("index", "add", index, other, code=2)
    assert "'3fa1'" in refused
    assert "'9c07'" in refused
    assert ids(index) == [f"t{i}" for i in range(8)]


def test_tumors_are_replaced_and_removed(index, tmp_path):
    """Update by id in place; remove by id and by condition, which names what it does not find."""
    again = embeddings(tmp_path / "again.npz", 2, 2, value=7)
    assert "now holds 6 tumors, 2 of them replaced" in run("index", "update", index, again)
    assert TumorIndex.load(index).embeddings_[:, 0].tolist() == [0, 1, 7, 7, 4, 5]
    unknown = embeddings(tmp_path / "unknown.npz", 5, 2)
    assert "Got unknown 't6'" in run("index", "update", index, unknown, code=2)
    assert "now holds 4 tumors; 2 are gone" in run("index", "remove", index, "t0", "--where", "tumor_id=t5")
    assert "now holds 2 tumors; 2 are gone" in run("index", "remove", index, "--where", "patient_id=p1")
    assert ids(index) == ["t1", "t4"]
    assert "unknown 't0'" in run("index", "remove", index, "t0", code=2)
    assert "no 'patient_id' is 'p1'. Its values are 'p0' (1)" in run(
        "index", "remove", index, "--where", "patient_id=p1", code=2
    )
    assert "Nothing to remove" in run("index", "remove", index, code=2)
    assert "at least one tumor" in run("index", "remove", index, "t1", "t4", code=2)


def test_verify_says_what_is_whole_and_what_is_damaged(index):
    """Exit code 0 with the facts, or 2 with the file that is damaged."""
    size = sum(path.stat().st_size for path in index.glob("*-1.*"))
    said = run("index", "verify", index)
    assert f"is whole: 6 tumors in {size} bytes, generation 1, schema version 2" in said
    path = index / "embeddings-1.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert "embeddings-1.npy does not match its SHA-256" in run("index", "verify", index, code=2)
    assert "does not exist" in run("index", "verify", index / "gone", code=2)


def test_an_index_goes_through_parquet(index, tmp_path):
    """Export and import give the same index; what is no Parquet file is refused."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    assert "6 tumors, 3 numbers" in run("index", "export", index, "-o", tmp_path / "a.parquet")
    run("index", "import", tmp_path / "a.parquet", "-o", tmp_path / "again")
    assert run("index", "info", index) == run("index", "info", tmp_path / "again")
    pd.testing.assert_frame_equal(
        TumorIndex.load(index).metadata_, TumorIndex.load(tmp_path / "again").metadata_
    )
    refused = run("index", "import", tmp_path / "archive.npz", "-o", tmp_path / "no", code=2)
    assert "is no Parquet file" in refused
    assert not (tmp_path / "no").exists()


def test_engines_are_chosen_and_told(index, tmp_path, monkeypatch):
    """An engine is kept in the manifest; one that is not installed says which extra it needs."""
    run("index", "build", tmp_path / "archive.npz", "-o", tmp_path / "f", "--engine", "faiss-compact")
    assert json.loads((tmp_path / "f" / "manifest.json").read_text())["engine"] == "faiss-compact"
    assert "faiss-compact" in run("index", "info", tmp_path / "f")
    wrong = run("index", "build", tmp_path / "archive.npz", "-o", tmp_path / "g", "--engine", "annoy", code=2)
    assert "'faiss', 'faiss-compact', 'milvus'. Got 'annoy'" in wrong
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    milvus = ("--engine", "milvus", "--uri", str(tmp_path / "a.db"), "--collection", "t1c")
    missing = run("index", "build", tmp_path / "archive.npz", "-o", tmp_path / "m", *milvus, code=2)
    assert "pip install '.[milvus]'" in missing
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_an_archive_in_milvus_grows(index, tmp_path):
    """Build, be refused a second time, overwrite, add, and find the collection from the folder."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    milvus = ("--engine", "milvus", "--uri", tmp_path / "a.db", "--collection", "t1c")
    build = ("index", "build", tmp_path / "archive.npz", "-o", tmp_path / "m", *milvus)
    run(*build)
    assert "exists already" in run(*build, code=2)
    other = ("index", "build", tmp_path / "archive.npz", "-o", tmp_path / "other", *milvus)
    assert "exists: 6 tumors of fingerprint '3fa1'" in run(*other, code=2)
    run(*build, "--overwrite")
    assert "now holds 8 tumors" in run("index", "add", tmp_path / "m", embeddings(tmp_path / "w.npz", 6, 2))
    assert "t1c at " in run("index", "info", tmp_path / "m")
    assert TumorIndex.connect(str(tmp_path / "a.db"), "t1c").n_samples_fit_ == 8
