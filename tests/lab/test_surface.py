"""The lab and the examples use the package as anyone can: by its public names."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))


def is_public(module, name=None):
    """Tell whether a room of the package, or a module that it names, has the name in its ``__all__``."""
    package, *rooms = module.split(".")
    parts = [*rooms, name] if name else rooms
    if any(part.startswith("_") and part != "__version__" for part in parts):
        return False
    if len(rooms) > 1 and rooms[1] not in importlib.import_module(f"{package}.{rooms[0]}").__all__:
        return False
    return name is None or name in importlib.import_module(module).__all__


def private_uses(source):
    """Return what a source takes from the package beside its public names, and each private attribute."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tumorsim":
            found += [f"{node.module}.{a.name}" for a in node.names if not is_public(node.module, a.name)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "tumorsim"]
            found += [name for name in names if not is_public(name)]
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private and owner not in ("self", "cls"):
                found.append(f"{owner}.{node.attr}")
            elif owner == "tumorsim" and not is_public("tumorsim", node.attr):
                found.append(f"tumorsim.{node.attr}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_public_names_are_used(path):
    assert private_uses(path.read_text(encoding="utf-8")) == []


def test_private_uses_are_found():
    source = (
        "import tumorsim.io._files\nfrom tumorsim._validation import check_choice\n"
        "from tumorsim.public_sets import LAYOUTS, _found\nfrom tumorsim.public_sets._found import Found\n"
        "import tumorsim\ntumorsim.TumorEmbedder()._network\ntumorsim.nothing\nself._own\n"
    )
    assert sorted(private_uses(source)) == [
        "tumorsim.TumorEmbedder()._network",
        "tumorsim._validation.check_choice",
        "tumorsim.io._files",
        "tumorsim.nothing",
        "tumorsim.public_sets._found",
        "tumorsim.public_sets._found.Found",
    ]
