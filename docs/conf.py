"""Sphinx builds the documentation: ``sphinx-build -W -n -b html docs docs/_build/html``."""

import os
from pathlib import Path

import tumorsim

os.environ.setdefault("TUMORSIM_OFFLINE", "1")  # examples run on the weights in the package

project = "tumorsim"
author = "The tumorsim developers"
copyright = "The tumorsim developers"
version = release = tumorsim.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.md5", "**/sg_execution_times.rst", "sg_execution_times.rst"]
templates_path = ["_templates"]
nitpicky = True
default_role = "literal"  # `name` in docstrings
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

numpydoc_show_class_members = False
autosummary_generate = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"/(train_|__init__)",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "tumorsim"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False

# pages that have a place of their own in a table of contents; all others are how-tos
_PLACED = {
    "index", "install", "quickstart", "howto", "api", "answers", "glossary", "comparison", "limits",
    "contributing", "changelog", "model_card", "results", "label_free_tests", "deviations", "decisions",
}  # fmt: skip


def _list_howtos(app, docname, source):
    """Put the pages that nobody has placed among the how-tos, so that a new page needs no other edit."""
    if docname == "howto":
        pages = sorted(p.stem for p in Path(app.srcdir).glob("*.md") if p.stem not in _PLACED)
        source[0] = source[0].replace("@other pages@", "\n".join(pages))


def setup(app):
    """Connect the hook."""
    app.connect("source-read", _list_howtos)
