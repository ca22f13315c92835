"""One tumor as a column of the comparison: ids, pictures, and one cell per fact."""

import numpy as np
import pandas as pd

from tumorsim._validation import counted
from tumorsim.answers import describe_course, describe_volume
from tumorsim.geometry import ras_affine, ras_box, spacing_from_affine
from tumorsim.plotting import common_extent
from tumorsim.records.columns import is_missing, label_columns
from tumorsim.report._pages import try_surroundings
from tumorsim.report._voxels import encode_voxels

THICK_SLICE_MM = 3.0
_ENHANCEMENT = {  # column: name, factor, text
    "contrast": ("Contrast to the brain", 1, "{:.2f} ×"),
    "rim_fraction": ("Rim fraction (50 %: solid)", 100, "{:.0f} %"),
    "necrotic_share": ("Necrotic share", 100, "{:.0f} %"),
}
UNKNOWN = "not known"
FIRST = ("type", "place", "size", "look")  # aspects in the order of the sheet
SAME = {"scan": "Same scan: not counted", "patient": "Same patient: not counted"}


def column_of(
    row, tumor, *, extent_mm, margin_mm, n_pixels, n_bytes, rank=None, show=(), lesions=None, aspects=None
):
    """Return what the template needs for one tumor; None as `tumor`: its scan is not at hand.

    `row` is its metadata, of a neighbor its row of the answer; `show` are columns to show; `lesions` are
    number and total volume (mm³ or None) of the tumors of its scan; `n_bytes` limits the compressed voxels,
    None leaves them out.
    """
    column = {name: shown_text(row.get(name)) for name in ("patient_id", "case_id", "tumor_id")}
    column |= {"rank": rank, "labels": labels_of(row), "pictures": [], "voxels": None}
    column["patient_id"] = None if column["patient_id"] == "unknown" else column["patient_id"]
    column["same"] = SAME.get(shown_text(row.get("same")))
    column["distance"] = None if rank is None else float(row["distance"])
    column["aspects"] = aspects_of(row, aspects)
    column["sources"] = {task: shown_text(row.get(f"{task}_source")) for task in column["labels"]}
    volume, diameter = row.get("volume_mm3"), row.get("diameter_mm")
    sides, voxels = (None, None) if tumor is None else _geometry(tumor)
    facts, more = {}, {} if sides is None else {"R–L × A–P × S–I": sides}
    if shown_text(volume) is not None:
        text, _, from_box = describe_volume(row).partition(", ")
        facts["Volume"] = _cell(text, note=from_box, warning="" if voxels is None else voxels["warning"])
    if shown_text(row.get("growth_percent")) is not None:
        facts["Change of volume"] = _cell(f"{row['growth_percent']:+.0f} % since the date before")
    facts |= {name: _cell(shown_text(row[name])) for name in show if name in row}
    if shown_text(diameter) is not None:
        more["Longest diameter"] = _cell(f"{diameter:.0f} mm")
    for name, (title, factor, text) in _ENHANCEMENT.items():
        if name in row and pd.api.types.is_number(row[name]) and not is_missing(row[name]):
            more[title] = _cell(text.format(factor * row[name]))
    if lesions is not None:
        many, total = counted(lesions[0], "lesion"), lesions[1]
        more["In this scan"] = _cell(many if total is None else f"{many}, {total / 1000:.3g} ml in all")
    if voxels is not None:
        more["Voxels"] = voxels
    column |= {"facts": facts, "more": more}
    if tumor is not None:
        column |= _pictures(tumor, extent_mm, margin_mm, n_pixels, n_bytes)
    return column


def aspects_of(row, weights=None):
    """Return of each aspect its name, share of random pairs (%) that are farther, distance, and whether used.

    `weights` are those of the answer's distance, empty for the plain one, which has no size; None: not known.
    The four and those of `weights` are kept, all others only without any. What is missing is None.
    """
    names = [str(name).removeprefix("closer_than_") for name in row.keys() if "closer_than_" in str(name)]
    names = [*(n for n in FIRST if n in names), *(n for n in names if n not in FIRST)]
    names = [name for name in names if name in (*FIRST, *(weights or ()))] or names
    used = weights or {name: weights is None or name != "size" for name in names}
    found = []
    for name in names:
        share, distance = row.get(f"closer_than_{name}"), row.get(f"distance_{name}")
        known = {"share": None if is_missing(share) else round(100 * share)}
        known |= {"distance": None if is_missing(distance) else float(distance)}
        found.append({"name": name, "used": bool(used.get(name))} | known)
    return found


def picture_extent(tumors, margin_mm):
    """Return the edge (mm) of squares around the boxes' middles that hold box and margin; inf: all."""
    if np.isfinite(margin_mm):
        return common_extent(tumors, margin_mm=margin_mm)
    middles = [(tumor.case, tumor.bbox.mean(axis=0)) for tumor in tumors]
    halves = [(np.maximum(middle, case.shape - middle) * case.spacing).max() for case, middle in middles]
    return float(np.ceil(2 * max(halves)))


def labels_of(row):
    """Return task → label of a table's row; None where it is missing."""
    return {task: shown_text(row[name]) for name, task in label_columns(row.keys()).items()}


def shown_text(value):
    """Return a table's value as text, or None where it is missing."""
    if is_missing(value) or value == "":
        return None
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _cell(text, note="", warning=""):
    """Return one cell; missing text is said to be so."""
    return {"text": text, "note": note, "warning": warning, "line": ""}


def course_cell(course):
    """Return the cell of a lesion's volumes over time, rows of `answers.courses`, with a line from 0 up."""
    times = course["time"]
    if not pd.api.types.is_numeric_dtype(times):
        times = pd.to_datetime(times, errors="coerce", format="ISO8601")
    x = times.to_numpy().astype(float) if times.notna().all() else np.arange(float(len(course)))
    y = course["volume_mm3"].to_numpy(dtype=float)
    points = zip(2 + 96 * (x - x[0]) / max(x[-1] - x[0], 1e-9), 22 - 20 * y / y.max(), strict=True)
    return _cell(describe_course(course)) | {"line": " ".join(f"{a:.1f},{b:.1f}" for a, b in points)}


def _geometry(tumor):
    """Return cells of the box's sides and of voxels, right-left first, with a warning on thick slices."""
    case = tumor.case
    spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
    sides = np.diff(ras_box(tumor.bbox, case.shape, case.affine), axis=0)[0] * spacing
    thick = f"⚠ thick slices, {spacing.max():.2g} mm: uncertain" if spacing.max() > THICK_SLICE_MM else ""
    voxels = _cell(" × ".join(f"{s:.2g}" for s in spacing) + " mm", warning=thick)
    return _cell(" × ".join(f"{side:.0f}" for side in sides) + " mm"), voxels


def _pictures(tumor, extent_mm, margin_mm, n_pixels, n_bytes):
    """Return the still planes of a tumor and its voxels; none if its scan cannot be read."""
    near = try_surroundings(tumor, margin_mm)
    if near is None:
        return {}
    pictures = [picture.parts() for picture in near.slices(extent_mm, n_pixels).values()]
    voxels = None if n_bytes is None else encode_voxels(near, extent_mm, n_bytes)
    return {"pictures": pictures, "voxels": voxels}
