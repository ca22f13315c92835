"""The training of the shipped weights, step by step, on next to nothing."""

import json
import sys
from functools import partial

import numpy as np
import pandas as pd
import phantoms
import pytest

from benchmarks import pasting
from benchmarks.shipping import register
from examples import train_pretrained
from tumorsim import Recipe, TumorEmbedder, load_cohort
from tumorsim.io import save_nifti
from tumorsim.weights import load_registry

pytestmark = pytest.mark.slow
SMALL = {"batches_per_epoch": 1, "batch_size": 2, "n_channels": 8, "n_blocks": 1, "patch_size": 32}


def write_stacks(folder):
    """Write ten stacks of two types and their table; returns its path."""
    folder.mkdir()
    rows = []
    for i in range(10):
        rng = np.random.default_rng(i)
        image = np.zeros((60, 64, 6), np.float32)
        image[6:54, 6:58] = rng.normal(100, 3, (48, 52, 6))
        mask = np.zeros(image.shape, np.uint8)
        mask[20:32, 20:31, 1:5] = 1
        image[mask > 0] += 60
        names = f"stack-{i}_t1c.nii.gz", f"stack-{i}_mask.nii.gz"
        for name, array in zip(names, (image, mask), strict=True):
            save_nifti(folder / name, array, np.diag([2.0, 2.0, 6.0, 1.0]))
        kind = ("glioma", "meningioma")[i % 2]
        rows.append([f"stack-{i}", f"stack-{i}", *names, kind, "stacks", "CC BY 4.0"])
    columns = ["patient_id", "case_id", "image", "mask", "label_type", "dataset", "license"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "scans.csv", index=False)
    return folder / "scans.csv"


def run(monkeypatch, module, *arguments):
    """Run a module's command line."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_every_step_runs_and_is_skipped_when_done(tmp_path, monkeypatch):
    """Simulate, paste, train, go on, average, one fold, register: each leaves its file, once."""
    monkeypatch.setattr(train_pretrained, "CHUNK", 6)
    monkeypatch.setattr(train_pretrained, "Recipe", partial(Recipe, **SMALL))
    stage = {"max_epochs": 1, "recipe__batches_per_epoch": 1}
    monkeypatch.setattr(train_pretrained, "LAST_STAGES", {"all": (6, 6, stage), "few": (3, 3, stage)})
    registry = tmp_path / "package" / "registry.json"
    registry.parent.mkdir()
    registry.write_text(json.dumps({"default": None, "url": "http://127.0.0.1:9", "weights": {}}))
    monkeypatch.setattr(train_pretrained, "register", partial(register, registry_path=registry))
    (tmp_path / "heads").mkdir()  # no label map: the template alone
    common = ["--heads", tmp_path / "heads", "--stacks", write_stacks(tmp_path / "stacks")]
    out, pasted = tmp_path / "run", tmp_path / "pasted"
    run(monkeypatch, pasting, *common, "--out", pasted, "--n-patients", 4)
    sources = load_cohort(pasted / "manifest.csv").table["source"]
    assert len(sources) == 4 and sources.str.fullmatch(r"stack-\d").all()

    options = [*common, "--out", out, "--n-patients", 6, "--max-epochs", 1, "--precision", "float32"]
    options += ["--n-jobs", 1, "--shape-tasks", "--pasted", pasted / "manifest.csv"]
    for until, left in (
        ("simulate", "simulated/000/manifest.csv"),
        ("pretrain", "simulated.safetensors"),
        ("ship", "pretrained.safetensors"),
        ("folds", "fold-1.safetensors"),
    ):
        assert not (out / left).exists()
        run(monkeypatch, train_pretrained, *options, "--until", until, "--folds", 1)
        assert (out / left).exists()
    assert not (out / "fold-0.safetensors").exists()
    base = TumorEmbedder.load(out / "simulated.safetensors")
    assert {"elongation", "sphericity", "ring", "lateral"} <= set(base.tasks_)
    result = TumorEmbedder.load(out / "pretrained.safetensors")
    assert set(result.tasks_) <= set(train_pretrained.TASKS)

    times = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    run(monkeypatch, train_pretrained, *options, "--until", "ship", "--register", "t1c-v99")
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert load_registry(registry).default == "t1c-v99"
    assert set(load_registry(registry).weights) == {"t1c-v99", "t1c-v99-simulated"}


def test_a_fold_sees_no_pasted_tumor_of_its_held_out_stacks(tmp_path, monkeypatch):
    """What is trained on beside simulated patients comes from the fold's own stacks, pasted or not."""
    seen = []
    monkeypatch.setattr(TumorEmbedder, "fit", lambda self, cohort, *_, **__: seen.append(cohort) or self)
    monkeypatch.setattr(TumorEmbedder, "save", lambda self, path: path.touch())
    stacks = load_cohort(_manifest(tmp_path))
    rows = [
        pasting.written(tmp_path, f"pasted-{i}", *_pasted(name))
        for i, name in enumerate(("stack-0", "stack-1", "stack-0"))
    ]
    pasting.save_manifest(train_pretrained.Cohort(rows), tmp_path / "pasted.csv")
    args = type("Args", (), {"random_state": 0, "precision": "float32", "n_jobs": 1, "out": tmp_path})
    args.pasted = tmp_path / "pasted.csv"
    rest = stacks[[i for i, tumor in enumerate(stacks) if tumor.case.case_id != "stack-0"]]
    few = phantoms.cohort(4)
    train_pretrained.last_stage(args, "t1c-v6-simulated", rest, few, tmp_path / "fold-0.safetensors", "few")
    ids = set(seen[0].table["case_id"])
    assert "stack-0" not in ids and {"pasted-0", "pasted-2"}.isdisjoint(ids) and "pasted-1" in ids


def _manifest(folder):
    """Return the manifest of the stacks."""
    args = type("Args", (), {"stacks": write_stacks(folder / "stacks"), "out": folder})
    train_pretrained.real_stacks(args)
    return folder / "stacks.csv"


def _pasted(source):
    """Return what `pasting.paste` would, without a head."""
    mask = np.zeros((12, 12, 12), bool)
    mask[4:8, 4:8, 4:8] = True
    scan = type("Scan", (), {"affine": np.diag([2.0, 2, 2, 1]), "head": type("Head", (), {"name": "h"})})
    lesion = type("Lesion", (), {"source": source, "type": "glioma"})
    return mask.astype(np.int16) * 100 + 50, scan, mask, np.array([20.0, 0, 10]), lesion
