"""What a table may have meant: decimal commas, columns of other names, patients under two ids."""

import difflib
import re

from tumorsim.exceptions import ManifestError
from tumorsim.records.columns import (
    BOX_COLUMNS,
    LABEL_PREFIX,
    OWN_COLUMNS,
    clean_text,
    further_columns,
    id_variants,
    is_blank,
)

_COMMA = re.compile(r"[+-]?(\d{1,3}([.\s'’]\d{3})+|\d+)?(,\d+)?([eE][+-]?\d+)?")  # 1.234,5 and 1234,5
_NUMBER = re.compile(_COMMA.pattern + r"|[+-]?\d*\.?\d+([eE][+-]?\d+)?")
_GROUPS = re.compile(r"[+-]?(0|[1-9]\d{0,2}(\.\d{3})*)")  # 1.528 may be 1528
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # may be 1234 as well
_ALSO = {  # how tables call our columns, in small letters and digits
    "patient_id": "patient patientid patientnr patientennummer patno pid subject subjectid mrn fallnummer",
    "case_id": "case caseid scan scanid study studyid session exam accession fall untersuchung",
    "tumor_id": "tumor tumorid lesion lesionid läsion herd",
    "image": "images img bild scan t1c t1ce t1 mri mr file filename path pfad datei volume nifti",
    "mask": "masks maske seg segmentation segmentierung roi contour kontur label labels labelmap",
    "label_type": "type tumortype histology histologie diagnosis diagnose dx entity entität pathology",
    "label_hemisphere": "hemisphere side seite laterality",
    "label_region": "region location lokalisation lobe",
    "label_grade": "grade whograde grad",
}


def looking_like(columns, name, *, close=True):
    """Return those of `columns` that may be meant by `name`; with `close`, similarly spelled ones as well."""
    seen = {_plain(column): column for column in columns if column not in OWN_COLUMNS}
    words = (*_ALSO.get(name, "").split(), _plain(name))
    found = [column for key, column in seen.items() if key in words]
    return found or [seen[key] for key in difflib.get_close_matches(_plain(name), seen, 1) if close]


def _plain(name):
    """Return the letters and digits of a name, small."""
    return "".join(c for c in name.casefold() if c.isalnum())


def remarks_of(table):
    """Return what looks wrong in a table as a whole, as a list of (kind, line or 0, problem, remedy)."""
    remarks, lines = [], {}
    for row in table.rows:
        lines.setdefault(row.get("patient_id"), row.line)
    for ids in id_variants(one for one in lines if one):
        listed = " and ".join(f"'{one}' ({table.problems.unit} {lines[one]})" for one in ids)
        problem = f"patient_id {listed} may be one patient; they are taken for {len(ids)}."
        remarks.append(("patient ids", lines[ids[-1]], problem, "Write one of them, if they are one."))
    for ours in (name for name in _ALSO if name.startswith(LABEL_PREFIX) and name not in table.columns):
        for name in looking_like(table.columns, ours, close=False):
            problem = f"Column '{name}' is carried along, but is no label."
            remedy = f"If it is one, name it {ours}, or make the manifest with --columns {ours}={name}."
            remarks.append(("no label", 0, problem, remedy))
    return remarks


def point_columns(table, separator):
    """Write decimal commas of whole columns as points, in place; return remarks on unsure columns.

    In a CSV with such columns the points of another may group digits; ``ManifestError`` if it does not tell.
    """
    remarks, written, grouped, decimal = [], {}, {}, None
    for name in (*BOX_COLUMNS, *further_columns(table.columns)):
        cells = [row.cells.get(name, "").strip() for row in table.rows]
        plain = [re.sub(r"^\u2212(?=[\d.,])", "-", clean_text(cell)) for cell in cells]
        odd = [i for i, cell in enumerate(plain) if not (is_blank(cell) or _NUMBER.fullmatch(cell))]
        changed, unsure = with_points(cells if odd else plain, thousands=separator != ";")
        if unsure:
            problem = f"Numbers of column '{name}' have commas that may not be decimal, so they stay text."
            remarks.append(("decimal comma", 0, problem, "Write them with a decimal point."))
        if 0 < len(odd) <= 0.1 * sum(not is_blank(cell) for cell in plain):
            where = f"{table.problems.unit} {table.rows[odd[0]].line}"
            problem = f"Column '{name}' holds numbers, but '{plain[odd[0]]}' in {where}, so it stays text."
            remarks.append(("no number", table.rows[odd[0]].line, problem, "Leave such cells empty."))
        written |= {name: changed} if changed != cells else {}
        filled = [cell for cell in changed if not is_blank(cell)]
        if changed != cells and any("," in cell for cell in cells):
            decimal = name
        elif all(map(_GROUPS.fullmatch, filled)) and any("." in cell for cell in filled):
            grouped[name] = changed, max(filled, key=lambda cell: cell.count("."))
    for name, (cells, example) in grouped.items() if decimal and separator else ():
        if example.count(".") == 1:
            rule = f"'{table.path}': column '{name}' holds {example}, and '{decimal}' has decimal commas"
            ways = f"{example.replace('.', '')} or {example.replace('.', ',')}"
            raise ManifestError(f"{rule}, so its points may group digits. Write {ways}.")
        written[name] = [re.sub(r"(?<=\d)\.(?=\d)", "", cell) for cell in cells]
    for name, cells in written.items():
        for row, cell in zip(table.rows, cells, strict=True):
            row.cells[name] = cell
    return remarks


def with_points(cells, *, thousands):
    """Return a column of text with points for decimal commas where all cells are numbers; and if unsure.

    With `thousands` a column of numbers such as 1,234 only stays, since a comma may group digits.
    """
    filled = [cell for cell in cells if not is_blank(cell)]
    commas = [cell for cell in filled if "," in cell]
    if not commas or sum(_COMMA.fullmatch(cell) is not None for cell in filled) < 0.5 * len(filled):
        return cells, False
    if not all(map(_COMMA.fullmatch, filled)) or (thousands and all(map(_THOUSANDS.fullmatch, commas))):
        return cells, all(re.fullmatch(r"[\d.,\s'’+-]+", cell) for cell in filled)
    grouped = [cell for cell in filled if "." in cell]
    if grouped and not any("," in cell or cell.count(".") > 1 for cell in grouped):
        return cells, True  # 12.125 beside 3,5: the point may be decimal
    return [c if is_blank(c) else re.sub(r"[.\s'’]", "", c).replace(",", ".") for c in cells], False
