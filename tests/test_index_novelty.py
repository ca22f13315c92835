"""What an answer can be trusted with: size, percentiles, p-values and whitened distances."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.index._exact import ExactEngine

HEADS = {
    "type": np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]]),
    "hemisphere": np.array([[0.0, 0.0, 2.0]]),
    "region": np.array([[1.0, 1.0, 1.0]]),
    "nothing": np.zeros((1, 3)),
}


def make_archive(rng, n, n_patients, *, missing=0.2):
    """Return embeddings and a table of n tumors with types, centers and volumes, some of them missing."""
    X = rng.normal(size=(n, 3)).astype(np.float32)
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in rng.integers(n_patients, size=n)],
            "label_type": pd.Series(
                rng.choice(np.array(["m", "g", None], dtype=object), size=n), dtype=object
            ),
            "volume_mm3": np.where(rng.random(n) < missing, np.nan, np.exp(rng.normal(7, 1, size=n))),
        }
    )
    table.loc[0, "label_type"] = "m"  # a value that no tumor has is an error in a condition
    return X, table


def nearest_of_others(distances, patients, own, allowed):
    """Return the least of one row's distances over allowed tumors of other patients, by a loop."""
    best = np.inf
    for distance, patient, may in zip(distances, patients, allowed, strict=True):
        if may and patient != own and distance < best:
            best = distance
    return best


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_p_values_equal_their_definition(data):
    """With one tumor a patient, p is what a loop counts that admits the query to the archive."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    n = data.draw(st.integers(2, 40), "n")
    X, table = make_archive(rng, n, n)
    table["patient_id"] = [f"p{i}" for i in range(n)]
    X = np.round(X).astype(float)  # many ties
    only = data.draw(st.sampled_from([None, "m", ["m", None]]), "only")
    where = data.draw(st.sampled_from([None, {"type": only}]), "where")
    known = data.draw(st.booleans(), "known")
    queries = np.round(rng.normal(size=(4, 3)) * 2)
    own = ["p0", "p1", "new", "newer"]
    of = {"patient_id": own} if known else None
    index = TumorIndex().fit(X, metadata=table)
    answer = index.search(queries, 2, where=where, query_metadata=of, alpha=0.4)
    allowed = np.ones(n, dtype=bool)
    if where is not None:
        wanted = only if isinstance(only, list) else [only]
        allowed = np.array([v in wanted for v in table["label_type"]])
    patients = table["patient_id"].tolist()
    for i, query in enumerate(queries):
        me = own[i] if known else "new"
        to_query = np.sqrt(((X - query) ** 2).sum(axis=1))
        a = nearest_of_others(to_query, patients, me, allowed)
        scores = []
        for j in np.flatnonzero(allowed):
            if patients[j] != me:
                apart = np.sqrt(((X - X[j]) ** 2).sum(axis=1))
                score = min(nearest_of_others(apart, patients, patients[j], allowed), to_query[j])
                if np.isfinite(nearest_of_others(apart, patients, patients[j], allowed)):
                    scores.append(score)
        p = (1 + sum(s >= a for s in scores)) / (len(scores) + 1)
        p = np.nan if len(scores) + 1 < 1 / 0.4 or not np.isfinite(a) else p
        mine = answer[answer["query"] == i]
        assert_array_equal(mine["p_value"], np.full(len(mine), p))
        assert_array_equal(mine["no_close_match"], np.full(len(mine), p <= 0.4))


def test_p_values_are_uniform_where_queries_are_like_the_archive():
    """Over 60 archives of 99 Gaussian patients, p is at most a level as often as the level says."""
    rng, p = np.random.default_rng(0), []
    for _ in range(60):
        tumors = rng.integers(1, 4, size=99)  # a patient's tumors are alike
        X = np.repeat(rng.normal(size=(99, 4)), tumors, axis=0)
        X += 0.3 * rng.normal(size=X.shape)
        patients = np.repeat([f"p{i}" for i in range(99)], tumors)
        index = TumorIndex().fit(X, metadata={"patient_id": patients.tolist()})
        queries = rng.normal(size=(50, 4)) + 0.3 * rng.normal(size=(50, 4))
        p.extend(index.search(queries, 1)["p_value"])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        # binomial over 60 archives of 50 dependent queries: three standard errors of 60 draws, halved
        assert np.mean(np.array(p) <= level) == pytest.approx(level, abs=1.5 * np.sqrt(level / 60))
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_far_queries_have_no_close_match():
    """Six standard deviations off, every query is called so; on the archive's own center none is."""
    rng = np.random.default_rng(1)
    index = TumorIndex().fit(rng.normal(size=(200, 3)))
    answer = index.search([[6.0, 6.0, 6.0], [0.0, 0.0, 0.0]], 2)
    assert answer["no_close_match"].tolist() == [True, True, False, False]
    assert answer["p_value"][0] == 1 / 201
    assert "p_value" not in index.search([[0.0, 0.0, 0.0]], alpha=None)


