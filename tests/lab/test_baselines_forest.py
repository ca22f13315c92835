"""Forest neighborhoods: leaf codes against the trees themselves."""

import numpy as np
import phantoms
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import NearestNeighbors

from benchmarks.baselines import ForestCodes, TumorFeatures
from tumorsim import Case, Tumor


def toy(n=30, labels=None):
    """Return tumors of no interest, and a measure of two numbers, of which the first tells the label."""
    image = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    rng = np.random.default_rng(0)
    tumors, table = [], {}
    for i in range(n):
        case = Case((image, np.eye(4)), case_id=f"c{i}", patient_id=f"p{i}")
        kind = "ab"[i % 2] if labels is None else labels[i]
        tumors.append(Tumor(case, [(0, 0, 0), (2, 2, 2)], tumor_id=f"t{i}", labels={"type": kind}))
        table[f"t{i}"] = [(i % 2) + 0.3 * rng.normal(), rng.normal()]

    def measure(tumors):
        return np.array([table[tumor.tumor_id] for tumor in tumors])

    return tumors, TumorFeatures(measure, standardize=False)


def test_hamming_distance_is_the_share_of_trees_that_part_two_tumors():
    """The distance of codes equals a slow count over the trees; a tumor is at 0 from itself."""
    tumors, features = toy()
    forest = ForestCodes(features, n_trees=11).fit(tumors[:20])
    gallery, queries = forest.transform(tumors[:20]), forest.transform(tumors[20:])
    rows = {t.tumor_id: row for t, row in zip(tumors, features.fit_transform(tumors), strict=True)}
    expected = np.zeros((10, 20))
    for q, query in enumerate(tumors[20:]):
        for g, other in enumerate(tumors[:20]):
            parted = 0
            for tree in forest.forests_["type"].estimators_:
                leaves = tree.apply(np.stack([rows[query.tumor_id], rows[other.tumor_id]]))
                parted += leaves[0] != leaves[1]
            expected[q, g] = parted / 11
    nearest = NearestNeighbors(n_neighbors=20, metric=forest.metric, algorithm="brute").fit(gallery)
    distance, order = nearest.kneighbors(queries)
    assert_allclose(np.take_along_axis(expected, order, axis=1), distance, atol=1e-12)
    assert 0 < expected.max() <= 1
    assert_array_equal((gallery == gallery[0]).all(axis=1)[:1], [True])


def test_neighbors_in_the_forest_share_the_label():
    """Tumors of unseen patients meet those of their own class."""
    tumors, features = toy(60)
    forest = ForestCodes(features).fit(tumors[:40])
    nearest = NearestNeighbors(n_neighbors=5, metric="hamming").fit(forest.transform(tumors[:40]))
    _, found = nearest.kneighbors(forest.transform(tumors[40:]))
    right = (found % 2 == np.arange(40, 60)[:, None] % 2).mean()
    assert right > 0.85


def test_a_forest_a_task_and_missing_labels():
    """Each task grows a forest over the tumors that have its label; `y` replaces labels."""
    tumors, features = toy(12)
    y = {"type": ["a", "b", None] * 4, "side": ["l", "r"] * 6, "constant": ["x"] * 12}
    forest = ForestCodes(features, n_trees=3, min_samples_leaf=1, random_state=5).fit(tumors, y)
    assert list(forest.forests_) == ["type", "side"]  # a single class teaches nothing
    assert forest.n_features_out_ == 6
    known = [i for i in range(12) if i % 3 < 2]
    alone = clone(forest).fit([tumors[i] for i in known], {"type": [y["type"][i] for i in known]})
    assert_array_equal(forest.transform(tumors)[:, :3], alone.transform(tumors))
    only = clone(forest).set_params(tasks=["side"]).fit(tumors, y)
    assert_array_equal(only.transform(tumors), forest.transform(tumors)[:, 3:])


def test_codes_of_a_fitted_embedder():
    """Over a `FrozenEstimator` the embedder is not trained again, and codes are leaves of its embeddings."""
    cohort = phantoms.cohort(4)
    embedder = phantoms.tiny(max_epochs=1).fit(cohort)
    weights = {name: tensor.clone() for name, tensor in embedder.network_.state_dict().items()}
    forest = ForestCodes(FrozenEstimator(embedder), tasks=["type"], n_trees=4, min_samples_leaf=1)
    codes = forest.fit_transform(cohort)
    assert_array_equal(codes, forest.forests_["type"].apply(embedder.transform(cohort)))
    assert all((tensor == weights[name]).all() for name, tensor in embedder.network_.state_dict().items())
    trained = ForestCodes(phantoms.tiny(max_epochs=1), tasks=["type"], n_trees=4, min_samples_leaf=1)
    assert_array_equal(trained.fit_transform(cohort), codes)  # the same seed trains the same embedder


def test_what_cannot_be_grown_is_named():
    """Without two classes, with an unknown task or a wrong number, `fit` says so."""
    tumors, features = toy(6, labels=["a"] * 6)
    with pytest.raises(ValueError, match="needs a label with at least two classes"):
        ForestCodes(features).fit(tumors)
    with pytest.raises(ValueError, match="'tasks' must be labels of the tumors"):
        ForestCodes(features, tasks=["grade"]).fit(tumors)
    for name in ("n_trees", "min_samples_leaf"):
        with pytest.raises(ValueError, match=f"'{name}' must be at least 1"):
            ForestCodes(features).set_params(**{name: 0}).fit(tumors)
    with pytest.raises(NotFittedError, match="ForestCodes is not fitted"):
        ForestCodes(features).transform(tumors)
