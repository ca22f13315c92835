"""The command line: Typer commands without logic of their own."""

from tumorsim.cli import _build, _index, _query, _weights  # noqa: F401, they add their commands
from tumorsim.cli._app import app

__all__ = ["app", "main"]


def main():
    """Run the command line; the entry point ``tumorsim``."""
    app(prog_name="tumorsim")
