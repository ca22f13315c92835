"""The strict protocol: what a gallery of other patients answers to held-out queries, against chance."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tumorsim._validation import check_integer
from tumorsim.evaluation._bootstrap import N_RESAMPLES, interval
from tumorsim.evaluation._knn import (
    _balanced_accuracy,
    _check_ks,
    _label,
    _number,
    _tasks,
    class_draws,
    regression_draws,
)
from tumorsim.evaluation._questions import Questions, pair_blocks
from tumorsim.metrics import (
    average_precision,
    chance_levels,
    ndcg_at_k,
    ndcg_chance,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)

__all__ = ["TARGETS", "RetrievalScores", "evaluate_retrieval"]

TARGETS = ("log_volume", "diameter_mm", "sphericity", "elongation")
GRADES = ("type", "region", "hemisphere")  # and size: volumes within a factor of two
_COLUMNS = [
    "task",
    "metric",
    "k",
    "value",
    "chance",
    "ci_low",
    "ci_high",
    "n_queries",
    "n_skipped",
    "n_patients",
]


@dataclass(frozen=True)
class RetrievalScores:
    """Scores with their resamples, so that methods can be compared on the same ones.

    Attributes
    ----------
    table : DataFrame
        A row a score: ``task``, ``metric``, ``k`` (0 where there is no cutoff), ``value``, ``chance``,
        the 95 % interval ``ci_low``, ``ci_high``, ``n_queries``, ``n_skipped``, ``n_patients``.
    draws : ndarray of shape (n_scores, 1 + n_resamples)
        The score, and the score of each resample of patients.
    queries : str
        Names the queries and the seed: only scores of the same can be compared.
    """

    table: pd.DataFrame
    draws: np.ndarray
    queries: str


def evaluate_retrieval(
    X,
    table,
    *,
    query_X=None,
    query_table=None,
    folds=None,
    n_neighbors=range(1, 51),
    cutoffs=(1, 5, 10),
    targets=None,
    metric="euclidean",
    n_resamples=N_RESAMPLES,
    random_state=0,
):
    """Score what held-out queries find in a gallery of other patients.

    For every ``label_<task>`` column: balanced accuracy of the vote of the k nearest labeled tumors;
    precision and recall at k, average precision over the whole gallery and reciprocal rank, all averaged so
    that every class counts alike. For numbers, the mean of the k nearest predicts: mean absolute error, R²
    and Spearman's ρ. Task ``graded`` is nDCG at k, with a point each for the same type, region, side and size
    (volumes within a factor of two).

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings of the gallery.
    table : DataFrame of n_tumors rows
        ``cohort.table``.
    query_X, query_table : optional
        The same of the queries, of other patients.
    folds : array-like of shape (n_tumors,), optional
        Instead of queries: each tumor asks those of the other folds.
    n_neighbors : int or sequence of int, default=range(1, 51)
        Each k of votes and means; where the gallery has fewer, all of them are used.
    cutoffs : sequence of int, default=(1, 5, 10)
        Each k of precision, recall and nDCG; those larger than the gallery are left out.
    targets : sequence of str, optional
        Numeric columns; default log_volume, diameter_mm, sphericity and elongation, where they are.
    metric : {"euclidean", "cosine", "hamming"}, default="euclidean"
    n_resamples : int, default=1000
        Of the bootstrap over query patients; 0 leaves intervals out.
    random_state : int, default=0
        Its seed.

    Returns
    -------
    RetrievalScores

    Raises
    ------
    ValueError
        If the protocol is wrong (see Notes), rows do not fit, or nothing can be evaluated.

    See Also
    --------
    tumorsim.evaluate_knn : Leave-one-patient-out within one archive.

    Notes
    -----
    A patient on both sides, a query in the gallery, and a mirrored or plain copy of a query's scan under
    another patient's id are errors, not scores. A query for which nothing in the gallery is relevant has no
    ranking score: it is skipped and counted in ``n_skipped``; so is one whose label the gallery lacks.
    """
    ks, cutoffs = _check_ks(n_neighbors), _check_ks(cutoffs)
    check_integer(n_resamples, "n_resamples", minimum=0)
    X, table, blocks = pair_blocks(X, table, query_X, query_table, folds)
    asked = Questions(X, table, blocks, metric, n_resamples, random_state)
    found = [
        *(
            score
            for task in _tasks(table, table, _targets(table, targets))
            for score in _answers(asked, task, ks)
        ),
        *(score for task in _tasks(table, table, ()) for score in _rankings(asked, task, cutoffs)),
        *_graded(asked, cutoffs),
    ]
    if not found:
        raise ValueError("Nothing can be evaluated: no label has two classes, and no target has numbers.")
    rows = []
    for score in found:
        n = {"n_queries": int(score.known.sum()), "n_skipped": score.n_skipped}
        n["n_patients"] = len(set(asked.patients[score.known]))
        named = {"task": score.task, "metric": score.metric, "k": score.k, "chance": score.chance}
        rows.append(named | interval(score.draws) | n)
    return RetrievalScores(pd.DataFrame(rows)[_COLUMNS], np.array([s.draws for s in found]), asked.name)


@dataclass(frozen=True)
class _Score:
    """One cell: `known` (n_queries,) says which queries count, `draws` are the score and its resamples."""

    task: str
    metric: str
    k: int
    chance: float
    known: np.ndarray
    n_skipped: int
    draws: np.ndarray


def _answers(asked, task, ks):
    """Yield what votes and means of the k nearest are worth."""
    name, kind, values, _ = task
    lists = asked.lists(pd.isna(values))
    known = ~pd.isna(values[asked.rows])
    known &= np.concatenate([np.full(len(part), part.shape[1] > 0) for part in lists])
    truth = values[asked.rows[known]]
    if len(truth) < 2 or (kind == "class" and len(set(truth)) < 2):
        return
    neighbors = np.full((len(known), max(ks)), -1)
    start = 0
    for part in lists:
        width = min(part.shape[1], max(ks))
        neighbors[start : start + len(part), :width] = part[:, :width]
        start += len(part)
    weights = asked.weights(known)
    given = values, truth, neighbors[known], ks, weights
    if kind == "class":
        chance = 1 / len(set(truth))
        for k, draws in class_draws(*given):
            yield _Score(name, "balanced_accuracy", k, chance, known, 0, draws)
        return
    chance = {"mae": _blind_error(asked, values, known), "r2": 0.0, "spearman": 0.0}
    for k, metric, draws in regression_draws(*given, metrics=tuple(chance)):
        yield _Score(name, metric, k, chance[metric], known, 0, draws)


def _blind_error(asked, values, known):
    """Return the mean absolute error of the gallery's median, which knows no query."""
    blind = np.concatenate([np.full(len(q), np.nanmedian(values[g])) for g, q in asked.blocks])
    return float(np.abs(values[asked.rows] - blind)[known].mean())


