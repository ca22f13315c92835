"""Heads that tumors are put into: MNI152 with skull, face and vessels modeled around it, or label maps."""

import tomllib
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from scipy.ndimage import distance_transform_edt, gaussian_filter

from tumorsim.anatomy import load_template, region_at, register_to_mni
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import ras_affine, to_ras
from tumorsim.io import load_image
from tumorsim.simulation._noise import Maps, resized

CHANNELS = tuple("fat muscle air eye mucosa veins arteries pituitary bone marrow choroid".split())
HEAD = tomllib.loads(files("tumorsim").joinpath("simulation/head.toml").read_text(encoding="utf-8"))
HEAD_ORIGIN = np.array([-98.0, -134.0, -104.0])  # mm; the model reaches lower than the template, to the neck
HEAD_SHAPE = (99, 125, 105)
HEAD_SPACING = 2.0
_FIRST_OUTSIDE = 500  # numbers from here on are tissue outside the brain


class Head(NamedTuple):
    """An anatomy in MNI millimetres, built once per process."""

    name: str
    brain: Maps  # channels gray, white, brain (probabilities)
    shell: Maps  # channels mm outside the brain's envelope, mm outside the skin, cerebrum (0..1), mm right
    extras: Maps  # `CHANNELS` (0..1)
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
    (_, gray, white, brain), affine = load_template()
    tissue = np.stack([gray, white, gaussian_filter(brain, 0.6)])
    return Maps(torch.from_numpy(tissue)[None], affine[:3, 3], 1.0)


def head_grid():
    """Return the MNI mm of the voxels of shell and extras; float32 (x, y, z, 3)."""
    axes = [HEAD_ORIGIN[a] + HEAD_SPACING * np.arange(HEAD_SHAPE[a]) for a in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)


@lru_cache(maxsize=1)
def load_head():
    """Return the head of the MNI152 2009a templates that nilearn ships; takes a few seconds."""
    tissue = template_tissue()
    mm = head_grid()
    gray, white, brain = (m.reshape(HEAD_SHAPE) for m in tissue.sample(mm.reshape(-1, 3)))
    inside = brain > 0.5
    inside[..., mm[0, 0, :, 2] < -72] = False  # below the template: edge values would draw the brainstem out
    cord = np.hypot(mm[..., 0], (mm[..., 1] + 47) / 1.1) < 9
    cistern = ((mm - np.float32((0, 2, -19))) ** 2 / np.float32((13, 13, 8)) ** 2).sum(-1) < 1  # suprasellar
    envelope = _close(inside | cistern | (cord & (mm[..., 2] < -66)), 7.0)
    distance = gaussian_filter(signed_distance(envelope), 0.8)
    areas = area_maps(mm)
    hind = np.isin(areas, ["cerebellum", "brainstem", "cerebellopontine_angle", "sellar"])
    cerebrum = gaussian_filter((~hind).astype(np.float32), 1.5)
    skin = _skin(mm, envelope)
    extras = face_channels(mm, distance).values()
    shell = head_maps([distance, skin, cerebrum, mm[..., 0]])
    starts = starting_points(mm, distance, cerebrum, gray, white, inside, areas)
    scale = np.full(3, 1.05)  # the template is larger than people are
    return Head("mni152", tissue, shell, head_maps(extras), **starts, real=False, scale=scale)


def head_maps(channels):
    """Return `Maps` of channels (x, y, z) on the head grid."""
    values = np.stack(list(channels)).astype(np.float32)
    return Maps(torch.from_numpy(values)[None], HEAD_ORIGIN, HEAD_SPACING)


def face_channels(mm, distance):
    """Return `CHANNELS` on the grid `mm` (nx, ny, nz, 3), at `distance` mm from the brain's envelope."""
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
    grown = distance_transform_edt(~mask, sampling=spacing) <= radius
    return distance_transform_edt(grown, sampling=spacing) > radius


def signed_distance(mask, spacing=HEAD_SPACING):
    """Return mm to the border of `mask`, negative inside; float32."""
    outside = distance_transform_edt(~mask, sampling=spacing)
    inside = distance_transform_edt(mask, sampling=spacing)
    return (outside - inside).astype(np.float32)


def _skin(mm, envelope):
    """Return mm to the skin, negative inside: the brain's envelope grown by 14 mm, a face and a neck."""
    spacing, pad = 2 * HEAD_SPACING, 8  # skin is smooth: every second voxel will do
    hull = _close(np.pad(envelope[::2, ::2, ::2], pad), 24.0, spacing)
    head = signed_distance(hull, spacing)[pad:-pad, pad:-pad, pad:-pad] < 14
    x, y, z = np.moveaxis(mm[::2, ::2, ::2], -1, 0)
    face = (x / 66) ** 2 + ((y - 34) / 60) ** 2 + ((z + 62) / 72) ** 2 < 1
    nose = (x / 15) ** 2 + ((y - 84) / 18) ** 2 + ((z + 58) / 26) ** 2 < 1
    neck = ((x / 62) ** 2 + ((y + 38) / 66) ** 2 < 1) & (z < -45)
    skin = gaussian_filter(signed_distance(head | face | nose | neck, spacing), 1.0)
    return resized(skin[None], HEAD_SHAPE)[0]


