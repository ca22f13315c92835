"""Masks → lesions: connected components, merged where they nearly touch."""

import warnings

import numpy as np

from tumorsim._validation import check_mask_value, check_real
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import bbox_from_mask, crop_slices, select_mask
from tumorsim.records import Cohort, Tumor
from tumorsim.records.columns import IN_SCAN

_TUMOR_MM3 = 14.0  # what is smaller is no tumor of the scan, unless asked for
_MOST_PIECES = 10_000  # more is a thresholded image, not a mask
_SLACK = 1e-6  # spacings come from float32 headers: 14 voxels of 1 mm must count as 14 mm3


def tumors_from_case(
    case, *, mask_value=">0", min_volume_mm3=14.0, merge_distance_mm=2.0, by_value=False, labels=None,
    metadata=None,
):  # fmt: skip
    """Return the lesions of a case's mask as a Cohort, measured.

    Parameters
    ----------
    case : Case
        A scan with a mask.
    mask_value : int or str, default=">0"
        Voxels of the mask that are tumor: ``1``, ``"1+3"``, ``">0"``.
    min_volume_mm3 : float, default=14.0
        Smaller lesions are dropped; 14 is a ball of 3 mm. Where all are smaller the largest is kept, with a
        warning.
    merge_distance_mm : float, default=2.0
        Components with a gap below this are one lesion, boxed as their union; 0 merges none, 10 suits ragged
        post-operative rims.
    by_value : bool, default=False
        Each value of the mask (among those of `mask_value`) is one lesion, in however many pieces;
        `merge_distance_mm` then has no use.
    labels, metadata : dict, optional
        Given to every tumor. Size, shape and place are added to `metadata`, so that the mask is read once.

    Returns
    -------
    Cohort
        Tumors ``<case_id>/1``, ``<case_id>/2``, … largest first; by value the number is the value.

    Raises
    ------
    GeometryError
        If there is no mask, it has no voxel of `mask_value`, or it falls into more than 10 000 pieces.

    Notes
    -----
    Components are 26-connected. Gaps are measured between the surfaces of voxels, so that thick slices do not
    count as distance. Pieces are merged before the volume of the whole is compared with `min_volume_mm3`.
    """
    minimum = check_real(min_volume_mm3, "min_volume_mm3", minimum=0)
    distance = check_real(merge_distance_mm, "merge_distance_mm", minimum=0)
    selected = check_mask_value(mask_value)
    if not case.has_mask:
        raise GeometryError(f"Case '{case.case_id}' needs a mask or a box to know its tumors. Got neither.")
    mask = case.load_mask()
    chosen = select_mask(mask, selected)
    if not chosen.any():
        values = [*map(str, np.unique(mask).tolist())]
        got = f"Got values {', '.join(values[:10] + ['…'] * (len(values) > 10))}."
        what = f"The mask of case '{case.case_id}' has no voxel of value {mask_value}."
        raise GeometryError(f"{what} {got} Check mask_value, or leave the scan out.")
    if by_value:
        values = [int(v) for v in np.unique(mask[chosen])]
        boxes = [bbox_from_mask(mask == value) for value in values]
        volumes = np.array([(mask == value).sum() for value in values]) * case.spacing.prod()
        numbers = values
    else:
        boxes, volumes = _merged_components(chosen, case.spacing, distance)
        numbers, values = range(1, len(boxes) + 1), [mask_value] * len(boxes)
    tumors, given = [], {"labels": labels, "metadata": metadata}
    for i in _large_enough(volumes, minimum, f"case '{case.case_id}'"):
        tumor = Tumor(case, boxes[i], tumor_id=f"{case.case_id}/{numbers[i]}", mask_value=values[i], **given)
        tumor.metadata |= tumor.measure(mask) | {"measured_from": "mask"}
        tumors.append(tumor)
    in_scan = max(
        len(tumors), int((volumes >= _TUMOR_MM3 * (1 - _SLACK)).sum())
    )  # whatever of them was asked for
    for tumor in tumors:
        tumor.metadata.setdefault(IN_SCAN, in_scan)
    return Cohort(tumors)


