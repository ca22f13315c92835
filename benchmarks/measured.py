"""What a head gains that reads measured columns beside the features: the type, from files of embeddings.

    python -m benchmarks.measured --train PATIENTS/*.npz --test patients.npz rings.npz stacks.npz --out OUT

All files are of ``tumorsim embed`` by the same weights. The head is learned from ``--train``, simulated
patients that neither the network nor ``--test`` has. Rows, for each test file: the network's own head, the
measured one, and of real tumors the measured one that learned from them too (`shipping.beside`), by five
contiguous blocks of case numbers within each type. ``pairs`` are solitary rings, glioma against metastasis,
in pairs of equal volume, where a file has them. Balanced accuracy of the most probable of all types, of pairs
of those two, and of real tumors of the types that their file has as well, with its interval by patient.

    python -m benchmarks.measured --folds RUN --out OUT

is the same of real stacks by the networks of `benchmarks.fine_tuning`, none of which has seen the stacks that
it is asked about, ``RUN/fold-K.safetensors``: ``RUN/fold-K-stacks.npz`` are all stacks by the network of fold
K, ``RUN/fold-K-*.npz`` the simulated patients that a head is learned from. Neighbors are five of other folds.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.aspects import read
from benchmarks.pretrained import interval, is_ring, matched_in_volume, score_of
from benchmarks.protocol import block_folds
from benchmarks.shipping import beside
from tumorsim.training import fit_measured_head
from tumorsim.weights import load_model, load_registry

N_FOLDS = 5


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="+", default=[])
    parser.add_argument("--test", type=Path, nargs="+", default=[])
    parser.add_argument("--folds", type=Path)
    parser.add_argument("--model", default="t1c-v6", help="registered weights of the embeddings")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if bool(args.train and args.test) == bool(args.folds):
        parser.error("Give --train and --test, or --folds.")
    found = networks_of_folds(args.folds) if args.folds else pd.DataFrame(heads(args))
    args.out.mkdir(parents=True, exist_ok=True)
    found.to_csv(args.out / f"measured-{'folds' if args.folds else args.model}.csv", index=False)
    print(found.round(2).to_string(index=False))


def heads(args):
    """Return a row per file, subset and head."""
    registry = load_registry()
    classes = load_model(registry.path.parent / registry.get(args.model).file)[1]["classes"]["type"]
    X, table = patients(args.train)
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
    return rows


def patients(files):
    """Return embeddings and table of simulated patients, whose ids get their file's name."""
    parts = [read(path, f"{path.stem}/") for path in files]
    return np.concatenate([part[0] for part in parts]), pd.concat([part[1] for part in parts])


def is_simulated(table):
    """Tell whether a table is of simulated patients, which say whether tumors are rings."""
    return "ring" in table


def subsets(table, known, classes):
    """Yield name, rows and types of what is scored apart."""
    yield "all", known, classes
    if not is_simulated(table):
        yield "told from theirs", known, sorted(set(table["label_type"][known]))
    else:
        alone = is_ring(table) & (table["tumors_in_scan"] == 1).to_numpy()
        if {"glioma", "metastasis"} == set(table["label_type"]):
            yield "pairs", matched_in_volume(table, alone, ratio=1.3), ["glioma", "metastasis"]


def by_folds(X, table, queries, about, classes):
    """Return class probabilities of tumors by heads that learned from those of other blocks as well."""
    fold_of, found = block_folds(about["label_type"], N_FOLDS), np.zeros((len(queries), len(classes)))
    for fold in range(N_FOLDS):
        rest = fold_of != fold
        head = joint_head(X, table, queries[rest], about[rest], classes)
        found[~rest] = head.probabilities(queries[~rest], about[~rest])
    return found


def joint_head(X, table, real_X, real_table, classes):
    """Return the head that simulated tumors and real ones teach."""
    both = pd.concat([table, real_table], ignore_index=True)
    types = both["label_type"].to_numpy(dtype=object)
    options = beside(types, len(X), classes)
    return fit_measured_head(np.concatenate([X, real_X]), both, types, classes, **options)


def networks_of_folds(run):
    """Return a row per way to tell the type of real stacks, each by the network that has not seen it."""
    parts = [told_by_fold(run, fold) for fold in range(N_FOLDS)]
    said = pd.concat(parts).sort_values("case_id")
    types = said["label_type"].to_numpy(dtype=str)
    ways = said.columns.drop(["case_id", "label_type"])
    rows = [score_of(way, types, said[way].to_numpy(dtype=str)) for way in ways]
    return pd.DataFrame(rows).drop(columns="predicted")


def told_by_fold(run, fold):
    """Return the stacks of one fold with the type that each way tells, a row each."""
    queries, about, space = read(run / f"fold-{fold}-stacks.npz")
    order = np.argsort(about["case_id"].to_numpy(dtype=str), kind="stable")
    queries, about = queries[order], about.iloc[order].reset_index(drop=True)
    files = [path for path in sorted(run.glob(f"fold-{fold}-*.npz")) if not path.stem.endswith("-stacks")]
    X, table = patients(files)
    types, names = about["label_type"].to_numpy(dtype=str), sorted(set(table["label_type"]))
    own = load_model(run / f"fold-{fold}.safetensors")[1]["classes"]["type"]
    asked = block_folds(types, N_FOLDS) == fold
    simulated = fit_measured_head(X, table, table["label_type"], names).probabilities(queries, about)
    joint = joint_head(X, table, queries[~asked], about[~asked], names).probabilities(queries, about)
    chances = {
        f"own head, {len(own)} types": (space.aspect_coordinates("type", queries), own),
        f"measured head, {len(names)} types": (simulated, names),
        f"measured head, {len(names)} types, of real stacks too": (joint, names),
        f"the same, told from {len(own)} types": (joint[:, [names.index(name) for name in own]], own),
    }
    told = {way: np.array(of)[c[asked].argmax(axis=1)] for way, (c, of) in chances.items()}
    points = {"plain distance": space.coordinates(queries)}
    points |= {f"{way}, as a distance": np.sqrt(c) for way, (c, _) in chances.items()}
    for way, P in points.items():
        told[f"5 neighbors, {way}"] = KNeighborsClassifier(5).fit(P[~asked], types[~asked]).predict(P[asked])
    return pd.DataFrame({"case_id": about["case_id"][asked], "label_type": types[asked]} | told)


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
