"""The command line: Typer commands without logic of their own."""

import sys

from tumorsim.cli import _build, _index, _query, _serve, _weights  # noqa: F401, they add their commands
from tumorsim.cli._app import app

__all__ = ["app", "main"]


def main():
    """Run the command line; the entry point ``tumorsim``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # None where there is no terminal
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign stops no command
    app(prog_name="tumorsim")
