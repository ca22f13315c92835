"""What the next weights have to reach, measured on the weights of today: looks, masks, slices.

    python -m benchmarks.targets --model t1c-v6 --heads HEADS --stacks STACKS/scans.csv --met MET --out OUT

``--model`` is a name of shipped weights or a model file. Each part prints its table, and writes it as CSV
into ``OUT``; simulated patients are kept there and used again:

1. rings: one ring-enhancing tumor per patient, metastasis or glioma, in pairs of equal volume: type by 5
   neighbors of the embedding, by the network's own head, and by exact place and volume,
2. masks: each simulated tumor's share of voxels found, by volume; Dice of scans,
3. empty: what is marked in simulated heads without a tumor,
4. shape: how well neighbors agree in volume, sphericity and elongation (Spearman), 5 neighbors,
5. met: the type of a real metastasis that nobody trained on, by the box of its automatic mask,
6. slices: mean average precision and precision@10 of real stacks, and of their slices one by one, as
   published for the same slices (Cheng 2016: 94.7 % and 93 %). ``--run`` holds ``fold-0.safetensors`` …, each
   trained without a fifth of the stacks; without it the network must not have seen the stacks,
7. reach: the type of the patients of part 4 as learned from the simulated patients in ``--train``: by a
   forest on exact place, volume, shape, ring and brightness, by a linear model on the network's features, and
   by one on the features with volume, shape and brightness, each also with the number of tumors in the scan,
   and by the network's own head, alone and as the mean over the tumors of a scan.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.baselines import intensity_features
from benchmarks.pretrained import (
    N_FEWEST_PAIRS,
    N_RESAMPLES,
    compare,
    interval,
    is_ring,
    matched_in_volume,
    quartiles,
    test_cohort,
    told,
)
from examples.train_pretrained import N_FOLDS, N_TEST_HEADS, folds, real_stacks, renamed
from tumorsim import Case, Cohort, Tumor, TumorEmbedder, evaluate_knn, load_cohort
from tumorsim.geometry import bbox_from_mask, crop_slices, ras_permutation
from tumorsim.metrics import average_precision, dice, precision_at_k
from tumorsim.simulation import draw_intensities, draw_scan, load_head, load_label_head, to_scanner

PARTS = ("rings", "masks", "empty", "shape", "met", "slices", "reach")
UNITS = ("stack", "slice")
SEED = 880_000
REACH = (
    "place + volume",
    "place + volume + shape + ring",
    "place + volume + shape + ring + brightness",
    "place + volume + shape + ring + brightness + number",
    "features",
    "features + number",
    "features + volume + shape + brightness",
    "features + volume + shape + brightness + number",
)  # what the models of part 7 are told
SIZES = [0, 0.2, 1, 5, 15, 1000]  # ml
N_EMPTY = 40
N_NEAREST = 10
MET = "BraTS-MET-00110-000"
FOUND = 0.1  # share of a tumor's voxels from which it is found
SMALLEST = 20.0  # mm3; smaller pieces of a proposed mask count as nothing


def main():
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="t1c-v6")
    parser.add_argument("--heads", type=Path)
    parser.add_argument("--stacks", type=Path)
    parser.add_argument("--met", type=Path, help=f"folder of {MET}-t1c.nii.gz and its mask")
    parser.add_argument("--run", type=Path, help="folder of fold-0.safetensors and so on, for part 6")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=Path, help="folder of folders of simulated patients, for part 7")
    parser.add_argument("--units", nargs="+", default=UNITS, choices=UNITS, help="of part 6")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        found = globals()[part](args)
        found.to_csv(args.out / f"{part}-{Path(args.model).stem}.csv", index=False)
        print(f"\n{part}: {args.model}\n{found.round(2).to_string(index=False)}", flush=True)


def load(args):
    """Return the embedder under test."""
    return TumorEmbedder.from_pretrained(args.model)


# -- simulated patients -----------------------------------------------------------------------------------


def rings(args):
    """Return scores of type among solitary rings, all and in pairs of equal volume."""
    cohort, embedder = test_cohort(args, "rings", 400, SEED, ["glioma", "metastasis"]), load(args)
    table = cohort.table
    chosen = is_ring(table) & ~table["case_id"].duplicated(keep=False).to_numpy()
    rows = []
    for name, rows_in in {
        "solitary ring": chosen,
        "pairs of equal volume": matched_in_volume(table, chosen, ratio=1.3),
    }.items():
        if rows_in.sum() < 2 * N_FEWEST_PAIRS:
            print(f"{name}: {rows_in.sum()} tumors are too few")
            continue
        rows += compare(name, embedder, cohort, rows_in)
        rows.append(own_head(name, embedder, cohort[np.flatnonzero(rows_in)]))
    return pd.DataFrame(rows)


def own_head(name, embedder, cohort):
    """Return a row of the network's own choice between glioma and metastasis."""
    truth = cohort.labels["type"].to_numpy(dtype=str)
    said = embedder.predict_proba(cohort)["type"]
    predicted = np.where(said["glioma"] > said["metastasis"], "glioma", "metastasis")
    value = balanced_accuracy_score(truth, predicted)
    low, high = interval(truth, predicted, cohort.patient_ids)
    row = {"case": name, "method": "own head, glioma against metastasis", "balanced_accuracy": value}
    return row | {"low": low, "high": high, "n": f"{len(truth)} of {len(truth)} patients"}


