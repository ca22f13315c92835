"""evaluate_knn: hand-made archives, scikit-learn's scores, and protocols that must not go wrong."""

import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import balanced_accuracy_score, r2_score

from tumorsim import EmbeddingSpace, evaluate_knn
from tumorsim.evaluation import balanced_accuracy, compare_knn, format_knn_table, split_patients
from tumorsim.evaluation._statistics import r2, spearman

COLUMNS = ["task", "kind", "metric", "k", "value", "chance", "ci_low", "ci_high", "n_queries", "n_patients"]


def cell(result, task, k, metric="balanced_accuracy"):
    """Return the row of one task, metric and k."""
    rows = result[(result["task"] == task) & (result["metric"] == metric) & (result["k"] == k)]
    assert len(rows) == 1
    return rows.iloc[0]


def clusters(n_patients=60, seed=0):
    """Return embeddings and table of tumors, two per patient; the embedding holds type and volume."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    kind = patient % 3
    volume = np.exp(rng.normal(6, 1, size=len(patient)))
    X = np.column_stack([10 * (kind == 0), 10 * (kind == 1), np.log(volume)]) + rng.normal(
        0, 0.1, (len(patient), 3)
    )
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in patient],
            "tumor_id": [f"t{i}" for i in range(len(patient))],
            "label_type": np.array(["glioma", "meningioma", "schwannoma"], dtype=object)[kind],
            "label_noise": rng.choice(np.array(["a", "b"], dtype=object), size=len(patient)),
            "volume_mm3": volume,
            "sphericity": rng.random(len(patient)),
        }
    )
    return X, table


def test_what_the_embedding_holds_is_predicted_and_noise_is_not():
    """Type is perfect, log-volume nearly, and random labels lie at chance within their interval."""
    result = evaluate_knn(*clusters(), n_neighbors=(1, 5))
    assert result.columns.tolist() == COLUMNS
    assert set(result["task"]) == {"type", "noise", "log_volume", "sphericity"}
    kind = cell(result, "type", 5)
    assert (kind["value"], kind["ci_low"], kind["ci_high"]) == (1, 1, 1)
    assert kind["chance"] == pytest.approx(1 / 3)
    assert (kind["n_queries"], kind["n_patients"]) == (120, 60)
    assert cell(result, "log_volume", 5, "r2")["value"] > 0.8
    assert cell(result, "log_volume", 5, "spearman")["value"] > 0.9
    noise = cell(result, "noise", 5)
    assert noise["ci_low"] < 0.5 < noise["ci_high"]
    assert cell(result, "sphericity", 5, "r2")["ci_high"] < 0.2


def test_majority_ties_and_missing_labels_by_hand():
    """Equal votes go to the nearer class, and an unlabeled neighbor is passed over, not counted."""
    X = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    table = pd.DataFrame({"patient_id": list("abcde"), "label_t": ["x", None, "y", "y", "x"]})
    query_table = pd.DataFrame({"patient_id": ["new", "other"], "label_t": ["x", "y"]})
    result = evaluate_knn(X, table, query_X=[[0.0], [2.4]], query_table=query_table, n_neighbors=(1, 2, 3, 4))
    # From 0: x y y x. From 2.4: y(3) x(1) y(4) x(5). Labels x, y.
    values = [cell(result, "t", k)["value"] for k in (1, 2, 3, 4)]
    assert values == [1, 1, 0.5, 1]


def test_values_equal_those_of_a_plain_loop_and_scikit_learn():
    """One tumor after the other, other patients sorted by distance, gives the same scores for every k."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 4))
    table = pd.DataFrame(
        {
            "patient_id": rng.integers(30, size=80).astype(str),
            "label_t": rng.choice(np.array(["a", "b", "c", None], dtype=object), size=80),
            "elongation": np.where(rng.random(80) < 0.1, np.nan, X[:, 0] + 0.3 * rng.normal(size=80)),
        }
    )
    result = evaluate_knn(X, table, n_neighbors=(1, 4, 9))
    for k in (1, 4, 9):
        for column in ("label_t", "elongation"):
            known = table[column].notna().to_numpy()
            truth, predicted = [], []
            for i in np.flatnonzero(known):
                others = np.flatnonzero(known & (table["patient_id"] != table["patient_id"][i]))
                nearest = others[np.argsort(np.linalg.norm(X[others] - X[i], axis=1))][:k]
                values = table[column][nearest].tolist()
                truth.append(table[column][i])
                counts = [values.count(v) for v in values]
                predicted.append(values[int(np.argmax(counts))] if column == "label_t" else np.mean(values))
            if column == "label_t":
                assert cell(result, "t", k)["value"] == pytest.approx(
                    balanced_accuracy_score(truth, predicted)
                )
            else:
                found = cell(result, "elongation", k, "r2")
                assert found["value"] == pytest.approx(r2_score(truth, predicted))
                assert found["n_queries"] == known.sum()
                rho = cell(result, "elongation", k, "spearman")["value"]
                assert rho == pytest.approx(spearmanr(truth, predicted).statistic)


