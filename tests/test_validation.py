"""Argument checks: what passes, and that messages name parameter, rule and value."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from tumorsim import _validation as v
from tumorsim.exceptions import GeometryError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_check_integer_takes_integers_of_any_kind(value):
    """Python's and NumPy's integers become int."""
    checked = v.check_integer(value, "k", minimum=3)
    assert checked == 3 and type(checked) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, np.bool_(True)])
def test_check_integer_refuses_other_types(value):
    """A bool, a float or text is no integer, and the message shows it."""
    with pytest.raises(TypeError, match=r"Parameter 'k' must be an integer\. Got"):
        v.check_integer(value, "k")


def test_check_integer_names_the_minimum():
    """Below the minimum the message says parameter, rule, value."""
    with pytest.raises(ValueError, match=r"'k' must be at least 1\. Got 0"):
        v.check_integer(0, "k", minimum=1)
    assert v.check_integer(None, "k", allow_none=True) is None


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (0, {"minimum": 0, "exclusive": True}, "greater than 0"),
        (-1, {"minimum": 0}, "at least 0"),
        (2, {"maximum": 1}, "at most 1"),
        (np.nan, {}, "finite"),
        (np.inf, {"minimum": 0}, "finite"),
    ],
)
def test_check_real_states_the_rule(value, options, message):
    """Each bound has its wording."""
    with pytest.raises(ValueError, match=f"'lr' must be {message}"):
        v.check_real(value, "lr", **options)


def test_check_real_refuses_bool_and_text():
    """True is not 1.0, and '1' is not 1."""
    for value in (True, "1"):
        with pytest.raises(TypeError, match="'lr' must be a number"):
            v.check_real(value, "lr")
    assert v.check_real(np.float32(0.5), "lr", minimum=0, maximum=0.5) == 0.5


def test_check_choice_lists_the_choices():
    """A wrong choice is answered with the right ones."""
    with pytest.raises(ValueError, match=r"must be one of 'a', 'b'\. Got 'c'"):
        v.check_choice("c", "metric", ("a", "b"))


@pytest.mark.parametrize("value", ["", "  ", "a\nb", "a\rb", "a\0b"])
def test_check_text_refuses_empty_and_broken_lines(value):
    """Ids must be visible and on one line, or tables and file names break."""
    with pytest.raises(ValueError, match="'case_id' must be non-empty text on one line"):
        v.check_text(value, "case_id")


def test_check_text_refuses_numbers():
    """A number as id is refused, since 007 would have become 7."""
    with pytest.raises(TypeError, match=r"'case_id' must be text\. Got 7"):
        v.check_text(7, "case_id")


def test_check_spacing_broadcasts_one_number():
    """One number means all three axes."""
    np.testing.assert_array_equal(v.check_spacing(2), [2, 2, 2])
    np.testing.assert_array_equal(v.check_spacing((1, 2, 3)), [1, 2, 3])


@pytest.mark.parametrize("value", [0, (1, 1, -1), (1, 2), "x", (1, np.nan, 1), None])
def test_check_spacing_refuses_what_is_no_length(value):
    """Zero, negative, NaN, two numbers and text are no spacing."""
    with pytest.raises(ValueError, match="'spacing' must be"):
        v.check_spacing(value)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1, 2, 3], "shape"),
        ([(0, 0, 0), (1, 1)], "shape"),
        ([(0, 0, 0.5), (1, 1, 1)], "whole numbers"),
        ([(0, 0, 0), (np.inf, 1, 1)], "whole numbers"),
        ([(0, 0, np.nan), (1, 1, 1)], "whole numbers"),
        ([(1, 1, 1), (2, 1, 2)], "start before it stops"),
        ([(-1, 0, 0), (2, 2, 2)], "inside the image"),
        ([(0, 0, 0), (2, 2, 10)], r"inside the image of shape \(7, 8, 9\)"),
    ],
)
def test_check_box_states_the_rule(box, message):
    """Each way in which a box can be wrong has its message."""
    with pytest.raises(GeometryError, match=message):
        v.check_box(box, shape=(7, 8, 9))


def test_check_box_takes_whole_floats():
    """Whole numbers stored as floats, as tables give them, become int64; the image's edge is allowed."""
    box = v.check_box(np.array([[0.0, 0, 0], [7, 8, 9]]), shape=(7, 8, 9))
    assert box.dtype == np.int64 and box.tolist() == [[0, 0, 0], [7, 8, 9]]


@given(st.sets(st.integers(1, 99), min_size=1, max_size=5))
def test_check_mask_value_sorts_and_joins(values):
    """However values are ordered, they are the same selection."""
    text = "+".join(str(value) for value in sorted(values, reverse=True))
    assert v.check_mask_value(text) == tuple(sorted(values))


@pytest.mark.parametrize("value", [">0", "> 0", None])
def test_check_mask_value_knows_any(value):
    """'>0' is any value above background."""
    assert v.check_mask_value(value) is None


@pytest.mark.parametrize("value", [0, -1, "0+1", "1.5", "a", "", 1.5, True, ">1"])
def test_check_mask_value_refuses_the_rest(value):
    """Background, negative numbers, fractions and text are no selection."""
    with pytest.raises(ValueError, match="mask_value must be a positive integer"):
        v.check_mask_value(value)


def test_check_mask_value_takes_numbers_as_tables_write_them():
    """A column of numbers with gaps is one of floats, so 2.0 is 2."""
    assert v.check_mask_value("2.0") == v.check_mask_value(2.0) == v.check_mask_value(2) == (2,)


def test_is_missing_knows_nothing_but_none_and_nan():
    """None, NaN, pandas' NA and NaT are missing; an empty text and 0 are values."""
    assert all(map(v.is_missing, (None, float("nan"), np.float32("nan"), pd.NA, pd.NaT)))
    assert not any(map(v.is_missing, ("", 0, False, "nan", np.zeros(2))))


def test_printable_replaces_what_acts_on_a_terminal():
    """Control characters are replaced, long texts are cut, and an exception is its text."""
    assert v.printable("a\x1b[2Jb\u2028 c\xa0d") == "a\ufffd[2Jb\ufffd c\xa0d"
    assert v.printable(KeyError("x"), 2) == "'x…" and v.printable("ab", 2) == "ab"


def test_install_hint_is_a_command_for_a_clone():
    """No package registry has tumorsim, so an extra is installed from a clone."""
    assert v.install_hint("dicom") == "Run pip install '.[dicom]' in your clone of tumorsim."


def test_check_fitted_raises_scikit_learns_error():
    """An estimator without its learned attribute is not fitted."""

    class Thing:
        pass

    thing = Thing()
    with pytest.raises(NotFittedError, match="This Thing is not fitted yet"):
        v.check_fitted(thing, "x_")
    thing.x_ = 1
    v.check_fitted(thing, "x_")
