"""Scan table → manifest; Cohort → manifest."""

import os
import warnings
from pathlib import Path

from tqdm import tqdm

from tumorsim._validation import check_mask_value, check_real, check_text, counted, printable
from tumorsim.exceptions import ManifestError
from tumorsim.io import ORIENTATION_REMEDY, ORIENTATION_UNKNOWN
from tumorsim.manifest._formats import write_table
from tumorsim.manifest._lesions import tumors_from_case
from tumorsim.manifest._tables import Row, Table, read_table, relative_path, typed_cells
from tumorsim.records import Case, Cohort
from tumorsim.records.columns import label_columns


def build_manifest(
    scans, output, *, columns=None, mask_value=">0", min_volume_mm3=14.0, merge_distance_mm=2.0,
    by_value=False, skip_bad=False, progress=False,
):  # fmt: skip
    """Turn a table of scans into a manifest of tumors.

    Parameters
    ----------
    scans : str or Path
        CSV (commas, semicolons or tabs), Excel (first sheet) or Parquet, one row per scan: ``patient_id,
        case_id, image, mask``, optional ``mask_value`` (which overrides the argument), ``label_<task>`` and
        any further columns, which all tumors of the scan inherit. Paths are absolute or relative to the
        table.
    output : str or Path
        The manifest to write, CSV or Parquet by its suffix: one row per tumor, with box, size, shape and
        place.
    columns : dict, optional
        Name of a column → its name in the table, such as ``{"label_type": "Histology"}``.
    mask_value, min_volume_mm3, merge_distance_mm, by_value
        As in `tumors_from_case`.
    skip_bad : bool, default=False
        Go on without bad rows, and warn.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    Cohort
        What `load_cohort` returns for the manifest.

    Raises
    ------
    FileNotFoundError
        If there is no table.
    ManifestError
        If rows are bad: ids missing or repeated, files missing or damaged, grids that differ, voxels that
        are NaN, empty masks. Every scan is read before the manifest is written; the list of bad rows goes to
        ``<output>.errors.txt``.

    Notes
    -----
    One scan at a time is in memory.
    """
    output = Path(output)
    table = read_table(scans, columns)
    if os.path.realpath(scans) == os.path.realpath(output):
        raise ValueError(f"The manifest must not replace its scan table. Got '{output}' for both.")
    if "tumor_id" in table.columns:
        raise ManifestError(f"'{scans}' has a column 'tumor_id': it is a manifest already. Use it as it is.")
    table.require(("patient_id", "case_id", "image", "mask"))
    remarks = [f"{problem} {remedy}" for _, _, problem, remedy in table.problems.remarks]
    if remarks:
        more = f" And {len(remarks) - 5} more." if len(remarks) > 5 else ""
        warnings.warn(printable(f"'{scans}': {' '.join(remarks[:5])}{more}", 2000), stacklevel=2)
    lesions = {"mask_value": mask_value, "min_volume_mm3": min_volume_mm3, "by_value": by_value}
    options = {"merge_distance_mm": merge_distance_mm, "skip_bad": skip_bad, "progress": progress}
    cohort = _read_scans(table, {}, Path(f"{output}.errors.txt"), **lesions, **options)
    save_manifest(cohort, output)
    return cohort


def cohort_from_scans(scans, source, *, lesions=None, errors=None, progress=False, **options):
    """Turn scans listed in memory into a Cohort; those that cannot be used are left out, with a warning.

    Parameters
    ----------
    scans : sequence of dict
        Column → text, as the rows of a scan table (see `build_manifest`), paths absolute. A scan with text
        under ``problem`` cannot be used for that reason.
    source : str or Path
        Where the scans come from, for messages.
    lesions : dict, optional
        case_id → value of the mask → dict of cells (``label_<task>`` or further columns) of that lesion. Of
        these scans each value of the mask is one lesion.
    errors : Path, optional
        File for the list of scans that are left out.
    progress : bool, default=False
        Show a progress bar.
    **options
        ``mask_value, min_volume_mm3, merge_distance_mm, by_value`` as in `tumors_from_case`.

    Returns
    -------
    Cohort

    Raises
    ------
    ManifestError
        If no scan can be used.
    """
    columns = dict.fromkeys(name for scan in scans for name in scan if name != "problem")
    rows = [Row(number, scan) for number, scan in enumerate(scans, start=1)]
    table = Table(Path(source), list(columns), rows, unit="scan")
    for row in rows:
        if row.get("problem"):
            table.problems.add(row, ManifestError(row.get("problem")))
    return _read_scans(table, lesions or {}, errors, skip_bad=True, progress=progress, **options)


