"""A folder of mixed DICOM → series, from headers alone: what there is, where it lies, what is damaged."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tumorsim._validation import counted
from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._open import items, number, numbers, open_dicom, reading, text

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ABOUT = (  # of the whole series, as most of its files have them
    "AcquisitionContrast BurnedInAnnotation ContrastBolusAgent EchoTime ImageType InversionTime Modality "
    "PatientID PhotometricInterpretation ProtocolName RepetitionTime SamplesPerPixel SequenceName "
    "SeriesDescription SeriesInstanceUID StudyDate StudyInstanceUID"
).split()
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
GROUPS += ("PixelValueTransformationSequence",)
_READ = (
    "BitsAllocated Columns ContrastBolusAgentSequence FrameOfReferenceUID ImageOrientationPatient "
    "ImagePositionPatient InstanceNumber NumberOfFrames PerFrameFunctionalGroupsSequence "
    "PixelPaddingRangeLimit PixelPaddingValue PixelRepresentation PixelSpacing "
    "ReferencedFrameOfReferenceSequence ReferencedSeriesSequence RescaleIntercept RescaleSlope Rows "
    "SharedFunctionalGroupsSequence SliceLocation StructureSetROISequence"
).split() + _ABOUT
_PACKED = re.compile(r"((?<!\.nii|\.img|\.hdr)\.(gz|bz2|xz)|\.(zip|7z|rar|tar|tgz))$", re.IGNORECASE)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_KINDS = {  # SOP class → kind; the first two are Segmentation and Label Map Segmentation
    f"{_STORAGE}66.4": "seg",
    f"{_STORAGE}66.7": "seg",
    f"{_STORAGE}481.3": "rtstruct",
}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One slice in a file; `index` counts the frames of a multi-frame file and is None elsewhere.

    `affine` (4, 4) maps (column, row, 0) to LPS mm, `shape` is (columns, rows), `scale` slope and intercept,
    `padding` the stored values (low, high) that are no image, `order` InstanceNumber and SliceLocation.
    """

    path: str
    index: int | None
    uid: str
    patient: str
    space: str
    affine: np.ndarray
    shape: tuple
    scale: tuple
    padding: tuple | None
    order: tuple


@dataclass(slots=True)
class Series:
    """The files of one SeriesInstanceUID and kind ('image', 'seg', 'rtstruct' or what else they are).

    ``about`` maps DICOM keywords to text, as most files have them; ``references`` are the SeriesInstanceUIDs
    that a SEG or RTSTRUCT was drawn on, ``spaces`` the FrameOfReferenceUIDs; ``problems`` are (path relative
    to the folder, reason) of files that cannot be used.
    """

    kind: str
    about: dict
    files: list = field(default_factory=list)
    frames: list = field(default_factory=list)
    references: set = field(default_factory=set)
    spaces: set = field(default_factory=set)
    problems: list = field(default_factory=list)

    @property
    def uid(self):
        """SeriesInstanceUID."""
        return self.about["SeriesInstanceUID"]

    @property
    def patient(self):
        """PatientID as the files have it; never written to a file by this room."""
        return self.about["PatientID"]


def read_folder(folder, *, progress=False):
    """Return Series sorted by headers alone, and (path, reason) of files whose series is unknown."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"DICOM folder '{folder}' does not exist.")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    paths = [path for path in paths if os.path.isfile(path)]  # a pipe would be waited for
    found, abouts, damaged = {}, {}, []
    if packed := sorted(filter(_PACKED.search, paths)):
        reason = f"packed ({counted(len(packed), 'such file')} here): unpack what holds DICOM"
        damaged.append((os.path.relpath(packed[0], folder), reason))
    for path in tqdm(sorted(paths), "reading headers", disable=None if progress else True, leave=False):
        problems = damaged
        try:
            with reading("The header", path):
                header = open_dicom(path, "The header", _READ)
                if header is None:
                    continue
                about = {keyword: text(header, keyword) for keyword in _ABOUT}
                if not about["SeriesInstanceUID"]:
                    raise DicomError("SeriesInstanceUID is missing.")
                if not about["ContrastBolusAgent"] and items(header, "ContrastBolusAgentSequence"):
                    about["ContrastBolusAgent"] = "given"  # enhanced MR names the agent by code
                key = about["SeriesInstanceUID"], _kind(header)
                series = found.setdefault(key, Series(key[1], about))
                abouts.setdefault(key, Counter())[tuple(about.values())] += 1
                series.files.append(path)
                problems = series.problems
                _add(series, path, header)
        except DicomError as err:
            problems.append((os.path.relpath(path, folder), err.reason))
    if not found and not damaged:
        raise DicomError(f"'{folder}' holds no DICOM file. Give the folder of a DICOM export.")
    for key, series in found.items():
        series.about = dict(zip(_ABOUT, abouts[key].most_common(1)[0][0], strict=True))
        for path in sorted({f.path for f in series.frames if f.patient != series.patient}):
            reason = "its PatientID differs from that of other files of the series."
            series.problems.append((os.path.relpath(path, folder), reason))
    keys = ("PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")
    return sorted(found.values(), key=lambda s: [s.about[k] for k in keys]), damaged


def _kind(header):
    """Return what a file is: 'image', 'seg', 'rtstruct', or the standard's name of anything else."""
    from pydicom.uid import UID

    uid = UID(text(header, "SOPClassUID"))
    if uid in _KINDS:
        return _KINDS[uid]
    if "Rows" in header and not uid.startswith(f"{_STORAGE}7"):  # 7 and below it are secondary captures
        return "image"
    return uid.name.removesuffix(" Storage") if uid.name != uid else "no image"


