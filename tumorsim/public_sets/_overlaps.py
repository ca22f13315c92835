"""Patients that are in several public data sets: each exam once, each patient under one id."""

import re

from tumorsim.public_sets._layouts import LAYOUTS
from tumorsim.public_sets._metadata import find_tables, read_sheets

__all__ = ["resolve_overlaps"]

_BRATS_ID = re.compile(r"(BraTS-MET-\d{5})(-\d{3})?", re.I)
_UCSF_ID = re.compile(r"\d{6}[A-Z]", re.I)
_CROSSWALKS = ("*mapping*.xlsx", "*mapping*.csv", *LAYOUTS["ucsf-bmsr"].tables)


def resolve_overlaps(scans, sets):
    """Return scans (dicts) of several `Found` sets with a ``problem`` where an exam is met a second time.

    An exam under one id in two sets is taken once, from the set that comes first in the table of layouts.
    Where ids differ, a table below the root that holds both tells which exams and patients are the same;
    without one, all exams that may be meant are left out: a patient in training and test is worse.
    """
    taken = {}
    for scan in (scan for scan in scans if not scan.get("problem")):
        first = taken.setdefault(scan["case_id"], scan)
        if first is not scan:
            scan["problem"] = (
                f"case '{scan['case_id']}' of '{scan['dataset']}' is taken from '{first['dataset']}'"
            )
    names = {found.name for found in sets}
    crosswalk = {}
    for scan in (scan for scan in scans if not scan.get("problem")):
        name = scan["dataset"]
        for other, pattern in LAYOUTS[name].overlaps:
            if other in names and re.match(pattern, scan["case_id"], re.I):
                if name not in crosswalk:
                    crosswalk[name] = _crosswalk(sets) if name == "ucsf-bmsr" else {}
                _settle(scan, other, crosswalk[name], taken)
                break
    return scans


def _settle(scan, other, crosswalk, taken):
    """Give a scan a problem, or its patient id in the set `other`, as `crosswalk` (id → id there) tells."""
    if not crosswalk:
        scan["problem"] = (
            f"case '{scan['case_id']}' may be of a patient of '{other}' under another id, and no table below "
            f"the root tells. Read '{scan['dataset']}' alone if you want it"
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
    """Return UCSF exam id → BraTS id, of every table that holds both in a row."""
    pairs = {}
    for path in dict.fromkeys(path for found in sets for path in find_tables(found, _CROSSWALKS)):
        for sheet in read_sheets(path).values():
            for row in sheet.itertuples(index=False, name=None):
                here = next((cell.upper() for cell in row if _UCSF_ID.fullmatch(cell)), None)
                there = next((cell for cell in row if _BRATS_ID.fullmatch(cell)), None)
                if here and there:
                    pairs[here] = there
    return pairs
