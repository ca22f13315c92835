"""Readers of public data sets."""

from tumorsim.public_sets._public import list_scans, load_dataset

__all__ = ["list_scans", "load_dataset"]
