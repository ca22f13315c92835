"""Protocols that turn embeddings and labels into tables of scores with intervals by patient."""

from importlib import import_module

_HOMES = {
    "evaluate_knn": "_knn",
    "format_knn_table": "_knn",
    "block_folds": "_splits",
    "split_patients": "_splits",
    "RetrievalScores": "_retrieval",
    "evaluate_retrieval": "_retrieval",
    "rank_gallery": "_questions",
    "check_apart": "_leaks",
    "paired_differences": "_paired",
    "pool_scores": "_paired",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    """Import a name on first use: `evaluate_knn` needs neither torch nor images."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tumorsim.evaluation' has no attribute {name!r}")
    value = getattr(import_module(f"tumorsim.evaluation.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
