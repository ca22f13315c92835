"""Heads made of ellipsoids with bright ellipsoid tumors: small, quick, and of known truth."""

import nibabel as nib
import numpy as np
import torch

from tumorsim import Case, Cohort, Tumor, TumorEmbedder
from tumorsim.geometry import bbox_from_mask
from tumorsim.training import Recipe

torch.set_num_threads(1)  # as conftest does; a subprocess has no conftest

SHAPE = (40, 44, 36)

TINY = {
    "spacing": 2.0,
    "patch_size": 24,
    "n_channels": 8,
    "n_blocks": 1,
    "batch_size": 2,
    "max_epochs": 2,
    "batches_per_epoch": 4,
    "device": "cpu",
    "random_state": 0,
}


def ball(shape, center, radii):
    """Return a bool ellipsoid; center and radii in voxels, a voxel's center at its index."""
    grid = np.indices(shape).reshape(3, -1).T
    return (((grid - center) / radii) ** 2).sum(axis=1).reshape(shape) <= 1


def head(shape=SHAPE, *, scalp=False, seed=0):
    """Return a float32 head at about 100 in the brain, 0 outside, with smooth texture."""
    middle = (np.array(shape) - 1) / 2
    rng = np.random.default_rng(seed)
    wave = sum(np.cos(g / rng.uniform(3, 6) + rng.uniform(0, 6)) for g in np.indices(shape))  # of no symmetry
    brain = ball(shape, middle, 0.40 * np.array(shape))
    image = np.where(brain, 100 + 8 * wave, 0)
    if scalp:
        shell = ball(shape, middle, 0.49 * np.array(shape)) & ~ball(shape, middle, 0.45 * np.array(shape))
        image = np.where(shell, 300, image)
    return image.astype(np.float32)


def affine_of(spacing=2.0, rotation_deg=0.0):
    """Return a RAS+ affine, turned in its header by some degrees about all axes."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (rotation_deg, -rotation_deg, rotation_deg / 2), degrees=True)
    affine[:3, :3] = turn.as_matrix() * np.broadcast_to(spacing, 3)
    affine[:3, 3] = (-40, -44, -36)
    return affine


def stored_as(array, affine, orientation):
    """Return a RAS+ ordered array and its affine as a file of that orientation holds them."""
    image = nib.Nifti1Image(array, affine)
    now = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(orientation))
    image = image.as_reoriented(change)
    return np.asanyarray(image.dataobj), image.affine


def scan(
    case_id,
    lesions,
    *,
    patient_id=None,
    shape=SHAPE,
    affine=None,
    orientation="RAS",
    with_mask=True,
    labels=True,
    seed=0,
):
    """Return the tumors of one scan; `lesions` are (kind, center, radii) on the RAS+ grid.

    A ``meningioma`` is bright all over, a ``metastasis`` has a dark core; hemisphere follows from x.
    """
    image, mask = head(shape, seed=seed), np.zeros(shape, np.uint8)
    affine = affine_of() if affine is None else affine
    for number, (kind, center, radii) in enumerate(lesions, start=1):
        inside = ball(shape, center, radii)
        image[inside] = 260
        if kind == "metastasis":
            image[ball(shape, center, np.array(radii) / 2)] = 40
        mask[inside] = number
    stored, stored_affine = stored_as(image, affine, orientation)
    stored_mask = stored_as(mask, affine, orientation)
    case = Case(
        (stored, stored_affine),
        stored_mask if with_mask else None,
        case_id=case_id,
        patient_id=patient_id or f"patient-{case_id}",
    )
    return [
        Tumor(
            case,
            bbox_from_mask(stored_mask[0] == number),
            tumor_id=f"{case_id}/{number}",
            mask_value=number,
            labels={"type": kind, "hemisphere": "left" if center[0] < (shape[0] - 1) / 2 else "right"}
            if labels
            else {},
        )
        for number, (kind, center, _) in enumerate(lesions, start=1)
    ]


def cohort(n_scans=4, *, per_scan=1, **options):
    """Return a Cohort whose tumors differ in type, side and size."""
    tumors = []
    for i in range(n_scans):
        lesions = []
        for j in range(per_scan):
            kind = ("meningioma", "metastasis")[(i + j) % 2]
            x = (12, 27)[(i // 2 + j) % 2] + i % 3
            lesions.append((kind, (x, 16 + 2 * (i % 4) + 8 * (j % 2), 17), (3 + i % 2, 4, 3 + j % 2)))
        tumors += scan(f"s{i}", lesions, seed=i, **options)
    return Cohort(tumors)


def tiny(**overrides):
    """Return an embedder that trains in a second; its recipe takes what the embedder itself does not."""
    own = TumorEmbedder().get_params()
    values = TINY | overrides
    recipe = {name: values.pop(name) for name in list(values) if name not in own}
    return TumorEmbedder(**({"recipe": Recipe(**recipe)} | values))
