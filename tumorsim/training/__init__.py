"""Records with labels → samples, patches, a recipe, one readable loop: a trained network."""

from tumorsim.training._checkpoint import CHECKPOINT, run_seed, saved_seed
from tumorsim.training._loop import settle_batch_norms, train
from tumorsim.training._patches import Batch, PatchSampler, TrainingCase
from tumorsim.training._plan import Plan, plan_training
from tumorsim.training._prefetch import prefetch, prefetch_scans
from tumorsim.training._recipe import RECIPES, Recipe, resolve_recipe
from tumorsim.training._samples import describe_data, load_training_cases
from tumorsim.training._targets import encode_labels, find_classes, head_weights, label_table

__all__ = [
    "CHECKPOINT",
    "RECIPES",
    "Batch",
    "PatchSampler",
    "Plan",
    "Recipe",
    "TrainingCase",
    "describe_data",
    "encode_labels",
    "find_classes",
    "head_weights",
    "label_table",
    "load_training_cases",
    "plan_training",
    "prefetch",
    "prefetch_scans",
    "resolve_recipe",
    "run_seed",
    "saved_seed",
    "settle_batch_norms",
    "train",
]
