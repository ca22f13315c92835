"""Which series is contrast-enhanced T1: a rule on tags, and a pattern that overrides it."""

import re

from tumorsim._validation import check_pattern

__all__ = ["modality_of", "t1c_objection"]

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


def t1c_objection(series, pattern=None):
    """Say why a series is not taken as contrast-enhanced T1, or return None where it is.

    Parameters
    ----------
    series : Series
    pattern : str, optional
        Regular expression, upper and lower case alike: an MR series is taken if it is found in its
        SeriesDescription, ProtocolName or SeriesInstanceUID, and the tags below do not matter.

    Returns
    -------
    str or None
        The reason; it quotes no tag, since descriptions are free text.

    Notes
    -----
    Without a pattern, a series is T1c if it is an MR image, primary or reformatted, whose name (description,
    protocol, sequence) or whose echo and repetition time say T1, and whose ContrastBolusAgent or name
    says contrast. Names that say another weighting, a localizer, a map or a difference speak against it;
    "pre" in a name outvotes an agent, which scanners write into every series of an examination.
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
