"""Structures around the brain that a T1c scan shows: fat, muscle, air, eyes, mucosa, vessels, pituitary."""

import tomllib
from importlib.resources import files
from itertools import pairwise

import numpy as np

__all__ = ["CHANNELS", "HEAD", "face_channels"]

CHANNELS = tuple("fat muscle air eye mucosa veins arteries pituitary bone marrow choroid".split())
HEAD = tomllib.loads(files("tumorsim").joinpath("simulation/head.toml").read_text(encoding="utf-8"))


def face_channels(mm, distance):
    """Return the channels of `CHANNELS` on the head grid; name → float32 (nx, ny, nz).

    `mm` (nx, ny, nz, 3) is the MNI position of each voxel, `distance` (nx, ny, nz) its mm to the brain's
    envelope, of which face structures keep 3 mm.
    """
    channels = {name: np.zeros(distance.shape, np.float32) for name in CHANNELS}
    free = np.clip((distance - 3) / 2, 0, 1)
    for name, shapes in HEAD["ellipsoids"].items():
        for center, axes in shapes:
            for side in (1, -1) if center[0] else (1,):
                _draw_ellipsoid(channels[name], mm, (side * center[0], *center[1:]), axes)
        channels[name] *= free
    shell = np.clip(1 - np.abs(channels["air"] - 0.5) * 2, 0, 1)  # the lining of the air spaces
    channels["mucosa"] = shell * (mm[..., 2] < -25) * (mm[..., 1] > 5)
    _draw_ellipsoid(channels["pituitary"], mm, (0, 2, -34), (7, 5, 4))
    for name, tubes in HEAD["tubes"].items():
        for radius, mirrored, path in tubes:
            for side in (1, -1) if mirrored else (1,):
                _draw_tube(channels[name], mm, np.array(path, float) * (side, 1, 1), radius)
    return channels


def _box(mm, low, high):
    """Return slices of the head grid that hold `low` to `high` (3,) in mm."""
    origin, step = mm[0, 0, 0], mm[1, 0, 0, 0] - mm[0, 0, 0, 0]
    start = np.clip((low - origin) // step, 0, None).astype(int)
    stop = ((high - origin) // step + 2).astype(int)
    return tuple(slice(i, j) for i, j in zip(start, stop, strict=True))


def _draw_ellipsoid(channel, mm, center, axes):
    """Draw an ellipsoid into `channel` (nx, ny, nz), in place; its edge is 2 mm wide."""
    center, axes = np.float32(center), np.float32(axes)
    box = _box(mm, center - axes - 4, center + axes + 4)
    inside = (1 - np.sqrt((((mm[box] - center) / axes) ** 2).sum(-1))) * axes.min() / 2 + 0.5
    np.maximum(channel[box], np.clip(inside, 0, 1), out=channel[box])


def _draw_tube(channel, mm, path, radius):
    """Draw a tube of `radius` mm along `path` (n, 3) into `channel` (nx, ny, nz), in place."""
    for a, b in pairwise(path):
        box = _box(mm, np.minimum(a, b) - radius - 4, np.maximum(a, b) + radius + 4)
        along = np.clip(((mm[box] - a) @ (b - a)) / ((b - a) ** 2).sum(), 0, 1)
        away = np.linalg.norm(mm[box] - a - along[..., None] * (b - a), axis=-1)
        np.maximum(channel[box], np.clip((radius - away) / 2 + 0.5, 0, 1), out=channel[box])
