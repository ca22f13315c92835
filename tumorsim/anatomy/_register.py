"""Scan → affine map to MNI152."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nibabel.affines import from_matvec
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from tumorsim._validation import check_choice
from tumorsim.anatomy import _fit
from tumorsim.anatomy._fit import CENTER, SCALE, Pose, coarsen, distance, quality_of, tissue_points
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import ras_affine, spacing_from_affine, to_ras
from tumorsim.preprocessing import normalize_intensity

_SPACINGS = (8.0, 4.0)  # mm of the voxels, coarse to fine
_STEPS = (8.0, 5.0)  # mm between the points that are compared on them
_RIGID_STARTS = 3
_RIGID_STEPS = (6.0, 4.0)  # the same, of two scans of one patient
_MARGIN_MM = 6.0  # round a tumor is not compared: edema, displaced tissue
_DARKEST, _BRIGHTEST = 0.4, 1.2  # brain medians: else the edge of fat and air would outweigh the brain's
_ROUNDS = ((8, 8), (3, 20), (2, 15))  # poses refined, and steps: roughly, well, in all parameters
_LEAST_QUALITY = 0.5  # of a registration that is better than the header


@dataclass(frozen=True)
class Registration:
    """How a scan lies in MNI space.

    Attributes
    ----------
    to_mni : ndarray of shape (4, 4)
        RAS+ mm of the scan → MNI mm.
    method : str
        ``"registration"``: twelve parameters, fitted. ``"header"``: axes from the header, position from
        the head's outline, size of an average person, pose the best of a coarse grid.
    quality : float
        How well the template explains the scan's intensities, tumors apart, 0 to 1: a multiple correlation,
        lower where more than a fifth of the brain is out of view or in a tumor.
    spread_mm : float
        How far apart the two best poses put the brain after refinement, on average; NaN for ``"header"``.
    """

    to_mni: np.ndarray
    method: str
    quality: float
    spread_mm: float


def register_to_mni(image, affine, *, ignore=None, method="registration"):
    """Lay a T1c scan on the MNI152 2009a template that nilearn ships.

    Whole heads and stripped brains, thick slices, cropped fields of view and any storage order will do, as
    long as the header's axes are within some 35 degrees of the truth.

    Parameters
    ----------
    image : ndarray of shape (nx, ny, nz)
        Intensities in any unit.
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.
    ignore : ndarray of shape (nx, ny, nz), dtype=bool, optional
        Tumors: they and 6 mm round them are not compared with the template.
    method : {"registration", "header"}, default="registration"
        ``"header"`` does without refinement, in a fifth of the time. A registration of quality below 0.5
        is dropped for it.

    Returns
    -------
    Registration

    Raises
    ------
    GeometryError
        If the image has one intensity only.
    ValueError
        If `method` is unknown.

    Notes
    -----
    ``docs/places.md`` says what explains the scan. Poses on a grid are ranked; Gauss-Newton steps refine the
    best, the two best of those in twelve parameters.

    References
    ----------
    Registration by weights of tissues and pose at once: Friston et al., Hum Brain Mapp 3, 165-189, 1995;
    Ashburner et al., NeuroImage 6, 344-352, 1997 (priors). Template: Fonov et al., NeuroImage 54, 313-327,
    2011.
    """
    check_choice(method, "method", ("registration", "header"))
    with threadpool_limits(1, user_api="blas"):  # on matrices this small threads wait more than they work
        levels, middle = _prepare(image, affine, ignore)
        starts = _rank_starts(levels[0], middle)
        if method == "registration":
            best, second = _refine(starts, levels)
            quality = quality_of(best, levels[-1], tissue_points(_STEPS[-1]))
            if quality >= _LEAST_QUALITY:
                return Registration(np.linalg.inv(best), method, quality, distance(best, second))
        quality = quality_of(starts[0], levels[-1], tissue_points(_STEPS[-1]))
        return Registration(np.linalg.inv(starts[0]), "header", quality, np.nan)


def register_dates(before, after):
    """Lay a later scan of a patient on an earlier one, rigidly; tumors are left out of the fit.

    Parameters
    ----------
    before, after : tuple of (image, affine, ignore)
        As in `register_to_mni`.

    Returns
    -------
    to_after : ndarray of shape (4, 4)
        RAS+ mm of the earlier scan → RAS+ mm of the later one, turned and shifted only.
    quality : float
        How well a piecewise linear function of the earlier scan's brain explains the later one's, 0 to 1.
    """
    to_mni = register_to_mni(*before[:2], ignore=before[2]).to_mni
    from_mni = np.linalg.inv(to_mni)
    with threadpool_limits(1, user_api="blas"):
        levels, middle = _prepare(*after)
        starts = _rank_starts(levels[0], middle)[:_RIGID_STARTS]  # of a coarse grid
        found = [_nearest_rigid(start @ to_mni, from_mni) @ from_mni for start in starts] + [from_mni]
        for first, second, step in zip(_prepare(*before)[0], levels, _RIGID_STEPS, strict=True):
            compared = _fit.scan_points(from_mni, first, step)
            found = [_fit.fit(start, second, compared, Pose(rigid=True), 20) for start in found]
            found = sorted(found, key=lambda to_scan: -quality_of(to_scan, second, compared))[:2]
        return found[0] @ to_mni, quality_of(found[0], second, compared)


def _nearest_rigid(linear, from_mni):
    """Return the rigid map (4, 4) that puts the brain's middle where an affine one (4, 4) does."""
    left, _, right = np.linalg.svd(linear[:3, :3])
    middle = from_mni[:3, :3] @ CENTER + from_mni[:3, 3]
    rigid = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    return from_matvec(rigid, linear[:3, :3] @ middle + linear[:3, 3] - rigid @ middle)


