"""Find similar brain tumors in contrast-enhanced T1 MRI."""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "Case": "records",
    "Tumor": "records",
    "Cohort": "records",
    "load_cohort": "manifest",
    "load_dataset": "public_sets",
    "make_cohort": "simulation",
    "TumorEmbedder": "embedder",
    "Recipe": "training",
    "TumorIndex": "index",
    "EmbeddingSpace": "spaces",
    "find_similar": "retrieval",
    "evaluate_knn": "evaluation",
    "match_dates": "matching",
    "roi_pool": "nn",
    "metrics": None,
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name):
    """Import a public name on first use (PEP 562): scikit-learn and torch take seconds to load."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tumorsim' has no attribute {name!r}")
    home = _HOMES[name]
    module = import_module(f"tumorsim.{home or name}")
    value = module if home is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
