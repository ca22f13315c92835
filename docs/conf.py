"""Sphinx builds the documentation: ``sphinx-build -W -n -b html docs docs/_build/html``."""

import os
from importlib import import_module
from importlib.util import find_spec
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
exclude_patterns = [
    "_build", "benchmark/report.md", "gallery/*.md5", "**/sg_execution_times.rst", "sg_execution_times.rst",
]  # fmt: skip
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [  # signatures name types of other projects; attributes link to themselves
    (r"py:class", r"(numpy|pathlib|collections|pandas|torch|matplotlib)\b.*"),
    (r"py:obj", r"\w+_"),
]
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
    "contributing", "changelog", "model_card", "results", "benchmark", "label_free_tests", "deviations",
    "decisions", "simulation",
}  # fmt: skip


def _list_howtos(app, docname, source):
    """Put the pages that nobody has placed among the how-tos, so that a new page needs no other edit."""
    if docname == "howto":
        pages = sorted(p.stem for p in Path(app.srcdir).glob("*.md") if p.stem not in _PLACED)
        source[0] = source[0].replace("@other pages@", "\n".join(pages))


_TOP = {
    "Records and data": ("Case", "Tumor", "Cohort", "load_cohort", "make_cohort"),
    "Embeddings, index, answers": ("TumorEmbedder", "TumorIndex", "find_similar", "evaluate_knn"),
}
_ROOMS = (
    "answers", "report", "plotting", "manifest", "public_sets", "simulation", "anatomy", "checks",
    "preprocessing", "evaluation", "metrics", "weights", "index", "retrieval",
    "records", "spaces", "geometry", "rendering", "io", "nn", "exceptions",
)  # fmt: skip


def _write_api(path):
    """Write the API page from every room's ``__all__``, so that no public name is left out."""
    lines = ["API", "===", "", "The names of ``tumorsim`` itself, then those of its rooms.", ""]
    rest = [name for name in tumorsim.__all__ if not any(name in part for part in _TOP.values())]
    rest = tuple(name for name in rest if callable(getattr(tumorsim, name)))
    seen = set()
    for title, names in (_TOP | {"Further": rest}).items():
        lines += _section(title, "tumorsim", names)
        seen |= {id(getattr(tumorsim, name)) for name in names}
    for room in (f"tumorsim.{name}" for name in _ROOMS):
        if find_spec(room) is None:
            continue
        module = import_module(room)
        names = [
            n for n in module.__all__ if callable(getattr(module, n)) and id(getattr(module, n)) not in seen
        ]
        seen |= {id(getattr(module, name)) for name in names}
        lines += _section(room, room, names) if names else []
    path.write_text("\n".join(lines), encoding="utf-8")


def _section(title, module, names):
    """Return a heading and a list of names as reStructuredText."""
    head = [title, "-" * len(title), "", f".. currentmodule:: {module}", ""]
    return [*head, ".. autosummary::", "   :toctree: generated", "", *(f"   {name}" for name in names), ""]


_write_api(Path(__file__).parent / "api.rst")


def setup(app):
    """Connect the hook."""
    app.connect("source-read", _list_howtos)
