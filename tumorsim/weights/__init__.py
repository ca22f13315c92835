"""Model files, and where the shipped ones come from: registry, cache, mirrors; no pickle anywhere."""

from tumorsim.weights._fetch import (
    fetch_weights,
    find_weights,
    list_weights,
    verify_weights,
    weights_path,
)
from tumorsim.weights._fine_tuning import average_models, start_from_weights
from tumorsim.weights._model import (
    embedding_space,
    fingerprint,
    head_aspects,
    load_model,
    save_model,
)
from tumorsim.weights._registry import Registry, Weights, load_registry, register

__all__ = [
    "Registry",
    "Weights",
    "average_models",
    "embedding_space",
    "fetch_weights",
    "find_weights",
    "fingerprint",
    "head_aspects",
    "list_weights",
    "load_model",
    "load_registry",
    "register",
    "save_model",
    "start_from_weights",
    "verify_weights",
    "weights_path",
]
