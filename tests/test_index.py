"""TumorIndex: scikit-learn's contract, and every answer against brute force."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.estimator_checks import check_estimator

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import _exact

FOUR = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
TABLE = pd.DataFrame(
    {
        "patient_id": ["p", "p", "q", "r"],
        "case_id": ["1", "2", "1", "1"],
        "tumor_id": ["a", "b", "c", "007"],
        "label_type": pd.Series(["meningioma", "glioma", None, "meningioma"], dtype=object),
        "volume_mm3": [500.0, 20.0, np.nan, 800.0],
        "n_visits": [1, 2, 3, 4],
        "operated": [True, False, False, True],
    }
)
COLUMNS = ["query", "rank", "distance", "p_value", "no_close_match", *TABLE.columns]


@pytest.fixture
def four():
    """Return an index of four hand-made points with metadata."""
    return TumorIndex().fit(FOUR, metadata=TABLE)


def ids(answer, query=0):
    """Return the tumor ids of one query's answer, nearest first."""
    return answer.loc[answer["query"] == query, "tumor_id"].tolist()


def test_scikit_learn_finds_nothing_wrong():
    """Every check of check_estimator passes; array API input is only tried where SciPy switches it on."""
    results = check_estimator(TumorIndex(), on_skip=None)
    not_passed = {r["check_name"] for r in results if r["status"] != "passed"}
    assert len(results) > 30
    assert not_passed <= {"check_array_api_input"}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_kneighbors_equal_those_of_scikit_learn(metric):
    """Rows agree, distances to float32 rounding of the reference, with and without queries."""
    rng = np.random.default_rng(0)
    X, queries = rng.normal(size=(300, 8)).astype(np.float32), rng.normal(size=(20, 8)).astype(np.float32)
    index = TumorIndex(metric=metric).fit(X)
    reference = NearestNeighbors(metric=metric, algorithm="brute").fit(X.astype(np.float64))
    for asked, expected in ((queries, queries.astype(np.float64)), (None, None)):
        distances, rows = index.kneighbors(asked, n_neighbors=7)
        true_distances, true_rows = reference.kneighbors(expected, n_neighbors=7)
        np.testing.assert_array_equal(rows, true_rows)
        np.testing.assert_allclose(distances, true_distances, rtol=0, atol=1e-10)  # both are float64
        np.testing.assert_array_equal(index.kneighbors(asked, 7, return_distance=False), rows)


def test_equal_distances_are_ordered_by_row_number():
    """Among 200 copies of three points the lowest rows come first, whatever the float32 product says."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(3, 5)).astype(np.float32)
    which = rng.integers(3, size=200)
    distances, rows = TumorIndex().fit(points[which]).kneighbors(points, n_neighbors=20)
    for i in range(3):
        assert rows[i].tolist() == np.flatnonzero(which == i)[:20].tolist()
    assert (distances == 0).all()


def test_distances_do_not_cancel_far_from_the_origin():
    """At 10,000 from the origin, steps of 1/256 are still told apart and measured exactly."""
    X = 10_000 + np.arange(100)[:, None] / 256 * np.ones((1, 4))
    distances, rows = TumorIndex().fit(X).kneighbors(X[:1], n_neighbors=4)
    assert rows.tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(distances[0], np.arange(4) / 128, rtol=1e-12)  # 2 = sqrt(4 features)


@pytest.mark.parametrize("factor", [1e-20, 1e15])
def test_one_outlier_and_extreme_units_lose_no_neighbor(factor):
    """The rounding bound holds for tiny and huge features beside an outlier a million times farther."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(500, 6))
    X[7] *= 1e6
    X = (X * factor).astype(np.float32)
    rows = TumorIndex().fit(X).kneighbors(X[:50], n_neighbors=5, return_distance=False)
    wide = X.astype(np.float64) / factor
    true = np.linalg.norm(wide[:50, None] - wide[None], axis=2)
    np.testing.assert_array_equal(rows, np.argsort(true, axis=1, kind="stable")[:, :5])


