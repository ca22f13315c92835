"""Voxels on one grid: RAS+ order, one spacing, one intensity scale; and the cache of them."""

from tumorsim.preprocessing._cache import VoxelCache
from tumorsim.preprocessing._volume import (
    MAX_VOXELS,
    Preprocessing,
    Volume,
    head_level,
    normalize_intensity,
    resample,
)

__all__ = [
    "MAX_VOXELS", "Preprocessing", "Volume", "VoxelCache", "head_level", "normalize_intensity", "resample",
]  # fmt: skip
