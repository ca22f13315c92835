"""Matplotlib figures of cohorts, training, retrieval and its neighbors; every function returns Axes."""

from tumorsim.plotting._cohort import plot_cohort, plot_map
from tumorsim.plotting._curves import plot_knn_curve
from tumorsim.plotting._pictures import common_extent, plot_neighbors, tumor_slices

__all__ = [
    "common_extent", "plot_cohort", "plot_knn_curve", "plot_map", "plot_neighbors",
    "tumor_slices",
]  # fmt: skip
