"""SEG and RTSTRUCT → regions by name, each with its mask on the grid of the series it was drawn on."""

import contextlib
import itertools
import re
import unicodedata
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from tumorsim._validation import check_pattern, counted
from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._contours import THICKEST_MM, area_vector, mask_of_contours, slice_distance
from tumorsim.io.dicom._folder import LPS_TO_RAS, frames_of
from tumorsim.io.dicom._open import MAX_VOXELS, items, number, numbers, open_dicom, reading, text

_TUMOR = re.compile(  # words without accents, English and German
    r"\b(gtv|gross|tv|an|vs|men|metas?|mets?|target|lesions?|lasion(en)?|herde?|filia|gbm|index)\b"
    r"|tumou?r|tumeur|neoplas|metasta|cancer|carcino|karzino|sarcoma|lymphom|melanom|schwann|neurinom|neurom"
    r"|mening?[ie]om|gliom|gliobl|glio\b|astrocyt|oligodendro|ependym|adenom|craniophar|chordom|hemangio"
    r"|cavernom"
)
_NO_TUMOR = re.compile(
    r"\b([pci]tv|prv|ring|shell|minus|margin|dose|isodose|gy|skull|skin|body|external|lens|lenses|eyes?)\b"
    r"|be(d|tt)\b|cochlea|chiasm|hippocamp|ventricle|edema|odem|cavity|hohle|resect|necros|avoid"
    r"|couch|brain gtv|expan|norm(al)? (brain|tissue)"
)
_NO_TUMOR_TYPES = {"ORGAN", "EXTERNAL", "AVOIDANCE", "SUPPORT", "FIXATION", "MARKER", "ISOCENTER", "CAVITY"}
_NO_TUMOR_TYPES |= {"REGISTRATION", "BOLUS", "CONTROL", "DOSE_REGION", "CONTRAST_AGENT"}


@dataclass(frozen=True, slots=True)
class Region:
    """One ROI or segment, which may be drawn on a grid.

    ``name`` is free text, ``kind`` the planner's type ('GTV', …) or '', ``number`` that of the file,
    ``tracking`` TrackingUID and TrackingID of a segment, ``made`` dates, InstanceNumber and path of its file.
    ``draw(shape, affine, notes)`` returns a bool mask, and what it lacks in ``notes``; with ``resample=True``
    on any grid.
    """

    name: str
    kind: str
    draw: object
    number: int = 0
    tracking: tuple = ("", "")
    made: tuple = ()


def read_regions(path, kind):
    """Return what a SEG or RTSTRUCT file outlines, as Regions by number; ``DicomError`` if it is damaged.

    Contours and pixels of a region are read when it is drawn.
    """
    with reading("The list of regions", path):
        dataset = open_dicom(path, "The file", pixels=True)
        if dataset is None:
            raise DicomError("It is no DICOM file.")
        regions = _segments(path, dataset) if kind == "seg" else _rois(path, dataset)
        parts = [(what, part) for what in ("StructureSet", "InstanceCreation") for part in ("Date", "Time")]
        dates = [text(dataset, what + part) or text(dataset, f"Content{part}") for what, part in parts]
        made = [re.sub(r"\D", "", date) for date in dates], number(dataset, "InstanceNumber", 0), str(path)
    return [replace(region, made=made) for region in sorted(regions, key=lambda region: region.number)]


def is_tumor(region, include=None, exclude=None):
    """Tell by its name whether a region is a tumor.

    Words of the name decide, and the planner's type (GTV or not an organ, marker, dose …). Planning volumes
    with a margin (PTV, CTV), cavities, edema, organs at risk and names without any word for a tumor are none.
    The pattern `include` replaces this rule; `exclude` goes before both.

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
    return speaks_of(region) == (True, False)


def speaks_of(region):
    """Tell whether name or type speak of a tumor, and of what is none: an organ, planning volume or dose."""
    words = _words(region.name)
    other = bool(_NO_TUMOR.search(words)) or region.kind in _NO_TUMOR_TYPES
    return region.kind == "GTV" or bool(_TUMOR.search(words)), other


def _words(name):
    """Return a name's words in small letters without accents, digits and signs, and '+2mm' as a margin."""
    name = re.sub(r"\+\s*\d[\d.,]*\s*[cm]m", " margin ", name.lower())
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join(re.findall("[a-z]+", plain))


