"""Rows of a table → tumors, and tumors → rows."""

import functools
import os

from tumorsim._validation import check_text
from tumorsim.exceptions import GeometryError, ManifestError
from tumorsim.geometry import bbox_from_mask, select_mask
from tumorsim.records import columns
from tumorsim.records._case import Case
from tumorsim.records._tumor import Tumor

_NEEDED = (*columns.ID_COLUMNS, "image")


def tumors_of_table(table, *, check, on_error):
    """Return the tumors of a table's rows, in order; see `Cohort.from_table`."""
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        rule = f"A table of tumors must have the columns {', '.join(_NEEDED)}."
        raise ManifestError(f"{rule} Missing: {', '.join(missing)}. Got {', '.join(map(str, table))}.")
    if not table.index.is_unique:  # of tables that were joined
        table = table.reset_index(drop=True)
    unit, problems = table.index.name or "row", []  # what a row is called, such as 'line'
    note = on_error or (lambda name, err: problems.append(f"{unit} {name}: {err}"))
    by_case, seen, tumors = {}, {}, {}
    untouched = {*columns.further_columns(table), *columns.ID_COLUMNS}
    rows = [
        (name, {column: value if column in untouched else _cell(value) for column, value in row.items()})
        for name, row in zip(table.index, table.to_dict("records"), strict=True)
    ]
    for name, row in rows:
        try:
            key = _check_ids(name, row, by_case, seen, unit, check=check)
            by_case.setdefault(key, []).append((name, row))
        except (TypeError, ValueError) as err:
            note(name, err)
    for members in by_case.values():
        _read_case(members, tumors, note, check=check)
    if problems:
        raise ManifestError("\n  ".join([f"{len(problems)} of {len(table)} rows cannot be used:", *problems]))
    return [tumors[name] for name, _ in rows if name in tumors]


def row_of_tumor(tumor, measures):
    """Return one tumor's columns as a dict: ids, files, box, further columns, measures; labels apart."""
    case = tumor.case
    row = {"patient_id": case.patient_id, "case_id": case.case_id, "tumor_id": tumor.tumor_id}
    for name in columns.FILE_COLUMNS:
        source = getattr(case, name)
        row[name] = source if isinstance(source, str) else None
    row["mask_value"] = tumor.mask_value
    row |= dict(zip(columns.BOX_COLUMNS, tumor.bbox.ravel().tolist(), strict=True))
    taken = {*row, *columns.MEASURES, columns.MEASURED_FROM}
    row |= {name: value for name, value in tumor.metadata.items() if name not in taken}
    row |= {name: measures[name] for name in columns.MEASURES}
    row[columns.MEASURED_FROM] = tumor.metadata.get(columns.MEASURED_FROM, "mask" if case.has_mask else "box")
    return row


def _cell(value):
    """Return a cell without surrounding blanks; None where it is missing."""
    if columns.is_blank(value):
        return None
    return value.strip() if isinstance(value, str) else value


def _check_ids(name, row, by_case, seen, unit, *, check):
    """Return the key of a row's case, or raise unless ids are there, unique, and agree with its first row."""
    for column in columns.ID_COLUMNS:
        row[column] = columns.clean_id("" if columns.is_missing(row[column]) else row[column], column)
    if row["image"] is None:
        check_text("", "image")
    tumor_id, case_id = row["tumor_id"], row["case_id"]
    if tumor_id in seen:
        raise ManifestError(f"tumor_id '{tumor_id}' must be unique. It is in {unit} {seen[tumor_id]} too.")
    seen[tumor_id] = name
    if not check:
        return case_id, str(row["image"]), str(row.get("mask"))
    for first_name, first in by_case.get(case_id, [])[:1]:
        for column in ("patient_id", *columns.FILE_COLUMNS):
            here, there = row.get(column), first.get(column)
            if here is not there and str(here) != str(there):
                got = f"Got '{here or ''}' here and '{there or ''}' in {unit} {first_name}."
                raise ManifestError(f"case_id '{case_id}' must have one {column}. {got}")
    return case_id


def _read_case(rows, tumors, note, *, check):
    """Add the tumors of one scan's `rows` (name, cells) to `tumors` (name → Tumor); note what is bad."""
    first = rows[0][1]
    try:
        files = {name: first[name] for name in columns.FILE_COLUMNS if first.get(name) is not None}
        for column, source in files.items() if check else ():
            if isinstance(source, str | os.PathLike) and not os.path.isfile(source):
                raise FileNotFoundError(f"{column} '{source}' does not exist.")
        case = Case(**files, case_id=first["case_id"], patient_id=first["patient_id"])
        if check:
            case.check_grid()
    except (OSError, TypeError, ValueError) as err:
        for name, _ in rows:
            note(name, err)
        return
    load_mask = functools.cache(case.load_mask)
    for name, row in rows:
        try:
            tumors[name] = _tumor(row, case, load_mask, check=check)
        except (OSError, TypeError, ValueError) as err:
            note(name, err)


def _tumor(row, case, load_mask, *, check):
    """Return the tumor of a row, its box checked or, where there is none, taken from the mask."""
    tumor_id, value = row["tumor_id"], row.get("mask_value")
    if isinstance(value, float) and value.is_integer():  # a column of numbers with gaps
        value = int(value)
    box = columns.box_of(row)
    if box is None:
        if not case.has_mask:
            box = ", ".join(columns.BOX_COLUMNS)
            raise ManifestError(f"tumor '{tumor_id}' needs a mask or a box (columns {box}).")
        chosen = select_mask(load_mask(), value)
        if not chosen.any():
            what = f"The mask of case '{case.case_id}' has no voxel of value {value or '>0'}."
            raise GeometryError(f"{what} Check mask_value.")
        box = bbox_from_mask(chosen)
    labels = {task: row[name] for name, task in columns.label_columns(row).items()}
    metadata = columns.known_measures({name: row[name] for name in columns.further_columns(row)})
    tumor = Tumor(case, box, tumor_id=tumor_id, labels=labels, mask_value=value, metadata=metadata)
    if check:
        tumor.check()
    return tumor
