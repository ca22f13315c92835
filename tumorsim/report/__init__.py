"""Pages that load nothing from anywhere: answer sheets, the overview of many, masks, two dates."""

from tumorsim.report._neighborhood import map_archive
from tumorsim.report._pages import draw_proposal, draw_tumor, save_match, save_overview, save_review
from tumorsim.report._sheet import describe_model, render_notebook, render_report, save_report

__all__ = [
    "describe_model", "draw_proposal", "draw_tumor", "map_archive", "render_notebook", "render_report",
    "save_match", "save_overview", "save_report", "save_review",
]  # fmt: skip
