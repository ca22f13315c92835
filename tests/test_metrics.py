"""Metrics: values worked out by hand, and scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, ndcg_score

from tumorsim import metrics

RANKED = [1, 0, 1, 1, 0]


def test_metrics_of_one_ranking_worked_out_by_hand():
    """Precision, recall, average precision and reciprocal rank of + - + + - are those on paper."""
    assert metrics.precision_at_k(RANKED, 1) == 1
    assert metrics.precision_at_k(RANKED, 5) == 3 / 5
    assert metrics.recall_at_k(RANKED, 3) == 2 / 3
    assert metrics.recall_at_k(RANKED, 3, n_relevant=4) == 2 / 4
    assert metrics.average_precision(RANKED) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.average_precision(RANKED, n_relevant=6) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 6)
    assert metrics.reciprocal_rank([0, 0, 0, 1]) == 1 / 4
    assert metrics.reciprocal_rank([0, 0]) == 0


def test_metrics_of_several_queries_are_one_number_each():
    """A matrix of rankings gives an array, and the mean average precision skips what has nothing relevant."""
    relevance = [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(metrics.precision_at_k(relevance, 2), [0.5, 0.5, 0])
    np.testing.assert_array_equal(metrics.recall_at_k(relevance, 2), [1, 0.5, np.nan])
    np.testing.assert_array_equal(metrics.reciprocal_rank(relevance), [1, 0.5, 0])
    assert metrics.mean_average_precision(relevance) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_average_precision_and_ndcg_equal_those_of_scikit_learn():
    """On random rankings without ties both agree to float64 rounding."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        gains = rng.integers(0, 4, size=12)
        gains[0] = 3
        falling = -np.arange(12.0)
        relevant = gains >= 2
        expected = average_precision_score(relevant, falling)
        assert metrics.average_precision(relevant) == pytest.approx(expected, abs=1e-12)
        for k in (1, 5, 12):
            expected = ndcg_score(gains[None], falling[None], k=k)
            assert metrics.ndcg_at_k(gains, k) == pytest.approx(expected, abs=1e-12)


def test_ndcg_by_hand_with_gains_of_the_whole_gallery():
    """The best ranking is made of the gallery's gains, not only of what was returned."""
    value = metrics.ndcg_at_k([1, 0], 2, gallery_gains=[0, 2, 1, 0])
    assert value == pytest.approx(1 / (2 + 1 / np.log2(3)))
    assert np.isnan(metrics.ndcg_at_k([0, 0], 2))


def test_neighbor_overlap_counts_shared_ids_whatever_their_order():
    """Two of three shared in one query and none in the other are one third."""
    first, second = [["a", "b", "c"], ["d", "e", "f"]], [["c", "a", "x"], ["u", "v", "w"]]
    assert metrics.neighbor_overlap_at_k(first, second, 3) == pytest.approx(1 / 3)
    assert metrics.neighbor_overlap_at_k(first, first, 2) == 1
    assert metrics.neighbor_overlap_at_k(first, second, 1) == 0


def test_dice_is_the_f1_score_and_one_for_two_empty_masks():
    """Dice equals scikit-learn's F1 of the voxels; labels above 1 are foreground."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, size=(2, 4, 5, 6))
    assert metrics.dice(a, b) == pytest.approx(f1_score((b > 0).ravel(), (a > 0).ravel()))
    assert metrics.dice(np.zeros(3), np.zeros(3)) == 1
    assert metrics.dice(np.ones(3), np.zeros(3)) == 0


def test_an_empty_gallery_is_an_error_everywhere():
    """Nothing can be ranked in an empty gallery, and the message says so."""
    calls = (
        lambda empty: metrics.precision_at_k(empty, 1),
        lambda empty: metrics.recall_at_k(empty, 1),
        metrics.average_precision,
        metrics.mean_average_precision,
        metrics.reciprocal_rank,
        lambda empty: metrics.ndcg_at_k(empty, 1),
        lambda empty: metrics.neighbor_overlap_at_k(empty, empty, 1),
    )
    for call in calls:
        for empty in ([], np.zeros((3, 0))):
            with pytest.raises(ValueError, match="gallery must not be empty"):
                call(empty)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.precision_at_k(RANKED, 6), "at most the 5 ranked.*Got 6"),
        (lambda: metrics.precision_at_k(RANKED, 0), "'k' must be at least 1"),
        (lambda: metrics.precision_at_k([0, 2], 1), "must be 0 or 1"),
        (lambda: metrics.precision_at_k(["a"], 1), "must hold numbers"),
        (lambda: metrics.precision_at_k(np.zeros((1, 2, 3)), 1), r"Got \(1, 2, 3\)"),
        (lambda: metrics.recall_at_k(RANKED, 1, n_relevant=2), "at least the number of relevant"),
        (lambda: metrics.mean_average_precision([[0, 0]]), "none relevant"),
        (lambda: metrics.ndcg_at_k([1, -1], 1), "at least 0"),
        (lambda: metrics.ndcg_at_k([1, 1], 1, gallery_gains=[[1], [1]]), "2 rows for 1 queries"),
        (lambda: metrics.neighbor_overlap_at_k([[1]], [[1], [2]], 1), "1 and 2 rows"),
        (lambda: metrics.dice(np.zeros(3), np.zeros(4)), r"\(3,\) and \(4,\)"),
    ],
)
def test_wrong_arguments_are_named(call, match):
    """Each wrong argument raises ValueError that says what was got."""
    with pytest.raises(ValueError, match=match):
        call()
