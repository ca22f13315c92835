"""The strict protocol: what held-out queries find in a gallery of other patients, against chance."""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from benchmarks._checks import check_choice, check_integer
from benchmarks.protocol._chance import chance_levels, ndcg_chance
from benchmarks.protocol._paired import RetrievalScores
from benchmarks.protocol._splits import check_apart
from tumorsim.evaluation import (
    N_RESAMPLES,
    Score,
    balanced_accuracy,
    check_embeddings,
    find_tasks,
    patient_weights,
    vote_scores,
)
from tumorsim.metrics import average_precision, ndcg_at_k, precision_at_k, recall_at_k, reciprocal_rank

__all__ = ["evaluate_retrieval", "rank_gallery"]

METRICS = ("euclidean", "cosine", "hamming")
TARGETS = ("log_volume", "diameter_mm", "sphericity", "elongation")
GRADES = ("type", "region", "hemisphere")  # and size: volumes within a factor of two
_COLUMNS = [
    "task", "metric", "k", "value", "chance", "ci_low", "ci_high", "n_queries", "n_skipped", "n_patients",
]  # fmt: skip


def evaluate_retrieval(
    X: ArrayLike,
    table: pd.DataFrame,
    *,
    query_X: ArrayLike | None = None,
    query_table: pd.DataFrame | None = None,
    folds: ArrayLike | None = None,
    n_neighbors: int | Iterable[int] = range(1, 51),
    cutoffs: int | Iterable[int] = (1, 5, 10),
    targets: Sequence[str] | None = None,
    metric: str = "euclidean",
    n_resamples: int = N_RESAMPLES,
    random_state: int = 0,
) -> RetrievalScores:
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
        Instead of queries: each tumor is a query, and the tumors of the other folds are its gallery.
    n_neighbors : int or iterable of int, default=range(1, 51)
        Each k of votes and means; where the gallery has fewer, all of them are used.
    cutoffs : int or iterable of int, default=(1, 5, 10)
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
    ks, cutoffs = _cutoffs(n_neighbors), _cutoffs(cutoffs)
    check_integer(n_resamples, "n_resamples", minimum=0)
    X, table, blocks = _blocks(X, table, query_X, query_table, folds)
    rankings = _Rankings(X, table, blocks, metric, n_resamples, random_state)
    wanted = TARGETS if targets is None else targets
    tasks = list(find_tasks(table, table, wanted, required=targets is not None))
    scores = [score for task in tasks for score in _votes(rankings, task, ks)]
    for task in tasks:
        if task.kind == "class":
            scores += _ranking_scores(rankings, task, cutoffs)
    scores += _graded_scores(rankings, cutoffs)
    if not scores:
        raise ValueError("Nothing can be evaluated: no label has two classes, and no target has numbers.")
    rows = pd.DataFrame([score.row() for score in scores])[_COLUMNS]
    return RetrievalScores(rows, np.array([score.draws for score in scores]), rankings.name)


def rank_gallery(X: ArrayLike, query_X: ArrayLike, *, metric: str = "euclidean") -> np.ndarray:
    """Return the rows of the gallery by distance from each query, nearest first.

    Parameters
    ----------
    X : array-like of shape (n_gallery, n_features)
    query_X : array-like of shape (n_queries, n_features)
    metric : {"euclidean", "cosine", "hamming"}, default="euclidean"

    Returns
    -------
    ndarray of shape (n_queries, n_gallery), dtype=int64
        Among equal distances the earlier row is first.

    Raises
    ------
    ValueError
        If the gallery or the queries are empty, not finite, or of another number of features.
    """
    from scipy.spatial.distance import cdist

    check_choice(metric, "metric", METRICS)
    X, query_X = (np.asarray(a, dtype=np.float64) for a in (X, query_X))
    for array, name in ((X, "X"), (query_X, "query_X")):
        if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
            raise ValueError(
                f"'{name}' must be finite numbers (n, n_features), not empty. Got shape {array.shape}."
            )
    _check_features(X, query_X)
    return np.argsort(cdist(query_X, X, metric), axis=1, kind="stable")


