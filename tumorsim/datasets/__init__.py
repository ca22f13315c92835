"""Simulated cohorts, and readers of public data sets."""

from tumorsim.datasets._simulate import make_cohort

__all__ = ["make_cohort"]
