"""An earlier scan beside the query's: how its lesions changed since then."""

import pandas as pd

from tumorsim.exceptions import GeometryError
from tumorsim.matching import changes_of, match_dates, months_between
from tumorsim.records import Case, Cohort
from tumorsim.records.columns import is_blank
from tumorsim.retrieval._query import is_scan, read_query


def read_earlier(scan, before, mask, dates):
    """Return the Case of an earlier scan of the patient of `scan`, None where there is none."""
    if before is None and mask is None and dates is None:
        return None
    if isinstance(scan, Cohort) or not (isinstance(before, Case) or is_scan(before)):
        got = "tumors" if isinstance(scan, Cohort) else "none" if before is None else "tumors or a table"
        rule = "Parameter 'before' is an earlier scan, beside a new one and with 'mask_before' and 'dates'."
        raise ValueError(f"{rule} Got {got}. Match a manifest by: tumorsim match MANIFEST.csv -o matched.csv")
    if dates is None or len(dates) != 2:
        rule = "Parameter 'before' needs 'dates', the earlier first, such as 2024-03-01,2024-06-03."
        raise ValueError(f"{rule} Got {dates}.")
    months_between(*dates)
    earlier = read_query(before, mask=mask, patient_id=None if isinstance(before, Case) else scan.patient_id)
    for name, case in (("mask_before", earlier), ("mask", scan)):
        if not case.has_mask:
            rule = "Parameter 'before' compares the masks of both dates."
            raise GeometryError(f"{rule} Case '{case.case_id}' has none: give '{name}'.")
    return earlier


def change_since(earlier, tumors, dates, **lesions):
    """Put into the metadata of `tumors` how they changed since an earlier scan.

    Returns a table of their volumes at both dates and the registration's quality; `lesions` as `match_dates`.
    """
    table = match_dates(earlier, tumors, dates=dates, **lesions)
    changes = changes_of(table)
    for tumor in tumors:
        tumor.metadata |= changes[tumor.tumor_id] | {"date": str(dates[1])}
    sides = zip(("before", "after"), map(str, dates), strict=True)
    volumes = [table.assign(date=day, volume_mm3=table[f"volume_{side}_mm3"]) for side, day in sides]
    return pd.concat(volumes), table["registration_quality"].iloc[0]


def with_course(tumors, weights):
    """Return the tumors that have a course, and notes on the others, where no other aspect has a weight."""
    lacking = {t.tumor_id for t in tumors if is_blank(t.metadata.get("volume_ratio_per_month"))}
    if {name for name, w in weights.items() if w} != {"course"} or len(lacking) in (0, len(tumors)):
        return tumors, []
    note = f"Not seen at an earlier date, so without neighbors by course: {', '.join(sorted(lacking))}."
    return Cohort(tumor for tumor in tumors if tumor.tumor_id not in lacking), [note]
