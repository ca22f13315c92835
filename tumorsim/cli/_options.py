"""Options and arguments that several commands share; used as ``opt.Model``."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def option(kind, text, *names, **limits):
    """Return the annotation of an option of a type, whose help is `text`."""
    return Annotated[kind, Option(*names, help=text, **limits)]


def argument(kind, text, metavar):
    """Return the annotation of an argument of a type, whose help is `text`."""
    return Annotated[kind, Argument(help=text, metavar=metavar)]


flag, path, text = (partial(option, kind) for kind in (bool, Path | None, str | None))
texts = partial(option, list[str] | None)

Archive = argument(Path, "Manifest with one row per tumor.", "ARCHIVE.csv")
Table = path("Write the table as CSV.", "--output", "-o")
Model = text("Model file of 'tumorsim fit', or shipped weights by name. Default: the shipped.")
Device = option(str, "auto, cpu, cuda or mps.")
Jobs = option(int, "Threads that prepare scans.", min=1)
Seed = option(int, "Seed.")
Overwrite = flag("Replace what is there.", "--overwrite")
SkipBad = flag("Go on without rows that cannot be used.", "--skip-bad")
Aspect = texts(
    "Weight of an aspect or of a column of numbers, such as type=1 or age=0.5; or embedding. "
    "Default: type, place and size 1, look 0.05."
)
MaskValue = option(str, "Voxels of masks that are tumor: 1, 1+3, or >0 for any.")
MinVolume = option(float, "Drop smaller lesions; 14 is a ball of 3 mm.", "--min-volume-mm3")
MergeDistance = option(float, "Nearer components are one lesion.", "--merge-distance-mm")
ByValue = flag("Each value of the mask is one lesion.", "--by-value")
Threshold = option(float, "Probability from which a proposed voxel is tumor.", min=0, max=1)
PatientDicom = path("Folder of the patient's DICOM, instead of SCAN.")
SeriesPattern = text("Pattern on the series' description or UID: which MR series of --dicom are T1c.")
Roi = text("Pattern on names of regions in RTSTRUCT and SEG that are tumors.")
ExcludeRoi = text("Pattern on names of regions: which ones are no tumors.")
