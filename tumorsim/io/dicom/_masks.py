"""SEG and RTSTRUCT → regions by name, each with its mask on the grid of the series it was drawn on."""

import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from tumorsim._validation import check_pattern
from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._contours import mask_of_contours
from tumorsim.io.dicom._folder import LPS_TO_RAS, frames_of
from tumorsim.io.dicom._open import numbers, open_dicom, reading, text

__all__ = ["Region", "is_tumor", "read_regions"]

_TUMOR = re.compile(
    r"\b(gtv|gross|tv|an|vs|men|mets?|target|lesions?|index)\b|tumou?r|neoplas|metasta|cancer|carcino|sarcoma|lymphom|melanom"
    r"|schwann|neurinom|neurom|mening?iom|gliom|glio\b|astrocyt|oligodendro|ependym|adenom|craniophar|chordom|hemangio|cavernom"
)
_NO_TUMOR = re.compile(
    r"\b([pci]tv|prv|ring|shell|minus|margin|bed|dose|isodose|gy|skull|skin|body|external|lens|lenses|eyes?)\b"
    r"|cochlea|chiasm|hippocamp|ventricle|edema|oedema|cavity|resect|necros|avoid|couch|brain gtv|expan"
    r"|norm(al)? (brain|tissue)"
)
_NO_TUMOR_TYPES = {"ORGAN", "EXTERNAL", "AVOIDANCE", "SUPPORT", "FIXATION", "MARKER", "ISOCENTER", "CAVITY"}
_NO_TUMOR_TYPES |= {"REGISTRATION", "BOLUS", "CONTROL", "DOSE_REGION", "CONTRAST_AGENT"}


@dataclass(frozen=True, slots=True)
class Region:
    """One ROI or segment: free text, the planner's type ('GTV', …) or '', and (shape, affine) → bool mask."""

    name: str
    kind: str
    draw: object


def read_regions(path, kind):
    """Return what a SEG or RTSTRUCT file outlines, as Regions by number; ``DicomError`` if it is damaged.

    Their pixels and contours are in memory, no mask is drawn yet.
    """
    dataset = open_dicom(path, "The file", pixels=True)
    with reading("The list of regions"):
        return _segments(path, dataset) if kind == "seg" else _rois(dataset)


def is_tumor(region, include=None, exclude=None):
    """Tell by its name whether a region is a tumor.

    Words of the name decide, without digits and underscores, and the planner's type (GTV or not an organ,
    marker, dose …). Planning volumes with a margin (PTV, CTV), cavities, edema and organs at risk are no
    tumors, and neither is a name without any word for a tumor.

    Parameters
    ----------
    region : Region
    include : str, optional
        Regular expression found in the names of tumors, case ignored; it replaces the rule.
    exclude : str, optional
        Regular expression found in names that are no tumors, whatever else is said.

    Examples
    --------
    >>> [is_tumor(Region(name, "", None)) for name in ("GTV_1", "Met03", "VS-right")]
    [True, True, True]
    >>> [is_tumor(Region(name, "", None)) for name in ("Cochlea_L", "PTV1", "Brainstem")]
    [False, False, False]
    """
    if exclude is not None and check_pattern(exclude, "exclude").search(region.name):
        return False
    if include is not None:
        return bool(check_pattern(include, "include").search(region.name))
    words = " ".join(re.findall("[a-z]+", region.name.lower()))
    if _NO_TUMOR.search(words) or region.kind in _NO_TUMOR_TYPES:
        return False
    return region.kind == "GTV" or bool(_TUMOR.search(words))


def _rois(dataset):
    """Return the ROIs of an RTSTRUCT that have closed contours."""
    names = {int(r.ROINumber): text(r, "ROIName") for r in dataset.get("StructureSetROISequence", [])}
    kinds = {
        int(o.ReferencedROINumber): text(o, "RTROIInterpretedType").upper()
        for o in dataset.get("RTROIObservationsSequence", [])
    }
    regions = []
    for roi in dataset.get("ROIContourSequence", []):
        contours = [
            np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3) @ LPS_TO_RAS[:3, :3]
            for contour in roi.get("ContourSequence", [])
            if text(contour, "ContourGeometricType").upper().startswith("CLOSED")
        ]
        number = int(roi.ReferencedROINumber)
        if contours:
            draw = partial(mask_of_contours, contours)
            regions.append((number, Region(names.get(number, ""), kinds.get(number, ""), draw)))
    return [region for _, region in sorted(regions, key=lambda r: r[0])]


def _segments(path, dataset):
    """Return the segments of a SEG."""
    with reading("The pixels of the segmentation"):
        pixels = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    form, threshold = text(dataset, "SegmentationType"), 1
    if form == "FRACTIONAL":
        threshold = max(1, numbers(dataset, "MaximumFractionalValue", 1)[0] / 2)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    owners = [
        None if form == "LABELMAP" else _segment_of(own, shared)
        for own in dataset.get("PerFrameFunctionalGroupsSequence", [])
    ]
    frames = list(zip(pixels, frames_of(path, dataset), owners, strict=True))
    regions = []
    for segment in dataset.get("SegmentSequence", []):
        number = int(segment.SegmentNumber)
        kinds = segment.get("SegmentedPropertyTypeCodeSequence") or [{}]
        name = f"{text(segment, 'SegmentLabel')} {text(kinds[0], 'CodeMeaning')}".strip()
        planes = [
            (plane == number if owner is None else plane >= threshold, frame)
            for plane, frame, owner in frames
            if owner in (None, number)
        ]
        planes = [(plane, LPS_TO_RAS @ frame.affine) for plane, frame in planes if plane.any()]
        if planes and number:
            regions.append((number, Region(name, "", partial(_paste, planes))))
    return [region for _, region in sorted(regions, key=lambda r: r[0])]


def _segment_of(own, shared):
    """Return the segment number of a frame."""
    found = own.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
    if not found:
        raise DicomError("A frame of the segmentation names no segment.")
    return int(found[0].ReferencedSegmentNumber)


def _paste(planes, shape, affine):
    """Lay planes, (rows, columns) and affine each, onto a grid of the same voxels; bool (nx, ny, nz)."""
    mask = np.zeros(shape, dtype=bool)
    for plane, own in planes:
        # A frame is placed by its own position: gaps, crops and other axis orders then need no care
        to_grid = np.linalg.inv(affine) @ own
        rows, columns = np.nonzero(plane)
        voxels = np.stack([columns, rows, 0 * rows, 0 * rows + 1]).T @ to_grid.T[:, :3]
        index = np.round(voxels).astype(int)
        aligned = np.allclose(np.abs(to_grid[:3, :2]).sum(axis=0), 1, atol=0.02)
        if not aligned or np.abs(voxels - index).max() > 0.1:
            raise DicomError("The segmentation does not lie on the voxels of its reference series.")
        if (index < 0).any() or (index >= shape).any():
            raise DicomError("The segmentation reaches out of its reference series.")
        mask[tuple(index.T)] = True
    return mask
