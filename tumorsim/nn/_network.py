"""One backbone, several heads: the network of arXiv:1810.09369 and a faster relative."""

import torch
from torch import nn
from torch.nn import functional

from tumorsim.nn._roi_pool import roi_pool_upsampled

__all__ = ["ARCHITECTURES", "FACTOR", "Network"]

FACTOR = 4  # voxels a cell, per axis
ARCHITECTURES = ("fast", "paper")


class ResBlock(nn.Module):
    """Two 3×3×3 convolutions with batch norm and ReLU, and a shortcut; (n, c_in, …) → (n, c_out, …)."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1 = nn.Conv3d(c_in, c_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(c_out)
        self.conv2 = nn.Conv3d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(c_out)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv3d(c_in, c_out, 1)

    def forward(self, x):
        """Return the block's features."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class PaperStem(nn.Module):
    """Two convolutions at full resolution, then ÷4; (n, 1, x, y, z) → (n, c, x/4, y/4, z/4)."""

    halo = 1  # cells: two 3×3×3 convolutions see two voxels, less than a cell

    def __init__(self, n_channels):
        super().__init__()
        self.conv1 = nn.Conv3d(1, n_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(n_channels)
        self.conv2 = nn.Conv3d(n_channels, n_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm3d(n_channels)
        self.down = nn.Conv3d(n_channels, n_channels, FACTOR, stride=FACTOR)

    def forward(self, x):
        """Return cells."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.norm2(self.conv2(x)))
        return self.down(x)


class FoldStem(nn.Module):
    """Fold each 4×4×4 block of voxels into channels; (n, 1, x, y, z) → (n, c, x/4, y/4, z/4)."""

    halo = 0

    def __init__(self, n_channels):
        super().__init__()
        self.mix = nn.Conv3d(FACTOR**3, n_channels, 1, bias=False)
        self.norm = nn.BatchNorm3d(n_channels)

    def forward(self, x):
        """Return cells."""
        return functional.relu(self.norm(self.mix(fold(x))))


class PaperMaskHead(nn.Module):
    """One ResBlock on the feature map at full resolution, then one logit a voxel."""

    def __init__(self, n_channels):
        super().__init__()
        self.block = ResBlock(n_channels, n_channels)
        self.logit = nn.Conv3d(n_channels, 1, 1)

    halo = 1  # cells

    def forward(self, coarse):
        """Return logits (n, 1, 4x, 4y, 4z) from cells (n, c, x, y, z)."""
        return self.logit(self.block(upsample(coarse)))


class FoldMaskHead(nn.Module):
    """One ResBlock on the cells, then 64 logits a cell, unfolded into 4×4×4 voxels."""

    def __init__(self, n_channels):
        super().__init__()
        self.block = ResBlock(n_channels, n_channels)
        self.logit = nn.Conv3d(n_channels, FACTOR**3, 1)

    halo = 2  # cells

    def forward(self, coarse):
        """Return logits (n, 1, 4x, 4y, 4z) from cells (n, c, x, y, z)."""
        return unfold(self.logit(self.block(coarse)))


class Network(nn.Module):
    """A backbone whose feature map every head reads.

    The feature map has the input's own spatial shape: it is worked out on cells of 4×4×4 voxels and
    brought back by linear interpolation. Since a head only looks at boxes of it, only boxes of it are
    ever interpolated (`features` gives the whole map).

    Parameters
    ----------
    n_classes : dict of int
        Task → number of classes.
    n_channels : int, default=32
        Channels of the feature map, and numbers in an embedding.
    n_blocks : int, default=8
        ResBlocks of the backbone, each of two 3×3×3 convolutions: every block sees two cells further.
    architecture : {"fast", "paper"}, default="fast"
        ``paper``: two convolutions at full resolution prepare the input, and the mask head works at full
        resolution. ``fast``: blocks of voxels are folded into channels instead, and unfolded for the
        mask, which costs about a tenth.

    References
    ----------
    arXiv:1810.09369, section 2.
    """

    def __init__(self, n_classes, *, n_channels=32, n_blocks=8, architecture="fast"):
        super().__init__()
        self.config = {"architecture": architecture, "n_channels": n_channels, "n_blocks": n_blocks}
        paper = architecture == "paper"
        self.stem = (PaperStem if paper else FoldStem)(n_channels)
        self.blocks = nn.Sequential(*(ResBlock(n_channels, n_channels) for _ in range(n_blocks)))
        self.mask_head = (PaperMaskHead if paper else FoldMaskHead)(n_channels)
        self.tasks = tuple(n_classes)
        self.heads = nn.ModuleList(nn.Linear(n_channels, n_classes[task]) for task in self.tasks)
        self.halo = 2 * n_blocks + self.stem.halo  # cells that a feature can see on each side

    def cells(self, x):
        """Return the backbone's cells, (n, c, x/4, y/4, z/4), of images (n, 1, x, y, z)."""
        return self.blocks(self.stem(x))

    def features(self, x):
        """Return the feature map at full resolution, (n, c, x, y, z); large, and never needed whole."""
        return upsample(self.cells(x))

    def classify(self, pooled):
        """Return logits (m, n_classes) a task, from embeddings (m, c)."""
        return {task: head(pooled) for task, head in zip(self.tasks, self.heads, strict=True)}

    def forward(self, x, boxes, index=None):
        """Return every head's logits.

        Parameters
        ----------
        x : Tensor of shape (n, 1, x, y, z)
            Sides are multiples of 4.
        boxes : array-like of shape (m, 2, 3)
            Tumors, in voxels of `x`.
        index : array-like of shape (m,), optional
            Element of the batch of each box.

        Returns
        -------
        dict of Tensor
            ``mask`` (n, 1, x, y, z), ``embedding`` (m, c), then a task's logits (m, n_classes).
        """
        cells = self.cells(x)  # (n, c, x/4, y/4, z/4)
        pooled = roi_pool_upsampled(cells, boxes, index, factor=FACTOR)  # (m, c)
        return {"mask": self.mask_head(cells), "embedding": pooled} | self.classify(pooled)


def upsample(cells):
    """Interpolate cells (n, c, x, y, z) linearly to (n, c, 4x, 4y, 4z)."""
    return functional.interpolate(cells, scale_factor=FACTOR, mode="trilinear", align_corners=False)


def fold(x):
    """Turn voxels (n, 1, x, y, z) into cells (n, 64, x/4, y/4, z/4)."""
    n, _, *shape = x.shape
    a, b, c = (size // FACTOR for size in shape)
    x = x.reshape(n, a, FACTOR, b, FACTOR, c, FACTOR).permute(0, 2, 4, 6, 1, 3, 5)
    return x.reshape(n, FACTOR**3, a, b, c)


def unfold(cells):
    """Turn cells (n, 64, x, y, z) into voxels (n, 1, 4x, 4y, 4z); undoes `fold`."""
    n, _, a, b, c = cells.shape
    cells = cells.reshape(n, FACTOR, FACTOR, FACTOR, a, b, c).permute(0, 4, 1, 5, 2, 6, 3)
    return cells.reshape(n, 1, FACTOR * a, FACTOR * b, FACTOR * c)


def pad_to_cells(array):
    """Pad (x, y, z) with air at the far ends until every side is a multiple of 4."""
    missing = [(-size) % FACTOR for size in array.shape]
    return functional.pad(torch.as_tensor(array), [p for m in reversed(missing) for p in (0, m)])
