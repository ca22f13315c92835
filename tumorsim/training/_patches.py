"""Seeded sampling of training patches: a patch holds a whole tumor, and labels follow what is done to it."""

import re
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional

from tumorsim.nn import to_device
from tumorsim.preprocessing import Volume, resample
from tumorsim.training._targets import MISSING

SIDES = re.compile(r"(?<![^\W\d_])(left|right)(?![^\W\d_])", re.IGNORECASE)  # what a left-right flip swaps
MIRRORED = {"left": "right", "right": "left"}
MIRRORED |= {case(a): case(b) for a, b in MIRRORED.items() for case in (str.title, str.upper)}


TENSORS = ("image", "mask", "mask_known", "labels")  # of a `Batch`


@dataclass(frozen=True)
class TrainingCase:
    """A prepared scan with its tumors."""

    volume: Volume
    boxes: np.ndarray  # int64 (n, 2, 3), in voxels of the volume
    labels: np.ndarray  # int64 (n, n_tasks): class numbers, -1 where missing
    case_id: str
    patient_id: str
    dataset: str = "unnamed"


@dataclass(frozen=True)
class Batch:
    """What one training step reads: tensors, and the ids of the scans they came from."""

    image: torch.Tensor  # (n, 1, x, y, z)
    mask: torch.Tensor  # (n, 1, x, y, z): share of tumor, 0 to 1; zeros where unknown
    mask_known: torch.Tensor  # bool (n,)
    boxes: np.ndarray  # int64 (m, 2, 3)
    index: np.ndarray  # int64 (m,): element of the batch of each box
    labels: torch.Tensor  # int64 (m, n_tasks)
    case_ids: tuple

    def to(self, device):
        """Return the batch on `device`."""
        moved = {name: to_device(getattr(self, name), device) for name in TENSORS}
        return replace(self, **moved)


class PatchSampler:
    """Draw batches that depend on the seed and their number only, so a resumed run draws the same ones.

    A patient is drawn first, then one of the patient's tumors, so that each patient weighs the same; with
    `balance_datasets` data sets take turns. The patch lies at random, and holds the tumor or as much of it as
    fits; other whole tumors count too. Parameters are those of `Recipe`; each of `n_shares` equal parts of a
    batch can be made by itself.
    """

    def __init__(
        self, cases, classes, *, patch_shape, batch_size, augment, box_jitter, random_state,
        balance_datasets=False, n_shares=1,
    ):  # fmt: skip
        self.cases = list(cases)
        self.patch_shape = np.array(patch_shape, dtype=np.int64)
        self.batch_size, self.n_shares = batch_size, n_shares
        self.augment, self.box_jitter, self.random_state = augment, box_jitter, random_state
        self._mirrors = [_mirror_table(names) for names in classes.values()]
        pools = {}  # data set → patient → numbers of case and tumor
        for number, case in enumerate(self.cases):
            pool = pools.setdefault(case.dataset if balance_datasets else "", {})
            for tumor in range(len(case.boxes)):
                pool.setdefault(case.patient_id, []).append((number, tumor))
        self._pools = [[pools[name][patient] for patient in sorted(pools[name])] for name in sorted(pools)]

    def batch(self, number, share=0):
        """Return one of the shares of batch `number` of the run as a `Batch`."""
        rng = np.random.default_rng((self.random_state, number))
        images, masks, known, boxes, index, labels, ids = [], [], [], [], [], [], []
        size = self.batch_size // self.n_shares
        for element in range(-share * size, size):  # below 0 those of other shares: drawn, but not made
            place = (number * self.n_shares + share) * size + element
            pool = self._pools[place % len(self._pools)]
            choices = pool[rng.integers(len(pool))]
            case_number, tumor = choices[rng.integers(len(choices))]
            case = self.cases[case_number]
            make, case_boxes, case_labels = self._draw(case, tumor, rng)
            if element < 0:
                continue
            image, mask = make()
            images.append(image)
            known.append(mask is not None)
            masks.append(torch.zeros_like(image) if mask is None else mask)
            boxes.append(case_boxes)
            index.append(np.full(len(case_boxes), element))
            labels.append(case_labels)
            ids.append(case.case_id)
        return Batch(
            torch.stack(images)[:, None], torch.stack(masks)[:, None], torch.tensor(known),
            np.concatenate(boxes), np.concatenate(index), torch.from_numpy(np.concatenate(labels)),
            tuple(ids),
        )  # fmt: skip

    def _draw(self, case, tumor, rng):
        """Draw a patch: what makes its image and mask (x, y, z), boxes (m, 2, 3), labels (m, n_tasks)."""
        turn, mirror = _random_turn(rng, case.volume.spacing) if self.augment else (np.eye(3), False)
        boxes = _turned(case.boxes, turn)  # (n, 2, 3), real numbers, relative to the turned origin
        ends = np.meshgrid(*[(0, n) for n in case.volume.image.shape], indexing="ij")
        ends = np.reshape(ends, (3, -1)).T @ np.linalg.inv(turn).T
        view = np.stack([ends.min(axis=0), ends.max(axis=0)])  # the box of the whole scan
        corner = _place(boxes[tumor], view, self.patch_shape, rng)
        boxes = boxes - corner
        half_voxel = 0.5  # boxes of a turned case have broken edges; half a voxel outside is still inside
        whole = ((boxes[:, 0] >= -half_voxel) & (boxes[:, 1] <= self.patch_shape + half_voxel)).all(axis=1)
        whole[tumor] = True
        start, stop = self._jitter(boxes[whole], rng).swapaxes(0, 1)
        start = np.clip(np.floor(start + 0.25), 0, self.patch_shape - 1)  # a quarter: no growth by rounding
        stop = np.clip(np.ceil(stop - 0.25), start + 1, self.patch_shape)
        boxes = np.stack([start, stop], axis=1).astype(np.int64)
        labels = case.labels[whole].copy()
        if mirror:
            for task, table in enumerate(self._mirrors):
                if table is not None:
                    labels[:, task] = np.where(labels[:, task] == MISSING, MISSING, table[labels[:, task]])
        look = _draw_look(self.patch_shape, boxes, rng) if self.augment else ()
        return partial(self._make, case.volume, turn, corner, look), boxes, labels

    def _make(self, volume, turn, corner, look):
        """Return image and mask (x, y, z) of a patch that was drawn, the mask None where it is unknown."""
        arrays = [array for array in (volume.image, volume.mask) if array is not None]
        image, *masks = _cut(arrays, turn, corner, self.patch_shape)  # (x, y, z) each
        mask = masks[0] / 255 if masks else None
        for change in look:
            image, mask = change(image, mask)
        return image, mask

    def _jitter(self, boxes, rng):
        """Stretch and shift boxes (m, 2, 3) at random."""
        if not self.box_jitter or not len(boxes):
            return boxes
        side = boxes[:, 1] - boxes[:, 0]
        center = boxes.mean(axis=1) + side * rng.uniform(-self.box_jitter, self.box_jitter, side.shape) / 2
        side = side * rng.uniform(1 - self.box_jitter, 1 + self.box_jitter, side.shape)
        return np.stack([center - side / 2, center + side / 2], axis=1)


