"""Documentation: links lead somewhere, examples in pages run, docstrings say what goes in and comes out."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from safetensors import safe_open

import tumorsim
from tumorsim.weights import load_registry

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ROOMS = ("answers", "report", "plotting", "manifest", "evaluation", "metrics", "weights")
LAB = ("benchmarks.paper", "benchmarks.baselines", "benchmarks.label_free")


def _text(page):
    """Return a page without code, in which brackets are no links."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link names a file that is there; a gallery page stands for its example."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
        path = target.partition("#")[0]
        if not path or re.match(r"[a-z]+:", path):
            continue
        gallery = re.search(r"gallery/(\w+)\.rst$", path)
        found = ROOT / "examples" / f"{gallery[1]}.py" if gallery else page.parent / path
        assert found.exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_in_pages_run(page):
    """What a page shows at a prompt is what comes out."""
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8").failed == 0


def _public():
    """Return the public functions and classes, with the public methods of classes, by name."""
    found = {name: getattr(tumorsim, name) for name in tumorsim.__all__}
    for room in (*(f"tumorsim.{name}" for name in ROOMS), *LAB):
        module = importlib.import_module(room)
        found |= {f"{room}.{name}": getattr(module, name) for name in module.__all__}
    found = {name: value for name, value in found.items() if callable(value)}
    for name, value in list(found.items()):
        if inspect.isclass(value):
            methods = {
                n: m for n, m in vars(value).items() if not n.startswith("_") and inspect.isfunction(m)
            }
            found |= {f"{name}.{n}": method for n, method in methods.items()}
    return found


def test_shipped_weights_carry_the_card_of_the_docs():
    """The card that travels in a file of weights is the page; `shipping.register` in the lab brings it."""
    page = (ROOT / "docs" / "model_card.md").read_text(encoding="utf-8")
    registry = load_registry()
    for weights in registry.weights.values():
        with safe_open(registry.path.parent / weights.file, framework="np") as file:
            assert file.metadata()["model_card"] == page, f"register {weights.name} again with the new card"


def test_every_public_name_is_documented():
    """Public functions, classes and methods have a docstring."""
    public = _public()
    assert len(public) > 60
    assert [name for name, value in public.items() if not inspect.getdoc(value)] == []


def test_docstrings_describe_their_parameters():
    """Where a docstring lists parameters it names those that there are, in their order, each with a type."""
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc, an extra (docs), checks docstrings")
    wrong = {}
    for name, value in _public().items():
        if "Parameters\n" not in (inspect.getdoc(value) or "") or isinstance(value, type):
            continue
        result = validate.validate(f"{value.__module__}.{value.__qualname__}")
        codes = {code for code, _ in result["errors"]} & {"PR02", "PR03", "PR10", "GL07", "SS01"}
        if codes:
            wrong[name] = sorted(codes)
    assert wrong == {}
