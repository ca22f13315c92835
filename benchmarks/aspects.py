"""Which weights of aspects find the most similar tumors, on archives with labels and measured volumes.

    python -m benchmarks.aspects --embeddings simulated.npz --out RESULTS
    python -m benchmarks.aspects --embeddings stacks.npz --blocks 10 --out RESULTS

Every tumor is a query among the tumors of other patients, with ``--blocks`` among those of other contiguous
blocks of patients, for archives where neighbors in number may be one patient. Relevance is a point each for
type, octant (three sides, known and equal; none where the archive has no sides) and volume within twofold.
Columns: nDCG@10; shares of the ten neighbors with the query's side, area and type; balanced accuracy of the
type by five neighbors; the median over queries of the largest ratio of volumes among ten neighbors; of
contrast, rim fraction and necrotic share, where the file has them, Spearman's correlation of the query with
the mean of its neighbors. Intervals redraw patients. A row that is in the output is not computed again.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.geometry import ENHANCEMENT
from tumorsim.io import load_embeddings

K = 10
N_RESAMPLES = 1000
SAME_SIZE = 2.0
SIDES = ("hemisphere", "front_rear", "upper_lower")
WEIGHTS = {
    "plain embedding": "embedding",
    "type, place, size": {"type": 1, "place": 1, "size": 1},
    "type, place, size, look": {"type": 1, "place": 1, "size": 1, "look": 1},
    "look 1/2": {"type": 1, "place": 1, "size": 1, "look": 0.5},
    "look 1/4": {"type": 1, "place": 1, "size": 1, "look": 0.25},
    "size 2, look 1/4": {"type": 1, "place": 1, "size": 2, "look": 0.25},
    "place 1.5, size 2, look 1/4": {"type": 1, "place": 1.5, "size": 2, "look": 0.25},
    "place 2, look 1/4": {"type": 1, "place": 2, "size": 1, "look": 0.25},
    "place 2, size 2, look 1/4": {"type": 1, "place": 2, "size": 2, "look": 0.25},
    "place 2, size 3, look 1/4": {"type": 1, "place": 2, "size": 3, "look": 0.25},
    "type": {"type": 1},
    "place": {"place": 1},
    "size": {"size": 1},
    "look": {"look": 1},
}
for weight in (0.25, 0.5, 1):  # each of the three measured columns
    measured = dict.fromkeys(ENHANCEMENT, weight)
    WEIGHTS[f"look 1/4, measured {weight:g}"] = WEIGHTS["look 1/4"] | measured
    WEIGHTS[f"no look, measured {weight:g}"] = WEIGHTS["type, place, size"] | measured


def main():
    """Measure all weights and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help="file of 'tumorsim embed'")
    parser.add_argument("--blocks", type=int, help="contiguous blocks of patients; a query's own is left out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    X, columns, space = load_embeddings(args.embeddings)
    table = pd.DataFrame(columns)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.embeddings.stem}.csv"
    done = pd.read_csv(path) if path.exists() else pd.DataFrame({"weights": []})
    for name, aspects in WEIGHTS.items():
        if name not in set(done["weights"]) and set(ENHANCEMENT).intersection(aspects) <= set(table):
            row = {"weights": name} | measure(X, table, EmbeddingSpace.from_dict(space), aspects, args.blocks)
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(path, index=False)
            print(name, flush=True)
    print(done.round(3).to_string(index=False))


