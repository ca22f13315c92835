"""One readable training loop, which a kill interrupts and ``resume`` continues bit for bit."""

import hashlib
import json
import sys
import time
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tumorsim.exceptions import TrainingError
from tumorsim.nn import agreed, all_rows, autocast, multitask_loss, n_processes, process_rank, to_device
from tumorsim.training._checkpoint import load_checkpoint, save_checkpoint
from tumorsim.training._patches import PatchSampler
from tumorsim.training._samples import describe_cases, prefetch
from tumorsim.training._targets import class_factors

SETTLING_PATCH_MM, SETTLING_BATCHES = 128.0, 10  # of a network that is not trained


def train(
    network, cases, classes, recipe, device, *, seed, task_weights, start=None, n_jobs=1, checkpoint_dir=None,
    resume=False, verbose=1,
):  # fmt: skip
    """Train `network` in place.

    Processes that have joined share the patches of each batch, and end with the same network. The first
    writes the checkpoint and shows progress.

    Parameters
    ----------
    network : Network
        On `device`.
    cases : list of TrainingCase
    classes : dict of list of str
        Task → class names, in the order of the cases' labels and the network's heads.
    recipe : Recipe
        Checked.
    device : torch.device
    seed : int
        Of all that is drawn.
    task_weights : dict of float
        Head → factor in the loss.
    start : dict, optional
        What weights and preprocessing the run starts from, as JSON can hold it. A checkpoint of another
        start, recipe, seed or of other cases is refused.
    n_jobs, checkpoint_dir, resume, verbose
        As in `TumorEmbedder` and its `fit`; without a terminal, progress is one line per epoch.

    Returns
    -------
    history : list of dict
        One entry per epoch: epoch (from 1), lr, loss, ``loss_<head>``, seconds.
    pooled : ndarray of shape (m, n_channels)
        Embeddings of the tumors in the batches that fixed the batch norms at the end.

    Raises
    ------
    TrainingError
        If loss or gradient are not finite (the batch's cases are named), or the checkpoint is damaged or
        of another run.
    """
    sampler = PatchSampler(
        cases, classes, patch_shape=recipe.patch_size, batch_size=recipe.batch_size, augment=recipe.augment,
        box_jitter=recipe.box_jitter, random_state=seed, balance_datasets=recipe.balance_datasets,
        n_shares=recipe.accumulate * n_processes(),
    )  # fmt: skip
    verbose = verbose and process_rank() == 0
    rates = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(_trainable(network), momentum=0.9, nesterov=True, **rates)
    else:
        optimizer = torch.optim.AdamW(_trainable(network), **rates)
    parts = [recipe.get_params(), task_weights, classes, seed, start, describe_cases(cases)]
    identity = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    history = []
    if resume and checkpoint_dir is not None:
        history = load_checkpoint(Path(checkpoint_dir), network, optimizer, identity, device)
    if agreed(len(history), device) != len(history):
        raise TrainingError("All processes must see the same checkpoint. Put it in a folder that they share.")

    total = recipe.max_epochs * recipe.batches_per_epoch
    done = len(history) * recipe.batches_per_epoch
    network.train()
    module = network if n_processes() == 1 else DistributedDataParallel(network)
    options = {"recipe": recipe, "task_weights": task_weights, "device": device, "class_weights": None}
    if recipe.balance_classes:
        codes = np.concatenate([case.labels for case in cases])
        factors = {task: class_factors(codes[:, i], len(classes[task])) for i, task in enumerate(classes)}
        tensors = {t: torch.tensor(f, dtype=torch.float32, device=device) for t, f in factors.items()}
        options["class_weights"] = tensors
    step = partial(_step, module, optimizer, **options)
    # one thread for each batch: a team of threads for every one would fight the network's for the cores
    shares = ((number, share) for number in range(done, total) for share in _shares(sampler))
    batches = prefetch(lambda item: sampler.batch(*item), shares, n_jobs=n_jobs, torch_threads=1)
    hidden = None if verbose else True  # None: hidden where there is no terminal
    with (
        _words_on_interrupt(history, recipe.max_epochs, checkpoint_dir),
        closing(batches),
        tqdm(total=total, initial=done, desc="training", unit="batch", disable=hidden) as bar,
    ):
        for epoch in range(len(history), recipe.max_epochs):
            history.append(_epoch(step, batches, recipe, epoch, bar if verbose else None))
            if verbose and not sys.stderr.isatty():  # a log file takes one line per epoch, not a bar
                print(_epoch_line(history, recipe.max_epochs), file=sys.stderr, flush=True)
            if checkpoint_dir is not None and process_rank() == 0:
                save_checkpoint(Path(checkpoint_dir), network, optimizer, identity, seed, history)
    pooled = _settle(network, sampler, total, min(50, max(10, recipe.batches_per_epoch)), device)
    if not np.isfinite(pooled).all():
        raise TrainingError("The embeddings must be finite. Got NaN after the last step. Lower 'lr'.")
    return history, pooled


def settle_batch_norms(network, cases, device, *, seed):
    """Fix the batch norms of an untrained network on patches of scans, in place.

    Parameters are those of `train`; 10 batches of 2 patches of 128 mm are drawn. Returns the embeddings of
    the tumors in them, (m, n_channels).
    """
    sides = np.round(SETTLING_PATCH_MM / np.array(cases[0].volume.spacing) / 4)
    patch = tuple(int(side) * 4 for side in np.maximum(sides, 2))
    options = {"batch_size": 2, "augment": False, "box_jitter": 0.0, "random_state": seed}
    sampler = PatchSampler(cases, {}, patch_shape=patch, **options)
    return _settle(network, sampler, 0, SETTLING_BATCHES, device)


