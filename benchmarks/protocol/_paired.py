"""Scores of two methods on the same resamples of patients, and whether they differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tumorsim.evaluation import interval

__all__ = ["RetrievalScores", "paired_differences", "pool_scores"]

KEYS = ["task", "metric", "k"]
LOWER_IS_BETTER = ("mae",)


@dataclass(frozen=True)
class RetrievalScores:
    """Scores with their resamples, so that methods can be compared on the same ones.

    Attributes
    ----------
    table : DataFrame
        One row per score: ``task``, ``metric``, ``k`` (0 where there is no cutoff), ``value``, ``chance``,
        the 95 % interval ``ci_low``, ``ci_high``, ``n_queries``, ``n_skipped``, ``n_patients``.
    draws : ndarray of shape (n_scores, 1 + n_resamples)
        The score, and the score of each resample of patients.
    queries : str
        Names the queries and the seed: only scores of the same can be compared.
    """

    table: pd.DataFrame
    draws: np.ndarray
    queries: str


def pool_scores(scores: Sequence[RetrievalScores]) -> RetrievalScores:
    """Return the mean of several networks' scores, resample by resample.

    Parameters
    ----------
    scores : sequence of RetrievalScores
        Of the same queries and the same tasks, metrics and k: one per seed.

    Returns
    -------
    RetrievalScores
        Intervals are those of the mean, over patients; how seeds differ is not in them.

    Raises
    ------
    ValueError
        If there are none, or they are of other queries.
    """
    if not scores:
        raise ValueError("'scores' must hold at least one. Got none.")
    first = scores[0]
    for other in scores[1:]:
        _check_same(first, other)
        if not first.table[KEYS].equals(other.table[KEYS]):
            raise ValueError("Scores to pool must have the same tasks, metrics and k, in one order.")
    draws = np.mean([score.draws for score in scores], axis=0)
    return RetrievalScores(first.table.assign(**_intervals(draws)), draws, first.queries)


def paired_differences(scores: RetrievalScores, others: RetrievalScores) -> pd.DataFrame:
    """Return by how much one method's scores differ from another's, on the same resamples of patients.

    Parameters
    ----------
    scores, others : RetrievalScores
        Of the same queries; what only one has is left out.

    Returns
    -------
    DataFrame
        One row per task, metric and k: ``value`` (the difference; positive where `scores` are better, errors
        included), the 95 % interval ``ci_low``, ``ci_high``, and ``outcome``: win or loss where the interval
        lies on one side of 0, else tie.

    Raises
    ------
    ValueError
        If the queries or the resamples differ.
    """
    _check_same(scores, others)
    rows = (
        scores.table[KEYS]
        .reset_index(names="a")
        .merge(others.table[KEYS].reset_index(names="b"), on=KEYS, sort=False)
    )
    sign = np.where(rows["metric"].isin(LOWER_IS_BETTER), -1.0, 1.0)
    draws = sign[:, None] * (scores.draws[rows["a"]] - others.draws[rows["b"]])
    found = rows[KEYS].assign(**_intervals(draws))
    outcome = np.select([found["ci_low"] > 0, found["ci_high"] < 0], ["win", "loss"], "tie")
    return found.assign(outcome=outcome)


def _check_same(first, other):
    """Raise unless two scores are of the same queries and resamples."""
    if first.queries != other.queries:
        raise ValueError(
            "Scores can be compared on the same queries and resamples only. Got other queries, another "
            "random_state or another n_resamples."
        )


def _intervals(draws):
    """Return columns value, ci_low and ci_high of draws (n_scores, 1 + n_resamples)."""
    return pd.DataFrame([interval(row) for row in draws], columns=["value", "ci_low", "ci_high"]).to_dict(
        "list"
    )
