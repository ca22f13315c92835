"""`Case` (a scan), `Tumor` (a lesion in it), `Cohort` (many tumors), and the `columns` of their tables."""

from tumorsim.records import columns
from tumorsim.records._case import Case
from tumorsim.records._cohort import Cohort, group_by_case
from tumorsim.records._tumor import Tumor, check_tumors
from tumorsim.records._view import Surroundings, axial_plane, read_surroundings

__all__ = [
    "Case", "Cohort", "Surroundings", "Tumor", "axial_plane", "check_tumors", "columns", "group_by_case",
    "read_surroundings",
]  # fmt: skip
