"""Checkpoints: the whole state of a run in one file, written after every epoch, and the run's seed."""

import contextlib
import hashlib
import json
import numbers
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from sklearn.utils import check_random_state

from tumorsim._validation import printable
from tumorsim.exceptions import TrainingError
from tumorsim.io import locked, remove_leftovers, save_tensors
from tumorsim.nn import process_rank

CHECKPOINT = "checkpoint.safetensors"


@contextlib.contextmanager
def only_run(checkpoint_dir):
    """Keep other runs out of a folder of checkpoints, if there is one, and remove what a killed run left.

    Of the processes of one run, the first does so for all.

    Raises
    ------
    TrainingError
        If another run is going on in it.
    """
    if checkpoint_dir is None or process_rank() > 0:
        yield
        return
    busy = TrainingError(
        f"Another run is writing its checkpoints to '{checkpoint_dir}'. Wait until it has finished, or give "
        "another checkpoint_dir (--checkpoint-dir)."
    )
    with locked(Path(checkpoint_dir) / f".{CHECKPOINT}.lock", busy):
        remove_leftovers(Path(checkpoint_dir) / CHECKPOINT)
        yield


def save_checkpoint(directory, network, optimizer, identity, seed, history):
    """Write the whole state atomically: tensors, the optimizer's moments, the history."""
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found = {name: value.contiguous() for name, value in state.items() if isinstance(value, torch.Tensor)}
        tensors |= {f"optimizer.{number}.{name}": value for name, value in found.items()}
    metadata = {"identity": identity, "seed": str(seed), "history": json.dumps(history)}
    metadata["sha256"] = _digest(tensors, metadata)
    try:
        save_tensors(directory / CHECKPOINT, tensors, metadata)
    except OSError as err:
        what = f"The checkpoint of epoch {len(history)} cannot be written: {err.strerror or err}."
        remedy = "Go on from that of the epoch before, if any, with fit(resume=True) (--resume)."
        raise TrainingError(f"{what} {remedy}") from err


def _digest(tensors, metadata):
    """Return the SHA-256 of tensors by name and of all else that a checkpoint holds."""
    digest = hashlib.sha256("".join(metadata[key] for key in ("identity", "seed", "history")).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()


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
    return metadata["seed"] if metadata else None


def _read_checkpoint(directory, device="cpu", tensors=False):
    """Return metadata and, if asked for, tensors by name; two empty dicts where there is no checkpoint."""
    path = directory / CHECKPOINT
    if not path.is_file():
        return {}, {}
    with _damage(path), safe_open(path, framework="pt", device=str(device)) as file:
        metadata = file.metadata() or {}
        history = json.loads(metadata["history"])
        epochs = [entry["epoch"] for entry in history if entry["seconds"] >= 0]
        values = [value for entry in history for value in entry.values()]
        if epochs != list(range(1, len(history) + 1)) or not all(isinstance(v, int | float) for v in values):
            raise ValueError("'history' is not one entry of numbers per epoch")
        known = {"identity": metadata["identity"], "seed": int(metadata["seed"]), "history": history}
        # copies: Windows cannot replace a file of which something is still mapped
        read = {name: file.get_tensor(name).clone() for name in (file.keys() if tensors else ())}
        if tensors and metadata.get("sha256") not in (None, _digest(read, metadata)):
            raise ValueError("its numbers are not those that were written")
        return known, read


@contextlib.contextmanager
def _damage(path):
    """Turn what reading a damaged file can raise into a `TrainingError` that names it."""
    try:
        yield
    except (SafetensorError, LookupError, OSError, RuntimeError, TypeError, ValueError) as err:
        raise TrainingError(f"The checkpoint '{path}' is damaged: {printable(err)}. Delete it.") from err


def load_checkpoint(directory, network, optimizer, identity, device):
    """Restore the state and return the history; nothing happens where there is no checkpoint."""
    metadata, tensors = _read_checkpoint(directory, device, tensors=True)
    if not metadata:
        return []
    if metadata["identity"] != identity:
        rule = f"The checkpoint '{directory / CHECKPOINT}' must come from the same tumors and parameters."
        remedy = "Use another checkpoint_dir, or fit with resume=False."
        raise TrainingError(f"{rule} Got another run's. {remedy}")
    state = {}
    groups = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with _damage(directory / CHECKPOINT):
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                if tensor.ndim and tensor.shape != parameters[int(number)].shape:
                    raise ValueError(f"'{name}' has another shape than its parameter")
                state.setdefault(int(number), {})[key] = tensor
        own = {name: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        network.load_state_dict({name.removeprefix("network."): tensor for name, tensor in own.items()})
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return metadata["history"]
