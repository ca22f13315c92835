"""Whether answers can be trusted: aspects, p-values, votes and hubs, on an archive with labels.

    python -m benchmarks.answers --manifest ARCHIVE.csv [--model MODEL] [--out DIR]

Prints, and writes as CSV into ``--out``:

1. aspects: what searching by one aspect gains in that aspect's precision@10 over the plain distance, what the
   others lose, and how much longer it takes,
2. p_values: how often queries that are like the archive have p-values of at most a level (calibrated: about
   as often as the level says),
3. left_out: each type left out of the archive in turn; AUROC of p-values telling its tumors from tumors of
   types that are in, and the share of both called no close match,
4. votes: Brier score and expected calibration error of vote shares, before and after calibration, on patients
   that neither the archive nor the calibration has seen,
5. hubness: skewness of how often a tumor is among the ten nearest, and precision@10 of the type, for each
   distance, and with hubs corrected by local scaling.

Intervals are 95 %, by patient. The archive should be of patients that the model was not fitted on; of others
the numbers flatter.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks import metrics
from tumorsim import TumorEmbedder, TumorIndex, load_cohort
from tumorsim.answers import votes
from tumorsim.calibration import VoteCalibration
from tumorsim.retrieval import embed_archive

K = 10
SAME_SIZE = 1.5  # volumes of a ratio below this count as equal
LEVELS = (0.05, 0.1, 0.25, 0.5)
N_SPLITS = 20
N_RESAMPLES = 1_000
N_TIMED = 5
MOST_HUBS = 5_000  # tumors of the full distance matrix


def main():
    """Embed the archive and print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", default="default", help="a model file, or 'default' for shipped weights")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--random-state", type=int, default=0)
    args = parser.parse_args()
    embedder = TumorEmbedder.from_pretrained() if args.model == "default" else TumorEmbedder.load(args.model)
    X, columns = embed_archive(embedder, load_cohort(args.manifest), progress=True)
    tables = run(X, pd.DataFrame(columns), embedder.space_, random_state=args.random_state)
    for name, table in tables.items():
        print(f"\n{name}\n{table.round(3).to_string(index=False)}")
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            table.to_csv(args.out / f"{name}.csv", index=False)


def run(X, table, space, *, random_state=0):
    """Return name → table of all parts, for embeddings with their metadata and space."""
    parts = {
        "aspects": aspects,
        "p_values": p_values,
        "left_out": left_out_types,
        "votes": vote_calibration,
        "hubness": hubness,
    }
    return {name: part(X, table, space, np.random.default_rng(random_state)) for name, part in parts.items()}


def aspects(X, table, space, rng):
    """Return precision@10 of every aspect, when each is searched by, beside the plain distance."""
    index = TumorIndex().fit(X, metadata=table, space=space)
    labels = {n: table[f"label_{n}"] for n in space.aspects if f"label_{n}" in table}
    names = [n for n, values in labels.items() if values.nunique() > 1 and n in index.aspects_]
    sized = "size" in index.aspects_
    patients = table["patient_id"].to_numpy()
    plain, plain_seconds = _precisions(index, X, table, labels, "embedding")
    rows = []
    for aspect in [*names, *(["place"] if "place" in index.aspects_ else []), *(["size"] if sized else [])]:
        use = np.ones(len(X), dtype=bool)
        if aspect == "size":  # tumors without a volume cannot be queries
            use = (pd.to_numeric(table["volume_mm3"]) > 0).to_numpy()
        by, seconds = _precisions(index, X[use], table[use], labels, {aspect: 1})
        for measured in [*names, *(["size"] if sized else [])]:
            gain = by[measured] - plain[measured][use]
            low, high = interval(gain, patients[use], rng)
            row = {"aspect": aspect, "precision_of": measured, "plain": _mean(plain[measured][use])}
            row |= {"by_aspect": _mean(by[measured]), "gain": _mean(gain)}
            ratio = (seconds / use.sum()) / (plain_seconds / len(X))
            rows.append(row | {"ci_low": low, "ci_high": high, "time_ratio": ratio})
    return pd.DataFrame(rows)


def p_values(X, table, space, rng):
    """Return how often queries of other patients, drawn from the archive, have p at most each level."""
    found = {level: [] for level in LEVELS}
    who = []
    for _ in range(N_SPLITS):
        inside = _drawn(table["patient_id"], rng, 0.5)
        p = _p_values(X, table, space, inside, _one_each(table["patient_id"], ~inside, rng))
        who.append(p.index.to_numpy())
        for level in LEVELS:
            found[level].append((p <= level).to_numpy(dtype=float) + np.where(p.isna(), np.nan, 0))
    who = np.concatenate(who)
    rows = []
    for level in LEVELS:
        share = np.concatenate(found[level])
        low, high = interval(share, who, rng)
        rows.append({"level": level, "share": _mean(share)})
        rows[-1] |= {"ci_low": low, "ci_high": high, "n_patients": len(set(who))}
    return pd.DataFrame(rows)


