"""T1c scans of a folder, each with the SEG and RTSTRUCT drawn on it; what is left out, and why."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tumorsim._validation import check_pattern, counted
from tumorsim.exceptions import DicomError
from tumorsim.io import content_key
from tumorsim.io.dicom._folder import Series, read_folder
from tumorsim.io.dicom._masks import is_tumor, read_regions, speaks_of
from tumorsim.io.dicom._open import items, open_dicom, reading, text
from tumorsim.io.dicom._volume import assemble, load_volume

_NOT_ANATOMY = re.compile(
    r"local|scout|survey|\bloc\b|3.?plane|\bmip\b|projection|subtract|\bsub\b|screen.?save|\bphase\b"
    r"|b0.?map|field.?map|calib|\basl\b|cest|mra\b|angio|\btof\b|\bswi\b|\bswan\b|venogra|\bmrv\b|perfus"
    r"|\bdsc\b|\bdce\b|twist|tricks|\bdwi\b|\bdti\b|\badc\b|trace|diffus|\bfa\b|spectro|\bmrs\b|bold|fmri"
    r"|t1.?map|\bktrans\b|\bcbv\b|\bcbf\b"
)
_OTHER_WEIGHT = re.compile(
    r"\bt2|\bpd\b|flair|\bciss\b|fiesta|\bstir\b|\bdir\b|haste|drive\b"
    r"|\bci3d|\btfi[23]d|trufi|true ?fisp|\bb ?[ft]fe\b|ssfp"
)
_T1 = re.compile(r"\bt1|mp.?rage|bravo|f?spgr|\btfe\b|\bvibe\b|\btfl|\bflash|thrive")
_CONTRAST = re.compile(
    r"\bgd|\bgad|gado|\+ ?c\b|\bc ?\+|\+ ?gd|\bpost(?!er)|\bkm\b|\bce\b|contrast|\bt1w? c\b|\bw ?c\b|enhanc"
)
_WITHOUT = re.compile(
    r"\bpre\b|pre.?(con|gad|gd|km)|non.?con|no.?con|without|(?<!w )\bw ?o\b|\bohne\b|\bnative?\b"
    r"|unenhanced|\bplain\b"
)
_MODALITIES = set(
    "CR CT DOC DX ECG ES FID KO M3D MG MR NM OP OT PLAN PR PT REG RF RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT "
    "RWV SC SEG SM SR US XA XC".split()
)
_NO_IMAGE_TYPES = {"LOCALIZER", "ADC", "SUBTRACTION", "MIP", "PROJECTION IMAGE", "PHASE MAP", "P", "ANGIO"}
_NO_AGENT = {"", "no", "none", "n", "nein", "0", "no contrast", "n a"}
_NOT_STATED = "T1 without contrast: neither ContrastBolusAgent nor its name says any"
_POINTERS = (  # sequences on the way to the slices that a SEG or RTSTRUCT names
    "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence "
    "ContourImageSequence ROIContourSequence ContourSequence ReferencedSeriesSequence SourceImageSequence "
    "ReferencedInstanceSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "DerivationImageSequence"
).split()


@dataclass(slots=True)
class Scan:
    """A T1c series whose slices make a volume: sorted ``frames``, ``shape``, ``affine``; and its masks.

    ``notes`` say what was left out or taken on trust.
    """

    series: Series
    frames: list
    shape: tuple
    affine: np.ndarray
    notes: list = field(default_factory=list)
    masks: list = field(default_factory=list)

    def load_image(self):
        """Return the voxels (nx, ny, nz); ``DicomError`` if pixels cannot be decoded."""
        return load_volume(self.frames)


def find_scans(folder, pattern=None, *, by_slice_location=False, progress=False):
    """Find the T1c scans of a folder of mixed DICOM; voxels are not read.

    A SEG or RTSTRUCT belongs to the series that it refers to, else to that whose slices it names, else to the
    one with its frame of reference and patient. Where that is a T1 that states no contrast it is taken too.
    `pattern` is that of `t1c_objection`; `by_slice_location` places slices that all have one position.
    Returns a list of Scan; what is no such scan and no mask of one, (Series, reason); and files that cannot
    be used, (path relative to `folder`, reason). FileNotFoundError or DicomError says that there is no folder
    or no DICOM in it.
    """
    found, damaged = read_folder(folder, progress=progress)
    scans, unstated, skipped = [], [], []
    masks = [series for series in found if series.kind in ("seg", "rtstruct")]
    for series in [series for series in found if series.kind not in ("seg", "rtstruct")]:
        reason, bad = t1c_objection(series, pattern), series.problems
        lost = f"{len(bad)} of its {len(series.files)} files cannot be used: {bad[0][1]}" if bad else ""
        try:
            if reason not in (None, _NOT_STATED):
                raise DicomError(reason)
            damaged += bad
            # What has no place or size is no slice; whether one is lost, the distances of the others tell
            if 3 * len(bad) > len(series.frames) or not all(why.endswith(" is missing.") for _, why in bad):
                raise DicomError(lost)
            scan = Scan(series, *assemble(series.frames, by_slice_location=by_slice_location))
            scan.notes += [lost] if lost else []
            (scans if reason is None else unstated).append(scan)
        except DicomError as err:
            why = lost or err.reason
            skipped.append((series, {None: why, _NOT_STATED: f"{reason}; and {why}"}.get(reason, reason)))
    for series in masks:
        damaged += series.problems
        try:
            for scan in _owners(series, scans, unstated):
                scan.masks.append(series)
        except DicomError as err:
            skipped.append((series, err.reason))
    for scan in unstated:
        if scan.masks:
            scan.notes.append("contrast was not stated; taken for its SEG or RTSTRUCT")
            scans.append(scan)
        else:
            skipped.append((scan.series, _NOT_STATED))
    known = {id(one) for scan in scans for one in scan.masks} | {id(one) for one, _ in skipped}
    none = "the series that it was drawn on is no T1c scan of this folder"
    skipped += [(one, none) for one in masks if id(one) not in known]
    return scans, skipped, damaged


def _owners(mask, stated, unstated):
    """Return those scans that a SEG or RTSTRUCT was drawn on, or that share its coordinates alone."""
    every = [*stated, *unstated]
    named = [s for s in every if s.series.uid in mask.references]
    if named or not every:
        return named
    slices = set()
    for path in mask.files:
        with reading("The file", path):
            slices |= _slices_of(open_dicom(path, "The file") or {})
    named = [s for s in every if any(f.uid in slices for f in s.frames)]
    spaces = mask.spaces - {""}
    for scans in (stated, unstated):
        near = [s for s in scans if s.series.spaces & spaces and s.series.patient == mask.patient]
        if named or len(near) == 1:
            return named or near
        if near:
            what = f"{len(near)} T1 scans share its frame of reference, and it names slices of none of them"
            rule = "it is ambiguous which one it was drawn for. Name that series with a pattern (--series)."
            raise DicomError(f"{what}: {rule}")
    return []


def _slices_of(dataset):
    """Return the SOPInstanceUIDs that a SEG or RTSTRUCT, or an item of it, refers to."""
    found = {text(dataset, "ReferencedSOPInstanceUID")} - {""}
    for keyword in _POINTERS:
        for item in items(dataset, keyword):
            found |= _slices_of(item)
    return found


def find_scan(folder, pattern=None):
    """Return the one T1c scan of a folder; of several, the one with a mask. A note tells of bad files."""
    scans, skipped, damaged = find_scans(folder, pattern)
    if not scans:
        reasons = sorted({reason for _, reason in skipped} | {f"'{where}': {why}" for where, why in damaged})
        rule = f"'{folder}' holds no contrast-enhanced T1 series that can be used."
        got = f"Got: {'; '.join(reasons) or 'no series'}. Name the series with a pattern (--series)."
        raise DicomError(f"{rule} {got}")
    chosen = [scan for scan in scans if scan.masks] or scans
    if len(chosen) > 1:
        sizes = [(Path(s.series.files[0]).parent.name, " x ".join(map(str, s.shape))) for s in chosen]
        listed = "; ".join(f"{name}: {size} voxels" for name, size in sizes)
        rule = f"'{folder}' must hold one contrast-enhanced T1 series. Got {len(chosen)} ({listed})."
        raise DicomError(f"{rule} Give a series' own folder, or name it with a pattern (--series).")
    others = [problem for problem in damaged if problem not in chosen[0].series.problems]
    for where, reason in others[:1]:
        more = f", and {counted(len(others) - 1, 'more file')}" if others[1:] else ""
        chosen[0].notes.append(f"'{where}'{more} cannot be used: {reason}")
    return chosen[0]


def read_series(folder):
    """Return voxels (columns, rows, slices) and RAS+ affine of a folder's one MR series, of any contrast."""
    found, damaged = read_folder(folder)
    found = [series for series in found if series.kind == "image"]
    damaged += [problem for series in found for problem in series.problems]
    if damaged:
        raise DicomError(f"'{damaged[0][0]}' in '{folder}' cannot be used: {damaged[0][1]}")
    if len(found) != 1:
        raise DicomError(f"'{folder}' must hold one image series. Got {len(found)}.")
    frames, _, affine, _ = assemble(found[0].frames)
    return load_volume(frames), affine


