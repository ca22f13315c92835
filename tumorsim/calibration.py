"""How often a vote is right: probabilities learned from held-out patients, and their scores."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from tumorsim._validation import check_fitted
from tumorsim.answers import votes
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import TumorIndex
from tumorsim.io import write_text
from tumorsim.records.columns import label_column
from tumorsim.spaces import EmbeddingSpace

__all__ = ["VoteCalibration", "brier_score", "calibrate_votes", "expected_calibration_error"]

LEAST_VOTES = 20
_FORMAT = "tumorsim vote calibration 1"
_COLUMNS = ("task", "n", "brier_before", "brier_after", "ece_before", "ece_after")


class VoteCalibration:
    """Turn vote shares into probabilities of being right, learned on held-out patients.

    For each task a logistic curve of the first label's share of votes, fitted to whether that label was the
    true one (Platt's scaling). Fit on patients that neither the embedder nor the archive has seen, and anew
    for another archive or number of neighbors.

    Attributes
    ----------
    curves_ : dict
        Task → ``(slope, intercept)`` of the log-odds.
    made_for_ : dict
        ``fingerprint`` of the embedder, ``n_neighbors`` and ``aspects`` (weights; empty: the plain distance)
        of the answers, where `calibrate_votes` made it; else empty.
    report_ : DataFrame
        One row per task: ``task``, ``n`` and, of the votes fitted on, ``brier_before``, ``brier_after``,
        ``ece_before``, ``ece_after``; before: the share itself, taken for a probability. `evaluate` returns
        the same for other patients.

    Examples
    --------
    >>> shares = [5, 5, 5, 4, 3] * 8
    >>> counted = pd.DataFrame({"query": range(40), "task": "type", "label": "glioma", "n_votes": shares})
    >>> counted = counted.assign(n_labelled=5, abstains=None)
    >>> truth = pd.DataFrame({"label_type": ["glioma", "glioma", "glioma", "glioma", "metastasis"] * 8})
    >>> calibration = VoteCalibration().fit(counted, truth)
    >>> [float(p) for p in calibration.predict(counted[:5]).round(1)]
    [1.0, 1.0, 1.0, 0.9, 0.1]
    """

    def fit(self, counted: pd.DataFrame, metadata: pd.DataFrame) -> Self:
        """Learn from votes of held-out patients.

        Parameters
        ----------
        counted : DataFrame
            Of `answers.votes`, without calibration; rows that abstain do not count.
        metadata : DataFrame
            Of the queries: its row ``query`` holds the truth in ``label_<task>``; missing ones do not count.

        Returns
        -------
        VoteCalibration
            Itself. A task of fewer than 20 votes with a truth has no curve, and gets no probability.

        Raises
        ------
        ValueError
            If no task has 20 votes that can be learned from.
        """
        curves, most = {}, 0
        for task, (share, correct) in _by_task(counted, metadata).items():
            most = max(most, len(share))
            if len(share) < LEAST_VOTES:
                continue
            if correct.min() == correct.max():  # all right, or none: the rule of succession
                rate = (correct.sum() + 1) / (len(correct) + 2)
                curves[task] = (0.0, float(np.log(rate / (1 - rate))))
            else:
                curve = LogisticRegression(C=100.0).fit(share[:, None], correct)
                curves[task] = (float(curve.coef_[0, 0]), float(curve.intercept_[0]))
        if not curves:
            rule = f"Calibration needs at least {LEAST_VOTES} votes of held-out patients in a task."
            raise ValueError(f"{rule} Got {most}.")
        self.curves_, self.made_for_ = curves, {}
        self.report_ = self.evaluate(counted, metadata)
        return self

    def predict(self, counted: pd.DataFrame) -> np.ndarray:
        """Return the probability that each row's first label is right, (n_rows,); NaN for unknown tasks."""
        check_fitted(self, "curves_")
        pairs = [self.curves_.get(task, (np.nan, np.nan)) for task in counted["task"]]
        return _probability(_share(counted), *np.array(pairs, dtype=float).reshape(-1, 2).T)

    def evaluate(self, counted: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
        """Return n, Brier score and expected calibration error of each task, as in `report_`."""
        check_fitted(self, "curves_")
        rows = []
        for task, (share, correct) in _by_task(counted, metadata).items():
            if task not in self.curves_ or not len(share):
                continue
            row = {"task": task, "n": len(share)}
            for when, given in (("before", share), ("after", _probability(share, *self.curves_[task]))):
                row[f"brier_{when}"] = brier_score(given, correct)
                row[f"ece_{when}"] = expected_calibration_error(given, correct)
            rows.append(row)
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def save(self, path: str | PathLike) -> None:
        """Write it as JSON, atomically."""
        check_fitted(self, "curves_")
        values = {"format": _FORMAT, "made_for": self.made_for_, "curves": self.curves_}
        values |= {"report": self.report_.to_dict("records")}
        write_text(path, json.dumps(values, indent=1))

    @classmethod
    def load(cls, path: str | PathLike) -> Self:
        """Read what `save` has written.

        Raises
        ------
        FileNotFoundError, ValueError
            If it is missing, or no such file.
        """
        calibration = cls()
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            curves = {task: tuple(map(float, curve)) for task, curve in values["curves"].items()}
            calibration.curves_, calibration.made_for_ = curves, dict(values["made_for"].items())
            calibration.report_ = pd.DataFrame(list(values["report"]), columns=list(_COLUMNS))
            shape = np.array(list(curves.values())).shape[1:]
            if values["format"] != _FORMAT or shape != (2,) or not np.isfinite(list(curves.values())).all():
                raise ValueError("format or curves are wrong")
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as err:
            rule = f"'{path}' must be a vote calibration as 'VoteCalibration.save' writes it, version 1."
            raise ValueError(f"{rule} Got another file, or a damaged one. Calibrate again.") from err
        return calibration

    def check(
        self, index: TumorIndex, n_neighbors: int, aspects: Mapping[str, float] | str | None = None
    ) -> None:
        """Raise ``IndexMismatchError`` if made for another embedder, number of neighbors or distance."""
        check_fitted(self, "curves_")
        held = {"aspects": {}, "unit of distances": "medians"} | self.made_for_  # of older files
        for name, value in _made_for(index, n_neighbors, aspects).items():
            if self.made_for_ and name in held and held[name] != value:
                rule = "The vote calibration must be made for this index, number of neighbors and aspects."
                got = f"Its {name} is {_said(held[name])}, got {_said(value)}."
                raise IndexMismatchError(f"{rule} {got} Calibrate again.")


def calibrate_votes(
    index: TumorIndex, X: ArrayLike, metadata: pd.DataFrame, *, n_neighbors: int = 5,
    space: EmbeddingSpace | None = None, aspects: Mapping[str, float] | str | None = None,
) -> VoteCalibration:  # fmt: skip
    """Learn how often votes in the answers of an index are right, on held-out patients.

    Parameters
    ----------
    index : TumorIndex
        The archive.
    X : array-like of shape (n, n_features)
        Embeddings of tumors of patients that are neither in the index nor in the embedder's training data.
    metadata : DataFrame
        Of `X`, with the truth in columns ``label_<task>``.
    n_neighbors : int, default=5
        As in the queries to come.
    space : EmbeddingSpace, optional
        Of the embedder of `X`, compared with that of the index.
    aspects : mapping of str to float or "embedding", optional
        As in the queries to come, see `TumorIndex.search`.

    Returns
    -------
    VoteCalibration

    Raises
    ------
    IndexMismatchError
        If the embedders differ.
    ValueError
        If patients of `metadata` are in the index, or votes are too few.
    """
    metadata = metadata.reset_index(drop=True)
    if "patient_id" in metadata and "patient_id" in index.metadata_:
        both = sorted(set(metadata["patient_id"]) & set(index.metadata_["patient_id"]))
        if both:
            got = f"Got {len(both)} that it holds, among them {both[0]!r}."
            raise ValueError(f"Votes are calibrated on patients that the index does not hold. {got}")
    neighbors = index.search(X, n_neighbors, query_metadata=metadata, space=space, aspects=aspects)
    calibration = VoteCalibration().fit(votes(neighbors, index.metadata_, n_neighbors=n_neighbors), metadata)
    calibration.made_for_ = _made_for(index, n_neighbors, aspects)
    return calibration


def brier_score(probability: ArrayLike, correct: ArrayLike) -> float:
    """Return the mean squared difference of probabilities and outcomes (0 or 1)."""
    return float(np.mean((np.asarray(probability, dtype=float) - np.asarray(correct, dtype=float)) ** 2))


def expected_calibration_error(probability: ArrayLike, correct: ArrayLike, n_bins: int = 10) -> float:
    """Return the mean gap between probability and share of outcomes, over bins of equal width.

    Examples
    --------
    >>> round(expected_calibration_error([0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0]), 3)
    0.25
    """
    probability, correct = np.asarray(probability, dtype=float), np.asarray(correct, dtype=float)
    bins = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    gaps = [abs((probability - correct)[bins == b].sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(probability)) if len(probability) else float("nan")


def _probability(share, slope, intercept):
    """Return the logistic curve at shares of votes."""
    return 1 / (1 + np.exp(-(slope * share + intercept)))


def _share(counted):
    """Return the share of votes of each row's first label, (n_rows,)."""
    return (counted["n_votes"] / counted["n_labelled"]).to_numpy(dtype=float)


def _made_for(index, n_neighbors, aspects):
    """Return what a calibration holds for: fingerprint, number of neighbors and weights of aspects."""
    fingerprint, weights = getattr(index.space_, "fingerprint", None), index.aspect_weights(aspects)
    made_for = {"fingerprint": fingerprint, "n_neighbors": int(n_neighbors), "aspects": weights}
    return made_for | ({"unit of distances": "Hellinger's"} if weights else {})  # else the plain distance's


def _said(value):
    """Return what a calibration was made for in words."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{name} {weight:g}" for name, weight in value.items()) or "embedding"


def _by_task(counted, metadata):
    """Return task → share of votes and whether the first label is right, of rows with a vote and a truth."""
    found = {}
    for task, rows in counted[counted["abstains"].isna()].groupby("task", sort=False):
        if label_column(task) not in metadata:
            continue
        truth = metadata[label_column(task)].to_numpy(dtype=object)[rows["query"].to_numpy(dtype=int)]
        rows, truth = rows[pd.notna(truth)], truth[pd.notna(truth)]
        found[task] = _share(rows), (rows["label"].to_numpy(dtype=object) == truth).astype(int)
    return found