def _mirror_table(names):
    """Return what each class becomes if left and right swap (-1: none), or None for a task without sides."""
    sides = [SIDES.sub(lambda found: MIRRORED.get(found[0], found[0]), name) for name in names]
    if sides == list(names):
        return None
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers.get(name, MISSING) for name in sides])


def _random_turn(rng, spacing):
    """Return a matrix (3, 3) from patch to scan voxels, and whether it mirrors left and right."""
    turn = np.eye(3)
    if rng.random() < 0.5:  # the other half keeps its voxels unblurred
        turn = Rotation.from_euler("xyz", rng.uniform(-15, 15, 3), degrees=True).as_matrix()
        turn = turn * np.divide.outer(spacing, spacing).T @ np.diag(rng.uniform(0.9, 1.1, 3))  # turned in mm
    mirror = bool(rng.integers(2))
    return (turn @ np.diag([-1.0, 1.0, 1.0]) if mirror else turn), mirror


def _turned(boxes, turn):
    """Return the boxes (n, 2, 3) of the ellipsoids inside `boxes`, in coordinates of the patch."""
    back = np.linalg.inv(turn)
    center = boxes.mean(axis=1) @ back.T
    half = (boxes[:, 1] - boxes[:, 0]) / 2
    half = np.sqrt((half**2) @ (back**2).T)
    return np.stack([center - half, center + half], axis=1)


def _place(box, view, patch_shape, rng):
    """Return the corner (3,) of a patch that holds `box`, or as much as fits, inside `view` where it can.

    A network that is used on whole scans must not learn from half-empty patches.
    """
    hold = np.sort(np.stack([np.ceil(box[1]) - patch_shape, np.floor(box[0])]), axis=0)
    stay = np.sort(np.stack([view[1] - patch_shape, view[0]]), axis=0)
    low = np.maximum(hold[0], np.floor(stay[0])).astype(np.int64)
    high = np.minimum(hold[1], np.ceil(stay[1])).astype(np.int64)
    return rng.integers(low, np.maximum(low, high) + 1).astype(np.float64)


