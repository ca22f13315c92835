"""What an embedder must beat: figures that anybody can take from a tumor and its mask."""

import contextlib
import logging
import warnings

import numpy as np

from tumorsim.evaluation import head_center
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import (
    bbox_from_mask,
    crop_slices,
    depth_inside,
    ras_affine,
    spacing_from_affine,
    to_ras,
)
from tumorsim.preprocessing import normalize_intensity, resample
from tumorsim.records import group_by_case

__all__ = ["intensity_features", "radiomics_features", "volume_place_features"]

PLACE_UNIT_MM = 20.0
RIM_MM = 2.0
RADIOMICS_MM = 2.0  # also the unit of length of radiomics' shape features
RADIOMICS_MARGIN_MM = 8.0
RADIOMICS_BINS = 32
RADIOMICS_FAMILIES = ("morph", "stat", "ih", "ivh", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm")
RADIOMICS_COLUMNS = "^(morph|stat|ih|ivh|cm|rlm|szm|dzm|ngt|ngl)_"  # the others describe scan and settings


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
    for row, image, inside, spacing in _lesions(tumors, margin_mm=0):
        depth = depth_inside(inside, spacing)
        core = depth > 1.001 * max(RIM_MM, spacing.min())  # a thousandth: header spacings are rounded
        rim = inside & ~core
        values = image[inside].astype(np.float64)
        middle = image[core].mean(dtype=np.float64) if core.any() else values.mean()
        edge = image[rim].mean(dtype=np.float64)
        rows[row] = values.mean(), values.std(), edge - middle, *np.percentile(values, (10, 90))
    return rows


def radiomics_features(tumors, *, library="mirp"):
    """Return the standard radiomics features of the Image Biomarker Standardisation Initiative.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        All with masks.
    library : {"mirp"}, default="mirp"
        Who computes them; ``pip install tumorsim[radiomics]``.

    Returns
    -------
    ndarray of shape (n_tumors, n_features), dtype=float64
        Shape, first-order statistics, histograms and six texture families, in the library's order. A figure
        that is not defined (a texture without contrast, say) is 0; the columns depend on no other tumor.

    Raises
    ------
    ImportError
        If the library is not installed.
    ValueError
        If `library` is unknown, or a tumor has no mask, or its mask no voxel in the box, or an image has one
        intensity only.

    Notes
    -----
    T1c images have no calibrated unit: intensities are divided by the brain's median, and for textures the
    tumor's own range is cut into 32 bins, as the initiative advises for such images. Image and mask are
    resampled to 2 mm in RAS+ order, linearly, and textures are counted in three dimensions, so that one rule
    serves all scans; across slices of 7 mm, however, texture is that of the interpolation. Lengths are in
    units of 2 mm. Local intensity peaks, whose ball is defined in mm, are left out. Scale columns, as
    `sklearn.preprocessing.StandardScaler` does, before distances are taken.

    References
    ----------
    A. Zwanenburg et al., "The Image Biomarker Standardization Initiative", Radiology 295, 2020
    (arXiv:1612.07003). A. Zwanenburg and S. Löck, "MIRP: A Python package for standardised radiomics",
    Journal of Open Source Software 9(99), 2024.
    """
    if library != "mirp":
        raise ValueError(f"'library' must be 'mirp'. Got {library!r}.")
    try:
        from mirp import extract_features_generator
    except ImportError as err:
        raise ImportError("Radiomics need mirp. Run 'pip install tumorsim[radiomics]'.") from err
    rows = [None] * len(tumors)
    for row, image, inside, spacing in _lesions(tumors, margin_mm=RADIOMICS_MARGIN_MM):
        image, inside = _on_radiomics_grid(image, inside, spacing)
        with _quiet():
            (table,) = extract_features_generator(  # axes (z, y, x), voxels of length 1
                image=np.ascontiguousarray(image.T),
                mask=np.ascontiguousarray(inside.T).astype(np.uint8),
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=RADIOMICS_BINS,
                base_feature_families=list(RADIOMICS_FAMILIES),
            )
        rows[row] = _figures(table)
    features = np.array(rows, dtype=np.float64)
    return np.where(np.isfinite(features), features, 0.0)


def _lesions(tumors, *, margin_mm):
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


def _on_radiomics_grid(image, inside, spacing):
    """Return image (float32) and mask (bool) at 2 mm, with a border of one voxel outside the tumor."""
    grid = (RADIOMICS_MM,) * 3
    shape = tuple(int(n) for n in np.ceil(np.array(image.shape) * spacing / RADIOMICS_MM - 1e-3))
    share = resample(inside.astype(np.float32), spacing, grid, shape)
    image = resample(np.ascontiguousarray(image), spacing, grid, shape)
    inside = share >= min(0.5, share.max())  # a lesion smaller than a voxel keeps its fullest
    return np.pad(image, 1, mode="edge"), np.pad(inside, 1)


@contextlib.contextmanager
def _quiet():
    """Keep mirp from setting up the caller's logging, which prints to stdout, and from warning."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)  # logging.basicConfig does nothing where there is one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of undefined figures, which become 0
            yield
    finally:
        root.removeHandler(handler)


def _figures(table):
    """Return the feature columns of mirp's table of one lesion as floats."""
    return table.filter(regex=RADIOMICS_COLUMNS).iloc[0].to_numpy(dtype=np.float64)
