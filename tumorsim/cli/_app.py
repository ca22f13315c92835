"""The root command: version, how errors and interruptions end, the one way to print."""

import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

import tumorsim
from tumorsim._validation import printable, words_of

_GOES_ON = "The same command goes on where it stopped."
_HOW_TO_GO_ON = dict.fromkeys(("embed", "index", "places", "segment"), _GOES_ON)
_INTERNAL = (
    "Internal error, please report it: {} Give the command, and what it prints as 'tumorsim --debug …'; "
    "look through that for names of patients first."
)
_STARTS_AGAIN = "Nothing is left half-written; the same command starts again."


class _OneLineErrors(TyperGroup):
    """A group whose commands end with one line: exit code 2 where the user can mend the cause, else 70."""

    def invoke(self, ctx):
        """Run a command; ``--debug`` lets the traceback through."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda text, *_, **__: say(f"Warning: {text}", err=True)
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # 'tumorsim … | head'
                raise
            except KeyboardInterrupt as err:
                words = str(err) or _HOW_TO_GO_ON.get(ctx.invoked_subcommand, _STARTS_AGAIN)
                say(f"Stopped. {words}", err=True)
                raise typer.Exit(130) from err
            except Exception as err:
                if ctx.params.get("debug") or isinstance(err, typer.Abort) or hasattr(err, "exit_code"):
                    raise
                mendable, text = words_of(err)  # what tumorsim or the system says is for people
                internal = _INTERNAL.format(f"{type(err).__name__}: {text}".replace("\n", " "))
                say(f"Error: {text}" if mendable else internal, err=True)
                raise typer.Exit(2 if mendable else 70) from err


def say(text="", *, err=False):
    """Print text without the control characters that a manifest or a file's name may hold."""
    typer.echo("\n".join(printable(line, len(line)) for line in str(text).split("\n")), err=err)


def _print_version(wanted):
    """Print the version and leave."""
    if wanted:
        say(f"tumorsim {tumorsim.__version__}")
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


def check_output(*paths, overwrite=False):
    """Raise early, not after an hour, where a file cannot be written, or would replace another."""
    for path in (Path(path) for path in paths if path is not None):
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder. Give the name of a file to write.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"'{path}' exists already. Give another name, or --overwrite.")


def check_folder(path, *names, overwrite=False):
    """Raise early where a folder cannot be made because a file has its name, or holds one of the files."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"'{path}' is a file. Give a folder.")
    check_output(*(path / name for name in names if path is not None), overwrite=overwrite)
