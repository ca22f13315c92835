"""Maps on regular grids in MNI millimetres, and random fields: smooth noise, coarse ones."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import zoom
from torch.nn import functional

_NOISE_SIZE = 64  # voxels
_NOISE_WAVE = 8  # voxels per wavelength


class Maps(NamedTuple):
    """Channels on a regular grid in MNI millimetres."""

    values: torch.Tensor  # (1, channels, nx, ny, nz)
    origin: np.ndarray  # (3,), mm of the first voxel's center
    spacing: float  # mm

    def sample(self, points):
        """Interpolate linearly at `points` (n, 3) in mm; returns (channels, n), edge values outside."""
        size = np.array(self.values.shape[2:])
        scale = (2 / (size - 1) / self.spacing).astype(np.float32)
        grid = (points - self.origin.astype(np.float32)) * scale - np.float32(1)
        grid = torch.from_numpy(np.ascontiguousarray(grid[:, ::-1]))  # grid_sample wants z, y, x
        grid = grid[None, None, None]
        found = functional.grid_sample(self.values, grid, padding_mode="border", align_corners=True)
        return found[0, :, 0, 0].numpy()


@lru_cache(maxsize=1)
def _noise_maps():
    """Return a periodic band-pass noise, its gradient, and three more noises; (1, 5, 65, 65, 65)."""
    rng = np.random.default_rng(20181009)  # the same for everybody; patients differ by phase and rotation
    size = _NOISE_SIZE
    axes = np.meshgrid(*[np.fft.fftfreq(size) * size] * 3, indexing="ij", sparse=True)
    k = np.sqrt(sum(f**2 for f in axes))
    center = size / _NOISE_WAVE
    band = np.exp(-0.5 * ((k - center) / (0.35 * center)) ** 2)
    fields = [np.fft.ifftn(np.fft.fftn(rng.standard_normal((size,) * 3)) * band).real for _ in range(4)]
    fields = [f / f.std() for f in fields]
    slope = np.sqrt(sum(((np.roll(fields[0], -1, a) - np.roll(fields[0], 1, a)) / 2) ** 2 for a in range(3)))
    stack = np.stack([fields[0], slope, *fields[1:]]).astype(np.float32)
    return Maps(torch.from_numpy(np.pad(stack, [(0, 0)] + [(0, 1)] * 3, mode="wrap"))[None], np.zeros(3), 1.0)


def draw_frame(rng):
    """Draw rotation and, as the last row, phase of a noise, (4, 3)."""
    return np.vstack([np.linalg.qr(rng.standard_normal((3, 3)))[0], rng.uniform(0, _NOISE_SIZE, 3)])


def noise(points, wavelength, frame, n_channels=5):
    """Return noise at `points` (n, 3), its gradient per mm, three more noises; (n_channels, n)."""
    scale = _NOISE_WAVE / wavelength
    where = points @ (frame[:3] * scale).astype(np.float32) + frame[3].astype(np.float32)
    maps = _noise_maps()
    maps = maps._replace(values=maps.values[:, :n_channels])
    found = maps.sample(np.mod(where, np.float32(_NOISE_SIZE), out=where))
    found[1:2] *= scale
    return found


def smooth_field(rng, shape, n_control, n_channels=1):
    """Draw fields that vary over 1/`n_control` of the grid, std about 1; float32 (channels, *shape)."""
    coarse = rng.standard_normal((n_channels, *[n_control + 2] * 3))
    fine = np.stack([zoom(c, 24 / (n_control + 2), order=3, mode="nearest") for c in coarse])
    return resized(fine.astype(np.float32), shape)


def resized(channels, shape):
    """Return channels (n, x, y, z), float32, interpolated linearly to `shape`."""
    grid = torch.from_numpy(channels)[None]
    return functional.interpolate(grid, size=shape, mode="trilinear", align_corners=True)[0].numpy()
