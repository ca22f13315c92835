"""Answer sheets: a query tumor and its neighbors as one self-contained HTML file."""

from tumorsim.report._sheet import describe_model, save_report

__all__ = ["describe_model", "save_report"]
