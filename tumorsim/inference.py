"""Image → pooled embeddings and masks, computing no more than the boxes can see."""

import itertools

import numpy as np
import torch

from tumorsim._validation import check_real
from tumorsim.geometry import crop_slices
from tumorsim.nn import FACTOR, pad_to_cells, return_memory, roi_pool_upsampled, to_device
from tumorsim.records import Case, Cohort, group_by_case
from tumorsim.training import prefetch_scans

__all__ = ["classify", "embed_boxes", "embed_tumors", "segment_case"]

TILE = 20  # cells per side of a tile of the mask's head


def embed_tumors(network, preprocessing, tumors, *, cache=None, n_jobs=1, verbose=0):
    """Return the embeddings of tumors, float32 (n_tumors, n_channels); each scan is read once.

    The network is in evaluation mode; `n_jobs` threads prefetch scans, through a `VoxelCache` where one is
    given; `verbose` shows a progress bar. Headers are checked first: a `CohortError` lists all scans that
    cannot be used. A `GeometryError` names a scan whose voxels cannot be.
    """
    Cohort(tumors).check()
    X = np.zeros((len(tumors), network.config["n_channels"]), dtype=np.float32)
    groups = group_by_case(tumors)
    volumes = prefetch_scans(
        lambda rows: preprocessing.prepare_case(tumors[rows[0]].case, cache=cache),
        groups, n_jobs=n_jobs, description="embedding", verbose=verbose,
    )  # fmt: skip
    for rows, volume in zip(groups, volumes, strict=True):
        image, origin = preprocessing.pad(volume.image)
        X[rows] = embed_boxes(network, image, volume.boxes([tumors[r].bbox for r in rows]) + origin)
        return_memory()
    return X


@torch.inference_mode()
def classify(network, embeddings):
    """Return each head's probabilities, task → float32 (n_tumors, n_classes), from embeddings (n, c)."""
    pooled = torch.from_numpy(embeddings).to(next(network.parameters()).device)
    return {task: logits.softmax(dim=1).cpu().numpy() for task, logits in network.classify(pooled).items()}


def segment_case(network, preprocessing, case, *, threshold=0.5, cache=None):
    """Return a mask of the voxels of a `Case` that may be tumor, on its own grid; uint8 (nx, ny, nz).

    Network and preprocessing are those of `embed_tumors`. A voxel is tumor from a probability of `threshold`
    on (0 to 1, else ValueError); with None the probabilities are returned, float32.
    """
    if not isinstance(case, Case):
        raise TypeError(f"'case' must be a Case. Got {type(case).__name__}.")
    check_real(threshold, "threshold", minimum=0, maximum=1, allow_none=True)
    volume = preprocessing.prepare_case(case, cache=cache)
    image, origin = preprocessing.pad(volume.image)
    inside = crop_slices(np.stack([origin, origin + volume.image.shape]))
    probability = volume.to_source(mask_probability(network, image)[inside])
    return_memory()
    return probability if threshold is None else (probability >= threshold).astype(np.uint8)