def _rois(path, dataset):
    """Return the ROIs of an RTSTRUCT."""
    names = {number(r, "ROINumber"): text(r, "ROIName") for r in items(dataset, "StructureSetROISequence")}
    kinds = {
        number(o, "ReferencedROINumber"): text(o, "RTROIInterpretedType").upper()
        for o in items(dataset, "RTROIObservationsSequence")
    }
    rois, regions = items(dataset, "ROIContourSequence"), []
    every = cache(lambda: [c for roi in rois for c in _contours_of(roi)[0]])  # read once, if at all
    given = [(int(number(roi, "ReferencedROINumber", -1)), roi) for roi in rois]
    drawn = dict(given)
    given += [(int(n), {}) for n in names if n is not None and n not in drawn]
    for n, roi in given:
        draw = partial(_draw_roi, path, every, roi, n)
        region = Region(names.get(n, ""), kinds.get(n, ""), draw, n)
        regions += [region] if roi or not rois or is_tumor(region) else []
    return regions


def _draw_roi(path, every, roi, number, shape, affine, notes, *, resample=False):
    """Draw an ROI's closed contours; with `resample` as thick as the planes of `every()` lie apart."""
    with reading(f"Region {number}", path):
        contours, lost = _contours_of(roi)
        n_given = counted(len(contours) + len(lost), "contour")
        why = " or ".join(sorted({why for why, _ in lost}))
        if not contours:
            raise DicomError(f"ROIContourSequence has {n_given} of it{why and f': {why}'}.")
        thickness = slice_distance(contours, every(), affine) if resample else None
        if resample and thickness is None:
            notes.append(f"region {number}: drawn one voxel thick, since the file tells no slice distance")
        mask = mask_of_contours(contours, shape, affine, thickness=thickness)
        if lost:
            filled = np.flatnonzero(mask.any(axis=(0, 1)))
            at = {None if p is None else round(np.linalg.inv(affine)[2] @ [*p, 1]) for _, p in lost}
            holes = set(range(min(filled, default=0), max(filled, default=0))).difference(filled)
            gaps = [k + 1 for k in sorted(holes) if at & {k, None}]
            gap = f", so its mask has a gap: slice {', '.join(map(str, gaps))} of {shape[2]}" if gaps else ""
            notes.append(f"region {number}: {len(lost)} of {n_given} left out, {why}{gap}")
        return mask


def _contours_of(roi):
    """Return an ROI's closed contours (n, 3) in RAS+ mm with an area; of others fault, and point or None."""
    contours, lost = [], []
    for one in items(roi, "ContourSequence"):
        try:
            values = np.array(one.get("ContourData") or [], dtype=np.float64).ravel()
        except Exception:  # pydicom and NumPy raise kinds of their own where it holds no points
            values = np.array([np.nan])
        points = values[: len(values) // 3 * 3].reshape(-1, 3) * LPS_TO_RAS.diagonal()[:3]
        whole = len(values) % 3 == 0 and np.isfinite(values).all()
        closed = whole and text(one, "ContourGeometricType").upper()[:6] in ("CLOSED", "")
        area = closed and len(points) > 2 and np.linalg.norm(area_vector(points)) > 1e-6
        if area and number(one, "NumberOfContourPoints", len(points)) == len(points):
            contours.append(points)
        else:
            place = next((point for point in points if np.isfinite(point).all()), None)
            why = "NumberOfContourPoints differs" if area else "without area" if whole else "damaged"
            lost.append((why, place))
    return contours, lost


def _segments(path, dataset):
    """Return the segments of a SEG."""
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [{}])[0]
    frames = frames_of(path, dataset)
    if np.prod(frames[0].shape, dtype=float) > MAX_VOXELS:
        raise DicomError(f"A frame must have at most {MAX_VOXELS} pixels. Got {frames[0].shape}.")
    owners = None
    if text(dataset, "SegmentationType") != "LABELMAP":
        owners = [
            items(own, "SegmentIdentificationSequence") or items(shared, "SegmentIdentificationSequence")
            for own in items(dataset, "PerFrameFunctionalGroupsSequence")
        ]
        if not all(owners):
            raise DicomError("A frame of the segmentation names no segment.")
        owners = [number(owner[0], "ReferencedSegmentNumber") for owner in owners]
    regions = []
    for segment in items(dataset, "SegmentSequence"):
        own_number = int(number(segment, "SegmentNumber", 0))
        kinds = items(segment, "SegmentedPropertyTypeCodeSequence") or [{}]
        name = f"{text(segment, 'SegmentLabel')} {text(kinds[0], 'CodeMeaning')}".strip()
        own = [f for f, n in zip(frames, owners, strict=True) if n == own_number] if owners else frames
        tracking = text(segment, "TrackingUID"), text(segment, "TrackingID")
        if own_number > 0 and own:
            draw = partial(_draw_segment, path, dataset, own, own_number)
            regions.append(Region(name, "", draw, own_number, tracking))
    return regions


