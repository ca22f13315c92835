"""Lesions of two dates of one patient: which is which, and how they changed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from itertools import count, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from tqdm import tqdm

from tumorsim._validation import check_mask_value
from tumorsim.anatomy import register_dates
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import select_mask
from tumorsim.manifest import load_cohort, save_manifest, tumors_from_case
from tumorsim.records import Case, Tumor, check_tumors
from tumorsim.records.columns import clean_id, is_blank

if TYPE_CHECKING:
    from tumorsim.embedder import TumorEmbedder

__all__ = ["changes_of", "match_dates", "match_manifest", "months_between"]

_COLUMNS = (
    "lesion_id", "status", "category", "tumors_before", "tumors_after", "volume_before_mm3",
    "volume_after_mm3", "growth_percent", "growth_error_percent", "growth_mm3_per_month",
    "volume_ratio_per_month", "diameter_before_mm", "diameter_after_mm", "diameter_mm_per_month",
    "volume_before_error_mm3", "volume_after_error_mm3", "x_mm", "y_mm", "z_mm", "registration_quality",
)  # fmt: skip
_LARGER, _SMALLER = 40.0, -65.0  # percent of volume
_LEAST_QUALITY = 0.6
_MONTH = 365.25 / 12
_CHANGES = (
    "status", "growth_percent", "volume_ratio_per_month", "growth_mm3_per_month", "diameter_mm_per_month"
)  # fmt: skip
_TOLERANCE_MM = 3.0  # of the registration; half a slice comes on top
_INSIDE = 0.5  # share of a lesion that must lie in another to be part of it
_WEIGHT = 0.25  # of likeness beside overlap and distance, which are 1 at most


def match_dates(
    before: Case | Sequence[Tumor], after: Case | Sequence[Tumor], *, dates: Sequence | None = None,
    embedder: TumorEmbedder | None = None, mask_value: int | str = ">0", min_volume_mm3: float = 14.0,
    merge_distance_mm: float = 2.0, by_value: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Tell which lesions of two scans of a patient are the same, and how they changed.

    Parameters
    ----------
    before, after : Case, or sequence of Tumor
        An earlier and a later scan with masks, which may be empty; or the lesions of one scan each.
    dates : sequence of two, optional
        When they were made, as 2024-05-31; else changes per month are missing.
    embedder : TumorEmbedder, optional
        Lesions that look alike are then preferred where place alone leaves pairs open.
    mask_value, min_volume_mm3, merge_distance_mm, by_value
        As in `tumorsim.manifest.tumors_from_case`, for a Case.

    Returns
    -------
    DataFrame
        One row per lesion: ``status`` is same, new, vanished, merged or split; ``category`` larger or
        smaller from +40 % or -65 % of the volume, else stable: the volumetric limits of RANO 2.0, lesion by
        lesion; check before clinical use. Further columns: see ``docs/match.md``. ``attrs["to_after"]``
        maps mm of the earlier scan to mm of the later one.

    Raises
    ------
    ValueError, GeometryError
        If a scan has no mask, the patients differ, or the dates are no use.

    Notes
    -----
    Ends of a run of voxels may lie half a voxel farther in or out (spacing / sqrt(12)), those on one side of
    a lesion together. So a volume's standard error is ``sqrt(sum((A * spacing) ** 2) / 6)`` over the axes, A
    being the area projected along the axis.

    References
    ----------
    RANO 2.0: Wen et al., J Clin Oncol 41, 5187-5199, 2023.
    """
    options = {"mask_value": mask_value, "min_volume_mm3": min_volume_mm3}
    options |= {"merge_distance_mm": merge_distance_mm, "by_value": by_value}
    cases, tumors = zip(*(_lesions_of(side, options) for side in (before, after)), strict=True)
    if dates is not None and len(dates) != 2:
        raise ValueError(f"Parameter 'dates' must be two, the earlier first. Got {len(dates)}: {dates}.")
    months = None if dates is None else months_between(*dates)
    separated = [tumor.tumor_id for side in tumors for tumor in side if ";" in tumor.tumor_id]
    if separated:
        raise ValueError(f"Ids of tumors to match must have no semicolon. Got '{separated[0]}'.")
    if cases[0].patient_id != cases[1].patient_id:
        ids = "' and '".join(case.patient_id for case in cases)
        raise ValueError(f"Both scans must be of one patient. Got the patients '{ids}'.")
    masks = [case.load_mask() for case in cases]
    scans = ((c.load_image(), c.affine, mask > 0) for c, mask in zip(cases, masks, strict=True))
    to_after, quality = register_dates(*scans)
    if quality < _LEAST_QUALITY:
        ids = "' and '".join(case.case_id for case in cases)
        warnings.warn(f"'{ids}' fit badly, quality {quality:.2f}. Look at both scans.", stacklevel=2)
    sides = [[(t, *_measure(t, mask)) for t in found] for found, mask in zip(tumors, masks, strict=True)]
    points = [[where for _, _, where in side] for side in sides]
    likeness = None
    if embedder is not None and all(tumors):
        X, Y = (embedder.transform(found).astype(float) for found in tumors)
        apart = np.linalg.norm(X[:, None] - Y[None], axis=2)
        likeness = 1 - apart / max(apart.max(), 1e-9)
    back = np.linalg.inv(to_after)
    points[1] = [p @ back[:3, :3].T + back[:3, 3] for p in points[1]]
    tolerance = _TOLERANCE_MM + max(case.spacing.max() for case in cases) / 2
    rows = []
    for old, new in _pair_lesions(*points, tolerance_mm=tolerance, likeness=likeness):
        row = {"lesion_id": f"L{len(rows) + 1}", "registration_quality": round(quality, 3)}
        row |= _change([sides[0][i] for i in old], [sides[1][j] for j in new], months)
        center = np.concatenate([points[0][i] for i in old] or [points[1][j] for j in new]).mean(axis=0)
        rows.append(row | {f"{axis}_mm": round(float(mm), 1) for axis, mm in zip("xyz", center, strict=True)})
    table = pd.DataFrame(rows, columns=_COLUMNS)
    table.attrs |= {"to_after": to_after.tolist(), "limits_percent": [_LARGER, _SMALLER]}
    table.attrs["mask_value"] = mask_value
    return table


