"""The processes of one training run, which torchrun starts: joining them, and what all of them know."""

import contextlib
import datetime
import os

import torch
from torch import distributed, nn

PATIENCE = datetime.timedelta(days=1)  # one process may prepare scans long after the others


@contextlib.contextmanager
def joined_processes(device):
    """Let the processes that torchrun started, if it did, know of each other while the block runs."""
    if n_processes() > 1 or not _launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _launched():
    """Tell whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def process_rank(*, local=False):
    """Return the number of this process, from 0: among all, or among those on this machine if `local`."""
    return int(os.environ["LOCAL_RANK" if local else "RANK"]) if _launched() else 0


def n_processes():
    """Return how many processes have joined."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def agreed(number, device):
    """Return the whole number that the first process has."""
    return int(all_rows(torch.tensor([number], device=device))[0])


def all_rows(rows):
    """Return the rows (k, …) of all processes in order of rank, (m, …); k may differ between them.

    The gradient of what all processes compute alike from the result, averaged over them as by
    ``DistributedDataParallel``, is that of one process.
    """
    if n_processes() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(n_processes())]
    distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return _AllRows.apply(rows, [int(count) for count in counts])


class _AllRows(torch.autograd.Function):
    """`all_rows`, where each process knows how many rows the others have."""

    @staticmethod
    def forward(ctx, rows, counts):
        ctx.part = sum(counts[: distributed.get_rank()]), len(rows)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        held = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(held, padded)
        return torch.cat([part[:count] for part, count in zip(held, counts, strict=True)])

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient.narrow(0, *ctx.part), None


class BatchNorm(nn.BatchNorm3d):
    """A batch norm whose mean and variance are those of the patches of all processes, equally many each.

    torch's own ``SyncBatchNorm`` needs a GPU.
    """

    def forward(self, x):
        """Return the normalized features."""
        if not self.training or n_processes() == 1:
            return super().forward(x)
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3, 4), unbiased=False)  # (c,)
        counts = [1] * n_processes()
        means, variances = _AllRows.apply(torch.stack([mean, var])[None], counts).unbind(dim=1)
        mean = means.mean(dim=0)
        var = variances.mean(dim=0) + means.var(dim=0, unbiased=False)
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            n = x.numel() // x.shape[1] * len(counts)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * (n / (n - 1)), share)
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        return (x * scale[:, None, None, None] + shift[:, None, None, None]).to(x.dtype)
