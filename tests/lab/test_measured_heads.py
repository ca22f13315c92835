"""The gain of heads that read measures, on made-up embeddings whose volumes tell the type."""

import numpy as np
import pandas as pd

from benchmarks import measured
from tumorsim import TumorEmbedder
from tumorsim.io import save_embeddings
from tumorsim.weights import find_weights

NAME = "t1c-v6-simulated"
TYPES = ["glioma", "meningioma", "metastasis", "pituitary_adenoma", "schwannoma"]


def write(path, n, seed, types=TYPES, **columns):
    """Write a file of `n` tumors, a patient each, whose volume and number of tumors go by their type."""
    embedder, rng = TumorEmbedder.from_pretrained(NAME), np.random.default_rng(seed)
    label = rng.integers(len(types), size=n)
    table = pd.DataFrame(
        {"label_type": np.array(types)[label], "tumor_id": np.arange(n).astype(str), **columns}
    )
    table["patient_id"] = table["case_id"] = table["tumor_id"]
    table["volume_mm3"] = np.exp(
        4 + 2 * np.array([TYPES.index(types[i]) for i in label]) + rng.normal(size=n)
    )
    table["tumors_in_scan"] = 1
    X = rng.normal(size=(n, 48)).astype(np.float32)
    save_embeddings(path, X, table, embedder.space_.to_dict())
    return path


def test_a_measured_head_is_scored_beside_the_network(tmp_path, monkeypatch):
    """A row a file, subset and head; pairs of rings where a file has them, folds where tumors are real."""
    rings = {"ring": True}
    files = [
        write(tmp_path / "train.npz", 400, 0, ring=False),
        write(tmp_path / "rings.npz", 80, 1, ["glioma", "metastasis"], **rings),
        write(tmp_path / "stacks.npz", 60, 2, TYPES[:2]),
    ]
    arguments = ["measured", "--train", str(files[0]), "--test", *map(str, files[1:])]
    monkeypatch.setattr("sys.argv", [*arguments, "--model", NAME, "--out", str(tmp_path / "out")])
    monkeypatch.setattr(
        measured, "matched_in_volume", lambda table, chosen, ratio: chosen
    )  # volumes tell all
    measured.main()
    found = pd.read_csv(tmp_path / "out" / f"measured-{NAME}.csv").set_index(["file", "tumors", "by"])
    assert sorted(set(found.index.droplevel(2))) == [
        *(("rings", name) for name in ("all", "pairs")),
        *(("stacks", name) for name in ("all", "told from theirs")),
    ]
    types = found["type"]
    assert types["rings", "pairs", "measured head"] > 0.9 > 0.7 > types["rings", "pairs", "own head"]
    assert types["stacks", "all", "measured head"] > 0.5 > types["stacks", "all", "own head"]
    assert types["stacks", "all", "measured head, by folds"] >= types["stacks", "all", "measured head"] - 0.05
    theirs = types["stacks", "told from theirs"]
    assert theirs["measured head, by folds"] > 0.6 > theirs["own head"]
    assert (found["low"] <= found["type"]).all() and (found["type"] <= found["high"]).all()


def test_networks_of_folds_tell_only_stacks_that_they_have_not_seen(tmp_path, monkeypatch):
    """Heads that read the volume, which tells the type here, are right more often than the network's own."""
    weights = find_weights(NAME)
    for fold in range(measured.N_FOLDS):
        (tmp_path / f"fold-{fold}.safetensors").symlink_to(weights)
        write(tmp_path / f"fold-{fold}-000.npz", 300, fold)
        write(tmp_path / f"fold-{fold}-stacks.npz", 60, 9, TYPES[:2])
    monkeypatch.setattr("sys.argv", ["measured", "--folds", str(tmp_path), "--out", str(tmp_path / "out")])
    measured.main()
    found = pd.read_csv(tmp_path / "out" / "measured-folds.csv").set_index("method")["balanced_accuracy"]
    assert len(found) == 9
    assert found["measured head, 5 types"] > 0.55 > 0.2 > found["own head, 5 types"]
    assert (
        found["5 neighbors, measured head, 5 types, as a distance"]
        > 0.7
        > found["5 neighbors, plain distance"]
    )
