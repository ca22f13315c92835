"""The command that repeats the paper's experiments."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from tumorsim.cli._app import split_names

__all__ = ["register"]


def register(app):
    """Add the command to the root."""
    app.command(
        epilog="\b\nExamples:\n  tumorsim benchmark --preset smoke --out smoke\n"
        "  tumorsim benchmark --preset small --out small --anatomies heads --stacks scans.csv\n"
        "  tumorsim benchmark --preset small --out mine --manifest archive.csv --only table3,baselines\n\n"
        "A benchmark that was stopped goes on by the same command: every fit is kept. Preset smoke takes two "
        "minutes, small some hours on two cores, paper days on a GPU.\n\n"
        "\b\nExperiments: table2 (channels), table3 (tasks removed), table4 (distorted boxes),\n"
        "fig4 (number of neighbors), fig5 (map), fig6 (neighbors as pictures), baselines,\n"
        "missing_labels, cohort_size, contrastive, finetune, real (--stacks), sites (data sets),\n"
        "label_free (--dates)."
    )(benchmark)


def benchmark(
    out: Annotated[Path, Option(help="Folder for runs, results.csv, results.json, figures and report.md.")],
    preset: Annotated[str, Option(help="smoke, small or paper.")] = "small",
    anatomies: Annotated[
        Path | None,
        Option(
            help="Folder of label maps of heads to simulate in; the last four are for test patients only."
        ),
    ] = None,
    manifest: Annotated[
        Path | None, Option(help="Train and test on these tumors (a row a tumor) instead of simulated ones.")
    ] = None,
    stacks: Annotated[
        Path | None, Option(help="Real scans (a row a scan, or a tumor) to test on, never to train on.")
    ] = None,
    dates: Annotated[
        Path | None,
        Option(help="Real scans with masks, some patients at two dates, for tests that need no labels."),
    ] = None,
    only: Annotated[str | None, Option(help="Experiments, such as table3,fig4. Default: all.")] = None,
    no_training: Annotated[
        bool, Option("--no-training", help="Tables and figures of the runs that are there.")
    ] = False,
    n_jobs: Annotated[int, Option(min=1, help="Processes that simulate, threads that prepare.")] = 2,
):
    """Repeat the paper's tables and figures, beside baselines.

    Networks are trained with all tasks, with tasks removed, with fewer channels, labels and patients;
    held-out patients then ask the training patients. Leaves report.md, figures and a table of all scores.
    """
    from tumorsim.benchmark import run_benchmark

    if out.exists() and not out.is_dir():
        raise ValueError(f"'{out}' is a file. Give a folder.")
    run_benchmark(
        out, preset, anatomies=anatomies, manifest=manifest, stacks=stacks, dates=dates,
        only=split_names(only), train=not no_training, n_jobs=n_jobs, verbose=1, echo=typer.echo,
    )  # fmt: skip
