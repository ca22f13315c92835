"""The strict protocol: scores by hand and by scikit-learn, paired differences, mistakes that must fail."""

import numpy as np
import pandas as pd
import phantoms
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from benchmarks.protocol import (
    block_folds,
    check_apart,
    evaluate_retrieval,
    paired_differences,
    pool_scores,
    rank_gallery,
)
from tumorsim import Case, Cohort, Tumor


def cohort_of(n_patients=40, *, prefix="p", seed=0, informative=True):
    """Return embeddings and table of two tumors per patient; embeddings hold type and volume, or nothing."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    kind, volume = patient % 3, np.exp(rng.normal(6, 1, 2 * n_patients))
    X = rng.normal(0, 1, (2 * n_patients, 3))
    if informative:
        X += np.column_stack([6 * (kind == 0), 6 * (kind == 1), 4 * np.log(volume)])
    table = pd.DataFrame(
        {
            "patient_id": [f"{prefix}{i}" for i in patient],
            "tumor_id": [f"{prefix}{i}/{j % 2}" for j, i in enumerate(patient)],
            "label_type": np.array(["glioma", "meningioma", "schwannoma"], dtype=object)[kind],
            "volume_mm3": volume,
            "diameter_mm": volume ** (1 / 3),
        }
    )
    return X, table


def cell(scores, task, metric, k=0):
    """Return the row of one score."""
    rows = scores.table.query("task == @task and metric == @metric and k == @k")
    assert len(rows) == 1
    return rows.iloc[0]


def test_votes_and_means_are_those_of_scikit_learn():
    """Balanced accuracy, mean absolute error, R² and Spearman's correlation agree with others' code."""
    (X, table), (query_X, queries) = cohort_of(), cohort_of(15, prefix="q", seed=1)
    scores = evaluate_retrieval(X, table, query_X=query_X, query_table=queries, n_neighbors=(1, 5))
    vote = KNeighborsClassifier(1).fit(X, table["label_type"]).predict(query_X)
    expected = balanced_accuracy_score(queries["label_type"], vote)
    assert cell(scores, "type", "balanced_accuracy", 1)["value"] == pytest.approx(expected)
    predicted = KNeighborsRegressor(5).fit(X, np.log(table["volume_mm3"])).predict(query_X)
    truth = np.log(queries["volume_mm3"])
    for metric, score in (("mae", mean_absolute_error), ("r2", r2_score)):
        assert cell(scores, "log_volume", metric, 5)["value"] == pytest.approx(score(truth, predicted))
    found = cell(scores, "log_volume", "spearman", 5)
    assert found["value"] == pytest.approx(spearmanr(truth, predicted)[0])
    assert found["ci_low"] < found["value"] < found["ci_high"] and found["n_patients"] == 15


def test_rankings_by_hand():
    """One query: relevant at ranks 1 and 3 of 4; another has nothing relevant, is skipped and counted."""
    table = pd.DataFrame({"patient_id": list("abcd"), "label_type": ["x", "y", "x", "y"]})
    queries = pd.DataFrame({"patient_id": ["e", "f", "g"], "label_type": ["x", "y", "z"]})
    scores = evaluate_retrieval(
        [[0], [1], [2], [3]], table, query_X=[[-1], [-1], [-1]], query_table=queries, cutoffs=(2, 9)
    )
    # of class x: precision@2 1/2, recall 1/2, AP (1 + 2/3) / 2, RR 1; of y: 1/2, 1/2, (1/2 + 2/4) / 2, 1/2
    for metric, k, value in (
        ("precision_at_k", 2, 0.5), ("recall_at_k", 2, 0.5), ("average_precision", 0, (5 / 6 + 0.5) / 2),
        ("reciprocal_rank", 0, 0.75),
    ):  # fmt: skip
        found = cell(scores, "type", metric, k)
        assert found["value"] == pytest.approx(value), metric
        assert (found["n_queries"], found["n_skipped"]) == (2, 1)
    assert cell(scores, "type", "precision_at_k", 2)["chance"] == 0.5
    assert 9 not in set(scores.table.query("metric == 'recall_at_k'")["k"])  # the gallery has four


def test_graded_relevance_gives_a_point_for_each_agreement():
    """The best order by type, region, side and size has nDCG 1, and the reverse what the formula says."""
    table = pd.DataFrame(
        {
            "patient_id": list("ab"), "label_type": ["x", "y"], "label_region": ["r", "r"],
            "label_hemisphere": ["left", "right"], "volume_mm3": [100.0, 1000.0],
        }
    )  # fmt: skip
    query = table.iloc[:1].assign(patient_id="q", volume_mm3=150.0)
    for X, expected in (([[0], [1]], 1), ([[1], [0]], (1 + 4 / np.log2(3)) / (4 + 1 / np.log2(3)))):
        both = pd.concat([query, query.assign(patient_id="q2", label_type="y")], ignore_index=True)
        scores = evaluate_retrieval(X, table, query_X=[[0], [0]], query_table=both.iloc[:2], cutoffs=2)
        second = (3, 2) if expected == 1 else (2, 3)  # the other query shares region and side or type
        other = (second[0] + second[1] / np.log2(3)) / (3 + 2 / np.log2(3))
        assert cell(scores, "graded", "ndcg_at_k", 2)["value"] == pytest.approx((expected + other) / 2)


def test_random_labels_score_at_chance():
    """With random embeddings every interval holds its chance level, and R² is not above it."""
    (X, table), (query_X, queries) = (
        cohort_of(150, informative=False), cohort_of(150, prefix="q", seed=1, informative=False),
    )  # fmt: skip
    table = evaluate_retrieval(X, table, query_X=query_X, query_table=queries, n_neighbors=9).table
    for row in table[table["task"].isin(["type", "graded"])].itertuples():
        assert row.ci_low - 0.01 < row.chance < row.ci_high + 0.01, row
    assert (table.loc[table["metric"] == "r2", "value"] < 0.05).all()


def test_a_better_method_wins_on_the_same_resamples():
    """Errors count as better when lower; a method ties with itself; other queries cannot be compared."""
    (X, table), (query_X, queries) = cohort_of(), cohort_of(15, prefix="q", seed=1)
    options = {"query_table": queries, "n_neighbors": 5, "n_resamples": 200}
    good = evaluate_retrieval(X, table, query_X=query_X, **options)
    noise = np.random.default_rng(3).normal(size=X.shape)
    bad = evaluate_retrieval(noise, table, query_X=query_X[:, ::-1], **options)
    outcome = paired_differences(good, bad).set_index(["task", "metric"])["outcome"]
    assert set(outcome["type"]) <= {"win", "tie"} and outcome["type", "balanced_accuracy"] == "win"
    assert outcome["log_volume", "mae"] == "win"
    assert (paired_differences(good, good)["outcome"] == "tie").all()
    reverse = paired_differences(bad, good).set_index(["task", "metric"])["outcome"]
    assert reverse["log_volume", "mae"] == "loss"
    pooled = pool_scores([good, bad])
    np.testing.assert_allclose(pooled.table["value"], (good.table["value"] + bad.table["value"]) / 2)
    other = evaluate_retrieval(X, table, query_X=query_X, **(options | {"random_state": 1}))
    with pytest.raises(ValueError, match="same queries"):
        paired_differences(good, other)


def test_each_fold_is_the_query_of_the_others():
    """Each tumor is a query to the other folds; blocks within a class are contiguous."""
    X, table = cohort_of()
    folds = block_folds(table["label_type"], 5)
    for name in set(table["label_type"]):
        assert (np.diff(folds[table["label_type"] == name]) >= 0).all()
    by_patient = np.arange(len(X)) // 16
    scores = evaluate_retrieval(X, table, folds=by_patient, n_neighbors=5)
    assert cell(scores, "type", "balanced_accuracy", 5)["n_queries"] == len(X)
    assert cell(scores, "type", "average_precision")["value"] > 0.6
    with pytest.raises(ValueError, match="A patient must be on one side"):
        evaluate_retrieval(X, table, folds=np.arange(len(X)) % 2)


def test_a_wrong_protocol_fails():
    """A patient on both sides at another date, and a query in the gallery, are errors."""
    (X, table), (query_X, queries) = cohort_of(), cohort_of(15, prefix="q", seed=1)
    queries.loc[0, "patient_id"] = "p3"
    with pytest.raises(ValueError, match=r"A patient must be on one side only.*'p3'"):
        evaluate_retrieval(X, table, query_X=query_X, query_table=queries)
    queries.loc[0, ["patient_id", "tumor_id"]] = ["renamed", "p3/0"]
    with pytest.raises(ValueError, match=r"A query must not be in the gallery.*'p3/0'"):
        evaluate_retrieval(X, table, query_X=query_X, query_table=queries)
    with pytest.raises(ValueError, match="empty"):
        evaluate_retrieval(X[:0], table[:0], query_X=query_X, query_table=queries)
    with pytest.raises(ValueError, match="Give either"):
        evaluate_retrieval(X, table)


def flip(tumor):
    """Return a tumor of the scan with left and right swapped, under another patient's name."""
    image, mask = ((array[::-1], tumor.case.affine) for array, _ in (tumor.case.image, tumor.case.mask))
    case = Case(image, mask, case_id=f"f{tumor.case.case_id}", patient_id=f"f{tumor.patient_id}")
    box = tumor.bbox.copy()
    box[:, 0] = tumor.case.shape[0] - box[::-1, 0]
    return Tumor(case, box, tumor_id=f"f{tumor.tumor_id}", labels=tumor.labels, mask_value=tumor.mask_value)