def _add(series, path, header):
    """Add what a file's header says to its series."""
    series.spaces.add(text(header, "FrameOfReferenceUID"))
    if series.kind == "image" and series.about["Modality"] == "MR":  # what doses and others lack is no damage
        series.frames += frames_of(path, header)
    drawn_on = items(header, "ReferencedSeriesSequence")
    for roi in items(header, "StructureSetROISequence"):
        series.spaces.add(text(roi, "ReferencedFrameOfReferenceUID"))
    for space in items(header, "ReferencedFrameOfReferenceSequence"):
        series.spaces.add(text(space, "FrameOfReferenceUID"))
        for study in items(space, "RTReferencedStudySequence"):
            drawn_on += items(study, "RTReferencedSeriesSequence")
    series.references |= {text(one, "SeriesInstanceUID") for one in drawn_on}


def frames_of(path, header):
    """Return the Frames of an image or a SEG."""
    uid, patient, space = (text(header, k) for k in ("SOPInstanceUID", "PatientID", "FrameOfReferenceUID"))
    shape = _whole(header, "Columns"), _whole(header, "Rows")
    per_frame = items(header, "PerFrameFunctionalGroupsSequence")
    n_frames = _whole(header, "NumberOfFrames", 1)
    if not per_frame:
        if n_frames != 1:
            raise DicomError("it has several frames and no positions of them.")
        order = number(header, "InstanceNumber"), number(header, "SliceLocation")
        places = [(None, header, header, header, header)]
    else:
        order, places = (None, None), []
        shared = (items(header, "SharedFunctionalGroupsSequence") or [{}])[0]
        for index, own in enumerate(per_frame):
            groups = [(items(own, name) or items(shared, name) or [{}])[0] for name in GROUPS]
            places.append((index, *groups))
    if len(places) != n_frames:
        raise DicomError("NumberOfFrames differs from the number of positions.")
    padding = _padding(header)
    return [
        Frame(path, index, uid, patient, space, _affine(*plane), shape, _scale(scale), padding, order)
        for index, *plane, scale in places
    ]


def _affine(position, orientation, measures):
    """Return (column, row, 0) → LPS mm of a plane, (4, 4), checked to be a rectangular grid."""
    row, column = np.array(numbers(orientation, "ImageOrientationPatient", 6)).reshape(2, 3)
    stretched = max(abs(row @ row - 1), abs(column @ column - 1))
    if stretched > 1e-2 or abs(row @ column) > 2e-3:  # rounding is less
        raise DicomError("ImageOrientationPatient must be two perpendicular directions of length 1.")
    between_rows, between_columns = numbers(measures, "PixelSpacing", 2)
    if min(between_rows, between_columns) <= 0:
        raise DicomError("PixelSpacing must be greater than 0 mm.")
    affine = np.eye(4)
    affine[:3, 0] = row / np.linalg.norm(row) * between_columns
    affine[:3, 1] = column / np.linalg.norm(column) * between_rows
    affine[:3, 2] = np.cross(row, column)
    affine[:3, 3] = numbers(position, "ImagePositionPatient", 3)
    return affine


def _scale(dataset):
    """Return rescale slope and intercept."""
    slope = numbers(dataset, "RescaleSlope", 1, (1.0,))[0]
    return (slope or 1.0), numbers(dataset, "RescaleIntercept", 1, (0.0,))[0]


def _padding(header):
    """Return the lowest and highest stored value that stands for no image, or None."""
    value = numbers(header, "PixelPaddingValue", 1, (None,))[0]
    if value is None:
        return None
    low, high = sorted((value, numbers(header, "PixelPaddingRangeLimit", 1, (value,))[0]))
    bits = numbers(header, "BitsAllocated", 1, (16,))[0]
    if numbers(header, "PixelRepresentation", 1, (0,))[0] == 1:  # some write signed values as unsigned ones
        size = 2 ** min(bits, 16)  # which the element holds
        return tuple(sorted(v - size if v >= size / 2 else v for v in (low, high)))
    if low < 0:  # and unsigned ones as signed
        low, high = low + 2**bits, (high + 2**bits if high < 0 else 2**bits - 1)
    return low, high


def _whole(dataset, keyword, default=None):
    """Return an element as a positive int."""
    value = numbers(dataset, keyword, 1, None if default is None else (default,))[0]
    if value < 1 or value != int(value):
        raise DicomError(f"{keyword} must be a positive whole number.")
    return int(value)
