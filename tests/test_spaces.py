"""EmbeddingSpace: checks, equality by content, round trips."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from tumorsim import EmbeddingSpace
from tumorsim.spaces import MeasuredHead, feature_scale

numbers = st.floats(-1e300, 1e300, allow_subnormal=False)


@given(
    aspects=st.dictionaries(
        st.sampled_from(["type", "region", "Größe"]),
        hnp.arrays(np.float64, (2, 3), elements=numbers),
        max_size=3,
    ),
    scale=st.none() | hnp.arrays(np.float64, 3, elements=st.floats(1e-300, 1e300)),
)
def test_json_and_pickle_round_trips_lose_nothing(aspects, scale):
    """A space that went through JSON text or pickle equals the first, bit for bit."""
    space = EmbeddingSpace("3fa1", aspects, scale)
    assert EmbeddingSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_equality_and_hash_go_by_content():
    """Equal arrays make equal spaces; another fingerprint, aspect or scale makes another one."""
    space = EmbeddingSpace("a", {"type": [[1, 2]]}, [1, 2])
    same = EmbeddingSpace("a", {"type": np.array([[1.0, 2.0]])}, np.array([1, 2], dtype=np.float32))
    assert space == same
    assert hash(space) == hash(same)
    others = (
        EmbeddingSpace("b", {"type": [[1, 2]]}, [1, 2]),
        EmbeddingSpace("a", {"type": [[1, 3]]}, [1, 2]),
        EmbeddingSpace("a", {"region": [[1, 2]]}, [1, 2]),
        EmbeddingSpace("a", {"type": [[1, 2]]}),
        "a",
    )
    for other in others:
        assert space != other


def test_a_space_is_frozen_and_does_not_share_its_arrays():
    """Neither attributes nor arrays can be changed, not even through the caller's own array."""
    scale = np.array([1.0, 2.0])
    space = EmbeddingSpace("a", {"type": [[1, 2]]}, scale)
    scale[0] = 9
    assert space.scale.tolist() == [1, 2]
    with pytest.raises(AttributeError):
        space.fingerprint = "b"
    with pytest.raises(ValueError, match="read-only"):
        space.aspects["type"][0, 0] = 5


def test_number_of_features_is_told_by_scale_or_aspects():
    """Either tells it; a bare fingerprint does not."""
    assert EmbeddingSpace("a", scale=[1, 2, 3]).n_features == 3
    assert EmbeddingSpace("a", {"type": [[1, 2]]}).n_features == 2
    assert EmbeddingSpace("a").n_features is None


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((7,), TypeError, "'fingerprint' must be text. Got 7"),
        (("",), ValueError, "'fingerprint'"),
        (("a", [1]), TypeError, "must map names to arrays"),
        (("a", {}, None, [1]), TypeError, "'offsets' must map names to"),
        (("a", {}, [10**400]), ValueError, "'scale' must be an array of numbers"),
        (("a", {"type": [1, 2]}), ValueError, r"aspect 'type'' must have 2 axes.*\(2,\)"),
        (("a", {"type": [[np.nan]]}), ValueError, "must be finite"),
        (("a", {"type": "x"}), ValueError, "array of numbers"),
        (("a", {}, [1, 0]), ValueError, "'scale' must be greater than 0"),
        (("a", {"type": [[1, 2]]}, [1]), ValueError, "aspect 'type': 2, scale: 1"),
        (("a", {"type": [[1, 2]]}, None, {"type": [1, 2]}), ValueError, "a number for each row"),
        (("a", {"type": [[1]], "side": [[1]]}, None, {"type": [1]}), ValueError, "of each aspect"),
        (("a", {"type": [[1]]}, None, {}, {"type": 1}), ValueError, "'weights' must name aspects with"),
        (("a", {"type": [[1]]}, None, {"type": [1]}, {"type": -1}), ValueError, "weights of 'type'"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, match):
    """Each malformed argument raises an error that names it."""
    with pytest.raises(error, match=match):
        EmbeddingSpace(*arguments)


def test_a_dict_without_a_key_is_refused():
    """What `to_dict` did not write cannot be read."""
    with pytest.raises(ValueError, match="needs fingerprint, aspects, scale, offsets, weights"):
        EmbeddingSpace.from_dict({"fingerprint": "a"})