def draw_tumors(scan, include=None, exclude=None):
    """Draw the tumors (as `is_tumor` tells) of a scan's SEG and RTSTRUCT; one that fails costs only itself.

    Returns a mask (nx, ny, nz), uint8 or uint16, or None without tumors: 0 background, then a value for each,
    in the order of files, newer first, and of numbers; where two overlap the smaller one keeps its voxels.
    Then the Regions of the values 1, 2, …, and notes, without names, on what was left out or taken on trust.
    DicomError: a file is damaged, or no tumor of it fits onto the scan.
    """
    drawn, given, notes, failed, seen, unknown = [], [], list(scan.notes), [], set(), 0
    for series in scan.masks:
        own = scan.series.uid in series.references
        if not own and series.references - {""}:
            notes.append(f"its {series.kind.upper()} was drawn on another series of the same coordinates")
        for path in sorted(series.files):
            if content_key(path) in seen:
                notes.append(f"a {series.kind.upper()} that is there twice counts once")
                continue
            seen.add(content_key(path))
            given += [(region, own) for region in read_regions(path, series.kind)]
    for region, own in sorted(given, key=lambda one: one[0].made, reverse=True):
        if not is_tumor(region, include, exclude):
            tumor, other = speaks_of(region) if include is None is exclude else (False, True)
            unknown += not other
            notes += [f"region {region.number} left out: a tumor's margin, bed or such (see --roi)"] * tumor
        else:
            try:
                mask = region.draw(scan.shape, scan.affine, notes, resample=not own)
            except DicomError as err:
                failed.append(err)
                notes.append(f"region {region.number} left out: {err.reason}")
                continue
            voxels = np.flatnonzero(mask)
            later = [(r, held) for r, held in drawn if r.name == region.name and r.made > region.made]
            newer = [r for r, held in later if np.isin(voxels, held).any()]  # two revisions of one drawing
            if newer:
                why = "newer" if newer[0].made[0] > region.made[0] else "of the same date"
                notes.append(f"region {region.number} left out: another file, {why}, has it")
            elif voxels.size:
                drawn.append((region, voxels))
    if unknown:
        notes.append(f"{counted(unknown, 'region')} left out whose name says nothing of a tumor (see --roi)")
    if failed and not drawn:
        raise failed[0]
    if not drawn:
        return None, [], notes
    mask = np.zeros(scan.shape, np.uint8 if len(drawn) < 256 else np.uint16)
    for i in sorted(range(len(drawn)), key=lambda i: -drawn[i][1].size):
        mask.ravel()[drawn[i][1]] = i + 1
    return mask, [region for region, _ in drawn], notes


