"""Scan → affine map to MNI152."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np

from tumorsim._validation import check_choice
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import ras_affine, spacing_from_affine, to_ras
from tumorsim.preprocessing import normalize_intensity, resample

__all__ = ["Registration", "load_template", "register_to_mni"]

_SPACINGS = (8.0, 4.0)  # mm of the voxels, coarse to fine
_STEPS = (8.0, 5.0)  # mm between the points that are compared on them
_CENTER = np.array([0.0, -16.0, 10.0])  # MNI mm, middle of the brain
_SCALE = 1.05  # MNI mm a mm of an average person
_SHELLS_MM = (0, 4, 8, 12, 16, 20)  # outside the brain: fluid, bone, marrow, scalp, air, or nothing at all
_FACE_MM = -20.0  # MNI z below which only the first shells are compared: faces and necks differ
_MARGIN_MM = 6.0  # round a tumor is not compared: edema, displaced tissue
_BRIGHTEST = 1.8  # brain medians; fat, vessels and enhancement beyond would outweigh the brain
_ROUNDS = ((8, 8), (3, 20), (2, 15))  # poses refined, and steps: roughly, well, in all parameters
_LEAST_QUALITY = 0.5  # of a registration that is better than the header
_LEAST_OVERLAP = 0.8  # of what is compared; a pose that leaves more of it out of view is worth less
_LONGEST_MM = 6.0  # of a step, on average over the brain: the slope of an edge holds no farther
_POINTS_A_SAMPLE = 20.0  # neighboring residuals are alike: so many count as one against the priors
_SCALE_SD, _AFFINE_SD = 0.06, 0.04  # of size about the average; of twelve parameters about seven


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
        lower where more than a fifth of brain and skull is out of view.
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
    The scan is explained by what the template has at each place: gray matter, white matter, brain, T1
    intensity, and five shells of 4 mm round the brain (fluid, bone, marrow, scalp, air, or nothing at all),
    each with a weight of its own, so that neither contrast nor a missing skull matters. Poses on a grid are
    ranked by the correlation of scan and explanation at points 12 mm apart. Gauss-Newton steps on 8 mm
    voxels make the unexplained share of the scan's variance small, outliers counting less: roughly for eight
    poses, well for the three best; the two best of those get twelve parameters, held near the seven, on 8 and
    4 mm voxels.

    References
    ----------
    Registration by weights of tissues and pose at once: Friston et al., Hum Brain Mapp 3, 165-189, 1995;
    Ashburner et al., NeuroImage 6, 344-352, 1997 (priors). Template: Fonov et al., NeuroImage 54, 313-327,
    2011.
    """
    check_choice(method, "method", ("registration", "header"))
    levels = _prepare(image, affine, ignore)
    starts = _rank_starts(levels[0])
    if method == "registration":
        best, second = _refine(starts, levels)
        quality = _quality(best, levels[-1], _STEPS[-1])
        if quality >= _LEAST_QUALITY:
            return Registration(np.linalg.inv(best), method, quality, _distance(best, second))
    quality = _quality(starts[0], levels[-1], _STEPS[-1])
    return Registration(np.linalg.inv(starts[0]), "header", quality, np.nan)


@dataclass
class _Level:
    """A grid in RAS+ order: `image` (x, y, z), `affine` (4, 4), `valid` voxels or None."""

    image: np.ndarray
    affine: np.ndarray
    valid: np.ndarray | None

    @cached_property
    def slope(self):
        """Change of intensity a mm along R, A and S; three arrays (x, y, z)."""
        a_voxel = [
            np.gradient(self.image, axis=a) if n > 1 else 0 * self.image
            for a, n in enumerate(self.image.shape)
        ]
        to_mm = np.linalg.inv(self.affine[:3, :3])
        return [sum(to_mm[v, axis] * a_voxel[v] for v in range(3)) for axis in range(3)]

    def at(self, spacing):
        """Return the level on coarser voxels."""
        image, affine = _coarsen(self.image, self.affine, spacing)
        valid = self.valid
        if valid is not None:
            valid = _coarsen(valid.astype(np.float32), self.affine, spacing)[0] > 0.5
        return _Level(image, affine, valid)


