"""DICOM series, SEG and RTSTRUCT ↔ arrays with affines; the extra ``dicom``; knows no records."""

from tumorsim.io.dicom._contours import mask_of_contours
from tumorsim.io.dicom._folder import Series
from tumorsim.io.dicom._masks import Region, is_tumor, read_regions
from tumorsim.io.dicom._scans import (
    Scan,
    draw_tumors,
    find_scan,
    find_scans,
    modality_of,
    read_series,
    t1c_objection,
)
from tumorsim.io.dicom._write import save_seg

__all__ = [
    "Region", "Scan", "Series", "draw_tumors", "find_scan", "find_scans", "is_tumor", "mask_of_contours",
    "modality_of", "read_regions", "read_series", "save_seg", "t1c_objection",
]  # fmt: skip
