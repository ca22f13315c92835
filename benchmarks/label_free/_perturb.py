"""The same tumors on another grid, with noise, in other boxes, in another field of view."""

import zlib
from dataclasses import replace

import numpy as np
from scipy.ndimage import affine_transform, distance_transform_edt

from benchmarks._checks import check_choice
from benchmarks.label_free._scans import (
    brain_level,
    check_cohort,
    copied,
    moved,
    read_scan,
    regrid,
    tumors_of,
)
from benchmarks.shapes import rounded_box
from tumorsim.anatomy import register_to_mni
from tumorsim.geometry import crop_slices, select_mask
from tumorsim.records import Case, Cohort, group_by_case

__all__ = ["PERTURBATIONS", "perturb"]

NOISE = 0.03  # of the brain's median
BOX_SHARE = 0.2  # of a box's sides
SHIFT_MM = 3.0
THICK_MM = (1.0, 1.0, 5.0)
MARGIN_MM = 4.0  # kept around brain and tumors when the skull is removed


def perturb(cohort, kind, *, random_state=None):
    """Return the same tumors as another scanner, another reader or another file format might deliver them.

    Parameters
    ----------
    cohort : Cohort or sequence of Tumor
    kind : {"axes", "1mm", "2mm", "thick", "noise", "box_larger", "box_smaller", "box_shifted", \
"shifted_slices", "field_of_view", "field_of_view_40", "stripped"}
        ========================  =========================================================================
        ``axes``                  Another order and direction of the storage axes, with a true header. It
                                  must change nothing.
        ``1mm``, ``2mm``          Resampled to isotropic voxels.
        ``thick``                 Resampled to 1 × 1 × 5 mm, 5 mm from foot to head.
        ``noise``                 Gaussian noise on everything brighter than a twentieth of the brain, with
                                  a standard deviation of 3 % of the brain's median.
        ``box_larger``,           Sides of the box times 1.2 and 0.8 about its center, in whole voxels, so
        ``box_smaller``           that a side of one or two voxels stays as it is.
        ``box_shifted``           The box moved by 0.2 of its side on each axis, forward or back at random.
        ``shifted_slices``        Slices 3 mm up or down at random, interpolated between those that are
                                  there.
        ``field_of_view``,        20 and 40 mm less at both ends of the slice direction, as far as no tumor
        ``field_of_view_40``      of `cohort` is cut.
        ``stripped``              Air wherever neither the brain of MNI152, laid on the scan, nor a tumor
                                  is nearer than 4 mm: about what skull-stripping leaves.
        ========================  =========================================================================

        The slice direction is that of the longest voxel edge, foot to head among equals.
    random_state : int, optional
        Seed. What happens to a scan depends on the seed and its ids only, not on the other scans.

    Returns
    -------
    Cohort
        The same ids and labels in the order given. Masks and boxes follow the image. Arrays are in memory:
        for many large scans, perturb a part of the cohort at a time.

    Raises
    ------
    ValueError
        If `kind` is unknown or `cohort` is empty.

    Notes
    -----
    ``stripped`` is as good as the registration (`anatomy.register_to_mni`), to about 5 mm: some dura and bone
    stay, and some cortex is lost, as with programs for skull-stripping. It takes seconds per scan.

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> cohort = make_cohort(1, random_state=0, spacing=4.0)
    >>> perturb(cohort, "2mm")[0].case.spacing.round(3).tolist()
    [2.0, 2.0, 2.0]
    """
    check_choice(kind, "kind", PERTURBATIONS)
    cohort = check_cohort(cohort)
    seed = np.random.SeedSequence(random_state).entropy
    tumors = [None] * len(cohort)
    for rows in group_by_case(cohort):
        case = cohort[rows[0]].case
        rng = np.random.default_rng([seed, zlib.crc32(f"{case.patient_id}\n{case.case_id}".encode())])
        for row, tumor in zip(rows, _KINDS[kind]([cohort[row] for row in rows], rng), strict=True):
            tumors[row] = tumor
    return Cohort(tumors)


def _axes(tumors, rng):
    """Store image and mask along other axes."""
    case = tumors[0].case
    order, flips = np.arange(3), np.zeros(3, bool)
    while (order == np.arange(3)).all() and not flips.any():
        order, flips = rng.permutation(3), rng.random(3) < 0.5
    shape = np.array(case.shape)[order]
    change = np.zeros((4, 4))
    change[order, range(3)] = np.where(flips, -1, 1)
    change[order, 3] = np.where(flips, shape - 1, 0)
    change[3, 3] = 1
    affine = case.affine @ change
    steps = tuple(slice(None, None, -1) if f else slice(None) for f in flips)
    arrays = [case.load_image(), case.load_mask()]
    stored = [
        None if a is None else (np.ascontiguousarray(a.transpose(order)[steps]), affine) for a in arrays
    ]
    other = Case(*stored, case_id=case.case_id, patient_id=case.patient_id)
    boxes = []
    for tumor in tumors:
        start, stop = tumor.bbox[:, order]
        boxes.append(np.stack([np.where(flips, shape - stop, start), np.where(flips, shape - start, stop)]))
    return [copied(tumor, other, box) for tumor, box in zip(tumors, boxes, strict=True)]


