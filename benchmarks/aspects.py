"""Which weights of aspects find the most similar tumors, on archives with labels and measured volumes.

    python -m benchmarks.aspects --embeddings simulated.npz --out RESULTS
    python -m benchmarks.aspects --embeddings stacks.npz --blocks 10 --out RESULTS
    python -m benchmarks.aspects --embeddings simulated.npz --gallery archive-*.npz --out RESULTS

Every tumor is a query among the tumors of other patients, with ``--blocks`` among those of other contiguous
blocks of patients, for archives where neighbors in number may be one patient. With ``--gallery`` neighbors
come from other files, whose patients are taken for others than the queries'. Relevance is a point each for
type, octant (three sides, known and equal; none where the archive has no sides) and volume within twofold.
Rows called "true" search by the labels and volumes themselves, for reference: what they miss, the archive has
not enough tumors for. The row "chances" ranks by the expected relevance itself, as the heads have it.
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
TRUE = {"true type, sides and size": (1, 1, 1), "the same, size 2": (1, 1, 2), "the same, size 4": (1, 1, 4)}
N_RESAMPLES = 1000
SAME_SIZE = 2.0
SIDES = ("hemisphere", "front_rear", "upper_lower")
THREE = {"type": 1, "place": 1, "size": 1}
DEFAULT = THREE | {"look": 0.05}
WEIGHTS = {
    "plain embedding": "embedding",
    "type, place, size": THREE,
    "default: look 0.05": DEFAULT,
    "look 0.25": THREE | {"look": 0.25},
    "type 2": DEFAULT | {"type": 2},
    "place 2": DEFAULT | {"place": 2},
    "size 2": DEFAULT | {"size": 2},
    "logarithm of the volume in place of size": {"type": 1, "place": 1, "look": 0.05, "volume_mm3": 1},
    "type": {"type": 1},
    "place": {"place": 1},
    "size": {"size": 1},
    "look": {"look": 1},
    "chances": "chances",  # no aspects of an index, see `chances`
}
for weight in (0.05, 0.1, 0.25):  # each of the three measured columns
    WEIGHTS[f"default, measured {weight:g}"] = DEFAULT | dict.fromkeys(ENHANCEMENT, weight)


def main():
    """Measure all weights and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--embeddings", type=Path, required=True, help="file of 'tumorsim embed'")
    parser.add_argument(
        "--gallery", type=Path, nargs="+", help="files of the same weights to find neighbors in"
    )
    parser.add_argument("--blocks", type=int, help="contiguous blocks of patients; a query's own is left out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    X, table, space = read(args.embeddings)
    gallery = None
    if args.gallery:
        parts = [read(path, f"{path.stem}/") for path in args.gallery]
        if any(part[2].fingerprint != space.fingerprint for part in parts):
            parser.error("--gallery must be of the same weights as --embeddings.")
        gallery = np.concatenate([part[0] for part in parts]), pd.concat([part[1] for part in parts])
        gallery = gallery[0], gallery[1].reset_index(drop=True)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.embeddings.stem}{f'-in-{len(gallery[0])}' if gallery else ''}.csv"
    done = pd.read_csv(path) if path.exists() else pd.DataFrame({"weights": []})
    tables = [table] if gallery is None else [table, gallery[1]]
    jobs = {
        name: (X, gallery, space, aspects)
        for name, aspects in WEIGHTS.items()
        if all(set(ENHANCEMENT).intersection(aspects) <= set(each) for each in tables)
    }
    for name, weights in TRUE.items() if all(f"label_{task}" in table for task in ("type", *SIDES)) else ():
        points = truth(pd.concat(tables, ignore_index=True), weights)
        known = None if gallery is None else (points[len(table) :], gallery[1])
        jobs[name] = (points[: len(table)], known, None, "embedding")
    for name, (points, known, about, aspects) in jobs.items():
        if name not in set(done["weights"]):
            row = {"weights": name} | measure(points, table, about, aspects, args.blocks, known)
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(path, index=False)
            print(name, flush=True)
    print(done.round(3).to_string(index=False))


def read(path, prefix=""):
    """Return embeddings, table and space of a file; ids get a prefix, so that those of two files differ."""
    X, columns, space = load_embeddings(path)
    table = pd.DataFrame(columns)
    ids = {name: prefix + table[name].astype(str) for name in ("patient_id", "case_id", "tumor_id")}
    return X, table.assign(**ids), EmbeddingSpace.from_dict(space)


def truth(table, weights):
    """Return points (n, m) whose distance is that of type, sides and log-volume as they are, by `weights`."""
    signs = {"left": -1, "right": 1, "front": -1, "rear": 1, "upper": -1, "lower": 1}
    parts = [
        labels_of(table, "type")[:, None] == pd.unique(labels_of(table, "type")),
        table[[f"label_{side}" for side in SIDES]].replace(signs).infer_objects().fillna(0).to_numpy(float),
        logs_of(table)[:, None],
    ]
    scaled = [np.sqrt(w / part.var(axis=0).sum()) * part for w, part in zip(weights, parts, strict=True)]
    return np.hstack(scaled).astype(np.float32)