def test_features_count_as_much_as_heads_read_of_them():
    """Two tasks of one feature each count alike, whatever their spread; what no head reads keeps a tenth."""
    rng = np.random.default_rng(0)
    pooled = rng.normal(0, [1.0, 50.0, 7.0], (4000, 3)).astype(np.float32)
    aspects = {"type": np.array([[3.0, 0, 0], [-3, 0, 0]]), "side": np.array([[0, 0.2, 0], [0, -0.2, 0]])}
    spread = pooled * feature_scale(pooled, aspects)
    assert spread.std(axis=0)[0] == pytest.approx(spread.std(axis=0)[1], rel=1e-6)
    assert spread.var(axis=0).sum() == pytest.approx(0.3 * 2, rel=1e-6)  # of two heads of weight 1
    spread = pooled * feature_scale(pooled, aspects, {"type": 4.0})
    type_, side, unread = spread.std(axis=0)
    assert type_ / side == pytest.approx(2, rel=1e-6)
    assert unread / side == pytest.approx(0.1 * 1.5, rel=1e-6)  # of the median of 1 and 2
    assert spread.var(axis=0).sum() == pytest.approx(0.3 * 5, rel=1e-6)


@pytest.fixture
def heads():
    """Return a space of two heads, of two and three classes, on four features."""
    rng = np.random.default_rng(1)
    aspects = {"side": rng.normal(size=(2, 4)), "type": rng.normal(size=(3, 4))}
    offsets = {"side": rng.normal(size=2), "type": rng.normal(size=3)}
    return EmbeddingSpace("f", aspects, [1.0, 2.0, 0.5, 3.0], offsets, {"side": 0.5, "type": 2.0})


def test_plain_distance_is_that_of_what_heads_say_and_of_looks(heads):
    """Squared: weighted Hellinger distances between the heads' probabilities, and scaled features."""
    X = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float32)
    expected = (((X[:, None] - X[None]).astype(float) * heads.scale) ** 2).sum(axis=2)
    for name, weight in heads.weights.items():
        p = softmax(X.astype(float) @ heads.aspects[name].T + heads.offsets[name], axis=1)
        affinity = np.sqrt(p[:, None] * p[None]).sum(axis=2)
        expected += weight * 2 * (1 - affinity)  # Bhattacharyya's coefficient
    points = heads.coordinates(X)
    np.testing.assert_allclose(((points[:, None] - points[None]) ** 2).sum(axis=2), expected, atol=1e-12)


def test_coordinates_of_a_row_do_not_depend_on_its_company(heads):
    """Bit for bit, which an index relies on; logits of any size leave them finite."""
    X = np.random.default_rng(3).normal(size=(50, 4)) * np.logspace(-3, 6, 50)[:, None]
    points = heads.coordinates(X)
    assert np.isfinite(points).all()
    for i in range(50):
        np.testing.assert_array_equal(heads.coordinates(X[i : i + 1])[0], points[i])


def test_heads_survive_json_and_count_only_by_weight(heads):
    """The round trip loses nothing; where no aspect has a weight, distances are those of scaled features."""
    content = json.loads(json.dumps(heads.to_dict()))
    assert EmbeddingSpace.from_dict(content) == heads != EmbeddingSpace("f", heads.aspects, heads.scale)
    without = EmbeddingSpace.from_dict(content | {"weights": {}})
    np.testing.assert_array_equal(without.coordinates([[1, 1, 1, 1]]), [heads.scale])
    nothing = EmbeddingSpace("f", heads.aspects, heads.scale, heads.offsets, {"type": 0.0})
    np.testing.assert_array_equal(nothing.coordinates([[1, 1, 1, 1]]), [heads.scale])


def test_without_heads_features_are_divided_by_their_spread():
    """So it is where no task reads them, or none counts; a constant feature stays finite."""
    pooled = np.random.default_rng(0).normal(0, [1.0, 5.0, 0.0], (1000, 3))
    expected = 1 / pooled.std(axis=0)[:2]
    for scale in (
        feature_scale(pooled),
        feature_scale(pooled, {"type": np.eye(3)}, {"type": 0.0}),
    ):
        np.testing.assert_allclose(scale[:2], expected)
        assert np.isfinite(scale[2])


# -- heads that read measured columns ---------------------------------------------------------------------