def _cut(arrays, turn, corner, patch_shape):
    """Return patches (n_arrays, x, y, z): voxel i is ``turn @ (corner + i + 1/2) - 1/2`` of the arrays."""
    patch_shape = np.asarray(patch_shape)
    if np.array_equal(np.abs(turn), np.eye(3)):  # at most mirrored: no interpolation
        mirrored = np.flatnonzero(np.diag(turn) < 0).tolist()
        low = np.where(np.diag(turn) < 0, -(corner + patch_shape), corner).astype(np.int64)
        patch = torch.stack([_crop(array, low, low + patch_shape) for array in arrays])
        return patch.flip([1 + axis for axis in mirrored])
    ends = np.array(np.meshgrid(*[(0.5, n - 0.5) for n in patch_shape], indexing="ij")).reshape(3, -1).T
    ends = (corner + ends) @ turn.T - 0.5
    low = np.floor(ends.min(axis=0)).astype(np.int64) - 1
    high = np.ceil(ends.max(axis=0)).astype(np.int64) + 2
    low, high = np.maximum(low, -1), np.minimum(high, np.array(arrays[0].shape) + 1)
    high = np.maximum(high, low + 2)
    source = torch.stack([_crop(array, low, high) for array in arrays])
    # edges of each array are -1 and 1 for torch, which also names the last axis first: hence the reversals
    size, source_size = patch_shape.astype(np.float64), (high - low).astype(np.float64)
    linear = turn * size[None] / source_size[:, None]
    center = (turn @ (corner + size / 2) - low) / source_size * 2 - 1
    theta = np.concatenate([linear[::-1, ::-1], center[::-1, None]], axis=1)
    theta = torch.from_numpy(theta.astype(np.float32))
    grid = functional.affine_grid(theta[None], (1, 1, *patch_shape.tolist()), align_corners=False)
    return functional.grid_sample(source[None], grid, align_corners=False)[0]


def _crop(array, low, high):
    """Return array[low:high] as a float32 tensor, zeros where that leaves the array."""
    inside_low = np.clip(low, 0, array.shape)
    inside_high = np.clip(high, inside_low, array.shape)
    result = torch.zeros(tuple(int(n) for n in high - low))
    if (inside_high > inside_low).all():
        source = tuple(slice(a, b) for a, b in zip(inside_low, inside_high, strict=True))
        target = tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))
        result[target] = torch.from_numpy(np.asarray(array[source], dtype=np.float32))
    return result


def _draw_look(shape, boxes, rng):
    """Draw how another scanner might show a patch: functions of image and mask (x, y, z), in order."""
    look = []
    if rng.random() < 0.3:
        thickness, axis = int(rng.integers(2, 5)), int(rng.integers(3))
        look.append(_of_image(_thick_slices, thickness, axis, int(rng.integers(thickness))))
    if rng.random() < 0.2:
        shown = _draw_view(shape, boxes, rng)
        look.append(lambda image, mask: (image * shown, None if mask is None else mask * shown))
    if rng.random() < 0.3:
        coarse = rng.normal(0, rng.uniform(0.02, 0.12), (1, 1, 4, 4, 4)).astype(np.float32)
        look.append(_of_image(_biased, coarse))
    if rng.random() < 0.2:
        look.append(_of_image(_blurred, float(rng.uniform(0.4, 1.0))))
    if rng.random() < 0.5:
        gamma = float(rng.uniform(0.8, 1.25))
        look.append(_of_image(lambda image: image.clamp(min=0) ** gamma))
    if rng.random() < 0.5:
        look.append(_of_image(_noisy, rng.integers(2**63), float(rng.uniform(0, 0.06))))
    factor = float(rng.uniform(0.8, 1.2))
    return [*look, _of_image(lambda image: image * factor)]


def _of_image(change, *drawn):
    """Return a function of image and mask that changes the image by ``change(image, *drawn)``."""
    return lambda image, mask: (change(image, *drawn), mask)


def _noisy(image, seed, spread):
    """Return `image` (x, y, z) with noise where it shows something."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return image + spread * torch.from_numpy(noise) * (image > 0.02)


def _biased(image, coarse):
    """Return `image` (x, y, z) times a factor that varies slowly, as a coil's field does."""
    coarse = torch.from_numpy(coarse)
    field = functional.interpolate(coarse, size=tuple(image.shape), mode="trilinear", align_corners=True)
    return image * field[0, 0].exp()


def _blurred(image, sigma):
    """Return `image` (x, y, z) under a Gaussian of `sigma` voxels, cut at two voxels."""
    weights = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma) ** 2)
    weights = weights / weights.sum()
    image = image[None, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = 5, 2
        image = functional.conv3d(image, weights.reshape(shape), padding=padding)
    return image[0, 0]


def _thick_slices(image, thickness, axis, shift):
    """Average runs of `thickness` voxels along `axis`, from `shift` on, and interpolate them back."""
    shape = list(image.shape)
    rolled = torch.roll(image, shift, axis)
    few = shape.copy()
    few[axis] = -(-shape[axis] // thickness)
    ratio = np.ones(3)
    ratio[axis] = thickness
    thick = resample(rolled.numpy(), np.ones(3), ratio, few)
    return torch.roll(torch.from_numpy(resample(thick, ratio, np.ones(3), shape)), -shift, axis)


def _draw_view(shape, boxes, rng):
    """Draw a slab that holds every box, as in a scan of few slices: 1 inside, 0 beyond, one axis long."""
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    low = int(rng.integers(0, boxes[:, 0, axis].min() + 1))
    high = int(rng.integers(boxes[:, 1, axis].max(), shape[axis] + 1))
    shown = torch.zeros([int(n) if a == axis else 1 for a, n in enumerate(shape)])
    shown.narrow(axis, low, high - low).fill_(1)
    return shown
