"""What is wrong with an archive: one table of findings, each with severity and remedy."""

import difflib
import hashlib
import re
from collections import Counter

import numpy as np
import pandas as pd
from tqdm import tqdm

from tumorsim._validation import check_real
from tumorsim.exceptions import BoxError, GeometryError, GridMismatchError
from tumorsim.geometry import crop_slices, ras_affine, spacing_from_affine, to_ras
from tumorsim.io import ORIENTATION_REMEDY, ORIENTATION_UNKNOWN
from tumorsim.manifest import read_manifest
from tumorsim.preprocessing import head_level
from tumorsim.records import group_by_case

__all__ = ["SEVERITIES", "check_archive", "exit_code"]

SEVERITIES = ("error", "warning", "note")
COLUMNS = ("severity", "check", "line", "patient_id", "case_id", "tumor_id", "problem", "remedy")

_MIDLINE_MM = 10.0  # a tumor nearer to the middle of the head may be called left or right
_AIR_SHARE = 0.5  # of a lesion's voxels in air: more is a mask that does not fit
_HEAD_SHARE = 0.25  # of the head in one lesion: more is a mask of something else
_FIELD_MM = (90.0, 400.0)  # longest side of a scan of a head
_COARSE_MM = 12.0  # thickest slices that any protocol has
_BLOCK = 2**20  # voxels at a time
_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
_KNOWN = frozenset(
    "metastasis meningioma schwannoma glioma pituitaryadenoma left right front rear upper lower frontal "
    "parietal temporal occipital insula cingulate deepgray cerebellum brainstem cerebellopontineangle "
    "sellar".split()
)

_UNKNOWN = r"(?i)none|anon\w*|unknown|unk|unclear|unbekannt|unklar|n\.a\.|k\.a\.|missing|[-–—?./]+"

_ROWS = (  # the first that fits an error
    (FileNotFoundError, "file missing", "Correct the path, or leave the row out."),
    (GridMismatchError, "grids differ", "Resample the mask onto the image by nearest neighbor."),
    (BoxError, "row unusable", "Correct the row."),
    (GeometryError, "unreadable", "Copy or export the file anew, or leave the row out."),
    (Exception, "row unusable", "Correct the row."),
)


def check_archive(path, *, min_volume_mm3=14.0, max_volume_mm3=200_000.0, progress=False):
    """Look through an archive for data that would spoil training and retrieval.

    Parameters
    ----------
    path : str or Path
        A manifest with one row per tumor, as of `load_cohort`. Every scan is read, one at a time.
    min_volume_mm3, max_volume_mm3 : float, default=14 and 200 000
        Lesions beyond these are reported; 14 is a ball of 3 mm, 200 000 (200 ml) one of 73 mm.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row per finding, worst first: ``severity`` (error: breaks or falsifies results; warning: look at
        it; note: know it), ``check`` (see ``docs/check.md``), ``line`` of the manifest (0: a whole column),
        ``patient_id``, ``case_id``, ``tumor_id``, ``problem``, ``remedy``. Empty where nothing is wrong.

    Raises
    ------
    FileNotFoundError, ManifestError
        If there is no manifest, or it is none.

    See Also
    --------
    tumorsim.Cohort.check : Raises for scans that cannot be used, instead of a table.
    """
    least = check_real(min_volume_mm3, "min_volume_mm3", minimum=0)
    most = check_real(max_volume_mm3, "max_volume_mm3", minimum=least, exclusive=True)
    cohort, problems, lines = read_manifest(path)
    findings, digests = [], {}
    for line, err in problems.errors.items():
        check, remedy = next(found for kind, *found in _ROWS if isinstance(err, kind))
        ids = {name: problems.rows[line].get(name) for name in ("patient_id", "case_id", "tumor_id")}
        findings.append(_finding("error", check, (None, line), problems.reasons[line], remedy) | ids)
    for kind, line, problem, remedy in problems.remarks:
        findings.append(_finding("warning", kind, (None, line), problem, remedy))
    groups, hidden = group_by_case(cohort), None if progress else True
    for rows in tqdm(groups, "checking scans", disable=hidden, leave=False):
        findings += _of_scan([(cohort[row], lines[row]) for row in rows], least, most, digests)
    findings += _duplicates(digests)
    findings += _of_columns(cohort, lines)
    findings.sort(key=lambda one: (SEVERITIES.index(one["severity"]), one["line"], one["check"]))
    return pd.DataFrame(findings, columns=list(COLUMNS))


def exit_code(findings):
    """Return 2 where `findings` of `check_archive` hold an error, 1 where a warning is the worst, else 0."""
    worst = set(findings["severity"])
    return 2 if "error" in worst else 1 if "warning" in worst else 0