def masks(args):
    """Return, by volume of the tumor, the share that is found and the overlap."""
    cohort, embedder = test_cohort(args, "patients", 200, SEED + 1), load(args)
    rows = []
    for case in cohort.cases:
        proposed, mask = embedder.segment(case) > 0, case.load_mask()
        overlap = dice(proposed, mask > 0)
        for tumor in (t for t in cohort if t.case is case):
            inside = mask == int(tumor.mask_value)
            ml = inside.sum() * case.spacing.prod() / 1000
            rows.append([case.case_id, tumor.labels["type"], ml, proposed[inside].mean(), overlap])
    table = pd.DataFrame(rows, columns=["case_id", "type", "ml", "found", "dice"])
    table.to_csv(args.out / f"tumors-{Path(args.model).stem}.csv", index=False)
    scans = table.groupby("case_id").agg(ml=("ml", "sum"), dice=("dice", "first"))
    print(f"Dice of scans: {quartiles(scans['dice'])}")
    groups = [("all", table, scans)]
    groups += [(t, table[table["type"] == t], None) for t in np.unique(table["type"])]
    for low, high in pairwise(SIZES):
        within = (part[(part["ml"] > low) & (part["ml"] <= high)] for part in (table, scans))
        groups.append((f"{low} to {high} ml", *within))
    return pd.DataFrame([mask_row(*group) for group in groups if len(group[1])])


def mask_row(name, tumors, scans):
    """Return recall of tumors, and quartiles of the Dice of scans of this much tumor, with intervals."""
    if scans is None:
        scans = tumors.drop_duplicates("case_id")
    low, high = resampled((tumors["found"] >= FOUND).to_numpy(float), np.mean, tumors["case_id"].to_numpy())
    row = {"tumors": name, "n": len(tumors), "found": (tumors["found"] >= FOUND).mean(), "low": low}
    row |= {"high": high, "voxels": tumors["found"].mean(), "scans": len(scans)}
    overlap = scans["dice"].to_numpy()
    row |= (
        dict(zip(("dice 25 %", "50 %"), np.percentile(overlap, (25, 50)), strict=True)) if len(scans) else {}
    )
    return row