ZERO = [0.0, 0.0]
HEAD = MeasuredHead(
    [[1.0, 0.0], [0.0, 1.0]],
    [0.5, -0.5],
    {
        "volume_mm3": ((0.0, 2.0, 4.0), [[1.0, -1.0], [0.25, 0.0]]),
        "sphericity": ((0, 0.5, 1), [ZERO, [2, 0]]),
    },
)


def test_a_measured_head_adds_what_columns_say():
    """Logits are linear in features, in the distance of each column from its middle, and in its square."""
    X, table = np.array([[1.0, 2.0], [0.0, 0.0]]), {"volume_mm3": [np.e**3, 1e9], "sphericity": [0.75, None]}
    expected = softmax([[1.5 + 1 + 0.25 + 2 / 16, 1.5 - 1], [0.5 + 2 + 1, -0.5 - 2]], axis=1)
    np.testing.assert_allclose(HEAD.probabilities(X, table), expected)  # 1e9 mm3 counts as the limit, e^4


@pytest.mark.parametrize("cell", [None, np.nan, "large", 0, -3.0, np.inf])
def test_what_is_not_measured_adds_nothing(cell):
    """A missing column, a cell without a number, or one without a logarithm leaves the features alone."""
    X = np.array([[1.0, 2.0]])
    np.testing.assert_array_equal(
        HEAD.probabilities(X, {"volume_mm3": [cell]}), HEAD.probabilities(X, {"other": [1]})
    )
    np.testing.assert_allclose(HEAD.probabilities(X, {}), softmax([[1.5, 1.5]], axis=1))


def test_an_aspect_reads_its_measured_head_where_there_is_a_table():
    """Plain distances never do; files written before such heads keep theirs, and JSON loses nothing."""
    space = EmbeddingSpace("f", {"t": HEAD.rows, "s": HEAD.rows}, None, {"t": ZERO, "s": ZERO}, {"t": 1.0})
    measured = replace(space, measured={"t": HEAD})
    X, table = np.array([[1.0, 2.0], [1.0, 2.0]]), {"volume_mm3": [7.0, 7.0], "sphericity": [0.9, None]}
    np.testing.assert_array_equal(measured.coordinates(X), space.coordinates(X))
    np.testing.assert_array_equal(measured.aspect_coordinates("t", X), space.aspect_coordinates("t", X))
    found = measured.aspect_coordinates("t", X, table) ** 2
    np.testing.assert_allclose(found[0], HEAD.probabilities(X, table)[0])
    np.testing.assert_array_equal(found[1], space.aspect_coordinates("t", X)[1] ** 2)  # too little is known
    np.testing.assert_array_equal(
        measured.aspect_coordinates("s", X, table), space.aspect_coordinates("s", X)
    )
    told = json.loads(json.dumps(measured.to_dict()))
    assert EmbeddingSpace.from_dict(told) == measured != space
    assert EmbeddingSpace.from_dict({name: told[name] for name in told if name != "measured"}) == space


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([[1.0]], [0.0, 0.0], {}), "a number a class"),
        (([[1.0], [1.0]], ZERO, {"age": ((0, 1), [ZERO, ZERO])}), "limits three that rise"),
        (([[1.0], [1.0]], ZERO, {"age": ((0, 1, 2), [ZERO])}), "a number a class"),
        (([[1.0], [1.0]], ZERO, {"age": ((0, 1, 2), [[0.0], [0.0]])}), "a number a class"),
        (([[1.0], [np.inf]], ZERO, {}), "finite"),
    ],
)
def test_malformed_measured_heads_are_refused(arguments, match):
    """Numbers of classes, limits and slopes are checked."""
    with pytest.raises(ValueError, match=match):
        MeasuredHead(*arguments)


def test_measured_heads_must_fit_their_aspects():
    """An aspect that is not there, without offsets, or of another size is an error that names it."""
    for aspects, offsets in (
        ({"s": HEAD.rows}, {"s": ZERO}),
        ({"t": HEAD.rows}, {}),
        ({"t": [[1.0, 2.0]]}, {"t": [0]}),
    ):
        with pytest.raises(ValueError, match=r"must name aspects with offsets.* Got 't'"):
            EmbeddingSpace("f", aspects, offsets=offsets, measured={"t": HEAD})
    with pytest.raises(TypeError, match="'measured' must map"):
        EmbeddingSpace("f", measured=[HEAD])
