"""Tables and DICOM ↔ records; masks → lesions."""

from tumorsim.manifest._build import build_manifest, case_of_row, cohort_from_scans, save_manifest
from tumorsim.manifest._dicom import import_dicom, load_dicom_case, survey_dicom
from tumorsim.manifest._formats import write_table
from tumorsim.manifest._lesions import tumors_from_case
from tumorsim.manifest._load import load_cohort, read_manifest
from tumorsim.manifest._pseudonyms import Pseudonyms
from tumorsim.manifest._segs import save_segs
from tumorsim.manifest._tables import read_table, relative_path

__all__ = [
    "Pseudonyms", "build_manifest", "case_of_row", "cohort_from_scans", "import_dicom",
    "load_cohort", "load_dicom_case", "read_manifest", "read_table", "relative_path", "save_manifest",
    "save_segs", "survey_dicom", "tumors_from_case", "write_table",
]  # fmt: skip