def test_a_query_does_not_depend_on_its_batch_or_on_block_size(monkeypatch):
    """Alone, in a batch, and in blocks of one row, a query gets the same bits."""
    rng = np.random.default_rng(3)
    X, queries = rng.normal(size=(400, 8)), rng.normal(size=(30, 8))
    index = TumorIndex().fit(X)
    distances, rows = index.kneighbors(queries, 6)
    for name, value in {"BLOCK_BYTES": 256, "N_QUERIES": 7, "N_POINTS": 33, "GROUPS": 2}.items():
        monkeypatch.setattr(_exact, name, value)
    for i in range(30):
        alone = index.kneighbors(queries[i : i + 1], 6)
        np.testing.assert_array_equal(alone[0][0], distances[i])
        np.testing.assert_array_equal(alone[1][0], rows[i])


def test_cosine_distance_ignores_length_and_refuses_zeros():
    """Distances are scikit-learn's 1 - cosine; a row of zeros has no direction."""
    index = TumorIndex(metric="cosine").fit([[1.0, 0.0], [1e-15, 1e-15], [0.0, 9.0]])
    answer = index.search([[4.0, 0.0]], n_neighbors=3, max_per_patient=None)
    assert answer["tumor_id"].tolist() == ["0", "1", "2"]
    expected = cosine_distances([[1, 0]], [[1, 0], [1, 1], [0, 1]])[0]
    np.testing.assert_allclose(answer["distance"], expected, atol=1e-12)
    with pytest.raises(ValueError, match="Got zeros in row 1"):
        TumorIndex(metric="cosine").fit([[1.0], [0.0]])


def test_search_answers_with_rank_distance_and_the_neighbors_metadata(four):
    """Columns, ranks from 1, distances by hand, and one tumor a patient by default."""
    answer = four.search([[0.2, 0.0], [5.0, 5.0]], n_neighbors=2)
    assert answer.columns.tolist() == COLUMNS
    assert answer["query"].tolist() == [0, 0, 1, 1]
    assert answer["rank"].tolist() == [1, 2, 1, 2]
    assert answer["tumor_id"].tolist() == ["a", "c", "007", "c"]
    np.testing.assert_allclose(answer["distance"], [0.2, np.hypot(0.2, 3), 0, np.hypot(5, 2)], rtol=1e-7)


def test_max_per_patient_limits_or_frees_the_answer(four):
    """1, 2 and None tumors of a patient; without patients nothing is limited."""
    query = [[0.4, 0.0]]
    assert ids(four.search(query, 4)) == ["a", "c", "007"]
    assert ids(four.search(query, 4, max_per_patient=2)) == ["a", "b", "c", "007"]
    assert ids(four.search(query, 4, max_per_patient=None)) == ["a", "b", "c", "007"]
    free = TumorIndex().fit(FOUR)
    assert ids(free.search(query, 4)) == ["0", "1", "2", "3"]


def test_a_patient_with_most_of_the_archive_does_not_hide_the_others():
    """With 500 tumors of one patient nearest, the five other patients are all found."""
    rng = np.random.default_rng(4)
    X = np.concatenate([rng.normal(size=(500, 3)), 50 + np.arange(15).reshape(5, 3)])
    index = TumorIndex().fit(X, metadata={"patient_id": ["many"] * 500 + list("abcde")})
    answer = index.search([[0.0, 0.0, 0.0]], 6)
    assert answer["patient_id"].tolist() == ["many", *"abcde"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"type": "meningioma"}, "a 007"),
        ({"label_type": "meningioma"}, "a 007"),
        ({"type": ["glioma", None]}, "b c"),
        ({"type": ("glioma", "meningioma")}, "a b 007"),
        ({"type": {"glioma"}}, "b"),
        ({"type": None}, "c"),
        ({"type": float("nan")}, "c"),
        ({"type": ("!=", None)}, "a b 007"),
        ({"type": ("!=", "glioma")}, "a 007"),
        ({"type": (">=", "h")}, "a 007"),
        ({"type": []}, ""),
        ({"volume_mm3": (">=", 500)}, "a 007"),
        ({"volume_mm3": [(">", 20), ("<", 800)]}, "a"),
        ({"volume_mm3": None}, "c"),
        ({"volume_mm3": 20}, "b"),
        ({"n_visits": ("<=", 2), "type": "meningioma"}, "a"),
        ({"n_visits": [2, 4]}, "b 007"),
        ({"operated": True}, "a 007"),
        ({"tumor_id": "007"}, "007"),
        ({}, "a b c 007"),
    ],
)
def test_where_selects_by_equality_sets_ranges_and_missing(four, where, expected):
    """Each form of the grammar selects the rows that it names."""
    answer = four.search([[0.0, 0.0]], 4, where=where, max_per_patient=None)
    assert " ".join(answer["tumor_id"]) == expected
    assert answer.columns.tolist() == COLUMNS