def _rankings(asked, task, cutoffs):
    """Yield precision, recall, average precision and reciprocal rank, every class alike."""
    name, kind, values, _ = task
    if kind != "class":
        return
    columns = {}  # (metric, k) → a score a query and what lot would give, a (n_queries, 2) a block
    for part, (_, query) in zip(asked.lists(pd.isna(values)), asked.blocks, strict=True):
        relevant = values[part] == values[query][:, None]
        total, size = relevant.sum(axis=1), part.shape[1]
        answered = total > 0
        for k in (*cutoffs, None):
            by_lot = chance_levels(total[answered], size, min(k or 1, size)) if answered.any() else {}
            for metric in (
                ("precision_at_k", "recall_at_k") if k else ("average_precision", "reciprocal_rank")
            ):
                column = np.full((len(query), 2), np.nan)
                if answered.any() and size >= (k or 1):
                    column[answered, 0] = _METRICS[metric](relevant[answered], *([k] if k else []))
                    column[answered, 1] = by_lot[metric]
                columns.setdefault((metric, k or 0), []).append(column)
    labeled = ~pd.isna(values[asked.rows])
    for (metric, k), parts in columns.items():
        per_query, by_lot = np.concatenate(parts).T
        known = ~np.isnan(per_query)
        if not known.any():
            continue
        present, codes = np.unique(values[asked.rows[known]].astype(str), return_inverse=True)
        weights, codes_present = asked.weights(known), np.arange(len(present))
        draws = _balanced_accuracy(per_query[known], codes, codes_present, weights)
        chance = _balanced_accuracy(by_lot[known], codes, codes_present, weights[:1])[0]
        yield _Score(name, metric, k, float(chance), known, int(labeled.sum() - known.sum()), draws)


def _graded(asked, cutoffs):
    """Yield nDCG with a point each for the same type, region, side, and size within a factor of two."""
    table = asked.table
    labels = [_label(table[f"label_{name}"]) for name in GRADES if f"label_{name}" in table]
    sizes = _number(table["volume_mm3"], "log_volume") if "volume_mm3" in table else None
    columns = {}
    for order, (_, query) in zip(asked.orders, asked.blocks, strict=True):
        gains = np.zeros(order.shape)
        for values in labels:
            gains += (values[order] == values[query][:, None]) & ~pd.isna(values[query])[:, None]
        if sizes is not None:
            gains += np.abs(sizes[order] - sizes[query][:, None]) <= np.log(2)  # NaN is near nothing
        for k in (k for k in cutoffs if k <= order.shape[1]):
            column = np.stack([ndcg_at_k(gains, k), ndcg_chance(gains, k)], axis=1)
            columns.setdefault(k, []).append(column)
    for k, parts in columns.items():
        if sum(map(len, parts)) < len(asked.rows):
            continue  # the gallery of a fold is smaller than k
        per_query, by_lot = np.concatenate(parts).T
        known = ~np.isnan(per_query)
        if known.any():
            weights = asked.weights(known)
            draws = weights @ per_query[known] / weights.sum(axis=1)
            chance = float(by_lot[known].mean())
            yield _Score("graded", "ndcg_at_k", k, chance, known, int((~known).sum()), draws)


def _targets(table, targets):
    """Return the numeric columns to predict, by default those of `TARGETS` that the table has."""
    if targets is not None:
        return targets
    return [t for t in TARGETS if ("volume_mm3" if t == "log_volume" else t) in table]


_METRICS = {
    "precision_at_k": precision_at_k,
    "recall_at_k": recall_at_k,
    "average_precision": average_precision,
    "reciprocal_rank": reciprocal_rank,
}
