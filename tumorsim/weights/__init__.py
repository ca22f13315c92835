"""Model files, and where the shipped ones come from: registry, cache, mirrors; no pickle anywhere."""

from tumorsim.weights._fetch import fetch_weights, find_weights, list_weights, verify_weights, weights_path
from tumorsim.weights._model import embedding_space, fingerprint, head_aspects, load_model, save_model
from tumorsim.weights._registry import Registry, Weights, load_registry

__all__ = [
    "Registry", "Weights", "embedding_space", "fetch_weights", "find_weights", "fingerprint", "head_aspects",
    "list_weights", "load_model", "load_registry", "save_model", "verify_weights", "weights_path",
]  # fmt: skip
