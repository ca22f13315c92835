"""Scans in memory, in RAS+ order: what the label-free tests change, and how they embed the result."""

from dataclasses import dataclass

import numpy as np

from tumorsim.geometry import crop_slices, ras_affine, ras_box, select_mask, spacing_from_affine, to_ras
from tumorsim.preprocessing import normalize_intensity, resample
from tumorsim.records import Case, Cohort, Tumor, group_by_case
from tumorsim.records.columns import MEASURES

__all__ = [
    "Scan",
    "brain_level",
    "check_cohort",
    "copied",
    "distances_to_others",
    "embed",
    "embed_by_case",
    "largest_lesions",
    "moved",
    "read_scan",
    "regrid",
    "tumors_of",
]


@dataclass(frozen=True)
class Scan:
    """A scan with its axes in the nearest RAS+ order.

    Attributes
    ----------
    image : ndarray of shape (x, y, z), dtype=float32
    mask : ndarray of shape (x, y, z), or None
    affine : ndarray of shape (4, 4)
    boxes : ndarray of shape (n, 2, 3), dtype=int64
    """

    image: np.ndarray
    mask: np.ndarray | None
    affine: np.ndarray
    boxes: np.ndarray

    @property
    def spacing(self):
        """Millimetres per voxel, shape (3,)."""
        return spacing_from_affine(self.affine)


def check_cohort(cohort):
    """Return `cohort` as a `Cohort` with tumors in it."""
    cohort = cohort if isinstance(cohort, Cohort) else Cohort(cohort)
    if not len(cohort):
        raise ValueError("'cohort' must hold at least one tumor. Got none.")
    return cohort


def read_scan(case, boxes=()):
    """Read a case and put it, its mask and boxes (n, 2, 3) in RAS+ order."""
    mask = case.load_mask()
    boxes = [ras_box(box, case.shape, case.affine) for box in boxes]
    return Scan(
        to_ras(np.asarray(case.load_image(), dtype=np.float32), case.affine),
        None if mask is None else to_ras(mask, case.affine),
        ras_affine(case.shape, case.affine)[1],
        np.array(boxes, dtype=np.int64).reshape(-1, 2, 3),
    )


def tumors_of(scan, tumors):
    """Return `tumors` of one case as tumors of `scan`, a new case in memory."""
    case = Case(
        (scan.image, scan.affine),
        None if scan.mask is None else (scan.mask, scan.affine),
        case_id=tumors[0].case.case_id,
        patient_id=tumors[0].patient_id,
    )
    return [copied(tumor, case, box) for tumor, box in zip(tumors, scan.boxes, strict=True)]


def copied(tumor, case, bbox, *, labels=None):
    """Return `tumor` in another case and box; measures that it carried are dropped, since they may differ."""
    stale = {*MEASURES, "measured_from"}
    return Tumor(
        case,
        bbox,
        tumor_id=tumor.tumor_id,
        labels=tumor.labels if labels is None else labels,
        mask_value=tumor.mask_value,
        metadata={name: value for name, value in tumor.metadata.items() if name not in stale},
    )


def regrid(scan, spacing, tumors):
    """Return `scan` on voxels of `spacing` mm that start at the same edge.

    The image is resampled linearly, anti-aliased where it coarsens; a voxel of the mask has the value at its
    center, and boxes hold the voxels whose centers they held.
    """
    spacing = np.asarray(spacing, dtype=np.float64)
    ratio = spacing / scan.spacing
    shape = np.maximum(1, np.ceil(np.array(scan.image.shape) / ratio - 1e-3)).astype(np.int64)
    affine = scan.affine.copy()
    affine[:3, :3] = scan.affine[:3, :3] * ratio
    affine[:3, 3] += (affine[:3, :3] - scan.affine[:3, :3]) @ np.full(3, 0.5)  # equal edges, not centers
    image = resample(scan.image, scan.spacing, spacing, tuple(shape.tolist()))
    centers = [(np.arange(n) + 0.5) * r for n, r in zip(shape, ratio, strict=True)]
    return _regridded(scan, image, affine, centers, scan.boxes / ratio, tumors)


def moved(scan, axis, shift_mm, tumors):
    """Return `scan` with voxels whose centers lie `shift_mm` further along `axis`, linearly interpolated.

    As many as before: the first or last ones repeat the end of the scan.
    """
    n, steps = scan.image.shape[axis], shift_mm / scan.spacing[axis]
    position = np.clip(np.arange(n) + steps, 0, n - 1)
    low = np.minimum(np.floor(position).astype(np.int64), max(n - 2, 0))
    share = (position - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    high = np.minimum(low + 1, n - 1)
    image = scan.image.take(low, axis) * (1 - share) + scan.image.take(high, axis) * share
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, axis] * steps
    centers = [np.arange(size) + 0.5 for size in scan.image.shape]
    centers[axis] = centers[axis] + steps
    edges = scan.boxes.astype(np.float64)
    edges[:, :, axis] -= steps
    return _regridded(scan, image, affine, centers, edges, tumors)


