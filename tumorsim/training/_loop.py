"""One readable training loop, which a kill interrupts and ``resume`` continues bit for bit."""

import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tumorsim.exceptions import TrainingError
from tumorsim.nn import multitask_loss, to_device
from tumorsim.training._checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Recipe", "settle_batch_norms", "train"]


@dataclass(frozen=True)
class Recipe:
    """How to train; see `TumorEmbedder` for what each value means."""

    max_epochs: int
    batches_per_epoch: int
    optimizer: str
    lr: float
    lr_schedule: str
    lr_milestones: tuple
    weight_decay: float
    gradient_clip: float
    mask_dice: float
    mask_balance: float
    contrastive: float
    task_weights: dict
    precision: str
    n_jobs: int


def train(
    network, sampler, recipe, device, *, class_weights, identity, checkpoint_dir=None, resume=False, verbose=1
):
    """Train `network` in place.

    Parameters
    ----------
    network : Network
        On `device`.
    sampler : patches.PatchSampler
    recipe : Recipe
    device : torch.device
    class_weights : dict of Tensor or None
        Task → factors, on `device`.
    identity : str
        What data, architecture and sampling the run has; a checkpoint of another is refused.
    checkpoint_dir : str or Path, optional
        Where the state is written after every epoch.
    resume : bool, default=False
        Go on from the checkpoint; where there is none, begin.
    verbose : int, default=1
        0: silent. 1: a progress bar with the time left and each head's loss, or, where standard error is no
        terminal, a line an epoch.

    Returns
    -------
    history : list of dict
        An entry an epoch: epoch (from 1), lr, loss, ``loss_<head>``, seconds.
    pooled : ndarray of shape (m, n_channels)
        Embeddings of the tumors in the batches that fixed the batch norms at the end.

    Raises
    ------
    TrainingError
        If loss or gradient are not finite (the batch's cases are named), or the checkpoint is damaged or
        of another run.
    """
    optimizer = _make_optimizer(network, recipe)
    identity = hashlib.sha256(f"{identity}|{json.dumps(_fixed(recipe), sort_keys=True)}".encode()).hexdigest()
    history = []
    if resume and checkpoint_dir is not None:
        history = load_checkpoint(Path(checkpoint_dir), network, optimizer, identity, device)

    total = recipe.max_epochs * recipe.batches_per_epoch
    done = len(history) * recipe.batches_per_epoch
    on_terminal = sys.stderr.isatty()
    network.train()
    with (
        tqdm(
            total=total, initial=done, desc="training", unit="batch", disable=None if verbose else True
        ) as bar,
        _Prefetch(sampler, range(done, total), recipe.n_jobs) as batches,
    ):
        for epoch in range(len(history), recipe.max_epochs):
            started = time.perf_counter()
            sums, counts = {}, {}
            for step in range(recipe.batches_per_epoch):
                number = epoch * recipe.batches_per_epoch + step
                lr = _learning_rate(recipe, number / recipe.batches_per_epoch)
                losses = _step(network, optimizer, batches.next(), lr, recipe, device, class_weights)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0.0) + value
                    counts[name] = counts.get(name, 0) + 1
                bar.update()
                if verbose:
                    shown = {name: f"{sums[name] / counts[name]:.3f}" for name in sums}
                    bar.set_postfix({"epoch": f"{epoch + 1}/{recipe.max_epochs}"} | shown, refresh=False)
            means = {("loss" if n == "total" else f"loss_{n}"): sums[n] / counts[n] for n in sums}
            seconds = round(time.perf_counter() - started, 3)
            history.append({"epoch": epoch + 1, "lr": lr} | means | {"seconds": seconds})
            if verbose and not on_terminal:  # a log file takes a line an epoch, not a bar
                print(_epoch_line(history, recipe.max_epochs), file=sys.stderr, flush=True)
            if checkpoint_dir is not None:
                save_checkpoint(
                    Path(checkpoint_dir), network, optimizer, identity, sampler.random_state, history
                )
    n_settling = min(50, max(10, recipe.batches_per_epoch))
    pooled = settle_batch_norms(network, sampler, total, n_settling, device)
    network.eval()
    if not np.isfinite(pooled).all():
        raise TrainingError("The embeddings must be finite. Got NaN after the last step. Lower 'lr'.")
    return history, pooled


