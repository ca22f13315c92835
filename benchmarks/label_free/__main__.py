"""Test an embedder on real scans without labels: masks, and what it knows beyond head and place.

    python -m benchmarks.label_free --data DIR --model model.safetensors --out DIR

DIR holds ``real/scans.csv``, a table of scans with masks as ``tumorsim manifest`` reads it; scans of one
patient are dates. ``--model default`` takes the shipped weights. Whole heads and stripped brains, known by a
column ``stripped``, or else by ``BraTS`` in the column ``dataset``, are scored apart where that makes a
difference. Tables go to ``--out`` as CSV too. The documentation says what each of them shows, and what not.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.label_free import (
    evaluate_mirror,
    evaluate_other_date,
    evaluate_pattern,
    evaluate_rescan,
    evaluate_stability,
    evaluate_transplant,
)
from benchmarks.paper._label_free import LESIONS, is_stripped, transplant_hosts
from tumorsim import TumorEmbedder
from tumorsim.manifest import build_manifest
from tumorsim.metrics import dice

MIN_PATIENTS = 5  # of a part: fewer have no neighbors to speak of


def main():
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="default", help="a model file, or 'default' for shipped weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-untrained", type=int, default=8)
    parser.add_argument("--n-hosts", type=int, default=2)
    parser.add_argument("--n-permutations", type=int, default=999)
    parser.add_argument("--full-stability", action="store_true", help="all perturbations, not only rescans")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    embedder = TumorEmbedder.from_pretrained() if args.model == "default" else TumorEmbedder.load(args.model)
    cohort = build_manifest(args.data / "real/scans.csv", args.out / "real.csv", **LESIONS)
    stripped = is_stripped(cohort)
    print(f"{cohort!r}, of them {len(cohort[stripped].cases)} stripped scans")

    show("masks", masks(embedder, cohort), args.out)
    parts = {"all": cohort, "whole heads": cohort[~stripped], "stripped brains": cohort[stripped]}
    untrained = {"n_untrained": args.n_untrained}
    show("other_date", evaluate_other_date(embedder, cohort, **untrained), args.out)
    hosts = transplant_hosts(parts["whole heads"], args.n_hosts)
    show("transplant", evaluate_transplant(embedder, parts["whole heads"], hosts, **untrained), args.out)
    show("mirror", apart(evaluate_mirror, embedder, parts), args.out)
    show("rescan", apart(evaluate_rescan, embedder, parts), args.out)
    if args.full_stability:
        show("stability", evaluate_stability(embedder, cohort), args.out)
    options = {"n_permutations": args.n_permutations, **untrained}
    show("pattern", evaluate_pattern(embedder, cohort, **options), args.out)


def show(name, table, out):
    """Print a table, ranks as columns of their own where they are many, and write it."""
    table.to_csv(out / f"{name}.csv", index=False)
    print(
        f"\n{name}, after {time.process_time():.0f} s of computing\n{table.round(2).to_string(index=False)}"
    )


def masks(embedder, cohort):
    """Return the Dice overlap of proposed and given masks, one scan per line, then the medians."""
    rows = []
    stripped = dict(zip(cohort.table["case_id"], is_stripped(cohort), strict=True))
    for case in cohort.cases:
        truth, proposed = case.load_mask() > 0, embedder.segment(case) > 0
        voxel = case.spacing.prod() / 1000
        row = {"case": case.case_id, "stripped": stripped[case.case_id], "dice": dice(proposed, truth)}
        rows.append(row | {"proposed_ml": proposed.sum() * voxel, "truth_ml": truth.sum() * voxel})
    table = pd.DataFrame(rows)
    for name, part in (("whole heads", table[~table["stripped"]]), ("stripped", table[table["stripped"]])):
        if len(part):
            median = part[["dice", "proposed_ml", "truth_ml"]].median().to_dict()
            rows.append({"case": f"median of {len(part)} {name}", "stripped": name == "stripped", **median})
    return pd.DataFrame(rows)


def apart(evaluate, embedder, parts):
    """Return a protocol's tables of each part with enough patients, one below the other."""
    tables = []
    for name, part in parts.items():
        if len(np.unique(part.patient_ids)) >= MIN_PATIENTS:
            table = evaluate(embedder, part)
            table.insert(0, "scans", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    main()
