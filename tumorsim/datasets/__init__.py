"""Simulated cohorts, and readers of public data sets."""

from importlib import import_module

_HOMES = {"list_scans": "_public", "load_dataset": "_public", "make_cohort": "_simulate"}

__all__ = ["list_scans", "load_dataset", "make_cohort"]


def __getattr__(name):
    """Import a name on first use: simulating needs torch, reading a public set does not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tumorsim.datasets' has no attribute {name!r}")
    return getattr(import_module(f"tumorsim.datasets.{_HOMES[name]}"), name)