@pytest.mark.parametrize(
    ("where", "error", "match"),
    [
        ({"grade": 2}, ValueError, "'grade'; columns are patient_id, case_id, tumor_id, label_type"),
        ({"volume_mm3": "500"}, TypeError, "'volume_mm3' holds numbers. Got '500'"),
        ({"tumor_id": 7}, TypeError, "'tumor_id' holds text. Got 7"),
        ({"operated": 1}, TypeError, "'operated' holds booleans"),
        ({"volume_mm3": (">=", None)}, ValueError, "cannot order column 'volume_mm3' by a missing value"),
        ({"type": {"a": 1}}, TypeError, "text, numbers, booleans or None"),
        (
            {"type": "Glioma"},
            ValueError,
            r"no 'label_type' is 'Glioma'\. Its values are 'men.*' \(2\), 'glioma' \(1\)",
        ),
        ({"type": ["x", "y"]}, ValueError, r"no 'label_type' is 'x' or 'y'\. Its values are"),
        ({"type": ("==", "Glioma")}, ValueError, r"no 'label_type' is 'Glioma'"),
        ("type=glioma", TypeError, "must map columns to conditions"),
    ],
)
def test_where_refuses_what_it_cannot_mean(four, where, error, match):
    """Unknown columns and values of another kind are errors, not empty answers."""
    with pytest.raises(error, match=match):
        four.search([[0.0, 0.0]], where=where)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ((">=", "2019-01-01"), "1 3"),
        ([(">=", "2019-01-01"), ("<", "2020-01-01")], "1"),
        (("<", "2019"), "0"),
        (("<=", "2019-03-01T12:00"), "0 1"),
    ],
)
def test_dates_have_ranges(condition, expected):
    """Text such as 2019-03-01 is in order of time, whole or from its start; missing is in no range."""
    dates = ["2018-05-01", "2019-03-01", None, "2020-01-05"]
    index = TumorIndex().fit(np.zeros((4, 1)), metadata={"date": dates})
    found = index.search([[0.0]], 4, where={"date": condition})
    assert " ".join(sorted(found["tumor_id"])) == expected
    with pytest.raises(ValueError, match=r"'date' holds dates such as 2024-05-31\. Got '01\.02\.2019'"):
        index.search([[0.0]], where={"date": (">=", "01.02.2019")})


def test_exclude_leaves_out_patient_case_or_ids(four):
    """A case id counts within its patient; ids are tumor ids."""
    query, of = [[0.0, 0.0]], {"patient_id": ["p"], "case_id": ["1"]}
    options = {"n_neighbors": 4, "max_per_patient": None}
    assert ids(four.search(query, exclude="same_patient", query_metadata=of, **options)) == ["c", "007"]
    assert ids(four.search(query, exclude="same_case", query_metadata=of, **options)) == ["b", "c", "007"]
    assert ids(four.search(query, exclude="same_case", query_metadata={"case_id": ["1"]}, **options)) == ["b"]
    new = {"patient_id": ["new"]}
    assert len(four.search(query, exclude="same_patient", query_metadata=new, **options)) == 4
    assert ids(four.search(query, exclude=["a", "007", "unheard"], **options)) == ["b", "c"]


def test_exclude_without_what_it_needs_is_an_error(four):
    """Missing query ids, an archive without patients, and malformed options are all refused."""
    query = [[0.0, 0.0]]
    with pytest.raises(ValueError, match=r"needs column 'patient_id' in 'query_metadata'\. Got no table"):
        four.search(query, exclude="same_patient")
    with pytest.raises(
        ValueError, match=r"needs column 'case_id' in 'query_metadata'\. Got columns patient_id"
    ):
        four.search(query, exclude="same_case", query_metadata={"patient_id": ["p"]})
    with pytest.raises(TypeError, match=r"'patient_id' of 'query_metadata' must be text.*Got None"):
        four.search(query, exclude="same_patient", query_metadata={"patient_id": [None]})
    with pytest.raises(ValueError, match="2 rows for 1 samples"):
        four.search(query, exclude="same_patient", query_metadata={"patient_id": ["p", "q"]})
    with pytest.raises(ValueError, match=r"'same_patient', 'same_case'\. Got 'same_hospital'"):
        four.search(query, exclude="same_hospital")
    with pytest.raises(TypeError, match="tumor ids as text"):
        four.search(query, exclude=[7])
    with pytest.raises(ValueError, match=r"needs column 'patient_id' in 'metadata'\. Got columns tumor_id"):
        bare = TumorIndex().fit(FOUR)
        bare.search(query, exclude="same_patient", query_metadata={"patient_id": ["p"]})


