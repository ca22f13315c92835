"""Diagnostics of a space and the partial Mantel test: by hand, by a formula, at random."""

import numpy as np
import pytest
from scipy.stats import skew

from benchmarks import metrics


def test_neighbors_are_rows_of_the_gallery():
    """Another row is refused."""
    with pytest.raises(ValueError, match="rows of the gallery"):
        metrics.k_occurrence([[0, 5]], 3)


def test_hubness_is_the_skewness_of_occurrence():
    """One tumor that all queries find makes the distribution skew, and the others anti-hubs."""
    neighbors = np.array([[0, 1], [0, 2], [0, 3], [0, 4]])
    counts = metrics.k_occurrence(neighbors, 8)
    assert counts.tolist() == [4, 1, 1, 1, 1, 0, 0, 0]
    assert metrics.hubness(counts) == pytest.approx(skew(counts))
    assert metrics.antihub_share(counts) == 3 / 8
    assert metrics.hubness([2, 2, 2]) == 0


def test_effective_rank_counts_dimensions_in_use():
    """Noise in three of ten dimensions has rank 3, a line 1, a single point 0; scale does not matter."""
    X = np.zeros((4000, 10))
    X[:, :3] = np.random.default_rng(0).standard_normal((4000, 3))
    assert metrics.effective_rank(X) == pytest.approx(3, abs=0.01)  # singular values differ by some percent
    assert metrics.effective_rank(1e3 * X) == pytest.approx(metrics.effective_rank(X))
    assert metrics.effective_rank(np.arange(5.0)[:, None] * [1, 2]) == pytest.approx(1)
    assert metrics.effective_rank(np.ones((5, 2))) == 0


def test_alignment_and_uniformity_by_hand():
    """Antipodes are 4 apart; a class in one place aligns perfectly; one place for all is least uniform."""
    assert metrics.alignment([[1, 0], [-3, 0]], ["a", "a"]) == pytest.approx(4)
    assert metrics.alignment([[1, 0], [2, 0], [0, 1]], ["a", "a", None]) == pytest.approx(0, abs=1e-12)
    assert np.isnan(metrics.alignment([[1, 0], [0, 1]], ["a", "b"]))
    assert metrics.uniformity([[1, 1], [2, 2]]) == pytest.approx(0)
    assert metrics.uniformity([[1, 0], [-1, 0]], t=2) == pytest.approx(-8)
    with pytest.raises(ValueError, match="at least two"):
        metrics.uniformity([[1, 0]])


def test_partial_mantel_equals_the_textbook_formula():
    """With one control, r is (r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²)) of the pairs."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3, 12, 2))
    x, y, z = (np.linalg.norm(p[:, None] - p, axis=2) for p in points)
    pairs = np.triu_indices(12, 1)
    r = np.corrcoef([x[pairs], y[pairs], z[pairs]])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert metrics.partial_mantel(x, y, [z], n_permutations=0)[0] == pytest.approx(expected)
    assert metrics.partial_mantel(x, y, n_permutations=0)[0] == pytest.approx(r[0, 1])
    assert metrics.partial_mantel(x, z + 0.1 * y, [z], n_permutations=0)[0] == pytest.approx(expected)
    assert np.isnan(metrics.partial_mantel(x, 2 * z + 1, [z])[0])


def test_partial_mantel_counts_a_patient_once():
    """Copies of a patient's rows change neither r nor p; what is shared beyond the control is found."""
    rng = np.random.default_rng(1)
    latent, other = rng.normal(size=(2, 10))
    x, y, z = (np.abs(v[:, None] - v) for v in (latent + 0.1 * rng.normal(size=10), latent, other))
    found = metrics.partial_mantel(x, y, [z], random_state=0)
    assert found[0] > 0.8 and found[1] < 0.01
    rows = np.repeat(np.arange(10), rng.integers(1, 4, size=10))
    copied = [m[np.ix_(rows, rows)] for m in (x, y, z)]
    assert metrics.partial_mantel(*copied[:2], copied[2:], rows, random_state=0) == pytest.approx(found)


def test_partial_mantel_is_uniform_under_the_null():
    """With unrelated matrices that both add to the control, p is at most 0.2 in about a fifth of trials."""
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(200):
        z, a, b = (np.abs(v[:, None] - v) for v in rng.normal(size=(3, 15)))
        p_values.append(metrics.partial_mantel(z + a, z + b, [z], n_permutations=49, random_state=0)[1])
    share = np.mean(np.array(p_values) <= 0.2)
    assert share == pytest.approx(0.2, abs=3 * np.sqrt(0.2 * 0.8 / 200))  # three binomial standard errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3)[:2], np.eye(3)), "'distances' must be square"),
        ((np.eye(5), np.eye(4)), r"'others' must be \(5, 5\)"),
        ((np.eye(5), np.eye(5), [np.triu(np.ones((5, 5)))]), "'controls' must be finite and symmetric"),
        ((np.eye(5), np.eye(5), [], [0, 1]), "'groups' must have one entry per row, 5"),
        ((np.eye(5), np.eye(5), [], [0, 0, 0, 1, 2]), "at least four patients. Got 3"),
    ],
)
def test_partial_mantel_refuses_malformed_matrices(arguments, message):
    """The message names the argument."""
    with pytest.raises(ValueError, match=message):
        metrics.partial_mantel(*arguments)
