"""The command line: Typer commands without logic of their own."""

from tumorsim.cli import _ask, _build, _index, _places, _weights
from tumorsim.cli._app import app

__all__ = ["app", "main"]

_build.register(app)
_index.register(app)
_ask.register(app)
_weights.register(app)
_places.register(app)


def main():
    """Run the command line; the entry point ``tumorsim``."""
    app(prog_name="tumorsim")
