"""Scans of other origin: what real scans find among each other, and whether their origin shows."""

import numpy as np
import pandas as pd

from benchmarks.label_free import evaluate_across_datasets, evaluate_site_probe
from benchmarks.paper._plan import ALL, pairs_of
from benchmarks.paper._scores import (
    Method,
    at_chosen,
    chance_of,
    difference_rows,
    mask_rows,
    score_rows,
    tidy_row,
)
from benchmarks.protocol import block_folds, evaluate_retrieval

__all__ = ["LABEL_FREE", "label_free_rows", "real_folds", "real_rows", "site_rows"]

SHOWN = ("table3", "baselines", "contrastive", "finetune", "real")  # experiments whose methods see real scans
LABEL_FREE = ("label_free", "table3", "baselines", "contrastive", "finetune")  # … and tests without labels
K = 5  # there are no validation patients to choose it


def real_folds(table):
    """Return the fold of each real tumor: contiguous blocks of patients within type, by case id.

    Parameters
    ----------
    table : DataFrame
        In the order of case ids.
    """
    columns = [c for c in table if c.startswith("label_") and table[c].nunique() > 1]
    if not columns:
        raise ValueError("Real scans must have a 'label_*' column with two classes to be queried. Got none.")
    column = "label_type" if "label_type" in columns else columns[0]
    first = table.drop_duplicates("patient_id")
    folds = dict(zip(first["patient_id"], block_folds(first[column].fillna("")), strict=True))
    return table["patient_id"].map(folds).to_numpy()


def real_rows(bench, results, real):
    """Return tidy rows of each method on real scans, and differences from the network of all tasks."""
    name, cohort = real
    table = cohort.table
    folds, rows, methods = real_folds(table), [], {}
    for (experiment, method), found in results.items():
        found = [result for result in found if result.real(name) is not None]
        key = tuple(result.run.key for result in found)
        if (
            experiment not in SHOWN
            or not found
            or key in methods
            or method in {m.name for m in methods.values()}
        ):
            continue
        scores = [
            evaluate_retrieval(
                result.real(name), table, folds=folds, n_neighbors=K, cutoffs=K, targets=(),
                metric=result.metric, n_resamples=bench.n_resamples,
            )
            for result in found
        ]  # fmt: skip
        ks = dict.fromkeys(scores[0].table["task"], K)
        methods[key] = Method(method, found, ks, [at_chosen(score, ks) for score in scores])
    paired = table, bench.n_resamples, "paired_real", name
    base = next((method for method in methods.values() if method.name == ALL), None)
    for method in methods.values():
        rows += score_rows("real", method)
        rows += mask_rows("real", method, table, bench.n_resamples, real=name)
        if base is not None and method is not base:
            rows += difference_rows(base, method, *paired)
    named = {method.name: method for method in methods.values()}
    for first, other in pairs_of(named):
        rows += difference_rows(named[first], named[other], *paired)
    return rows


def site_rows(bench, result, real):
    """Yield whether embeddings of unseen patients tell data sets apart, real from simulated among them."""
    rows = np.concatenate([bench.data.rows("validation"), bench.data.rows("test")])
    table = _columns(bench.table).iloc[rows]
    X = result.X[rows]
    if real is not None and result.real(real[0]) is not None:
        X = np.concatenate([X, result.real(real[0])])
        table = pd.concat([table, _columns(real[1].table)], ignore_index=True)
    if table["dataset"].nunique() < 2:
        return
    row = {"task": "dataset", "metric": "balanced_accuracy"}
    row |= evaluate_site_probe(X, table, n_resamples=bench.n_resamples)
    yield tidy_row("sites", ALL, row, 0, result.run.seed)
    yield tidy_row("sites", "chance", chance_of(row), 0, "")
    if (table.groupby("patient_id")["dataset"].nunique() > 1).any():
        return  # a patient in two data sets would find itself
    options = {"n_neighbors": K, "cutoffs": K, "targets": (), "n_resamples": bench.n_resamples}
    for name, scores in evaluate_across_datasets(X, table, **options).items():
        found = scores.table[scores.table["metric"] == "balanced_accuracy"]
        for row in found.to_dict("records"):
            yield tidy_row("sites", f"{ALL}: {name} as queries to the others", row, K, result.run.seed)
            yield tidy_row("sites", f"chance: {name} as queries to the others", chance_of(row), K, "")


def _columns(table):
    """Return what is compared across data sets: patients, data sets and labels."""
    labels = [name for name in table if name.startswith("label_")]
    return table.reindex(columns=["patient_id", "dataset", *labels])


def label_free_rows(results, name, controls):
    """Yield tidy rows of every method that was tested: means over its seeds, each seed, and the controls.

    Parameters
    ----------
    results : dict of list of Result
    name : str
        Of the scans.
    controls : DataFrame or None
        Of `control_table`.
    """
    tables = {}
    for (experiment, method), found in results.items():
        seeds = {r.run.seed: table for r in found if (table := r.label_free(name)) is not None}
        if experiment in LABEL_FREE and len(seeds) > len(tables.get(method, {})):
            tables[method] = seeds
    for method, seeds in tables.items():
        whole = pd.concat([table.assign(seed=seed) for seed, table in seeds.items()], ignore_index=True)
        whole = whole[whole["value"].notna()]
        own = whole["method"] == ""
        if len(seeds) > 1:
            for _, part in whole[own].groupby(["task", "metric"], sort=False):
                mean = part.iloc[0].to_dict() | {"value": part["value"].mean()}
                yield _tidy(method, mean | {"ci_low": np.nan, "ci_high": np.nan}, "")
        for row in whole.to_dict("records"):
            yield _tidy(row["method"] or method, row, row["seed"] if not row["method"] else "")
    for row in [] if controls is None else controls.to_dict("records"):
        yield _tidy(row["method"], row, "")


def _tidy(method, row, seed):
    """Return one tidy row."""
    k = row.get("k")
    return tidy_row("label_free", method, row, "" if pd.isna(k) else int(k), seed)
