"""The command that says where tumors lie in the brain."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, check_folder, check_output


@app.command(
    epilog="\b\nExamples:\n  tumorsim places archive.csv -o placed.csv --qc pictures\n"
    "  tumorsim places archive.csv -o placed.csv --areas atlas.nii.gz --area-names atlas.csv\n\n"
    "A run that was stopped goes on by the same command."
)
def places(
    archive: opt.Archive,
    output: Annotated[Path, Option("--output", "-o", help="Manifest to write.")],
    qc: Annotated[Path | None, Option(help="Folder for one picture per scan: look at them.")] = None,
    areas: Annotated[
        Path | None, Option(help="Label map in MNI space. Default: 11 areas by landmarks.")
    ] = None,
    area_names: Annotated[Path | None, Option(help="Names of its values: CSV with value, region.")] = None,
    min_quality: Annotated[float, Option(help="Registrations of lower quality give no labels.")] = 0.5,
    n_jobs: Annotated[int, Option(help="Processes; -1 is all cores.")] = 1,
    skip_bad: opt.SkipBad = False,
):
    """Fill in where in the brain tumors lie: side, halves and area.

    Side, front or rear, upper or lower, and area, of tumors that lack them. Scans are registered to the
    MNI152 template. Labels that are there stay.
    """
    if (areas is None) != (area_names is None):
        raise ValueError("--areas and --area-names belong together. Give both, or neither.")
    from tumorsim._validation import counted
    from tumorsim.anatomy import AreaMap, places_to_file
    from tumorsim.records.columns import PLACE_TASKS

    check_output(output)
    check_folder(qc)
    own = None if areas is None else AreaMap.load(areas, area_names)
    cohort = places_to_file(
        archive,
        output,
        areas=own,
        qc_dir=qc,
        min_quality=min_quality,
        n_jobs=n_jobs,
        skip_bad=skip_bad,
        progress=True,
    )
    counts = cohort.labels[list(PLACE_TASKS)].notna().sum()
    filled = ", ".join(f"{task} {n}" for task, n in counts.items())
    written = f"{counted(len(cohort), 'tumor')} in {counted(len(cohort.cases), 'scan')}"
    typer.echo(f"Wrote {output}: {written}; with a label: {filled}.")
