"""Masks from similar tumors: how well the nearest tumors' masks, laid box on box, outline a boxed tumor.

    python -m benchmarks.atlases --queries PATIENTS/manifest.csv --gallery OTHERS/manifest.csv --out OUT
    python -m benchmarks.atlases --stacks STACKS/scans.csv --out OUT

Of each query only the scan and the tumor's box are used. Its atlases are the nearest tumors of other
patients: by the embedding, by leaves of a forest that was grown on the gallery's labels, and at random. Each
atlas is scaled and shifted, axis by axis in RAS+ order, so that its box lies on the query's. Masks are fused

- by vote: tumor is where at least half of the atlases say so,
- by weighted vote: each atlas counts, voxel by voxel, with the inverse mean squared difference of intensities
  around the voxel, to a power (Artaechevarria et al. 2009),
- by weighted vote after a search: each voxel of an atlas may first move by a voxel to where it fits best.

They are compared, by Dice of voxels in the box, with the network's own mask in the box, with as many of the
box's most probable voxels as its ellipsoid has, with the mean of the mask head's probability and the weighted
vote, with the ellipsoid, and with the whole box.

Simulated queries are taken in five blocks of patients, real stacks in the folds of `benchmarks.targets`; the
gallery of a query are the other folds, and all of ``--gallery``. The model must not have seen the stacks. The
Dice of each tumor is kept in ``OUT``, and used again. Intervals redraw patients.

References: X. Artaechevarria et al., IEEE Trans Med Imaging 28, 1266-1277, 2009 (weighted vote); E. Konukoglu
et al., Medical Image Analysis 17, 2013 (forest).
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import affine_transform, gaussian_filter, uniform_filter
from sklearn.base import BaseEstimator

from benchmarks.baselines import ForestCodes, intensity_features, volume_place_features
from benchmarks.protocol import block_folds
from examples.train_pretrained import N_FOLDS, folds, real_stacks
from tumorsim import Case, Cohort, Tumor, TumorEmbedder, load_cohort
from tumorsim.geometry import crop_slices, ras_affine, ras_box, spacing_from_affine, to_ras
from tumorsim.metrics import dice

NUMBERS = (1, 3, 5, 10)
POWER = 2  # of the inverse mean squared difference
NEAR_MM = 4.0  # half a side of the patch in which intensities are compared
FEWEST = 1e-6  # added to squared differences of standardized intensities, so that none is zero
BANDS = {"up to 0.2 ml": 0.2, "0.2 to 1 ml": 1, "1 to 5 ml": 5, "above 5 ml": np.inf}
HEAD, MATCHED = "mask head", "mask head, as many voxels as the ellipsoid"
N_RESAMPLES = 2000


def main():
    """Measure simulated patients, real stacks, or both, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="t1c-v6-simulated", help="name of weights, or a model file")
    parser.add_argument("--queries", type=Path, help="manifest of simulated patients")
    parser.add_argument("--gallery", type=Path, help="manifest of further simulated patients")
    parser.add_argument("--stacks", type=Path, help="table of real stacks, from benchmarks.targets")
    parser.add_argument("--limit", type=int, help="use so many queries only, drawn at random")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.queries is None and args.stacks is None:
        parser.error("Give --queries, --stacks, or both.")
    for name in (name for name in ("queries", "stacks") if getattr(args, name) is not None):
        path = args.out / f"atlases-{name}-{Path(args.model).stem}.csv"
        if not path.exists():
            cohort, fold_of = simulated(args) if name == "queries" else stacks(args)
            embedder = TumorEmbedder.from_pretrained(args.model)
            measure(embedder, cohort, fold_of, args.limit).to_csv(path, index=False)
        table = report(pd.read_csv(path, dtype={"patient_id": str}))
        table.to_csv(path.with_suffix(".table.csv"), index=False)
        print(f"\n{name}: {args.model}\n{table.round(3).to_string(index=False)}", flush=True)


# -- who is asked, and among whom -------------------------------------------------------------------------


def simulated(args):
    """Return all simulated tumors, and their folds (n,): blocks of patients; -1 are in the gallery only."""
    asked = load_cohort(args.queries)
    patients = np.unique(asked.patient_ids, return_inverse=True)[1]
    fold_of = block_folds(np.zeros(patients.max() + 1), N_FOLDS)[patients]
    if args.gallery is None:
        return asked, fold_of
    others = apart(load_cohort(args.gallery), "gallery-")
    return Cohort([*asked, *others]), np.concatenate([fold_of, np.full(len(others), -1)])


