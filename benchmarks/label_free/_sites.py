"""Several data sets in one table: whether embeddings tell them apart, and what one finds in the others."""

import numpy as np
import pandas as pd

from benchmarks.protocol import evaluate_retrieval
from tumorsim.evaluation import N_RESAMPLES, balanced_accuracy, interval, patient_weights

__all__ = ["evaluate_across_datasets", "evaluate_site_probe"]


def evaluate_site_probe(X, table, *, column="dataset", n_folds=5, n_resamples=N_RESAMPLES, random_state=0):
    """Train a linear classifier to tell which data set a tumor is from.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
        Embeddings.
    table : DataFrame of n_tumors rows
        ``patient_id`` and `column`.
    column : str, default="dataset"
        What names the data set, site or scanner.
    n_folds : int, default=5
        Of the cross-validation, patients kept together.
    n_resamples : int, default=1000
        Of the bootstrap over patients.
    random_state : int, default=0
        Its seed.

    Returns
    -------
    dict
        Balanced accuracy ``value``, ``ci_low``, ``ci_high``, ``chance``, ``n_queries``, ``n_patients``. At
        chance, embeddings do not tell data sets apart; above it they do, through scanners or through tumors
        that differ.

    Raises
    ------
    ValueError
        If the column is not there or has one value, or a data set has fewer patients than folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, table = np.asarray(X), table.reset_index(drop=True)
    if column not in table:
        raise ValueError(f"'table' must have the column '{column}'. Got {', '.join(table.columns)}.")
    known = table[column].notna().to_numpy()
    names, truth = np.unique(table[column].to_numpy()[known].astype(str), return_inverse=True)
    patients = table["patient_id"].to_numpy(dtype=str)[known]
    if len(names) < 2:
        raise ValueError(f"A probe needs two data sets in '{column}'. Got {names.tolist()}.")
    fewest = pd.Series(patients).groupby(truth).nunique().min()
    if fewest < n_folds:
        raise ValueError(f"Every data set must have {n_folds} patients or more. Got one of {fewest}.")
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2_000))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
    predicted = cross_val_predict(probe, X[known], truth, groups=patients, cv=folds)
    weights = patient_weights(patients, random_state, n_resamples)
    draws = balanced_accuracy(predicted == truth, truth, weights)
    numbers = {"chance": 1 / len(names), "n_queries": len(truth), "n_patients": len(set(patients))}
    return interval(draws) | numbers


def evaluate_across_datasets(X, table, *, column="dataset", **options):
    """Score the tumors of each data set as queries among those of all others.

    Parameters
    ----------
    X : array-like of shape (n_tumors, n_features)
    table : DataFrame of n_tumors rows
    column : str, default="dataset"
    **options
        As of `evaluate_retrieval`.

    Returns
    -------
    dict of RetrievalScores
        Data set whose tumors were the queries → scores. Without those whose labels no other data set has.

    Raises
    ------
    ValueError
        If the column is not there or has one value, or a patient is in two data sets.
    """
    X, table = np.asarray(X), table.reset_index(drop=True)
    if column not in table or table[column].dropna().nunique() < 2:
        raise ValueError(f"'table' must have two data sets in the column '{column}'.")
    names = table[column].astype(object).where(table[column].notna(), None).to_numpy()
    found = {}
    for name in sorted({str(n) for n in names if n is not None}):
        query, gallery = names == name, (names != name) & (names != np.array(None))
        part = table[query], table[gallery]
        if not _shares_labels(*part):
            continue
        found[name] = evaluate_retrieval(
            X[gallery], part[1].reset_index(drop=True), query_X=X[query],
            query_table=part[0].reset_index(drop=True), **options,
        )  # fmt: skip
    return found


def _shares_labels(queries, gallery):
    """Return whether some label has two classes on both sides."""
    columns = [c for c in queries if c.startswith("label_")]
    return any(len(set(queries[c].dropna()) & set(gallery[c].dropna())) > 1 for c in columns)