def test_too_few_patients_have_no_p_value():
    """At 0.05 nineteen other patients are the least, and the query's own does not count."""
    X = np.arange(19.0)[:, None]
    table = {"patient_id": [f"p{i}" for i in range(19)]}
    index = TumorIndex().fit(X, metadata=table)
    assert index.search([[99.0]], 1)["p_value"][0] == 0.05
    assert index.search([[99.0]], 1)["no_close_match"][0]
    own = index.search([[99.0]], 1, query_metadata={"patient_id": ["p3"]})
    assert own["p_value"].isna().all() and not own["no_close_match"].any()
    assert index.search([[99.0]], 1, alpha=0.04)["p_value"].isna().all()
    with pytest.raises(ValueError, match="'alpha' must be greater than 0"):
        index.search([[99.0]], alpha=0)


def test_held_out_patients_calibrate():
    """A column held_out says by itself who calibrates, and a condition says it otherwise."""
    rng = np.random.default_rng(2)
    fitted, new = rng.normal(size=(100, 2)) * 0.01, rng.normal(size=(40, 2)) * 5  # fitted: overly alike
    table = {"tumor_id": [f"t{i}" for i in range(140)], "held_out": [False] * 100 + [True] * 40}
    query, X = [[4.0, 4.0]], np.concatenate([fitted, new])
    by_column = TumorIndex().fit(X, metadata=table)
    renamed = {"tumor_id": table["tumor_id"], "fresh": table["held_out"]}
    by_condition = TumorIndex().fit(X, metadata=renamed)
    p = by_column.search(query, 1)["p_value"][0]
    assert p == by_condition.search(query, 1, calibration={"fresh": True})["p_value"][0]
    assert p > 2 * by_condition.search(query, 1)["p_value"][0]
    text = table | {"held_out": ["no"] * 140}
    assert TumorIndex().fit(X, metadata=text).search(query, 1)["p_value"].notna().all()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_size_place_and_percentiles_equal_brute_force(data):
    """Aspects with measured size, under filters: rows, distances, and shares of random pairs."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    n = data.draw(st.integers(3, 30), "n")
    X, table = make_archive(rng, n, max(2, n // 2))
    queries = rng.normal(size=(3, 3)).astype(np.float32)
    volumes = np.exp(rng.normal(7, 1, size=3))
    weights = data.draw(
        st.sampled_from([{"size": 1}, {"size": 0.5, "type": 2}, {"place": 1, "size": 1}, {"type": 1}, None]),
        "weights",
    )
    if weights is None or "type" in weights:
        volumes[1] = np.nan  # this query has no measured size
    where = data.draw(st.sampled_from([None, {"type": "m"}, {"volume_mm3": ("!=", None)}]), "where")
    limit = data.draw(st.sampled_from([None, 1]), "limit")
    index = TumorIndex().fit(X, metadata=table, space=EmbeddingSpace("f", HEADS))
    options = {"query_metadata": {"volume_mm3": volumes}, "where": where, "max_per_patient": limit}
    answer = index.search(queries, 5, aspects=weights, **options)

    patients = table["patient_id"].to_numpy()
    first, second = np.triu_indices(n, 1)
    pairs = patients[first] != patients[second]
    first, second = first[pairs], second[pairs]

    def in_units(values):
        """Return distances of queries to tumors, and those of pairs, over the pairs' median."""
        own, other = values
        apart, among = cdist(other, own), np.sqrt(((own[first] - own[second]) ** 2).sum(axis=1))
        among = among[~np.isnan(among)]
        unit = (np.median(among) or among.mean()) if len(among) else 1.0
        return apart / (unit or 1.0), among / (unit or 1.0)

    def read(rows, points):
        return points.astype(float) @ np.linalg.pinv(rows) @ rows

    aspects = {
        name: in_units((read(HEADS[name], X), read(HEADS[name], queries)))
        for name in ("type", "hemisphere", "region")
    }
    parts = [aspects[name] for name in ("hemisphere", "region")]
    total = [np.sqrt(parts[0][i] ** 2 + 0.1 * parts[1][i] ** 2) for i in (0, 1)]  # the area counts a tenth
    unit = ((np.median(total[1]) or total[1].mean()) if len(total[1]) else 0) or 1.0
    aspects["place"] = tuple(values / unit for values in total)

    def unlike(one, other):
        """Return the distance of sizes: a jump at a ratio of 2, and a little of the ratio itself."""
        one, other = (np.round(np.log2(volumes) * 2**17) / 2**17 for volumes in (one, other))
        doublings = np.abs(one - other)
        part = 0.15 * doublings**2 / (1 + doublings**2)
        return np.sqrt(np.where(np.isnan(doublings), np.nan, part + 0.85 * (doublings > 1)))

    own = table["volume_mm3"].to_numpy()
    among = unlike(own[first], own[second])
    aspects["size"] = unlike(volumes[:, None], own), among[~np.isnan(among)]
    given = dict.fromkeys(("type", "place", "size"), 1) if weights is None else weights
    squares = np.stack([aspects[name][0] ** 2 for name in given])
    w = np.array(list(given.values()), dtype=float)[:, None, None]
    there = (w * ~np.isnan(squares)).sum(axis=0)
    combined = np.where(there > 0, np.nansum(w * squares, axis=0) * w.sum() / np.maximum(there, 1e-9), np.nan)
    combined = np.sqrt(combined)
    allowed = ~np.isnan(combined[0])
    if where is not None:
        allowed &= (table["label_type"] == "m") if "type" in where else table["volume_mm3"].notna()
    expected = []
    for i in range(3):
        taken = set()
        ranked = [row for row in np.argsort(combined[i], kind="stable") if allowed[row]]
        for row in ranked:
            if sum(q == i for q, _ in expected) < 5 and not (limit and patients[row] in taken):
                expected.append((i, row))
                taken.add(patients[row])
    rows = answer["tumor_id"].astype(int)
    assert list(zip(answer["query"], rows, strict=True)) == expected
    assert_allclose(answer["distance"], combined[answer["query"], rows], atol=1e-9)
    shown = ["type", "place", "size"]
    assert [c for c in answer if c.startswith("distance_")] == [f"distance_{name}" for name in shown]
    for name, (apart, among) in ((name, aspects[name]) for name in shown):
        mine = apart[answer["query"], rows]
        assert_allclose(answer[f"distance_{name}"], mine, atol=1e-9)
        share = [np.mean(among > d + 1e-9) if len(among) and d == d else np.nan for d in mine]
        assert_allclose(answer[f"closer_than_{name}"], share, atol=1e-12)
    assert index.aspects_ == ("type", "hemisphere", "region", "place", "size")  # "nothing" has no distance