def stacks(args):
    """Return the real stacks and their folds (n,)."""
    cohort = real_stacks(args)
    fold_of = np.zeros(len(cohort), dtype=np.int64)
    for fold, rows in enumerate(folds(cohort)):
        fold_of[rows] = fold
    return cohort, fold_of


def apart(cohort, prefix):
    """Return a cohort under ids of its own, since each simulated cohort begins with the same ones."""
    cases = {
        id(case): Case(
            case.image, case.mask, case_id=prefix + case.case_id, patient_id=prefix + case.patient_id
        )
        for case in cohort.cases
    }
    return Cohort(
        Tumor(
            cases[id(t.case)], t.bbox, tumor_id=prefix + t.tumor_id, labels=t.labels, mask_value=t.mask_value
        )
        for t in cohort
    )


def boxed(tumors):
    """Return tumors of which no more is known than their boxes: the mask of each scan is all its boxes."""
    cases = {}
    for tumor in tumors:
        case = tumor.case
        if id(case) not in cases:
            cases[id(case)] = case, np.zeros(case.shape, np.uint8)
        cases[id(case)][1][crop_slices(tumor.bbox)] = 1
    cases = {
        key: Case(case.image, (mask, case.affine), case_id=case.case_id, patient_id=case.patient_id)
        for key, (case, mask) in cases.items()
    }
    return Cohort(Tumor(cases[id(t.case)], t.bbox, tumor_id=t.tumor_id, labels=t.labels) for t in tumors)


class Known(BaseEstimator):
    """Figures of tumors that were measured before: tumor_id → figures (n_figures,)."""

    def __init__(self, figures):
        self.figures = figures

    def transform(self, tumors):
        """Return the figures of tumors (n_tumors, n_figures)."""
        return np.stack([self.figures[tumor.tumor_id] for tumor in tumors])


def nearest(points, figures, tumors, fold_of, fold, k):
    """Return the rows of a fold's queries, and way of choosing → rows of their k atlases (n_queries, k).

    Distances are those of `points` (n, n_coordinates), and of leaves of forests on `figures`, as of `Known`.
    """
    rows, others = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
    patients = tumors.patient_ids
    if set(patients[rows]) & set(patients[others]):
        raise ValueError(f"Fold {fold} and its gallery share a patient.")
    codes = np.asarray(ForestCodes(Known(figures)).fit(tumors[others]).transform(tumors))
    rng = np.random.default_rng(fold)
    chosen = {name: np.empty((len(rows), k), dtype=np.int64) for name in ("embedding", "forest", "random")}
    for i, row in enumerate(rows):
        distances = {
            "embedding": ((points[others] - points[row]) ** 2).sum(axis=1),
            "forest": (codes[others] != codes[row]).mean(axis=1),
            "random": rng.random(len(others)),
        }
        for name, values in distances.items():
            chosen[name][i] = others[first_of_patients(values, patients[others], k)]
    return rows, chosen


def first_of_patients(distances, patients, k):
    """Return the k nearest, by `distances` (n,), one per patient.

    Examples
    --------
    >>> first_of_patients(np.array([0.3, 0.1, 0.2]), np.array(["a", "b", "b"]), 2).tolist()
    [1, 0]
    """
    order = np.argsort(distances, kind="stable")
    firsts = np.sort(np.unique(patients[order], return_index=True)[1])[:k]
    return order[firsts]


# -- masks laid box on box --------------------------------------------------------------------------------


def cut(tumor, image, mask):
    """Return image, mask and box (2, 3) of a tumor and its surroundings, in RAS+ order, and the spacing.

    The mask (x, y, z) float32 holds this tumor only.
    """
    affine = tumor.case.affine
    inside = np.zeros(image.shape, np.float32)
    inside[crop_slices(tumor.bbox)] = tumor.select(mask)
    image, inside = (to_ras(array, affine) for array in (np.asarray(image, np.float32), inside))
    spacing = spacing_from_affine(ras_affine(tumor.case.shape, affine)[1])
    box = ras_box(tumor.bbox, tumor.case.shape, affine)
    margin = (box[1] - box[0]) // 2 + reach(spacing) + 2
    wide = np.stack([np.maximum(box[0] - margin, 0), np.minimum(box[1] + margin, image.shape)])
    part = crop_slices(wide)
    return image[part].copy(), inside[part].copy(), box - wide[0], spacing


def reach(spacing):
    """Return how many voxels per axis (3,) a patch goes out from its center."""
    return np.rint(NEAR_MM / spacing).astype(np.int64)


