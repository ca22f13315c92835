"""What the recipe for fine-tuning makes of some 75 real scans, without any simulated patient beside them.

    python -m benchmarks.fine_tuning --stacks STACKS/scans.csv --out RUN
    python -m benchmarks.pretrained --run RUN --heads HEADS --stacks STACKS/scans.csv --out OUT --parts stacks

The first command fits `from_pretrained("t1c-v6-simulated")`, as a user would with scans of their own, once
for each of the five folds of real stacks, without that fold (10 to 15 minutes a fold and core); it goes on
where it was killed. The second scores the folds, in its rows "simulated and real" and below.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from examples.train_pretrained import N_FOLDS, folds, real_stacks
from tumorsim import TumorEmbedder
from tumorsim.weights import find_weights

START = "t1c-v6-simulated"


def main():
    """Fit what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stacks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)))
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    args = parser.parse_args()
    stacks = real_stacks(args)
    shutil.copyfile(find_weights(START), args.out / "simulated.safetensors")
    held_out = list(folds(stacks))
    for fold in args.folds:
        path = args.out / f"fold-{fold}.safetensors"
        if path.exists():
            continue
        embedder = TumorEmbedder.from_pretrained(
            START, recipe__precision=args.precision, cache_dir=args.out / "cache", random_state=0, verbose=1,
            checkpoint_dir=args.out / path.stem,
        )  # fmt: skip
        rest = stacks[np.setdiff1d(np.arange(len(stacks)), held_out[fold])]
        embedder.fit(rest, resume=True).save(path)


if __name__ == "__main__":
    main()