def resampled(values, statistic, patients):
    """Return the 95 % bootstrap interval of a statistic of `values` (n,), over patients."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = (
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        for _ in range(N_RESAMPLES)
    )
    return np.percentile([statistic(values[rows]) for rows in drawn], (2.5, 97.5))


def empty(args):
    """Return how much is marked in heads without a tumor."""
    from scipy.ndimage import label

    embedder, rows = load(args), []
    for case in empty_heads(args, N_EMPTY):
        pieces, n = label(embedder.segment(case) > 0, np.ones((3, 3, 3)))
        ml = np.bincount(pieces.ravel(), minlength=n + 1)[1:] * case.spacing.prod() / 1000
        ml = ml[ml >= SMALLEST / 1000]
        rows.append([case.case_id, len(ml), ml.sum()])
    table = pd.DataFrame(rows, columns=["case_id", "pieces", "ml"])
    table.to_csv(args.out / f"heads-{Path(args.model).stem}.csv", index=False)
    whole = table["case_id"].str.contains("whole")
    parts = {"all": table, "whole heads": table[whole], "stripped": table[~whole]}
    names = ("low", "high")
    return pd.DataFrame(
        {
            "heads": name,
            "n": len(part),
            "pieces a head": part["pieces"].mean(),
            **dict(
                zip(
                    names,
                    resampled(part["pieces"].to_numpy(float), np.mean, part["case_id"].to_numpy()),
                    strict=True,
                )
            ),
            "heads without any": (part["pieces"] == 0).mean(),
            "ml a head": part["ml"].mean(),
        }
        for name, part in parts.items()
    )


def empty_heads(args, n):
    """Yield cases of simulated heads without a tumor, unseen heads and the template in turn."""
    heads = [load_label_head(str(path)) for path in sorted(args.heads.glob("*.nii.gz"))[-N_TEST_HEADS:]]
    heads.append(load_head())
    for i in range(n):
        rng = np.random.default_rng((SEED, i))
        scan = draw_scan(rng, 2.0, heads[i % len(heads)])
        image = to_scanner(rng, scan, draw_intensities(rng, scan, [], []))
        name = f"{'whole' if scan.whole_head else 'stripped'}-{i:03d}"
        yield Case((image, scan.affine), case_id=name, patient_id=name)


def shape(args):
    """Return Spearman of what neighbors say of size and shape."""
    cohort, embedder = test_cohort(args, "patients", 200, SEED + 1), load(args)
    found = evaluate_knn(embedder.transform(cohort), cohort.table, n_neighbors=5, space=embedder.space_)
    found = found[found["task"].isin(["log_volume", "sphericity", "elongation", "type", "hemisphere"])]
    return found[["task", "metric", "n_queries", "value", "ci_low", "ci_high"]]


def reach(args):
    """Return the type of unseen patients by what is known exactly, and by the network's features."""
    cohort, embedder = test_cohort(args, "patients", 200, SEED + 1), load(args)
    chunks = [renamed(load_cohort(p), p.parent.name, {}) for p in sorted(args.train.glob("*/manifest.csv"))]
    seen = Cohort(tumor for chunk in chunks for tumor in chunk)
    parts = [known(c) | {"features": embedder.transform(c)} for c in (seen, cohort)]
    truth, patients = cohort.labels["type"].to_numpy(dtype=str), cohort.patient_ids
    predicted = {
        name: learned(*[np.hstack([part[one] for one in name.split(" + ")]) for part in parts],
                      seen.labels["type"].to_numpy(dtype=str), linear="features" in name)
        for name in REACH
    }  # fmt: skip
    chances = embedder.predict_proba(cohort)["type"]
    predicted["own head"] = chances.idxmax(axis=1).to_numpy(dtype=str)
    logs = np.log(chances.clip(lower=1e-9).reset_index(drop=True))
    logs = logs.groupby(cohort.table["case_id"].to_numpy()).transform("mean")
    predicted["own head, mean over the scan's tumors"] = logs.idxmax(axis=1).to_numpy(dtype=str)
    rows = [
        {"by": name, "balanced_accuracy": balanced_accuracy_score(truth, said), "n": len(truth)}
        | dict(zip(("low", "high"), interval(truth, said, patients), strict=True))
        for name, said in predicted.items()
    ]
    return pd.DataFrame(rows)


def known(cohort):
    """Return figures of each tumor: exact place, log-volume, shape, ring, brightness, number in its scan."""
    table = cohort.table
    numbers = told(table)
    return {
        "place": np.column_stack([np.abs(numbers[:, 0]), numbers[:, 1:3]]),  # types have no side
        "volume": np.log(numbers[:, 3:4]),
        "shape": numbers[:, 4:6],
        "ring": numbers[:, 6:],
        "brightness": intensity_features(cohort),
        "number": np.log(table.groupby("case_id")["tumor_id"].transform("size").to_numpy()[:, None]),
    }


def learned(X, queries, types, *, linear):
    """Return the types of `queries` by a model of `X`: linear, or a forest."""
    model = (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=3000, class_weight="balanced"))
        if linear
        else RandomForestClassifier(500, min_samples_leaf=2, class_weight="balanced", random_state=0)
    )
    return model.fit(X, types).predict(queries)


# -- real scans -------------------------------------------------------------------------------------------


def met(args):
    """Return the network's probabilities of type for the box of the automatic mask."""
    files = args.met / f"{MET}-t1c.nii.gz", args.met / f"{MET}_auto_mask.nii.gz"
    case = Case(*files, case_id=MET, patient_id=MET)
    mask = case.load_mask() > 0
    tumor = Tumor(case, bbox_from_mask(mask), tumor_id=f"{MET}/1")
    row = load(args).predict_proba(Cohort([tumor]))["type"].iloc[0]
    return pd.DataFrame([{"case_id": MET, "ml": mask.sum() * case.spacing.prod() / 1000} | row.to_dict()])


