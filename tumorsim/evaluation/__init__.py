"""Protocols that turn embeddings into tables: against labels, and, where there are none, against controls."""

from importlib import import_module

_HOMES = {
    "evaluate_knn": "_knn",
    "format_knn_table": "_knn",
    "split_patients": "_knn",
    "PERTURBATIONS": "_perturb",
    "perturb": "_perturb",
    "evaluate_rescan": "_stability",
    "evaluate_stability": "_stability",
    "head_center": "_controls",
    "mirrored_box": "_controls",
    "untrained_copy": "_controls",
    "evaluate_other_date": "_dates",
    "evaluate_transplant": "_transplant",
    "transplant": "_transplant",
    "evaluate_mirror": "_mirror",
    "mirrored_content": "_mirror",
    "enhancement_pattern": "_pattern",
    "evaluate_pattern": "_pattern",
    "RetrievalScores": "_retrieval",
    "evaluate_retrieval": "_retrieval",
    "rank_gallery": "_questions",
    "check_apart": "_leaks",
    "paired_differences": "_paired",
    "pool_scores": "_paired",
    "block_folds": "_sites",
    "evaluate_across_datasets": "_sites",
    "evaluate_site_probe": "_sites",
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
