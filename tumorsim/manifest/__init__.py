"""Tables and DICOM ↔ records; masks → lesions."""

from tumorsim.manifest._build import build_manifest, save_manifest
from tumorsim.manifest._dicom import import_dicom, load_dicom_case, survey_dicom
from tumorsim.manifest._lesions import find_lesions, tumors_from_case
from tumorsim.manifest._load import load_cohort
from tumorsim.manifest._pseudonyms import Pseudonyms

__all__ = [
    "Pseudonyms",
    "build_manifest",
    "find_lesions",
    "import_dicom",
    "load_cohort",
    "load_dicom_case",
    "save_manifest",
    "survey_dicom",
    "tumors_from_case",
]