def slices(args):
    """Return mAP and precision@10 of the real stacks, by folds, and of their slices one by one."""
    stacks = real_stacks(args)
    held_out = list(folds(stacks))
    rows = []
    for unit in args.units:
        cohort = stacks if unit == "stack" else Cohort(part for tumor in stacks for part in pieces(tumor))
        patients = cohort.patient_ids
        types = cohort.labels["type"].to_numpy(dtype=str)
        spaces = [coordinates(args, fold, cohort) for fold in range(N_FOLDS)]
        for gallery in ("other folds", "all other patients", "all others, same patient too"):
            scores = []
            for fold, points in enumerate(spaces):
                asked = np.isin(patients, stacks.patient_ids[held_out[fold]])
                for name, X in points.items():
                    scores.append(ranked(X, types, patients, asked, gallery).assign(distance=name))
            scores = pd.concat(scores)
            rows += [
                {"unit": unit, "gallery": gallery, "distance": name} | summary(part)
                for name, part in scores.groupby("distance", sort=False)
                if unit == "slice" or gallery != "all others, same patient too"
            ]
    return pd.DataFrame(rows)


def coordinates(args, fold, cohort):
    """Return the points of all tumors under each distance, by the network of a fold."""
    model = args.model if args.run is None else args.run / f"fold-{fold}.safetensors"
    kept = _KEPT.get((str(model), len(cohort)))
    if kept is None:
        embedder = TumorEmbedder.from_pretrained(model)
        X = embedder.transform(cohort)
        kept = {
            "plain": embedder.space_.coordinates(X),
            "by type": embedder.space_.aspect_coordinates("type", X),
        }
        _KEPT[str(model), len(cohort)] = kept
    return kept


_KEPT = {}  # (model, number of tumors) → points; one network serves all folds where there is no --run


def pieces(tumor):
    """Yield a stack's axial slices that show its tumor, each as a tumor of the same patient."""
    case = tumor.case
    image, affine = case.load_image(), case.affine
    mask = np.zeros(case.shape, bool)
    mask[crop_slices(tumor.bbox)] = tumor.load_mask()
    axis = int(ras_permutation(affine)[0][2])
    for k in np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))):
        cut = [slice(None)] * 3
        cut[axis] = slice(k, k + 1)
        moved = affine.copy()
        moved[:3, 3] += affine[:3, axis] * k
        inside = np.ascontiguousarray(mask[tuple(cut)])
        part = Case(
            (np.ascontiguousarray(image[tuple(cut)]), moved), (inside.astype(np.uint8), moved),
            case_id=f"{case.case_id}-{tumor.tumor_id.rpartition('/')[2]}-{k:02d}", patient_id=case.patient_id,
        )  # fmt: skip
        yield Tumor(
            part, bbox_from_mask(inside), tumor_id=f"{part.case_id}/1", labels=tumor.labels, mask_value=1
        )


def ranked(X, types, patients, asked, gallery):
    """Return average precision and precision@10 of each query; relevant is what has the query's type.

    `asked` (n,) bool are the queries of a fold. ``gallery``: tumors of the other folds, of all other
    patients, or all tumors but the query itself.
    """
    rows = []
    for i in np.flatnonzero(asked):
        others = {
            "other folds": ~asked,
            "all other patients": patients != patients[i],
            "all others, same patient too": np.arange(len(X)) != i,
        }[gallery]
        others = np.flatnonzero(others)
        order = others[np.argsort(((X[others] - X[i]) ** 2).sum(1), kind="stable")]
        relevance = types[order] == types[i]
        rows.append(
            [patients[i], types[i], average_precision(relevance), precision_at_k(relevance, N_NEAREST)]
        )
    return pd.DataFrame(rows, columns=["patient", "type", "map", "p10"])


def summary(scores):
    """Return means over queries with intervals by patient."""
    row = {"queries": len(scores)}
    for name in ("map", "p10"):
        values = scores[name].to_numpy(float)
        low, high = resampled(values, np.mean, scores["patient"].to_numpy())
        row |= {name: values.mean(), f"{name}_low": low, f"{name}_high": high}
    return row


if __name__ == "__main__":
    main()
