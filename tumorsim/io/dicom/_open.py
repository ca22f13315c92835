"""One door to pydicom: files opened quietly, values read with errors that quote nothing of the patient."""

import contextlib
import logging
import math
import warnings
import zlib
from pathlib import Path

from tumorsim._validation import install_hint
from tumorsim.exceptions import DicomError

MAX_VOXELS = 2**28  # of a scan, or a frame of a SEG: with float32 1 GiB
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR, which only lists other files
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_BEGINNINGS = (b"\x02\x00", b"\x08\x00")  # groups that a file without preamble begins with, little endian


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
def reading(what, path=None):
    """Turn whatever a damaged file makes pydicom raise into a ``DicomError`` that says `what` failed."""
    try:
        with quiet():
            yield
    except DicomError as err:
        if path is None or err.file is not None:
            raise
        raise DicomError(err.reason, path) from err
    except MemoryError as err:
        raise DicomError(f"{what} cannot be read: it does not fit into memory.", path) from err
    except OSError as err:
        raise DicomError(f"{what} cannot be read: {err.strerror or type(err).__name__}.", path) from err
    except Exception as err:  # pydicom and its decoders raise every kind; their text may quote the patient
        reason = f"{what} cannot be read ({type(err).__name__}): it is damaged or truncated."
        raise DicomError(reason, path) from err


def open_dicom(path, what, keywords=None, *, pixels=False):
    """Return elements `keywords` of a DICOM file, or all; None if it is none, DicomError if damaged."""
    try:
        import pydicom
    except ImportError as err:
        missing = "DICOM needs pydicom and highdicom, which are not installed."
        raise DicomError(f"{missing} {install_hint('dicom')}") from err
    from pydicom.dataelem import RawDataElement
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    tags = None if keywords is None else ["SOPClassUID", "SOPInstanceUID", *keywords]
    with reading(what, path), open(path, "rb") as file:
        start = file.read(1024)
        bare = start[128:132] != b"DICM"
        named = Path(path).suffix.lower() in (".dcm", ".dicom", ".ima")
        if bare and start[:2] not in _BEGINNINGS:
            if named:
                raise DicomError(f"{what} is damaged: it is named as DICOM and has no preamble.")
            return None
        if _DEFLATED in start:
            _check_inflated(file, 0 if bare else 132)
        file.seek(0)
        dataset = pydicom.dcmread(file, force=bare, stop_before_pixels=not pixels, specific_tags=tags)
        if not text(dataset.file_meta, "TransferSyntaxUID"):
            syntaxes = ExplicitVRLittleEndian, ImplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = syntaxes[dataset.original_encoding[0]]
        if text(dataset.file_meta, "MediaStorageSOPClassUID") == _MEDIA_DIRECTORY:
            return None
        if not text(dataset, "SOPClassUID"):
            if bare and not named:
                return None
            raise DicomError(f"{what} is damaged or truncated: it has no SOPClassUID.")
        elements = [dataset.get_item(tag) for tag in dataset.keys()]
        raw = [e for e in elements if isinstance(e, RawDataElement) and e.length != 0xFFFFFFFF]
        if any(len(e.value or b"") < e.length for e in raw):
            raise DicomError(f"{what} cannot be read: it is damaged or truncated.")
    return dataset


def _check_inflated(file, start):
    """Raise if a deflated file grows beyond what fits into memory."""
    import pydicom

    file.seek(0)
    meta = pydicom.filereader.read_file_meta_info(file.name)
    file.seek(start + 12 + meta.FileMetaInformationGroupLength)  # 12 bytes are the length itself
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    data = file.read(2**16)
    while data and not inflate.eof:
        size += len(inflate.decompress(data, 2**22))
        data = inflate.unconsumed_tail or file.read(2**16)
        if size > 2 * MAX_VOXELS:
            raise DicomError(f"A deflated file must hold at most {2 * MAX_VOXELS >> 20} MiB. It holds more.")


def items(dataset, keyword):
    """Return the items of a sequence as a list of Datasets; none where it is missing or no sequence."""
    from pydicom.sequence import Sequence

    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


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


def number(dataset, keyword, default=None):
    """Return an element on which little depends as a float, or `default`."""
    try:
        return numbers(dataset, keyword, 1, (default,))[0]
    except DicomError:
        return default