def test_weighted_scores_equal_those_of_repeated_rows():
    """A weight is a repetition: resampled scores are scikit-learn's and SciPy's of the resample."""
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(4, size=(2, 40))
    measured, guessed = rng.normal(size=40).round(1), rng.normal(size=40).round(1)
    weights = rng.integers(0, 4, size=(20, 40)).astype(float)
    weights[0, truth == 3] = 0  # a class that a resample lacks
    accuracy = balanced_accuracy(truth == predicted, truth, weights)
    for i, w in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(40), w)
        recalls = [(predicted[again] == c)[truth[again] == c].mean() for c in np.unique(truth[again])]
        assert accuracy[i] == pytest.approx(np.mean(recalls))
        assert r2(measured, guessed, weights)[i] == pytest.approx(r2_score(measured[again], guessed[again]))
        rho = spearmanr(measured[again], guessed[again]).statistic
        assert spearman(measured, guessed, weights)[i] == pytest.approx(rho)


def test_scores_of_what_does_not_vary_are_nan_without_a_warning():
    """A constant truth has no R², a constant prediction no rank correlation."""
    constant, varying, weights = np.full(5, 7.1), np.arange(5.0), np.ones((2, 5))
    assert np.isnan(r2(constant, varying, weights)).all()
    assert np.isnan(spearman(varying, constant, weights)).all()


def test_a_patient_is_never_its_own_neighbor():
    """Where every tumor's twin is of its own patient and all others differ, each prediction is wrong."""
    X = np.repeat(np.arange(6.0), 2)[:, None]
    table = pd.DataFrame(
        {"patient_id": np.repeat(list("abcdef"), 2), "label_t": np.repeat(list("xyxyxy"), 2)}
    )
    assert cell(evaluate_knn(X, table, n_neighbors=1), "t", 1)["value"] == 0
    twins = evaluate_knn(X, table, query_X=X, query_table=table, n_neighbors=1)
    assert cell(twins, "t", 1)["value"] == 0


def test_a_tumor_under_two_patients_is_an_error():
    """A copy of a query in the gallery under another patient would be its own nearest neighbor."""
    X, table = clusters(6)
    moved = table.copy()
    moved.loc[3, "patient_id"] = "alias"
    with pytest.raises(ValueError, match=r"one patient\. Got 't3' of 'p1' in the gallery and of 'alias'"):
        evaluate_knn(X, table, query_X=X, query_table=moved)


def test_intervals_come_from_patients_not_from_tumors():
    """With every tumor copied ten times within its patient, the interval stays as wide as it was."""
    X, table = clusters(20)
    single = cell(evaluate_knn(X, table, n_neighbors=1), "noise", 1)
    many = np.repeat(np.arange(40), 10)
    copied = table.iloc[many].drop(columns="tumor_id")
    query = cell(evaluate_knn(X, table, query_X=X[many], query_table=copied, n_neighbors=1), "noise", 1)
    assert query["value"] == single["value"]
    assert query["ci_high"] - query["ci_low"] == pytest.approx(single["ci_high"] - single["ci_low"])


