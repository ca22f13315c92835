"""A mask → DICOM SEG that refers to the slices it was made on."""

import re

import numpy as np

from tumorsim.exceptions import DicomError
from tumorsim.io._files import atomic_path
from tumorsim.io.dicom._folder import GROUPS
from tumorsim.io.dicom._open import open_dicom, reading, text

# What links a SEG to its source, and geometry; highdicom would copy names, addresses and notes too
_KEPT = (
    "SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID PatientID StudyDate "
    "StudyTime SpecificCharacterSet Rows Columns NumberOfFrames ImagePositionPatient ImageOrientationPatient "
    "PixelSpacing SliceThickness SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
).split()
# Type 2: must be there, may be empty
_EMPTY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName")
_EMPTY += ("StudyID", "PositionReferenceIndicator")


def save_seg(path, mask, scan, *, version, tracking=None):
    """Write a mask (nx, ny, nz) on a scan's grid as a binary DICOM SEG of one segment, atomically.

    With `tracking`, a list of (TrackingUID, TrackingID), a segment each: voxels of value 1 are the first.

    A viewer finds the source by StudyInstanceUID, SeriesInstanceUID and PatientID, which are kept. Name,
    birth date, sex, accession number, physicians and whatever else the source says are not. `version` of the
    program is noted. ``DicomError`` if the mask is empty, or its source's headers are too poor for a SEG.
    """
    mask = np.asarray(mask) if tracking else np.asarray(mask) != 0
    if not mask.any():
        raise DicomError("A SEG needs at least one voxel of tumor. Got an empty mask.")
    frames = scan.frames
    paths = list(dict.fromkeys(f.path for f in frames))
    planes = mask.transpose(2, 1, 0)  # slices, rows, columns
    if frames[0].index is not None:
        if len(paths) > 1:
            raise DicomError("A SEG of a series in several multi-frame files cannot be written.")
        planes = planes[np.argsort([f.index for f in frames])]
    with reading("The headers of the source series"):
        sources = [_bare(open_dicom(p, "The header")) for p in paths]
        seg = _segmentation(sources, np.ascontiguousarray(planes, dtype=np.uint16), version, tracking)
    with atomic_path(path) as temporary, reading(f"'{path}'"):
        seg.save_as(temporary)


def _bare(source):
    """Return of a source's header only geometry and what links to it, type 2 elements empty."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def only(dataset, keywords):
        kept = Dataset()
        for keyword in keywords:
            if isinstance(dataset.get(keyword), Sequence):
                setattr(kept, keyword, [only(item, keywords) for item in dataset[keyword].value])
            elif keyword in dataset:
                kept[keyword] = dataset[keyword]
        return kept

    bare = only(source, (*_KEPT, *GROUPS))
    if not text(bare, "PatientID").isprintable():
        raise DicomError("PatientID must be plain text. It holds control characters.")
    for keyword in ("StudyDate", "StudyTime"):
        if not re.fullmatch(r"[0-9.]*", text(bare, keyword)):
            setattr(bare, keyword, "")
    bare.file_meta = source.file_meta
    for keyword in _EMPTY:
        setattr(bare, keyword, "")
    return bare


def _segmentation(sources, planes, version, tracking):
    """Return highdicom's Segmentation of planes (n, rows, columns) in the order of the sources.

    Values are 0 and segments. Tracked lesions were outlined elsewhere; those without ids are proposed here.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    kinds, told = hd.seg.SegmentAlgorithmTypeValues, "Lesions matched" if tracking else "Proposed"
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"tumor {name or ''}".strip(),
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=hd.sr.CodedConcept("108369006", "SCT", "Neoplasm"),
            algorithm_type=kinds.SEMIAUTOMATIC if tracking else kinds.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="tumorsim", family=codes.DCM.ArtificialIntelligence, version=version
            ),
            tracking_uid=uid,
            tracking_id=name,
        )
        for number, (uid, name) in enumerate(tracking or [(None, None)], 1)
    ]
    return hd.seg.Segmentation(
        source_images=sources, pixel_array=planes, segmentation_type="BINARY", segment_descriptions=segments,
        series_instance_uid=hd.UID(), series_number=9000, sop_instance_uid=hd.UID(), instance_number=1,
        manufacturer="tumorsim", manufacturer_model_name="tumorsim", software_versions=version,
        device_serial_number="0", content_label="TUMOR",
        series_description=f"{told} by tumorsim, research use only",
    )  # fmt: skip
