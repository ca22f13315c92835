"""Embeddings files: what is written is read, and nothing else is."""

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
