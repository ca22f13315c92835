"""What the shipped weights know: simulated patients in unseen heads, real stacks by folds, hard cases.

    python -m benchmarks.pretrained --run RUN --heads HEADS --stacks STACKS/scans.csv --out OUT

``RUN`` is what `examples/train_pretrained.py` left: ``pretrained.safetensors``, ``simulated.safetensors``
(simulated patients only), and ``fold-0.safetensors`` … ``fold-4.safetensors``, each gone on with without a
fifth of the real stacks. Prints, and writes as CSV into ``OUT``:

1. simulated: 200 patients in the last four heads and the template, none of which the network has seen (the
   template itself it has); each tumor is a query among all other patients; beside it, what the heads say
   without neighbors, neighbors by exact place, and a forest that is told what the simulator knows,
2. stacks: type by 5 nearest neighbors and masks on real stacks, over five folds of contiguous case numbers,
   beside volume and place, intensity figures, radiomics, untrained networks and simulated patients only,
3. hard: type within the cerebellopontine angle, and ring metastases against gliomas, beside a classifier
   that sees exact place and volume,
4. stability: neighbor overlap@10 under each perturbation by itself.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from benchmarks.baselines import intensity_features, radiomics_features, volume_place_features
from benchmarks.label_free import evaluate_stability, untrained_copy
from examples.train_pretrained import N_FOLDS, N_TEST_HEADS, folds, real_stacks
from tumorsim import TumorEmbedder, evaluate_knn, load_cohort, make_cohort
from tumorsim.evaluation import format_knn_table
from tumorsim.metrics import dice

SEED = 770_000
N_UNTRAINED = 8
N_FEWEST_PAIRS = 15
N_RESAMPLES = 2_000
PERTURBED = ("axes", "1mm", "2mm", "thick", "noise", "box_larger", "box_smaller", "box_shifted")
FIGURES = "5 intensity figures + volume + place"
PLACE = ["mni_x_mm", "mni_y_mm", "mni_z_mm"]


def main():
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--stacks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="pretrained.safetensors", help="in RUN, for parts 1, 3 and 4")
    parser.add_argument("--parts", nargs="+", default=["simulated", "stacks", "hard", "stability"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        {"simulated": simulated, "stacks": stacks, "hard": hard, "stability": stability}[part](args)


def test_cohort(args, name, n_patients, seed, types=None):
    """Return simulated patients in heads that no network has seen."""
    folder = args.out / name
    if not (folder / "manifest.csv").exists():
        heads = [*sorted(args.heads.glob("*.nii.gz"))[-N_TEST_HEADS:], "mni152"]
        make_cohort(
            n_patients, random_state=seed, types=types, anatomies=heads, output_dir=folder, n_jobs=2,
            progress=True,
        )  # fmt: skip
    return load_cohort(folder / "manifest.csv")


def load(args, name):
    """Return an embedder of the run that reads scans in two threads and keeps what it prepared."""
    embedder = TumorEmbedder.load(args.run / name)
    return embedder.set_params(n_jobs=2, cache_dir=args.out / "cache")


# -- 1: simulated patients --------------------------------------------------------------------------------


def simulated(args):
    """Print kNN scores and mask overlap on simulated patients."""
    cohort, embedder = test_cohort(args, "simulated", 200, SEED), load(args, args.model)
    X = embedder.transform(cohort)
    result = [evaluate_knn(X, cohort.table, space=embedder.space_)]
    for task in embedder.tasks_:
        points = embedder.space_.aspect_coordinates(task, X)
        by_task = evaluate_knn(points, cohort.table[["patient_id", f"label_{task}"]])
        result.append(by_task.assign(task=f"{task}, by its aspect"))
    result = pd.concat(result, ignore_index=True)
    result.to_csv(args.out / "simulated.csv", index=False)
    print(f"\n1. simulated patients in unseen heads: {cohort!r}\n{format_knn_table(result)}", flush=True)
    reach(args, embedder, cohort)
    table = masks(embedder, cohort.cases)
    first = cohort.table.drop_duplicates("case_id").set_index("case_id")
    table["type"] = first.loc[table["case_id"], "label_type"].to_numpy()
    table["tumor_ml"] = (
        (cohort.table.groupby("case_id")["volume_mm3"].sum() / 1000).loc[table["case_id"]].to_numpy()
    )
    table.to_csv(args.out / "simulated_masks.csv", index=False)
    print("mask Dice a scan: " + quartiles(table["dice"]))
    print(table.groupby("type")["dice"].describe()[["count", "25%", "50%", "75%"]].round(2).to_string())
    size = pd.cut(table["tumor_ml"], [0, 0.2, 1, 5, 1000])
    print(
        table.groupby(size, observed=True)["dice"]
        .describe()[["count", "25%", "50%", "75%"]]
        .round(2)
        .to_string()
    )


def reach(args, embedder, cohort):
    """Print what the heads say without neighbors, and what exact place and looks would tell."""
    table = cohort.table
    labels = {task: table[f"label_{task}"].to_numpy(dtype=object) for task in embedder.tasks_}
    known = {task: pd.notna(values) for task, values in labels.items()}
    named = embedder.predict(cohort)
    own = {task: balanced_accuracy_score(labels[task][k], named[task][k]) for task, k in known.items()}
    near = evaluate_knn(table[PLACE].to_numpy(float), table, n_neighbors=5, targets=())
    near = near.set_index("task")["value"]
    print(pd.DataFrame({"own head": own, "5 nearest by exact place": near}).dropna().round(3).to_string())
    trained = sorted((args.run / "simulated").glob("*/manifest.csv"))  # where the run was made here
    if trained:
        seen = pd.concat([load_cohort(path).table for path in trained])
        forest = RandomForestClassifier(500, class_weight="balanced", random_state=0)
        forest.fit(told(seen), seen["label_type"])
        right = balanced_accuracy_score(labels["type"], forest.predict(told(table)))
        print(f"type by a forest on exact place, volume, ring and shape of {len(seen)} tumors: {right:.3f}")


def told(table):
    """Return what the simulator knows of each tumor (n, 7): place, volume, shape, ring."""
    numbers = table[[*PLACE, "volume_mm3", "sphericity", "elongation"]].to_numpy(float)
    return np.column_stack([numbers, is_ring(table)])


def is_ring(table):
    """Return which tumors enhance at their rim only, bool (n,)."""
    return table["ring"].astype(str).str.lower().isin(("true", "1", "1.0")).to_numpy()


def masks(embedder, cases):
    """Return the Dice of proposed and given masks, one row per scan."""
    rows = [
        {"case_id": case.case_id, "dice": dice(embedder.segment(case) > 0, case.load_mask() > 0)}
        for case in cases
    ]
    return pd.DataFrame(rows)


def quartiles(values):
    """Return median, quartiles and the bootstrap interval of the median as text."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (N_RESAMPLES, len(values))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    first, middle, last = np.percentile(values, (25, 50, 75))
    spread = f"quartiles {first:.2f} and {last:.2f}, n = {len(values)}"
    return f"median {middle:.2f} ({low:.2f} to {high:.2f}), {spread}"


