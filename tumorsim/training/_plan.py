"""What a training run begins with: classes, class numbers, a new network."""

from dataclasses import dataclass

import numpy as np
import torch

from tumorsim.nn import Network, n_processes
from tumorsim.preprocessing import Preprocessing
from tumorsim.records import check_tumors, group_by_case
from tumorsim.training._recipe import Recipe
from tumorsim.training._samples import load_training_cases
from tumorsim.training._targets import encode_labels, find_classes, label_table


@dataclass(frozen=True)
class Plan:
    """What a training run begins with, before any voxel is read."""

    tumors: list
    recipe: Recipe
    classes: dict  # task → class names
    codes: np.ndarray  # int64 (n_tumors, n_tasks), -1 where missing
    preprocessing: Preprocessing
    network: Network  # on the CPU

    def check_learnable(self):
        """Raise ``ValueError`` if there is nothing to learn, or batches cannot be shared out."""
        size, parts = self.recipe.batch_size, self.recipe.accumulate
        if size % (parts * n_processes()):
            rule = "'batch_size' must be a multiple of 'accumulate' times the number of processes"
            raise ValueError(f"Parameter {rule}. Got {size}, {parts} and {n_processes()}.")
        if not self.classes and not any(tumor.case.has_mask for tumor in self.tumors):
            raise ValueError("Tumors must carry a mask, or a label with at least two classes. Got neither.")
        if self.recipe.contrastive and not self.classes:
            raise ValueError("'contrastive' needs a label with at least two classes. Got none.")

    def start_from(self, network, classes, preprocessing, *, freeze):
        """Copy a model's weights; return the preprocessing to train with: its own if `freeze`."""
        wanted = self.network.config | {"spacing": self.preprocessing.spacing}
        found = network.config | {"spacing": preprocessing.spacing}
        unlike = [name for name in wanted if wanted[name] != found[name]]
        if unlike:
            differences = ", ".join(f"{name} {found[name]!r} instead of {wanted[name]!r}" for name in unlike)
            raise ValueError(
                f"'initial_weights' must have the architecture and spacing asked for. Got {differences}. "
                f"TumorEmbedder.from_pretrained() uses those of the weights: leave out {', '.join(unlike)}."
            )
        self.network.start_from(network, self.classes, classes)
        if freeze:
            self.network.freeze_backbone()
        return preprocessing if freeze else self.preprocessing

    def load_cases(self, preprocessing, *, n_scans=None, **options):
        """Return all tumors as training cases, or one tumor of each of the first `n_scans` scans."""
        rows = list(range(len(self.tumors)))
        if n_scans is not None:
            rows = [group[0] for group in group_by_case(self.tumors)[:n_scans]]
        tumors = [self.tumors[row] for row in rows]
        return load_training_cases(tumors, self.codes[rows], preprocessing, **options)


def plan_training(tumors, y, recipe, *, tasks, seed):
    """Return the `Plan` of a run with a checked `Recipe`; `y` and `tasks` are as in `label_table`."""
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
