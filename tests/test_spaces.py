"""EmbeddingSpace: checks, equality by content, round trips."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tumorsim import EmbeddingSpace
from tumorsim.spaces import feature_scale

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
        (("a", {"type": [1, 2]}), ValueError, r"aspect 'type'' must have 2 axes.*\(2,\)"),
        (("a", {"type": [[np.nan]]}), ValueError, "must be finite"),
        (("a", {"type": "x"}), ValueError, "array of numbers"),
        (("a", {}, [1, 0]), ValueError, "'scale' must be greater than 0"),
        (("a", {"type": [[1, 2]]}, [1]), ValueError, "aspect 'type': 2, scale: 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, match):
    """Each malformed argument raises an error that names it."""
    with pytest.raises(error, match=match):
        EmbeddingSpace(*arguments)


def test_a_dict_without_a_key_is_refused():
    """What `to_dict` did not write cannot be read."""
    with pytest.raises(ValueError, match="needs fingerprint, aspects and scale"):
        EmbeddingSpace.from_dict({"fingerprint": "a"})


def test_features_count_as_much_as_heads_read_of_them():
    """Two tasks of one feature each count alike, whatever their spread; what no head reads keeps a tenth."""
    rng = np.random.default_rng(0)
    pooled = rng.normal(0, [1.0, 50.0, 7.0], (4000, 3)).astype(np.float32)
    aspects = {"type": np.array([[3.0, 0, 0], [-3, 0, 0]]), "side": np.array([[0, 0.2, 0], [0, -0.2, 0]])}
    spread = pooled * feature_scale(pooled, aspects)
    np.testing.assert_allclose(spread.std(axis=0)[:2], [1, 1], rtol=1e-6)  # its own spread is the unit
    scale = feature_scale(pooled, aspects, {"type": 4.0})
    assert (pooled * scale).std(axis=0)[0] == pytest.approx(2, rel=1e-6)
    assert (pooled * scale).std(axis=0)[2] == pytest.approx(0.1 * 1.5, rel=1e-6)  # of the median of 1 and 2


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