def t1c_objection(series, pattern=None):
    """Say why a series is not taken as contrast-enhanced T1, quoting no tag of it; None where it is taken.

    It is T1c if it is an MR image whose name or echo and repetition time say T1, and whose ContrastBolusAgent
    or name says contrast; "pre" in a name outvotes an agent, which scanners write into every series. A
    `pattern` found in SeriesDescription, ProtocolName or SeriesInstanceUID replaces this for MR series.
    """
    about = series.about
    if about["Modality"] != "MR":
        return f"modality {modality_of(series)}, not MR"
    if series.kind != "image":
        return f"{series.kind}, no MR image"
    if about["BurnedInAnnotation"].upper() == "YES":
        return "text is burned into its pixels, which may name the patient"
    colors = about["PhotometricInterpretation"]
    if about["SamplesPerPixel"] not in ("", "1") or colors not in ("", "MONOCHROME2"):
        return "no gray values (a color or inverted picture)"
    if pattern is not None:
        found = check_pattern(pattern, "series")
        names = (about["SeriesDescription"], about["ProtocolName"], series.uid)
        return None if any(found.search(name) for name in names) else "does not match the pattern given"
    kinds = {part.strip().upper() for part in about["ImageType"].split("\\")}
    names = _words(about["SeriesDescription"]) or _words(about["ProtocolName"])
    sequence = _words(f"{about['ProtocolName']} {about['SequenceName']}")
    if kinds & _NO_IMAGE_TYPES:
        return "a localizer, map, difference or projection, by ImageType"
    if _NOT_ANATOMY.search(names):
        return "a localizer, map, angiogram or difference, by its name"
    if _OTHER_WEIGHT.search(f"{names} {_words(about['SequenceName'])}") and not re.search(r"\bt1", names):
        return "not T1, by its name"
    named_t1 = about["AcquisitionContrast"].upper() == "T1" or _T1.search(f"{names} {sequence}")
    if not named_t1 and not _t1_times(about):
        return "not T1, by name, echo and repetition time"
    if _WITHOUT.search(names):
        return "T1 without contrast, by its name"
    if _words(about["ContrastBolusAgent"]) in _NO_AGENT and not _CONTRAST.search(names):
        return _NOT_STATED
    return None


def _words(name):
    """Return a name in lower case with its punctuation, except '+', '*' as blanks, and 't1gd' as 't1 gd'."""
    name = re.sub(r"[^a-z0-9+*]+", " ", name.lower()).strip()
    name = re.sub(r"\bs(t[12]w)", r"\1", name)  # as one vendor calls spoiled ones
    return re.sub(r"\b(t1w?)(?=[a-z+])", r"\1 ", name)


def _t1_times(about):
    """Tell from milliseconds whether a spin or gradient echo weights T1."""
    try:
        echo, repetition = float(about["EchoTime"]), float(about["RepetitionTime"])
        inversion = float(about["InversionTime"] or 0)
    except ValueError:
        return False
    if inversion > 1500 or echo <= 0:  # FLAIR
        return False
    return (echo <= 20 and repetition <= 1000) or (echo <= 10 and 200 <= inversion <= 1300)


def modality_of(series):
    """Return a series' modality where it is a code of the standard's, so that no free text passes."""
    modality = series.about["Modality"]
    return modality if modality in _MODALITIES else "unknown"
