"""A mask → DICOM SEG that refers to the slices it was made on."""

import numpy as np

from tumorsim.exceptions import DicomError
from tumorsim.io._files import atomic_path
from tumorsim.io.dicom._open import open_dicom, reading

__all__ = ["save_seg"]

# A SEG takes over what links it to its source; highdicom would copy names, addresses and notes too
_KEPT = {"SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "StudyDate", "StudyTime", "PatientID"}
_KEPT |= {"SpecificCharacterSet"}
_GEOMETRY = (0x0018, 0x0020, 0x0028, 0x5200)
# Type 2: must be there, may be empty
_EMPTY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName")
_EMPTY += ("StudyID",)


def save_seg(path, mask, scan, *, version, label="tumor"):
    """Write a mask as a binary DICOM SEG, atomically.

    Parameters
    ----------
    path : str or Path
    mask : ndarray of shape (nx, ny, nz)
        On the scan's grid; what is not 0 belongs to the one segment.
    scan : Scan
        The source. Its files are read again, for study, series and the UIDs of the slices.
    version : str
        Of the program, noted in the file.
    label : str, default="tumor"
        Name of the segment.

    Raises
    ------
    DicomError
        If the mask is empty, or its source's headers are too poor for a SEG.

    Notes
    -----
    A viewer finds the source by StudyInstanceUID, SeriesInstanceUID and PatientID, which are kept. Name,
    birth date, sex, accession number and physicians are left empty.
    """
    mask = np.asarray(mask) != 0
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
        sources = [open_dicom(p, "The header") for p in paths]
        for source in sources:
            _strip(source)
        seg = _segmentation(sources, np.ascontiguousarray(planes), version, label)
    with atomic_path(path) as temporary, reading(f"'{path}'"):
        seg.save_as(temporary)


def _strip(source):
    """Leave in a source's header only geometry and what links to it, type 2 elements empty."""
    for element in list(source):
        if element.tag.group not in _GEOMETRY and element.keyword not in _KEPT:
            del source[element.tag]
    for keyword in (*_EMPTY, "StudyDate", "StudyTime"):
        if keyword in _EMPTY or keyword not in source:
            setattr(source, keyword, "")


def _segmentation(sources, planes, version, label):
    """Return highdicom's Segmentation of bool planes (n, rows, columns) in the order of the sources."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=hd.sr.CodedConcept("108369006", "SCT", "Neoplasm"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="tumorsim", family=codes.DCM.ArtificialIntelligence, version=version
        ),
    )
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=planes.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=9000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="tumorsim",
        manufacturer_model_name="tumorsim",
        software_versions=version,
        device_serial_number="0",
        content_label="TUMOR",
        series_description="Proposed by tumorsim, research use only",
    )