def left_out_types(X, table, space, rng, *, task="type", alpha=0.05):
    """Return for each type how well p-values tell its tumors where the archive has none of it.

    A third of the other patients are queries too. AUROC is of p-values, lower for the type that is left out.
    """
    rows = []
    types = table[f"label_{task}"] if f"label_{task}" in table else pd.Series(dtype=object)
    for kind in sorted(types.dropna().unique()):
        others = ~table["patient_id"].isin(table["patient_id"][types == kind]).to_numpy()
        others &= types.notna().to_numpy()
        queries = others & ~_drawn(table["patient_id"], rng, 2 / 3)
        inside = others & ~queries
        new = _one_each(table["patient_id"], (types == kind).to_numpy(), rng)
        usual = _one_each(table["patient_id"], queries, rng)
        if not inside.any() or not len(new) or not len(usual):
            continue
        p = _p_values(X, table, space, inside, np.concatenate([new, usual])).to_numpy()
        is_new = np.arange(len(p)) < len(new)
        if np.isnan(p).all():
            continue
        scores = [roc_auc_score(is_new, -p)]
        for _ in range(N_RESAMPLES):  # every row is another patient
            drawn = rng.integers(len(p), size=len(p))
            if 0 < is_new[drawn].sum() < len(drawn):
                scores.append(roc_auc_score(is_new[drawn], -p[drawn]))
        low, high = np.percentile(scores[1:], (2.5, 97.5))
        row = {"left_out": kind, "n_left_out": len(new), "n_usual": len(usual), "auroc": scores[0]}
        row |= {"ci_low": low, "ci_high": high, "called_new": np.mean(p[is_new] <= alpha)}
        rows.append(row | {"falsely_called": np.mean(p[~is_new] <= alpha)})
    return pd.DataFrame(rows)


