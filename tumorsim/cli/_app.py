"""The root command: version, one line for a user's error, warnings without file names."""

import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

import tumorsim

__all__ = ["app", "check_folder", "check_output"]


class _OneLineErrors(TyperGroup):
    """A group whose commands end with one line and exit code 2 where the user can mend the cause."""

    def invoke(self, ctx):
        """Run a command; ``--debug`` lets the traceback through."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # 'tumorsim … | head'
                raise
            except (ImportError, OSError, TypeError, ValueError) as err:
                if ctx.params.get("debug"):
                    raise
                typer.echo(f"Error: {str(err) or type(err).__name__}", err=True)
                raise typer.Exit(2) from err


def _show_warning(message, category, filename, lineno, file=None, line=None):
    """Print a warning for people, without the line of code that gave it."""
    typer.echo(f"Warning: {message}", err=True)


def _print_version(wanted):
    """Print the version and leave."""
    if wanted:
        typer.echo(f"tumorsim {tumorsim.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: the same on a narrow terminal, in a log and in a pager
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(
    epilog="\b\nA way from scans to an answer:\n"
    "  tumorsim manifest scans.csv -o archive.csv\n"
    "  tumorsim fit archive.csv -o model.safetensors\n"
    "  tumorsim embed archive.csv --model model.safetensors -o archive.npz\n"
    "  tumorsim index build archive.npz -o index\n"
    "  tumorsim query index new.nii.gz --mask mask.nii.gz --model model.safetensors\n\n"
    "Research use only; not for diagnosis or treatment."
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
):
    """Find similar brain tumors in contrast-enhanced T1 MRI."""


def check_output(*paths):
    """Raise early, not after an hour, where a file cannot be written because a folder has its name."""
    for path in paths:
        if path is not None and Path(path).is_dir():
            raise ValueError(f"'{path}' is a folder. Give the name of a file to write.")


def check_folder(path):
    """Raise early where a folder cannot be made because a file has its name."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"'{path}' is a file. Give a folder.")