def match_manifest(archive, output=None, *, embedder=None, skip_bad=False, progress=False):
    """Match the lesions of all patients of a manifest who have several dates.

    Parameters
    ----------
    archive : str, Path or DataFrame
        Manifest, see `load_cohort`, with a further column ``date`` (2024-05-31) or ``visit`` (numbers, or
        dates as `tumorsim.manifest.import_dicom` writes them). Scans without one are not matched.
    output : str or Path, optional
        Manifest to write, with ``lesion_id``, ``status`` and, where dates are known, changes per month.
    embedder, skip_bad, progress
        As in `match_dates` and `load_cohort`; whether to show a progress bar.

    Returns
    -------
    table : DataFrame
        As of `match_dates`, for each two dates that follow each other; ``patient_id``, ``case_before`` and
        ``case_after`` come first.
    cohort : Cohort
        All tumors, with the new columns. All pieces of a lesion share its ``lesion_id``.

    Raises
    ------
    ValueError
        If there is neither ``date`` nor ``visit``, or no patient has two dates.
    """
    cohort = load_cohort(archive, skip_bad=skip_bad)
    name = next((n for n in ("date", "visit") if any(not is_blank(t.metadata.get(n)) for t in cohort)), None)
    if name is None:
        raise ValueError("A manifest of several dates needs a column 'date' (2024-05-31) or 'visit' (1, 2).")
    groups, dated = {}, [tumor for tumor in cohort if not is_blank(tumor.metadata.get(name))]
    for tumor in dated:
        groups.setdefault(tumor.patient_id, {}).setdefault(id(tumor.case), []).append(tumor)
    jobs, owner = [], {tumor.tumor_id: {tumor.tumor_id} for tumor in cohort}
    if len({type(_time(tumor, name)) for tumor in dated}) > 1:
        raise ValueError(f"Column '{name}' must hold either dates or numbers. Got both.")
    for patient, scans in groups.items():
        ordered = sorted(scans.values(), key=lambda tumors: _time(tumors[0], name))
        for tumors in ordered:
            if len({_time(tumor, name) for tumor in tumors}) > 1:
                raise ValueError(f"Case '{tumors[0].case.case_id}' must have one '{name}'. Got several.")
        for old, new in pairwise(ordered):
            if _time(old[0], name) == _time(new[0], name):
                ids = f"'{old[0].case.case_id}' and '{new[0].case.case_id}'"
                rule = f"Scans of patient '{patient}' must differ in '{name}'"
                raise ValueError(f"{rule}. Got the same for {ids}: correct it, or leave one out.")
            jobs.append((old, new))
    if not jobs:
        raise ValueError(f"No patient has two scans with different '{name}'. Check patient_id.")
    tables, changes = [], {}
    for old, new in tqdm(jobs, "matching", unit="pair", disable=None if progress else True):
        times = _time(old[0], name), _time(new[0], name)
        dates = times if isinstance(times[0], date) else None
        found = match_dates(old, new, dates=dates, embedder=embedder)
        for row in found.to_dict("records"):
            ids = [i for side in ("tumors_before", "tumors_after") for i in row[side].split(";") if i]
            joined = set().union(*(owner[i] for i in ids))
            owner |= dict.fromkeys(joined, joined)
        changes |= changes_of(found)
        who = {"patient_id": old[0].patient_id, "case_before": old[0].case.case_id}
        who["case_after"] = new[0].case.case_id
        tables.append(found.assign(**who)[[*who, *_COLUMNS]])
    names = _names(cohort, owner)
    for tumor in cohort:  # nothing of an earlier match stays
        kept = {key: value for key, value in tumor.metadata.items() if key not in _CHANGES}
        tumor.metadata = kept | changes.get(tumor.tumor_id, {}) | {"lesion_id": names[tumor.tumor_id]}
    table = pd.concat(tables, ignore_index=True)
    sides = table["tumors_before"].where(table["tumors_before"] != "", table["tumors_after"])
    table["lesion_id"] = [names[ids.split(";")[0]] for ids in sides]
    if output is not None:
        save_manifest(cohort, output)
    return table, cohort


