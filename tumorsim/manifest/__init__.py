"""Tables ↔ records; masks → lesions."""

from tumorsim.manifest._build import build_manifest, cohort_from_scans, save_manifest
from tumorsim.manifest._lesions import find_lesions, tumors_from_case
from tumorsim.manifest._load import load_cohort, read_manifest
from tumorsim.manifest._tables import OWN_COLUMNS, write_table

__all__ = [
    "OWN_COLUMNS",
    "build_manifest",
    "cohort_from_scans",
    "find_lesions",
    "load_cohort",
    "read_manifest",
    "save_manifest",
    "tumors_from_case",
    "write_table",
]
