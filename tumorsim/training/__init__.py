"""Records with labels → samples, patches, a recipe, one readable loop: a trained network."""

from tumorsim.training._checkpoint import CHECKPOINT, run_seed, saved_seed
from tumorsim.training._loop import Recipe, settle_batch_norms, train
from tumorsim.training._patches import Batch, PatchSampler, TrainingCase
from tumorsim.training._recipe import FINE_TUNING, PAPER, check_parameters
from tumorsim.training._samples import ahead, describe_cases, describe_data, load_training_cases
from tumorsim.training._targets import class_factors, encode_labels, find_classes, head_weights, label_table

__all__ = [
    "CHECKPOINT",
    "FINE_TUNING",
    "PAPER",
    "Batch",
    "PatchSampler",
    "Recipe",
    "TrainingCase",
    "ahead",
    "check_parameters",
    "class_factors",
    "describe_cases",
    "describe_data",
    "encode_labels",
    "find_classes",
    "head_weights",
    "label_table",
    "load_training_cases",
    "run_seed",
    "saved_seed",
    "settle_batch_norms",
    "train",
]