def test_the_bootstrap_interval_has_the_width_that_theory_gives():
    """With one random label per patient, 100 patients, it is 2 · 1.96 · sqrt(0.25 / 100) wide within 20 %."""
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.repeat(np.array(["a", "b"], dtype=object), 50))
    table = pd.DataFrame({"patient_id": [f"p{i}" for i in range(100)], "label_t": labels})
    found = cell(evaluate_knn(rng.normal(size=(100, 3)), table, n_neighbors=1), "t", 1)
    assert found["ci_low"] < found["value"] < found["ci_high"]
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * 1.96 * 0.05, rel=0.2)


def test_the_same_seed_gives_the_same_table_and_order_of_k_is_ascending():
    """Results repeat; another seed moves only the intervals; k is sorted and counted once."""
    X, table = clusters(12)
    first = evaluate_knn(X, table, n_neighbors=[5, 1, 5])
    pd.testing.assert_frame_equal(first, evaluate_knn(X, table, n_neighbors=(1, 5)))
    other = evaluate_knn(X, table, n_neighbors=(1, 5), random_state=1)
    pd.testing.assert_series_equal(other["value"], first["value"])
    assert not other["ci_low"].equals(first["ci_low"])


def test_more_neighbors_than_the_gallery_holds_are_all_of_it():
    """With k beyond the gallery every neighbor votes."""
    table = pd.DataFrame({"patient_id": list("abc"), "label_t": list("xyx")})
    result = evaluate_knn([[0.0], [1.0], [2.0]], table, n_neighbors=(2, 50))
    assert cell(result, "t", 50)["value"] == cell(result, "t", 2)["value"]


def test_a_task_labeled_in_one_patient_or_of_one_class_is_left_out():
    """Such tasks say nothing; if no other is left, that is an error which lists the columns."""
    table = pd.DataFrame(
        {
            "patient_id": list("aabc"),
            "label_one": ["x", "y", None, None],
            "label_same": ["x", "x", "x", "x"],
            "label_good": ["x", "y", "x", "y"],
        }
    )
    X = np.arange(4.0)[:, None]
    assert set(evaluate_knn(X, table)["task"]) == {"good"}
    with pytest.raises(ValueError, match=r"Nothing can be evaluated.*label_one, label_same"):
        evaluate_knn(X, table.drop(columns="label_good"))


def test_a_query_without_any_neighbor_counts_as_wrong():
    """A query of the only patient in the gallery has no neighbor, and is not skipped."""
    table = pd.DataFrame({"patient_id": ["a", "a"], "label_t": ["x", "y"], "elongation": [1.0, 2.0]})
    queries = pd.DataFrame(
        {"patient_id": ["a", "b", "c"], "label_t": ["x", "x", "y"], "elongation": [1.0, 2.0, 3.0]}
    )
    result = evaluate_knn(
        [[0.0], [9.0]], table, query_X=[[0.0], [0.0], [9.0]], query_table=queries, n_neighbors=1
    )
    assert cell(result, "t", 1)["value"] == (1 / 2 + 1) / 2
    assert cell(result, "elongation", 1, "r2")["n_queries"] == 2


def test_scale_and_metric_are_those_of_an_index():
    """A space that mutes the first feature makes the second decide; cosine ignores length."""
    X = np.array([[0.0, 1.0], [0.1, 2.0], [9.0, 1.1], [9.1, 2.1]])
    table = pd.DataFrame({"patient_id": list("abcd"), "label_t": list("xyxy")})
    assert cell(evaluate_knn(X, table, n_neighbors=1), "t", 1)["value"] == 0
    muted = EmbeddingSpace("f", scale=[1e-3, 1.0])
    assert cell(evaluate_knn(X, table, n_neighbors=1, space=muted), "t", 1)["value"] == 1
    rays = np.array([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [0.1, 9.0]])
    table["label_t"] = list("xxyy")
    assert cell(evaluate_knn(rays, table, n_neighbors=1), "t", 1)["value"] == 0.5
    assert cell(evaluate_knn(rays, table, n_neighbors=1, metric="cosine"), "t", 1)["value"] == 1


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"table": {"patient_id": ["a"] * 4}}, TypeError, "'table' must be a DataFrame. Got dict"),
        ({"X": np.zeros((3, 2))}, ValueError, r"one row for each of 'table'.*\(3, 2\) for 4 rows"),
        ({"table": pd.DataFrame({"label_t": list("xyxy")})}, ValueError, "'table' must have 'patient_id'"),
        ({"query_X": np.zeros((1, 2))}, ValueError, "belong together"),
        ({"n_neighbors": 0}, ValueError, "'n_neighbors' must be at least 1"),
        ({"n_neighbors": ()}, ValueError, "at least one k"),
        ({"targets": ["dose"]}, ValueError, "'targets' must name columns of both tables. Got 'dose'"),
    ],
)
def test_wrong_arguments_are_named(change, error, match):
    """Each wrong argument raises an error that names it."""
    table = pd.DataFrame({"patient_id": list("abcd"), "label_t": list("xyxy")})
    arguments = {"X": np.eye(4)[:, :2], "table": table} | change
    with pytest.raises(error, match=match):
        evaluate_knn(**arguments)


