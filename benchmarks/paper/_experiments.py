"""Finished runs → tidy rows, an experiment a function; what has not finished gives no rows."""

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.paper._elsewhere import label_free_rows, real_rows, site_rows
from benchmarks.paper._plan import ALL, pairs_of
from benchmarks.paper._scores import (
    COLUMNS,
    chance_of,
    difference_rows,
    mask_rows,
    mean_rows,
    measure,
    score_rows,
    space_rows,
    tidy_row,
)
from benchmarks.protocol import rank_gallery
from tumorsim.metrics import neighbor_overlap_at_k

__all__ = ["TABLES", "tabulate"]

TABLES = ("table3", "table2", "baselines", "missing_labels", "cohort_size", "contrastive", "finetune")
OVERLAP_K = 10
SIDE_K = 5


def tabulate(bench, results, experiments, *, real=None, dates=None, echo=print):
    """Return tidy rows of all that has finished.

    Parameters
    ----------
    bench : Bench
    results : dict of list of Result
        (experiment, method) → its finished runs.
    experiments : sequence of str
    real : tuple of str and Cohort, optional
    dates : tuple of str and DataFrame, optional
        Name of the scans of tests without labels, and their controls.
    echo : callable
    """
    methods, rows = {}, []

    def method(experiment, name, **options):
        """Return a `Method` or None, each worked out once."""
        runs = results.get((experiment, name))
        if not runs:
            return None
        key = (tuple(r.run.key for r in runs), *options)
        if key not in methods:
            methods[key] = measure(bench, name, runs, **options)
        return replace(methods[key], name=name, results=runs)

    for experiment in experiments:
        echo(f"Scoring {experiment} …")
        names = [name for (e, name) in results if e == experiment]
        if experiment in TABLES:
            rows += _table(bench, experiment, names, method)
        elif experiment == "table4":
            for name in names:
                rows += _boxes(bench, method("table4", name))
        elif experiment == "fig4" and names:
            rows += _curve(bench, results["fig4", ALL][0])
        elif experiment == "fig5" and names:
            for result in [results["fig5", ALL][0], *results.get(("table3", "type only"), [])[:1]]:
                rows += _hemispheres(bench, result)
        elif experiment == "real" and real is not None:
            rows += real_rows(bench, results, real)
        elif experiment == "sites" and names:
            rows += site_rows(bench, results["sites", ALL][0], real)
        elif experiment == "label_free" and dates is not None:
            rows += label_free_rows(results, *dates)
    named = ["experiment", "method", "task", "metric", "k", "seed"]
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(named)


def _table(bench, experiment, names, method):
    """Return scores, masks, spaces and differences, of tables with the network of all tasks from that."""
    rows, base = [], method("table3", ALL) or method(experiment, ALL)
    paired = bench.table, bench.n_resamples
    for first, other in pairs_of(names):
        rows += difference_rows(method(experiment, first), method(experiment, other), *paired)
    for name in names:
        found = method(experiment, name, **({"own_gallery": True} if experiment == "cohort_size" else {}))
        rows += score_rows(experiment, found)
        if experiment == "cohort_size" and name != ALL:
            whole = replace(method(experiment, name), name=f"{name}, gallery of all")
            rows += score_rows(experiment, whole)
        for result in found.results:
            rows += space_rows(experiment, name, bench, result)
        rows += mask_rows(experiment, found, bench.table, bench.n_resamples)
        if experiment == "finetune":
            continue  # the network of all tasks is another, smaller one
        if base is not None and found.results[0].run.key != base.results[0].run.key:
            rows += difference_rows(base, found, *paired)
    return rows


def _boxes(bench, method):
    """Return scores and neighbors of queries in distorted boxes (Table 4)."""
    rows = []
    if method is None:
        return rows
    gallery, queries = bench.data.rows("train"), bench.data.rows("test")
    patients = bench.table["patient_id"].to_numpy(dtype=str)[queries]
    for result in method.results:
        distorted, seed = result.distorted(), result.run.seed
        if distorted is None:
            continue
        exact = rank_gallery(result.X[gallery], result.X[queries], metric=result.metric)[:, :OVERLAP_K]
        for (scale, shift), (X, iou) in distorted.items():
            name = f"{method.name}; scale {scale:g}, shift {shift:g}"
            scores = bench.score(result, X=X, ks=sorted(set(method.ks.values())))
            votes = scores.table[scores.table["metric"].isin(("balanced_accuracy", "spearman"))]
            votes = votes[votes["k"] == votes["task"].map(method.ks)]
            rows += [tidy_row("table4", name, row, row["k"], seed) for row in votes.to_dict("records")]
            order = rank_gallery(result.X[gallery], X, metric=result.metric)[:, :OVERLAP_K]
            pairs = zip(exact, order, strict=True)
            kept = [neighbor_overlap_at_k(a[None], b[None], OVERLAP_K) for a, b in pairs]
            options = {"n_resamples": bench.n_resamples, "seed": seed}
            of = "table4", name
            rows += mean_rows(*of, "neighbors", "overlap_at_k", kept, patients, k=OVERLAP_K, **options)
            rows += mean_rows(*of, "box", "iou", iou, patients, **options)
    return rows


def _curve(bench, result):
    """Return votes and means at every k (Fig. 4)."""
    scores = bench.score(result, ks=range(1, 51))
    found = scores.table[scores.table["metric"].isin(("balanced_accuracy", "mae", "r2", "spearman"))]
    for row in found.to_dict("records"):
        yield tidy_row("fig4", ALL, row, row["k"], result.run.seed)
        yield tidy_row("fig4", "chance", chance_of(row), row["k"], "")


def _hemispheres(bench, result):
    """Return whether schwannomas find those of their own side (Fig. 5)."""
    from sklearn.metrics import silhouette_score

    table = bench.table
    if "label_hemisphere" not in table or "label_type" not in table:
        return
    chosen = (table["label_type"] == "schwannoma") & table["label_hemisphere"].notna()
    rows = [np.intersect1d(bench.data.rows(side), np.flatnonzero(chosen)) for side in ("train", "test")]
    sides = table["label_hemisphere"].to_numpy(dtype=object)
    if any(len(set(sides[part])) < 2 for part in rows):
        return
    scores = bench.score(result, gallery=rows[0], queries=rows[1], ks=SIDE_K)
    found = scores.table.query("task == 'hemisphere' and metric == 'balanced_accuracy'")
    for row in found.to_dict("records"):
        named = row | {"task": "hemisphere of schwannomas"}
        yield tidy_row("fig5", result.run.method, named, row["k"], result.run.seed)
    value = silhouette_score(result.X[rows[1]], sides[rows[1]].astype(str)) if len(rows[1]) > 2 else np.nan
    n = table["patient_id"].iloc[rows[1]].nunique()
    row = {"task": "hemisphere of schwannomas", "metric": "silhouette", "value": value, "n_patients": n}
    yield tidy_row("fig5", result.run.method, row, 0, result.run.seed)
