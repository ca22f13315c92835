"""What nearest neighbors of other patients tell: labels, size and shape, with intervals by patient."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tumorsim.evaluation._protocol import check_cutoffs, check_embeddings, find_tasks, vote_scores
from tumorsim.evaluation._splits import check_one_patient
from tumorsim.evaluation._statistics import interval, patient_weights
from tumorsim.index import TumorIndex
from tumorsim.spaces import EmbeddingSpace

SHAPE_TARGETS = ("log_volume", "sphericity", "elongation")
_COLUMNS = ["task", "kind", "metric", "k", "value", "chance", "ci_low", "ci_high", "n_queries", "n_patients"]


def evaluate_knn(
    X: ArrayLike, table: pd.DataFrame, *, query_X: ArrayLike | None = None,
    query_table: pd.DataFrame | None = None, n_neighbors: int | Iterable[int] = (1, 3, 5, 10, 20),
    targets: Sequence[str] | None = None, random_state: int = 0, metric: str = "euclidean",
    space: EmbeddingSpace | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Predict labels and shape of each tumor from its nearest neighbors of other patients.

    For every ``label_<task>`` column the k nearest labeled tumors vote; among classes with equal votes the
    one whose first member is nearer wins; the score is balanced accuracy. For numbers the mean of the k
    neighbors is the prediction; scores are R² and Spearman's ρ. A tumor of the query's own patient is never
    a neighbor.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings of the gallery.
    table : DataFrame of n_tumors rows
        ``cohort.table``: ``patient_id``, labels, measures.
    query_X, query_table : optional
        The same of the queries; default the gallery's own tumors, each against all other patients.
    n_neighbors : int or iterable of int, default=(1, 3, 5, 10, 20)
        Each k that is evaluated; where fewer tumors can be compared with, all of them are used.
    targets : sequence of str, optional
        Numeric columns to predict; ``log_volume`` is the natural logarithm of ``volume_mm3``. Default:
        log_volume, sphericity and elongation, as far as `table` has them.
    random_state : int, default=0
        Seed of the bootstrap over query patients (1,000 resamples).
    metric : {"euclidean", "cosine"}, default="euclidean"
        As in `TumorIndex`.
    space : EmbeddingSpace, optional
        As in `TumorIndex.fit`: distances are its plain ones.

    Returns
    -------
    DataFrame
        One row per task, metric and k: ``task``, ``kind`` (class or regression), ``metric``
        (balanced_accuracy, r2, spearman), ``k``, ``value``, ``chance`` (1 / number of classes among the
        queries, or 0), the 95 % interval ``ci_low``, ``ci_high``, ``n_queries`` and ``n_patients``. Tasks
        with one class or without labels of two patients are left out. A query without any neighbor counts
        as wrong; one without a number to predict from is left out.

    Raises
    ------
    ValueError
        If rows do not fit, patients are missing, a tumor is in gallery and queries under different patients,
        or nothing can be evaluated.

    See Also
    --------
    tumorsim.evaluation.compare_knn : Two methods on the same tumors.
    """
    options = {"targets": targets, "random_state": random_state, "metric": metric, "space": space}
    scores = _scores(X, table, query_X, query_table, n_neighbors, **options)
    return pd.DataFrame([score.row() for score in scores])[_COLUMNS]


def compare_knn(
    X: ArrayLike, other_X: ArrayLike, table: pd.DataFrame, *, query_X: ArrayLike | None = None,
    other_query_X: ArrayLike | None = None, query_table: pd.DataFrame | None = None,
    n_neighbors: int | Iterable[int] = 5, **options,
) -> pd.DataFrame:  # fmt: skip
    """Compare two methods on the same tumors, with intervals of their differences.

    Parameters
    ----------
    X, other_X : array-like of shape (n_tumors, n_features)
        Features of the gallery by each method; numbers of features may differ.
    table : DataFrame of n_tumors rows
    query_X, other_query_X, query_table : optional
        The same of the queries, as in `evaluate_knn`.
    n_neighbors : int or iterable of int, default=5
    **options
        ``targets``, ``random_state`` and ``metric`` of `evaluate_knn`.

    Returns
    -------
    DataFrame
        One row per task, metric and k: ``value`` and ``other`` (the scores), ``chance``, ``difference``
        (positive where `X` is better), its 95 % interval ``ci_low``, ``ci_high`` on the same resamples of
        patients, and ``outcome``: win or loss where the interval lies on one side of 0, else tie.

    Raises
    ------
    ValueError
        As `evaluate_knn`.
    """
    first = _scores(X, table, query_X, query_table, n_neighbors, **options)
    second = _scores(other_X, table, other_query_X, query_table, n_neighbors, **options)
    rows = []
    for a, b in zip(first, second, strict=True):
        row = a.row() | interval(a.draws - b.draws)
        row |= {"difference": row["value"], "value": a.draws[0], "other": b.draws[0]}
        row["outcome"] = "win" if row["ci_low"] > 0 else "loss" if row["ci_high"] < 0 else "tie"
        rows.append(row)
    names = ("task", "metric", "k", "value", "other", "chance", "difference", "ci_low", "ci_high", "outcome")
    return pd.DataFrame(rows)[list(names)]


