"""Manifest → Cohort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tumorsim.exceptions import ManifestError
from tumorsim.manifest._guesses import with_points
from tumorsim.manifest._tables import Problems, Row, read_table, typed_column
from tumorsim.records import Cohort
from tumorsim.records.columns import BOX_COLUMNS, ID_COLUMNS, further_columns, is_missing, known_measures

if TYPE_CHECKING:
    import pandas as pd


def load_cohort(manifest: str | os.PathLike | pd.DataFrame, *, skip_bad: bool = False) -> Cohort:
    """Read a manifest of tumors.

    Parameters
    ----------
    manifest : str, Path or DataFrame
        CSV, Excel or Parquet, or a table in memory, one row per tumor: ``patient_id, case_id, tumor_id,
        image``, optional ``mask, mask_value``, the box ``x0, y0, z0, x1, y1, z1`` (needed where there is no
        mask; with a mask and no box, all voxels of ``mask_value`` are one tumor), ``label_<task>`` and any
        further columns. Ids and labels are text; an empty label is missing, and so is ``NA``. Paths are
        absolute or relative to the file (of a DataFrame: to the working directory).
    skip_bad : bool, default=False
        Go on without bad rows, and warn.

    Returns
    -------
    Cohort
        Tumors in the order of the rows; those of one scan share its Case. Further columns are in
        ``Tumor.metadata``, of a file as numbers where a whole column is numeric.

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
    tumorsim.Cohort.from_table : Makes a cohort from a DataFrame, with a say in what is checked.
    """
    in_memory = hasattr(manifest, "to_dict")
    cohort, problems, *_ = _read_frame(manifest) if in_memory else read_manifest(manifest)
    errors, n_rows = None if in_memory else Path(f"{manifest}.errors.txt"), len(cohort) + len(problems)
    problems.finish(errors, n_rows=n_rows, skip_bad=skip_bad, always_list=False)
    return cohort


def read_manifest(path):
    """Read a manifest file as `load_cohort` does, bad rows aside.

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
        remedy = f"run 'tumorsim manifest {path} -o archive.csv' to find its tumors, and use archive.csv"
        raise ManifestError(f"'{path}' has no column 'tumor_id'. This is a scan table; {remedy}.")
    table.require((*ID_COLUMNS, "image"))
    rows = {row.line: row for row in table.rows}
    cohort = Cohort.from_table(
        table.frame(), on_error=lambda line, err: table.problems.add(rows[line], err, table)
    )
    used = [row for row in table.rows if row.line not in table.problems.reasons]
    for row, tumor, metadata in zip(used, cohort, table.metadata(used), strict=True):
        try:
            tumor.metadata = known_measures(metadata)
        except ValueError as err:
            raise ManifestError(f"'{path}', line {row.line}, or elsewhere in the table: {err}") from err
    return cohort, table.problems, [row.line for row in used]


def _read_frame(frame):
    """Return cohort and problems of a DataFrame, as `read_manifest`; rows are called by the index."""
    frame = frame.copy() if frame.index.is_unique else frame.reset_index(drop=True)
    problems = Problems("table", frame.index.name or "row")

    def note(name, err):
        cells = {column: str(value) for column, value in frame.loc[name].items()}
        problems.add(Row(name, cells), err)

    for name in (name for name in (*BOX_COLUMNS, *further_columns(frame)) if name in frame):
        cells = ["" if is_missing(cell) else cell for cell in frame[name]]
        if all(isinstance(cell, str) for cell in cells):
            points, _ = with_points([cell.strip() for cell in cells], thousands=True)
            if points != [cell.strip() for cell in cells]:
                frame[name] = typed_column(points)
    return Cohort.from_table(frame, on_error=note), problems