def lay(array, box, shape, margin):
    """Return voxels of `array` (x, y, z), of which `box` is scaled to `shape`, `margin` (3,) voxels around.

    Linear between voxels, and smoothed first where it becomes coarser.
    """
    shape, margin = np.asarray(shape), np.asarray(margin)
    scale = (box[1] - box[0]) / shape
    smooth = gaussian_filter(array, np.maximum(scale - 1, 0) / 2, mode="nearest")
    start = box[0] + scale / 2 - 0.5 - margin * scale
    size = tuple(int(n) for n in shape + 2 * margin)
    return affine_transform(smooth, scale, start, size, order=1, mode="nearest")


def standardized(image):
    """Return intensities of mean 0 and standard deviation 1."""
    return (image - image.mean()) / max(float(image.std()), 1e-9)


def differences(query, atlas, radius):
    """Return the mean squared difference of patches around each voxel, `radius` (3,) less on each side."""
    found = uniform_filter((query - atlas) ** 2, tuple(2 * radius + 1), mode="nearest")
    return np.maximum(inner(found, radius), 0)


def inner(array, margin):
    """Return an array (x, y, z) without `margin` (3,) voxels on each side."""
    return array[tuple(slice(int(m), n - int(m)) for m, n in zip(margin, array.shape, strict=True))]


def candidates(query, atlases, *, search=0):
    """Return masks in the query's box, of each atlas (k, x, y, z), from 0 to 1, and their differences.

    `query` and `atlases` are as of `cut`. With `search` each voxel of an atlas may come from so many voxels
    aside, where the patch around it fits best.
    """
    image, _, box, spacing = query
    shape, radius = box[1] - box[0], reach(spacing)
    target = standardized(lay(image, box, shape, radius))
    masks, errors = [], []
    for picture, mask, frame, _ in atlases:
        around = standardized(lay(picture, frame, shape, radius + search))
        around_mask = lay(mask, frame, shape, np.full(3, search))
        best, best_mask = np.inf, 0.0
        for step in product(range(-search, search + 1), repeat=3):
            moved = _shifted(around, search, step)
            error, laid = differences(target, moved, radius), _shifted(around_mask, search, step)
            better = error < best
            best, best_mask = np.where(better, error, best), np.where(better, laid, best_mask)
        masks.append(best_mask)
        errors.append(best)
    return np.stack(masks), np.stack(errors)


def vote(masks):
    """Return the share of `masks` (k, x, y, z), 0 to 1, that say tumor."""
    return masks.mean(axis=0)


def weighted_vote(masks, errors):
    """Return the share of masks (k, x, y, z) that say tumor, weighted by inverse `errors` to a power."""
    weights = (errors + FEWEST) ** -float(POWER)
    return (weights * masks).sum(axis=0) / weights.sum(axis=0)


def ellipsoid(shape):
    """Return the ellipsoid inside a box of `shape`, bool.

    Examples
    --------
    >>> ellipsoid((3, 3, 1))[:, :, 0].astype(int).tolist()
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    """
    axes = [(2 * np.arange(n) + 1) / n - 1 for n in shape]
    return sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")) <= 1


def most_probable(probability, n):
    """Return the `n` voxels of an array that are most probable, bool."""
    found = np.zeros(probability.size, dtype=bool)
    found[np.argsort(-probability.ravel(), kind="stable")[:n]] = True
    return found.reshape(probability.shape)


# -- scores -----------------------------------------------------------------------------------------------


def measure(embedder, tumors, fold_of, limit=None):
    """Return Dice of each query by each method, a row each."""
    held, known, rows = crops(tumors), boxed(tumors), []
    points = embedder.space_.coordinates(embedder.transform(known))
    figures = np.hstack([volume_place_features(known), intensity_features(known)])
    figures = dict(zip((t.tumor_id for t in known), figures, strict=True))
    asked = np.flatnonzero(fold_of >= 0)
    if limit is not None:
        asked = np.random.default_rng(0).permutation(asked)[:limit]
    heads = head_in_boxes(embedder, tumors, asked)
    for fold in range(N_FOLDS):
        queries, chosen = nearest(points, figures, known, fold_of, fold, max(NUMBERS))
        for i in np.flatnonzero(np.isin(queries, asked)):
            row = queries[i]
            tumor = tumors[row]
            about = {"tumor_id": tumor.tumor_id, "patient_id": tumor.patient_id}
            about |= {"type": tumor.labels.get("type"), "ml": volume_ml(held[row])}
            atlases = {name: [held[j] for j in of[i]] for name, of in chosen.items()}
            rows += [about | found for found in scores(held[row], atlases, heads[row])]
    return pd.DataFrame(rows)


def crops(tumors):
    """Return what `cut` makes of each tumor."""
    found = {}
    for case in tumors.cases:
        image, mask = case.load_image(), case.load_mask()
        found |= {row: cut(t, image, mask) for row, t in enumerate(tumors) if t.case is case}
    return found