def _read_scans(table, lesions, errors, *, skip_bad, progress, mask_value=">0", by_value=False, **options):
    """Return the Cohort of a table of scans; bad ones are reported, and listed in the file `errors`."""
    for name in options:
        options[name] = check_real(options[name], name, minimum=0)
    check_mask_value(mask_value)
    rows, found, lines = [], [], {}
    for row in tqdm(table.rows, "reading scans", disable=None if progress else True, leave=False):
        if row.line in table.problems.reasons:
            continue
        try:
            case = case_of_row(table, row, lines)
            value, one_each = row.get("mask_value") or mask_value, by_value or case.case_id in lesions
            how = options | {"mask_value": value, "by_value": one_each, "labels": table.labels(row)}
            found.append(tumors_from_case(case, **how))
            rows.append(row)
        except (OSError, TypeError, ValueError) as err:
            table.problems.add(row, err, table)
    table.problems.finish(errors, n_rows=len(table.rows), skip_bad=skip_bad, always_list=True, stacklevel=4)

    unsure = [tumors[0].case.case_id for tumors in found if not tumors[0].case.states_orientation]
    if unsure:
        what = f"In {counted(len(unsure), 'scan')} the file {ORIENTATION_UNKNOWN}. {ORIENTATION_REMEDY}"
        got = f"Got {', '.join(unsure[:10])}{' …' if len(unsure) > 10 else ''}."
        warnings.warn(f"{what} {got}", stacklevel=3)
    for tumors, metadata in zip(found, table.metadata(rows), strict=True):
        for tumor in tumors:
            tumor.metadata = metadata | tumor.metadata
    cohort = Cohort(tumor for tumors in found for tumor in tumors)
    _describe_lesions(cohort, lesions)
    if not table.problems and errors is not None:
        errors.unlink(missing_ok=True)  # of an earlier attempt
    return cohort


def _describe_lesions(cohort, lesions):
    """Give tumors the cells of their lesion (case_id → mask value → cells), in place."""
    known = [tumor for tumor in cohort if tumor.case.case_id in lesions]
    own = [lesions[tumor.case.case_id].get(int(tumor.mask_value), {}) for tumor in known]
    names = dict.fromkeys(name for cells in own for name in cells)
    further = [name for name in names if name not in label_columns(names)]
    for tumor, cells, metadata in zip(known, own, typed_cells(own, further), strict=True):
        tumor.metadata |= {name: value for name, value in metadata.items() if name in cells}
        for name, task in label_columns(cells).items():
            tumor.labels[task] = cells[name] or None


def save_manifest(cohort, path):
    """Write a cohort whose scans are files as a manifest, atomically.

    Parameters
    ----------
    cohort : Cohort
        Its table is written: ids, files (relative to the manifest where possible), boxes, labels, further
        columns, size, shape and place.
    path : str or Path
        CSV, or Parquet by its suffix.

    Raises
    ------
    ManifestError
        If a scan is in memory, so that there is no file to name.
    """
    path = Path(path)
    for case in cohort.cases:
        if not isinstance(case.image, str) or (case.has_mask and not isinstance(case.mask, str)):
            raise ManifestError(
                f"A manifest lists files. Got case '{case.case_id}' in memory. Write its arrays with "
                "tumorsim.io.save_nifti and make the Case from the paths, or give make_cohort an output_dir."
            )
    frame = cohort.table
    folder = path.parent
    for column in ("image", "mask"):
        if column in frame:
            frame[column] = [relative_path(f, folder) if isinstance(f, str) else None for f in frame[column]]
    write_table(path, frame)


def case_of_row(table, row, lines, *, needs_mask=True):
    """Return the checked case of a scan's row; `lines` (case_id → line) holds those before it."""
    patient_id = check_text(row.get("patient_id"), "patient_id")
    case_id = check_text(row.get("case_id"), "case_id")
    if case_id in lines:
        raise ManifestError(f"case_id '{case_id}' must be unique. It is in line {lines[case_id]} too.")
    lines[case_id] = row.line
    check_text(row.get("image"), "image")
    if needs_mask and not row.get("mask"):
        raise ManifestError(
            f"case '{case_id}' needs a mask or a box. A tumor known by its box only is a row of a manifest "
            "(tumor_id, x0, y0, z0, x1, y1, z1), not of a scan table."
        )
    files = table.existing_files(row)
    case = Case(files["image"], files.get("mask"), case_id=case_id, patient_id=patient_id)
    case.check_grid()
    if needs_mask:
        case.load_image()
    return case