@torch.inference_mode()
def embed_boxes(network, image, boxes):
    """Return float32 embeddings (m, n_channels) of boxes (m, 2, 3) of prepared voxels (x, y, z).

    Stem and blocks work only on what the rest of the network can see from the boxes, which leaves the result
    that of the whole image. Boxes far apart have parts of their own where that is less work.
    """
    boxes = np.asarray(boxes, dtype=np.int64)
    image = pad_to_cells(np.asarray(image, dtype=np.float32))
    result = np.empty((len(boxes), network.config["n_channels"]), dtype=np.float32)
    for rows, part in _parts(boxes, np.array(image.shape) // FACTOR, network.halo):
        cells = _stem(network, image[crop_slices(part * FACTOR)])
        result[rows] = _pool_boxes(network.blocks, cells, boxes[rows] - part[0] * FACTOR)
    return result


def _pool_boxes(blocks, cells, boxes):
    """Return embeddings (m, c) of boxes from the cells (1, c, x, y, z) that the first of `blocks` reads."""
    if not len(blocks):
        return roi_pool_upsampled(cells, boxes, factor=FACTOR).float().cpu().numpy()
    result = np.empty((len(boxes), cells.shape[1]), dtype=np.float32)
    for rows, part in _parts(boxes, np.array(cells.shape[2:]), sum(block.halo for block in blocks)):
        seen = to_device(cells[:, :, *crop_slices(part)], cells.device)
        result[rows] = _pool_boxes(blocks[1:], blocks[0](seen), boxes[rows] - part[0] * FACTOR)
    return result


def _parts(boxes, size, halo):
    """Yield (rows, part): part (2, 3) of the cells holds what its rows of `boxes` see; joined if smaller."""
    reach = halo + 1  # one more: interpolation looks at the next cell
    first = np.maximum(boxes[:, 0] // FACTOR - reach, 0)
    last = np.minimum(-(-boxes[:, 1] // FACTOR) + reach, size)
    groups = [[row] for row in range(len(boxes))]
    while len(groups) > 1:
        joint = np.maximum(last[:, None], last) - np.minimum(first[:, None], first)
        cells = (last - first).prod(axis=1)
        excess = joint.prod(axis=2) - cells[:, None] - cells
        np.fill_diagonal(excess, 1)
        a, b = sorted(np.unravel_index(excess.argmin(), excess.shape))
        if excess[a, b] > 0:
            break
        first[a], last[a] = np.minimum(first[a], first[b]), np.maximum(last[a], last[b])
        groups[a] += groups.pop(b)
        first, last = np.delete(first, b, axis=0), np.delete(last, b, axis=0)
    for rows, *part in zip(groups, first, last, strict=True):
        yield rows, np.stack(part)


@torch.inference_mode()
def mask_probability(network, image):
    """Return the probability of tumor at each of the prepared voxels; float32 (x, y, z)."""
    padded = pad_to_cells(np.asarray(image, dtype=np.float32))
    cells = network.blocks(_stem(network, padded))
    result = np.empty(padded.shape, dtype=np.float32)
    for inner, outer in _tiles(np.array(cells.shape[2:]), network.mask_head.halo, TILE):
        tile = to_device(padded[crop_slices(outer * FACTOR)][None, None], cells.device)
        part = cells[:, :, *crop_slices(outer)]
        logits = network.mask_head(part, network.stem.detail(tile))[0, 0]
        kept = logits[crop_slices((inner - outer[0]) * FACTOR)]
        result[crop_slices(inner * FACTOR)] = kept.sigmoid().float().cpu().numpy()
    return result[tuple(slice(n) for n in image.shape)]


def _stem(network, image):
    """Return the stem's cells (1, c, x/4, y/4, z/4) of an image (x, y, z), made tile by tile."""
    parameter = next(network.parameters())
    size = np.array(image.shape) // FACTOR
    stems = None
    for inner, outer in _tiles(size, network.stem.halo, network.stem.tile):
        tile = to_device(image[crop_slices(outer * FACTOR)][None, None], parameter.device)
        part = network.stem.cells(network.stem.detail(tile))[:, :, *crop_slices(inner - outer[0])]
        if stems is None:
            stems = to_device(part.new_empty((1, part.shape[1], *size.tolist())), parameter.device)
        stems[:, :, *crop_slices(inner)] = part
    return stems


def _tiles(size, halo, side):
    """Yield (inner, outer) boxes of cells (2, 3) that cover `size`; outer adds the halo, inside the image."""
    for start in itertools.product(*(range(0, int(n), side) for n in size)):
        inner = np.stack([start, np.minimum(np.add(start, side), size)])
        yield inner, np.stack([np.maximum(inner[0] - halo, 0), np.minimum(inner[1] + halo, size)])
