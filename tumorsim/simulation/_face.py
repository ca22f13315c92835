"""Structures around the brain that a T1c scan shows: fat, muscle, air, eyes, mucosa, vessels, pituitary."""

from itertools import pairwise

import numpy as np

__all__ = ["CHANNELS", "face_channels"]

CHANNELS = ("fat", "muscle", "air", "eye", "mucosa", "veins", "arteries", "pituitary", "bone", "marrow")

# Center, half-axes in MNI mm; x is mirrored where it is not 0. Read off head MRI by eye, to about 5 mm.
_ELLIPSOIDS = {
    "fat": [((31, 54, -40), (17, 21, 17)), ((23, 36, -36), (10, 16, 10)), ((50, 44, -84), (13, 20, 16))],
    "muscle": [
        ((63, 22, -28), (9, 30, 36)),  # temporalis
        ((50, 2, -72), (13, 24, 28)),  # pterygoids
        ((26, -78, -84), (24, 22, 34)),  # neck
        ((43, 52, -40), (3, 12, 4)),  # of the eye
        ((21, 50, -40), (3, 14, 4)),
    ],
    "air": [
        ((29, 46, -72), (13, 15, 15)),  # maxillary sinus
        ((7, 50, -44), (6, 20, 12)),  # ethmoid cells
        ((8, 22, -44), (9, 11, 9)),  # sphenoid sinus
        ((11, 76, -14), (9, 5, 11)),  # frontal sinus
        ((6, 40, -72), (4, 30, 16)),  # nasal cavity
        ((0, 0, -92), (10, 9, 30)),  # pharynx
        ((54, -44, -44), (8, 11, 11)),  # mastoid cells
    ],
    "eye": [((33, 62, -41), (12, 12, 12))],
}

# Points in MNI mm, radius in mm; mirrored where the second entry says so.
_VEINS = [
    (
        [(0, 66, 6), (0, 58, 40), (0, 30, 66), (0, -15, 78), (0, -60, 64), (0, -92, 34), (0, -101, -8)],
        3.4,
        False,
    ),
    (
        [(0, -101, -8), (22, -96, -17), (46, -80, -24), (58, -56, -31), (50, -44, -44), (40, -46, -62)],
        3.6,
        True,
    ),
    ([(0, -42, 2), (0, -62, 4), (0, -84, -3), (0, -101, -8)], 2.4, False),
    ([(2, 0, 8), (2, -22, 11), (0, -42, 2)], 1.4, True),
    ([(12, 8, -28), (13, -6, -30)], 4.0, True),
]
_ARTERIES = [
    ([(0, -30, -58), (0, -22, -44), (0, -16, -24)], 1.9, False),
    ([(24, -10, -56), (22, -4, -40), (13, -2, -32), (14, 6, -18)], 2.1, True),
    ([(14, 6, -18), (28, 4, -15), (42, 0, -12), (44, -12, 2)], 1.5, True),
    ([(14, 6, -18), (4, 16, -14), (2, 32, 0), (2, 34, 14)], 1.3, True),
    ([(0, -16, -24), (14, -20, -18), (24, -38, -8)], 1.3, True),
]


def face_channels(mm, distance):
    """Return the channels of `CHANNELS` on the head grid; float32 (10, nx, ny, nz).

    `mm` (nx, ny, nz, 3) is the MNI position of each voxel, `distance` (nx, ny, nz) its mm to the brain's
    envelope, of which face structures keep 3 mm.
    """
    channels = {name: np.zeros(distance.shape, np.float32) for name in CHANNELS}
    free = np.clip((distance - 3) / 2, 0, 1)
    for name, shapes in _ELLIPSOIDS.items():
        for center, axes in shapes:
            for side in (1, -1) if center[0] else (1,):
                _draw_ellipsoid(channels[name], mm, (side * center[0], *center[1:]), axes)
        channels[name] *= free
    shell = np.clip(1 - np.abs(channels["air"] - 0.5) * 2, 0, 1)  # the lining of the air spaces
    channels["mucosa"] = shell * (mm[..., 2] < -25) * (mm[..., 1] > 5)
    _draw_ellipsoid(channels["pituitary"], mm, (0, 2, -34), (7, 5, 4))
    for name, tubes in (("veins", _VEINS), ("arteries", _ARTERIES)):
        for path, radius, mirrored in tubes:
            for side in (1, -1) if mirrored else (1,):
                _draw_tube(channels[name], mm, np.array(path, float) * (side, 1, 1), radius)
    return np.stack([channels[name] for name in CHANNELS]).astype(np.float32)


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