def _draw_segment(path, dataset, frames, number, shape, affine, notes, *, resample=False):
    """Draw a segment on a grid of the same voxels, or with `resample` on any."""
    with reading("The pixels of the segmentation", path):
        form, threshold = text(dataset, "SegmentationType"), 1
        if form == "FRACTIONAL":
            threshold = max(1, numbers(dataset, "MaximumFractionalValue", 1)[0] / 2)
        planes = []
        for frame, pixels in zip(frames, _pixels(dataset, frames), strict=True):
            if pixels.shape != frame.shape[::-1]:
                raise DicomError(f"A segmentation must hold one value a pixel. Got shape {pixels.shape}.")
            rows, columns = np.nonzero(pixels == number if form == "LABELMAP" else pixels >= threshold)
            if rows.size:
                planes.append((rows, columns, LPS_TO_RAS @ frame.affine))
        if not resample:
            return _paste(planes, shape, affine)
        normal = np.cross(*(LPS_TO_RAS @ frames[0].affine)[:3, :2].T)
        voxel = np.abs(normal @ affine[:3, :3]).max() / np.linalg.norm(normal)
        thickness = _frame_distance(dataset, frames) or voxel
        if abs(thickness - voxel) < 0.1 * voxel:
            with contextlib.suppress(DicomError):
                return _paste(planes, shape, affine)
        rings = [ring for plane in planes for ring in _outlines(*plane)]
        return mask_of_contours(rings, shape, affine, thickness=thickness)


def _frame_distance(dataset, frames):
    """Return the smallest distance (mm) of two frames of a segment, else what the file states, or None."""
    normal = np.cross(*frames[0].affine[:3, :2].T)
    normal /= np.linalg.norm(normal)
    gaps = np.diff(np.sort([frame.affine[:3, 3] @ normal for frame in frames]))
    if (gaps > 0.01).any():
        return min(gaps[gaps > 0.01].min(), THICKEST_MM)
    shared = (items(dataset, "SharedFunctionalGroupsSequence") or [{}])[0]
    own = (items(dataset, "PerFrameFunctionalGroupsSequence") or [{}])[0]
    measures = (items(shared, "PixelMeasuresSequence") or items(own, "PixelMeasuresSequence") or [{}])[0]
    stated = [numbers(measures, name, 1, (0,))[0] for name in ("SpacingBetweenSlices", "SliceThickness")]
    return next((size for size in stated if 0 < size <= THICKEST_MM), None)


def _pixels(dataset, frames):
    """Yield the stored pixels (rows, columns) of frames of a SEG."""
    from pydicom.pixels import iter_pixels

    indices = [f.index or 0 for f in frames]
    if numbers(dataset, "BitsAllocated", 1)[0] != 1 or dataset.file_meta.TransferSyntaxUID.is_compressed:
        yield from iter_pixels(dataset, indices=indices)
        return
    packed, size = np.frombuffer(dataset.PixelData, np.uint8), int(np.prod(frames[0].shape))
    for i in indices:  # frames follow each other bit by bit, also within a byte
        first, last = i * size, (i + 1) * size
        bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 :][:size].reshape(frames[0].shape[::-1])


def _paste(planes, shape, affine):
    """Lay pixels (rows, columns, affine of the plane) onto a grid of the same voxels; bool (nx, ny, nz)."""
    mask = np.zeros(shape, dtype=bool)
    for rows, columns, own in planes:
        # A frame is placed by its own position: gaps, crops and other axis orders then need no care
        to_grid = np.linalg.inv(affine) @ own
        voxels = np.stack([columns, rows, 0 * rows, 0 * rows + 1]).T @ to_grid.T[:, :3]
        index = np.round(voxels).astype(int)
        aligned = np.allclose(np.abs(to_grid[:3, :2]).sum(axis=0), 1, atol=0.02)
        if not aligned or np.abs(voxels - index).max() > 0.1:
            raise DicomError("The segmentation does not lie on the voxels of its reference series.")
        if (index < 0).any() or (index >= shape).any():
            raise DicomError("The segmentation reaches out of its reference series.")
        mask[tuple(index.T)] = True
    return mask


def _outlines(rows, columns, affine):
    """Return the outlines (n, 3) in RAS+ mm of pixels of a plane, halfway between their centers."""
    from contourpy import contour_generator

    start = rows.min() - 1, columns.min() - 1
    plane = np.zeros((np.ptp(rows) + 3, np.ptp(columns) + 3))
    plane[rows - start[0], columns - start[1]] = 1
    generator = contour_generator(z=plane, name="serial", fill_type="OuterOffset")
    rings = []
    for points, offsets in zip(*generator.filled(0.5, 2), strict=True):
        for first, last in itertools.pairwise(offsets):
            ring = points[first : last - 1] + np.array([start[1], start[0]])
            rings.append(ring @ affine[:3, :2].T + affine[:3, 3])
    return rings
