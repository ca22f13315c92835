"""The network: tensors in, tensors out, no files."""

from tumorsim.nn._device import autocast, choose_device, return_memory, to_device
from tumorsim.nn._losses import multitask_loss
from tumorsim.nn._network import ARCHITECTURES, FACTOR, Network, pad_to_cells
from tumorsim.nn._processes import agreed, all_rows, joined_processes, n_processes, process_rank
from tumorsim.nn._roi_pool import roi_pool, roi_pool_upsampled

__all__ = [
    "ARCHITECTURES", "FACTOR", "Network", "agreed", "all_rows", "autocast", "choose_device",
    "joined_processes", "multitask_loss", "n_processes", "pad_to_cells", "process_rank", "return_memory",
    "roi_pool", "roi_pool_upsampled", "to_device",
]  # fmt: skip
