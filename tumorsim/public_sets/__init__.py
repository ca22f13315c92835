"""Readers of public data sets."""

from tumorsim.public_sets._found import LAYOUTS, Layout
from tumorsim.public_sets._public import list_scans, load_dataset

__all__ = ["LAYOUTS", "Layout", "list_scans", "load_dataset"]