def measure(X, table, space, aspects, n_blocks=None):
    """Return the scores of one choice of weights, with 95 % intervals, as a dict."""
    groups = table["patient_id"].astype(str)
    if n_blocks is not None:
        order = np.unique(groups, return_inverse=True)[1]
        groups = pd.Series(order * n_blocks // (order.max() + 1)).astype(str)
    found = np.full((len(X), K), -1)
    metadata = table.assign(patient_id=groups, row=range(len(X)))
    asked = {"query_metadata": metadata, "max_per_patient": None, "alpha": None, "exclude": "same_patient"}
    index = TumorIndex().fit(X, metadata=metadata, space=space)
    answer = index.search(X, K, aspects=aspects, **asked)
    found[answer["query"], answer["rank"] - 1] = answer["row"]
    relevance = relevances(table)
    np.fill_diagonal(relevance, 0)
    relevance[groups.to_numpy()[:, None] == groups.to_numpy()] = 0
    names = ("type", SIDES[0], "region")
    types, sides, areas = (table.get(f"label_{name}", pd.Series(None, table.index)) for name in names)
    volume = pd.to_numeric(table["volume_mm3"]).to_numpy(dtype=float)
    ratios = np.exp(np.abs(np.log(volume[found]) - np.log(volume)[:, None])).max(axis=1)
    scores = {
        "ndcg": ndcg(relevance, found),
        "side": _agreement(sides.to_numpy(dtype=object), found),
        "area": _agreement(areas.to_numpy(dtype=object), found),
        "type": _agreement(types.to_numpy(dtype=object), found),
    }
    votes = _votes(types.to_numpy(dtype=object), found[:, :5])
    patients = np.unique(table["patient_id"].astype(str), return_inverse=True)[1]
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(
        patients.max() + 1, np.full(patients.max() + 1, 1 / (patients.max() + 1)), N_RESAMPLES
    )
    weights = np.vstack([np.ones(len(X)), drawn[:, patients]])
    result = {"n": len(X)}
    for name, values in scores.items():
        known = ~np.isnan(values)
        if known.any():
            _put(result, name, weights[:, known] @ values[known] / weights[:, known].sum(axis=1))
    accuracy = [balanced(types.to_numpy(dtype=object), votes, w) for w in weights]
    _put(result, "type_by_5", np.array(accuracy))
    repeated = (np.repeat(ratios, w.astype(int)) for w in weights)
    _put(result, "worst_size_ratio", np.array([np.median(values) for values in repeated]))
    for name in (name for name in ENHANCEMENT if name in table):
        own = table[name].to_numpy(dtype=float)
        known = ~np.isnan(own) & ~np.isnan(own[found]).all(axis=1)
        pairs = np.stack([own[known], np.nanmean(own[found[known]], axis=1)])
        drawn = (np.repeat(pairs, w[known].astype(int), axis=1) for w in weights[:201])
        _put(result, name, np.array([spearmanr(*values).statistic for values in drawn]))
    return result


def relevances(table):
    """Return points of pairs (n, n): a point each for type, octant and volume within twofold."""
    total = np.zeros((len(table), len(table)))
    if "label_type" in table:
        total += _same(table["label_type"])
    sides = [_same(table[f"label_{name}"]) for name in SIDES if f"label_{name}" in table]
    total += np.logical_and.reduce(sides) if len(sides) == len(SIDES) else 0
    logs = np.log(pd.to_numeric(table["volume_mm3"]).to_numpy(dtype=float))
    return total + (np.abs(logs[:, None] - logs) <= np.log(SAME_SIZE))


def ndcg(relevance, found):
    """Return nDCG at the number of columns of `found` (n, k), rows of neighbors, of each query (n,).

    Examples
    --------
    >>> relevance = np.array([[0.0, 3, 1], [3, 0, 0], [1, 0, 0]])
    >>> ndcg(relevance, np.array([[1, 2], [0, 2], [1, 0]])).round(3).tolist()
    [1.0, 1.0, 0.631]
    """
    discount = 1 / np.log2(np.arange(found.shape[1]) + 2)
    best = np.sort(relevance, axis=1)[:, ::-1][:, : found.shape[1]]
    reached = np.take_along_axis(relevance, found, axis=1) @ discount
    return np.divide(reached, best @ discount, out=np.full(len(found), np.nan), where=best[:, 0] > 0)


def _same(labels):
    """Return which pairs have the same known label, bool (n, n)."""
    values = labels.to_numpy(dtype=object)
    known = pd.notna(values)
    return (values[:, None] == values) & known[:, None] & known


def _agreement(labels, found):
    """Return the share of each query's labelled neighbors with its label, (n,), NaN where unknown."""
    known = pd.notna(labels[found]) & pd.notna(labels)[:, None]
    same = (labels[found] == labels[:, None]) & known
    n = known.sum(axis=1)
    return np.divide(same.sum(axis=1), n, out=np.full(len(found), np.nan), where=n > 0)


def _votes(labels, found):
    """Return the most frequent label of each row of neighbors; of equals, the nearest's."""
    votes = []
    for row in found:
        held = [label for label in labels[row] if pd.notna(label)]
        votes.append(max(held, key=held.count) if held else None)
    return np.array(votes, dtype=object)


def balanced(truth, votes, weights):
    """Return balanced accuracy of weighted rows."""
    recalls = []
    for label in pd.unique(truth[pd.notna(truth)]):
        of = (truth == label) * weights
        if of.sum() > 0:
            recalls.append(of[votes == label].sum() / of.sum())
    return float(np.mean(recalls)) if recalls else np.nan


def _put(result, name, values):
    """Write a score, the first of its values, and the 95 % interval of the others."""
    result[name] = values[0]
    result[f"{name}_low"], result[f"{name}_high"] = np.nanpercentile(values[1:], (2.5, 97.5))


if __name__ == "__main__":
    main()