def _coarsen(array, affine, spacing):
    """Resample an array in RAS+ order to voxels of at least `spacing` mm; returns it and its affine."""
    old = spacing_from_affine(affine)
    new = np.maximum(old, spacing)
    shape = tuple(int(n) for n in np.maximum(1, np.ceil(np.array(array.shape) * old / new - 1e-3)))
    axes = affine[:3, :3] / old
    moved = np.eye(4)
    moved[:3, :3] = axes * new
    moved[:3, 3] = affine[:3, 3] + axes @ ((new - old) / 2)
    return resample(array, old, new, shape), moved


def _prepare(image, affine, ignore):
    """Return a scan on `_SPACINGS`, intensities normalized; list of `_Level`."""
    from scipy.ndimage import distance_transform_edt

    if image.min() == image.max():
        raise GeometryError("The image has one intensity only, so there is nothing to register.")
    ras = ras_affine(image.shape, affine)[1]
    fine, fine_affine = _coarsen(to_ras(image, affine), ras, _SPACINGS[-1])
    spacing = spacing_from_affine(fine_affine)
    fine = np.minimum(normalize_intensity(fine, spacing), _BRIGHTEST)
    valid = None
    if ignore is not None and ignore.any():
        share = _coarsen(to_ras(ignore.astype(np.float32), affine), ras, _SPACINGS[-1])[0]
        valid = distance_transform_edt(share < 0.05, sampling=spacing) > _MARGIN_MM
    level = _Level(fine, fine_affine, valid)
    return [*(level.at(spacing) for spacing in _SPACINGS[:-1]), level]


@lru_cache(maxsize=1)
def load_template():
    """Return T1 (stripped), gray and white matter and brain mask, each (197, 233, 189), and the affine."""
    from nilearn import datasets

    names = ("template", "gm_template", "wm_template", "brain_mask")
    images = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    return [np.asarray(i.dataobj, dtype=np.float32) for i in images], np.asarray(images[0].affine, float)


@lru_cache(maxsize=1)
def _template_maps():
    """Return gray and white matter, brain, T1 and shells round the brain on 2 mm voxels, and their affine."""
    from scipy.ndimage import distance_transform_edt

    arrays, affine = load_template()
    pad = _SHELLS_MM[-1]
    moved = affine.copy()
    moved[:3, 3] -= pad
    maps, affines = zip(*(_coarsen(np.pad(array, pad), moved, 2.0) for array in arrays), strict=True)
    outside = distance_transform_edt(maps[3] < 0.5, sampling=2.0)
    shells = [((outside > low) & (outside <= high)).astype(np.float32) for low, high in pairwise(_SHELLS_MM)]
    return [*maps, *shells], affines[0]


@lru_cache(maxsize=4)
def _tissue(spacing):
    """Return points (n, 3) in MNI mm where scans are compared, and what is there (n, 10)."""
    fine, affine = _template_maps()
    maps, affines = zip(*(_coarsen(array, affine, spacing) for array in fine), strict=True)
    z = affines[0][2, 3] + spacing * np.arange(maps[0].shape[2])
    near = (sum(maps[3:6]) > 0.5) | ((sum(maps[3:]) > 0.5) & (z > _FACE_MM))
    index = np.argwhere(near)
    columns = [np.ones(len(index)), *(array[tuple(index.T)] for array in maps)]
    return index @ affines[0][:3, :3].T + affines[0][:3, 3], np.stack(columns, axis=1).astype(np.float64)


def _quality(to_scan, level, spacing, *, robust=True):
    """Return the multiple correlation of a scan with the template's tissues at points `spacing` mm apart.

    `to_scan` (4, 4) maps MNI mm to those of the scan. Points out of view lower it. `robust`: outliers count
    less.
    """
    points, tissue = _tissue(spacing)
    voxels, seen = _in_view(to_scan, level, points)
    if seen.sum() < 50:
        return 0.0
    values, columns = _interpolate(level.image, voxels[seen]), tissue[seen]
    weights = _outliers(columns, values)[0] if robust else np.ones(len(values))
    residual = values - columns @ _solve(columns, values, weights)
    varied = values - np.average(values, weights=weights)
    explained = 1 - (weights * residual**2).sum() / max((weights * varied**2).sum(), 1e-9)
    return float(np.sqrt(max(explained, 0.0)) * min(1.0, seen.mean() / _LEAST_OVERLAP))


