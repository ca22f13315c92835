"""Records with labels → samples, patches, a recipe, one readable loop: a trained network."""

from tumorsim.training._checkpoint import only_run, run_seed
from tumorsim.training._loop import settle_batch_norms, train
from tumorsim.training._measured import fit_measured_head
from tumorsim.training._plan import plan_training
from tumorsim.training._recipe import Recipe, resolve_recipe
from tumorsim.training._samples import describe_data, find_trained, hash_scans, prefetch_scans
from tumorsim.training._targets import head_weights, label_table

__all__ = [
    "Recipe", "describe_data", "find_trained", "fit_measured_head", "hash_scans", "head_weights",
    "label_table", "only_run", "plan_training", "prefetch_scans", "resolve_recipe", "run_seed",
    "settle_batch_norms", "train",
]  # fmt: skip
