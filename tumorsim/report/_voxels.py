"""A tumor's surroundings as bytes that the answer sheet's script unpacks."""

import base64
import gzip

import numpy as np

from tumorsim.preprocessing import resample

_PERCENTILES = (0.1, 99.9)  # intensities that 255 levels spread over


def encode_voxels(near, extent_mm, n_bytes):
    """Return voxels and mask for scrolling, at the scan's own spacing where that fits into `n_bytes`.

    Where it does not, the finest axes are made coarser until it does; thick slices stay as they are.
    ``packed`` is base64 of gzip; its bytes are the differences of successive voxels (x runs fastest; level 0
    is air, 1 to 255 are intensities), then the mask. ``view`` is what the script must know, positions in
    voxels of the packed grid.
    """
    spacing = np.asarray(near.spacing, dtype=np.float64)
    new = spacing.copy()
    while True:
        levels, mask, window = _levels(near, spacing, new)
        packed = _pack(levels, mask)
        if len(packed) <= n_bytes:
            break
        finest = new.min() * max(1.05, (len(packed) / n_bytes) ** (1 / 3))
        new = np.maximum(new, finest)
    ratio = spacing / new
    box, through = near.bbox * ratio, (near.through + 0.5) * ratio
    view = {"shape": list(levels.shape), "extent": float(extent_mm), "mask": mask is not None}
    view |= {"box": np.round(box, 3).tolist(), "middle": np.round(box.mean(axis=0), 3).tolist()}
    view |= {"spacing": np.round(new, 4).tolist(), "window": [round(float(v), 2) for v in window]}
    view["through"] = [int(min(t, n - 1)) for t, n in zip(through, levels.shape, strict=True)]
    return {"packed": base64.b64encode(packed).decode("ascii"), "view": view}


def _levels(near, spacing, new):
    """Return uint8 levels, bool mask or None, and the window in levels, on a grid of spacing `new`."""
    image, mask, low_high = near.image, near.lesion, near.window
    air = np.zeros(image.shape, dtype=bool) if near.background is None else image == near.background
    known = image[~air] if not air.all() else image.ravel()
    low, high = (float(v) for v in np.percentile(known, _PERCENTILES))
    low, high = min(low, low_high[0]), max(high, low_high[1])
    image = np.where(air, np.float32(low), image.astype(np.float32))
    if not np.array_equal(spacing, new):
        shape = tuple(int(n) for n in np.ceil(np.array(image.shape) * spacing / new - 1e-6))
        image = resample(image, spacing, new, shape)
        air = resample(air, spacing, new, shape) > 0.5
        mask = None if mask is None else resample(mask, spacing, new, shape) >= 0.5
    levels = 1 + np.round(np.clip((image - low) / (high - low), 0, 1) * 254)
    window = [1 + (v - low) / (high - low) * 254 for v in low_high]
    return np.where(air, 0, levels).astype(np.uint8), mask, window


def _pack(levels, mask):
    """Return gzip of the levels' differences and of the mask; the same voxels give the same bytes."""
    flat = levels.ravel(order="F")
    parts = [np.diff(flat, prepend=np.uint8(0)).tobytes()]  # wraps at 256
    parts += [] if mask is None else [mask.ravel(order="F").astype(np.uint8).tobytes()]
    return gzip.compress(b"".join(parts), compresslevel=9, mtime=0)
