"""Real heads as anatomies: label maps (FreeSurfer numbers) brought to MNI millimetres."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from tumorsim.anatomy import register_to_mni
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import ras_affine, to_ras
from tumorsim.io import load_image
from tumorsim.simulation._anatomy import (
    HEAD_ORIGIN,
    HEAD_SHAPE,
    HEAD_SPACING,
    Head,
    Maps,
    area_maps,
    head_grid,
    head_maps,
    signed_distance,
    starting_points,
)
from tumorsim.simulation._face import CHANNELS, HEAD, face_channels

__all__ = ["load_label_head"]

_FIRST_OUTSIDE = 500  # numbers from here on are tissue outside the brain


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
    from scipy import ndimage

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
    soft = [ndimage.gaussian_filter(m.astype(np.float32), 0.6) for m in (gray, white, brain)]
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
    distance = ndimage.gaussian_filter(signed_distance(envelope), 0.5)
    filled = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
    skin = signed_distance(filled)
    to_cerebrum, to_hind, left, right = (
        signed_distance(_of(coarse, *names))
        for names in (("left", "right"), ("hindbrain",), ("left",), ("right",))
    )
    cerebrum = np.clip((to_hind - to_cerebrum) / 3 + 0.5, 0, 1)
    midline = ndimage.gaussian_filter(np.clip((left - right) / 2, -20, 20), 0.7)

    face = face_channels(mm, distance)
    fluid = ~in_brain
    extras = {
        channel: ndimage.gaussian_filter(np.isin(coarse, numbers).astype(np.float32), 0.4)
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
