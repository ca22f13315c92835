"""The package keeps to its limits: lines, files, bodies, private names and public lists."""

import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import tumorsim

ROOT = Path(tumorsim.__file__).parent
MAX_LINES, MAX_FILES = 22_720, 150  # of the package; the aim is 22,000 lines
MAX_FILE_LINES, MAX_BODY_LINES = 450, 80
LONGER = {"index/_index.py": 560}  # one estimator; most of it are docstrings of its public methods
EXEMPT = "_validation"  # argument checks, which all rooms share
FILES = sorted(ROOT.rglob("*.py"))


def room(parts):
    """Return the room of a module's name, given as parts after 'tumorsim'."""
    return parts[0] if parts else ""


def own_room(path):
    """Return the room that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def body_lines(function):
    """Return the number of lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def private_imports(path):
    """Return the private names and modules of other rooms that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package != "tumorsim" or room(parts) in (own_room(path), EXEMPT):
                continue
            found += [name for part in parts if part.startswith("_") and not part.startswith("__")][:1]
    return found


def test_package_is_small():
    """All files together keep to the limits of lines and files."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert (lines <= MAX_LINES, len(FILES) <= MAX_FILES) == (True, True), f"{lines} lines, {len(FILES)} files"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_keeps_to_the_limits(path):
    """No file and no body is too long, and nothing private of another room is imported."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGER.get(path.relative_to(ROOT).as_posix(), MAX_FILE_LINES)
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    long = {
        f"{node.name} ({body_lines(node)})"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, functions) and body_lines(node) > MAX_BODY_LINES
    }
    assert not long
    assert private_imports(path) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/__init__.py")), ids=lambda path: path.parent.name)
def test_room_lists_its_public_names(path):
    """The `__init__` of every room has `__all__`."""
    names = [
        target.id
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in names


def test_every_data_file_has_a_license():
    """The table in `data/README.md` names each data file once, with a license whose text is in the clone."""
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    terms = {}
    for names, license_name in re.findall(r"^\| (`.+?) \| (\S+) \|", text, flags=re.MULTILINE):
        terms |= dict.fromkeys(re.findall(r"`(.+?)`", names), license_name)
    files = [p.relative_to(ROOT / "data").as_posix() for p in (ROOT / "data").rglob("*") if p.is_file()]
    assert [f for f in files if sum(fnmatch(f, pattern) for pattern in terms) != 1] == []
    stated = (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8")
    expression = re.search(r'^license = "(.+)"', stated, flags=re.MULTILINE)[1].split(" AND ")
    assert set(terms.values()) == set(expression)
    texts = {p.stem for p in (ROOT.parent / "LICENSES").iterdir()}
    assert set(expression) - texts == {"BSD-3-Clause"}  # LICENSE
