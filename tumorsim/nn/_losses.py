"""The multitask loss, in which a missing label drops its term."""

from torch.nn import functional

__all__ = ["balanced_cross_entropy", "dice_loss", "multitask_loss"]

MISSING = -1


def dice_loss(logits, target, *, smooth=1.0):
    """Return one minus the soft Dice overlap, a scalar tensor: the mean over the batch's elements.

    Each element counts alike, since one large tumor would else outweigh all small ones of its batch.

    Parameters
    ----------
    logits, target : Tensor of shape (n, 1, x, y, z)
        Target is 0 to 1.
    """
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)  # (n, voxels)
    overlap = (probability * target).sum(dim=1)
    return 1 - ((2 * overlap + smooth) / (probability.sum(dim=1) + target.sum(dim=1) + smooth)).mean()


def balanced_cross_entropy(logits, target, *, balance=0.5, least=1e-5):
    """Return binary cross-entropy in which a rare tumor weighs more, a scalar tensor: the mean over elements.

    A tumor voxel weighs ``share ** -balance``, where `share` is the tumor's part of its element: 0 is plain
    cross-entropy, 1 gives all tumor and all other voxels the same say.

    Parameters
    ----------
    logits, target : Tensor of shape (n, 1, x, y, z)
        Target is 0 to 1.
    balance : float, default=0.5
    least : float, default=1e-5
        Smallest share that counts, so that a tumor of a few voxels does not drown all others.
    """
    if not balance:
        return functional.binary_cross_entropy_with_logits(logits, target)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    target = target.flatten(1)  # (n, voxels)
    share = target.mean(dim=1, keepdim=True).clamp(min=least)
    weight = 1 + target * (share**-balance - 1)
    return ((loss * weight).sum(dim=1) / weight.sum(dim=1)).mean()


def multitask_loss(outputs, batch, *, task_weights, class_weights=None, mask_dice=0.0, mask_balance=0.0):
    """Return the weighted sum of the heads' losses, and each of them.

    Parameters
    ----------
    outputs : dict
        What `Network.forward` returns: ``mask`` (n, 1, x, y, z) logits, and a task's logits (m, n_classes).
    batch : patches.Batch
        ``mask`` (n, 1, x, y, z), ``mask_known`` bool (n,), ``labels`` int64 (m, n_tasks), -1 where missing.
    task_weights : dict of float
        A head's factor; ``mask`` is one.
    class_weights : dict of Tensor of shape (n_classes,), optional
        Factors against class imbalance, a task.
    mask_dice : float, default=0
        Share of soft Dice in the mask's loss, beside binary cross-entropy. The paper uses none.
    mask_balance : float, default=0.0
        How much the cross-entropy weighs rare tumor voxels up; see `balanced_cross_entropy`.

    Returns
    -------
    total : scalar Tensor
    parts : dict of scalar Tensor
        Unweighted, only of the heads that had a label in this batch.

    References
    ----------
    arXiv:1810.09369, section 2: weighted sum over heads; a missing label drops its term.
    """
    parts = {}
    known = batch.mask_known
    if "mask" in outputs and bool(known.any()):
        logits, target = outputs["mask"][known], batch.mask[known]
        parts["mask"] = balanced_cross_entropy(logits, target, balance=mask_balance)
        if mask_dice:
            parts["mask"] = parts["mask"] + mask_dice * dice_loss(logits, target)
    for i, (task, logits) in enumerate((t, v) for t, v in outputs.items() if t not in ("mask", "embedding")):
        target = batch.labels[:, i]
        if bool((target != MISSING).any()):
            weight = None if class_weights is None else class_weights[task]
            parts[task] = functional.cross_entropy(logits, target, weight=weight, ignore_index=MISSING)
    total = sum(task_weights[name] * part for name, part in parts.items())
    return total, parts
