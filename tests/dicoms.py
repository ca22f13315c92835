"""True DICOM files of known voxels: classic and enhanced MR, CT, SEG, RTSTRUCT, compressed or not."""

import itertools
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTStructureSetStorage,
    generate_uid,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# What must never come out, wherever it was put in
IDENTITY = {
    "PatientName": "Featherstonehaugh^Wilhelmina",
    "PatientBirthDate": "19311225",
    "PatientAddress": "17 Quillfeather Lane",
    "AccessionNumber": "ACC7731905",
    "OtherPatientIDs": "ALTID-55501",
    "PatientTelephoneNumbers": "555-0142-99",
    "PatientComments": "neighbor of Featherstonehaugh",
    "ReferringPhysicianName": "Oyelaran^Quentin",
    "InstitutionName": "Zephyrhollow Clinic",
    "StudyDescription": "brain of Featherstonehaugh",
    "StudyID": "STU88123",
    "ImageComments": "call 555-0142-99",
}
SECRETS = (
    "Featherstonehaugh",
    "Wilhelmina",
    "19311225",
    "1931-12-25",
    "Quillfeather",
    "ACC7731905",
    "ALTID-55501",
)
SECRETS += ("555-0142-99", "Oyelaran", "Zephyrhollow", "STU88123", "PRIVATE-SECRET")


def base(
    sop_class, *, patient_id, study, series, description, modality, date="20240501", identity=None, **tags
):
    """Return a dataset with the elements that every object has."""
    dataset = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyDate, dataset.StudyTime = date, "101500"
    dataset.Modality, dataset.SeriesDescription = modality, description
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient_id, "", ""
    dataset.PatientSex, dataset.StudyID, dataset.AccessionNumber = "", "", ""
    dataset.ReferringPhysicianName = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    for keyword, value in {**(identity or {}), **tags}.items():
        setattr(dataset, keyword, value)
    if identity:
        block = dataset.private_block(0x0011, "VENDOR", create=True)
        block.add_new(1, "LO", "PRIVATE-SECRET")
        block.add_new(2, "PN", IDENTITY["PatientName"])
    return dataset


