"""What a head gains that reads measured columns beside the features: the type, from files of embeddings.

    python -m benchmarks.measured --train PATIENTS/*.npz --test patients.npz rings.npz stacks.npz --out OUT

All files are of ``tumorsim embed`` by the same weights. The head is learned from ``--train``, simulated
patients that neither the network nor ``--test`` has. Rows, for each test file: the network's own head, the
measured one, and of real tumors the measured one that learned from them too, which count five times, by five
contiguous blocks of case numbers within each type. ``pairs`` are solitary rings, glioma against metastasis,
in pairs of equal volume, where a file has them. Balanced accuracy of the most probable of all types, of pairs
of those two, with its interval by patient.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.aspects import read
from benchmarks.pretrained import interval, is_ring, matched_in_volume
from benchmarks.protocol import block_folds
from benchmarks.shipping import REAL
from tumorsim.training import fit_measured_head
from tumorsim.weights import load_model, load_registry

N_FOLDS = 5


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="t1c-v6", help="registered weights of the embeddings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    registry = load_registry()
    classes = load_model(registry.path.parent / registry.get(args.model).file)[1]["classes"]["type"]
    parts = [read(path, f"{path.stem}/") for path in args.train]
    X, table = np.concatenate([part[0] for part in parts]), pd.concat([part[1] for part in parts])
    head = fit_measured_head(X, table, table["label_type"], classes)
    rows = []
    for path in args.test:
        queries, about, space = read(path)
        chances = {
            "own head": space.aspect_coordinates("type", queries),
            "measured head": head.probabilities(queries, about),
        }
        known = about["label_type"].isin(classes).to_numpy()
        if not is_simulated(about):
            chances["measured head, by folds"] = by_folds(X, table, queries, about, classes)
        for name, chosen, names in subsets(about, known, classes):
            rows += [
                score(path.stem, name, way, c, about, chosen, names, classes) for way, c in chances.items()
            ]
    found = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(args.out / f"measured-{args.model}.csv", index=False)
    print(found.round(2).to_string(index=False))


def is_simulated(table):
    """Tell whether a table is of simulated patients, which say whether tumors are rings."""
    return "ring" in table


def subsets(table, known, classes):
    """Yield name, rows and types of what is scored apart."""
    yield "all", known, classes
    if is_simulated(table):
        alone = is_ring(table) & (table["tumors_in_scan"] == 1).to_numpy()
        if {"glioma", "metastasis"} == set(table["label_type"]):
            yield "pairs", matched_in_volume(table, alone, ratio=1.3), ["glioma", "metastasis"]


def by_folds(X, table, queries, about, classes):
    """Return class probabilities of tumors by heads that learned from those of other blocks as well."""
    fold_of, found = block_folds(about["label_type"], N_FOLDS), np.zeros((len(queries), len(classes)))
    for fold in range(N_FOLDS):
        rest = fold_of != fold
        both = pd.concat([table, about[rest]], ignore_index=True)
        weight = np.r_[np.ones(len(X)), np.full(rest.sum(), REAL)]
        head = fit_measured_head(
            np.concatenate([X, queries[rest]]), both, both["label_type"], classes, sample_weight=weight
        )
        found[~rest] = head.probabilities(queries[~rest], about[~rest])
    return found


def score(file, subset, way, chances, table, chosen, names, classes):
    """Return the balanced accuracy of the most probable of `names` in the rows `chosen`."""
    said = np.array(names)[chances[:, [classes.index(name) for name in names]].argmax(axis=1)][chosen]
    truth = table["label_type"].to_numpy(dtype=str)[chosen]
    low, high = interval(truth, said, table["patient_id"].to_numpy(dtype=str)[chosen])
    row = {"file": file, "tumors": subset, "n": int(np.sum(chosen)), "by": way}
    right = pd.Series(said == truth).groupby(truth).mean().mean()
    return row | {"type": right, "low": low, "high": high}


if __name__ == "__main__":
    main()
