"""Tables ↔ records; masks → lesions."""

from tumorsim.manifest._build import build_manifest, save_manifest
from tumorsim.manifest._lesions import find_lesions, tumors_from_case
from tumorsim.manifest._load import load_cohort
from tumorsim.manifest._tables import read_table

__all__ = ["build_manifest", "find_lesions", "load_cohort", "read_table", "save_manifest", "tumors_from_case"]
