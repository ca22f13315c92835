"""Model files: one safetensors file ↔ network and its configuration; no pickle anywhere."""

import hashlib
import json
import os

import numpy as np

from tumorsim.exceptions import WeightsError
from tumorsim.io import atomic_path
from tumorsim.spaces import EmbeddingSpace

__all__ = ["embedding_space", "fingerprint", "head_aspects", "load_model", "save_model"]

_FORMAT = "tumorsim-model-1"


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


def embedding_space(network, preprocessing, scale, weights):
    """Return what an index must know of a network's embeddings: fingerprint, tasks' aspects, plain distance.

    Parameters
    ----------
    network : Network
    preprocessing : Preprocessing
    scale : array-like of shape (n_channels,)
        See `spaces.feature_scale`.
    weights : mapping of str to float
        How much each task's head counts in the plain distance; empty for an untrained network.

    Returns
    -------
    EmbeddingSpace
    """
    state = fingerprint(network.state_dict(), preprocessing.to_dict())
    offsets = {task: _centered(head.bias) for task, head in zip(network.tasks, network.heads, strict=True)}
    return EmbeddingSpace(state, head_aspects(network), scale, offsets, weights)


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
        Store kernels (tensors of two or more axes) rounded to this type, in half the bytes; biases and the
        statistics of normalization, which are few, stay as they are. Default: nothing is rounded.

    Raises
    ------
    ValueError
        If `dtype` is not known, or a kernel leaves its range.

    Notes
    -----
    Rounding makes another model: the file has the fingerprint of the rounded numbers, and its embeddings are
    not comparable with those of `network` itself.
    """
    from safetensors.torch import save_file

    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if dtype is not None:
        tensors = _rounded(tensors, dtype)
        config = config | {"fingerprint": fingerprint(_widened(tensors), config["preprocessing"])}
    text = json.dumps(
        config, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
    )
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT, "config": text})


def load_model(path):
    """Read a model file.

    Tensors that were stored as float16 become float32.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    network : Network
        In evaluation mode, on the CPU.
    config : dict
        What was saved.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or not a tumorsim model.
    """
    from safetensors import SafetensorError, safe_open

    from tumorsim.nn import Network

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise WeightsError(
                    f"'{path}' must be a tumorsim model ({_FORMAT}). Got {metadata.get('format')!r}."
                )
            tensors = _widened({name: file.get_tensor(name) for name in file.keys()})
        config = json.loads(metadata["config"])
        n_classes = {task: len(names) for task, names in config["classes"].items()}
        network = Network(n_classes, **config["architecture"])
        network.load_state_dict(tensors)
        found, expected = fingerprint(tensors, config["preprocessing"]), config["fingerprint"]
        if found != expected:
            raise WeightsError(
                f"'{path}' does not match its fingerprint. Expected {expected[:12]}…, got {found[:12]}…. "
                "Copy the file again."
            )
    except WeightsError:
        raise
    except FileNotFoundError as err:  # safetensors raises it also for a file without read permission
        if os.path.lexists(path):
            raise WeightsError(f"Model file '{path}' cannot be read. Check its permissions.") from err
        raise WeightsError(f"Model file '{path}' does not exist. Make one with 'tumorsim fit'.") from err
    except (SafetensorError, KeyError, AttributeError, RuntimeError, OSError, TypeError, ValueError) as err:
        raise WeightsError(f"'{path}' is damaged or not a model file: {err}") from err
    return network.eval(), config


def _rounded(tensors, dtype):
    """Return tensors with kernels as `dtype`, or say which does not fit."""
    import torch

    if dtype not in ("float16", torch.float16):
        raise ValueError(f"Parameter 'dtype' must be 'float16' or None. Got {dtype!r}.")
    rounded = {
        name: tensor.half() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in rounded.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"Tensor '{name}' must be finite as float16. Save it with dtype=None.")
    return rounded


def _widened(tensors):
    """Return tensors with float16 as float32."""
    import torch

    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()
    }