def brute_force(index, X, n_neighbors, *, allowed, own, limit, weights=None):
    """Return (query, row, distance) of the nearest, by one loop over queries and one over sorted rows."""
    table, space = index.metadata_, index.space_
    scale = np.ones(X.shape[1]) if space is None or space.scale is None else space.scale
    answer = []
    for i, query in enumerate(X):
        difference = (index.embeddings_.astype(float) - query) * scale
        distance = np.sqrt((difference**2).sum(axis=1)) if weights is None else weights(difference)
        taken, n_of = 0, {}
        for row in np.argsort(distance, kind="stable"):
            patient = table["patient_id"][row]
            if not allowed[row] or patient == own[i] or n_of.get(patient, 0) >= limit or taken == n_neighbors:
                continue
            n_of[patient], taken = n_of.get(patient, 0) + 1, taken + 1
            answer.append((i, row, distance[row]))
    return answer


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_search_equals_brute_force_over_random_filters(data):
    """Rows, order and distances agree for any filter, exclusion, limit, scale and number of neighbors."""
    n = data.draw(st.integers(1, 40), "n")
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    X = rng.integers(-3, 4, size=(n, 2)).astype(float)  # whole numbers: many exact ties
    table = pd.DataFrame(
        {
            "patient_id": rng.choice(list("abcdef"), size=n),
            "label_side": pd.Series(
                rng.choice(np.array(["left", "right", None], dtype=object), size=n), dtype=object
            ),
            "volume": np.where(rng.random(n) < 0.2, np.nan, rng.integers(0, 9, size=n)),
        }
    )
    scale = data.draw(st.none() | st.just([1.0, 2.0]), "scale")
    index = TumorIndex().fit(X, metadata=table, space=EmbeddingSpace("f", scale=scale))
    side = data.draw(st.sampled_from([..., "left", None, ["left", None]]), "side")
    least = data.draw(st.none() | st.integers(0, 9), "least")
    limit = data.draw(st.none() | st.integers(1, 3), "limit")
    k = data.draw(st.integers(1, 12), "k")
    exclude = data.draw(st.sampled_from([None, "same_patient", ["0", "2", "3"]]), "exclude")
    queries, patients = X[:5], table["patient_id"][:5]
    where = {} if side is ... else {"side": side}
    where |= {} if least is None else {"volume": [(">=", least)]}
    sides = {None} if side is None else {side} if isinstance(side, str) else {"left", None}
    allowed = [
        (side is ... or s in sides) and (least is None or v >= least)
        for s, v in zip(table["label_side"], table["volume"], strict=True)
    ]
    if isinstance(exclude, list):
        allowed = [a and str(i) not in exclude for i, a in enumerate(allowed)]
    options = {"exclude": exclude, "query_metadata": {"patient_id": patients.tolist()}}
    if side not in (..., None) and not any(s in sides for s in table["label_side"]):
        with pytest.raises(ValueError, match="'where' selects nothing: no 'label_side' is 'left'"):
            index.search(queries, k, where=where, max_per_patient=limit, **options)
        return
    answer = index.search(queries, k, where=where, max_per_patient=limit, **options)
    own = patients.tolist() if exclude == "same_patient" else [None] * len(queries)
    expected = brute_force(index, queries, k, allowed=allowed, own=own, limit=limit or n)
    assert list(zip(answer["query"], answer["tumor_id"].astype(int), strict=True)) == [
        e[:2] for e in expected
    ]
    np.testing.assert_allclose(answer["distance"], [e[2] for e in expected], rtol=1e-12)
    assert answer.groupby("query")["rank"].apply(lambda r: r.tolist() == list(range(1, len(r) + 1))).all()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_aspects_equal_brute_force(data):
    """Distances of aspects are those of projected points over their median pair, combined as weighted."""
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    n = data.draw(st.integers(3, 30), "n")
    X = rng.normal(size=(n, 4)).astype(np.float32)
    heads = {"type": rng.normal(size=(3, 4)), "side": rng.normal(size=(1, 4))}
    heads["type"][2] = heads["type"][0] - heads["type"][1]  # three rows, a plane
    scale = data.draw(st.none() | st.just(np.array([1.0, 2.0, 0.5, 3.0])), "scale")
    weights = {"type": data.draw(st.sampled_from([0, 1, 2.5]), "type"), "side": 0.5}
    index = TumorIndex().fit(
        X, metadata={"patient_id": list(map(str, range(n)))}, space=EmbeddingSpace("f", heads, scale)
    )
    answer = index.search(X[:4], 5, aspects=weights)

    factors = np.ones(4) if scale is None else scale
    scaled = X.astype(float) * factors
    apart, combined = {}, np.zeros((n, n))
    for name, rows in heads.items():
        rows = rows / factors  # the head reads w·x = (w / s)·(s x)
        projected = scaled @ np.linalg.pinv(rows) @ rows
        distance = np.linalg.norm(projected[:, None] - projected[None], axis=2)
        apart[name] = distance / np.median(distance[np.triu_indices(n, 1)])
        combined += weights[name] * apart[name] ** 2
    combined = np.sqrt(combined)
    expected = np.argsort(combined[:4], axis=1, kind="stable")[:, :5]
    row = answer["tumor_id"].astype(int)
    names = ["distance", "distance_type", "distance_look", "distance_side", "closer_than_type"]
    assert answer.columns[2 : 2 + len(names)].tolist() == names
    assert row.tolist() == expected.ravel().tolist()
    np.testing.assert_allclose(answer["distance"], combined[answer["query"], row], atol=1e-9)
    for name in heads:
        np.testing.assert_allclose(answer[f"distance_{name}"], apart[name][answer["query"], row], atol=1e-9)


