"""Tables ↔ records; masks → lesions."""

from tumorsim.manifest._build import build_manifest, save_manifest
from tumorsim.manifest._lesions import find_lesions, tumors_from_case
from tumorsim.manifest._load import load_cohort

__all__ = ["build_manifest", "find_lesions", "load_cohort", "save_manifest", "tumors_from_case"]
