"""Train on simulated scans and real stacks, then ask on real scans: one command, honest controls.

    python benchmarks/real_scans.py --data DIR --model model.safetensors --out DIR

DIR holds ``stacks/scans.csv`` (labelled real stacks, used for training) and ``real/scans.csv`` (scans that
are only tested on; two dates of a patient are named ``<patient>-pre`` and ``<patient>-post``). A model file
that exists is used as it is; otherwise it is trained, resumably.

A tumor's other date lies in the same head at the same place, so its rank by itself shows nothing. Beside it
stand the same ranks from the mirrored, healthy box of the same heads, from untrained networks, and from the
tumor's place alone.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim import Cohort, Tumor, TumorEmbedder, TumorIndex, evaluate_knn, load_cohort, make_cohort
from tumorsim.evaluation import format_knn_table
from tumorsim.manifest import build_manifest
from tumorsim.metrics import dice

N_UNTRAINED = 8


def main():
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n-simulated", type=int, default=200)
    parser.add_argument("--max-epochs", type=int, default=30)
    parser.add_argument("--random-state", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    if not args.model.exists():
        train(args).save(args.model)
    embedder = TumorEmbedder.load(args.model)
    print("last epoch:", {k: round(v, 3) for k, v in embedder.history_[-1].items()})
    held_out(embedder, args)
    real = real_cohort(args)
    masks(embedder, real)
    print(other_date(embedder, real).to_string(index=False))


def train(args):
    """Fit on simulated patients and the real stacks."""
    simulated = simulated_cohort(args.out / "simulated", args.n_simulated, args.random_state)
    stacks = build_manifest(args.data / "stacks/scans.csv", args.out / "stacks.csv")
    embedder = TumorEmbedder(
        max_epochs=args.max_epochs,
        n_jobs=2,
        checkpoint_dir=args.out,
        random_state=args.random_state,
        verbose=1,
    )
    return embedder.fit(simulated + stacks, resume=True)


def simulated_cohort(folder, n_patients, random_state):
    """Return simulated patients, from `folder` where an earlier run left them."""
    if not (folder / "manifest.csv").exists():
        make_cohort(n_patients, random_state=random_state, output_dir=folder, n_jobs=2, progress=True)
    return load_cohort(folder / "manifest.csv")


def held_out(embedder, args):
    """Print the kNN table on simulated patients of another seed."""
    cohort = simulated_cohort(args.out / "held_out", 120, args.random_state + 1000)
    X = embedder.transform(cohort)
    result = evaluate_knn(X, cohort.table, space=embedder.space_)
    result.to_csv(args.out / "knn_simulated.csv", index=False)
    print(f"\nheld-out simulated patients: {cohort!r}\n{format_knn_table(result)}")
    scores = [dice(embedder.segment(case) > 0, case.load_mask() > 0) for case in cohort.cases[:40]]
    low, middle, high = np.percentile(scores, (25, 50, 75))
    print(f"mask Dice on 40 of their scans: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}")


def real_cohort(args):
    """Return the real lesions, ragged rims merged within 10 mm and pieces under 0.1 ml dropped."""
    options = {"min_volume_mm3": 100.0, "merge_distance_mm": 10.0}
    build_manifest(args.data / "real/scans.csv", args.out / "real.csv", **options)
    return load_cohort(args.out / "real.csv")


def masks(embedder, real):
    """Print the Dice overlap of proposed and given masks, a scan a line."""
    rows = []
    for case in real.cases:
        truth, proposed = case.load_mask() > 0, embedder.segment(case) > 0
        voxel = case.spacing.prod() / 1000
        row = {"case": case.case_id, "dice": dice(proposed, truth)}
        rows.append(row | {"proposed_ml": proposed.sum() * voxel, "truth_ml": truth.sum() * voxel})
    table = pd.DataFrame(rows)
    print("\nproposed masks on real scans, none of them trained on\n" + table.round(2).to_string(index=False))
    print(f"median Dice {table['dice'].median():.2f}")


def other_date(embedder, real):
    """Return where each post-operative scan's largest lesion finds its own earlier date, by several methods.

    The gallery holds the largest lesion of every other scan; ranks are among those.
    """
    largest = real.table.sort_values("volume_mm3").groupby("case_id").tail(1).index
    tumors = real[np.sort(largest)]
    mirrored = Cohort(mirror(tumor) for tumor in tumors)
    place = tumors.table[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float32)
    methods = {
        "trained, tumor box": _scaled(embedder, tumors),
        "trained, mirrored healthy box": _scaled(embedder, mirrored),
        "place alone": place - np.stack([head_center(t.case) for t in tumors]),
    }
    for seed in range(N_UNTRAINED):
        methods[f"untrained {seed}"] = _scaled(untrained(embedder, seed), tumors)
    rows = []
    for name, X in methods.items():
        ranks = {}
        for row, tumor in enumerate(tumors):
            if not tumor.case.case_id.endswith("-post"):
                continue
            rest = np.flatnonzero(np.arange(len(tumors)) != row)
            index = TumorIndex().fit(X[rest], metadata=tumors.table.iloc[rest])
            found = index.search(X[[row]], n_neighbors=len(rest), max_per_patient=None)
            ranks[tumor.patient_id] = int(found.loc[found["patient_id"] == tumor.patient_id, "rank"].min())
        mean = float(np.mean([1 / r for r in ranks.values()]))
        rows.append({"method": name, **ranks, "mean_reciprocal_rank": round(mean, 2)})
    table = pd.DataFrame(rows)
    is_untrained = table["method"].str.startswith("untrained")
    pooled = {"method": f"untrained, mean of {N_UNTRAINED}"} | table[is_untrained].mean(
        numeric_only=True
    ).round(2).to_dict()
    print(f"\nrank of the own other date among {len(tumors) - 1} scans, 1 is nearest")
    return pd.concat([table[~is_untrained], pd.DataFrame([pooled])])


def untrained(embedder, seed):
    """Return an embedder of the same shape whose only training is one step of no size."""
    copy = TumorEmbedder(**embedder.get_params() | {"device": "cpu", "random_state": seed})
    cohort = make_cohort(6, random_state=seed, spacing=4.0)
    return copy.set_params(max_epochs=1, batches_per_epoch=1, lr=1e-12, patch_size=48).fit(cohort)


def mirror(tumor):
    """Return the same box on the other side of the head, as a tumor without mask."""
    case = tumor.case
    corners = tumor.bbox.astype(np.float64).copy()
    axis = int(np.argmax(np.abs(case.affine[0, :3])))  # the storage axis nearest to left-right
    middle = 2 * np.linalg.solve(case.affine, [*head_center(case), 1])[axis]
    corners[:, axis] = np.sort(middle - corners[::-1, axis] + 1)
    start = np.clip(np.round(corners[0]), 0, np.array(case.shape) - 1)
    stop = np.clip(np.round(corners[1]), start + 1, case.shape)
    return Tumor(case, np.stack([start, stop]), tumor_id=f"{tumor.tumor_id}-mirrored")


def head_center(case):
    """Return the center of mass of the head in RAS mm."""
    image = case.load_image().astype(np.float32)
    image = image - np.percentile(image, 0.5)
    head = np.argwhere(image > 0.1 * np.percentile(image, 99))
    return case.affine[:3, :3] @ head.mean(axis=0) + case.affine[:3, 3]


def _scaled(embedder, tumors):
    """Return embeddings in the units that the index would use."""
    return (embedder.transform(tumors) * embedder.space_.scale).astype(np.float32)


if __name__ == "__main__":
    main()