def _scores(X, table, query_X, query_table, n_neighbors, *, targets=None, random_state=0, **how):
    """Return the `Score` of each task, metric and k; `how` holds metric and space."""
    ks = check_cutoffs(n_neighbors)
    X, table = check_embeddings(X, table)
    if (query_X is None) != (query_table is None):
        raise ValueError("'query_X' and 'query_table' belong together. Got only one of them.")
    if query_X is None:
        query_X, query_table = X, table
    else:
        query_X, query_table = check_embeddings(query_X, query_table, "query_X", "query_table")
        check_one_patient(table, query_table)
    owners, patients = (t["patient_id"].to_numpy() for t in (table, query_table))
    scores = []
    wanted = SHAPE_TARGETS if targets is None else targets
    for task in find_tasks(table, query_table, wanted, required=targets is not None):
        known, labeled = ~pd.isna(task.gallery), ~pd.isna(task.queries)
        truth, by = task.queries[labeled], patients[labeled]
        if len(truth) < 2 or not known.any() or len({*owners[known], *by}) < 2:
            continue
        chance = {"r2": 0.0, "spearman": 0.0}
        if task.kind == "class":
            if len(set(truth)) < 2:
                continue
            chance = {"balanced_accuracy": 1 / len(set(truth))}
        neighbors = neighbors_of_other_patients(X[known], owners[known], query_X[labeled], by, max(ks), **how)
        drawn = {"patients": by, "weights": patient_weights(by, random_state)}
        scores += vote_scores(task, task.gallery[known], truth, neighbors, ks, chance=chance, **drawn)
    if not scores:
        raise ValueError(
            "Nothing can be evaluated: no 'label_*' column has two classes, and no target has numbers, among "
            f"tumors of two patients. Columns are {', '.join(table.columns)}."
        )
    return scores


def neighbors_of_other_patients(
    X: ArrayLike, patients: ArrayLike, query_X: ArrayLike, query_patients: ArrayLike, k: int, *,
    metric: str = "euclidean", space: EmbeddingSpace | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the k nearest tumors of each query that belong to other patients.

    Parameters
    ----------
    X : array-like of shape (n_gallery, n_features)
    patients : array-like of shape (n_gallery,)
    query_X : array-like of shape (n_queries, n_features)
    query_patients : array-like of shape (n_queries,)
    k : int
    metric : {"euclidean", "cosine"}, default="euclidean"
        As in `TumorIndex`.
    space : EmbeddingSpace, optional
        As in `TumorIndex.fit`.

    Returns
    -------
    ndarray of shape (n_queries, k), dtype=int64
        Rows of `X`, nearest first; -1 where other patients have no more tumors.
    """
    metadata = {"patient_id": [str(p) for p in patients], "row": range(len(X))}
    asked = {"patient_id": [str(p) for p in query_patients]}
    index = TumorIndex(metric=metric).fit(X, metadata=metadata, space=space)
    options = {"exclude": "same_patient", "aspects": "embedding", "max_per_patient": None, "alpha": None}
    found = index.search(query_X, k, query_metadata=asked, **options)
    rows = np.full((len(query_X), k), -1, dtype=np.int64)
    rows[found["query"], found["rank"] - 1] = found["row"]
    return rows


def format_knn_table(result: pd.DataFrame) -> str:
    """Return the result of `evaluate_knn` as text: one line per task and metric, one column per k.

    The last column is the 95 % interval at the k nearest to 5.
    """
    ks = sorted(result["k"].unique())
    middle = min(ks, key=lambda k: abs(k - 5))
    lines = []
    for (task, metric), part in result.groupby(["task", "metric"], sort=False):
        by_k = part.set_index("k")
        at = by_k.loc[middle]
        line = {"task": task, "metric": metric, "n": at["n_queries"], "chance": f"{at['chance']:.2f}"}
        line |= {f"k={k}": f"{by_k.loc[k, 'value']:.2f}" for k in ks}
        lines.append(line | {f"95 % (k={middle})": f"{at['ci_low']:.2f} to {at['ci_high']:.2f}"})
    return pd.DataFrame(lines).to_string(index=False)
