"""What the house talks about: `Case` (a scan), `Tumor` (a lesion in it), `Cohort` (many tumors)."""

from tumorsim.records._case import Case
from tumorsim.records._cohort import Cohort, group_by_case
from tumorsim.records._tumor import MEASURES, Tumor, check_tumors
from tumorsim.records._view import Surroundings, read_surroundings

__all__ = [
    "MEASURES",
    "Case",
    "Cohort",
    "Surroundings",
    "Tumor",
    "check_tumors",
    "group_by_case",
    "read_surroundings",
]
