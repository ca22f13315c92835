"""Model files: one safetensors file ↔ network and its configuration; no pickle anywhere."""

import hashlib
import json
import os

import numpy as np

from tumorsim._validation import check_choice, check_integer, check_text, printable
from tumorsim.exceptions import WeightsError
from tumorsim.io import save_tensors
from tumorsim.spaces import EmbeddingSpace

_FORMAT = "tumorsim-model-1"
_DAMAGE = (AttributeError, LookupError, RuntimeError, OSError, TypeError, ValueError)  # what it can raise
_NEEDED = {"architecture": dict, "classes": dict, "fingerprint": str, "preprocessing": dict}
_SCHEMA = _NEEDED | {"scale": list, "weights": dict, "history": list, "training": dict, "parameters": dict}
_SCHEMA |= {"measured": dict}


def fingerprint(state, preprocessing):
    """Return the SHA-256 of tensors and preprocessing: equal means comparable embeddings.

    Parameters
    ----------
    state : dict of Tensor
        ``network.state_dict()``.
    preprocessing : dict
        ``Preprocessing.to_dict()``.
    """
    digest = hashlib.sha256(json.dumps(preprocessing, sort_keys=True).encode())
    for name in sorted(state):
        array = np.ascontiguousarray(state[name].detach().cpu().numpy())
        digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def head_aspects(network):
    """Return task → its head's weights (k, n_channels) less their mean over classes, which softmax drops."""
    return {task: _centered(head.weight) for task, head in zip(network.tasks, network.heads, strict=True)}


def embedding_space(network, preprocessing, scale, weights, measured):
    """Return the `EmbeddingSpace` of a network: fingerprint, tasks' aspects, plain distance.

    `scale` (n_channels,) is that of `spaces.feature_scale`; `weights` says how much each task's head counts
    in the plain distance, and is empty for an untrained network; `measured` are heads that read measures.
    """
    state = fingerprint(network.state_dict(), preprocessing.to_dict())
    offsets = {task: _centered(head.bias) for task, head in zip(network.tasks, network.heads, strict=True)}
    return EmbeddingSpace(state, head_aspects(network), scale, offsets, weights, measured)


def _centered(tensor):
    """Return a tensor (k, …) less its mean over the first axis, as float64 array."""
    array = tensor.detach().cpu().double().numpy()
    return array - array.mean(axis=0)


def save_model(path, network, config, dtype=None):
    """Write a model file atomically.

    Parameters
    ----------
    path : str or Path
    network : Network
    config : dict
        ``architecture``, ``preprocessing``, ``classes``, ``aspects`` …; values are what JSON can hold,
        arrays, or paths.
    dtype : {"float16"}, optional
        Store kernels (tensors of two or more axes) rounded to this type, in half the bytes. It makes another
        model, with a fingerprint of its own. Default: nothing is rounded.

    Raises
    ------
    ValueError
        If `dtype` is not known, or a kernel leaves its range.
    OSError
        If the file cannot be written; one that was there is then as it was.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if dtype is not None:
        tensors = _rounded(tensors, dtype)
        config = config | {"fingerprint": fingerprint(_widened(tensors), config["preprocessing"])}
    text = json.dumps(config, default=lambda one: one.tolist() if hasattr(one, "tolist") else str(one))
    save_tensors(path, tensors, {"format": _FORMAT, "config": text})


def load_model(path):
    """Read a model file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    network : Network
        In evaluation mode, on the CPU; what was stored as float16 is float32.
    config : dict
        What was saved.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or not a tumorsim model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if os.path.exists(path) and not os.path.isfile(path):  # reading a named pipe would never end
            raise ValueError("it is no regular file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                found = printable(metadata.get("format"))
                raise WeightsError(f"'{path}' must be a tumorsim model ({_FORMAT}). Got '{found}'.")
            config = _checked_config(json.loads(metadata["config"]))
            network = _empty_network(config, {name: file.get_slice(name).get_shape() for name in file.keys()})
            tensors = _widened({name: file.get_tensor(name) for name in file.keys()})
        for name, like in network.state_dict().items():
            if tensors[name].dtype != like.dtype or not tensors[name].isfinite().all():
                raise ValueError(f"tensor '{name}' must hold finite numbers of type {like.dtype}")
        network.to_empty(device="cpu").load_state_dict(tensors)
        found, expected = fingerprint(tensors, config["preprocessing"]), config["fingerprint"]
        if found != expected:
            got = f"Expected {printable(expected, 12)}, got {found[:12]}…. Copy the file again."
            raise WeightsError(f"'{path}' does not match its fingerprint. {got}")
    except WeightsError:
        raise
    except FileNotFoundError as err:  # safetensors raises it also for a file without read permission
        if os.path.lexists(path):
            raise WeightsError(f"Model file '{path}' cannot be read. Check its permissions.") from err
        raise WeightsError(f"Model file '{path}' does not exist. Make one with 'tumorsim fit'.") from err
    except (SafetensorError, *_DAMAGE) as err:
        raise WeightsError(f"'{path}' is damaged or not a model file: {printable(err)}") from err
    return network.eval(), config


def _checked_config(config):
    """Return a configuration whose entries have the types that `save_model` gives them."""
    for key, kind in _SCHEMA.items():
        if not isinstance(config[key] if key in _NEEDED else config.get(key, kind()), kind):
            raise ValueError(f"'{key}' is not what it should be")
    if any(not isinstance(entry, dict) for entry in config.get("history", [])):
        raise ValueError("'history' is not a list of entries")
    scans = config.get("training", {}).get("scans")
    if scans is not None and not all(isinstance(hashes, list) for hashes in scans.values()):
        raise ValueError("'scans' is not a dict of lists")
    for task, names in config["classes"].items():
        check_text(task, "task")
        if not isinstance(names, list) or len({check_text(name, "class") for name in names}) < len(names):
            raise ValueError("'classes' must list the classes of each task, each of them once")
    return config


def _empty_network(config, shapes):
    """Return a network that takes no memory, if tensors of these shapes (name → list) are those it needs."""
    import torch

    from tumorsim.nn import ARCHITECTURES, Network

    shape = dict(config["architecture"])
    check_choice(shape["architecture"], "architecture", ARCHITECTURES)
    if check_integer(shape["n_blocks"], "n_blocks", minimum=1) > len(shapes):  # would take for ever
        raise ValueError(f"'n_blocks' is {shape['n_blocks']}, and it has {len(shapes)} tensors")
    with torch.device("meta"):
        network = Network({task: len(names) for task, names in config["classes"].items()}, **shape)
    if shapes != {name: list(tensor.shape) for name, tensor in network.state_dict().items()}:
        raise ValueError("its tensors are not those of its architecture")
    return network


def _rounded(tensors, dtype):
    """Return tensors with kernels as `dtype`, or say which does not fit."""
    import torch

    if dtype not in ("float16", torch.float16):
        raise ValueError(f"Parameter 'dtype' must be 'float16' or None. Got {dtype!r}.")
    kernels = {n: t.half() for n, t in tensors.items() if t.ndim > 1 and t.is_floating_point()}
    rounded = tensors | kernels
    for name, tensor in rounded.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"Tensor '{name}' must be finite as float16. Save it with dtype=None.")
    return rounded


def _widened(tensors):
    """Return tensors with float16 as float32."""
    import torch

    return {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
