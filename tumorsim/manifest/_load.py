"""Manifest → Cohort."""

import functools
import math
from pathlib import Path

import numpy as np

from tumorsim._validation import check_text
from tumorsim.exceptions import GeometryError, ManifestError
from tumorsim.geometry import bbox_from_mask, select_mask
from tumorsim.manifest._tables import BOX_COLUMNS, read_table
from tumorsim.records import MEASURES, Case, Cohort, Tumor

__all__ = ["load_cohort", "read_manifest"]


def load_cohort(path, *, skip_bad=False):
    """Read a manifest of tumors.

    Parameters
    ----------
    path : str or Path
        CSV or Parquet, a row a tumor: ``patient_id, case_id, tumor_id, image``, optional
        ``mask, mask_value``, the box ``x0, y0, z0, x1, y1, z1`` (needed where there is no mask; with a mask
        and no box, all voxels of ``mask_value`` are one tumor), ``label_<task>`` and any further columns. Ids
        and labels are text, an empty label is missing. Paths are absolute or relative to the manifest.
    skip_bad : bool, default=False
        Go on without bad rows, and warn.

    Returns
    -------
    Cohort
        Tumors in the order of the rows; those of one scan share its Case. Further columns are in
        ``Tumor.metadata``, as numbers where a whole column is numeric.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ManifestError
        If it is a scan table, or rows are bad: ids missing, repeated or at odds with each other, files
        missing, grids that differ, boxes outside the image. Only headers are read, unless a box is to be
        worked out. A list of more than five bad rows goes to ``<manifest>.errors.txt``.

    See Also
    --------
    tumorsim.manifest.build_manifest : Makes a manifest from a table of scans with masks.
    """
    cohort, problems, _ = read_manifest(path)
    n_rows = len(cohort) + len(problems)
    problems.finish(Path(f"{path}.errors.txt"), n_rows=n_rows, skip_bad=skip_bad, always_list=False)
    return cohort


def read_manifest(path):
    """Read a manifest as `load_cohort` does, bad rows aside.

    Returns
    -------
    cohort : Cohort
        Tumors of the rows that can be used.
    problems : Problems
        Of the others: ``reasons``, ``errors`` and ``rows``, line → text, exception and cells.
    lines : list of int
        Line of each tumor of the cohort.
    """
    table = read_table(path)
    if "tumor_id" not in table.columns:
        raise ManifestError(
            f"'{path}' has no column 'tumor_id'. This is a scan table; run "
            f"'tumorsim manifest {path} -o archive.csv' to find its tumors, and use archive.csv."
        )
    table.require(("patient_id", "case_id", "tumor_id", "image"))

    by_case, lines = {}, {}
    for row in table.rows:
        if row.line in table.problems.reasons:
            continue
        try:
            _check_ids(row, by_case, lines)
            by_case.setdefault(row.get("case_id"), []).append(row)
        except ValueError as err:
            table.problems.add(row, err)
    tumors = {}  # line → Tumor
    for rows in by_case.values():
        _read_case(table, rows, tumors)
    rows = [row for row in table.rows if row.line in tumors]
    for row, metadata in zip(rows, table.metadata(rows), strict=True):
        text = [m for m in MEASURES if isinstance(metadata.get(m), str)]
        if text:
            raise ManifestError(
                f"'{path}': column '{text[0]}' must hold numbers. Got '{metadata[text[0]]}' in line "
                f"{row.line}, or text elsewhere in it. Leave the column out, and it is worked out anew."
            )
        tumors[row.line].metadata = _without_missing_measures(metadata)
    return Cohort(tumors[row.line] for row in rows), table.problems, [row.line for row in rows]


def _check_ids(row, by_case, lines):
    """Raise ``ManifestError`` unless a row's ids are there, unique, and agree with its case's first row."""
    for column in ("patient_id", "case_id", "tumor_id", "image"):
        check_text(row.get(column), column)
    tumor_id, case_id = row.get("tumor_id"), row.get("case_id")
    if tumor_id in lines:
        raise ManifestError(f"tumor_id '{tumor_id}' must be unique. It is in line {lines[tumor_id]} too.")
    lines[tumor_id] = row.line
    for first in by_case.get(case_id, [])[:1]:
        for column in ("patient_id", "image", "mask"):
            here, there = row.get(column), first.get(column)
            if here != there:
                raise ManifestError(
                    f"case_id '{case_id}' must have one {column}. Got '{here}' here and '{there}' in "
                    f"line {first.line}."
                )


def _read_case(table, rows, tumors):
    """Check one scan and add the tumors of its `rows` to `tumors` (line → Tumor); note what is bad."""
    first = rows[0]
    try:
        files = table.existing_files(first)
        ids = {name: first.get(name) for name in ("case_id", "patient_id")}
        case = Case(files["image"], files.get("mask"), **ids)
        _ = case.shape
        case.check_grid()
    except (OSError, ValueError) as err:
        for row in rows:
            table.problems.add(row, err, table.locate)
        return
    load_mask = functools.cache(case.load_mask)
    for row in rows:
        try:
            tumors[row.line] = _tumor(table, row, case, load_mask)
        except (OSError, ValueError) as err:
            table.problems.add(row, err, table.locate)


def _tumor(table, row, case, load_mask):
    """Return the tumor of a row, its box checked or, where there is none, taken from the mask."""
    tumor_id, value = row.get("tumor_id"), row.get("mask_value") or ">0"
    box = _box(row)
    if box is None:
        if not case.has_mask:
            raise ManifestError(
                f"tumor '{tumor_id}' needs a mask or a box (columns {', '.join(BOX_COLUMNS)})."
            )
        chosen = select_mask(load_mask(), value)
        if not chosen.any():
            raise GeometryError(
                f"The mask of case '{case.case_id}' has no voxel of value {value}. Check mask_value."
            )
        box = bbox_from_mask(chosen)
    tumor = Tumor(case, box, tumor_id=tumor_id, labels=table.labels(row), mask_value=value)
    tumor.check()
    return tumor


def _box(row):
    """Return the box of a row as (2, 3) numbers, None where all six cells are empty."""
    cells = [row.get(column) for column in BOX_COLUMNS]
    if not any(cells):
        return None
    try:
        return np.array([float(cell) for cell in cells]).reshape(2, 3)
    except ValueError as err:
        got = ", ".join(repr(cell) for cell in cells)
        raise ManifestError(
            f"The box {', '.join(BOX_COLUMNS)} must be six whole numbers, or empty. Got {got}."
        ) from err


def _without_missing_measures(metadata):
    """Leave out missing measures, and then where they came from: the cohort's table works them out anew."""
    missing = [m for m in MEASURES if m in metadata and _is_missing(metadata[m])]
    drop = {*missing, "measured_from"} if missing else set()
    return {name: value for name, value in metadata.items() if name not in drop}


def _is_missing(value):
    """Tell whether a cell is empty or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))