def write_series(
    folder,
    array,
    affine,
    *,
    patient_id="p1",
    study=None,
    series=None,
    space=None,
    description="AX T1 post Gd",
    modality="MR",
    compress=None,
    suffix="",
    edit=None,
    **tags,
):
    """Write an array (columns, rows, slices) a slice a file, in random order; return the paths by slice.

    `edit(dataset, z)` may change a slice before it is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    study, series, space = study or generate_uid(), series or generate_uid(), space or generate_uid()
    lps = LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    numbers = np.random.default_rng(0).permutation(array.shape[2])
    paths = []
    for z in range(array.shape[2]):
        dataset = base(
            MRImageStorage if modality == "MR" else CTImageStorage,
            patient_id=patient_id,
            study=study,
            series=series,
            description=description,
            modality=modality,
            **tags,
        )
        dataset.FrameOfReferenceUID, dataset.InstanceNumber = space, int(numbers[z]) + 1
        dataset.ImageType = dataset.get("ImageType") or ["ORIGINAL", "PRIMARY", "M"]
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in lps[:3, 3] + z * lps[:3, 2]]
        directions = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
        dataset.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in directions]
        dataset.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]  # between rows, between columns
        dataset.SliceThickness = f"{spacing[2]:.6f}"
        _set_pixels(dataset, array[:, :, z].T)
        if edit is not None:
            edit(dataset, z)
        paths.append(folder / f"I{numbers[z]:04d}{suffix}")
        save(dataset, paths[-1], compress)
    return paths


def write_enhanced(path, array, affine, *, patient_id="p1", study=None, series=None, space=None, **tags):
    """Write an array as one enhanced multi-frame MR file whose frames are in random order."""
    options = {"description": "AX T1 post Gd", "modality": "MR"} | tags
    dataset = base(
        EnhancedMRImageStorage,
        patient_id=patient_id,
        study=study or generate_uid(),
        series=series or generate_uid(),
        **options,
    )
    lps, spacing = LPS @ affine, np.linalg.norm(affine[:3, :3], axis=0)
    dataset.FrameOfReferenceUID = space or generate_uid()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    directions = np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
    orientation.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in directions]
    measures.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
    measures.SliceThickness = f"{spacing[2]:.6f}"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    order = np.random.default_rng(1).permutation(array.shape[2])
    groups = []
    for z in order:
        own, position = Dataset(), Dataset()
        position.ImagePositionPatient = [f"{v:.6f}" for v in lps[:3, 3] + z * lps[:3, 2]]
        own.PlanePositionSequence = [position]
        groups.append(own)
    dataset.PerFrameFunctionalGroupsSequence = groups
    _set_pixels(dataset, array[:, :, order].transpose(2, 1, 0))
    dataset.NumberOfFrames = len(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)
    return [path]


def write_seg(path, masks, sources, *, names=("tumor",)):
    """Write bool masks (columns, rows, slices) with highdicom as a SEG on classic source files by slice."""
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    segments = [
        hd.seg.SegmentDescription(
            i,
            name,
            codes.SCT.MorphologicallyAbnormalStructure,
            hd.sr.CodedConcept("4147007", "SCT", "Mass"),
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for i, name in enumerate(names, 1)
    ]
    images = [pydicom.dcmread(p, stop_before_pixels=True) for p in sources]
    seg = hd.seg.Segmentation(
        images,
        np.stack([m.transpose(2, 1, 0) for m in masks], axis=-1).astype(np.uint8),
        "BINARY",
        segments,
        hd.UID(),
        7,
        hd.UID(),
        1,
        "test",
        "test",
        "1",
        "1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


def write_rtstruct(path, regions, sources, *, kinds=None, reference=True, **tags):
    """Write regions, name → contours (RAS+ mm), as an RTSTRUCT on the series of the source files."""
    import pydicom

    source = pydicom.dcmread(sources[0], stop_before_pixels=True)
    dataset = base(
        RTStructureSetStorage,
        patient_id=source.PatientID,
        study=source.StudyInstanceUID,
        series=generate_uid(),
        description="contours",
        modality="RTSTRUCT",
        **tags,
    )
    dataset.StructureSetLabel, dataset.StructureSetDate = "plan", "20240502"
    space, study, series = Dataset(), Dataset(), Dataset()
    space.FrameOfReferenceUID = source.FrameOfReferenceUID
    if reference:
        study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
        study.ReferencedSOPInstanceUID = source.StudyInstanceUID
        series.SeriesInstanceUID = source.SeriesInstanceUID
        study.RTReferencedSeriesSequence, space.RTReferencedStudySequence = [series], [study]
    dataset.ReferencedFrameOfReferenceSequence = [space]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, contours) in enumerate(regions.items(), 1):
        roi, drawn, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.3f}" for v in (points * LPS.diagonal()[:3]).ravel()]
            drawn.ContourSequence.append(contour)
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType = (kinds or {}).get(name, "")
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
        dataset.RTROIObservationsSequence.append(observed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)


def save(dataset, path, compress=None):
    """Write a dataset as a DICOM file, compressed by a transfer syntax that pydicom or GDCM can write."""
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if compress in ("RLELossless", "JPEGLSLossless"):
        import pydicom.uid

        dataset.compress(getattr(pydicom.uid, compress))
    dataset.save_as(path, enforce_file_format=True)
    if compress in ("JPEGLosslessProcess14_1", "JPEG2000Lossless"):
        import gdcm

        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, compress)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()


def load_mask(scan, include=None, exclude=None):
    """Return the mask of a scan's tumors, or None."""
    from tumorsim.io.dicom import draw_tumors

    return draw_tumors(scan, include, exclude)[0]


def contours_of(mask, affine, *, keyhole=False):
    """Trace a bool mask slice by slice: closed polygons (n, 3) in RAS+ mm, halfway between voxel centers.

    A hole is a contour of its own, or with `keyhole` joined to its outline by a channel of no width.
    """
    found = []
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        padded = np.pad(mask[:, :, z], 1).astype(float)
        generator = contour_generator(z=padded.T, name="serial", fill_type="OuterOffset")
        for points, offsets in zip(*generator.filled(0.5, 2), strict=True):
            rings = [points[a : b - 1] for a, b in itertools.pairwise(offsets)]
            if keyhole:
                ring = rings[0]
                for hole in rings[1:]:
                    gaps = np.linalg.norm(ring[:, None] - hole[None], axis=2)
                    i, j = np.unravel_index(gaps.argmin(), gaps.shape)
                    inner = np.concatenate([hole[j:], hole[: j + 1]])
                    ring = np.concatenate([ring[: i + 1], inner, ring[i:]])
                rings = [ring]
            for ring in rings:
                voxels = np.column_stack([ring - 1, np.full(len(ring), z)])
                found.append(voxels @ affine[:3, :3].T + affine[:3, 3])
    return found


def _set_pixels(dataset, pixels):
    """Set pixels (…, rows, columns) of an integer type and what describes them."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
