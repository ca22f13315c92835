"""Regional morphometry: volumes and intensities by area of the brain."""

from functools import lru_cache

import numpy as np

from tumorsim.anatomy import region_at, register_case
from tumorsim.geometry import ras_affine, spacing_from_affine, to_ras, to_storage
from tumorsim.preprocessing import normalize_intensity
from tumorsim.records import group_by_case

__all__ = ["AREAS", "morphometry_features"]

AREAS = (
    "frontal", "parietal", "temporal", "occipital", "insula", "cingulate", "deep_gray", "cerebellum",
    "brainstem", "cerebellopontine_angle", "sellar",
)  # fmt: skip
STEP_MM = 4  # of the points at which an area's intensity is taken
NEUTRAL = 1.0  # intensity of an area that is not seen: the median of the brain


def morphometry_features(tumors, *, method="header"):
    """Return which areas of the brain a tumor takes up, and how bright tumor and areas are.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        Without a mask, the ellipsoid in the box stands for the tumor.
    method : {"header", "registration"}, default="header"
        How a scan is laid on MNI152; see `anatomy.register_to_mni`.

    Returns
    -------
    ndarray of shape (n_tumors, 34), dtype=float64
        The base-2 logarithm of the diameter in mm of a ball of the tumor's volume. Then, for each of the 11
        areas (frontal, parietal, temporal, occipital, insula, cingulate, deep_gray, cerebellum, brainstem,
        cerebellopontine_angle, sellar), the share of the tumor that lies in it; for each, the tumor's mean
        intensity in it; for each, the mean intensity of that area of the brain in the whole scan, tumors
        included, at points 4 mm apart. An area is that of the nearest landmark (`anatomy.region_at`).
        Intensities are in units of the brain's median; where there is nothing to average, 1.

    Raises
    ------
    ValueError
        If `method` is unknown.
    GeometryError
        If an image has one intensity only.

    Notes
    -----
    The last 11 columns are the scan's, so that tumors of one scan have them in common. Scale columns, as
    `TumorFeatures` does, before distances are taken.

    References
    ----------
    After the regional volumes and intensities of atlas-based retrieval (reference [8] of arXiv:1810.09369),
    with the areas of `anatomy` in place of a parcellation, and a tumor in the middle.
    """
    rows = np.zeros((len(tumors), 1 + 3 * len(AREAS)))
    for members in group_by_case(tumors):
        case = tumors[members[0]].case
        image, voxels, registration = register_case([tumors[row] for row in members], method=method)
        to_mni = registration.to_mni @ case.affine
        spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
        bright = normalize_intensity(to_ras(np.asarray(image, dtype=np.float32), case.affine), spacing)
        bright = to_storage(bright, case.affine)
        whole = _scan_means(bright, to_mni)
        for row, index in zip(members, voxels, strict=True):
            areas = region_at(_moved(index, to_mni))
            share, means = _by_area(areas, bright[tuple(index.T)])
            diameter = (6 / np.pi * len(index) * case.spacing.prod()) ** (1 / 3)
            rows[row] = np.log2(diameter), *share, *means, *whole
    return rows


def _scan_means(bright, to_mni):
    """Return the mean intensity of each area in a scan (nx, ny, nz), (11,); `to_mni` maps its voxels."""
    points, areas = _brain_points()
    index = np.round(_moved(points, np.linalg.inv(to_mni))).astype(np.int64)
    seen = ((index >= 0) & (index < bright.shape)).all(axis=1)
    return _by_area(areas[seen], bright[tuple(index[seen].T)])[1]


def _by_area(areas, values):
    """Return the share (11,) of the points that lie in each area, and their mean value (11,) there."""
    share, means = np.zeros(len(AREAS)), np.full(len(AREAS), NEUTRAL)
    for i, name in enumerate(AREAS):
        here = areas == name
        if here.any():
            share[i], means[i] = here.mean(), values[here].mean(dtype=np.float64)
    return share, means


@lru_cache(maxsize=1)
def _brain_points():
    """Return points (n, 3) of the template's brain in MNI mm, and their areas (n,)."""
    from nilearn.datasets import load_mni152_brain_mask

    brain = load_mni152_brain_mask(resolution=1)
    inside = np.asarray(brain.dataobj)[::STEP_MM, ::STEP_MM, ::STEP_MM] > 0.5
    points = _moved(STEP_MM * np.argwhere(inside), brain.affine)
    return points, region_at(points)


def _moved(points, affine):
    """Return points (n, 3) under an affine map (4, 4)."""
    return points @ affine[:3, :3].T + affine[:3, 3]
