"""Figures that anybody can take from a tumor and its mask: size, place, brightness."""

import numpy as np

from benchmarks.label_free import head_center
from benchmarks.shapes import depth_inside
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import bbox_from_mask, crop_slices, ras_affine, spacing_from_affine, to_ras
from tumorsim.preprocessing import normalize_intensity
from tumorsim.records import group_by_case

__all__ = ["intensity_features", "lesions", "volume_place_features"]

PLACE_UNIT_MM = 20.0
RIM_MM = 2.0


def volume_place_features(tumors):
    """Return how large a tumor is and where in the head it lies.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        Without a mask, volume and place are those of the box (see `Tumor.measure`).

    Returns
    -------
    ndarray of shape (n_tumors, 4), dtype=float64
        The base-2 logarithm of the diameter in mm of a ball of the tumor's volume; then the centroid less
        `evaluation.head_center`, to the right, front and top, in units of 20 mm. So a distance of 1 is a
        tumor of twice the diameter, or one 20 mm away; the scaling is fixed and depends on no other tumor.

    Raises
    ------
    GeometryError
        If a mask has no voxel in its tumor's box.

    Notes
    -----
    Heads are not registered: a scan that ends above the neck, or a stack of a few slices, has its center
    elsewhere. On such stacks the last column says where the stack was cut, not where the tumor lies.
    """
    rows = np.zeros((len(tumors), 4))
    for members in group_by_case(tumors):
        case = tumors[members[0]].case
        center, mask = head_center(case), case.load_mask()
        for row in members:
            found = tumors[row].measure(mask)
            diameter = (6 / np.pi * found["volume_mm3"]) ** (1 / 3)
            place = np.array([found["x_mm"], found["y_mm"], found["z_mm"]]) - center
            rows[row] = np.log2(diameter), *(place / PLACE_UNIT_MM)
    return rows


def intensity_features(tumors):
    """Return how brightly a tumor enhances, and whether at its rim.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        All with masks.

    Returns
    -------
    ndarray of shape (n_tumors, 5), dtype=float64
        Inside the mask: mean, standard deviation, mean of the rim less mean of the core, 10th and 90th
        percentile. All in units of the brain's median, by `preprocessing.normalize_intensity`. The rim are
        voxels within 2 mm of a voxel outside, or one voxel where voxels are larger; without a core, the rim
        is compared with the whole tumor, which is the rim, hence 0.

    Raises
    ------
    ValueError
        If a tumor has no mask, or its mask no voxel in the box, or an image has one intensity only.
    """
    rows = np.zeros((len(tumors), 5))
    for row, image, inside, spacing in lesions(tumors, margin_mm=0):
        depth = depth_inside(inside, spacing)
        core = depth > 1.001 * max(RIM_MM, spacing.min())  # a thousandth: header spacings are rounded
        rim = inside & ~core
        values = image[inside].astype(np.float64)
        middle = image[core].mean(dtype=np.float64) if core.any() else values.mean()
        edge = image[rim].mean(dtype=np.float64)
        rows[row] = values.mean(), values.std(), edge - middle, *np.percentile(values, (10, 90))
    return rows


def lesions(tumors, *, margin_mm):
    """Yield row, image (float32), voxels (bool) and spacing of each tumor, cut out in RAS+ order.

    The image is in units of the brain's median; a scan is read once.
    """
    for members in group_by_case(tumors):
        case = tumors[members[0]].case
        mask = case.load_mask()
        if mask is None:
            raise ValueError(
                f"Intensities are measured inside a mask. Case '{case.case_id}' has none; leave out tumor "
                f"'{tumors[members[0]].tumor_id}', or draw a mask."
            )
        affine = ras_affine(mask.shape, case.affine)[1]
        spacing = spacing_from_affine(affine)
        image = to_ras(np.asarray(case.load_image(), dtype=np.float32), case.affine)
        image = normalize_intensity(image, spacing)
        for row in members:
            tumor = tumors[row]
            inside = np.zeros(mask.shape, dtype=bool)
            inside[crop_slices(tumor.bbox)] = tumor.select(mask)
            if not inside.any():
                raise GeometryError(
                    f"The mask of case '{case.case_id}' has no voxel of value {tumor.mask_value} in the box "
                    f"of tumor '{tumor.tumor_id}'. Check mask_value."
                )
            inside = to_ras(inside, case.affine)
            box = bbox_from_mask(inside)
            margin = np.ceil(margin_mm / spacing).astype(np.int64)
            box = np.stack([np.maximum(box[0] - margin, 0), np.minimum(box[1] + margin, image.shape)])
            yield row, image[crop_slices(box)], inside[crop_slices(box)], spacing
