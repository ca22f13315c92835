"""Scores of finished runs, and the tidy rows that they become."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.metrics import (
    alignment,
    antihub_share,
    effective_rank,
    hubness,
    k_occurrence,
    uniformity,
)
from benchmarks.paper._runs import training_rows
from benchmarks.protocol import (
    RetrievalScores,
    evaluate_retrieval,
    paired_differences,
    pool_scores,
    rank_gallery,
)
from tumorsim.evaluation import interval, patient_weights

__all__ = [
    "COLUMNS", "KS", "Bench", "Method", "at_chosen", "chance_of", "difference_rows", "mask_rows",
    "mean_rows", "measure", "score_rows", "space_rows", "tidy_row",
]  # fmt: skip

COLUMNS = ["experiment", "method", "task", "metric", "k", "value", "ci_low", "ci_high", "n_patients", "seed"]
KS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
CUTOFFS = (1, 5, 10)
HUB_K = 10
VOTES = {"balanced_accuracy": 1, "mae": -1, "r2": 1, "spearman": 1}  # metrics with a k to choose; better is
CHOSEN_BY = ("balanced_accuracy", "r2")


@dataclass(frozen=True)
class Bench:
    """What all experiments share.

    Attributes
    ----------
    data : Data
    table : DataFrame
        Of ``data.cohort``.
    n_resamples : int
    """

    data: object
    table: pd.DataFrame
    n_resamples: int

    def score(self, result, *, side="test", gallery=None, ks=KS, n_resamples=None, queries=None, X=None):
        """Score a run: tumors of one side of the split are queries, training patients the gallery.

        `gallery` and `queries` are rows instead of these; `X` are other embeddings of the queries.
        """
        gallery = self.data.rows("train") if gallery is None else gallery
        queries = self.data.rows(side) if queries is None else queries
        return evaluate_retrieval(
            result.X[gallery], self.table.iloc[gallery].reset_index(drop=True),
            query_X=result.X[queries] if X is None else X,
            query_table=self.table.iloc[queries].reset_index(drop=True),
            n_neighbors=ks, cutoffs=CUTOFFS, metric=result.metric,
            n_resamples=self.n_resamples if n_resamples is None else n_resamples,
        )  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One row of a table: the runs of one configuration, one per seed.

    Attributes
    ----------
    name : str
    results : list of Result
    ks : dict of int
        Task → number of neighbors.
    scores : list of RetrievalScores
        One per run; k of votes and means is 0, which stands for that of `ks`.
    """

    name: str
    results: list
    ks: dict
    scores: list

    @property
    def pooled(self):
        """Mean over the seeds."""
        return pool_scores(self.scores)


def measure(bench, name, results, *, own_gallery=False):
    """Return the `Method` of some runs, at the k that validation patients choose.

    With `own_gallery` the gallery holds only the patients that a run was trained on.
    """
    own = [training_rows(r.record["config"], bench.data) if own_gallery else None for r in results]
    pairs = list(zip(results, own, strict=True))
    ks = _choose([bench.score(r, side="validation", gallery=g, n_resamples=0) for r, g in pairs])
    return Method(name, results, ks, [at_chosen(bench.score(r, gallery=g), ks) for r, g in pairs])


def score_rows(experiment, method):
    """Yield tidy rows of a `Method`: one per seed, and pooled where there are several."""
    parts = [(result.run.seed, scores) for result, scores in zip(method.results, method.scores, strict=True)]
    if len(parts) > 1:
        parts.insert(0, ("", method.pooled))
    for seed, scores in parts:
        for row in scores.table.to_dict("records"):
            k = method.ks.get(row["task"], 0) if row["metric"] in VOTES else row["k"]
            yield tidy_row(experiment, method.name, row, k, seed)
            if seed == parts[0][0]:
                yield tidy_row(experiment, "chance", chance_of(row), k, "")


def difference_rows(first, other, table, n_resamples, experiment="paired", real=None):
    """Yield tidy rows of by how much `first` is better than `other`, both at their own k, masks included."""
    found = paired_differences(first.pooled, other.pooled)
    n = first.pooled.table.set_index(["task", "metric", "k"])["n_patients"]
    for row in found.to_dict("records"):
        row["n_patients"] = n[row["task"], row["metric"], row["k"]]
        yield tidy_row(experiment, f"{first.name} − {other.name}", row, row["k"], "")
    masks = _dice(first, real), _dice(other, real)
    if not any(dice is None for dice in masks):
        better = (masks[0] - masks[1]).dropna()
        named = experiment, f"{first.name} − {other.name}", "mask", "dice"
        yield from mean_rows(*named, better, _patients(table, better.index), n_resamples=n_resamples)