def test_course_joins_the_changes_per_month():
    """Tumors that changed alike are near, each column in units of its spread; without a course none is."""
    ratios, diameters = [0.5, 0.45, -0.5, None, 0.4], [9, -9, 5, None, 8]
    table = {"volume_ratio_per_month": ratios, "diameter_mm_per_month": diameters}
    index = TumorIndex().fit([[0.0]] * 5, metadata=table)
    asked = {"volume_ratio_per_month": [0.5], "diameter_mm_per_month": [9.0]}
    near = index.search([[0.0]], 5, aspects={"course": 1}, query_metadata=asked)
    assert near["tumor_id"].tolist() == ["0", "4", "1", "2"]
    points = np.array([ratios, diameters], dtype=float).T[[0, 4, 1, 2]]
    first, second = np.triu_indices(4, 1)
    points = points / np.median(np.abs(points[first] - points[second]), axis=0)
    unit = np.median(np.linalg.norm(points[first] - points[second], axis=1))
    expected = np.linalg.norm(points - points[0], axis=1) / unit
    assert_allclose(near["distance_course"], expected, atol=1e-12)
    assert near["distance"].tolist() == near["distance_course"].tolist()
    assert "distance_course" not in index.search([[0.0]], query_metadata=asked)  # only where asked for
    with pytest.raises(
        ValueError, match=r"'volume_ratio_per_month' and column 'diameter_mm_per_month'.*Got none"
    ):
        index.search([[0.0]], aspects={"course": 1}, query_metadata={"volume_ratio_per_month": [0.5]})


