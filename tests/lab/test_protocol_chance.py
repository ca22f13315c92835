"""Chance levels, macro averages, relevance by id: by hand, at random, by others' code."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from benchmarks import protocol
from tumorsim import metrics


@pytest.mark.parametrize(("relevance", "k"), [((1, 0, 0, 0), 1), ((1, 1, 0, 0, 0), 2), ((1, 1, 1), 3)])
def test_chance_levels_are_means_over_all_orders(relevance, k):
    """Each level equals the mean of the metric over every permutation of the gallery."""
    orders = np.array(list(permutations(relevance)))
    found = protocol.chance_levels(sum(relevance), len(relevance), k)
    assert found["precision_at_k"] == pytest.approx(metrics.precision_at_k(orders, k).mean())
    assert found["recall_at_k"] == pytest.approx(metrics.recall_at_k(orders, k).mean())
    assert found["average_precision"] == pytest.approx(metrics.average_precision(orders).mean())
    assert found["reciprocal_rank"] == pytest.approx(metrics.reciprocal_rank(orders).mean())


def test_ndcg_at_random_is_the_mean_over_all_orders():
    """Graded gains too."""
    gains = np.array(list(permutations((3, 1, 0, 0))))
    assert protocol.ndcg_chance((3, 1, 0, 0), 2) == pytest.approx(metrics.ndcg_at_k(gains, 2).mean())
    assert np.isnan(protocol.ndcg_chance((0, 0), 1))


def test_chance_without_anything_relevant_is_nothing_or_unknown():
    """Precision and reciprocal rank are 0 then; recall and average precision are not defined."""
    found = protocol.chance_levels([0, 2], 4, 2)
    assert found["precision_at_k"].tolist() == [0, 0.5] and found["reciprocal_rank"][0] == 0
    assert np.isnan(found["recall_at_k"]).tolist() == [True, False]
    assert np.isnan(found["average_precision"]).tolist() == [True, False]


def test_average_precision_is_that_of_scikit_learn():
    """With distances without ties, the full ranking gives scikit-learn's score."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        relevant, distance = rng.random(30) < 0.3, rng.random(30)
        ranked = relevant[np.argsort(distance)].astype(int)
        expected = average_precision_score(relevant, -distance)
        assert metrics.average_precision(ranked) == pytest.approx(expected)


def test_macro_average_of_right_and_wrong_is_balanced_accuracy():
    """A mean of class means over 0 and 1 is scikit-learn's balanced accuracy; NaN is left out."""
    rng = np.random.default_rng(1)
    truth, predicted = rng.choice(list("aab"), 40), rng.choice(list("ab"), 40)
    expected = balanced_accuracy_score(truth, predicted)
    assert protocol.macro_average(truth == predicted, truth) == pytest.approx(expected)
    assert protocol.macro_average([1, np.nan, np.nan], ["a", "a", "b"]) == 1
    assert np.isnan(protocol.macro_average([np.nan], ["a"]))


def test_relevance_by_id_follows_labels():
    """A neighbor is relevant if it carries the query's label; missing labels are relevant for nobody."""
    found = protocol.relevance_of_neighbors(
        [["t3", "t1", "t2"], ["t2", "t3", "t1"]], ["t1", "t2", "t3"], ["x", None, "y"], ["y", None]
    )
    assert found.tolist() == [[True, False, False], [False, False, False]]


def test_empty_gallery_and_unknown_ids_are_refused():
    """Each mistake has a message of its own."""
    with pytest.raises(ValueError, match="gallery must not be empty"):
        protocol.relevance_of_neighbors([["a"]], [], [], ["x"])
    with pytest.raises(ValueError, match="unknown id 'c'"):
        protocol.relevance_of_neighbors([["a", "c"]], ["a", "b"], ["x", "y"], ["x"])
    with pytest.raises(ValueError, match="each tumor once"):
        protocol.relevance_of_neighbors([["a"]], ["a", "a"], ["x", "y"], ["x"])
    with pytest.raises(ValueError, match="gallery must not be empty"):
        protocol.chance_levels(0, 0, 1)
    with pytest.raises(ValueError, match="gallery must not be empty"):
        metrics.precision_at_k(np.empty((1, 0)), 1)
