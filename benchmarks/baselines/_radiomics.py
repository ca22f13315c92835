"""Standard radiomics, by a library that is an extra."""

import contextlib
import logging
import warnings
import weakref

import numpy as np

from benchmarks.baselines._measures import lesions
from tumorsim.preprocessing import resample

__all__ = ["radiomics_features"]

RADIOMICS_MM = 2.0  # also the unit of length of radiomics' shape features
RADIOMICS_MARGIN_MM = 8.0
RADIOMICS_BINS = 32
RADIOMICS_FAMILIES = ("morph", "stat", "ih", "ivh", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm")
RADIOMICS_COLUMNS = "^(morph|stat|ih|ivh|cm|rlm|szm|dzm|ngt|ngl)_"  # the others describe scan and settings
_MEASURED = weakref.WeakKeyDictionary()  # Tumor → its features, which take seconds and are needed again


def radiomics_features(tumors, *, library="mirp"):
    """Return the standard radiomics features of the Image Biomarker Standardisation Initiative.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        All with masks.
    library : {"mirp"}, default="mirp"
        What computes them; ``pip install '.[radiomics]'``.

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
        raise ImportError(
            "Radiomics need mirp. Run pip install '.[radiomics]' in your clone of tumorsim."
        ) from err
    new = [tumor for tumor in dict.fromkeys(tumors) if tumor not in _MEASURED]
    for row, image, inside, spacing in lesions(new, margin_mm=RADIOMICS_MARGIN_MM):
        image, inside = _on_radiomics_grid(image, inside, spacing)
        with _quiet():
            (table,) = extract_features_generator(  # axes (z, y, x), voxels of length 1
                image=np.ascontiguousarray(image.T),
                mask=np.ascontiguousarray(inside.T).astype(np.uint8),
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=RADIOMICS_BINS,
                base_feature_families=list(RADIOMICS_FAMILIES),
            )
        _MEASURED[new[row]] = _figures(table)
    features = np.array([_MEASURED[tumor] for tumor in tumors], dtype=np.float64)
    return np.where(np.isfinite(features), features, 0.0)


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
