"""Argument checks of the lab, in the package's wording."""

import numbers

import numpy as np

__all__ = ["check_choice", "check_integer", "check_real", "check_text"]


def check_choice(value, name, choices):
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Parameter '{name}' must be one of {', '.join(map(repr, choices))}. Got {value!r}.")
    return value


def check_integer(value, name, *, minimum=0, allow_none=False):
    """Return `value` as int of at least `minimum`."""
    if value is None and allow_none:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"Parameter '{name}' must be an integer. Got {value!r}.")
    if value < minimum:
        raise ValueError(f"Parameter '{name}' must be at least {minimum}. Got {value!r}.")
    return int(value)


def check_real(value, name, *, exclusive=False):
    """Return `value` as a finite float of at least 0, or greater than 0 if `exclusive`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"Parameter '{name}' must be a number. Got {value!r}.")
    if not np.isfinite(value) or value < 0 or (exclusive and value == 0):
        rule = "greater than 0" if exclusive else "at least 0"
        raise ValueError(f"Parameter '{name}' must be {rule}. Got {value!r}.")
    return float(value)


def check_text(value, name):
    """Return `value` as text that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be text. Got {value!r}; convert it with str().")
    if not value.strip():
        raise ValueError(f"'{name}' must be non-empty text. Got {value!r}.")
    return value
