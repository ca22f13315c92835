"""Damaged model files, checkpoints and registries of weights."""

import json
import shutil
import sys
from functools import lru_cache
from pathlib import Path

from ._engine import Reader
from ._mutations import mutate

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests


@lru_cache
def _cohort():
    """Return three simulated tumors, made once: an input costs half as much."""
    from phantoms import cohort

    return cohort(3)


def _fit(folder=None, *, resume=False):
    """Return an embedder that was trained for a step, or goes on, with its checkpoint in `folder`."""
    from phantoms import tiny

    options = {"n_channels": 4, "patch_size": 8, "max_epochs": 1, "batches_per_epoch": 1}
    return tiny(checkpoint_dir=folder, **options).fit(_cohort(), resume=resume)


def _models(folder):
    """Write a model file in float32 and one in float16."""
    embedder = _fit()
    embedder.save(folder / "full.safetensors")
    embedder.save(folder / "half.safetensors", dtype="float16")
    return sorted(folder.glob("*.safetensors"))


def _read_model(path):
    """Read a model; what is accepted embeds a tumor by finite numbers."""
    import numpy as np
    from phantoms import cohort

    from tumorsim import TumorEmbedder

    embedder = TumorEmbedder.load(path, device="cpu")
    assert np.isfinite(embedder.transform(cohort(1))).all()
    assert all(isinstance(name, str) for names in embedder.classes_.values() for name in names)
    assert isinstance(embedder.training_, dict) and isinstance(embedder.history_, list)


def _checkpoints(folder):
    """Write the checkpoint of a run."""
    place = folder / "run"
    _fit(place)
    for hidden in place.glob(".*"):
        hidden.unlink()
    return [place / "checkpoint.safetensors"]


def _read_checkpoint(path):
    """Go on from a checkpoint; one that is accepted is that of the run."""
    embedder = _fit(path.parent, resume=True)
    assert [entry["epoch"] for entry in embedder.history_] == [1]


def _registries(folder):
    """Write the registry of the package."""
    from tumorsim.weights import load_registry

    shutil.copy(load_registry().path, folder / "registry.json")
    return [folder / "registry.json"]


def _read_registry(path):
    """Read a registry; its entries are text on one line, and files lie nowhere else."""
    from tumorsim.weights import load_registry

    registry = load_registry(path)
    for weights in registry.weights.values():
        assert "/" not in weights.file and weights.description.isprintable() and isinstance(weights.size, int)
    assert json.dumps([registry.default, registry.url])


def _in_text(rng, data):
    """Damage the JSON text that the metadata of a safetensors file holds, and sign the result anew."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        key = "config" if "config" in metadata else "history"
        text = mutate(rng, metadata[key].encode()).decode()
        if key == "config" and rng.random() < 0.5:
            text = _signed(json.loads(text), data)
        metadata[key] = text
        metadata.pop("sha256", None)
        new = json.dumps(header).encode()
    except Exception:
        return data[:-1]  # damaged before
    return len(new).to_bytes(8, "little") + new + data[8 + length :]


def _signed(config, data):
    """Return a configuration as text, with the fingerprint that it should have."""
    from safetensors.torch import load

    from tumorsim.weights import fingerprint

    tensors = {n: t.float() if t.is_floating_point() else t for n, t in load(data).items()}
    return json.dumps(config | {"fingerprint": fingerprint(tensors, config["preprocessing"])})


_WORDS = (
    b"F32",
    b"F16",
    b"BF16",
    b"F64",
    b"I64",
    b"BOOL",
    b"F8_E4M3",
    b'"dtype":',
    b'"shape":',
    b'"data_offsets":',
)
_WORDS += (
    b"config",
    b"format",
    b"tumorsim-model-1",
    b"n_channels",
    b"n_blocks",
    b"architecture",
    b"least_shape",
)
_WORDS += (
    b"NaN",
    b"Infinity",
    b"[1000000000,0]",
    b"999999999",
    b"fingerprint",
    b"classes",
    b"network.",
    b"optimizer.",
)

READERS = [
    Reader("model", _models, _read_model, _WORDS, (_in_text,), ci=250),
    Reader("checkpoint", _checkpoints, _read_checkpoint, _WORDS, (_in_text,), ci=60),
    Reader("registry", _registries, _read_registry, (b"sha256", b"file", b"../x", b"null", b"size"), ci=300),
]