def _finding(severity, check, where, problem, remedy):
    """Return a finding; `where` is (Tumor or None, line), or (Tumor, line, True) for the whole scan."""
    tumor, line, *scan = where
    ids = {"patient_id": "", "case_id": "", "tumor_id": ""}
    if tumor is not None:
        ids = {"patient_id": tumor.patient_id, "case_id": tumor.case.case_id}
        ids["tumor_id"] = "" if scan else tumor.tumor_id
    return dict(zip(COLUMNS, (severity, check, line, *ids.values(), problem, remedy), strict=True))


def _of_scan(tumors, least, most, digests):
    """Yield the findings of one scan's `tumors` (Tumor, line), and add its voxels to `digests`."""
    first, line = tumors[0]
    case, scan = first.case, (first, line, True)
    yield from _of_spacing(case.shape, case.affine, scan)
    try:
        image = case.load_image()
    except (OSError, ValueError) as err:
        yield _finding("error", "unreadable", scan, str(err), "Copy or export the image anew.")
        return
    if not case.states_orientation:
        problem = f"The file {ORIENTATION_UNKNOWN}."
        yield _finding("warning", "orientation unknown", scan, problem, ORIENTATION_REMEDY)
    low, high = float(image.min()), float(image.max())
    if low == high or np.count_nonzero(image != image.flat[0]) < 1e-4 * image.size:
        problem = f"All voxels but a few have one intensity, {image.flat[0]:g}."
        yield _finding("error", "constant image", scan, problem, "Export the image anew.")
        return
    share = np.mean(image == low) if low < 0 else 0.0
    if share > 1e-3 and float(image[image > low].min()) - low > 0.1 * (high - low):
        problem = f"{share:.1%} of the voxels are {low:g}, far below all others: is it padding?"
        yield _finding("warning", "padding", scan, problem, "Write the background's value there.")
    digests.setdefault(_digest(image), []).append(scan)
    head = image > head_level(image)[1]
    try:
        mask = case.load_mask()
        for tumor, at in tumors:
            yield from _of_lesion(tumor, at, mask, head, least, most)
    except (OSError, ValueError) as err:
        yield _finding("error", "mask unusable", scan, str(err), "Export or draw the mask anew.")


def _of_spacing(shape, affine, scan):
    """Yield a finding where voxel sizes do not look like a head's scan."""
    spacing = spacing_from_affine(affine)
    sides = spacing * shape
    size = " x ".join(f"{s:.3g}" for s in spacing)
    extent = " x ".join(f"{s:.0f}" for s in sides)
    remedy = "Look up voxel size and slice distance at the source, and write the file with them."
    if np.allclose(spacing, 1, atol=1e-3) and min(shape) < 0.4 * max(shape):
        problem = f"Voxels of exactly 1 mm in a scan of {' x '.join(map(str, shape))} voxels: a lost header?"
    elif sides.max() < _FIELD_MM[0] or sides.max() > _FIELD_MM[1] or spacing.max() > _COARSE_MM:
        problem = f"Voxels of {size} mm make a scan of {extent} mm, which is no head's."
    else:
        return
    yield _finding("warning", "suspect spacing", scan, problem, remedy)


def _of_lesion(tumor, line, mask, head, least, most):
    """Yield the findings of one lesion; `head` is bool (nx, ny, nz), `mask` the case's or None."""
    where = tumor, line
    spacing, affine = tumor.case.spacing, tumor.case.affine
    if mask is None:
        center = (tumor.bbox.sum(axis=0) - 1) / 2
        volume = float(np.pi / 6 * ((tumor.bbox[1] - tumor.bbox[0]) * spacing).prod())
    else:
        inside = tumor.select(mask)
        if not inside.any():
            problem = f"The mask has no voxel of value {tumor.mask_value} in the tumor's box."
            yield _finding("error", "empty lesion", where, problem, "Correct mask_value or box.")
            return
        center = tumor.bbox[0] + np.argwhere(inside).mean(axis=0)
        volume = float(inside.sum() * spacing.prod())
        air = 1 - float(head[crop_slices(tumor.bbox)][inside].mean())
        if air > _AIR_SHARE:
            problem = f"{air:.0%} of the lesion's voxels lie outside the head."
            remedy = "Look at image and mask together: one may be mirrored or shifted."
            yield _finding("warning", "lesion in air", where, problem, remedy)
    share = volume / max(float(head.sum() * spacing.prod()), 1e-6)
    if volume < least * (1 - 1e-6):
        problem, remedy = f"The lesion has {volume:.1f} mm3.", "Look whether it is a stray voxel."
        yield _finding("warning", "tiny lesion", where, problem, remedy)
    elif volume > most or share > _HEAD_SHARE:
        problem = f"The lesion has {volume / 1000:.0f} ml, {share:.0%} of what the scan shows of the head."
        remedy = "Look whether mask_value takes in edema or brain, or the box is too large."
        yield _finding("warning", "huge lesion", where, problem, remedy)
    side = _SIDES.get(str(tumor.labels.get("hemisphere") or "").strip().lower())
    x = float(affine[0] @ [*center, 1]) - _middle(head, affine)
    if side and tumor.case.states_orientation and abs(x) > _MIDLINE_MM and (x < 0) != (side == "left"):
        other = "left" if x < 0 else "right"
        problem = f"The label says {side}; by the affine the tumor lies {abs(x):.0f} mm to the {other}."
        remedy = "Find out which is wrong: an exchanged label, or a header that mirrors the scan."
        yield _finding("error", "side conflict", where, problem, remedy)