def test_a_thousand_tumors_have_aspects_in_units_of_their_spread():
    """Where pairs are sampled, the median distance of forty rows to all others is 1 within 10 %."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(1000, 3)) * 7
    index = TumorIndex().fit(X, space=EmbeddingSpace("f", {"type": [[1, 0, 0], [0, 1, 0]]}))
    answer = index.search(X[:40], 1000, aspects={"type": 1})
    assert np.median(answer["distance_type"]) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(answer["distance"], answer["distance_type"], atol=1e-12)
    pd.testing.assert_series_equal(index.search(X[:1])["distance_type"][:1], answer["distance_type"][:1])


@pytest.mark.parametrize(
    ("aspects", "error", "match"),
    [
        ({"size": 1}, ValueError, "Got 'size'; aspects are type"),
        ({"type": -1}, ValueError, r"aspects\['type'\].*at least 0"),
        ({"type": 0}, ValueError, "greater than 0"),
        ({"type": 1e-30}, ValueError, "at least 1e-6"),  # float32 would be 0
        ({"type": 1e308}, ValueError, "at most 1000000"),
        ({"none": 1}, ValueError, "reads nothing"),
        (["type"], TypeError, "must map aspect names to weights"),
        ({}, TypeError, "must map aspect names to weights"),
    ],
)
def test_aspects_that_mean_nothing_are_errors(aspects, error, match):
    """Unknown aspects are listed with the known ones; weights are at least 0, one of them more."""
    space = EmbeddingSpace("f", {"type": [[1, 0]], "none": [[0, 0]]})
    with pytest.raises(error, match=match):
        TumorIndex().fit(FOUR, space=space).search(FOUR, aspects=aspects)


def test_aspects_of_an_index_without_a_space_are_an_error(four):
    """An index that knows no aspects says how to give it some."""
    with pytest.raises(
        ValueError, match="aspects are size, and columns of numbers; those of an embedder come with fit"
    ):
        four.search(FOUR, aspects={"type": 1})


def test_scale_multiplies_archive_and_query_alike():
    """With the second feature weighted by 10 the nearest is another one, at the scaled distance."""
    X = [[0.0, 1.0], [3.0, 0.0]]
    assert ids(TumorIndex().fit(X).search([[0.0, 0.0]], 1)) == ["0"]
    answer = TumorIndex().fit(X, space=EmbeddingSpace("f", scale=[1, 10])).search([[0.0, 0.0]], 1)
    assert ids(answer) == ["1"]
    assert answer["distance"][0] == 3


def test_embeddings_of_another_embedder_are_refused():
    """The message names both fingerprints; a space where the index has none is refused too."""
    index = TumorIndex().fit(FOUR, space=EmbeddingSpace("3fa1"))
    index.search(FOUR, space=EmbeddingSpace("3fa1"))
    with pytest.raises(IndexMismatchError, match=r"'3fa1'.*'9c07'"):
        index.search(FOUR, space=EmbeddingSpace("9c07"))
    with pytest.raises(IndexMismatchError, match=r"'3fa1'.*'9c07'"):
        index.add(FOUR, metadata={"tumor_id": list("wxyz")}, space=EmbeddingSpace("9c07"))
    with pytest.raises(IndexMismatchError, match="fitted without a space"):
        TumorIndex().fit(FOUR).search(FOUR, space=EmbeddingSpace("9c07"))
    with pytest.raises(TypeError, match=r"EmbeddingSpace\. Got str"):
        index.search(FOUR, space="3fa1")
    with pytest.raises(ValueError, match=r"'space' has 3 features\. Got embeddings of 2"):
        TumorIndex().fit(FOUR, space=EmbeddingSpace("3fa1", scale=[1, 1, 1]))


@pytest.mark.parametrize(
    ("metadata", "error", "match"),
    [
        ({"tumor_id": ["a", "b", "c"]}, ValueError, "3 rows for 4 samples"),
        ({"tumor_id": ["a", "b", "c", "a"]}, ValueError, "'a' twice"),
        ({"tumor_id": [1, 2, 3, 4]}, TypeError, "'tumor_id' of 'metadata' must be text.*Got 1 in row 0"),
        ({"patient_id": ["p", "q", None, "r"]}, TypeError, "'patient_id'.*Got None in row 2"),
        ({"rank": [1, 2, 3, 4]}, ValueError, "'rank' of 'metadata' is reserved for the results"),
        ({"box": [[1], [2], [3], [4]]}, TypeError, r"'box' of 'metadata' must hold text.*Got \[1\]"),
        ({0: [1, 2, 3, 4]}, TypeError, "column name"),
        ("table", TypeError, "must be a DataFrame, a dict or a list of dicts. Got str"),
        (pd.DataFrame(np.zeros((4, 2)), columns=["a", "a"]), ValueError, "'a' twice"),
    ],
)
def test_metadata_that_cannot_be_kept_are_refused(metadata, error, match):
    """Wrong length, ids, names and values are named in the message."""
    with pytest.raises(error, match=match):
        TumorIndex().fit(FOUR, metadata=metadata)


def test_metadata_become_plain_columns():
    """Text is object with None where it is missing, dates are ISO text, numbers keep their dtype."""
    table = pd.DataFrame(
        {
            "kind": pd.Categorical(["b", None, "a", "b"]),
            "visit": pd.to_datetime(["2020-01-02", None, "2021-05-06", "2019-01-01"]),
            "dose": np.array([1, 2, 3, 4], dtype=np.int16),
            "grade": pd.array([1, None, 3, 4], dtype="Int64"),
        },
        index=[9, 8, 7, 6],
    )
    index = TumorIndex().fit(FOUR, metadata=table)
    assert index.metadata_["tumor_id"].tolist() == ["0", "1", "2", "3"]
    assert index.metadata_["kind"].tolist() == ["b", None, "a", "b"]
    assert index.metadata_["visit"].tolist()[:2] == ["2020-01-02T00:00:00", None]
    assert index.metadata_.dtypes.astype(str).tolist() == ["object", "object", "object", "int16", "Int64"]
    found = index.search([[0.0, 0.0]], 4, where={"visit": (">=", "2020"), "grade": (">", 2)})
    assert ids(found) == ["2"]


def test_nothing_that_is_passed_is_changed_or_shared(four):
    """Inputs keep their values, and changing them later does not change the index."""
    X, table = FOUR.astype(np.float32), TABLE.copy()
    index = TumorIndex().fit(X, metadata=table)
    pd.testing.assert_frame_equal(table, TABLE)
    X[:], table["tumor_id"] = 9, "gone"
    answer = index.search([[0.2, 0.0]], 2)
    assert ids(answer) == ["a", "c"]
    answer["tumor_id"] = "gone"
    assert ids(index.search([[0.2, 0.0]], 2)) == ["a", "c"]


def test_before_fit_every_method_says_so(tmp_path):
    """NotFittedError, which scikit-learn's tools expect, with what to do."""
    index = TumorIndex()
    calls = (
        lambda: index.kneighbors(FOUR),
        lambda: index.search(FOUR),
        lambda: index.add(FOUR, metadata={"tumor_id": list("abcd")}),
        lambda: index.remove("a"),
        lambda: index.save(tmp_path / "index"),
    )
    for call in calls:
        with pytest.raises(NotFittedError, match="Call 'fit' first"):
            call()