@dataclass
class _Level:
    """A grid in RAS+ order: `image` (x, y, z), `affine` (4, 4), `valid` voxels or None."""

    image: np.ndarray
    affine: np.ndarray
    valid: np.ndarray | None

    @cached_property
    def slope(self):
        """Change of intensity per mm along R, A and S; three arrays (x, y, z)."""
        sides = enumerate(self.image.shape)
        a_voxel = [np.gradient(self.image, axis=a) if n > 1 else 0 * self.image for a, n in sides]
        to_mm = np.linalg.inv(self.affine[:3, :3])
        return [sum(to_mm[v, axis] * a_voxel[v] for v in range(3)) for axis in range(3)]

    def at(self, spacing):
        """Return the level on coarser voxels."""
        image, affine = coarsen(self.image, self.affine, spacing)
        valid = self.valid
        if valid is not None:
            valid = coarsen(valid.astype(np.float32), self.affine, spacing)[0] > 0.5
        return _Level(image, affine, valid)


def _prepare(image, affine, ignore):
    """Return a scan on `_SPACINGS`, a list of `_Level` of cut intensities, and its `_guess_middle`."""
    if image.min() == image.max():
        raise GeometryError("The image has one intensity only, so there is nothing to register.")
    ras = ras_affine(image.shape, affine)[1]
    fine, fine_affine = coarsen(to_ras(image, affine), ras, _SPACINGS[-1])
    spacing = spacing_from_affine(fine_affine)
    fine = normalize_intensity(fine, spacing)
    middle = _guess_middle(*coarsen(fine, fine_affine, _SPACINGS[0]))  # cut, air is as bright as the head
    fine = np.clip(fine, _DARKEST, _BRIGHTEST)
    valid = None
    if ignore is not None and ignore.any():
        share = coarsen(to_ras(ignore.astype(np.float32), affine), ras, _SPACINGS[-1])[0]
        valid = distance_transform_edt(share < 0.05, sampling=spacing) > _MARGIN_MM
    level = _Level(fine, fine_affine, valid)
    return [*(level.at(spacing) for spacing in _SPACINGS[:-1]), level], middle


def _rank_starts(level, middle):
    """Return maps from MNI mm to those of the scan (4, 4), rigid but for an average size, best first."""
    turns = [(p, r, y) for p in (-36, -24, -12, 0, 12, 24, 36) for r in (-12, 0, 12) for y in (-12, 0, 12)]
    shifts = [(0, y, z) for y in (-15, 0, 15) for z in (-45, -30, -15, 0, 15, 30)]
    ranked = []
    for turn in turns:
        linear = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() / SCALE
        for shift in shifts:
            to_scan = from_matvec(linear, middle + shift - linear @ CENTER)
            ranked.append((quality_of(to_scan, level, tissue_points(12.0), robust=False), to_scan))
    ranked.sort(key=lambda pair: -pair[0])
    chosen = []
    for _, to_scan in ranked:
        if len(chosen) < _ROUNDS[0][0] and all(distance(to_scan, other) > 10 for other in chosen):
            chosen.append(to_scan)
    return chosen


def _guess_middle(image, affine):
    """Return where the middle of the brain is likely to be, from the outline of the upper head; (3,) mm."""
    head = image > min(0.3, image.max() / 2)  # of the brain's median
    pieces, n = label(head)
    if n > 1:
        head = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    points = np.argwhere(head) @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.5)
    upper = points[points[:, 2] > top - 150]
    return np.append(np.percentile(upper[:, :2], (2, 98), axis=0).mean(axis=0), top - 75)


def _refine(found, levels):
    """Return the two best maps (4, 4) of MNI mm to those of the scan after refinement, best first."""
    coarse, compared = levels[0], tissue_points(_STEPS[0])
    for n_poses, n_steps in _ROUNDS[:2]:
        found = [_fit.fit(to_scan, coarse, compared, Pose(), n_steps) for to_scan in found[:n_poses]]
        found.sort(key=lambda to_scan: -quality_of(to_scan, coarse, compared))
    n_poses, n_steps = _ROUNDS[2]
    refined = []
    for first in found[:n_poses]:
        model, to_scan = Pose(first), first
        for level, step in zip(levels, _STEPS, strict=True):
            to_scan = _fit.fit(to_scan, level, tissue_points(step), model, n_steps)
        refined.append(to_scan)
    return sorted(refined, key=lambda to_scan: -quality_of(to_scan, levels[-1], tissue_points(_STEPS[-1])))