def vote_calibration(X, table, space, rng, *, n_neighbors=K):
    """Return Brier score and calibration error of votes before and after, on patients of a third set."""
    inside = _drawn(table["patient_id"], rng, 0.5)
    learn = ~inside & _drawn(table["patient_id"], rng, 0.5)
    test = ~inside & ~learn
    index = TumorIndex().fit(X[inside], metadata=table[inside], space=space)
    counted, of = {}, {}
    for name, part in (("learn", learn), ("test", test)):
        of[name] = table[part].reset_index(drop=True)
        if not part.any():
            return pd.DataFrame()
        counted[name] = votes(
            index.search(X[part], n_neighbors, aspects="embedding"), index.metadata_, n_neighbors=n_neighbors
        )
    try:
        calibration = VoteCalibration().fit(counted["learn"], of["learn"])
    except ValueError as err:
        warnings.warn(f"No calibration: {err}", stacklevel=2)
        return pd.DataFrame()
    rows = []
    for row in calibration.evaluate(counted["test"], of["test"]).to_dict("records"):
        task = row["task"]
        voted = counted["test"][counted["test"]["task"] == task]
        truth = of["test"][f"label_{task}"].to_numpy(dtype=object)[voted["query"]]
        answered = voted["abstains"].isna().to_numpy() & pd.notna(truth)
        voted, truth = voted[answered], truth[answered]
        share = (voted["n_votes"] / voted["n_labelled"]).to_numpy(dtype=float)
        correct = (voted["label"].to_numpy(dtype=object) == truth).astype(float)
        gain = (share - correct) ** 2 - (calibration.predict(voted) - correct) ** 2
        low, high = interval(gain, of["test"]["patient_id"].to_numpy()[voted["query"]], rng)
        row |= {"answered": answered.mean(), "right": correct.mean()}
        rows.append(row | {"brier_gain": gain.mean(), "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def hubness(X, table, space, rng, *, task="type"):
    """Return skewness of 10-occurrence and precision@10 of the type, plain and with local scaling."""
    if len(X) > MOST_HUBS:
        some = np.sort(rng.choice(len(X), MOST_HUBS, replace=False))
        X, table = X[some], table.iloc[some].reset_index(drop=True)
    patients = table["patient_id"].to_numpy()
    types = table[f"label_{task}"].to_numpy(dtype=object) if f"label_{task}" in table else None
    rows = []
    for metric in ("euclidean", "cosine", "whitened"):
        index = TumorIndex(metric=metric).fit(X, metadata=table, space=space)
        distances, near = index.kneighbors(X, len(X))
        full = np.empty_like(distances)
        np.put_along_axis(full, near, distances, axis=1)
        full[patients[:, None] == patients] = np.inf
        k = min(K, int(np.isfinite(full).sum(axis=1).min()))
        if k < 1:
            continue
        radius = np.sort(full, axis=1)[:, :k].mean(axis=1)
        scale = np.sqrt(np.maximum(radius[:, None] * radius, np.finfo(float).tiny))
        for corrected, values in ((False, full), (True, full / scale)):
            nearest = np.argsort(values, axis=1, kind="stable")[:, :k]
            row = {"metric": metric, "corrected": corrected}
            occurs = np.bincount(nearest.ravel(), minlength=len(X))
            row["skewness"] = metrics.hubness(occurs)
            if types is not None:
                known = pd.notna(types)
                agree = (types[nearest] == types[:, None]).mean(axis=1)[known]
                row["precision"] = agree.mean()
                row["ci_low"], row["ci_high"] = interval(agree, patients[known], rng)
            rows.append(row)
    return pd.DataFrame(rows)


def _mean(values):
    """Return the mean of what is known, NaN where nothing is."""
    values = values[~np.isnan(values)]
    return values.mean() if len(values) else np.nan


def interval(values, patients, rng):
    """Return the 95 % interval of a mean, patients redrawn; NaN where no value is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.nan
    _, code = np.unique(np.asarray(patients, dtype=str)[known], return_inverse=True)
    total, n = np.bincount(code, weights=values[known]), np.bincount(code)
    drawn = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), size=N_RESAMPLES)
    return tuple(np.percentile((drawn @ total) / (drawn @ n), (2.5, 97.5)))


def _precisions(index, X, table, labels, aspects):
    """Return name → precision@10 of each query (NaN without a label), and the CPU seconds of a search."""
    of = table.reset_index(drop=True)
    options = {"query_metadata": of, "exclude": "same_patient", "max_per_patient": None, "aspects": aspects}
    index.search(X[:1], K, **{**options, "query_metadata": of[:1]})  # engines are built
    start = time.process_time()  # of the CPU: machines are shared
    for _ in range(N_TIMED):
        answer = index.search(X, K, alpha=None, **options)
    seconds = (time.process_time() - start) / N_TIMED
    query = answer["query"].to_numpy()

    def mean(agrees, known):
        """Return the mean over each query's known neighbors."""
        n = np.bincount(query[known], minlength=len(X))
        total = np.bincount(query[known], weights=agrees[known].astype(float), minlength=len(X))
        return np.divide(total, n, out=np.full(len(X), np.nan), where=n > 0)

    precisions = {}
    for name in labels:
        own = of[f"label_{name}"].to_numpy(dtype=object)[query]
        other = answer[f"label_{name}"].to_numpy(dtype=object)
        precisions[name] = mean(own == other, pd.notna(own) & pd.notna(other))
    if "volume_mm3" in table:
        ratio = np.log(pd.to_numeric(of["volume_mm3"]).to_numpy(dtype=float)[query])
        ratio = np.abs(ratio - np.log(pd.to_numeric(answer["volume_mm3"]).to_numpy(dtype=float)))
        precisions["size"] = mean(ratio < np.log(SAME_SIZE), np.isfinite(ratio))
    return precisions, seconds


def _p_values(X, table, space, inside, rows):
    """Return p-values of rows as queries of an archive, a Series by their patients."""
    patients = table["patient_id"].to_numpy()[rows]
    if not inside.any() or not len(rows):
        return pd.Series([], index=patients[:0], dtype=float)
    index = TumorIndex().fit(X[inside], metadata=table[inside], space=space)
    answer = index.search(X[rows], 1, aspects="embedding")
    return pd.Series(answer["p_value"].to_numpy(), index=patients[answer["query"]])


def _drawn(patients, rng, share):
    """Return which rows are of a random share of the patients, bool (n,)."""
    unique = np.unique(patients.to_numpy(dtype=str))
    chosen = rng.permutation(unique)[: round(share * len(unique))]
    return patients.isin(chosen).to_numpy()


def _one_each(patients, mask, rng):
    """Return one random row of the mask for each patient."""
    rows = rng.permutation(np.flatnonzero(mask))
    _, first = np.unique(patients.to_numpy(dtype=str)[rows], return_index=True)
    return rows[first]


if __name__ == "__main__":
    main()