def _large_enough(volumes, minimum, what):
    """Return the indices of `volumes` (n,) that reach `minimum`; if none does, the largest's, and warn."""
    kept = np.flatnonzero(volumes >= minimum * (1 - _SLACK))
    if kept.size or not len(volumes):
        return kept
    largest = int(np.argmax(volumes))
    kept = f"kept the largest, of {volumes[largest]:.2f} mm3. Lower min_volume_mm3 if the others matter."
    warnings.warn(f"Every lesion of {what} is smaller than {minimum:g} mm3; {kept}", stacklevel=3)
    return np.array([largest])


def _merged_components(mask, spacing, distance):
    """Return boxes (n, 2, 3) and volumes (n,) in mm3 of a mask's merged components, largest first."""
    from scipy import ndimage

    frame = bbox_from_mask(mask)
    labels, n_pieces = ndimage.label(mask[crop_slices(frame)], np.ones((3, 3, 3)))
    if n_pieces > _MOST_PIECES:
        rule = f"A mask must have at most {_MOST_PIECES} separate pieces. Got {n_pieces}."
        raise GeometryError(f"{rule} Check that it is a mask, not an image, and check mask_value.")
    volumes = np.bincount(labels.ravel())[1:] * spacing.prod()
    edges = np.array([[(s.start, s.stop) for s in piece] for piece in ndimage.find_objects(labels)])
    starts, stops = edges[..., 0], edges[..., 1]
    group = _merge(labels, starts, stops, spacing, distance)
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    boxes = np.array([[starts[m].min(axis=0), stops[m].max(axis=0)] for m in members]) + frame[0]
    totals = np.array([volumes[m].sum() for m in members])
    order = sorted(range(len(members)), key=lambda i: (-totals[i], boxes[i].tolist()))
    return boxes[order].astype(np.int64), totals[order]


def _merge(labels, starts, stops, spacing, distance):
    """Return a group number for each component (n,), the same for all linked by gaps below `distance` mm."""
    group = np.arange(len(starts))
    if len(group) == 1 or distance == 0:
        return group
    from scipy.spatial import cKDTree

    corners = _surface_corners(labels, spacing)
    limit = distance * (1 - _SLACK)
    for i in range(len(group) - 1):
        gaps = np.maximum(np.maximum(starts[i + 1 :] - stops[i], starts[i] - stops[i + 1 :]), 0) * spacing
        tree = None
        for j in i + 1 + np.flatnonzero(np.linalg.norm(gaps, axis=1) < limit):  # boxes are near
            if group[i] == group[j]:
                continue
            tree = tree or cKDTree(corners[i])
            if tree.query(corners[j], distance_upper_bound=distance)[0].min() < limit:
                group[group == group[j]] = group[i]
    return group


def _surface_corners(labels, spacing):
    """Return for each component the corners of its voxels that lie on its surface, in mm: list of (n, 3).

    The gap between two bricks of one grid is the distance between their nearest corners. Components that
    share a corner are 26-connected, so every corner belongs to one component.
    """
    owner = np.zeros(np.add(labels.shape, 1), labels.dtype)
    touching = np.zeros(owner.shape, np.uint8)
    for offset in np.ndindex(2, 2, 2):
        window = tuple(slice(o, o + n) for o, n in zip(offset, labels.shape, strict=True))
        np.maximum(owner[window], labels, out=owner[window])
        touching[window] += labels > 0
    index = np.nonzero((touching > 0) & (touching < 8))
    order = np.argsort(owner[index], kind="stable")
    points = np.stack(index, axis=1)[order] * spacing
    return np.split(points, np.flatnonzero(np.diff(owner[index][order])) + 1)