def measure(X, table, space, aspects, n_blocks=None, gallery=None):
    """Return the scores of one choice of weights, with 95 % intervals, as a dict.

    Neighbors come from `gallery`, embeddings and table, or from the queries of other patients.
    """
    groups = table["patient_id"].astype(str)
    if n_blocks is not None:
        order = np.unique(groups, return_inverse=True)[1]
        groups = pd.Series(order * n_blocks // (order.max() + 1)).astype(str)
    GX, others, theirs = (X, table, groups) if gallery is None else (*gallery, gallery[1]["patient_id"])
    own = groups.to_numpy()[:, None] == theirs.to_numpy()
    relevance = relevances(table, others)
    relevance[own] = 0
    if aspects == "chances":
        expected = chances(space, X, table, GX, others)
        found = np.argsort(np.where(own, np.inf, -expected), axis=1, kind="stable")[:, :K]
    else:
        asked = {"max_per_patient": None, "alpha": None, "exclude": "same_patient"}
        asked["query_metadata"] = table.assign(patient_id=groups)
        held = others.assign(patient_id=theirs, row=range(len(GX)))
        answer = TumorIndex().fit(GX, metadata=held, space=space).search(X, K, aspects=aspects, **asked)
        found = np.full((len(X), K), -1)
        found[answer["query"], answer["rank"] - 1] = answer["row"]
    names = ("type", SIDES[0], "region")
    own, near = ([labels_of(one, name) for name in names] for one in (table, others))
    ratios = np.exp(np.abs(logs_of(others)[found] - logs_of(table)[:, None])).max(axis=1)
    scores = {"ndcg": ndcg(relevance, found)}
    for name, labels, labels_near in zip(("type", "side", "area"), own, near, strict=True):
        scores[name] = _agreement(labels, labels_near[found])
    types, votes = own[0], _votes(near[0][found[:, :5]])
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
    accuracy = [balanced(types, votes, w) for w in weights]
    _put(result, "type_by_5", np.array(accuracy))
    repeated = (np.repeat(ratios, w.astype(int)) for w in weights)
    _put(result, "worst_size_ratio", np.array([np.median(values) for values in repeated]))
    for name in (name for name in ENHANCEMENT if name in table and name in others):
        asked, held = (one[name].to_numpy(dtype=float) for one in (table, others))
        known = ~np.isnan(asked) & ~np.isnan(held[found]).all(axis=1)
        pairs = np.stack([asked[known], np.nanmean(held[found[known]], axis=1)])
        drawn = (np.repeat(pairs, w[known].astype(int), axis=1) for w in weights[:201])
        _put(result, name, np.array([spearmanr(*values).statistic for values in drawn]))
    return result


def chances(space, X, table, others, known):
    """Return the expected relevance of pairs (n, m) of queries X and embeddings `others`.

    It is the chance that the types agree, as the head's two predictions have it, and that all three sides do,
    and 1 where the volumes are within twofold; of equals the nearest in volume comes first.
    """

    def agree(task):
        known_of = ((X, table), (others, known))
        one, two = (space.aspect_coordinates(task, points, about) ** 2 for points, about in known_of)
        return one @ two.T

    apart = np.abs(logs_of(table)[:, None] - logs_of(known)) / np.log(SAME_SIZE)
    return agree("type") + np.prod([agree(side) for side in SIDES], axis=0) + (apart <= 1) - 1e-3 * apart


def labels_of(table, task):
    """Return the labels of a task (n,), None where there are none."""
    return table.get(f"label_{task}", pd.Series(None, table.index)).to_numpy(dtype=object)


def logs_of(table):
    """Return the logarithms of volumes, (n,)."""
    return np.log(pd.to_numeric(table["volume_mm3"]).to_numpy(dtype=float))


def relevances(table, others):
    """Return points of pairs (n, m): a point each for type, octant and volume within twofold.

    Examples
    --------
    >>> columns = {"label_hemisphere": "left", "label_front_rear": "rear", "label_upper_lower": "upper"}
    >>> one = pd.DataFrame({"label_type": ["glioma"], "volume_mm3": [100.0]} | columns)
    >>> two = pd.DataFrame({"label_type": ["glioma", "other"], "volume_mm3": [300, 199]} | columns)
    >>> relevances(one, two)
    array([[2., 2.]])
    """
    total = _same(*(labels_of(one, "type") for one in (table, others))).astype(float)
    sides = [_same(*(labels_of(one, name) for one in (table, others))) for name in SIDES]
    total += np.logical_and.reduce(sides)
    return total + (np.abs(logs_of(table)[:, None] - logs_of(others)) <= np.log(SAME_SIZE))


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


def _same(labels, others):
    """Return which pairs have the same known label, bool (n, m)."""
    return (labels[:, None] == others) & pd.notna(labels)[:, None] & pd.notna(others)


def _agreement(labels, near):
    """Return the share of each query's labelled neighbors with its label, (n,), NaN where unknown."""
    known = pd.notna(near) & pd.notna(labels)[:, None]
    same = (near == labels[:, None]) & known
    n = known.sum(axis=1)
    return np.divide(same.sum(axis=1), n, out=np.full(len(near), np.nan), where=n > 0)


def _votes(near):
    """Return the most frequent label of each row of neighbors' labels; of equals, the nearest's."""
    votes = []
    for row in near:
        held = [label for label in row if pd.notna(label)]
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
