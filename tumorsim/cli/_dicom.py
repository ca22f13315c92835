"""What the commands share on DICOM: options, and the report of an import."""

from typing import Annotated

import typer
from typer import Option

__all__ = ["ExcludeRoi", "Roi", "SeriesPattern", "import_folder"]

SeriesPattern = Annotated[
    str | None,
    Option(help="Pattern on the series' description or UID: which MR series of --dicom are T1c."),
]
Roi = Annotated[
    str | None, Option(help="Pattern on names of regions in RTSTRUCT and SEG: which ones are tumors.")
]
ExcludeRoi = Annotated[str | None, Option(help="Pattern on names of regions: which ones are no tumors.")]


def import_folder(folder, output, patterns, key_file, keep_patient_ids, dry_run, lesions):
    """Import a folder of DICOM, or with `dry_run` say what would be; print what became of every series."""
    from tumorsim.manifest import import_dicom, survey_dicom

    if dry_run:
        for line in survey_dicom(folder, **patterns):
            typer.echo(line)
        return
    cohort, report = import_dicom(
        folder,
        output,
        key_file=key_file,
        keep_patient_ids=keep_patient_ids,
        progress=True,
        **patterns,
        **lesions,
    )
    for line in report:
        ids = line.get("case_id") or line.get("patient_id", "")
        what = " ".join(text for text in (line.get("modality"), ids) if text)
        typer.echo(f"{line['status']:<9} {line['where']} {what}: {line['reason'] or 'used'}")
    typer.echo(cohort.summary().to_string())
    typer.echo(f"Wrote {output}: {len(cohort)} tumors in {len(cohort.cases)} scans.")
    key = key_file or output.with_suffix(".key")
    typer.echo(f"The pseudonyms' key is in {key}. Keep it, and never hand it out with the archive.")