def _rank_starts(level):
    """Return maps from MNI mm to those of the scan (4, 4), rigid but for an average size, best first."""
    from scipy.spatial.transform import Rotation

    middle = _guess_middle(level)
    turns = [(p, r, y) for p in (-36, -24, -12, 0, 12, 24, 36) for r in (-12, 0, 12) for y in (-12, 0, 12)]
    shifts = [(0, y, z) for y in (-15, 0, 15) for z in (-45, -30, -15, 0, 15, 30)]
    ranked = []
    for turn in turns:
        linear = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() / _SCALE
        for shift in shifts:
            to_scan = np.eye(4)
            to_scan[:3, :3] = linear
            to_scan[:3, 3] = middle + shift - linear @ _CENTER
            ranked.append((_quality(to_scan, level, 12.0, robust=False), to_scan))
    ranked.sort(key=lambda pair: -pair[0])
    chosen = []
    for _, to_scan in ranked:
        if all(_distance(to_scan, other) > 10 for other in chosen):
            chosen.append(to_scan)
        if len(chosen) == _ROUNDS[0][0]:
            break
    return chosen


def _guess_middle(level):
    """Return where the middle of the brain is likely to be, from the outline of the upper head; (3,) mm."""
    from scipy.ndimage import label

    head = level.image > min(0.3, level.image.max() / 2)  # of the brain's median
    pieces, n = label(head)
    if n > 1:
        head = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    points = np.argwhere(head) @ level.affine[:3, :3].T + level.affine[:3, 3]
    top = np.percentile(points[:, 2], 99.5)
    upper = points[points[:, 2] > top - 150]
    return np.append(np.percentile(upper[:, :2], (2, 98), axis=0).mean(axis=0), top - 75)


def _distance(one, other):
    """Return how far apart two maps (4, 4) put the brain's points, on average, in mm."""
    points = _tissue(12.0)[0]
    change = one - other
    return float(np.linalg.norm(points @ change[:3, :3].T + change[:3, 3], axis=1).mean())


class _Similarity:
    """Three turns, a size and three shifts: how a map from MNI mm to those of the scan (4, 4) may change."""

    spread = np.array([np.inf] * 3 + [_SCALE_SD] + [np.inf] * 3)

    def generators(self, to_scan):
        """Return the change of scan mm a unit of each parameter, of MNI mm about the middle; (7, 3, 4)."""
        found = np.zeros((7, 3, 4))
        found[:4, :, :3] = _TURNS_AND_SIZE @ to_scan[:3, :3]
        found[range(4, 7), range(3), 3] = 1
        return found

    def deviation(self, to_scan):
        """Return how far each parameter is from what is usual, where that is known; (7,)."""
        return np.array([0, 0, 0, np.log(np.cbrt(np.linalg.det(to_scan[:3, :3])) * _SCALE), 0, 0, 0])

    def move(self, to_scan, step):
        """Return the map after a step (7,)."""
        from scipy.linalg import expm

        return _about_middle(
            to_scan, expm(np.tensordot(step[:4], _TURNS_AND_SIZE, 1)) @ to_scan[:3, :3], step[4:]
        )


class _Affine:
    """All twelve parameters, held near those of a first map."""

    spread = np.array([_AFFINE_SD] * 9 + [np.inf] * 3)

    def __init__(self, to_scan):
        self.first = to_scan[:3, :3]

    def generators(self, to_scan):
        """As `_Similarity.generators`; (12, 3, 4)."""
        found = np.zeros((12, 3, 4))
        found[range(9), np.repeat(range(3), 3), np.tile(range(3), 3)] = 1
        found[range(9, 12), range(3), 3] = 1
        return found

    def deviation(self, to_scan):
        """As `_Similarity.deviation`; (12,)."""
        return np.append((to_scan[:3, :3] - self.first).ravel(), np.zeros(3))

    def move(self, to_scan, step):
        """Return the map after a step (12,)."""
        return _about_middle(to_scan, to_scan[:3, :3] + step[:9].reshape(3, 3), step[9:])


_TURNS_AND_SIZE = np.array(
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
    dtype=float,
)


def _about_middle(to_scan, linear, shift):
    """Return a map with another linear part (3, 3) that takes the brain's middle `shift` (3,) further."""
    moved = np.eye(4)
    moved[:3, :3] = linear
    moved[:3, 3] = to_scan[:3, :3] @ _CENTER + to_scan[:3, 3] + shift - linear @ _CENTER
    return moved


