"""Real tumors in simulated heads: training patients that keep a tumor's looks and forget its head and place.

    python -m benchmarks.pasting --stacks STACKS/scans.csv --heads HEADS --out PASTED

Each patient is a tumor of a real stack (CarveMix, Zhang 2021; TumorCP, Yang 2021), cut out with a margin,
turned, scaled, mirrored and feathered into a simulated head without a tumor, at a place where the simulator
puts tumors of that type. Type, mask and place are known and true; field, noise, slices and skull are the
simulator's. ``manifest.csv`` names the stack that a tumor is from (column ``source``): leave out patients
whose source is held out. `examples.train_pretrained` does so, told ``--pasted PASTED/manifest.csv``.
"""

import argparse
from pathlib import Path

import numpy as np

from examples.train_pretrained import real_stacks, training_heads
from tumorsim import Case, Cohort, Tumor
from tumorsim.anatomy import place_labels
from tumorsim.geometry import bbox_from_mask
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.preprocessing import Preprocessing
from tumorsim.simulation import (
    TEMPLATE,
    TYPES,
    draw_intensities,
    draw_scan,
    load_head,
    load_label_head,
    to_scanner,
)

SEED = 660_000
MARGIN = 6.0  # mm around a tumor that come with it, fading out
SPACING = 1.0  # mm, of the cut
SCALE = 1.4  # a tumor's diameter is changed by up to this factor
LEAST, MOST = 0.1, 120.0  # ml
TRIES = 40


def main():
    """Write the pasted patients."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stacks", type=Path, required=True)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-patients", type=int, default=400)
    args = parser.parse_args()
    if (args.out / "manifest.csv").exists():
        return
    args.out.mkdir(parents=True, exist_ok=True)
    lesions = [cut_out(tumor) for tumor in real_stacks(args)]
    tumors = []
    for i in range(args.n_patients):
        heads = training_heads(args.heads)
        rng = np.random.default_rng((SEED, i))
        name = heads[rng.integers(len(heads))]
        head = load_head() if name == TEMPLATE else load_label_head(str(name))
        found = None
        while found is None:
            found = paste(rng, lesions[rng.integers(len(lesions))], draw_scan(rng, 2.0, head))
        tumors.append(written(args.out, f"pasted-{i + 1:05d}", *found))
    save_manifest(Cohort(tumors), args.out / "manifest.csv")
    print(f"{len(tumors)} patients in '{args.out}'")


class Lesion:
    """A real tumor with its surroundings, white matter being 1, on a grid of `SPACING` mm."""

    def __init__(self, tumor, image, depth):
        self.source, self.type = tumor.case.case_id, tumor.labels["type"]
        self.image, self.depth = image, depth  # (x, y, z); mm under the tumor's surface, negative outside
        inside = np.argwhere(depth > 0)
        self.center = inside.mean(axis=0)  # voxels
        self.ml = len(inside) * SPACING**3 / 1000


def cut_out(tumor):
    """Return the `Lesion` of a tumor."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    case = tumor.case
    mask = np.zeros(case.shape, bool)
    mask[tuple(slice(*ends) for ends in tumor.bbox.T)] = tumor.load_mask()
    volume = Preprocessing(SPACING).prepare_case(case, mask=mask)
    inside = volume.mask > 127
    inside = (
        gaussian_filter(np.pad(inside.astype(np.float32), int(MARGIN + 2)), 1.0) > 0.5
    )  # rounds its steps
    image = np.pad(volume.image.astype(np.float32), int(MARGIN + 2), mode="edge")
    box = bbox_from_mask(inside) + np.array([[-1], [1]]) * int(MARGIN + 2)
    cut = tuple(slice(max(low, 0), high) for low, high in box.T)
    depth = distance_transform_edt(inside[cut]) - distance_transform_edt(~inside[cut])
    return Lesion(tumor, image[cut], (depth * SPACING).astype(np.float32))


def paste(rng, lesion, scan):
    """Return image, affine, mask, MNI mm of the centroid and the lesion; None where it does not fit."""
    signal = draw_intensities(rng, scan, [], [])
    for _ in range(TRIES):
        site = TYPES[lesion.type].place(rng, scan.head).point
        turn = random_turn(rng)
        scale = np.exp(rng.uniform(-1, 1) * np.log(SCALE))
        if not LEAST < lesion.ml * scale**3 < MOST:
            continue
        reach = np.float32(scale * SPACING * np.linalg.norm(lesion.image.shape) / 2)
        near = np.flatnonzero((np.abs(scan.points - np.float32(site)) < reach).all(axis=1))
        offset = (scan.points[near] - np.float32(site)) @ np.float32(turn) / np.float32(scale * SPACING)
        image, depth = (sampled(a, offset + np.float32(lesion.center)) for a in (lesion.image, lesion.depth))
        depth *= scale
        distance, inside = scan.distance[near], depth > 0
        n = lesion.ml * 1000 * scale**3
        if inside.sum() == 0 or (distance[inside] > 1).mean() > share_outside(lesion.type):
            continue  # out of the brain, where this type does not grow
        values = np.zeros(len(signal), np.float32)
        values[near] = inside
        mask = scan.gather(values) >= 0.5
        if not whole(mask) or not 0.5 < mask.sum() * scan.spacing.prod() / n < 2:
            continue
        feather = np.clip(1 + depth / np.float32(MARGIN), 0, 1)
        feather *= (distance < (2 if scan.whole_head else 0)) | inside  # the margin goes into brain only
        signal[near] += (image - signal[near]) * feather
        center = scan.points[near][inside].mean(axis=0, dtype=np.float64)
        return to_scanner(rng, scan, signal), scan, mask, center, lesion
    return None


def random_turn(rng):
    """Draw a rotation, mirrored in half of all draws, (3, 3)."""
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return turn @ np.diag((np.linalg.det(turn) * (-1 if rng.random() < 0.5 else 1), 1, 1))


def share_outside(name):
    """Return which share of a tumor of this type may lie outside the brain's surface."""
    return 0.9 if name == "pituitary_adenoma" else 0.4 if name in ("meningioma", "schwannoma") else 0.05


def sampled(array, voxels):
    """Return `array` at `voxels` (n, 3), linearly; beyond it, its least value."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(array, voxels.T, order=1, mode="constant", cval=float(array.min()))


def whole(mask):
    """Return whether a mask is one piece that does not touch the border of the view."""
    from scipy.ndimage import label

    if not mask.any() or label(mask, np.ones((3, 3, 3)))[1] > 1:
        return False
    box = bbox_from_mask(mask)
    return bool((box[0] > 0).all() and (box[1] < mask.shape).all())


def written(folder, case_id, image, scan, mask, center, lesion):
    """Write a patient's image and mask; returns the `Tumor`."""
    files = [folder / f"{case_id}_{kind}.nii.gz" for kind in ("t1c", "mask")]
    save_nifti(files[0], image, scan.affine)
    save_nifti(files[1], mask.astype(np.uint8), scan.affine)
    case = Case(*(str(file) for file in files), case_id=case_id, patient_id=case_id)
    place = {f"mni_{axis}_mm": round(float(mm), 1) for axis, mm in zip("xyz", center, strict=True)}
    notes = {"dataset": "pasted", "source": lesion.source, "anatomy": scan.head.name} | place
    labels = {"type": lesion.type} | place_labels(center)
    return Tumor(
        case, bbox_from_mask(mask), tumor_id=f"{case_id}/1", labels=labels, mask_value=1, metadata=notes
    )


if __name__ == "__main__":
    main()