def _epoch_line(history, max_epochs):
    """Return one epoch's losses and the time left as text."""
    last = history[-1]
    losses = ", ".join(f"{n.removeprefix('loss_')} {v:.3f}" for n, v in last.items() if n.startswith("loss"))
    minutes = np.mean([h["seconds"] for h in history[-3:]]) * (max_epochs - last["epoch"]) / 60
    return f"epoch {last['epoch']}/{max_epochs}: {losses}; about {minutes:.0f} min left"


def _step(network, optimizer, batch, lr, recipe, device, class_weights):
    """Do one gradient step and return the losses as floats."""
    batch = batch.to(device, to_device)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        outputs = network(batch.image, batch.boxes, batch.index)
    total, parts = multitask_loss(
        outputs,
        batch,
        task_weights=recipe.task_weights,
        class_weights=class_weights,
        mask_dice=recipe.mask_dice,
        mask_balance=recipe.mask_balance,
        contrastive=recipe.contrastive,
    )
    if not parts:  # a batch without any label teaches nothing
        return {}
    values = {name: float(part.detach()) for name, part in ({"total": total} | parts).items()}
    total.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(_trainable(network), recipe.gradient_clip))
    if not np.isfinite([values["total"], norm]).all():
        bad = ", ".join(f"{name} {value:g}" for name, value in (values | {"gradient": norm}).items())
        raise TrainingError(
            f"The loss must stay finite. Got {bad} on a batch of the cases {', '.join(batch.case_ids)}. "
            "Look at these scans, or lower 'lr'."
        )
    optimizer.step()
    return values


def _make_optimizer(network, recipe):
    """Return SGD with Nesterov momentum, as the paper, or AdamW."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            _trainable(network), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
        )
    return torch.optim.AdamW(_trainable(network), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _trainable(network):
    """Return the parameters that learn."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _learning_rate(recipe, epoch):
    """Return the rate at a time in epochs: divided by 10 at milestones, or warmed up and down a cosine."""
    if recipe.lr_schedule == "milestones":
        return recipe.lr * 0.1 ** sum(epoch >= milestone for milestone in recipe.lr_milestones)
    share = epoch / recipe.max_epochs
    warm = 0.05
    if share < warm:
        return recipe.lr * max(share / warm, 0.1)
    return recipe.lr * float(0.5 * (1 + np.cos(np.pi * (share - warm) / (1 - warm))))


def settle_batch_norms(network, sampler, first, n_batches, device):
    """Put running means to those of `n_batches` batches under the final weights; return their embeddings."""
    network.train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm3d) and m.training]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean of all batches
    pooled = []
    with torch.no_grad():
        for number in range(first, first + n_batches):
            batch = sampler.batch(number)
            pooled.append(
                network(to_device(batch.image, device), batch.boxes, batch.index)["embedding"].cpu()
            )
    for norm in norms:
        norm.momentum = 0.1
    return torch.cat(pooled).numpy()


class _Prefetch:
    """Make batches ahead in threads; their order and content do not depend on how many."""

    def __init__(self, sampler, numbers, n_jobs):
        self._sampler = sampler
        self._numbers = iter(numbers)
        self._n_ahead = n_jobs
        self._futures = []

    def __enter__(self):
        # one thread each: a team of threads for every batch would fight the network's for the cores
        self._n_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._n_ahead, initializer=torch.set_num_threads, initargs=(1,))
        for _ in range(self._n_ahead + 1):
            self._submit()
        return self

    def __exit__(self, *_):
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._n_threads)  # of threads to come, too

    def next(self):
        """Return the next batch."""
        batch = self._futures.pop(0).result()
        self._submit()
        return batch

    def _submit(self):
        number = next(self._numbers, None)
        if number is not None:
            self._futures.append(self._pool.submit(self._sampler.batch, number))


def _fixed(recipe):
    """Return what of a recipe changes its result; workers do not, nor does a term that is not there."""
    values = asdict(recipe)
    del values["n_jobs"]
    if not values["contrastive"]:  # so a checkpoint from before there was one can be resumed
        del values["contrastive"]
    return values
