"""RoiPool: the maximum of every channel over a tumor's bounding box."""

import numpy as np
import torch
from torch.nn import functional

from tumorsim.geometry import crop_slices


def roi_pool(features, boxes, index=None):
    """Max-pool feature maps over boxes of any size.

    Parameters
    ----------
    features : Tensor of shape (n, c, x, y, z)
    boxes : array-like of shape (m, 2, 3), dtype=int
        Start-inclusive, stop-exclusive, in voxels of `features`.
    index : array-like of shape (m,), dtype=int, optional
        The element of the batch that each box belongs to; may be left out when n is 1.

    Returns
    -------
    Tensor of shape (m, c)

    Raises
    ------
    ValueError
        If a box is empty or leaves the feature map, or `index` is missing or out of range.

    References
    ----------
    arXiv:1810.09369, section 2: here RoiPool keeps no grid, so a vector of c numbers, whatever the box.

    Examples
    --------
    >>> features = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> roi_pool(features, [[(0, 0, 0), (1, 2, 2)], [(0, 0, 0), (2, 2, 2)]])
    tensor([[3.],
            [7.]])
    """
    boxes, index = _check(boxes, index, len(features), features.shape[2:])
    if not len(boxes):
        return features.new_zeros((0, features.shape[1]))
    parts = [features[(i, slice(None), *crop_slices(b))] for i, b in zip(index, boxes, strict=True)]
    return torch.stack([part.amax(dim=(1, 2, 3)) for part in parts])


def roi_pool_upsampled(coarse, boxes, index=None, *, factor):
    """Return ``roi_pool(upsample(coarse), boxes)`` without building the upsampled map.

    Between the centers of neighboring cells the map is linear along each axis, so its maximum there is at the
    first or the last of the box's voxels: the others are not interpolated. Boxes are in voxels of the
    upsampled map, `factor` times as many per axis; shapes and errors are those of `roi_pool`.
    """
    size = coarse.shape[2:]
    boxes, index = _check(boxes, index, len(coarse), [n * factor for n in size])
    if not len(boxes):
        return coarse.new_zeros((0, coarse.shape[1]))
    pooled = []
    for i, box in zip(index, boxes, strict=True):
        cells = coarse[i]
        for axis, (side, n) in enumerate(zip(box.T, size, strict=True), start=1):
            low, weight = _ends(*side, n, coarse, factor)
            ends = (cells.index_select(axis, at) for at in (low, (low + 1).clamp(max=n - 1)))
            cells = torch.lerp(*ends, weight.reshape(-1, *[1] * (3 - axis)))
        pooled.append(cells.amax(dim=(1, 2, 3)))
    return torch.stack(pooled)


def _ends(start, stop, size, like, factor):
    """Return, of voxels start … stop - 1, the first and last between each two of `size` cells' centers.

    They are given by the cell below (n,) and the way from it to the next (n,), of the type of `like`.
    """
    place = ((torch.arange(start, stop) + 0.5) / factor - 0.5).clamp(0, size - 1)
    low = place.long().clamp(max=max(size - 2, 0))
    changes = functional.pad(low.diff() > 0, (1, 1), value=True)
    keep = changes[1:] | changes[:-1]
    return low[keep].to(like.device), (place - low)[keep].to(like)


def _check(boxes, index, n, shape):
    """Return boxes as int64 (m, 2, 3) and index as a list, both checked."""
    boxes = np.asarray(boxes)
    if boxes.size and (boxes.shape[-2:] != (2, 3) or not np.array_equal(boxes, np.round(boxes))):
        raise ValueError(f"Boxes must be whole numbers of shape (m, 2, 3). Got {boxes.tolist()}.")
    boxes = boxes.astype(np.int64).reshape(-1, 2, 3)
    if index is None:
        if n != 1 and len(boxes):
            raise ValueError(f"'index' must say which of the {n} feature maps each box belongs to. Got None.")
        index = np.zeros(len(boxes), dtype=np.int64)
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    if len(index) != len(boxes) or (len(index) and (index.min() < 0 or index.max() >= n)):
        rule = f"'index' must hold one number from 0 to {n - 1} a box ({len(boxes)})"
        raise ValueError(f"{rule}. Got {index.tolist()}.")
    bad = (boxes[:, 0] < 0) | (boxes[:, 1] > np.asarray(shape)) | (boxes[:, 0] >= boxes[:, 1])
    if bad.any():
        first = boxes[bad.any(axis=1)][0].tolist()
        rule = f"Boxes must be non-empty and inside the feature map of shape {tuple(shape)}"
        raise ValueError(f"{rule}. Got {first}.")
    return boxes, index.tolist()
