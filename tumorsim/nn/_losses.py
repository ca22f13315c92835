"""The multitask loss, in which a missing label drops its term; that of all processes of a run."""

import torch
from torch.nn import functional

from tumorsim.nn._processes import all_rows, n_processes

MISSING = -1
TEMPERATURE = 0.1  # of the contrastive loss, as in its source
CONTRASTED = "type"  # the task whose labels it takes, where there is one


def dice_loss(logits, target, *, smooth=1.0):
    """Return one minus the soft Dice overlap, the mean over elements: (n, 1, x, y, z) → scalar."""
    probability, target = logits.sigmoid().flatten(1), target.flatten(1)  # (n, voxels)
    overlap = (probability * target).sum(dim=1)
    dice = (2 * overlap + smooth) / (probability.sum(dim=1) + target.sum(dim=1) + smooth)
    return 1 - all_rows(dice).mean()


def balanced_cross_entropy(logits, target, *, balance=0.5, least=1e-5):
    """Return cross-entropy in which a tumor voxel weighs ``share ** -balance``; (n, 1, x, y, z) → scalar.

    `share` is the tumor's part of its element, but at least `least`: a tumor of few voxels drowns no others.
    """
    if not balance and n_processes() == 1:
        return functional.binary_cross_entropy_with_logits(logits, target)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(1)
    target = target.flatten(1)  # (n, voxels)
    share = target.mean(dim=1, keepdim=True).clamp(min=least)
    weight = 1 + target * (share**-balance - 1)
    return all_rows((loss * weight).sum(dim=1) / weight.sum(dim=1)).mean()


def supervised_contrastive(embeddings, labels, *, temperature=TEMPERATURE):
    """Return the supervised-contrastive loss of embeddings (m, c), or None where no two labels (m,) agree.

    P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv:2004.11362), equation 2: the mean
    over tumors that share their label, of embeddings brought to length 1.
    """
    known = labels != MISSING
    unit = functional.normalize(embeddings[known], dim=1)  # (k, c)
    labels = labels[known]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    alike = (labels[:, None] == labels[None]) & ~itself  # (k, k)
    if not bool(alike.any()):
        return None
    cosine = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_p = cosine.log_softmax(dim=1).masked_fill(itself, 0.0)  # 0: not minus infinity times no
    n_alike = alike.sum(dim=1)
    return -((log_p * alike).sum(dim=1) / n_alike.clamp(min=1))[n_alike > 0].mean()


def multitask_loss(
    outputs, batch, *, task_weights, class_weights=None, mask_dice=0.0, mask_balance=0.0, contrastive=0.0
):
    """Return the weighted sum of the heads' losses, and each of them.

    Parameters
    ----------
    outputs : dict
        What `Network.forward` returns: ``mask`` (n, 1, x, y, z) logits, ``embedding`` (m, c), and each task's
        logits (m, n_classes).
    batch : patches.Batch
        ``mask`` (n, 1, x, y, z), ``mask_known`` bool (n,), ``labels`` int64 (m, n_tasks), -1 where missing.
    task_weights : dict of float
        A head's factor; ``mask`` is one.
    class_weights : dict of Tensor of shape (n_classes,), optional
        Factors against class imbalance, per task.
    mask_dice, mask_balance, contrastive : float, default=0.0
        As in `Recipe`.

    Returns
    -------
    total : scalar Tensor
        The same in all processes of a run, of the batches of all of them.
    parts : dict of scalar Tensor
        Unweighted, only of the heads that had a label in this batch; ``contrastive`` where it was asked for
        and two labels agree.

    References
    ----------
    arXiv:1810.09369, section 2: weighted sum over heads; a missing label drops its term.
    """
    parts = {}
    known = batch.mask_known
    if "mask" in outputs and bool(all_rows(known).any()):
        logits, target = outputs["mask"][known], batch.mask[known]
        parts["mask"] = balanced_cross_entropy(logits, target, balance=mask_balance)
        if mask_dice:
            parts["mask"] = parts["mask"] + mask_dice * dice_loss(logits, target)
    tasks = [name for name in outputs if name not in ("mask", "embedding")]
    labels = all_rows(batch.labels)
    for task, target in zip(tasks, labels.T, strict=True):
        if bool((target != MISSING).any()):
            logits = all_rows(outputs[task])
            weight = None if class_weights is None else class_weights[task]
            parts[task] = functional.cross_entropy(logits, target, weight=weight, ignore_index=MISSING)
    total = sum(task_weights[name] * part for name, part in parts.items())
    if contrastive and tasks:
        column = tasks.index(CONTRASTED) if CONTRASTED in tasks else 0
        part = supervised_contrastive(all_rows(outputs["embedding"]), labels[:, column])
        if part is not None:
            parts["contrastive"] = part
            total = total + contrastive * part
    return total, parts
