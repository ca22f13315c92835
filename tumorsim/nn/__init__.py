"""The network: tensors in, tensors out, no files."""

from tumorsim.nn._device import choose_device
from tumorsim.nn._losses import dice_loss, multitask_loss, supervised_contrastive
from tumorsim.nn._network import ARCHITECTURES, Network
from tumorsim.nn._roi_pool import roi_pool, roi_pool_upsampled

__all__ = [
    "ARCHITECTURES",
    "Network",
    "choose_device",
    "dice_loss",
    "multitask_loss",
    "roi_pool",
    "roi_pool_upsampled",
    "supervised_contrastive",
]
