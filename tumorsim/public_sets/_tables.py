"""Tables of public data sets: read as text, joined to scans; which exams and patients are in two sets."""

import fnmatch
import os
import re
from functools import cache

import pandas as pd

from tumorsim._validation import install_hint, printable
from tumorsim.exceptions import ManifestError
from tumorsim.public_sets._found import LAYOUTS
from tumorsim.records.columns import further_columns

_BRATS_ID = re.compile(r"(BraTS-MET-\d{5})(-\d{3})?", re.I)
_UCSF_ID = re.compile(r"\d{6}[A-Z]", re.I)
_CROSSWALKS = ("*mapping*.xlsx", "*mapping*.csv", *LAYOUTS["ucsf-bmsr"].tables)


def sheets_of(found, patterns=None):
    """Yield (name, DataFrame of text) of the sheets of a set's tables, in the order of `patterns`."""
    paths = {}
    for pattern in found.layout.tables if patterns is None else patterns:
        for path in found.files.values():
            name = os.path.basename(path)
            if fnmatch.fnmatch(name.lower(), pattern.lower()) and not name.startswith(("~$", ".")):
                paths[found.absolute(path)] = None
    for path in paths:
        for name, sheet in _read_sheets(path).items():
            sheet.columns = [" ".join(str(c).split()) for c in sheet.columns]
            sheet = sheet.loc[:, ~sheet.columns.duplicated()]
            yield name.strip().lower(), sheet.apply(lambda column: column.map(_text))


def _read_sheets(path):
    """Return the sheets of a CSV or Excel file as they are: name → DataFrame."""
    options = {"dtype": str, "keep_default_na": False}
    try:
        if path.lower().endswith(".csv"):
            return {"": pd.read_csv(path, encoding="utf-8-sig", encoding_errors="replace", **options)}
        return pd.read_excel(path, sheet_name=None, **options)
    except ImportError as err:
        needed = f"'{path}' is an Excel file, which needs openpyxl. {install_hint('datasets')}"
        raise ManifestError(needed) from err
    except Exception as err:  # zipfile, openpyxl and pandas raise kinds of their own
        raise ManifestError(f"The table '{path}' cannot be read: {printable(err)}") from err


def join_tables(rows, found):
    """Give the rows (dicts) of a set the columns that its tables have of the case or the patient, in place.

    The column of ids is the layout's `key`, or, without one, that of which most values are ids here.
    """
    layout = found.layout  # templates of how tables may name a case, most special first
    templates = (
        [layout.key_id] if layout.key_id else ["{case}", layout.case_id, "{patient}", layout.patient_id]
    )
    ids = [[one.format(**match.groups).lower() for one in templates] for match in found.matches]
    for _, sheet in sheets_of(found):
        key = _key_column(sheet, layout.key, {one for case in ids for one in case})
        if key is None or "case_id" in sheet.columns:  # a manifest, perhaps of this very set
            continue
        numbers = sheet.groupby(sheet[key].map(str.lower)).indices
        columns = [c for c in further_columns(sheet.columns) if not c.startswith("Unnamed:")]
        for row, case in zip(rows, ids, strict=True):
            of_case = next((numbers[one] for one in case if one in numbers), ())
            if len(of_case) == 1:  # several rows: of visits that cannot be told apart
                cells = sheet.iloc[of_case[0]]
                row |= {c: cells[c] for c in columns if not row.get(c)}


def _key_column(sheet, key, ids):
    """Return the column named `key`, or, without a key, that with most values among `ids`, or None."""
    if key:
        return next((c for c in sheet.columns if c.lower() == key.lower()), None)
    hits = {c: sum(value.lower() in ids for value in sheet[c]) for c in sheet.columns}
    best = max(hits, key=hits.get, default=None)
    return best if best is not None and hits[best] else None


def _text(value):
    """Return a cell as text on one line."""
    text = " ".join(str(value).split())
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text


def resolve_overlaps(scans, sets):
    """Give scans (dicts) of several `Found` sets a ``problem`` where an exam is met a second time, in place.

    Where ids differ, a table below the root says which exams are the same; without one, all that may be meant
    are left out: a patient in training and test is worse.
    """
    taken = {}
    for scan in (scan for scan in scans if not scan.get("problem")):
        first = taken.setdefault(scan["case_id"], scan)
        if first is not scan:
            case = f"case '{scan['case_id']}' of '{scan['dataset']}'"
            scan["problem"] = f"{case} is taken from '{first['dataset']}'"
    names, crosswalk = {found.name for found in sets}, cache(lambda: _crosswalk(sets))
    for scan in (scan for scan in scans if not scan.get("problem")):
        for other, pattern in LAYOUTS[scan["dataset"]].overlaps:
            if other in names and re.match(pattern, scan["case_id"], re.I):
                pairs = crosswalk() if scan["dataset"] == "ucsf-bmsr" else {}
                _settle(scan, other, pairs, taken)
                break


def _settle(scan, other, crosswalk, taken):
    """Give a scan a problem, or its patient id in the set `other`, from `crosswalk` (id → id there)."""
    if not crosswalk:
        scan["problem"] = (
            f"case '{scan['case_id']}' may be of a patient of '{other}' under another id, and no table below "
            f"the root says which. Read '{scan['dataset']}' alone if you want it"
        )
        return
    patient = scan["patient_id"].rpartition("-")[2]
    same_patient = [there for here, there in crosswalk.items() if here.startswith(patient)]
    there = crosswalk.get(scan["case_id"].rpartition("-")[2].upper())
    if there in taken:
        scan["problem"] = f"case '{scan['case_id']}' is case '{there}' of '{taken[there]['dataset']}'"
    elif same_patient:
        scan["patient_id"] = _BRATS_ID.match(same_patient[0]).group(1)


def _crosswalk(sets):
    """Return UCSF exam id → BraTS id, of every table that holds both in a row; all sets share their files."""
    pairs = {}
    for _, sheet in sheets_of(sets[0], _CROSSWALKS):
        for row in sheet.itertuples(index=False, name=None):
            here = next((cell.upper() for cell in row if _UCSF_ID.fullmatch(cell)), None)
            there = next((cell for cell in row if _BRATS_ID.fullmatch(cell)), None)
            if here and there:
                pairs[here] = there
    return pairs
