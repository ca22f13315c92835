"""Checkpoints: the whole state of a run in one file, written after every epoch, and the run's seed."""

import json
import numbers
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils import check_random_state

from tumorsim.exceptions import TrainingError
from tumorsim.io import atomic_path

__all__ = ["CHECKPOINT", "load_checkpoint", "run_seed", "save_checkpoint", "saved_seed"]

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(directory, network, optimizer, identity, seed, history):
    """Write the whole state atomically: tensors, the optimizer's moments, the history."""
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{number}.{name}"] = value.contiguous()
    metadata = {"identity": identity, "seed": str(seed), "history": json.dumps(history)}
    with atomic_path(directory / CHECKPOINT) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def run_seed(random_state, *, checkpoint_dir=None, resume=False):
    """Return the run's seed: on resume that of the checkpoint, unless `random_state` is an integer.

    Raises
    ------
    ValueError
        If `random_state` cannot be used, or there is no `checkpoint_dir` to resume from.
    """
    try:
        generator = check_random_state(random_state)
    except ValueError as err:
        raise ValueError(f"Parameter 'random_state' cannot be used: {err}") from err
    if resume and checkpoint_dir is None:
        raise ValueError("Parameter 'checkpoint_dir' must name a folder for resume=True. Got None.")
    free = resume and not isinstance(random_state, numbers.Integral)
    saved = saved_seed(checkpoint_dir) if free else None
    return int(generator.randint(2**31 - 1)) if saved is None else saved


def saved_seed(checkpoint_dir):
    """Return the seed of the run that left a checkpoint, or None where there is none."""
    metadata, _ = _read_checkpoint(Path(checkpoint_dir))
    return int(metadata["seed"]) if metadata else None


def _read_checkpoint(directory, device="cpu", tensors=False):
    """Return metadata and, if asked for, tensors by name; two empty dicts where there is no checkpoint."""
    path = directory / CHECKPOINT
    if not path.is_file():
        return {}, {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = file.keys() if tensors else ()
            # copies: Windows cannot replace a file of which something is still mapped
            return file.metadata(), {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as err:
        raise TrainingError(f"The checkpoint '{path}' is damaged: {err}. Delete it.") from err


def load_checkpoint(directory, network, optimizer, identity, device):
    """Restore the state and return the history; nothing happens where there is no checkpoint."""
    metadata, tensors = _read_checkpoint(directory, device, tensors=True)
    if not metadata:
        return []
    if metadata["identity"] != identity:
        raise TrainingError(
            f"The checkpoint in '{directory}' must come from the same tumors and parameters. Got another "
            "run's. Use another checkpoint_dir, or fit with resume=False."
        )
    network.load_state_dict(
        {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    )
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return json.loads(metadata["history"])
