"""One backbone, several heads: the network of arXiv:1810.09369 and a faster relative."""

import torch
from torch import nn
from torch.nn import functional

from tumorsim.nn._processes import BatchNorm
from tumorsim.nn._roi_pool import roi_pool_upsampled

FACTOR = 4  # voxels a cell, per axis
HALF = 2
ARCHITECTURES = ("fast", "paper")


class Convolution(nn.Conv3d):
    """A convolution that runs by oneDNN on CPUs also for one small image, where torch takes a slower one.

    Only without gradients: training is left as it is, to the last bit.
    """

    def forward(self, x):
        """Return the convolved features."""
        plain = self.training or torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32
        if plain or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
            return super().forward(x)
        how = self.padding, self.stride, self.dilation, self.groups
        return torch.mkldnn_convolution(x, self.weight, self.bias, *how)


class TwoConvolutions(nn.Module):
    """Two 3×3×3 convolutions with batch norms; (n, c_in, …) → (n, c_out, …)."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1 = Convolution(c_in, c_out, 3, padding=1, bias=False)
        self.norm1 = BatchNorm(c_out)
        self.conv2 = Convolution(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(c_out)

    def convolved(self, x):
        """Return the features before the last ReLU."""
        return self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))


class ResBlock(TwoConvolutions):
    """Two convolutions with ReLU, and a shortcut; (n, c_in, …) → (n, c_out, …)."""

    halo = 2  # cells that a feature can see on each side

    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out)
        self.shortcut = nn.Identity() if c_in == c_out else Convolution(c_in, c_out, 1)

    def forward(self, x):
        """Return the block's features."""
        return functional.relu(self.convolved(x) + self.shortcut(x))


class PaperStem(TwoConvolutions):
    """Two convolutions at full resolution, then ÷4; (n, 1, x, y, z) → (n, c, x/4, y/4, z/4)."""

    halo = 1  # cells: two 3×3×3 convolutions see two voxels, less than a cell
    tile = 20  # cells per side that inference does at once: about 100 MB of 64 channels at full resolution

    def __init__(self, n_channels):
        super().__init__(1, n_channels)
        self.down = Convolution(n_channels, n_channels, FACTOR, stride=FACTOR)

    def detail(self, x):
        """Return features at full resolution, (n, c, x, y, z)."""
        return functional.relu(self.convolved(x))

    def cells(self, detail):
        """Return cells, (n, c, x/4, y/4, z/4)."""
        return self.down(detail)


class FoldStem(TwoConvolutions):
    """Fold 2×2×2 voxels into channels, look for edges there, and fold again; as `PaperStem`."""

    halo = 1  # cells: two 3×3×3 convolutions at half resolution
    tile = 60  # cells per side that inference does at once: a head at 2 mm, about 100 MB
    n_detail = 16

    def __init__(self, n_channels):
        super().__init__(HALF**3, self.n_detail)
        self.mix = Convolution(self.n_detail * HALF**3, n_channels, 1, bias=False)
        self.norm = BatchNorm(n_channels)

    def detail(self, x):
        """Return features at half resolution, (n, 16, x/2, y/2, z/2)."""
        return functional.relu(self.convolved(fold(x, HALF)))

    def cells(self, detail):
        """Return cells, (n, c, x/4, y/4, z/4)."""
        return functional.relu(self.norm(self.mix(fold(detail, HALF))))


class PaperMaskHead(nn.Module):
    """One ResBlock on the feature map at full resolution, then one logit a voxel."""

    halo = 1  # cells

    def __init__(self, n_channels):
        super().__init__()
        self.block = ResBlock(n_channels, n_channels)
        self.logit = Convolution(n_channels, 1, 1)

    def forward(self, cells, detail=None):
        """Return logits (n, 1, 4x, 4y, 4z) from cells (n, c, x, y, z); `detail` is not looked at."""
        return self.logit(self.block(upsample(cells)))


