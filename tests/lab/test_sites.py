"""Several data sets in one table: a probe that tells them apart, and queries of one among all others."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.label_free import evaluate_across_datasets, evaluate_site_probe


def cohort_of(n_patients, *, informative=True):
    """Return embeddings and table of two tumors per patient; embeddings tell the type, or nothing."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(n_patients), 2)
    kind = patient % 3
    X = rng.normal(0, 1, (2 * n_patients, 3))
    if informative:
        X += np.column_stack([6 * (kind == 0), 6 * (kind == 1), 0 * kind])
    types = np.array(["glioma", "meningioma", "schwannoma"], dtype=object)[kind]
    return X, pd.DataFrame({"patient_id": [f"p{i}" for i in patient], "label_type": types})


def cell(scores):
    """Return the row of balanced accuracy of type at k = 5."""
    return scores.table.query("task == 'type' and metric == 'balanced_accuracy' and k == 5").iloc[0]


def test_site_probe_tells_scanners_from_noise():
    """Embeddings that carry the site are told apart; the interval of others holds chance."""
    X, table = cohort_of(40, informative=False)
    table["dataset"] = np.where(np.arange(len(table)) // 2 % 2, "a", "b")
    found = evaluate_site_probe(X, table)
    assert found["ci_low"] < 0.5 < found["ci_high"] and found["n_patients"] == 40
    marked = X + 9 * (table["dataset"] == "a").to_numpy()[:, None]
    assert evaluate_site_probe(marked, table)["value"] == 1
    with pytest.raises(ValueError, match="two data sets"):
        evaluate_site_probe(X, table.assign(dataset="a"))


def test_each_data_set_is_compared_with_the_others():
    """Types of one set are found by neighbors of the others; all its patients are queries."""
    X, table = cohort_of(60)
    table["dataset"] = np.array(["a", "b", "c"])[np.arange(len(table)) // 2 // 20]
    found = evaluate_across_datasets(X, table, n_neighbors=5)
    assert set(found) == {"a", "b", "c"}
    assert all(cell(s)["value"] > 0.8 for s in found.values())
    assert all(cell(s)["n_patients"] == 20 for s in found.values())
