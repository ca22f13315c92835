"""One door to pydicom: files opened quietly, values read with errors that quote nothing of the patient."""

import contextlib
import logging
import math
import warnings
from pathlib import Path

from tumorsim._validation import install_hint
from tumorsim.exceptions import DicomError

__all__ = ["numbers", "open_dicom", "quiet", "reading", "text"]

_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR, which only lists other files


@contextlib.contextmanager
def quiet():
    """Keep pydicom's warnings and log to itself: they quote values, which may be names."""
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


@contextlib.contextmanager
def reading(what):
    """Turn whatever a damaged file makes pydicom raise into a ``DicomError`` that says `what` failed."""
    try:
        with quiet():
            yield
    except DicomError:
        raise
    except OSError as err:
        raise DicomError(f"{what} cannot be read: {err.strerror or type(err).__name__}.") from err
    except Exception as err:  # pydicom and its decoders raise every kind; their text may quote the patient
        raise DicomError(
            f"{what} cannot be read ({type(err).__name__}): it is damaged or truncated."
        ) from err


def open_dicom(path, what, keywords=None, *, pixels=False):
    """Return the elements `keywords` of a DICOM file, or all, as a Dataset; None if it is no DICOM file.

    ``DicomError`` if it is DICOM, or claims to be, and `what` of it is damaged.
    """
    try:
        import pydicom
    except ImportError as err:
        raise DicomError(
            f"DICOM needs pydicom and highdicom, which are not installed. {install_hint('dicom')}"
        ) from err
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    tags = None if keywords is None else ["SOPClassUID", "SOPInstanceUID", *keywords]
    with reading(what), open(path, "rb") as file:
        start = file.read(132)
        # Old exports lack the preamble and begin with group 0008, little endian
        bare = start[:2] == b"\x08\x00" and start[128:] != b"DICM"
        if start[128:] != b"DICM" and not bare:
            if Path(path).suffix.lower() in (".dcm", ".dicom", ".ima"):
                raise DicomError(f"{what} is damaged: it is named as DICOM and has no preamble.")
            return None
        file.seek(0)
        dataset = pydicom.dcmread(file, force=bare, stop_before_pixels=not pixels, specific_tags=tags)
        if bare:
            implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            )
    if text(dataset.file_meta, "MediaStorageSOPClassUID") == _MEDIA_DIRECTORY:
        return None
    if not text(dataset, "SOPClassUID"):
        if bare:
            return None
        raise DicomError(f"{what} is damaged or truncated: it has no SOPClassUID.")
    return dataset


def text(dataset, keyword):
    """Return an element as text without blanks around it, values joined by a backslash; '' if missing."""
    with quiet():
        try:
            value = dataset.get(keyword)
        except Exception:  # a value that pydicom cannot convert; whoever needs it says so
            return ""
    if value is None:
        return ""
    many = not isinstance(value, str) and hasattr(value, "__iter__")
    return ("\\".join(str(v) for v in value) if many else str(value)).strip().strip("\0").strip()


def numbers(dataset, keyword, n, default=None):
    """Return an element as a tuple of `n` finite floats; ``DicomError`` if it is none, or missing."""
    with quiet():
        try:
            value = dataset.get(keyword)
            missing = value is None or value == ""
            values = () if missing else tuple(float(v) for v in (value if n > 1 else [value]))
        except Exception as err:
            raise DicomError(f"{keyword} cannot be read as {n} number{'s' if n > 1 else ''}.") from err
    if missing or not values:
        if default is None:
            raise DicomError(f"{keyword} is missing.")
        return default
    if len(values) != n or not all(map(math.isfinite, values)):
        raise DicomError(f"{keyword} must be {n} finite number{'s' if n > 1 else ''}. Got {len(values)}.")
    return values