def test_size_is_measured_or_refused():
    """Volumes decide, not embeddings; without them size cannot be asked for, and is not in the answer."""
    table = {"volume_mm3": [10.0, 100.0, 1000.0, None]}
    index = TumorIndex().fit([[0.0], [0.0], [9.0], [0.0]], metadata=table)
    near = index.search([[0.0]], 4, aspects={"size": 2}, query_metadata={"volume_mm3": [900]})
    assert near["tumor_id"].tolist() == ["2", "1", "0"]  # the one without a volume cannot answer
    plain = index.search([[0.0]], 4, query_metadata={"volume_mm3": [900]})
    assert plain["tumor_id"].tolist() == ["0", "1", "3", "2"]
    assert plain["distance_size"].isna().tolist() == [False, False, True, False]
    assert plain["closer_than_size"].isna().tolist() == [False, False, True, False]
    assert "distance_size" not in index.search([[0.0]])
    for of in (None, {"volume_mm3": [None]}, {"volume_mm3": [0]}):
        with pytest.raises(ValueError, match=r"volume greater than 0 in column 'volume_mm3'.*Got none"):
            index.search([[0.0]], aspects={"size": 1}, query_metadata=of)
    own = TumorIndex().fit(
        [[0.0], [1.0]], metadata={"volume_mm3": [1, 2]}, space=EmbeddingSpace("f", {"size": [[1]]})
    )
    assert own.search([[0.0]], aspects={"size": 1})["distance_size"].tolist() == [0, 1]  # a task named size


def test_look_is_what_no_head_reads():
    """It is the scaled features without the directions that heads read, over its median pair."""
    rng = np.random.default_rng(7)
    X, scale = rng.normal(size=(30, 4)).astype(np.float32), np.array([1.0, 2.0, 0.5, 3.0])
    heads = {"type": rng.normal(size=(2, 4)), "hemisphere": rng.normal(size=(1, 4))}
    rows = np.vstack(list(heads.values())) / scale
    left = (X * scale) @ (np.eye(4) - np.linalg.pinv(rows) @ rows)
    apart = cdist(left, left)
    index = TumorIndex().fit(X, space=EmbeddingSpace("f", heads, scale))
    answer = index.search(X[:3], 30, aspects={"look": 4})
    row = answer["tumor_id"].astype(int)
    expected = apart[answer["query"], row] / np.median(apart[np.triu_indices(30, 1)])
    assert_allclose(answer["distance_look"], expected, atol=1e-6)
    assert_allclose(answer["distance"], 2 * expected, atol=1e-6)
    everything = {"type": np.eye(4)}  # nothing is left
    assert TumorIndex().fit(X, space=EmbeddingSpace("f", everything)).aspects_ == ("type",)


def test_default_aspects_are_those_that_exist():
    """Heads, place and size weigh alike, look a twentieth; bare arrays keep the plain distance."""
    X, rng = np.random.default_rng(8).normal(size=(20, 3)), np.random.default_rng(8)
    sized, heads = {"volume_mm3": rng.uniform(1, 9, size=20)}, {"type": [[1, 0, 0]], "region": [[0, 1, 0]]}
    of_heads = EmbeddingSpace("f", heads)
    for metadata, space, metric, expected in (
        (sized, of_heads, "euclidean", ["type", "place", "size", "look"]),
        (None, of_heads, "euclidean", ["type", "place", "look"]),
        (sized, EmbeddingSpace("f", {"grade": [[1, 0, 0]]}), "euclidean", ["grade", "size", "look"]),
        (sized, EmbeddingSpace("f"), "euclidean", ["size", "look"]),
        (None, EmbeddingSpace("f"), "euclidean", []),
        (sized, None, "euclidean", []),
        (sized, of_heads, "cosine", []),
    ):
        index = TumorIndex(metric=metric).fit(X, metadata=metadata, space=space)
        assert list(index.aspect_weights()) == expected
        answer = index.search(X[:2], 4, query_metadata=None if metadata is None else {"volume_mm3": [2, 3]})
        if not expected:
            assert_allclose(answer["distance"].to_numpy().reshape(2, 4), index.kneighbors(X[:2], 4)[0])
            continue
        weights = index.aspect_weights()
        assert set(weights.values()) == {1.0, 0.05} and weights["look"] == 0.05
        total = sum(weights[name] * answer[f"distance_{name}"] ** 2 for name in expected)
        assert_allclose(answer["distance"], np.sqrt(total), atol=1e-9)
    with pytest.raises(TypeError, match="or be 'embedding'"):
        index.search(X[:2], aspects="looks")