def changes_of(table):
    """Return tumor_id of the later date → id, status and changes of its lesion, of a `match_dates` table."""
    rows = table[["lesion_id", *_CHANGES]].to_dict("records")
    pairs = zip(table["tumors_after"].str.split(";"), rows, strict=True)
    return {tumor_id: row for ids, row in pairs for tumor_id in ids if tumor_id}


def _time(tumor, name):
    """Return when a tumor was seen: a date, or of column 'visit' a number."""
    value = tumor.metadata.get(name)
    try:
        return _date(value)
    except ValueError:
        if name == "visit" and not is_blank(value):
            with suppress(TypeError, ValueError):
                return float(value)
    rule = "a date such as 2024-05-31" if name == "date" else "a number, or a date such as 2024-05-31"
    raise ValueError(f"'{name}' of tumor '{tumor.tumor_id}' must be {rule}. Got {value!r}.")


def _date(value):
    """Return a date of text such as 2024-05-31, with or without a time of day."""
    return date.fromisoformat(str(value)[:10])


def _names(cohort, owner):
    """Return tumor_id → name of its lesion: the one that it has, or numbered within the patient."""
    held = {t.tumor_id: t.metadata.get("lesion_id") for t in cohort}
    held = {one: clean_id(str(name), "lesion_id") for one, name in held.items() if not is_blank(name)}
    known, names = {}, {}
    for tumor_id, name in held.items():
        known.setdefault(id(owner[tumor_id]), name)
    taken, given = set(known.values()), set()
    for tumor in cohort:
        if tumor.tumor_id not in names:
            name = known.get(id(owner[tumor.tumor_id]))
            if name is None or (tumor.patient_id, name) in given:
                name = next(n for i in count(1) if (n := f"{tumor.patient_id}/L{i}") not in taken)
            taken.add(name)
            given.add((tumor.patient_id, name))
            names |= dict.fromkeys(owner[tumor.tumor_id], name)
    changed = [f"'{one}': '{name}' became '{names[one]}'" for one, name in held.items() if names[one] != name]
    if changed:
        listed = "; ".join(changed[:5]) + " …" * (len(changed) > 5)
        what = f"The match disagrees with the lesion_id of {len(changed)} tumors"
        warnings.warn(f"{what}: {listed}.", stacklevel=3)
    return names


def _lesions_of(side, options):
    """Return case and list of lesions of a Case, none of an empty mask, or of tumors of one scan."""
    tumors = None if isinstance(side, Case) else check_tumors(side)
    if tumors is not None and len({id(tumor.case) for tumor in tumors}) != 1:
        raise ValueError("The lesions of a date must be those of one scan. Got none, or those of several.")
    case = side if tumors is None else tumors[0].case
    if not case.has_mask:
        raise GeometryError(f"Case '{case.case_id}' needs a mask to match its lesions. Got none.")
    if tumors is None:
        empty = not select_mask(case.load_mask(), check_mask_value(options["mask_value"])).any()
        tumors = [] if empty else list(tumors_from_case(case, **options))
    return case, tumors


def months_between(before, after):
    """Return the months between two dates, or texts such as 2024-05-31; raise unless they rise."""
    try:
        days = (_date(after) - _date(before)).days
    except ValueError as err:
        raise ValueError(f"Dates must be written as 2024-05-31. Got {before!r} and {after!r}.") from err
    if days <= 0:
        raise ValueError(f"The later scan must have the later date. Got {before} and {after}.")
    return days / _MONTH


def _measure(tumor, mask):
    """Return volume, its standard error and longest diameter of a tumor, and its voxels in mm, (n, 3)."""
    found, inside, affine = tumor.measure(mask), tumor.select(mask), tumor.case.affine
    ends = np.array([inside.any(axis=a).sum() for a in range(3)]) * tumor.case.spacing.prod()
    measures = {"volume": found["volume_mm3"], "error": np.sqrt((ends**2).sum() / 6)}
    points = (np.argwhere(inside) + tumor.bbox[0]) @ affine[:3, :3].T + affine[:3, 3]
    return measures | {"diameter": found["diameter_mm"]}, points


