"""Which voxel spacing learns most in the same computing? The measurement behind the default of `spacing`.

    python -m benchmarks.spacing --data DIR --steps 300

Each spacing sees patches of one extent in mm and as many steps as cost the same number of convolved voxels
(`--steps` at 2 mm). Trained on simulated patients and, where ``DIR/stacks/scans.csv`` is there, on real
stacks but for the last fifth of each type in file order; tested on other simulated patients and on those.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim import TumorEmbedder, evaluate_knn, make_cohort
from tumorsim.manifest import build_manifest
from tumorsim.metrics import dice

EXTENT_MM = 160


def main():
    """Print one row per spacing and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--spacings", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--n-patients", type=int, default=150)
    parser.add_argument("--n-test", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()

    train = make_cohort(args.n_patients, random_state=0, spacing=1.5, n_jobs=2, progress=True)
    test = make_cohort(args.n_test, random_state=1000, spacing=1.5, n_jobs=2, progress=True)
    stacks_test = None
    if args.data is not None:
        with tempfile.TemporaryDirectory() as folder:
            stacks = build_manifest(args.data / "stacks/scans.csv", Path(folder) / "stacks.csv")
        kind = stacks.labels["type"].to_numpy()
        order = pd.Series(np.arange(len(stacks))).groupby(kind).rank(pct=True).to_numpy()
        train, stacks_test = train + stacks[order <= 0.8], stacks[order > 0.8]
        stacks_train = stacks[order <= 0.8]

    rows = []
    for seed in args.seeds:
        for spacing in args.spacings:
            steps = round(args.steps * (spacing / 2.0) ** 3)
            patch = int(round(EXTENT_MM / spacing / 4) * 4)
            started = time.perf_counter()
            embedder = TumorEmbedder(
                spacing=spacing, patch_size=patch, max_epochs=10, batches_per_epoch=max(1, steps // 10),
                n_jobs=2, random_state=seed,
            ).fit(train)  # fmt: skip
            row = {"spacing": spacing, "seed": seed, "steps": steps, "seconds": time.perf_counter() - started}
            row |= scores(embedder, test)
            if stacks_test is not None:
                gallery, queries = embedder.transform(stacks_train), embedder.transform(stacks_test)
                real = evaluate_knn(
                    gallery,
                    stacks_train.table,
                    query_X=queries,
                    query_table=stacks_test.table,
                    n_neighbors=(5,),
                    space=embedder.space_,
                )
                row["real_type"] = real.query("task == 'type'")["value"].iloc[0]
                row["real_dice"] = mean_dice(embedder, stacks_test.cases)
            rows.append(row)
            print(pd.DataFrame(rows).round(2).to_string(index=False), flush=True)


def scores(embedder, test):
    """Return what 5 neighbors know, task by task, and the masks' Dice."""
    result = evaluate_knn(embedder.transform(test), test.table, n_neighbors=(5,), space=embedder.space_)
    kept = result[result["metric"].isin(["balanced_accuracy", "spearman"])]
    return dict(zip(kept["task"], kept["value"], strict=True)) | {"dice": mean_dice(embedder, test.cases)}


def mean_dice(embedder, cases):
    """Return the mean Dice of proposed masks."""
    return float(np.mean([dice(embedder.segment(case) > 0, case.load_mask() > 0) for case in cases]))


if __name__ == "__main__":
    main()
