"""The public surface: names, what they resolve to, what importing the package costs."""

import inspect
import subprocess
import sys
from importlib.resources import files

import tumorsim

PUBLIC = {
    "Case",
    "Cohort",
    "EmbeddingSpace",
    "Tumor",
    "Recipe",
    "TumorEmbedder",
    "TumorIndex",
    "__version__",
    "evaluate_knn",
    "find_similar",
    "load_cohort",
    "load_dataset",
    "make_cohort",
    "match_dates",
    "metrics",
    "roi_pool",
}


def run(code):
    """Run Python code in a process of its own and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_all_is_exact():
    """The public names are these and no others, each once."""
    assert sorted(tumorsim.__all__) == sorted(PUBLIC)
    assert set(dir(tumorsim)) == PUBLIC


def test_every_public_name_resolves():
    """Every name of __all__ exists and, where it is a function or class, has a docstring."""
    for name in tumorsim.__all__:
        value = getattr(tumorsim, name)
        assert isinstance(value, str) or value.__doc__, name


def test_unknown_name_is_an_attribute_error():
    """A name that is not public is refused as a plain module would."""
    assert not hasattr(tumorsim, "TumourEmbedder")


def test_import_loads_no_heavy_library():
    """Importing the package loads none of the libraries that take long."""
    heavy = {"torch", "sklearn", "pandas", "scipy", "matplotlib", "nilearn", "nibabel"}
    loaded = run("import sys, tumorsim; print(*{m.partition('.')[0] for m in sys.modules})").split()
    assert "tumorsim" in loaded
    assert not heavy & set(loaded)


def test_records_load_no_network_or_table_library():
    """Reading a manifest's records needs neither torch nor scikit-learn nor Matplotlib."""
    loaded = run("import sys; from tumorsim import Case, load_cohort; print(*sys.modules)").split()
    assert "tumorsim.manifest" in loaded
    assert not {"torch", "sklearn", "matplotlib", "pandas"} & set(loaded)


def test_package_is_marked_as_typed():
    """Type checkers read annotations where the marker lies; records and what makes them have them."""
    assert files("tumorsim").joinpath("py.typed").is_file()
    for name in ("Case", "Tumor", "Cohort", "load_cohort", "load_dataset", "make_cohort"):
        value = getattr(tumorsim, name)
        signature = inspect.signature(value.__init__ if isinstance(value, type) else value)
        known = [p.annotation for p in signature.parameters.values() if p.name != "self"]
        assert inspect.Signature.empty not in (*known, signature.return_annotation), name
