"""Parameters of `TumorEmbedder`: the paper's recipe, and what each value may be."""

import numpy as np

from tumorsim._validation import check_choice, check_integer, check_real
from tumorsim.nn import ARCHITECTURES

__all__ = ["FINE_TUNING", "PAPER", "check_parameters"]

PAPER = {
    "architecture": "paper",
    "n_channels": 64,
    "n_blocks": 8,
    "spacing": 1.5,
    "patch_size": 128,
    "batch_size": 2,
    "max_epochs": 120,
    "batches_per_epoch": 200,
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_schedule": "milestones",
    "lr_milestones": (90, 105),
    "weight_decay": 0.0,
    "mask_dice": 0.0,
    "mask_balance": 0.0,
    "augment": False,
    "box_jitter": 0.0,
    "balance_classes": False,
}

FINE_TUNING = {  # not as the weights were trained; what is not here is
    "max_epochs": 8,
    "lr": 0.001,
    "mask_dice": 1.0,
    "mask_balance": 0.0,
    "balance_datasets": False,
    "tasks": None,
    "task_weights": None,
    "contrastive": 0.0,
    "precision": "float32",
}


def check_parameters(values):
    """Return the parameters of a `TumorEmbedder` by name, checked, as plain Python numbers."""
    values = dict(values)
    for name in ("n_channels", "n_blocks", "batch_size", "max_epochs", "batches_per_epoch", "n_jobs"):
        values[name] = check_integer(values[name], name, minimum=1)
    check_choice(values["architecture"], "architecture", ARCHITECTURES)
    check_choice(values["optimizer"], "optimizer", ("adamw", "sgd"))
    check_choice(values["lr_schedule"], "lr_schedule", ("cosine", "milestones"))
    check_choice(values["precision"], "precision", ("float32", "bfloat16"))
    for name in ("augment", "balance_classes", "balance_datasets", "freeze_backbone"):
        values[name] = bool(check_choice(values[name], name, (True, False)))
    for name in ("lr", "gradient_clip"):
        values[name] = check_real(values[name], name, minimum=0, exclusive=True)
    for name in ("weight_decay", "mask_dice", "contrastive"):
        values[name] = check_real(values[name], name, minimum=0)
    values["mask_balance"] = check_real(values["mask_balance"], "mask_balance", minimum=0, maximum=1)
    values["box_jitter"] = check_real(values["box_jitter"], "box_jitter", minimum=0, maximum=0.9)
    if values["freeze_backbone"] and values["initial_weights"] is None:
        raise ValueError("'freeze_backbone' needs 'initial_weights': else nothing is ever learned.")
    if isinstance(values["tasks"], str):
        raise TypeError(f"Parameter 'tasks' must be a sequence of names. Got {values['tasks']!r}.")
    if not isinstance(values["task_weights"], dict | None):
        raise TypeError(f"Parameter 'task_weights' must be a dict or None. Got {values['task_weights']!r}.")
    if not isinstance(values["lr_milestones"], tuple | list):
        raise TypeError(
            f"Parameter 'lr_milestones' must be a tuple of epochs. Got {values['lr_milestones']!r}."
        )
    values["lr_milestones"] = tuple(
        check_real(m, "lr_milestones", minimum=0) for m in values["lr_milestones"]
    )
    patch = np.asarray(values["patch_size"])
    whole = patch.shape in ((), (3,)) and patch.dtype.kind in "iu"
    if not whole or (patch < 8).any() or (patch % 4).any():
        raise ValueError(
            "Parameter 'patch_size' must be one or three whole numbers of voxels, multiples of 4 and at "
            f"least 8. Got {values['patch_size']!r}."
        )
    values["patch_shape"] = tuple(int(n) for n in np.broadcast_to(patch, 3))
    return values