def _cutoffs(ks):
    """Return the cutoffs, ascending and each once."""
    return sorted({check_integer(k, "k", minimum=1) for k in (ks if np.iterable(ks) else [ks])})


def _check_features(X, query_X):
    """Raise unless gallery and queries have as many features."""
    if X.shape[1] != query_X.shape[1]:
        raise ValueError(
            f"Gallery and queries must have the same features. Got {X.shape[1]} and {query_X.shape[1]}."
        )


def _blocks(X, table, query_X, query_table, folds):
    """Return embeddings and table of all tumors, and the rows of gallery and queries of each block."""
    X, table = check_embeddings(X, table)
    if (query_X is None) != (query_table is None) or (query_X is None) == (folds is None):
        raise ValueError("Give either 'query_X' and 'query_table', or 'folds'. Got another choice of them.")
    if folds is not None:
        folds = np.asarray(folds)
        names = np.unique(folds)
        if folds.shape != (len(X),) or len(names) < 2:
            raise ValueError(
                f"'folds' must have one entry per tumor, {len(X)}, of two folds or more. Got shape "
                f"{folds.shape} and {len(names)} folds."
            )
        blocks = [(np.flatnonzero(folds != name), np.flatnonzero(folds == name)) for name in names]
    else:
        query_X, query_table = check_embeddings(query_X, query_table, "query_X", "query_table")
        _check_features(X, query_X)
        blocks = [(np.arange(len(X)), np.arange(len(X), len(X) + len(query_X)))]
        X, table = np.concatenate([X, query_X]), pd.concat([table, query_table], ignore_index=True)
    for gallery, query in blocks:
        check_apart(table.iloc[gallery], table.iloc[query])
    return X, table, blocks


class _Rankings:
    """The gallery by distance from each query, block by block, and the weights of the queries."""

    def __init__(self, X, table, blocks, metric, n_resamples, random_state):
        self.table = table
        self.blocks = blocks  # rows of gallery and of queries
        self.rows = np.concatenate([query for _, query in blocks])
        self.patients = table["patient_id"].to_numpy(dtype=str)[self.rows]
        # rows of the table, nearest first: (n_queries, n_gallery) per block
        self.orders = [g[rank_gallery(X[g], X[q], metric=metric)] for g, q in blocks]
        self._drawing = random_state, n_resamples
        ids = table["tumor_id" if "tumor_id" in table else "patient_id"].astype(str).to_numpy()[self.rows]
        self.name = sha256(repr((random_state, n_resamples, ids.tolist())).encode()).hexdigest()[:16]

    def weights(self, known):
        """Return how often each of the known queries counts, (1 + n_resamples, n_known)."""
        return patient_weights(self.patients[known], *self._drawing)

    def without(self, missing):
        """Return `orders` without the rows that are `missing` (n_rows,)."""
        return [order[~missing[order]].reshape(len(order), -1) for order in self.orders]

    def mean(self, task, metric, k, scores, classes):
        """Return the `Score` of a mean over queries in which every class counts alike, or None.

        `scores` (n_queries, 2) holds the score and chance level of each query, NaN where it has none;
        `classes` (n_queries,) their classes, None for queries that are not meant.
        """
        known = ~np.isnan(scores[:, 0])
        if not known.any():
            return None
        weights, codes = self.weights(known), np.unique(classes[known].astype(str), return_inverse=True)[1]
        draws = balanced_accuracy(scores[known, 0], codes, weights)
        chance = float(balanced_accuracy(scores[known, 1], codes, weights[:1])[0])
        n_skipped = int((~pd.isna(classes)).sum() - known.sum())
        n_patients = len(set(self.patients[known]))
        return Score(task, "class", metric, k, chance, draws, int(known.sum()), n_patients, n_skipped)