def _refine(starts, levels):
    """Return the two best maps (4, 4) of MNI mm to those of the scan after refinement, best first."""
    coarse = levels[0]
    found = starts
    for n_poses, n_steps in _ROUNDS[:2]:
        found = [_fit(to_scan, coarse, _STEPS[0], _Similarity(), n_steps) for to_scan in found[:n_poses]]
        found.sort(key=lambda to_scan: -_quality(to_scan, coarse, _STEPS[0]))
    n_poses, n_steps = _ROUNDS[2]
    refined = []
    for first in found[:n_poses]:
        model, to_scan = _Affine(first), first
        for level, step in zip(levels, _STEPS, strict=True):
            to_scan = _fit(to_scan, level, step, model, n_steps)
        refined.append(to_scan)
    return sorted(refined, key=lambda to_scan: -_quality(to_scan, levels[-1], _STEPS[-1]))


def _fit(to_scan, level, spacing, model, n_steps):
    """Improve a map from MNI mm to those of the scan (4, 4) by Gauss-Newton steps; keep the best on the way.

    What is made small is the share of the scan's variance that the tissues leave unexplained, outliers
    counting less. (Unexplained variance by itself would be smallest where nothing is seen.)
    """
    points, tissue = _tissue(spacing)
    about = np.column_stack([points - _CENTER, np.ones(len(points))])
    best, quality = to_scan, _quality(to_scan, level, spacing)
    for _ in range(n_steps):
        voxels, seen = _in_view(to_scan, level, points)
        if seen.sum() < 50:
            break
        values, columns = _interpolate(level.image, voxels[seen]), tissue[seen]
        slope = np.stack([_interpolate(part, voxels[seen]) for part in level.slope], axis=1)
        moves = np.einsum("kij,pj->pki", model.generators(to_scan), about[seen])
        weights, noise = _outliers(columns, values)
        changes = np.column_stack([values, np.einsum("pki,pi->pk", moves, slope)])
        left = changes - columns @ _solve(columns, changes, weights)  # what tissues do not explain
        varied = changes - np.average(changes, axis=0, weights=weights)
        left_products = (left * weights[:, None]).T @ left
        varied_products = (varied * weights[:, None]).T @ varied
        share = left_products[0, 0] / max(varied_products[0, 0], 1e-9)
        prior = model.spread**-2.0 * noise * _POINTS_A_SAMPLE
        downhill = share * varied_products[1:, 0] - left_products[1:, 0] - prior * model.deviation(to_scan)
        step = np.linalg.solve(left_products[1:, 1:] + np.diag(prior + 1e-3), downhill)
        moved = model.move(to_scan, step)
        length = _distance(moved, to_scan)
        if length > _LONGEST_MM:
            moved = model.move(to_scan, step * (_LONGEST_MM / length))
        to_scan, reached = moved, _quality(moved, level, spacing)
        if reached > quality:
            best, quality = moved, reached
        if length < 0.05:
            break
    return best


def _outliers(tissue, values):
    """Return weights (n,) that are less than 1 where tissues explain `values` badly, and the noise."""
    weights = np.ones(len(values))
    for _ in range(3):
        residual = np.abs(values - tissue @ _solve(tissue, values, weights))
        weights = 1 / np.maximum(1, residual / (3 * np.median(residual) + 1e-6))
    return weights, float((weights * residual**2).mean())


def _solve(tissue, values, weights):
    """Return the weights of the tissues that explain `values` best; the ridge is for maps that are alike."""
    weighted = tissue * weights[:, None]
    return np.linalg.solve(weighted.T @ tissue + 1e-3 * np.eye(tissue.shape[1]), weighted.T @ values)


def _in_view(to_scan, level, points):
    """Return the voxels of `points` (n, 3) in MNI mm, and which of them lie in the scan and in no tumor."""
    to_voxel = np.linalg.inv(level.affine) @ to_scan
    voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    top = np.array(level.image.shape) - 1
    seen = ((voxels >= -0.5) & (voxels <= top + 0.5)).all(axis=1)
    if level.valid is not None:
        nearest = np.clip(np.round(voxels[seen]), 0, top).astype(np.int64)
        seen[seen] = level.valid[tuple(nearest.T)]
    return voxels, seen


def _interpolate(array, voxels):
    """Sample an array (x, y, z) linearly at `voxels` (n, 3); float64 (n,)."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(array, voxels.T, order=1, mode="nearest").astype(np.float64)
