"""T1c scans of a folder, each with the SEG and RTSTRUCT drawn on it; what is left out, and why."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tumorsim._validation import check_pattern
from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._folder import Series, read_folder
from tumorsim.io.dicom._masks import is_tumor, read_regions
from tumorsim.io.dicom._volume import load_volume, stack

__all__ = ["Scan", "find_scan", "find_scans", "load_mask", "modality_of", "read_series", "t1c_objection"]

_NOT_ANATOMY = re.compile(
    r"local|scout|survey|\bloc\b|3.?plane|\bmip\b|projection|subtract|\bsub\b|screen.?save|\bphase\b"
    r"|b0.?map|field.?map|calib|\basl\b|cest|mra\b|angio|\btof\b|\bswi\b|\bswan\b|venogra|\bmrv\b|perfus"
    r"|\bdsc\b|\bdce\b|twist|tricks|\bdwi\b|\bdti\b|\badc\b|trace|diffus|\bfa\b|spectro|\bmrs\b|bold|fmri"
    r"|t1.?map|\bktrans\b|\bcbv\b|\bcbf\b"
)
_OTHER_WEIGHT = re.compile(r"\bt2|\bpd\b|flair|\bciss\b|fiesta|\bstir\b|\bdir\b|haste|drive\b")
_T1 = re.compile(r"\bt1|mp.?rage|bravo|f?spgr|\btfe\b|\bvibe\b|\btfl|\bflash|thrive")
_CONTRAST = re.compile(
    r"\bgd|\bgad|gado|\+ ?c\b|\bc ?\+|\+ ?gd|\bpost(?!er)|\bkm\b|\bce\b|contrast|\bt1w? c\b|\bw ?c\b|enhanc"
)
_WITHOUT = re.compile(
    r"\bpre\b|pre.?(con|gad|gd|km)|non.?con|no.?con|without|(?<!w )\bw ?o\b|\bohne\b|\bnative?\b"
    r"|unenhanced|\bplain\b"
)
_MODALITIES = {"CR", "CT", "DX", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RTDOSE", "RTIMAGE"}
_MODALITIES |= {"RTPLAN", "RTSTRUCT", "SC", "SEG", "SR", "US", "XA"}
_NO_IMAGE_TYPES = {"LOCALIZER", "ADC", "SUBTRACTION", "MIP", "PROJECTION IMAGE", "PHASE MAP", "P", "ANGIO"}
_NO_AGENT = {"", "no", "none", "n", "nein", "0", "no contrast", "n a"}


@dataclass(slots=True)
class Scan:
    """A T1c series whose slices make a volume: sorted ``frames``, ``shape``, ``affine``; and its masks."""

    series: Series
    frames: list
    shape: tuple
    affine: np.ndarray
    masks: list = field(default_factory=list)

    def load_image(self):
        """Return the voxels (nx, ny, nz); ``DicomError`` if pixels cannot be decoded."""
        return load_volume(self.frames)


def find_scans(folder, pattern=None, *, progress=False):
    """Find the T1c scans of a folder of mixed DICOM; voxels are not read.

    Parameters
    ----------
    folder : str or Path
    pattern : str, optional
        As in `t1c_objection`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    scans : list of Scan
    skipped : list of (Series, str)
        What is no such scan, and no mask of one, with the reason.
    damaged : list of (str, str)
        Path relative to `folder`, and reason, of files that cannot be used.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DicomError
        If pydicom is not installed, or there is no DICOM file.
    """
    found, damaged = read_folder(folder, progress=progress)
    scans, skipped = [], []
    masks = [series for series in found if series.kind in ("seg", "rtstruct")]
    for series in found:
        damaged += series.problems
        if series.kind in ("seg", "rtstruct"):
            continue
        reason = "no image" if series.kind == "other" else t1c_objection(series, pattern)
        try:
            if reason:
                raise DicomError(reason)
            if series.problems:
                n_files = f"{len(series.problems)} of its {len(series.files)} files"
                raise DicomError(f"{n_files} cannot be used: {series.problems[0][1]}")
            if len(series.spaces) > 1:
                raise DicomError("Mixed geometry: the slices differ in their frame of reference.")
            scans.append(Scan(series, *stack(series.frames)))
        except DicomError as err:
            skipped.append((series, str(err)))
    for series in masks:
        owners = [s for s in scans if s.series.uid in series.references]
        if not series.references - {""}:  # some writers name the coordinates only
            spaces = series.spaces - {""}
            owners = [s for s in scans if s.series.spaces & spaces and s.series.patient == series.patient]
            owners = owners if len(owners) == 1 else []
        for scan in owners:
            scan.masks.append(series)
        if not owners:
            skipped.append((series, "the series that it was drawn on is no T1c scan of this folder"))
    return scans, skipped, damaged


def find_scan(folder, pattern=None):
    """Return the one T1c scan of a folder; of several, the one with a SEG or RTSTRUCT.

    Raises
    ------
    FileNotFoundError, DicomError
        As `find_scans`; and if there is no T1c scan, or no telling which.
    """
    scans, skipped, damaged = find_scans(folder, pattern)
    if not scans:
        reasons = sorted({reason for _, reason in [*skipped, *damaged]})
        raise DicomError(
            f"'{folder}' holds no contrast-enhanced T1 series that can be used. "
            f"Got: {'; '.join(reasons) or 'no series'}. Name the series with a pattern (--series)."
        )
    chosen = [scan for scan in scans if scan.masks] or scans
    if len(chosen) > 1:
        listed = "; ".join(
            f"{Path(s.series.files[0]).parent.name}: {' x '.join(map(str, s.shape))} voxels" for s in chosen
        )
        raise DicomError(
            f"'{folder}' must hold one contrast-enhanced T1 series. Got {len(chosen)} ({listed}). "
            "Give a series' own folder, or name it with a pattern (--series)."
        )
    return chosen[0]


def read_series(folder):
    """Return voxels (columns, rows, slices) and RAS+ affine of a folder's one image series, of any contrast.

    Raises
    ------
    FileNotFoundError, DicomError
        As `find_scans`; and if there is not one image series, or its slices make no volume.
    """
    found, damaged = read_folder(folder)
    found = [series for series in found if series.kind == "image"]
    damaged += [problem for series in found for problem in series.problems]
    if damaged:
        raise DicomError(f"'{damaged[0][0]}' in '{folder}' cannot be used: {damaged[0][1]}")
    if len(found) != 1:
        raise DicomError(f"'{folder}' must hold one image series. Got {len(found)}.")
    frames, _, affine = stack(found[0].frames)
    return load_volume(frames), affine


def load_mask(scan, include=None, exclude=None):
    """Draw the tumors of a scan's SEG and RTSTRUCT.

    Parameters
    ----------
    scan : Scan
    include, exclude : str, optional
        As in `is_tumor`.

    Returns
    -------
    mask : ndarray of shape (nx, ny, nz), dtype=uint8 or uint16, or None
        0 background, then a value for each tumor in the order of its number in its file; where two overlap
        the smaller one keeps its voxels. None where there is no tumor.

    Raises
    ------
    DicomError
        If a file is damaged, or does not fit onto the scan.
    """
    tumors = []
    for series in scan.masks:
        if series.problems:
            raise DicomError(f"A file of its {series.kind.upper()} cannot be used: {series.problems[0][1]}")
        for path in sorted(series.files):
            for region in read_regions(path, series.kind):
                if is_tumor(region, include, exclude):
                    tumors.append(np.flatnonzero(region.draw(scan.shape, scan.affine)))
    tumors = [voxels for voxels in tumors if voxels.size]
    if not tumors:
        return None
    mask = np.zeros(scan.shape, np.uint8 if len(tumors) < 256 else np.uint16)
    for i in sorted(range(len(tumors)), key=lambda i: -tumors[i].size):
        mask.ravel()[tumors[i]] = i + 1
    return mask


def t1c_objection(series, pattern=None):
    """Say why a series is not taken as contrast-enhanced T1, quoting no tag of it; None where it is taken.

    It is T1c if it is an MR image, primary or reformatted, whose name (description, protocol, sequence) or
    whose echo and repetition time say T1, and whose ContrastBolusAgent or name says contrast. Names that say
    another weighting, a localizer, a map or a difference speak against it; "pre" in a name outvotes an agent,
    which scanners write into every series of an examination.

    Parameters
    ----------
    series : Series
    pattern : str, optional
        Regular expression, upper and lower case alike: an MR series is taken if it is found in its
        SeriesDescription, ProtocolName or SeriesInstanceUID, and the other tags do not matter.
    """
    about = series.about
    if about["Modality"] != "MR":
        return f"modality {modality_of(series)}, not MR"
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
    if _OTHER_WEIGHT.search(names) and not re.search(r"\bt1", names):
        return "not T1, by its name"
    named_t1 = about["AcquisitionContrast"].upper() == "T1" or _T1.search(f"{names} {sequence}")
    if not named_t1 and not _t1_times(about):
        return "not T1, by name, echo and repetition time"
    if _WITHOUT.search(names):
        return "T1 without contrast, by its name"
    if _words(about["ContrastBolusAgent"]) in _NO_AGENT and not _CONTRAST.search(names):
        return "T1 without contrast: neither ContrastBolusAgent nor its name says any"
    return None


def _words(name):
    """Return a name in lower case with its punctuation, except '+', '*' as blanks, and 't1gd' as 't1 gd'."""
    name = re.sub(r"[^a-z0-9+*]+", " ", name.lower()).strip()
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