def _resampled(spacing):
    """Return the perturbation to voxels of `spacing` mm in RAS+ order."""

    def change(tumors, rng):
        return tumors_of(regrid(_read(tumors), np.broadcast_to(spacing, 3), tumors), tumors)

    return change


def _noise(tumors, rng):
    """Add noise where there is tissue."""
    scan = _read(tumors)
    air, unit = brain_level(scan.image, scan.spacing)
    noise = rng.standard_normal(scan.image.shape, dtype=np.float32) * np.float32(NOISE * unit)
    image = np.where(scan.image > air + 0.05 * unit, scan.image + noise, scan.image)
    return tumors_of(replace(scan, image=image), tumors)


def _box_scaled(factor):
    """Return the perturbation that stretches boxes about their centers."""

    def change(tumors, rng):
        boxes = []
        for tumor in tumors:
            half = factor * (tumor.bbox[1] - tumor.bbox[0]) / 2
            center = tumor.bbox.mean(axis=0)
            boxes.append(rounded_box(np.stack([center - half, center + half]), tumor.case.shape))
        return [copied(tumor, tumor.case, box) for tumor, box in zip(tumors, boxes, strict=True)]

    return change


def _box_shifted(tumors, rng):
    """Move boxes, each in a direction of its own; at the border as far as the image goes."""
    made = []
    for tumor in tumors:
        side = tumor.bbox[1] - tumor.bbox[0]
        step = np.round(BOX_SHARE * side * rng.choice((-1, 1), 3)).astype(np.int64)
        start = np.clip(tumor.bbox[0] + step, 0, np.array(tumor.case.shape) - side)
        made.append(copied(tumor, tumor.case, np.stack([start, start + side])))
    return made


def _shifted_slices(tumors, rng):
    """Take slices between the slices."""
    scan = _read(tumors)
    shift = SHIFT_MM * float(rng.choice((-1, 1)))
    return tumors_of(moved(scan, _slice_axis(scan.spacing), shift, tumors), tumors)


def _cropped(millimetres):
    """Return the perturbation that leaves out the ends of the scan."""

    def change(tumors, rng):
        scan = _read(tumors)
        axis = _slice_axis(scan.spacing)
        less = round(millimetres / scan.spacing[axis])
        low = min(less, scan.boxes[:, 0, axis].min())
        high = max(scan.image.shape[axis] - less, scan.boxes[:, 1, axis].max())
        cut = tuple(slice(low, high) if a == axis else slice(None) for a in range(3))
        affine, boxes = scan.affine.copy(), scan.boxes.copy()
        affine[:3, 3] += low * affine[:3, axis]
        boxes[:, :, axis] -= low
        mask = None if scan.mask is None else scan.mask[cut]
        return tumors_of(replace(scan, image=scan.image[cut], mask=mask, affine=affine, boxes=boxes), tumors)

    return change


def _stripped(tumors, rng):
    """Take off what is neither brain nor tumor."""
    from nilearn.datasets import load_mni152_brain_mask

    scan = _read(tumors)
    lesions = np.zeros(scan.image.shape, dtype=bool)
    for tumor, box in zip(tumors, scan.boxes, strict=True):
        inside = crop_slices(box)
        lesions[inside] |= True if scan.mask is None else select_mask(scan.mask[inside], tumor.mask_value)
    to_mni = register_to_mni(scan.image, scan.affine, ignore=lesions).to_mni
    template = load_mni152_brain_mask(resolution=2)
    move = np.linalg.inv(template.affine) @ to_mni @ scan.affine
    brain = template.get_fdata(dtype=np.float32)
    brain = affine_transform(brain, move[:3, :3], move[:3, 3], output_shape=scan.image.shape, order=1)
    kept = distance_transform_edt((brain < 0.5) & ~lesions, sampling=scan.spacing) <= MARGIN_MM
    return tumors_of(replace(scan, image=np.where(kept, scan.image, scan.image.min())), tumors)


_KINDS = {
    "axes": _axes,
    "1mm": _resampled(1.0),
    "2mm": _resampled(2.0),
    "thick": _resampled(THICK_MM),
    "noise": _noise,
    "box_larger": _box_scaled(1 + BOX_SHARE),
    "box_smaller": _box_scaled(1 - BOX_SHARE),
    "box_shifted": _box_shifted,
    "shifted_slices": _shifted_slices,
    "field_of_view": _cropped(20.0),
    "field_of_view_40": _cropped(40.0),
    "stripped": _stripped,
}
PERTURBATIONS = tuple(_KINDS)


def _read(tumors):
    """Read the scan of `tumors`, which share a case."""
    return read_scan(tumors[0].case, [tumor.bbox for tumor in tumors])


def _slice_axis(spacing):
    """Return the RAS+ axis of the longest voxel edge, foot to head among equals."""
    return int(max(range(3), key=lambda axis: (round(float(spacing[axis]), 3), axis)))
