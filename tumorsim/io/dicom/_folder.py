"""A folder of mixed DICOM → series, from headers alone: what there is, where it lies, what is damaged."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._open import numbers, open_header, require_dicom, text

__all__ = ["Frame", "Series", "read_folder"]

_ABOUT = (  # of the whole series, taken from its first file
    "AcquisitionContrast",
    "BurnedInAnnotation",
    "ContrastBolusAgent",
    "EchoTime",
    "FrameOfReferenceUID",
    "ImageType",
    "InversionTime",
    "Modality",
    "MRAcquisitionType",
    "PatientID",
    "PhotometricInterpretation",
    "ProtocolName",
    "RepetitionTime",
    "SamplesPerPixel",
    "ScanningSequence",
    "SequenceName",
    "SeriesDescription",
    "SeriesInstanceUID",
    "StudyDate",
    "StudyInstanceUID",
)
_READ = [
    *_ABOUT,
    "Columns",
    "ContrastBolusAgentSequence",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "PixelSpacing",
    "ReferencedFrameOfReferenceSequence",
    "ReferencedSeriesSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SharedFunctionalGroupsSequence",
]
SEG = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}  # Segmentation, Label Map Segmentation
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice in a file.

    ``index`` counts frames in a multi-frame file and is None elsewhere; ``position`` and ``directions`` (row,
    then column) are LPS; ``spacing`` is mm between rows, between columns; ``shape`` is rows, columns.
    """

    path: str
    index: int | None
    uid: str
    position: tuple
    directions: tuple
    spacing: tuple
    shape: tuple
    slope: float
    intercept: float


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
    """Sort a folder's DICOM files, in whatever folders below it, into series.

    Parameters
    ----------
    folder : str or Path
        A PACS export, for instance. Names and suffixes of files do not matter; links are not followed.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    series : list of Series
        Ordered by patient, study and series.
    damaged : list of (str, str)
        Path relative to `folder`, and reason, of DICOM files whose series is unknown.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DicomError
        If pydicom is not installed, or there is no DICOM file.

    Notes
    -----
    Only headers are read, and of them only what is needed: for a slice some 500 bytes are kept.
    """
    from tqdm import tqdm

    require_dicom()
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"DICOM folder '{folder}' does not exist.")
    paths = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    found, damaged = {}, []
    for path in tqdm(sorted(paths), "reading headers", disable=None if progress else True, leave=False):
        try:
            header = open_header(path, _READ)
            if header is None:
                continue
            uid = text(header, "SeriesInstanceUID")
            if not uid:
                raise DicomError("SeriesInstanceUID is missing.")
        except DicomError as err:
            damaged.append((os.path.relpath(path, folder), str(err)))
            continue
        series = found.setdefault(uid, _series(header))
        series.files.append(path)
        try:
            _add(series, path, header)
        except DicomError as err:
            series.problems.append((os.path.relpath(path, folder), str(err)))
    if not found and not damaged:
        raise DicomError(f"'{folder}' holds no DICOM file. Give the folder of a DICOM export.")
    keys = ("PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")
    return sorted(found.values(), key=lambda s: [s.about[k] for k in keys]), damaged


def _series(header):
    """Return an empty Series that knows what its first header says."""
    from pydicom.uid import UID

    sop_class = text(header, "SOPClassUID")
    about = {keyword: text(header, keyword) for keyword in _ABOUT}
    if not about["ContrastBolusAgent"] and header.get("ContrastBolusAgentSequence"):
        about["ContrastBolusAgent"] = "given"  # enhanced MR names the agent by code
    if sop_class in SEG:
        kind = "seg"
    elif sop_class == RTSTRUCT:
        kind = "rtstruct"
    else:
        image = "Rows" in header or "Image Storage" in UID(sop_class).name
        kind = "image" if image else "other"
    return Series(kind, about)


def _add(series, path, header):
    """Add what a file's header says to its series."""
    if series.kind == "image":
        if text(header, "PatientID") != series.patient:
            raise DicomError("its PatientID differs from that of other files of the series.")
        series.frames += _frames(path, header)
        series.spaces.add(text(header, "FrameOfReferenceUID"))
    elif series.kind == "seg":
        series.spaces.add(text(header, "FrameOfReferenceUID"))
        series.references |= {
            text(r, "SeriesInstanceUID") for r in header.get("ReferencedSeriesSequence", [])
        }
    elif series.kind == "rtstruct":
        for space in header.get("ReferencedFrameOfReferenceSequence", []):
            series.spaces.add(text(space, "FrameOfReferenceUID"))
            for study in space.get("RTReferencedStudySequence", []):
                for one in study.get("RTReferencedSeriesSequence", []):
                    series.references.add(text(one, "SeriesInstanceUID"))


def _frames(path, header):
    """Return the frames of an image file."""
    uid, shape = text(header, "SOPInstanceUID"), (_whole(header, "Rows"), _whole(header, "Columns"))
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if not per_frame:
        if _whole(header, "NumberOfFrames", 1) != 1:
            raise DicomError("it has several frames and no positions of them.")
        return [Frame(path, None, uid, *_plane(header, header, header), shape, *_scale(header))]
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    frames = []
    for index, own in enumerate(per_frame):
        groups = [
            (own.get(name) or shared.get(name) or [{}])[0]
            for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        ]
        scale = (
            own.get("PixelValueTransformationSequence")
            or shared.get("PixelValueTransformationSequence")
            or [{}]
        )
        frames.append(Frame(path, index, uid, *_plane(*groups), shape, *_scale(scale[0])))
    if len(frames) != _whole(header, "NumberOfFrames", 1):
        raise DicomError("NumberOfFrames differs from the number of positions.")
    return frames


def _plane(position, orientation, measures):
    """Return position, directions and spacing of a plane, checked to be a rectangular grid."""
    directions = numbers(orientation, "ImageOrientationPatient", 6)
    row, column = directions[:3], directions[3:]
    lengths = [sum(v * v for v in direction) for direction in (row, column)]
    dot = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(length - 1) for length in lengths) > 1e-2 or abs(dot) > 2e-3:  # rounding stays below this
        raise DicomError("ImageOrientationPatient must be two perpendicular directions of length 1.")
    spacing = numbers(measures, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise DicomError("PixelSpacing must be greater than 0 mm.")
    return numbers(position, "ImagePositionPatient", 3), directions, spacing


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