def space_rows(experiment, name, bench, result):
    """Yield tidy rows of what a run's space of test tumors is like, centered on the gallery."""
    gallery, queries = bench.data.rows("train"), bench.data.rows("test")
    X = result.X
    order = rank_gallery(X[gallery], X[queries], metric=result.metric)[:, :HUB_K]
    counts = k_occurrence(order, len(gallery))
    n = bench.table["patient_id"].iloc[queries].nunique()
    found = {"hubness": (HUB_K, hubness(counts)), "antihub_share": (HUB_K, antihub_share(counts))}
    if result.metric != "hamming":  # codes have no directions
        centered = X[queries] - X[gallery].mean(axis=0)
        found |= {"effective_rank": (0, effective_rank(centered)), "uniformity": (0, uniformity(centered))}
        if "label_type" in bench.table:
            types = bench.table["label_type"].to_numpy(dtype=object)[queries]
            found["alignment"] = 0, alignment(centered, types)
    for metric, (k, value) in found.items():
        row = {"task": "space", "metric": metric, "value": value, "n_patients": n}
        yield tidy_row(experiment, name, row, k, result.run.seed)


def mean_rows(experiment, method, task, metric, values, patients, *, n_resamples, k=0, seed=""):
    """Return one tidy row of a mean with its bootstrap interval over patients."""
    values, patients = np.asarray(values, dtype=float), np.asarray(patients, dtype=str)
    weights = patient_weights(patients, 0, n_resamples)
    draws = weights @ values / weights.sum(axis=1)
    row = {"task": task, "metric": metric, "n_patients": len(set(patients))} | interval(draws)
    return [tidy_row(experiment, method, row, k, seed)]


def mask_rows(experiment, method, table, n_resamples, real=None):
    """Return the tidy row of the Dice of proposed masks, mean over seeds; none where none are learned.

    `table` has the patient of each case; `real` is the name of real scans, else they are the test patients'.
    """
    mean = _dice(method, real)
    if mean is None:
        return []
    seed = "" if len(method.results) > 1 else method.results[0].run.seed
    named = experiment, method.name, "mask", "dice"
    return mean_rows(*named, mean, _patients(table, mean.index), n_resamples=n_resamples, seed=seed)


def _dice(method, real=None):
    """Return the Dice of each case, mean over seeds, or None where no masks are learned."""
    masks = [masks for result in method.results if (masks := result.masks(real)) is not None]
    return pd.concat(masks).groupby("case_id", sort=False)["dice"].mean() if masks else None


def _patients(table, cases):
    """Return the patient of each case."""
    return table.drop_duplicates("case_id").set_index("case_id")["patient_id"][cases]


def chance_of(row):
    """Return the chance level of a score as a row of its own."""
    return {
        "task": row["task"],
        "metric": row["metric"],
        "n_patients": row["n_patients"],
        "value": row["chance"],
    }


def tidy_row(experiment, method, row, k, seed):
    """Return one tidy row; k is empty where there is none."""
    fixed = {"experiment": experiment, "method": method, "k": k or "", "seed": seed}
    return {name: (row | fixed).get(name, np.nan) for name in COLUMNS}


def _choose(validation):
    """Return the k of each task at which the mean score of the validation patients is best."""
    tables = [scores.table for scores in validation]
    both = pd.concat(tables, ignore_index=True)
    both = both[both["metric"].isin(CHOSEN_BY)]
    means = both.groupby(["task", "k"])["value"].mean()
    return {task: int(part.idxmax()[1]) for task, part in means.groupby("task") if part.notna().any()}


def at_chosen(scores, ks):
    """Keep of votes and means those at the chosen k, which is then called 0."""
    table = scores.table
    votes = table["metric"].isin(VOTES)
    chosen = table["k"] == table["task"].map(ks).fillna(-1)
    rows = np.flatnonzero(~votes | chosen)
    kept = table.iloc[rows].reset_index(drop=True)
    kept.loc[kept["metric"].isin(VOTES), "k"] = 0
    return RetrievalScores(kept, scores.draws[rows], scores.queries)
