"""What nearest neighbors of other patients know: labels, size and shape, with intervals by patient."""

import numpy as np
import pandas as pd

from tumorsim._validation import check_integer
from tumorsim.evaluation._bootstrap import interval, patient_weights
from tumorsim.index import TumorIndex

__all__ = ["evaluate_knn", "format_knn_table"]

SHAPE_TARGETS = ("log_volume", "sphericity", "elongation")
_COLUMNS = ["task", "kind", "metric", "k", "value", "chance", "ci_low", "ci_high", "n_queries", "n_patients"]


def evaluate_knn(
    X,
    table,
    *,
    query_X=None,
    query_table=None,
    n_neighbors=(1, 3, 5, 10, 20),
    targets=None,
    random_state=0,
    metric="euclidean",
    space=None,
):
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
    n_neighbors : int or sequence of int, default=(1, 3, 5, 10, 20)
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
        A row a task, metric and k: ``task``, ``kind`` (class or regression), ``metric``
        (balanced_accuracy, r2, spearman), ``k``, ``value``, ``chance`` (1 / number of classes among the
        queries, or 0), the 95 % interval ``ci_low``, ``ci_high``, ``n_queries`` and ``n_patients``. Tasks
        with one class or without labels of two patients are left out. A query without any neighbor counts
        as wrong; one without a number to predict from is left out.

    Raises
    ------
    ValueError
        If rows do not fit, patients are missing, a tumor is in gallery and queries under different patients,
        or nothing can be evaluated.
    """
    ks = _check_ks(n_neighbors)
    X, table = _check_pair(X, table, "X", "table")
    if (query_X is None) != (query_table is None):
        raise ValueError("'query_X' and 'query_table' belong together. Got only one of them.")
    queries = (X, table) if query_X is None else _check_pair(query_X, query_table, "query_X", "query_table")
    if query_X is not None:
        _check_same_patients(table, queries[1])
    rows = []
    for task, kind, gallery_values, query_values in _tasks(table, queries[1], targets):
        known, asked = ~pd.isna(gallery_values), ~pd.isna(query_values)
        truth = query_values[asked]
        if kind == "class" and len(set(truth)) < 2:
            continue
        patients = queries[1]["patient_id"].to_numpy()[asked]
        if len(truth) < 2 or len({*table["patient_id"][known], *patients}) < 2 or not known.any():
            continue
        gallery = X[known], table["patient_id"].to_numpy()[known]
        index = TumorIndex(metric=metric)
        neighbors = _neighbors(index, space, *gallery, queries[0][asked], patients, max(ks))
        score = _score_class if kind == "class" else _score_regression
        weights = patient_weights(patients, random_state)
        for scored in score(gallery_values[known], truth, neighbors, ks, weights):
            rows.append({"task": task, "kind": kind, **scored, "n_patients": len(set(patients))})
    if not rows:
        raise ValueError(
            "Nothing can be evaluated: no 'label_*' column has two classes, and no target has numbers, among "
            f"tumors of two patients. Columns are {', '.join(table.columns)}."
        )
    return pd.DataFrame(rows)[_COLUMNS]


def format_knn_table(result):
    """Return the result of `evaluate_knn` as text: a line a task and metric, a column a k.

    Parameters
    ----------
    result : DataFrame
        Of `evaluate_knn`.

    Returns
    -------
    str
        Values for every k, and the 95 % interval at the k nearest to 5.
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


def _check_ks(n_neighbors):
    """Return the cutoffs, ascending and each once."""
    ks = [n_neighbors] if np.isscalar(n_neighbors) else list(n_neighbors)
    if not ks:
        raise ValueError("Parameter 'n_neighbors' must hold at least one k. Got none.")
    return sorted({check_integer(k, "n_neighbors", minimum=1) for k in ks})


def _check_pair(X, table, name, table_name):
    """Return embeddings and table of equal length, with a patient in every row."""
    X = np.asarray(X)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"'{table_name}' must be a DataFrame. Got {type(table).__name__}.")
    if X.ndim != 2 or len(X) != len(table) or not len(X):
        raise ValueError(
            f"'{name}' must be (n_tumors, n_features), one row for each of '{table_name}', and not empty. "
            f"Got shape {X.shape} for {len(table)} rows."
        )
    if "patient_id" not in table or table["patient_id"].isna().any():
        rule = "must have 'patient_id' in every row, since neighbors of one's own patient do not count"
        raise ValueError(f"'{table_name}' {rule}.")
    return X, table.reset_index(drop=True)


def _check_same_patients(table, query_table):
    """Raise if a tumor is in gallery and queries under two patients: its own copy would be its neighbor."""
    if "tumor_id" not in table or "tumor_id" not in query_table:
        return
    both = table[["tumor_id", "patient_id"]].merge(query_table[["tumor_id", "patient_id"]], on="tumor_id")
    wrong = both[both["patient_id_x"] != both["patient_id_y"]]
    if len(wrong):
        first = wrong.iloc[0]
        raise ValueError(
            f"A tumor must have one patient. Got '{first['tumor_id']}' of '{first['patient_id_x']}' in the "
            f"gallery and of '{first['patient_id_y']}' in the queries ({len(wrong)} such tumors)."
        )


def _tasks(table, query_table, targets):
    """Yield task, kind, gallery values and query values (missing: None or NaN) of what can be predicted."""
    for column in table.columns:
        if column.startswith("label_") and column in query_table:
            yield column.removeprefix("label_"), "class", _label(table[column]), _label(query_table[column])
    for target in SHAPE_TARGETS if targets is None else targets:
        column = "volume_mm3" if target == "log_volume" else target
        if column in table and column in query_table:
            yield target, "regression", _number(table[column], target), _number(query_table[column], target)
        elif targets is not None:
            raise ValueError(f"'targets' must name columns of both tables. Got '{target}'.")