@pytest.mark.parametrize("engine", ["exact", "pynndescent"])
def test_any_column_of_numbers_is_an_aspect(engine):
    """By age the nearest are those of like age, in units of its median difference; unknown ages come last."""
    ages = [30.0, 50.0, 70.0, None]
    index = TumorIndex(engine=engine).fit(
        np.zeros((4, 2)), metadata={"age": ages, "sex": ["f", "m", "f", "m"]}
    )
    answer = index.search([[0, 0]], 4, aspects={"age": 1}, query_metadata={"age": [66]})
    assert answer["tumor_id"].tolist() == ["2", "1", "0"]
    assert_allclose(answer["distance"], [4 / 20, 16 / 20, 36 / 20])
    assert_allclose(answer["distance_age"], answer["distance"])
    with pytest.raises(ValueError, match="Got 'sex'; aspects are none, and columns of numbers"):
        index.search([[0, 0]], aspects={"sex": 1})
    with pytest.raises(ValueError, match="'age' needs a number in column 'age' of 'query_metadata'"):
        index.search([[0, 0]], aspects={"age": 1})


def test_points_of_aspects_order_tumors_as_a_search_does():
    """Their distances are a search's, but for size; a missing volume lies at the archive's mean."""
    X, table = make_archive(np.random.default_rng(9), 30, 30, missing=0)
    index = TumorIndex().fit(X, metadata=table, space=EmbeddingSpace("f", HEADS))
    points = index.coordinates(aspects={"type": 1, "place": 0.5})
    found = index.search(X[:2], 30, aspects={"type": 1, "place": 0.5})
    expected = cdist(points[:2], points)[found["query"], found["tumor_id"].astype(int)]
    assert_allclose(found["distance"], expected, atol=1e-9)
    doublings = np.log2(table["volume_mm3"].to_numpy(dtype=float))
    sizes = index.coordinates(aspects={"size": 4})[:, -1]
    assert_allclose(sizes[0] - sizes[1], 2 / 3 * (doublings[0] - doublings[1]), atol=1e-3)
    everything = index.coordinates(aspects=None)
    assert_allclose(index.coordinates(X[:2], metadata=table[:2], aspects=None), everything[:2])
    assert_allclose(
        index.coordinates(X[:1], aspects={"size": 1}), [index.coordinates(aspects={"size": 1}).mean(axis=0)]
    )


def test_each_query_has_tumors_of_its_own_to_leave_out():
    """They are no results and no nearest case of a p-value, and others may have them."""
    index = TumorIndex().fit(np.arange(30.0)[:, None])
    near = [str(i) for i in range(8)]
    answer = index.search([[3.0], [3.0]], 2, exclude=[near, []])
    assert answer["tumor_id"].tolist() == ["8", "9", "3", "2"]
    assert answer["p_value"].tolist() == [1 / 31, 1 / 31, 1, 1]  # all others have one at 1, and this one at 5
    with pytest.raises(ValueError, match="as many as the 2 queries"):
        index.search([[3.0], [3.0]], 2, exclude=[["3"]])


def test_answers_must_not_share_names_with_metadata():
    """A column that an answer has too is an error that names it."""
    index = TumorIndex().fit([[0.0], [1.0]], metadata={"volume_mm3": [1, 2], "closer_than_size": [1, 2]})
    with pytest.raises(ValueError, match="'closer_than_size' of the metadata"):
        index.search([[0.0]], query_metadata={"volume_mm3": [1]})


@pytest.mark.parametrize("scale", [None, [1.0, 10.0, 0.1, 3.0]])
def test_whitened_distances_are_mahalanobis_with_the_shrunk_covariance(scale):
    """They equal SciPy's with scikit-learn's Ledoit-Wolf precision, and are unchanged by save and load."""
    rng = np.random.default_rng(3)
    X = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) * 100).astype(np.float32)
    queries = X[:7] + 1
    index = TumorIndex(metric="whitened").fit(X, space=EmbeddingSpace("f", scale=scale))
    distances, rows = index.kneighbors(queries, 60)
    factors = np.ones(4) if scale is None else np.array(scale)
    scaled, asked = X * factors, queries.astype(float) * factors
    expected = cdist(asked, scaled, "mahalanobis", VI=LedoitWolf().fit(scaled).precision_)
    order = np.argsort(expected, axis=1, kind="stable")
    assert_array_equal(rows, order)
    assert_allclose(distances, np.take_along_axis(expected, order, axis=1), rtol=1e-6)