def test_any_numeric_column_can_be_a_target():
    """`targets` replaces the default ones and takes log_volume as well."""
    X, table = clusters(12)
    table["dose"] = table["volume_mm3"] * 2
    result = evaluate_knn(X, table, n_neighbors=3, targets=["dose", "log_volume"])
    assert set(result.loc[result["kind"] == "regression", "task"]) == {"dose", "log_volume"}


def test_the_formatted_table_has_one_line_per_task_and_one_column_per_k():
    """Values, chance and the interval at k = 5 are in the text."""
    result = evaluate_knn(*clusters(20), n_neighbors=(1, 5))
    lines = format_knn_table(result).splitlines()
    assert lines[0].split() == ["task", "metric", "n", "chance", "k=1", "k=5", "95", "%", "(k=5)"]
    assert len(lines) == 1 + 2 + 2 * 2
    assert lines[1].split() == [
        "type",
        "balanced_accuracy",
        "40",
        "0.33",
        "1.00",
        "1.00",
        "1.00",
        "to",
        "1.00",
    ]


def test_a_thousand_tumors_are_evaluated_in_seconds():
    """Two tasks and two targets with intervals, 1,000 tumors of 500 patients, take under 20 s."""
    X, table = clusters(500)
    start = time.perf_counter()
    evaluate_knn(X, table)
    assert time.perf_counter() - start < 20


def test_a_better_method_wins_on_the_same_resamples():
    """Scores are those of each method alone; noise loses to clusters; a method ties with itself."""
    X, table = clusters()
    noise = np.random.default_rng(1).normal(size=(len(X), 2))
    found = compare_knn(X, noise, table, n_neighbors=(1, 5)).set_index(["task", "metric", "k"])
    for column, features in (("value", X), ("other", noise)):
        alone = evaluate_knn(features, table, n_neighbors=(1, 5)).set_index(["task", "metric", "k"])
        np.testing.assert_array_equal(found[column], alone["value"])
    np.testing.assert_allclose(found["difference"], found["value"] - found["other"], rtol=1e-12)
    assert found.loc[("type", "balanced_accuracy", 5), "outcome"] == "win"
    assert found.loc[("noise", "balanced_accuracy", 5), "outcome"] == "tie"
    reverse = compare_knn(noise, X, table).set_index(["task", "metric"])
    assert reverse.loc[("type", "balanced_accuracy"), "outcome"] == "loss"
    assert (compare_knn(X, X, table)["outcome"] == "tie").all()


def test_split_patients_parts_patients_not_tumors():
    """Each patient is on one side with all tumors, the share is that of patients, and the seed fixes it."""
    patients = np.repeat([f"p{i}" for i in range(10)], np.arange(1, 11))
    train, test = split_patients(patients, test_share=0.3, random_state=4)
    assert sorted([*train, *test]) == list(range(55))
    assert len(set(patients[test])) == 3 and not set(patients[train]) & set(patients[test])
    assert (test == split_patients(patients, test_share=0.3, random_state=4)[1]).all()
    with pytest.raises(ValueError, match="must leave patients on both sides"):
        split_patients(["a", "b"], test_share=0.1)
