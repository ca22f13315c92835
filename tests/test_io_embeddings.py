"""Embeddings files: what is written is read, and nothing else is."""

import io
import json
import zipfile

import numpy as np
import pytest

from tumorsim.io import load_embeddings, save_embeddings

SPACE = {"fingerprint": "3fa1", "aspects": {"type": [[1.0, 0.5]]}, "scale": [1.0, 2.0]}
COLUMNS = {
    "tumor_id": ["a", "007"],
    "x0": np.array([3, 4]),
    "volume_mm3": [0.1, float("nan")],
    "label_type": ["glioma", None],
    "proven": [True, False],
}


def test_round_trip(tmp_path):
    """Vectors, text, numbers, booleans and the space come back; NaN comes back as None; ids stay text."""
    X = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    save_embeddings(tmp_path / "a.npz", X, COLUMNS, SPACE)
    got, columns, space = load_embeddings(tmp_path / "a.npz")
    np.testing.assert_array_equal(got, X)
    assert got.dtype == np.float32 and space == SPACE
    assert columns == {
        "tumor_id": ["a", "007"],
        "x0": [3, 4],
        "volume_mm3": [0.1, None],
        "label_type": ["glioma", None],
        "proven": [True, False],
    }


def test_plain_numpy_reads_it(tmp_path):
    """The file holds no pickle, and keeps the name that was asked for."""
    save_embeddings(tmp_path / "vectors", np.zeros((2, 2)), COLUMNS, SPACE)
    assert [p.name for p in tmp_path.iterdir()] == ["vectors"]
    with np.load(tmp_path / "vectors", allow_pickle=False) as file:
        assert file["tumor_ids"].tolist() == ["a", "007"] and str(file["fingerprint"]) == "3fa1"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x0": [1]}, ValueError, "a value per row of X: 2"),
        ({"x0": [1, object()]}, TypeError, "'x0' must hold text"),
        ({"x0": [1, float("inf")]}, TypeError, "'x0' must hold finite"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path, change, error, match):
    """Columns of another length or of objects are refused, and no file is left."""
    with pytest.raises(error, match=match):
        save_embeddings(tmp_path / "a.npz", np.zeros((2, 2)), COLUMNS | change, SPACE)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    """A missing file, text, a truncated file and another npz each have their message."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_embeddings(tmp_path / "a.npz")
    (tmp_path / "text.npz").write_text("patient_id,case_id")
    np.savez(tmp_path / "other.npz", X=np.zeros(3))
    save_embeddings(tmp_path / "whole.npz", np.zeros((2, 2)), COLUMNS, SPACE)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    for name in ("text.npz", "other.npz", "half.npz"):
        with pytest.raises(ValueError, match=f"{name}' is no embeddings file"):
            load_embeddings(tmp_path / name)


def parts(**changes):
    """Return the parts of an embeddings file of two tumors, some of them changed."""
    tables = {"columns": '{"tumor_id": ["a", "007"], "x0": [3, null]}', "space": json.dumps(SPACE)}
    return {"schema": 1, "X": np.zeros((2, 3), np.float32)} | tables | changes


def test_parts_that_do_not_fit_are_refused(tmp_path):
    """Another shape or type of X, columns of another length, cells that are lists: the file is named."""
    path = tmp_path / "a.npz"
    np.savez(path, **parts())
    assert load_embeddings(path)[0].shape == (2, 3)
    for changes in (
        {"X": np.zeros(2, np.float32)},
        {"X": np.zeros((2, 3))},
        {"X": np.array("text")},
        {"columns": "[]"},
        {"columns": '{"x0": [1, 2]}'},
        {"columns": '{"tumor_id": ["a"]}'},
        {"columns": '{"tumor_id": ["a", ["b"]]}'},
        {"space": "3"},
    ):
        np.savez(path, **parts(**changes))
        with pytest.raises(ValueError, match=r"a\.npz' is no embeddings file"):
            load_embeddings(path)


def test_damaged_and_dense_archives_are_refused(tmp_path):
    """A broken stream, a header that is no Python, a claim of 1 TB and a zip bomb are refused."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **parts(X=np.random.default_rng(0).random((2, 4000), np.float32)))
    content = bytearray(path.read_bytes())
    content[3000:3010] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz' is no embeddings file"):
        load_embeddings(path)
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3), np.float32))
    header = array.getvalue()
    huge = header.replace(b"(2, 3)", b"(99999999999, 3)").replace(b" " * 10, b"", 1)
    for name, member in (("X", header[:10] + b"(" * 118), ("X", huge), ("X", bytes(2**27))):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{name}.npy", member)
        with pytest.raises(ValueError, match=r"a\.npz' is no embeddings file"):
            load_embeddings(path)
