"""The head that tumors are put into: MNI152 tissue maps, and skull, face and vessels modeled around them."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from tumorsim.anatomy import load_template, region_at
from tumorsim.simulation._face import face_channels

__all__ = [
    *("HEAD_ORIGIN", "HEAD_SHAPE", "HEAD_SPACING", "Head", "Maps", "area_maps", "draw_frame", "head_grid"),
    *("head_maps", "load_head", "noise", "signed_distance", "smooth_field", "starting_points"),
    "template_tissue",
]

HEAD_ORIGIN = np.array([-98.0, -134.0, -104.0])  # mm; the model reaches lower than the template, to the neck
HEAD_SHAPE = (99, 125, 105)
HEAD_SPACING = 2.0
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


class Head(NamedTuple):
    """An anatomy in MNI millimetres, built once per process."""

    name: str
    brain: Maps  # channels gray, white, brain (probabilities)
    shell: Maps  # channels mm outside the brain's envelope, mm outside the skin, cerebrum (0..1), mm right
    extras: Maps  # channels of `_face.CHANNELS` (0..1)
    surface: np.ndarray  # (n, 3), mm; points on the envelope
    normals: np.ndarray  # (n, 3); outward
    junction: np.ndarray  # (n, 3), mm; gray-white junction of the cerebrum
    hemispheres: np.ndarray  # (n, 3), mm; gray and white matter of the cerebrum, deep nuclei included
    cerebellum: np.ndarray  # (n, 3), mm
    brainstem: np.ndarray  # (n, 3), mm
    real: bool  # from a label map, with sulci and tissues of its own
    scale: np.ndarray  # (3,), MNI mm per mm of the person


@lru_cache(maxsize=1)
def template_tissue():
    """Return `Maps` of gray, white and brain of the MNI152 2009a templates that nilearn ships."""
    from scipy import ndimage

    (_, gray, white, brain), affine = load_template()
    tissue = np.stack([gray, white, ndimage.gaussian_filter(brain, 0.6)])
    return Maps(torch.from_numpy(tissue)[None], affine[:3, 3], 1.0)


def head_grid():
    """Return the MNI mm of the voxels of shell and extras; float32 (x, y, z, 3)."""
    axes = [HEAD_ORIGIN[a] + HEAD_SPACING * np.arange(HEAD_SHAPE[a]) for a in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)


@lru_cache(maxsize=1)
def load_head():
    """Return the head of the MNI152 2009a templates that nilearn ships; takes a few seconds."""
    from scipy import ndimage

    tissue = template_tissue()
    mm = head_grid()
    gray, white, brain = (m.reshape(HEAD_SHAPE) for m in tissue.sample(mm.reshape(-1, 3)))
    inside = brain > 0.5
    inside[..., mm[0, 0, :, 2] < -72] = False  # below the template: edge values would draw the brainstem out
    cord = np.hypot(mm[..., 0], (mm[..., 1] + 47) / 1.1) < 9
    cistern = ((mm - np.float32((0, 2, -19))) ** 2 / np.float32((13, 13, 8)) ** 2).sum(-1) < 1  # suprasellar
    envelope = _close(inside | cistern | (cord & (mm[..., 2] < -66)), 7.0)
    distance = ndimage.gaussian_filter(signed_distance(envelope), 0.8)
    areas = area_maps(mm)
    hind = np.isin(areas, ["cerebellum", "brainstem", "cerebellopontine_angle", "sellar"])
    cerebrum = ndimage.gaussian_filter((~hind).astype(np.float32), 1.5)
    skin = _skin(mm, envelope)
    extras = face_channels(mm, distance).values()
    shell = head_maps([distance, skin, cerebrum, mm[..., 0]])
    starts = starting_points(mm, distance, cerebrum, gray, white, inside, areas)
    scale = np.full(3, 1.05)  # the template is larger than people are
    return Head("mni152", tissue, shell, head_maps(extras), **starts, real=False, scale=scale)


def head_maps(channels):
    """Return `Maps` of channels (x, y, z) on the head grid."""
    return Maps(
        torch.from_numpy(np.stack(list(channels)).astype(np.float32))[None], HEAD_ORIGIN, HEAD_SPACING
    )


def area_maps(mm):
    """Return the region of each voxel of the head grid `mm` (x, y, z, 3); array of str (x, y, z)."""
    areas = region_at(mm[::2, ::2, ::2]).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # 4 mm is fine enough here
    return areas[: mm.shape[0], : mm.shape[1], : mm.shape[2]]


def starting_points(mm, distance, cerebrum, gray, white, brain, areas):
    """Return where tumors may start: the point fields of `Head`, from maps on the head grid (x, y, z)."""
    normals = np.stack(np.gradient(distance, HEAD_SPACING), axis=-1)
    on_surface = (np.abs(distance) < 1) & (mm[..., 2] > -60)
    directions = normals[on_surface]
    solid = (brain > 0.5) & (gray + white > 0.7)
    junction = (gray > 0.3) & (white > 0.3) & (distance < -5) & (distance > -28) & (cerebrum > 0.9)
    hindbrain = solid & (distance < -3)
    return {
        "surface": mm[on_surface].astype(float),
        "normals": directions / np.linalg.norm(directions, axis=1, keepdims=True),
        "junction": mm[junction].astype(float),
        "hemispheres": mm[solid & (distance < -4) & (cerebrum > 0.8)].astype(float),
        "cerebellum": mm[hindbrain & (areas == "cerebellum")].astype(float),
        "brainstem": mm[hindbrain & (areas == "brainstem")].astype(float),
    }


def _close(mask, radius, spacing=HEAD_SPACING):
    """Close gaps up to twice `radius` mm wide in a bool array."""
    from scipy.ndimage import distance_transform_edt

    grown = distance_transform_edt(~mask, sampling=spacing) <= radius
    return distance_transform_edt(grown, sampling=spacing) > radius


def signed_distance(mask, spacing=HEAD_SPACING):
    """Return mm to the border of `mask`, negative inside; float32."""
    from scipy.ndimage import distance_transform_edt

    outside = distance_transform_edt(~mask, sampling=spacing)
    inside = distance_transform_edt(mask, sampling=spacing)
    return (outside - inside).astype(np.float32)


def _skin(mm, envelope):
    """Return mm to the skin, negative inside: the brain's envelope grown by 14 mm, a face and a neck."""
    from scipy.ndimage import gaussian_filter

    spacing, pad = 2 * HEAD_SPACING, 8  # skin is smooth: every second voxel will do
    hull = _close(np.pad(envelope[::2, ::2, ::2], pad), 24.0, spacing)
    head = signed_distance(hull, spacing)[pad:-pad, pad:-pad, pad:-pad] < 14
    x, y, z = np.moveaxis(mm[::2, ::2, ::2], -1, 0)
    face = (x / 66) ** 2 + ((y - 34) / 60) ** 2 + ((z + 62) / 72) ** 2 < 1
    nose = (x / 15) ** 2 + ((y - 84) / 18) ** 2 + ((z + 58) / 26) ** 2 < 1
    neck = ((x / 62) ** 2 + ((y + 38) / 66) ** 2 < 1) & (z < -45)
    skin = gaussian_filter(signed_distance(head | face | nose | neck, spacing), 1.0)
    return _resized(skin[None], HEAD_SHAPE)[0]


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
    """Return smooth noise of unit variance, its gradient per mm, three more noises; float32 (n_channels, n).

    `points` (n, 3) and `wavelength` are in mm; `frame` (4, 3) makes a patient's own noise, see `draw_frame`.
    """
    scale = _NOISE_WAVE / wavelength
    where = points @ (frame[:3] * scale).astype(np.float32) + frame[3].astype(np.float32)
    maps = _noise_maps()
    maps = maps._replace(values=maps.values[:, :n_channels])
    found = maps.sample(np.mod(where, np.float32(_NOISE_SIZE), out=where))
    found[1:2] *= scale
    return found


def smooth_field(rng, shape, n_control, n_channels=1):
    """Draw fields that vary over 1/`n_control` of the grid, std about 1; float32 (channels, *shape)."""
    from scipy.ndimage import zoom

    coarse = rng.standard_normal((n_channels, *[n_control + 2] * 3))
    fine = np.stack([zoom(c, 24 / (n_control + 2), order=3, mode="nearest") for c in coarse])
    return _resized(fine.astype(np.float32), shape)


def _resized(channels, shape):
    """Return channels (n, x, y, z), float32, interpolated linearly to `shape`."""
    grid = torch.from_numpy(channels)[None]
    return functional.interpolate(grid, size=shape, mode="trilinear", align_corners=True)[0].numpy()