@contextmanager
def _words_on_interrupt(history, max_epochs, checkpoint_dir):
    """Let a ``KeyboardInterrupt`` say what is kept of the run, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as err:
        rest = f"which '{checkpoint_dir}' keeps. To go on, fit again with resume=True (--resume)."
        if checkpoint_dir is None:
            rest = "and nothing is kept. With checkpoint_dir (--checkpoint-dir) it could go on later."
        words = f"Training was stopped after {len(history)} of {max_epochs} epochs, {rest}"
        raise KeyboardInterrupt(words) from err


def _epoch(step, batches, recipe, epoch, bar):
    """Do one epoch's gradient steps and return its entry of the history."""
    started = time.perf_counter()
    sums, counts = {}, {}
    for number in range(recipe.batches_per_epoch):
        done = epoch * recipe.batches_per_epoch + number
        lr = _learning_rate(recipe, done / recipe.batches_per_epoch)
        for name, value in step(islice(batches, recipe.accumulate), lr).items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
        if bar is not None:
            bar.update()
            shown = {name: f"{sums[name] / counts[name]:.3f}" for name in sums}
            bar.set_postfix({"epoch": f"{epoch + 1}/{recipe.max_epochs}"} | shown, refresh=False)
    means = {("loss" if n == "total" else f"loss_{n}"): sums[n] / counts[n] for n in sums}
    return {"epoch": epoch + 1, "lr": lr} | means | {"seconds": round(time.perf_counter() - started, 3)}


def _epoch_line(history, max_epochs):
    """Return one epoch's losses and the time left as text."""
    last = history[-1]
    losses = ", ".join(f"{n.removeprefix('loss_')} {v:.3f}" for n, v in last.items() if n.startswith("loss"))
    minutes = np.mean([h["seconds"] for h in history[-3:]]) * (max_epochs - last["epoch"]) / 60
    return f"epoch {last['epoch']}/{max_epochs}: {losses}; about {minutes:.0f} min left"


def _step(network, optimizer, batches, lr, *, recipe, task_weights, device, class_weights):
    """Do one gradient step on the parts of a batch and return the losses, of all processes, as floats."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    factors = {name: getattr(recipe, name) for name in ("mask_dice", "mask_balance", "contrastive")}
    factors |= {"task_weights": task_weights, "class_weights": class_weights}
    losses, case_ids = {}, []
    for number, batch in enumerate(batches, start=1):
        batch = batch.to(device)
        waits = n_processes() > 1 and number < recipe.accumulate  # to exchange gradients once per step
        with network.no_sync() if waits else nullcontext():
            with autocast(device, recipe.precision):
                outputs = network(batch.image, batch.boxes, batch.index)
            total, parts = multitask_loss(outputs, batch, **factors)
            for name, part in ({"total": total} | parts if parts else {}).items():
                losses.setdefault(name, []).append(float(part.detach()))
            if n_processes() > 1:  # which wait for the gradients of heads without labels, too
                total = total + 0 * sum(output.sum() for output in outputs.values())
            if parts or n_processes() > 1:
                (total / recipe.accumulate).backward()
        case_ids += batch.case_ids
    if not losses:  # a batch without any label teaches nothing
        return {}
    values = {name: fmean(some) for name, some in losses.items()}
    norm = float(torch.nn.utils.clip_grad_norm_(_trainable(network), recipe.gradient_clip))
    if not np.isfinite([values["total"], norm]).all():
        bad = ", ".join(f"{name} {value:g}" for name, value in (values | {"gradient": norm}).items())
        rule = f"The loss must stay finite. Got {bad} on a batch of the cases {', '.join(case_ids)}."
        raise TrainingError(f"{rule} Look at these scans, or lower 'lr'.")
    optimizer.step()
    return values


def _trainable(network):
    """Return the parameters that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _learning_rate(recipe, epoch):
    """Return the rate at a time in epochs: divided by 10 at milestones, or warmed up and down a cosine."""
    if recipe.lr_schedule == "milestones":
        return recipe.lr * 0.1 ** sum(epoch >= milestone for milestone in recipe.lr_milestones)
    share, warm = epoch / recipe.max_epochs, 0.05
    if share < warm:
        return recipe.lr * max(share / warm, 0.1)
    return recipe.lr * float(0.5 * (1 + np.cos(np.pi * (share - warm) / (1 - warm))))


def _shares(sampler):
    """Return the shares of each batch that this process takes, one after the other."""
    return range(process_rank(), sampler.n_shares, n_processes())


def _settle(network, sampler, first, n_batches, device):
    """Set running means to those of batches under the final weights, for use; return their embeddings."""
    network.train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d) and m.training]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean of all batches
    pooled = []
    with torch.no_grad():
        for number in range(first, first + n_batches):
            for share in _shares(sampler):
                batch = sampler.batch(number, share)
                found = network(to_device(batch.image, device), batch.boxes, batch.index)["embedding"]
                pooled.append(all_rows(found).cpu())
    for norm in norms:
        norm.momentum = 0.1
    network.eval()
    return torch.cat(pooled).numpy()