# -- 2: real stacks ---------------------------------------------------------------------------------------


def stacks(args):
    """Print the table of type and mask on real stacks."""
    cohort = real_stacks(argparse.Namespace(stacks=args.stacks, out=args.out))
    types = cohort.labels["type"].to_numpy(dtype=str)
    held_out = list(folds(cohort))
    figures, place = intensity_features(cohort), volume_place_features(cohort)[:, :3]  # z: where it was cut
    rows = [
        score("volume + place in the slice", [place] * N_FOLDS, types, held_out),
        score(FIGURES, [np.hstack([figures, place])] * N_FOLDS, types, held_out),
    ]
    radiomics = radiomics_or_none(cohort, args.out / "radiomics.npy")
    if radiomics is not None:
        rows.append(score("radiomics (mirp)", [radiomics] * N_FOLDS, types, held_out))
        both = np.hstack([radiomics, place])
        rows.append(score("radiomics + place", [both] * N_FOLDS, types, held_out))
    base = load(args, "simulated.safetensors")
    fresh = []
    for seed in range(N_UNTRAINED):
        network = untrained_copy(base, cohort, random_state=seed)
        points = network.space_.coordinates(network.transform(cohort))
        fresh.append(score("untrained", [points] * N_FOLDS, types, held_out, embedded=True))
    values = [row["balanced_accuracy"] for row in fresh]
    middle = fresh[int(np.argsort(values)[N_UNTRAINED // 2])]
    rows.append(
        middle | {"method": f"untrained, {N_UNTRAINED} seeds: {min(values):.2f} to {max(values):.2f}"}
    )
    on_base = masks(base, cohort.cases)["dice"]
    X = base.transform(cohort)
    for method, points in {
        "simulated patients only": base.space_.coordinates(X),
        "the same, features without heads": X * base.space_.scale,
    }.items():
        row = score(method, [points] * N_FOLDS, types, held_out, embedded=True)
        rows.append(row | {"dice": quartiles(on_base)})
    spaces, by_type, overlap = [], [], np.zeros(len(cohort))
    named = np.empty(len(cohort), dtype=object)
    for fold, rows_out in enumerate(held_out):
        embedder = load(args, f"fold-{fold}.safetensors")
        X = embedder.transform(cohort)
        spaces.append(embedder.space_.coordinates(X))
        by_type.append(embedder.space_.aspect_coordinates("type", X))
        named[rows_out] = embedder.predict(cohort[rows_out])["type"]
        by_case = masks(embedder, cohort[rows_out].cases).set_index("case_id")["dice"]
        overlap[rows_out] = by_case[[tumor.case.case_id for tumor in cohort[rows_out]]]
    row = score("simulated and real, by folds", spaces, types, held_out, embedded=True)
    rows.append(row | {"dice": quartiles(overlap)})
    rows.append(score("the same, by aspect type", by_type, types, held_out, embedded=True))
    rows.append(score_of("the same, its own head, no neighbors", types, named))
    predicted = {row["method"]: row.pop("predicted") for row in rows}
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "stacks.csv", index=False)
    per_stack = pd.DataFrame({"case_id": cohort.table["case_id"], "type": types, "dice": overlap})
    per_stack.to_csv(args.out / "stacks_masks.csv", index=False)
    print(f"\n2. real stacks, {N_FOLDS} folds of contiguous case numbers: {cohort!r}")
    print(table.round(2).to_string(index=False))
    for method in list(predicted)[-3:]:
        value, low, high = difference(types, predicted[method], predicted[FIGURES])
        print(f"{method}, less {FIGURES}: {value:+.2f} ({low:+.2f} to {high:+.2f})")
    print(
        per_stack.groupby("type")["dice"].describe()[["count", "25%", "50%", "75%"]].round(2).to_string(),
        flush=True,
    )


def score(method, features, types, held_out, *, embedded=False):
    """Return balanced accuracy of 5 nearest neighbors from the other folds, with its interval by patient.

    `features` holds an array a fold, `embedded` says that they are in an index's units already.
    """
    predicted = np.empty(len(types), dtype=object)
    for X, rows in zip(features, held_out, strict=True):
        rest = np.setdiff1d(np.arange(len(types)), rows)
        X = X if embedded else StandardScaler().fit(X[rest]).transform(X)
        predicted[rows] = KNeighborsClassifier(5).fit(X[rest], types[rest]).predict(X[rows])
    return score_of(method, types, predicted)


def score_of(method, types, predicted):
    """Return balanced accuracy of predicted types, with its interval, and the share right of each type."""
    right = pd.Series(predicted == types).groupby(types).mean()  # of types that are there
    low, high = interval(types, predicted, np.arange(len(types)))
    scores = {"method": method, "balanced_accuracy": right.mean(), "low": low, "high": high}
    return scores | right.round(2).to_dict() | {"predicted": predicted}


def difference(types, first, other):
    """Return how much balanced accuracy `first` has more than `other`, with its interval over tumors."""
    rng = np.random.default_rng(0)
    gain = pd.DataFrame({"type": types, "gain": (first == types) * 1.0 - (other == types)})
    drawn = [gain.iloc[rng.integers(len(gain), size=len(gain))] for _ in range(N_RESAMPLES)]
    values = [part.groupby("type")["gain"].mean().mean() for part in drawn]
    return gain.groupby("type")["gain"].mean().mean(), *np.percentile(values, (2.5, 97.5))


def interval(truth, predicted, patients):
    """Return the 95 % bootstrap interval of balanced accuracy, over patients."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    values = []
    correct = predicted == truth
    for _ in range(N_RESAMPLES):
        rows = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        values.append(pd.Series(correct[rows]).groupby(truth[rows]).mean().mean())
    return np.percentile(values, (2.5, 97.5))


def radiomics_or_none(cohort, path):
    """Return radiomics, (n, m), from `path` where they were kept, or None where mirp is not installed."""
    if path.exists():
        return np.load(path)
    try:
        features = radiomics_features(cohort)
        np.save(path, features)
        return features
    except ImportError as err:
        print(f"{err} No rows for radiomics.")
        return None


# -- 3: hard cases ----------------------------------------------------------------------------------------


def hard(args):
    """Print type where place says little, beside a classifier that knows exact place and volume."""
    embedder = load(args, args.model)
    angle = test_cohort(args, "angle", 200, SEED + 1, ["meningioma", "schwannoma"])
    rings = test_cohort(args, "rings", 400, SEED + 2, ["glioma", "metastasis"])
    rows = []
    inside = (angle.labels["region"] == "cerebellopontine_angle").to_numpy()
    rows += compare("cerebellopontine angle", embedder, angle, inside)
    single = ~rings.table["case_id"].duplicated(keep=False).to_numpy()
    ring = is_ring(rings.table)
    rows += compare("solitary ring, metastasis or glioma", embedder, rings, single & ring)
    matched = matched_in_volume(rings.table, single & ring)
    print(f"\n{matched.sum() // 2} pairs of rings of either type have about equal volumes")
    if matched.sum() >= 2 * N_FEWEST_PAIRS:
        rows += compare("the same, pairs of equal volume", embedder, rings, matched)
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "hard.csv", index=False)
    print("\n3. type where place says little\n" + table.round(2).to_string(index=False), flush=True)


def matched_in_volume(table, chosen, *, ratio=1.5):
    """Return which of the tumors `chosen` (bool) have a partner of the other type and of about their volume.

    Simulated gliomas are large and metastases are small; without this, volume alone tells them.
    """
    log_volume = np.log(table["volume_mm3"].to_numpy(float))
    rows = {name: np.flatnonzero(chosen & (table["label_type"] == name)) for name in ("glioma", "metastasis")}
    apart = np.abs(log_volume[rows["glioma"]][:, None] - log_volume[rows["metastasis"]])
    matched = np.zeros(len(table), bool)
    for first, second in zip(*linear_sum_assignment(np.minimum(apart, np.log(ratio))), strict=True):
        if apart[first, second] < np.log(ratio):
            matched[[rows["glioma"][first], rows["metastasis"][second]]] = True
    return matched


def compare(name, embedder, cohort, chosen):
    """Return rows of each method with the tumors `chosen` (bool) as queries among those of other patients."""
    table = cohort.table
    types, patients = table["label_type"].to_numpy(dtype=str), table["patient_id"].to_numpy(dtype=str)
    known = np.column_stack([table[PLACE].to_numpy(float), np.log(table["volume_mm3"].to_numpy(float))])
    rows = []
    X = embedder.transform(cohort)
    spaces = {
        "embedding": embedder.space_.coordinates(X),
        "embedding, by aspect type": embedder.space_.aspect_coordinates("type", X),
        "place + volume": StandardScaler().fit_transform(known),
    }
    for space, X in spaces.items():
        found = evaluate_knn(X[chosen], table[chosen].reset_index(drop=True), n_neighbors=5)
        found = found[found["task"] == "type"].iloc[0]
        rows.append([f"{space}, 5 nearest", *found[["value", "ci_low", "ci_high"]]])
    predicted = cross_val_predict(
        RandomForestClassifier(500, class_weight="balanced", random_state=0),
        known[chosen], types[chosen], groups=patients[chosen], cv=GroupKFold(10),
    )  # fmt: skip
    value = balanced_accuracy_score(types[chosen], predicted)
    rows.append(
        ["place + volume, random forest", value, *interval(types[chosen], predicted, patients[chosen])]
    )
    counts = f"{int(chosen.sum())} of {len(np.unique(patients[chosen]))} patients"
    names = ("method", "balanced_accuracy", "low", "high")
    return [{"case": name} | dict(zip(names, row, strict=True)) | {"n": counts} for row in rows]


# -- 4: stability -----------------------------------------------------------------------------------------


def stability(args):
    """Print neighbor overlap under each perturbation by itself."""
    cohort, embedder = test_cohort(args, "simulated", 200, SEED), load(args, args.model)
    table = evaluate_stability(
        embedder.set_params(cache_dir=None), cohort, PERTURBED, n_neighbors=10, min_diameter_mm=10
    )
    table.to_csv(args.out / "stability.csv", index=False)
    print("\n4. stability\n" + table.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
