"""RoiPool: the maximum of every channel over a tumor's bounding box."""

import numpy as np
import torch
from torch.nn import functional

from tumorsim.geometry import crop_slices

MOST_VOXELS = 128**3  # interpolated at once: 400 MB of 48 channels


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

    Only the cells under a box, and one around it, are interpolated. Linear interpolation with
    ``align_corners=False`` looks at no other, so the result is that of the whole map. Boxes are in voxels of
    the upsampled map, `factor` times as many per axis; shapes and errors are those of `roi_pool`.
    """
    size = torch.as_tensor(coarse.shape[2:])
    boxes, index = _check(boxes, index, len(coarse), (size * factor).tolist())
    if not len(boxes):
        return coarse.new_zeros((0, coarse.shape[1]))
    pooled = []
    for i, box in zip(index, boxes, strict=True):
        parts = []
        rows = max(1, int(MOST_VOXELS // np.prod(box[1, 1:] - box[0, 1:])))
        for start in range(int(box[0, 0]), int(box[1, 0]), rows):  # slabs that are small enough to hold
            slab = np.array([[start, *box[0, 1:]], [min(start + rows, box[1, 0]), *box[1, 1:]]])
            first = np.maximum(slab[0] // factor - 1, 0)
            last = np.minimum(-(-slab[1] // factor) + 1, size.numpy())
            cells = coarse[(slice(i, i + 1), slice(None), *crop_slices(np.stack([first, last])))]
            fine = functional.interpolate(cells, scale_factor=factor, mode="trilinear", align_corners=False)
            parts.append(fine[(0, slice(None), *crop_slices(slab - first * factor))].amax(dim=(1, 2, 3)))
        pooled.append(torch.stack(parts).amax(dim=0) if len(parts) > 1 else parts[0])
    return torch.stack(pooled)


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
