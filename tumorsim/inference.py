"""Image → pooled embeddings and masks, computing no more than the boxes can see."""

import itertools

import numpy as np
import torch

from tumorsim.geometry import crop_slices
from tumorsim.nn import FACTOR, pad_to_cells, roi_pool_upsampled, to_device

__all__ = ["embed_boxes", "mask_probability"]

TILE = 20  # cells a tile side: about 100 MB of 64 channels at full resolution


@torch.inference_mode()
def embed_boxes(network, image, boxes):
    """Return the embeddings of all boxes of one image, in one pass.

    The image is cut to what the boxes' receptive field can see, which leaves the result that of the whole
    image: a cut inside it lies beyond the field, and at its border zeros follow in both cases.

    Parameters
    ----------
    network : Network
        In evaluation mode.
    image : ndarray of shape (x, y, z)
        Prepared voxels (`preprocessing.Volume`).
    boxes : ndarray of shape (m, 2, 3)
        In voxels of `image`.

    Returns
    -------
    ndarray of shape (m, n_channels), dtype=float32
    """
    boxes = np.asarray(boxes, dtype=np.int64)
    image = pad_to_cells(np.asarray(image, dtype=np.float32))
    size = np.array(image.shape) // FACTOR
    reach = network.halo + 1  # one more: interpolation looks at the next cell
    first = np.maximum(boxes[:, 0].min(axis=0) // FACTOR - reach, 0)
    last = np.minimum(-(-boxes[:, 1].max(axis=0) // FACTOR) + reach, size)
    crop = image[crop_slices(np.stack([first, last]) * FACTOR)]
    cells = _cells(network, crop)
    return roi_pool_upsampled(cells, boxes - first * FACTOR, factor=FACTOR).float().cpu().numpy()


@torch.inference_mode()
def mask_probability(network, image):
    """Return the probability of tumor at every voxel; float32 (x, y, z).

    Parameters
    ----------
    network : Network
        In evaluation mode.
    image : ndarray of shape (x, y, z)
        Prepared voxels.
    """
    padded = pad_to_cells(np.asarray(image, dtype=np.float32))
    cells = _cells(network, padded)
    result = np.empty(padded.shape, dtype=np.float32)
    for inner, outer in _tiles(np.array(cells.shape[2:]), network.mask_head.halo):
        tile = to_device(padded[crop_slices(outer * FACTOR)][None, None], cells.device)
        part = cells[(slice(None), slice(None), *crop_slices(outer))]
        logits = network.mask_head(part, network.stem.detail(tile))[0, 0]
        kept = logits[crop_slices((inner - outer[0]) * FACTOR)]
        result[crop_slices(inner * FACTOR)] = kept.sigmoid().float().cpu().numpy()
    return result[tuple(slice(n) for n in image.shape)]


def _cells(network, image):
    """Return cells (1, c, x/4, y/4, z/4) of an image (x, y, z); the stem works tile by tile."""
    parameter = next(network.parameters())
    size = np.array(image.shape) // FACTOR
    stems = None
    for inner, outer in _tiles(size, network.stem.halo):
        tile = to_device(image[crop_slices(outer * FACTOR)][None, None], parameter.device)
        part = network.stem.cells(network.stem.detail(tile))[
            (slice(None), slice(None), *crop_slices(inner - outer[0]))
        ]
        if stems is None:
            stems = to_device(part.new_empty((1, part.shape[1], *size.tolist())), parameter.device)
        stems[(slice(None), slice(None), *crop_slices(inner))] = part
    return network.blocks(stems)


def _tiles(size, halo):
    """Yield (inner, outer) boxes of cells (2, 3) that cover `size`; outer adds the halo, inside the image."""
    for start in itertools.product(*(range(0, int(n), TILE) for n in size)):
        inner = np.stack([start, np.minimum(np.add(start, TILE), size)])
        yield inner, np.stack([np.maximum(inner[0] - halo, 0), np.minimum(inner[1] + halo, size)])
