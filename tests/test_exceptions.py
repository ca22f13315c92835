"""Errors of the package."""

import pytest

from tumorsim import exceptions


@pytest.mark.parametrize("name", exceptions.__all__)
def test_every_error_is_a_value_error(name):
    """Whoever catches ValueError catches all errors of this package."""
    assert issubclass(getattr(exceptions, name), ValueError)
    assert getattr(exceptions, name).__doc__


def test_grid_mismatch_is_a_geometry_error():
    """Different grids are one kind of unusable geometry."""
    assert issubclass(exceptions.GridMismatchError, exceptions.GeometryError)