class FoldMaskHead(nn.Module):
    """Unfold cells to half resolution beside the stem's detail, two ResBlocks, then 8 logits per place.

    A logit of the cell itself is added: so large tumors, which no detail shows, are found as a whole.
    """

    halo = 4  # cells: four convolutions at half resolution of its own, two of the stem, interpolation

    def __init__(self, n_channels, n_detail=FoldStem.n_detail):
        super().__init__()
        self.coarse = Convolution(n_channels, 1, 1)
        self.spread = Convolution(n_channels, n_detail * HALF**3, 1)
        self.blocks = nn.Sequential(ResBlock(2 * n_detail, n_detail), ResBlock(n_detail, n_detail))
        self.logit = Convolution(n_detail, HALF**3, 1)

    def forward(self, cells, detail):
        """Return logits (n, 1, 4x, 4y, 4z) from cells (n, c, x, y, z) and detail (n, 16, 2x, 2y, 2z)."""
        spread = functional.relu(unfold(self.spread(cells), HALF))
        fine = unfold(self.logit(self.blocks(torch.cat([spread, detail], dim=1))), HALF)
        return fine + upsample(self.coarse(cells))


class Network(nn.Module):
    """A backbone whose feature map every head reads.

    The feature map has the input's own spatial shape: it is worked out on cells of 4×4×4 voxels, and boxes
    that a head looks at are interpolated linearly. The whole map, which is large, is never needed.

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
        mask, which also sees the stem's features; that costs about a tenth.

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
        self.halo = n_blocks * ResBlock.halo + self.stem.halo  # cells that a feature can see on each side
        self._frozen = False

    def freeze_backbone(self):
        """Keep stem and blocks as they are, batch norms included: only heads learn from now on."""
        self._frozen = True
        for module in (self.stem, self.blocks):
            module.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode=True):
        """Set training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.stem.eval()
            self.blocks.eval()
        return self

    def start_from(self, other, classes, other_classes):
        """Copy what another network of the same shape has learned.

        Parameters
        ----------
        other : Network
        classes, other_classes : dict of list of str
            Task → class names of this network and of the other: a head takes over the classes that both
            know, and keeps its own random start for new ones.
        """
        backbone = {k: v for k, v in other.state_dict().items() if not k.startswith("heads.")}
        self.load_state_dict(backbone, strict=False)
        with torch.no_grad():
            for task, head in zip(self.tasks, self.heads, strict=True):
                known = other_classes.get(task, [])
                source = other.heads[other.tasks.index(task)] if known else None
                for row, name in enumerate(classes[task]):
                    if name in known:
                        head.weight[row] = source.weight[known.index(name)]
                        head.bias[row] = source.bias[known.index(name)]

    def classify(self, pooled):
        """Return logits (m, n_classes) per task, from embeddings (m, c)."""
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
            ``mask`` (n, 1, x, y, z), ``embedding`` (m, c), then each task's logits (m, n_classes).
        """
        detail = self.stem.detail(x)
        cells = self.blocks(self.stem.cells(detail))  # (n, c, x/4, y/4, z/4)
        mask = self.mask_head(cells, detail).float()
        with torch.autocast(x.device.type, enabled=False):  # the rest is cheap, and needs full precision
            pooled = roi_pool_upsampled(cells.float(), boxes, index, factor=FACTOR)  # (m, c)
            return {"mask": mask, "embedding": pooled} | self.classify(pooled)


def upsample(cells):
    """Interpolate cells (n, c, x, y, z) linearly to (n, c, 4x, 4y, 4z)."""
    return functional.interpolate(cells, scale_factor=FACTOR, mode="trilinear", align_corners=False)


def fold(x, size):
    """Turn voxels (n, c, x, y, z) into cells (n, c * size**3, x/size, y/size, z/size)."""
    n, channels, *shape = x.shape
    a, b, c = (side // size for side in shape)
    x = x.reshape(n, channels, a, size, b, size, c, size).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(n, channels * size**3, a, b, c)


def unfold(cells, size):
    """Turn cells (n, c * size**3, x, y, z) into voxels (n, c, size * x, …); undoes `fold`."""
    n, channels, a, b, c = cells.shape
    channels //= size**3
    cells = cells.reshape(n, channels, size, size, size, a, b, c).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cells.reshape(n, channels, size * a, size * b, size * c)


def pad_to_cells(array):
    """Pad (x, y, z) with air at the far ends until every side is a multiple of 4."""
    missing = [(-size) % FACTOR for size in array.shape]
    return functional.pad(torch.as_tensor(array), [p for m in reversed(missing) for p in (0, m)])
