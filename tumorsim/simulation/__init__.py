"""Simulated cohorts, and the steps of which a simulated scan is made."""

from tumorsim.simulation._anatomy import load_head, load_label_head
from tumorsim.simulation._appearance import draw_intensities, to_scanner
from tumorsim.simulation._scan import draw_scan
from tumorsim.simulation._simulate import TEMPLATE, make_cohort
from tumorsim.simulation._tumors import TYPES

__all__ = [
    "TEMPLATE", "TYPES", "draw_intensities", "draw_scan", "load_head", "load_label_head", "make_cohort",
    "to_scanner",
]  # fmt: skip