def _change(before, after, months):
    """Return the cells of a lesion; `before` and `after` are lists of (Tumor, measures, points)."""
    n = len(before), len(after)
    status = "same" if n == (1, 1) else "merged" if n[0] >= n[1] else "split"
    row = {"status": "new" if n[0] == 0 else "vanished" if n[1] == 0 else status}
    for name, side in (("before", before), ("after", after)):
        row[f"tumors_{name}"] = ";".join(tumor.tumor_id for tumor, *_ in side)
        if side:
            row[f"volume_{name}_mm3"] = sum(m["volume"] for _, m, _ in side)
            row[f"volume_{name}_error_mm3"] = np.sqrt(sum(m["error"] ** 2 for _, m, _ in side))
            row[f"diameter_{name}_mm"] = max(m["diameter"] for _, m, _ in side)
    row["category"] = row["status"]
    if before and after:
        old, new = row["volume_before_mm3"], row["volume_after_mm3"]
        growth = round(100 * (new / old - 1), 4)
        errors = row["volume_before_error_mm3"] / old, row["volume_after_error_mm3"] / new
        row |= {"growth_percent": growth, "growth_error_percent": 100 * new / old * np.hypot(*errors)}
        row["category"] = "larger" if growth >= _LARGER else "smaller" if growth <= _SMALLER else "stable"
        if months is not None:
            row["growth_mm3_per_month"] = (new - old) / months
            row["volume_ratio_per_month"] = np.log(new / old) / months
            row["diameter_mm_per_month"] = (row["diameter_after_mm"] - row["diameter_before_mm"]) / months
    return {name: round(float(v), 4) if isinstance(v, float) else v for name, v in row.items()}


def _pair_lesions(before, after, *, tolerance_mm=_TOLERANCE_MM, likeness=None):
    """Return which lesions of two dates are one, as (numbers before, numbers after); a side may be empty.

    Lesions are voxel centers (n, 3) in mm of one space. A pair is possible where voxels of one lesion lie
    within `tolerance_mm` of the other. It gains the smaller lesion's share that does, and
    ``1 - d / (r + s + tolerance_mm)``, for centers d mm apart and radii r and s of balls of equal extent, and
    a part of `likeness` (n_before, n_after), 0 to 1. The pairs with the largest sum are taken. A lesion that
    is left over joins the one that holds half of it: a merge or a split.
    """
    shape = len(before), len(after)
    share, back, gain = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for i, j in np.ndindex(shape):
        share[i, j] = _share(before[i], after[j], tolerance_mm)
        back[i, j] = _share(after[j], before[i], tolerance_mm)
        if max(share[i, j], back[i, j]) > 0:
            apart = np.linalg.norm(before[i].mean(axis=0) - after[j].mean(axis=0))
            reach = _radius(before[i]) + _radius(after[j]) + tolerance_mm
            gain[i, j] = max(share[i, j], back[i, j]) + max(0.0, 1 - apart / reach)
    if likeness is not None:
        gain += _WEIGHT * np.asarray(likeness) * (gain > 0)
    rows, columns = linear_sum_assignment(-gain) if gain.size else ((), ())
    pairs = {(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if gain[i, j] > 0}
    alone = [i for i in range(shape[0]) if all(i != pair[0] for pair in pairs)]
    rest = [j for j in range(shape[1]) if all(j != pair[1] for pair in pairs)]
    pairs |= {(i, int(share[i].argmax())) for i in alone if share[i].max(initial=0) >= _INSIDE}
    pairs |= {(int(back[:, j].argmax()), j) for j in rest if back[:, j].max(initial=0) >= _INSIDE}
    return _groups(pairs, shape)


def _share(points, others, limit):
    """Return the share of `points` (n, 3) that lie within `limit` mm of the nearest of `others` (m, 3)."""
    gaps = np.maximum(np.maximum(points.min(0) - others.max(0), others.min(0) - points.max(0)), 0)
    if np.linalg.norm(gaps) > limit:
        return 0.0
    return float(np.isfinite(cKDTree(others).query(points, distance_upper_bound=limit)[0]).mean())


def _radius(points):
    """Return the radius in mm of the ball whose points are spread as `points` (n, 3)."""
    return float(np.sqrt(5 / 3 * points.var(axis=0).sum()))


def _groups(pairs, shape):
    """Return the connected components of pairs of lesions, those without a partner too."""
    linked = np.zeros((sum(shape), sum(shape)))
    for i, j in pairs:
        linked[i, shape[0] + j] = 1
    n, group = connected_components(linked, directed=False)
    sides = group[: shape[0]], group[shape[0] :]
    return [tuple(np.flatnonzero(side == g).tolist() for side in sides) for g in range(n)]
