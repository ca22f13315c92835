"""What all protocols share: checked tables, tasks with known values, and scores of the neighbors' votes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tumorsim._validation import check_integer
from tumorsim.evaluation._statistics import STATISTICS, balanced_accuracy, interval
from tumorsim.records import columns


@dataclass(frozen=True)
class Task:
    """A label to vote on (kind ``class``) or a number to predict (``regression``), with all known values."""

    name: str
    kind: str
    gallery: np.ndarray  # (n_gallery,) text or float64; None or NaN where missing
    queries: np.ndarray  # (n_queries,)


@dataclass(frozen=True)
class Score:
    """One score: `draws` are its value and that of each resample, (1 + n_resamples,)."""

    task: str
    kind: str
    metric: str
    k: int
    chance: float
    draws: np.ndarray
    n_queries: int
    n_patients: int
    n_skipped: int = 0

    def row(self):
        """Return the score as a row of a table, with its interval."""
        names = ("task", "kind", "metric", "k", "chance", "n_queries", "n_patients", "n_skipped")
        return {name: getattr(self, name) for name in names} | interval(self.draws)


def check_cutoffs(n_neighbors):
    """Return the cutoffs, ascending and each once."""
    ks = [n_neighbors] if np.isscalar(n_neighbors) else list(n_neighbors)
    if not ks:
        raise ValueError("Parameter 'n_neighbors' must hold at least one k. Got none.")
    return sorted({check_integer(k, "n_neighbors", minimum=1) for k in ks})


def check_embeddings(
    X: ArrayLike, table: pd.DataFrame, name: str = "X", table_name: str = "table"
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return embeddings (n_tumors, n_features) and their table, rows from 0, if they belong together."""
    X = np.asarray(X)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"'{table_name}' must be a DataFrame. Got {type(table).__name__}.")
    if X.ndim != 2 or len(X) != len(table) or not len(X):
        rule = f"'{name}' must be (n_tumors, n_features), one row for each of '{table_name}', and not empty."
        raise ValueError(f"{rule} Got shape {X.shape} for {len(table)} rows.")
    if "patient_id" not in table or table["patient_id"].isna().any():
        rule = "must have 'patient_id' in every row, since neighbors of one's own patient do not count"
        raise ValueError(f"'{table_name}' {rule}.")
    return X, table.reset_index(drop=True)


def find_tasks(
    table: pd.DataFrame, query_table: pd.DataFrame, targets: Iterable[str], *, required: bool = True
) -> Iterator[Task]:
    """Yield the tasks that both tables have; a target that they lack is an error if `required`."""
    for column, task in columns.label_columns(table).items():
        if column in query_table:
            yield Task(task, "class", _labels(table[column]), _labels(query_table[column]))
    for target in targets:
        column = "volume_mm3" if target == "log_volume" else target
        if column in table and column in query_table:
            values = (_numbers(t[column], target) for t in (table, query_table))
            yield Task(target, "regression", *values)
        elif required:
            raise ValueError(f"'targets' must name columns of both tables. Got '{target}'.")


def _labels(series):
    """Return labels as an object array of text, None where missing."""
    return np.array([None if pd.isna(v) else str(v) for v in series], dtype=object)


def _numbers(series, target):
    """Return a measure as float64, NaN where it is missing, infinite, or has no logarithm."""
    values = pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan)
    if target == "log_volume":
        values = np.log(np.where(values > 0, values, np.nan))
    return np.where(np.isfinite(values), values, np.nan)


def vote_scores(task, values, truth, neighbors, ks, *, chance, patients, weights):
    """Score the votes or means of the k nearest, for each k and each metric of `chance`.

    `values` (n_gallery,) and `truth` (n_queries,) are labels or numbers, none of `truth` missing;
    `neighbors` (n_queries, n_ranked) are rows of the gallery, nearest first, -1 where there are no more. A
    query without neighbors counts as wrong for labels, and is left out for numbers.
    """
    n_patients = len(set(patients))
    if "balanced_accuracy" in chance:
        draws = _class_draws(values, truth, neighbors, ks, weights)
    else:
        answered = neighbors[:, 0] >= 0
        truth, neighbors, weights = truth[answered], neighbors[answered], weights[:, answered]
        draws = _regression_draws(values, truth, neighbors, ks, weights, tuple(chance))
    for metric, k, drawn in draws:
        yield Score(task.name, task.kind, metric, k, chance[metric], drawn, len(truth), n_patients)


def _class_draws(gallery, truth, neighbors, ks, weights):
    """Yield metric, k and the balanced accuracy of the vote under each row of weights."""
    classes, codes = np.unique(np.concatenate([gallery, truth]).astype(str), return_inverse=True)
    gallery, truth = codes[: len(gallery)], codes[len(gallery) :]
    votes = (gallery[neighbors][:, :, None] == np.arange(len(classes))) & (neighbors >= 0)[:, :, None]
    nearest = np.where(votes.any(axis=1), votes.argmax(axis=1), votes.shape[1])  # rank of each class's first
    for k in ks:
        counts = votes[:, :k].sum(axis=1)
        predicted = np.argmax(counts * (votes.shape[1] + 1) - nearest, axis=1)
        correct = (predicted == truth) & (neighbors[:, 0] >= 0)
        yield "balanced_accuracy", k, balanced_accuracy(correct, truth, weights)


def _regression_draws(gallery, truth, neighbors, ks, weights, metrics):
    """Yield metric, k and the metric of the neighbors' mean under each row of weights."""
    values = np.where(neighbors >= 0, gallery[neighbors], 0.0)
    for k in ks:
        predicted = values[:, :k].sum(axis=1) / (neighbors[:, :k] >= 0).sum(axis=1)
        for metric in metrics:
            yield metric, k, STATISTICS[metric](truth, predicted, weights)