def _votes(rankings, task, ks):
    """Yield the scores of votes and means of the k nearest."""
    values = task.gallery
    lists = rankings.without(pd.isna(values))
    known = ~pd.isna(values[rankings.rows])
    known &= np.concatenate([np.full(len(part), part.shape[1] > 0) for part in lists])
    truth = values[rankings.rows[known]]
    if len(truth) < 2 or (task.kind == "class" and len(set(truth)) < 2):
        return
    neighbors = np.full((len(known), max(ks)), -1)
    start = 0
    for part in lists:
        width = min(part.shape[1], max(ks))
        neighbors[start : start + len(part), :width] = part[:, :width]
        start += len(part)
    if task.kind == "class":
        chance = {"balanced_accuracy": 1 / len(set(truth))}
    else:
        blind = np.concatenate([np.full(len(q), np.nanmedian(values[g])) for g, q in rankings.blocks])
        error = np.abs(values[rankings.rows] - blind)[known].mean()  # of the gallery's median for all queries
        chance = {"mae": float(error), "r2": 0.0, "spearman": 0.0}
    yield from vote_scores(
        task, values, truth, neighbors[known], ks,
        chance=chance, patients=rankings.patients[known], weights=rankings.weights(known),
    )  # fmt: skip


def _ranking_scores(rankings, task, cutoffs):
    """Yield precision, recall, average precision and reciprocal rank, every class alike."""
    values = task.gallery
    found = {}
    for part, (_, query) in zip(rankings.without(pd.isna(values)), rankings.blocks, strict=True):
        for name, scores in _relevance_scores(values[part] == values[query][:, None], cutoffs).items():
            found.setdefault(name, []).append(scores)
    for (metric, k), parts in found.items():
        score = rankings.mean(task.name, metric, k, np.concatenate(parts), values[rankings.rows])
        if score is not None:
            yield score


def _relevance_scores(relevant, cutoffs):
    """Return metric and k → score and chance level of each query, (n_queries, 2), NaN if none is relevant."""
    total, size = relevant.sum(axis=1), relevant.shape[1]
    answered = total > 0
    found = {}
    for k in (*cutoffs, 0):
        scored = answered.any() and size >= k
        chance = chance_levels(total[answered], size, k or 1) if scored else None
        for metric, function in (_AT_K if k else _OF_ALL).items():
            scores = np.full((len(relevant), 2), np.nan)
            if scored:
                scores[answered, 0] = function(relevant[answered], *([k] if k else []))
                scores[answered, 1] = chance[metric]
            found[metric, k] = scores
    return found


def _graded_scores(rankings, cutoffs):
    """Yield nDCG with a point each for the same type, region, side, and size within a factor of two."""
    table = rankings.table
    known = {task.name: task.gallery for task in find_tasks(table, table, ("log_volume",), required=False)}
    grades = [values for name, values in known.items() if name in GRADES]
    sizes = known.get("log_volume")
    gains = []
    for order, (_, query) in zip(rankings.orders, rankings.blocks, strict=True):
        points = np.zeros(order.shape)
        for values in grades:
            points += (values[order] == values[query][:, None]) & ~pd.isna(values[query])[:, None]
        if sizes is not None:
            points += np.abs(sizes[order] - sizes[query][:, None]) <= np.log(2)  # NaN is near nothing
        gains.append(points)
    one_class = np.zeros(len(rankings.rows), dtype=np.int64)
    for k in cutoffs:
        if k > min(part.shape[1] for part in gains):
            continue  # the gallery of a fold is smaller than k
        parts = [np.stack([ndcg_at_k(part, k), ndcg_chance(part, k)], axis=1) for part in gains]
        score = rankings.mean("graded", "ndcg_at_k", k, np.concatenate(parts), one_class)
        if score is not None:
            yield score


_AT_K = {"precision_at_k": precision_at_k, "recall_at_k": recall_at_k}
_OF_ALL = {"average_precision": average_precision, "reciprocal_rank": reciprocal_rank}