def test_mirrored_scans_under_another_name_are_found():
    """A left-right flip of a scan, entered as another patient's, must not count as another patient."""
    cohort = phantoms.cohort(4)
    flipped = Cohort(flip(tumor) for tumor in cohort[:2])
    with pytest.raises(ValueError, match="mirrored copies"):
        check_apart(cohort.table, flipped.table)
    check_apart(cohort[2:].table, flipped.table)
    X = np.arange(len(cohort) * 2.0).reshape(-1, 2)
    with pytest.raises(ValueError, match="mirrored copies"):
        evaluate_retrieval(X, cohort.table, query_X=X[: len(flipped)], query_table=flipped.table)


def test_rankings_need_numbers():
    """An empty gallery, NaN and other numbers of features are refused; Hamming counts what differs."""
    with pytest.raises(ValueError, match="not empty"):
        rank_gallery(np.empty((0, 2)), [[0, 0]])
    with pytest.raises(ValueError, match="finite"):
        rank_gallery([[np.nan, 0]], [[0, 0]])
    with pytest.raises(ValueError, match="same features"):
        rank_gallery([[0, 0]], [[0, 0, 0]])
    order = rank_gallery([[9, 9, 9], [1, 2, 9], [1, 2, 3]], [[1, 2, 3]], metric="hamming")
    assert order.tolist() == [[2, 1, 0]]
