"""Screen a change of the simulator: a short run on its patients, scored on all real stacks.

    python -m benchmarks.screening --heads HEADS --stacks STACKS/scans.csv --out RUN

Simulates patients with today's simulator, trains `t1c-v6-simulated` on with them for a few epochs, and scores
the network on the real stacks, none of which it has seen: type by five nearest neighbors with folds as the
gallery, and masks. Run it once from a clone before a change and once from a clone after it, with the same
arguments, and compare. Every step is skipped where its result is in ``RUN`` and goes on where it was killed.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.pretrained import masks, quartiles, score
from examples.train_pretrained import folds, real_stacks, simulate, weights_of_step_2
from tumorsim import TumorEmbedder

START = "t1c-v6-simulated"


def main():
    """Simulate, train and score what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--stacks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default=START, help="weights, or a model file")
    parser.add_argument("--n-patients", type=int, default=300)
    parser.add_argument("--max-epochs", type=int, default=10, help="of 100 batches")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--shape-tasks", action="store_true", help="learn bands of shape as well")
    args = parser.parse_args()
    path = args.out / "simulated.safetensors"
    if not path.exists():
        train(args, path)
    stacks = real_stacks(args)
    result = pd.DataFrame(
        [row_of(args.start, args.start, stacks, args), row_of("trained on", path, stacks, args)]
    )
    result.to_csv(args.out / "screening.csv", index=False)
    print(result.to_string(index=False))


def train(args, path):
    """Train `args.start` on with simulated patients; writes the model file."""
    simulated = simulate(args)
    embedder = TumorEmbedder.from_pretrained(
        args.start, task_weights=weights_of_step_2(args), max_epochs=args.max_epochs, n_jobs=args.n_jobs,
        cache_dir=args.out / "cache", checkpoint_dir=args.out / "screening", random_state=args.random_state,
        recipe__precision=args.precision, recipe__mask_dice=0.5, recipe__mask_balance=0.5, verbose=1,
    )  # fmt: skip
    embedder.fit(simulated, resume=True).save(path)


def row_of(method, model, stacks, args):
    """Return type and masks of a network on the real stacks, with intervals."""
    embedder = TumorEmbedder.from_pretrained(model).set_params(n_jobs=args.n_jobs)
    types, held_out = stacks.labels["type"].to_numpy(dtype=str), list(folds(stacks))
    X = embedder.transform(stacks)
    row = {"network": method}
    for name, points in {
        "plain": embedder.space_.coordinates(X),
        "by type": embedder.space_.aspect_coordinates("type", X),
        "without heads": X * embedder.space_.scale,
    }.items():
        found = score(name, [points] * len(held_out), types, held_out, embedded=True)
        row[name] = "{balanced_accuracy:.2f} ({low:.2f} to {high:.2f})".format(**found)
    overlap = masks(embedder, stacks.cases).set_index("case_id")["dice"]
    row["dice"] = quartiles(overlap)
    first = stacks.table.drop_duplicates("case_id").set_index("case_id")["label_type"]
    for kind in np.unique(types):
        row[f"dice {kind}"] = quartiles(overlap[first.index[first == kind]])
    overlap.to_csv(args.out / f"masks-{Path(str(model)).stem}.csv")
    return row


if __name__ == "__main__":
    main()