def test_whitening_survives_flat_archives_and_saving(tmp_path):
    """One tumor, equal tumors and a constant feature have distances; a loaded index answers alike."""
    assert TumorIndex(metric="whitened").fit([[1.0, 2.0]]).search([[1.0, 5.0]])["distance"][0] == 3
    equal = TumorIndex(metric="whitened").fit([[1.0, 2.0]] * 3)
    assert equal.search([[1.0, 5.0]], 1)["distance"][0] == 3
    rng = np.random.default_rng(4)
    X = np.column_stack([rng.normal(size=30), np.zeros(30)])
    index = TumorIndex(metric="whitened").fit(X)
    assert np.isfinite(index.search(X[:3] + 1)["distance"]).all()
    index.save(tmp_path / "index")
    again = TumorIndex.load(tmp_path / "index")
    pd.testing.assert_frame_equal(again.search(X[:3]), index.search(X[:3]), check_exact=True)


def test_aspects_and_p_values_follow_the_archive():
    """After add and remove an answer is that of an index fitted on what is left."""
    rng = np.random.default_rng(5)
    X, table = make_archive(rng, 40, 30, missing=0)
    table["tumor_id"] = [f"t{i}" for i in range(40)]
    space, of = EmbeddingSpace("f", HEADS), {"volume_mm3": [1000.0]}
    changed = TumorIndex().fit(X[:30], metadata=table[:30], space=space)
    changed.search(X[:1], query_metadata=of, aspects={"size": 1, "type": 1})
    changed.add(X[30:], metadata=table[30:]).remove(["t0", "t1"])
    fresh = TumorIndex().fit(X[2:], metadata=table[2:], space=space)
    for options in ({}, {"aspects": {"size": 1, "type": 1}}):
        asked = {"query_metadata": of, **options}
        pd.testing.assert_frame_equal(changed.search(X[:1], **asked), fresh.search(X[:1], **asked))


def test_more_patients_than_calibrate_are_sampled(monkeypatch):
    """One tumor each of a fixed number of patients, the same ones every time."""
    from tumorsim.index import _search

    monkeypatch.setattr(_search, "MOST_PATIENTS", 50)
    rng = np.random.default_rng(6)
    X, table = make_archive(rng, 300, 120)
    first, second = (TumorIndex().fit(X, metadata=table).search(X[:20] + 9, 1)["p_value"] for _ in range(2))
    assert (first == 1 / 51).all()
    pd.testing.assert_series_equal(first, second)


def test_query_of_an_unknown_patient_passes_the_archive_once(monkeypatch):
    """Its nearest neighbor is its p-value's too; a known patient's own tumors need a pass without them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    metadata = pd.DataFrame({"patient_id": [f"p{i // 2}" for i in range(60)]})
    index = TumorIndex().fit(X, metadata=metadata)
    queries = rng.normal(size=(3, 4)).astype(np.float32)
    index.search(queries)  # calibrates
    passes, nearest = [], ExactEngine.nearest

    def counted(self, X, n_neighbors, selection):
        passes.append(n_neighbors)
        return nearest(self, X, n_neighbors, selection)

    monkeypatch.setattr(ExactEngine, "nearest", counted)
    unknown = index.search(queries, query_metadata=pd.DataFrame({"patient_id": ["new"] * 3}))
    assert len(passes) == 1
    both = pd.DataFrame({"patient_id": ["new", "new", "p0"]})  # of which the last needs a pass of its own
    mixed = index.search(queries, query_metadata=both)
    assert len(passes) == 3
    of_new = [table[table["query"] < 2]["p_value"].to_numpy() for table in (unknown, mixed)]
    assert_array_equal(*of_new)
    table = index.search(queries, query_metadata=both, exclude="same_patient")
    assert len(passes) == 4  # the neighbors are of other patients already
    assert_array_equal(table["p_value"], mixed["p_value"])