def _of(labels, *names):
    """Return where a label map holds a number of the named groups of `HEAD`, bool."""
    return np.isin(labels, [number for name in names for number in HEAD["labels"][name]])


@lru_cache(maxsize=32)
def load_label_head(path):
    """Return the head of a label map of a whole head, a file of about 1 mm; takes some ten seconds.

    The map holds FreeSurfer's numbers in the brain, 24 for fluid around it, 500 and more outside (Billot et
    al., 2023; Puonti et al., NeuroImage 219, 117044, 2020). It is brought to MNI space as a patient's scan
    is, drawn as a stripped T1 scan, so that midline, sinuses and landmarks are where they are in the template
    to about 5 mm.

    Parameters
    ----------
    path : str
        NIfTI or NRRD file of whole numbers.

    Returns
    -------
    head : Head

    Raises
    ------
    GeometryError
        If cerebral white matter or cortex of a side is missing.
    """
    labels, affine = load_image(path)
    labels = labels.astype(np.int16)
    for number in (2, 3, 41, 42):
        if not (labels == number).any():
            raise GeometryError(f"The label map '{path}' must hold FreeSurfer's label {number}. It has none.")
    labels, affine = to_ras(labels, affine), ras_affine(labels.shape, affine)[1]
    scan = np.zeros(labels.shape, np.float32)
    for name, brightness in (("ventricle", 0.25), ("fluid", 0.2), ("gray", 0.7), ("white", 1.0)):
        scan[_of(labels, name) & (labels < _FIRST_OUTSIDE)] = brightness
    to_native = np.linalg.inv(register_to_mni(scan, affine).to_mni)
    return _build(Path(path).name.split(".")[0], labels, affine, to_native)


def _build(name, labels, affine, to_native):
    """Return the `Head` of a registered label map in RAS+ order."""
    to_voxel = np.linalg.inv(affine) @ to_native

    def resampled(origin, shape, spacing):
        change = to_voxel[:3, :3] * spacing
        start = to_voxel[:3, :3] @ np.asarray(origin, float) + to_voxel[:3, 3]
        return ndimage.affine_transform(labels, change, start, output_shape=shape, order=0)

    origin, shape = np.array([-80.0, -112.0, -76.0]), (161, 193, 165)
    fine = resampled(origin, shape, 1.0)
    gray, white = _of(fine, "gray"), _of(fine, "white")
    brain = gray | white | _of(fine, "ventricle")
    brain = ndimage.binary_closing(brain, iterations=4, border_value=0) | brain
    soft = [gaussian_filter(m.astype(np.float32), 0.6) for m in (gray, white, brain)]
    soft[0] = np.minimum(soft[0], soft[2])
    tissue = Maps(torch.from_numpy(np.stack(soft))[None], origin, 1.0)

    coarse = resampled(HEAD_ORIGIN, HEAD_SHAPE, HEAD_SPACING)
    body = coarse > 0
    pieces = ndimage.label(body)[0]
    body = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1  # without specks of noise behind the head
    coarse = np.where(body, coarse, 0)
    mm = head_grid()
    in_brain = _of(coarse, "gray", "white", "ventricle") & (coarse < _FIRST_OUTSIDE)
    inner = in_brain | (_of(coarse, "fluid") & (mm[..., 2] > -85))
    envelope = ndimage.binary_closing(np.pad(inner, 4), iterations=2)[4:-4, 4:-4, 4:-4] | inner
    distance = gaussian_filter(signed_distance(envelope), 0.5)
    filled = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
    skin = signed_distance(filled)
    to_cerebrum, to_hind, left, right = (
        signed_distance(_of(coarse, *names))
        for names in (("left", "right"), ("hindbrain",), ("left",), ("right",))
    )
    cerebrum = np.clip((to_hind - to_cerebrum) / 3 + 0.5, 0, 1)
    midline = gaussian_filter(np.clip((left - right) / 2, -20, 20), 0.7)

    face = face_channels(mm, distance)
    fluid = ~in_brain
    extras = {
        channel: gaussian_filter(np.isin(coarse, numbers).astype(np.float32), 0.4)
        for channel, numbers in HEAD["outside"].items()
    }
    for channel in ("veins", "arteries"):
        extras[channel] = np.maximum(extras[channel], face[channel] * fluid)
    groove = 3.2 - np.hypot(midline, np.clip(-1.5 - distance, 0, None))  # superior sagittal sinus, mm
    behind = (mm[..., 2] > 15) | (mm[..., 1] < -75)
    sinus = np.clip(groove / 2 + 0.5, 0, 1) * (distance < 1.5) * behind * fluid
    extras["veins"] = np.maximum(extras["veins"], sinus.astype(np.float32))
    extras |= {"pituitary": face["pituitary"] * fluid, "choroid": face["choroid"]}

    areas = area_maps(mm)
    tissue_here = tissue.sample(mm.reshape(-1, 3)).reshape(3, *HEAD_SHAPE)
    shell = head_maps([distance, skin, cerebrum, midline])
    starts = starting_points(mm, distance, cerebrum, *tissue_here, areas)
    scale = 1 / np.linalg.norm(to_native[:3, :3], axis=0)
    return Head(name, tissue, shell, head_maps(extras[c] for c in CHANNELS), **starts, real=True, scale=scale)