def _regridded(scan, image, affine, centers, edges, tumors):
    """Return a scan from its new image, centers of new voxels in old ones and edges of boxes (n, 2, 3)."""
    shape = np.array(image.shape)
    edges = np.ceil(edges - 0.5 - 1e-6)  # centers inside; 1e-6: edges on the grid stay despite rounding
    start = np.clip(edges[:, 0], 0, shape - 1)
    boxes = np.stack([start, np.clip(edges[:, 1], start + 1, shape)], axis=1).astype(np.int64)
    mask = None
    if scan.mask is not None:
        nearest = [
            np.clip(np.floor(c + 1e-6), 0, n - 1).astype(np.int64)
            for c, n in zip(centers, scan.mask.shape, strict=True)
        ]
        mask = scan.mask[np.ix_(*nearest)]
        for tumor, old, new in zip(tumors, scan.boxes, boxes, strict=True):
            _keep_a_voxel(tumor, scan.mask[crop_slices(old)], mask[crop_slices(new)])
    return Scan(image, mask, affine, boxes)


def _keep_a_voxel(tumor, old, new):
    """Set the middle voxel of `new`, a view, where a lesion of `old` fell between the centers."""
    values = old[select_mask(old, tumor.mask_value)]
    if values.size and not np.isin(new, values).any():
        new[tuple(n // 2 for n in new.shape)] = values[0]


def brain_level(image, spacing):
    """Return the intensity of air, and how far above it the median of the brain lies; see `Preprocessing`."""
    scaled = normalize_intensity(image, spacing)
    usable = np.where((scaled > 0) & (scaled < 10), scaled, np.nan)  # beyond lies what it cuts or compresses
    low = np.unravel_index(np.nanargmin(usable), usable.shape)
    high = np.unravel_index(np.nanargmax(usable), usable.shape)
    unit = float(image[high] - image[low]) / max(float(scaled[high] - scaled[low]), 1e-6)
    return float(image[low]) - unit * float(scaled[low]), unit


def embed(embedder, tumors):
    """Return embeddings (n, n_features), float64, where an index measures distances."""
    X = np.asarray(embedder.transform(tumors), dtype=np.float64)
    space = getattr(embedder, "space_", None)
    return X if space is None else space.coordinates(X)


def embed_by_case(embedders, cohort, *changes):
    """Return, for each embedder, embeddings (n, n_changes, n_features).

    A change takes the tumors of one case and returns as many. One case at a time is in memory, and changes
    that stay in one case share a pass of the network.
    """
    parts, order = [[] for _ in embedders], []
    for rows in group_by_case(cohort):
        tumors = [cohort[row] for row in rows]
        tumors = _loaded(tumors) if len(embedders) > 1 else tumors
        made = [tumor for change in changes for tumor in change(tumors)]
        order += rows
        for part, embedder in zip(parts, embedders, strict=True):
            part.append(embed(embedder, made).reshape(len(changes), len(rows), -1).swapaxes(0, 1))
    back = np.argsort(order)
    return [np.concatenate(part)[back] for part in parts]


def _loaded(tumors):
    """Return tumors of one case with its image in memory, so that several embedders read it once."""
    case = tumors[0].case
    ids = {"case_id": case.case_id, "patient_id": case.patient_id}
    loaded = Case((case.load_image(), case.affine), case.mask, **ids)
    return [copied(tumor, loaded, tumor.bbox) for tumor in tumors]


def largest_lesions(cohort):
    """Return the largest lesion by volume of every scan, in the order of the cohort."""
    table = cohort.table
    rows = table.sort_values("volume_mm3", kind="stable").groupby(["patient_id", "case_id"]).tail(1).index
    return cohort[np.sort(rows.to_numpy())]


def distances_to_others(cohort, X):
    """Return distances (n, n) between all tumors, and for each the median of those to other patients."""
    from scipy.spatial.distance import cdist

    distances = cdist(X, X)
    patients = cohort.patient_ids.astype(str)
    other = np.where(patients[:, None] == patients, np.nan, distances)
    if np.isnan(other).all(axis=1).any():
        raise ValueError("'cohort' must hold tumors of at least two patients. Got one patient.")
    return distances, np.nanmedian(other, axis=1)