def _middle(head, affine):
    """Return x in RAS+ mm of the middle of the head's extent from left to right."""
    planes = to_ras(head, affine).mean(axis=(1, 2))
    inside = np.flatnonzero(planes > 0.1 * planes.max())  # a tenth: ignore noise
    shape, ras = ras_affine(head.shape, affine)
    return float(ras[0] @ [(inside[0] + inside[-1]) / 2, (shape[1] - 1) / 2, (shape[2] - 1) / 2, 1])


def _digest(image):
    """Return what equal voxels share, whatever their order, numeric type and zero padding."""
    values = np.sort(image[image != 0])
    digest = hashlib.blake2b()
    for start in range(0, len(values), _BLOCK):
        digest.update(values[start : start + _BLOCK].astype(np.float64))
    return digest.digest()


def _duplicates(digests):
    """Yield findings for scans of the same voxels; `digests` maps a digest to the scans that have it."""
    for scans in (scans for scans in digests.values() if len(scans) > 1):
        first = scans[0][0].case
        for tumor, line, _ in scans[1:]:
            one = f"case '{first.case_id}' of '{first.patient_id}' (line {scans[0][1]})"
            problem = f"The same voxels as {one}."
            severity, remedy = "error", "one person under two ids leaks from training to test."
            if tumor.case.patient_id == first.patient_id:
                severity, remedy = "warning", "it would find its own copy."
            remedy = f"Leave one of them out; {remedy}"
            yield _finding(severity, "duplicated voxels", (tumor, line, True), problem, remedy)


def _of_columns(cohort, lines):
    """Yield findings about columns: patients and labels not known, spellings, types by data set."""
    table = cohort.labels
    scans = Counter(patient for patient, _ in dict.fromkeys((c.patient_id, c.case_id) for c in cohort.cases))
    for patient in (one for one, n in scans.items() if n > 1 and re.fullmatch(_UNKNOWN, one)):
        line = (None, lines[list(cohort.patient_ids).index(patient)])
        problem = f"Patient '{patient}' has {scans[patient]} scans: one patient, or several of no name?"
        remedy = "Give each patient an id of their own: searches leave out the query's patient by it."
        yield _finding("warning", "patient ids", line, problem, remedy)
    for task in table.columns:
        values = table[task].dropna()
        for row, value in values[values.str.fullmatch(_UNKNOWN)].drop_duplicates().items():
            problem = f"label_{task} is '{value}': a value of its own, or is it not known?"
            remedy = "Leave the cell empty, if so."
            yield _finding("warning", "label unknown", (None, lines[row]), problem, remedy)
        counts = Counter(values)
        for rare, common in _variants(counts):
            row = int(values.index[values == rare][0])
            both = f"'{rare}' ({counts[rare]}) and '{common}' ({counts[common]})"
            problem = f"{both} look like one value of label_{task}."
            remedy = f"Write '{common}' everywhere, if they are."
            yield _finding("warning", "label spelling", (None, lines[row]), problem, remedy)
    if _type_is_dataset(cohort):
        problem = "Nearly all tumors of a data set are of one type: a network may learn the scanner only."
        remedy = "Report scores within a data set, and leave one data set out; see docs/public_sets.md."
        yield _finding("note", "type is data set", (None, 0), problem, remedy)


def _type_is_dataset(cohort):
    """Tell whether the column ``dataset`` determines the type of all but one tumor in twenty."""
    pairs = [(tumor.metadata.get("dataset"), tumor.labels.get("type")) for tumor in cohort]
    counts = pd.crosstab(*np.array([pair for pair in pairs if all(pair)], dtype=object).reshape(-1, 2).T)
    most = counts.idxmax(axis=1)  # data set → its most frequent type
    return most.nunique() > 1 and counts.max(axis=1).sum() >= 0.95 * counts.to_numpy().sum()


def _variants(counts):
    """Yield (rarer, more common) spellings of one value among the keys of `counts`."""
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    for i, rare in enumerate(ordered):
        for common in ordered[:i]:
            if _same_word(rare, common, counts[rare], counts[common]):
                yield rare, common
                break


def _same_word(rare, common, n_rare, n_common):
    """Tell whether two values differ by case, blanks and signs only, or, one being rare, by letters."""
    a, b = (re.sub(r"[\W_]+", "", value.casefold()) for value in (rare, common))
    if a == b:
        return True
    if a in _KNOWN or n_rare > max(1, 0.2 * n_common) or min(len(a), len(b)) < 6 or re.search(r"\d", a + b):
        return False
    if re.sub(r"[ivx]+$", "", a) == re.sub(r"[ivx]+$", "", b):  # stage II, stage III
        return False
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() >= 0.88