def _label(series):
    """Return labels as an object array of text, None where missing."""
    return np.array([None if pd.isna(v) else str(v) for v in series], dtype=object)


def _number(series, target):
    """Return a measure as float64, NaN where it is missing, infinite, or has no logarithm."""
    values = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
    if target == "log_volume":
        values = np.log(np.where(values > 0, values, np.nan))
    return np.where(np.isfinite(values), values, np.nan)


def _neighbors(index, space, X, patients, query_X, query_patients, k):
    """Return rows of X by distance, (n_queries, k), -1 where other patients have no more."""
    metadata = {"patient_id": [str(p) for p in patients], "row": range(len(X))}
    found = index.fit(X, metadata=metadata, space=space).search(
        query_X,
        k,
        query_metadata={"patient_id": [str(p) for p in query_patients]},
        exclude="same_patient",
        max_per_patient=None,
        alpha=None,
    )
    rows = np.full((len(query_X), k), -1, dtype=np.int64)
    rows[found["query"], found["rank"] - 1] = found["row"]
    return rows


def _score_class(gallery, truth, neighbors, ks, weights):
    """Yield balanced accuracy for each k, with its interval."""
    fixed = {"metric": "balanced_accuracy", "chance": 1 / len(np.unique(truth.astype(str)))}
    for k, draws in class_draws(gallery, truth, neighbors, ks, weights):
        yield fixed | {"k": k, "n_queries": len(truth)} | interval(draws)


def class_draws(gallery, truth, neighbors, ks, weights):
    """Yield each k and balanced accuracy under each row of weights."""
    classes, codes = np.unique(np.concatenate([gallery, truth]).astype(str), return_inverse=True)
    gallery, truth = codes[: len(gallery)], codes[len(gallery) :]
    votes = (gallery[neighbors][:, :, None] == np.arange(len(classes))) & (neighbors >= 0)[:, :, None]
    nearest = np.where(votes.any(axis=1), votes.argmax(axis=1), votes.shape[1])  # rank of each class's first
    present = np.unique(truth)
    for k in ks:
        counts = votes[:, :k].sum(axis=1)
        predicted = np.argmax(counts * (votes.shape[1] + 1) - nearest, axis=1)
        correct = (predicted == truth) & (neighbors[:, 0] >= 0)
        yield k, _balanced_accuracy(correct, truth, present, weights)


def _balanced_accuracy(correct, truth, present, weights):
    """Return for each row of weights (n_weightings, n_queries) the mean recall of the classes it holds."""
    is_class = (truth[:, None] == present).astype(float)
    total = weights @ is_class
    hits = weights @ (is_class * correct[:, None])
    held = total > 0
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=held)
    return recall.sum(axis=1) / held.sum(axis=1)


def _score_regression(gallery, truth, neighbors, ks, weights):
    """Yield R² and Spearman's ρ for each k, with intervals; a query without neighbors is left out."""
    answered = neighbors[:, 0] >= 0
    part = gallery, truth[answered], neighbors[answered], ks, weights[:, answered]
    for k, metric, draws in regression_draws(*part, metrics=("r2", "spearman")):
        yield {"metric": metric, "k": k, "chance": 0.0, "n_queries": len(part[1])} | interval(draws)


def regression_draws(gallery, truth, neighbors, ks, weights, *, metrics):
    """Yield each k, each metric (mae, r2, spearman) and its value under each row of weights."""
    values = np.where(neighbors >= 0, gallery[neighbors], 0.0)
    for k in ks:
        predicted = values[:, :k].sum(axis=1) / (neighbors[:, :k] >= 0).sum(axis=1)
        for metric in metrics:
            yield k, metric, _STATISTICS[metric](truth, predicted, weights)


def _mae(truth, predicted, weights):
    """Return the mean absolute error of each weighting."""
    return weights @ np.abs(truth - predicted) / np.maximum(weights.sum(axis=1), 1)


def _r2(truth, predicted, weights):
    """Return R² of each weighting, NaN where the truth does not vary."""
    centered = truth - truth.mean()
    n = weights.sum(axis=1)
    total = weights @ centered**2 - (weights @ centered) ** 2 / np.maximum(n, 1)
    varies = total > 1e-12 * np.maximum(n, 1) * (centered**2).mean()
    lost = weights @ (truth - predicted) ** 2
    return 1 - np.divide(lost, total, out=np.full(len(n), np.nan), where=varies)


def _spearman(truth, predicted, weights):
    """Return Spearman's ρ of each weighting, NaN where a side does not vary."""
    found = []
    step = max(1, 2_000_000 // len(truth))
    for start in range(0, len(weights), step):
        w = weights[start : start + step]
        a, b = (_centered_ranks(values, w) for values in (truth, predicted))
        product = np.sqrt((w * a * a).sum(axis=1) * (w * b * b).sum(axis=1))
        found.append(
            np.divide((w * a * b).sum(axis=1), product, out=np.full(len(w), np.nan), where=product > 1e-9)
        )
    return np.concatenate(found)


def _centered_ranks(values, weights):
    """Return mid-ranks about their mean, (n_weightings, n), as if value i occurred weights[:, i] times."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    rank = np.cumsum(size, axis=1) - size / 2  # + 1/2, the same for all
    return rank[:, group] - weights.sum(axis=1, keepdims=True) / 2


_STATISTICS = {"mae": _mae, "r2": _r2, "spearman": _spearman}
