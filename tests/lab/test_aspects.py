"""Scores of weights of aspects, by hand."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import aspects
from tumorsim import EmbeddingSpace


def archive(n, seed):
    """Return a table of `n` tumors of two types on both sides, volumes over two decades."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_id": [f"{seed}-{i}" for i in range(n)],
            "case_id": [f"{seed}-{i}" for i in range(n)],
            "tumor_id": [f"{seed}-{i}/1" for i in range(n)],
            "label_type": rng.choice(["glioma", "meningioma"], n),
            "label_hemisphere": rng.choice(["left", "right"], n),
            "label_front_rear": rng.choice(["front", "rear"], n),
            "label_upper_lower": "upper",
            "volume_mm3": 10 ** rng.uniform(2, 4, n),
        }
    )


def test_true_labels_find_what_a_large_archive_has():
    """Among 2,000 tumors ten of a type, octant and size are found for each query; among 20 they are not."""
    queries = archive(30, 0)
    scores = {}
    for n in (20, 2000):
        others = archive(n, 1)
        points = aspects.truth(pd.concat([queries, others], ignore_index=True), (1, 1, 1))
        known = points[30:], others
        scores[n] = aspects.measure(points[:30], queries, None, "embedding", gallery=known)
    assert scores[2000]["ndcg"] == scores[2000]["side"] == scores[2000]["type"] == 1
    assert scores[2000]["worst_size_ratio"] < 2 < scores[20]["worst_size_ratio"]
    assert scores[20]["type"] < 1


def test_a_query_is_not_its_own_neighbor():
    """Of eleven tumors all ten others are neighbors, so that shares can be counted by hand."""
    table = archive(11, 0)
    found = aspects.measure(aspects.truth(table, (1, 1, 1)), table, None, "embedding")
    types = table["label_type"].to_numpy()
    assert found["type"] == pytest.approx(np.mean([(types == own).sum() - 1 for own in types]) / 10)
    logs = np.log(table["volume_mm3"])
    assert found["worst_size_ratio"] == pytest.approx(
        np.exp(np.median([max(abs(logs - own)) for own in logs]))
    )


def test_distance_of_the_truth_weighs_each_part_alike():
    """The mean squared distance of pairs is the same for type, sides and size."""
    table = archive(400, 2)
    parts = [aspects.truth(table, np.eye(3)[i]) for i in range(3)]
    squares = [(np.square(part[:, None] - part[None]).sum(axis=2)).mean() for part in parts]
    assert squares == pytest.approx([2, 2, 2], rel=1e-4)


def test_chances_are_those_that_labels_agree():
    """Two tumors whose heads give 0.8 and 0.6 to a type agree by 0.8 · 0.6 + 0.2 · 0.4; size is a step."""
    logit = np.log([4.0, 1.5])  # odds of the first class
    space = EmbeddingSpace(
        "s",
        {name: [[1.0, 0.0], [0.0, 0.0]] for name in ("type", *aspects.SIDES)},
        offsets={name: [0.0, 0.0] for name in ("type", *aspects.SIDES)},
    )
    one, two = (np.array([[value, 0.0]]) for value in logit)
    tables = [pd.DataFrame({"volume_mm3": [mm3]}) for mm3 in (100.0, 199.0, 201.0)]
    agree = 0.8 * 0.6 + 0.2 * 0.4
    near, far = (aspects.chances(space, one, tables[0], two, table)[0, 0] for table in tables[1:])
    assert near == pytest.approx(agree + agree**3 + 1, abs=2e-3)
    assert far == pytest.approx(agree + agree**3, abs=2e-3)
