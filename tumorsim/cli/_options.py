"""Options and arguments that several commands share; used as ``opt.Model``."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Archive = Annotated[Path, Argument(help="Manifest with one row per tumor.", metavar="ARCHIVE.csv")]
Table = Annotated[Path | None, Option("--output", "-o", help="Write the table as CSV.")]
Model = Annotated[
    str | None, Option(help="Model file of 'tumorsim fit', or shipped weights by name. Default: the shipped.")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
Jobs = Annotated[int, Option(min=1, help="Threads that prepare scans.")]
Seed = Annotated[int, Option(help="Seed.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace what is there.")]
SkipBad = Annotated[bool, Option("--skip-bad", help="Go on without rows that cannot be used.")]
Aspect = Annotated[
    list[str] | None,
    Option(
        help="Weight of an aspect or of a column of numbers, such as type=1 or age=0.5; or embedding. "
        "Default: type, place and size 1, look 0.25."
    ),
]
MaskValue = Annotated[str, Option(help="Voxels of masks that are tumor: 1, 1+3, or >0 for any.")]
MinVolume = Annotated[float, Option("--min-volume-mm3", help="Drop smaller lesions; 14 is a ball of 3 mm.")]
MergeDistance = Annotated[float, Option("--merge-distance-mm", help="Nearer components are one lesion.")]
ByValue = Annotated[bool, Option("--by-value", help="Each value of the mask is one lesion.")]
Threshold = Annotated[float, Option(min=0, max=1, help="Probability from which a proposed voxel is tumor.")]
PatientDicom = Annotated[Path | None, Option(help="Folder of the patient's DICOM, instead of SCAN.")]
SeriesPattern = Annotated[
    str | None, Option(help="Pattern on the series' description or UID: which MR series of --dicom are T1c.")
]
Roi = Annotated[str | None, Option(help="Pattern on names of regions in RTSTRUCT and SEG that are tumors.")]
ExcludeRoi = Annotated[str | None, Option(help="Pattern on names of regions: which ones are no tumors.")]