def volume_ml(crop):
    """Return the volume of a tumor that `cut` cut out."""
    return float(crop[1].sum() * crop[3].prod() / 1000)


def head_in_boxes(embedder, tumors, rows):
    """Return row → the mask head's probabilities in the box of that tumor, in RAS+ order."""
    found, rows = {}, set(rows.tolist())
    for case in tumors.cases:
        members = [row for row, tumor in enumerate(tumors) if tumor.case is case and row in rows]
        if members:
            probability = to_ras(embedder.segment(case, threshold=None), case.affine)
            boxes = (ras_box(tumors[row].bbox, case.shape, case.affine) for row in members)
            found |= {
                row: probability[crop_slices(box)].copy() for row, box in zip(members, boxes, strict=True)
            }
    return found


def scores(query, atlases, head):
    """Yield a row (method, atlases, k, dice) of each way to a mask; `head` (x, y, z) are probabilities."""
    truth = query[1][crop_slices(query[2])] > 0.5
    round_one = ellipsoid(truth.shape)
    plain = {"box": np.ones(truth.shape, bool), "ellipsoid": round_one, HEAD: head >= 0.5}
    plain[MATCHED] = most_probable(head, int(round_one.sum()))
    for name, mask in plain.items():
        yield {"method": name, "dice": dice(mask, truth)}
    for chosen, crops_of in atlases.items():
        masks, errors = candidates(query, crops_of)
        searched = candidates(query, crops_of, search=1) if chosen == "embedding" else None
        for k in NUMBERS:
            found = {"vote": vote(masks[:k]), "weighted vote": weighted_vote(masks[:k], errors[:k])}
            if searched is not None:
                found["weighted vote, search"] = weighted_vote(*(array[:k] for array in searched))
                found["weighted vote and mask head, mean"] = (found["weighted vote"] + head) / 2
            for method, share in found.items():
                yield {"method": method, "atlases": chosen, "k": k, "dice": dice(share >= 0.5, truth)}


def report(table):
    """Return medians and mean differences, of all tumors, of gliomas and by volume."""
    table = table.assign(atlases=table["atlases"].fillna(""), k=table["k"].fillna(0).astype(int))
    about = table.drop_duplicates("tumor_id").set_index("tumor_id")
    wide = table.pivot(index="tumor_id", columns=["method", "atlases", "k"], values="dice").loc[about.index]
    lows = [0, *list(BANDS.values())[:-1]]
    groups = {"all": np.ones(len(about), bool), "gliomas": (about["type"] == "glioma").to_numpy()}
    ml = about["ml"].to_numpy()
    groups |= {name: (ml > low) & (ml <= high) for low, (name, high) in zip(lows, BANDS.items(), strict=True)}
    parts = [
        summary(wide[rows], about["patient_id"].to_numpy()[rows]).assign(tumors=name)
        for name, rows in groups.items()
        if rows.any()
    ]
    found = pd.concat(parts, ignore_index=True)
    return found[["tumors", *(name for name in found if name != "tumors")]]


def summary(wide, patients):
    """Return a row per method: median Dice, mean differences to mask head and ellipsoid, with 95 % intervals.

    `wide` has a row per tumor and a column per method, `patients` (n_tumors,) whose it is.
    """
    values = wide.to_numpy(float)
    plain = {name: values[:, [wide.columns.get_loc((name, "", 0))]] for name in (HEAD, "ellipsoid")}
    rng, members = np.random.default_rng(0), [np.flatnonzero(patients == p) for p in np.unique(patients)]
    drawn = [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for _ in range(N_RESAMPLES)
    ]
    found = wide.columns.to_frame(index=False)
    found["n"], found["patients"] = len(values), len(members)
    middle = np.median(values, axis=0), np.array([np.median(values[rows], axis=0) for rows in drawn])
    columns = {"median": middle}
    for name, base in plain.items():
        gain = values - base
        columns[f"over {name}"] = gain.mean(axis=0), np.array([gain[rows].mean(axis=0) for rows in drawn])
    for name, (value, redrawn) in columns.items():
        low, high = np.percentile(redrawn, (2.5, 97.5), axis=0)
        found[name], found[f"{name}, low"], found[f"{name}, high"] = value, low, high
    return found.sort_values(["atlases", "method", "k"], ignore_index=True)


def _shifted(array, search, step):
    """Return an array (x, y, z) without `search` voxels on each side, moved by `step`."""
    return array[tuple(slice(search + s, n - search + s) for s, n in zip(step, array.shape, strict=True))]


if __name__ == "__main__":
    main()
