"""What a training run begins with: classes, class numbers, a new network."""

from dataclasses import dataclass

import numpy as np
import torch

from tumorsim.nn import Network
from tumorsim.preprocessing import Preprocessing
from tumorsim.records import check_tumors, group_by_case
from tumorsim.training._recipe import Recipe
from tumorsim.training._samples import load_training_cases
from tumorsim.training._targets import encode_labels, find_classes, label_table

__all__ = ["Plan", "plan_training"]


@dataclass(frozen=True)
class Plan:
    """What a training run begins with.

    Attributes
    ----------
    tumors : list of Tumor
    recipe : Recipe
    classes : dict of list of str
        Task → class names.
    codes : ndarray of shape (n_tumors, n_tasks), dtype=int64
        Class numbers, -1 where missing.
    preprocessing : Preprocessing
    network : Network
        With random weights, on the CPU.
    """

    tumors: list
    recipe: Recipe
    classes: dict
    codes: np.ndarray
    preprocessing: Preprocessing
    network: Network

    def check_learnable(self):
        """Raise ``ValueError`` if there is nothing to learn."""
        if not self.classes and not any(tumor.case.has_mask for tumor in self.tumors):
            raise ValueError("Tumors must carry a mask, or a label with at least two classes. Got neither.")
        if self.recipe.contrastive and not self.classes:
            raise ValueError("'contrastive' needs a label with at least two classes. Got none.")

    def load_cases(self, preprocessing, *, n_scans=None, **options):
        """Return all tumors as training cases, or one tumor of each of the first `n_scans` scans."""
        rows = list(range(len(self.tumors)))
        if n_scans is not None:
            rows = [group[0] for group in group_by_case(self.tumors)[:n_scans]]
        tumors = [self.tumors[row] for row in rows]
        return load_training_cases(tumors, self.codes[rows], preprocessing, **options)


def plan_training(tumors, y, recipe, *, tasks, seed):
    """Return what a training run begins with, before any voxel is read.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
    y, tasks
        As in `label_table`.
    recipe : Recipe
        Checked.
    seed : int
        Of the network's weights.

    Returns
    -------
    Plan

    Raises
    ------
    TypeError, ValueError
        If there are no tumors, or labels cannot be used.
    """
    tumors = check_tumors(tumors)
    if not tumors:
        raise ValueError("'tumors' must hold at least one tumor. Got none.")
    labels = label_table(tumors, y, tasks)
    classes = find_classes(labels)
    shape = {name: getattr(recipe, name) for name in ("architecture", "n_channels", "n_blocks")}
    with torch.random.fork_rng(devices=[]):  # leave the caller's random numbers alone
        torch.manual_seed(seed)
        network = Network({task: len(names) for task, names in classes.items()}, **shape)
    preprocessing = Preprocessing(recipe.spacing, recipe.patch_size)
    return Plan(tumors, recipe, classes, encode_labels(labels, classes), preprocessing, network)