def test_wrong_parameters_are_named(four):
    """Metric, engine, numbers of neighbors and features are checked with their names."""
    with pytest.raises(
        ValueError, match=r"must be one of 'euclidean', 'cosine', 'whitened'\. Got 'manhattan'"
    ):
        TumorIndex(metric="manhattan").fit(FOUR)
    with pytest.raises(ValueError, match=r"'engine' must be one of 'exact', 'pynndescent', .*Got 'annoy'"):
        TumorIndex(engine="annoy").fit(FOUR)
    with pytest.raises(ValueError, match=r"'n_neighbors' must be at most the 3 other rows\. Got 4"):
        four.kneighbors(n_neighbors=4)
    with pytest.raises(ValueError, match="'n_neighbors' must be at least 1"):
        four.search(FOUR, 0)
    with pytest.raises(ValueError, match="'max_per_patient' must be at least 1"):
        four.search(FOUR, max_per_patient=0)
    with pytest.raises(ValueError, match="3 features, but TumorIndex is expecting 2"):
        four.search(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="infinity"):
        four.search([[1e300, 0.0]])


def test_more_neighbors_than_there_are_give_fewer_rows(four):
    """Never a padded row: as many as are left, down to none."""
    assert len(four.search(FOUR, 100, max_per_patient=None)) == 16
    assert len(four.search(FOUR, 100, where={"type": "glioma"})) == 4
    empty = four.search(FOUR, 100, where={"type": "glioma", "volume_mm3": (">", 1e9)})
    assert len(empty) == 0
    assert empty.columns.tolist() == COLUMNS


