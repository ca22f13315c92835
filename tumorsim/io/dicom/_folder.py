"""A folder of mixed DICOM → series, from headers alone: what there is, where it lies, what is damaged."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._open import numbers, open_dicom, text

__all__ = ["GROUPS", "LPS_TO_RAS", "Frame", "Series", "frames_of", "read_folder"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ABOUT = (  # of the whole series, taken from its first file
    "AcquisitionContrast BurnedInAnnotation ContrastBolusAgent EchoTime ImageType InversionTime Modality "
    "PatientID PhotometricInterpretation ProtocolName RepetitionTime SamplesPerPixel SequenceName "
    "SeriesDescription SeriesInstanceUID StudyDate StudyInstanceUID"
).split()
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
GROUPS += ("PixelValueTransformationSequence",)
_READ = (
    "Columns ContrastBolusAgentSequence FrameOfReferenceUID ImageOrientationPatient ImagePositionPatient "
    "NumberOfFrames PerFrameFunctionalGroupsSequence PixelSpacing ReferencedFrameOfReferenceSequence "
    "ReferencedSeriesSequence RescaleIntercept RescaleSlope Rows SharedFunctionalGroupsSequence"
).split() + _ABOUT
_KINDS = {  # SOP class → kind; the first two are Segmentation and Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.66.4": "seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "seg",
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One slice in a file; `index` counts the frames of a multi-frame file and is None elsewhere.

    `affine` (4, 4) maps (column, row, 0) to LPS mm, `shape` is (columns, rows), `scale` slope and intercept.
    """

    path: str
    index: int | None
    uid: str
    affine: np.ndarray
    shape: tuple
    scale: tuple


@dataclass(slots=True)
class Series:
    """The files of one SeriesInstanceUID; ``about`` maps DICOM keywords to text, as the first file has them.

    ``kind`` is 'image', 'seg', 'rtstruct' or 'other'; ``references`` are the SeriesInstanceUIDs that a SEG or
    RTSTRUCT was drawn on, ``spaces`` the FrameOfReferenceUIDs; ``problems`` are (path relative to the folder,
    reason) of files that cannot be used.
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
    """Sort the DICOM files below a folder into series by patient and study, headers alone.

    Returns a list of Series, and (path relative to `folder`, reason) of files whose series is unknown.
    """
    from tqdm import tqdm

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"DICOM folder '{folder}' does not exist.")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    found, damaged = {}, []
    for path in tqdm(sorted(paths), "reading headers", disable=None if progress else True, leave=False):
        problems = damaged
        try:
            header = open_dicom(path, "The header", _READ)
            if header is None:
                continue
            uid = text(header, "SeriesInstanceUID")
            if not uid:
                raise DicomError("SeriesInstanceUID is missing.")
            series = found.setdefault(uid, _series(header))
            series.files.append(path)
            problems = series.problems
            _add(series, path, header)
        except DicomError as err:
            problems.append((os.path.relpath(path, folder), str(err)))
    if not found and not damaged:
        raise DicomError(f"'{folder}' holds no DICOM file. Give the folder of a DICOM export.")
    keys = ("PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")
    return sorted(found.values(), key=lambda s: [s.about[k] for k in keys]), damaged


def _series(header):
    """Return an empty Series that knows what its first header says."""
    from pydicom.uid import UID

    about = {keyword: text(header, keyword) for keyword in _ABOUT}
    if not about["ContrastBolusAgent"] and header.get("ContrastBolusAgentSequence"):
        about["ContrastBolusAgent"] = "given"  # enhanced MR names the agent by code
    sop_class = text(header, "SOPClassUID")
    image = "Rows" in header or "Image Storage" in UID(sop_class).name
    return Series(_KINDS.get(sop_class, "image" if image else "other"), about)


def _add(series, path, header):
    """Add what a file's header says to its series."""
    series.spaces.add(text(header, "FrameOfReferenceUID"))
    if series.kind == "image":
        if text(header, "PatientID") != series.patient:
            raise DicomError("its PatientID differs from that of other files of the series.")
        series.frames += frames_of(path, header)
    drawn_on = list(header.get("ReferencedSeriesSequence", []))
    for space in header.get("ReferencedFrameOfReferenceSequence", []):
        series.spaces.add(text(space, "FrameOfReferenceUID"))
        for study in space.get("RTReferencedStudySequence", []):
            drawn_on += study.get("RTReferencedSeriesSequence", [])
    series.references |= {text(one, "SeriesInstanceUID") for one in drawn_on}


def frames_of(path, header):
    """Return the Frames of an image or a SEG."""
    uid, shape = text(header, "SOPInstanceUID"), (_whole(header, "Columns"), _whole(header, "Rows"))
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    n_frames = _whole(header, "NumberOfFrames", 1)
    if not per_frame:
        if n_frames != 1:
            raise DicomError("it has several frames and no positions of them.")
        return [Frame(path, None, uid, _affine(header, header, header), shape, _scale(header))]
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    frames = []
    for index, own in enumerate(per_frame):
        *plane, scale = ((own.get(name) or shared.get(name) or [{}])[0] for name in GROUPS)
        frames.append(Frame(path, index, uid, _affine(*plane), shape, _scale(scale)))
    if len(frames) != n_frames:
        raise DicomError("NumberOfFrames differs from the number of positions.")
    return frames


def _affine(position, orientation, measures):
    """Return (column, row, 0) → LPS mm of a plane, (4, 4), checked to be a rectangular grid."""
    row, column = np.array(numbers(orientation, "ImageOrientationPatient", 6)).reshape(2, 3)
    if (
        max(abs(row @ row - 1), abs(column @ column - 1)) > 1e-2 or abs(row @ column) > 2e-3
    ):  # rounding is less
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


def _whole(dataset, keyword, default=None):
    """Return an element as a positive int."""
    value = numbers(dataset, keyword, 1, None if default is None else (default,))[0]
    if value < 1 or value != int(value):
        raise DicomError(f"{keyword} must be a positive whole number.")
    return int(value)
