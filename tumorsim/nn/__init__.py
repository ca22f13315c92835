"""The network: tensors in, tensors out, no files."""

from tumorsim.nn._device import choose_device, to_device
from tumorsim.nn._losses import multitask_loss
from tumorsim.nn._network import ARCHITECTURES, FACTOR, Network, pad_to_cells
from tumorsim.nn._roi_pool import roi_pool, roi_pool_upsampled

__all__ = [
    "ARCHITECTURES",
    "FACTOR",
    "Network",
    "choose_device",
    "multitask_loss",
    "pad_to_cells",
    "roi_pool",
    "roi_pool_upsampled",
    "to_device",
]