def test_add_appends_and_refuses_what_is_held(four):
    """New rows are found, new columns are missing in old rows, numbers stay numbers, ids stay unique."""
    new = {"patient_id": ["s"], "case_id": ["1"], "tumor_id": ["d"], "volume_mm3": [7], "dose_gy": [13.0]}
    four.search(FOUR)  # builds an engine, which add must forget
    assert four.add([[0.0, 0.1]], metadata=new) is four
    assert ids(four.search([[0.0, 0.1]], 2)) == ["d", "a"]
    assert four.n_samples_fit_ == 5
    assert four.metadata_["dose_gy"].tolist()[4] == 13.0
    assert four.metadata_["dose_gy"].isna().tolist() == [True, True, True, True, False]
    assert four.metadata_["volume_mm3"].dtype == np.float64
    assert four.metadata_["n_visits"].dtype == np.float64  # missing in the new row
    assert four.metadata_["label_type"].tolist() == ["meningioma", "glioma", None, "meningioma", None]
    assert four.metadata_["operated"].tolist() == [True, False, False, True, None]
    with pytest.raises(ValueError, match="Got 'd', which the index holds"):
        four.add([[0.0, 0.1]], metadata=new)
    with pytest.raises(ValueError, match="must have the index's column 'patient_id'"):
        four.add([[0.0, 0.1]], metadata={"tumor_id": ["e"]})
    assert four.n_samples_fit_ == len(four.embeddings_) == 5


def test_remove_drops_by_id(four):
    """One id or several; unknown ids and the last tumor are refused, and nothing changes then."""
    assert ids(four.remove("a").search([[0.0, 0.0]], 4)) == ["b", "c", "007"]
    with pytest.raises(ValueError, match="unknown 'a'"):
        four.remove(["b", "a"])
    with pytest.raises(ValueError, match="at least one tumor"):
        four.remove(["b", "c", "007"])
    four.remove(["b", "c"])
    assert four.metadata_["tumor_id"].tolist() == ["007"]
    assert four.embeddings_.tolist() == [[5.0, 5.0]]


def test_clone_and_pickle_keep_what_they_should(four):
    """A clone is unfitted with the same parameters; a pickled index answers alike, without its engines."""
    four.search(FOUR)
    again = pickle.loads(pickle.dumps(four))
    assert again._archive._last == {}
    pd.testing.assert_frame_equal(again.search(FOUR), four.search(FOUR))
    assert not hasattr(clone(four), "embeddings_")
    assert clone(TumorIndex(metric="cosine")).metric == "cosine"


