"""Sphinx builds the documentation: ``sphinx-build -W -n -b html docs docs/_build/html``."""

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import tumorsim

sys.path.insert(0, str(Path(__file__).parents[1]))  # the lab is not installed
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
    (r"py:class", r"(numpy|pathlib|collections|pandas|torch|matplotlib|np|pd|os)\b.*"),
    (r"py:class", r"ArrayLike|DataFrame|PathLike|SpatialImage|Source"),
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
    "navbar_center": [],  # all pages are in the sidebar, by caption
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["globaltoc.html"]}
html_show_sourcelink = False

_TOP = {
    "Records and data": ("Case", "Tumor", "Cohort", "load_cohort", "make_cohort"),
    "Embeddings, index, answers": ("TumorEmbedder", "TumorIndex", "find_similar", "evaluate_knn"),
    "Dates": ("match_dates",),
}
_LAB = ("benchmarks.paper", "benchmarks.baselines", "benchmarks.label_free")


def _rooms():
    """Return the rooms of the package with public names, in alphabetical order, then those of the lab."""
    rooms = sorted(room.name for room in iter_modules(tumorsim.__path__) if not room.name.startswith("_"))
    return [*(f"tumorsim.{room}" for room in rooms if room not in ("cli", "demo")), *_LAB]


def _write_api(path):
    """Write the API page from every room's ``__all__``, so that no public name is left out."""
    lines = ["API", "===", "", "The names of ``tumorsim`` itself, then those of its rooms.", ""]
    rest = [name for name in tumorsim.__all__ if not any(name in part for part in _TOP.values())]
    rest = tuple(name for name in rest if callable(getattr(tumorsim, name)))
    seen = set()
    for title, names in (_TOP | {"Further": rest}).items():
        lines += _section(title, "tumorsim", names)
        seen |= {id(getattr(tumorsim, name)) for name in names}
    for room in _rooms():
        module = import_module(room)
        public = [name for name in getattr(module, "__all__", ()) if callable(getattr(module, name))]
        names = [name for name in public if id(getattr(module, name)) not in seen]
        seen |= {id(getattr(module, name)) for name in names}
        lines += _section(room, room, names) if names else []
    path.write_text("\n".join(lines), encoding="utf-8")


def _section(title, module, names):
    """Return a heading and a list of names as reStructuredText."""
    head = [title, "-" * len(title), "", f".. currentmodule:: {module}", ""]
    return [*head, ".. autosummary::", "   :toctree: generated", "", *(f"   {name}" for name in names), ""]


_write_api(Path(__file__).parent / "api.rst")


def _link_for_sphinx(app, docname, source):
    """Let links to files of the repository, which a code host follows, lead to their pages."""
    source[0] = re.sub(r"\]\(\.\./examples/(plot_\w+)\.py\)", r"](gallery/\1.rst)", source[0])


def setup(app):
    """Connect the hook."""
    app.connect("source-read", _link_for_sphinx)
