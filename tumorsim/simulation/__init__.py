"""Simulated cohorts."""

from tumorsim.simulation._simulate import make_cohort

__all__ = ["make_cohort"]