def test_the_index_needs_no_torch():
    """Neither importing nor using index and evaluation loads torch, nibabel or numba."""
    code = (
        "import sys, tumorsim.evaluation; from tumorsim import TumorIndex; "
        "TumorIndex().fit([[0.0], [1.0]]).search([[0.0]]); "
        "print(sorted({'torch', 'nibabel', 'numba', 'pynndescent'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "whitened"])
def test_search_measures_what_heads_say(metric):
    """By any metric, plain distances are of the space's coordinates, an aspect's of what its head says."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(40, 4)).astype(np.float32)
    aspects = {"type": rng.normal(size=(3, 4)), "side": np.zeros((2, 4))}
    offsets = {"type": rng.normal(size=3), "side": np.zeros(2)}
    space = EmbeddingSpace("f", aspects, [1.0, 2.0, 0.5, 3.0], offsets, {"type": 2.0})
    index = TumorIndex(metric=metric).fit(X, metadata={"patient_id": list(map(str, range(40)))}, space=space)
    assert index.aspects_ == ("type", "look")  # the other head says the same of all tumors

    points = space.coordinates(X)
    options = {"euclidean": {}, "cosine": {"metric": "cosine"}}
    options["whitened"] = {"metric": "mahalanobis", "VI": LedoitWolf().fit(points).precision_}
    expected = cdist(points[:3], points, **options[metric])
    distances, rows = index.kneighbors(X[:3], 6)
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :6], atol=1e-7)
    np.testing.assert_array_equal(rows, np.argsort(expected, axis=1, kind="stable")[:, :6])

    said = space.aspect_coordinates("type", X)
    apart = cdist(said, said)
    answer = index.search(X[:3], 6, aspects={"type": 1})
    expected = np.sort(apart[:3], axis=1)[:, :6] / np.sqrt(2)  # Hellinger's distance, 0 to 1
    np.testing.assert_allclose(answer["distance"].to_numpy().reshape(3, 6), expected, atol=1e-7)


def test_an_index_says_what_it_holds(four, tmp_path):
    """Number of tumors, model, metric and engine; before `fit` the parameters, as scikit-learn shows them."""
    assert repr(TumorIndex(metric="cosine")) == "TumorIndex(metric='cosine')"
    one = TumorIndex(metric="cosine").fit([[1.0, 2.0]], space=EmbeddingSpace("3fa1" * 16))
    one.save(tmp_path / "index")
    shown = repr(TumorIndex.load(tmp_path / "index"))
    assert shown == "<TumorIndex: 1 tumor, model 3fa13fa13fa1, metric cosine, engine exact>"
    assert repr(four).startswith("<TumorIndex: 4 tumors, no model")


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "whitened"])
def test_coordinates_order_tumors_as_the_index_does(metric):
    """Distances of coordinates are those of `kneighbors`; under cosine half their square is."""
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    index = TumorIndex(metric=metric).fit(X, space=EmbeddingSpace("a", scale=[1.0, 2.0, 3.0, 0.5]))
    points = index.coordinates()
    np.testing.assert_array_equal(points[:3], index.coordinates(X[:3]))
    distances, rows = index.kneighbors(n_neighbors=29)
    apart = np.linalg.norm(points[:, None] - points[rows], axis=2)
    # float32 points of the engine against float64
    np.testing.assert_allclose(apart**2 / 2 if metric == "cosine" else apart, distances, rtol=1e-4, atol=1e-6)


def test_further_heads_do_not_count_by_default():
    """A space with heads for grade and side has the four aspects all the same; without type, grade is one."""
    rng = np.random.default_rng(3)
    X, heads = rng.normal(size=(40, 16)), rng.normal(size=(4, 2, 16))
    names = ("type", "region", "hemisphere", "grade")
    rows = dict(zip(names, heads, strict=True))
    for left_out, first in (((), "type"), (("type",), "grade")):
        kept = {name: value for name, value in rows.items() if name not in left_out}
        space = EmbeddingSpace("f", kept, offsets={name: [0.0, 0.0] for name in kept})
        index = TumorIndex().fit(X, metadata={"volume_mm3": rng.uniform(100, 900, 40)}, space=space)
        assert index.aspect_weights() == {first: 1.0, "place": 1.0, "size": 1.0, "look": 0.05}
