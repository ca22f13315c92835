"""The MNI152 template's tissues, Gauss-Newton steps that lay them on a scan, and how well they explain it."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from nibabel.affines import from_matvec
from scipy.linalg import expm
from scipy.ndimage import distance_transform_edt, map_coordinates

from tumorsim.geometry import spacing_from_affine
from tumorsim.preprocessing import resample

CENTER = np.array([0.0, -16.0, 10.0])  # MNI mm, middle of the brain
SCALE = 1.05  # MNI mm per mm of an average person
_SHELLS_MM = (0, 4, 8, 12, 16, 20, 28, 36)  # outside the brain: fluid, bone, marrow, scalp, air, or nothing
_BRAIN = 4  # column of `tissue_points`
_FACE_MM = -20.0  # MNI z below which only the first shells are compared: faces and necks differ
_LEAST_OVERLAP = 0.8  # of the brain; a pose that leaves more of it out of view is worth less
_LONGEST_MM = 6.0  # of a step, on average over the brain: the slope of an edge holds no farther
_POINTS_A_SAMPLE = 20.0  # neighboring residuals are alike: so many count as one against the priors
_TURNS_AND_SIZE = np.stack([*(np.cross(axis, np.eye(3)).T for axis in np.eye(3)), np.eye(3)])
_BANDS = (1, 15, 40, 65, 90, 99)  # percentiles of a scan's intensities between which they are pieced
_SCALE_SD, _AFFINE_SD = 0.06, 0.04  # of size about the average; of twelve parameters about seven


@lru_cache(maxsize=1)
def load_template():
    """Return T1 (stripped), gray and white matter and brain mask, each (197, 233, 189), and the affine."""
    from nilearn import datasets

    names = ("template", "gm_template", "wm_template", "brain_mask")
    images = [getattr(datasets, f"load_mni152_{name}")(resolution=1) for name in names]
    return [np.asarray(i.dataobj, dtype=np.float32) for i in images], np.asarray(images[0].affine, float)


@lru_cache(maxsize=1)
def _template_maps():
    """Return T1, gray and white matter, brain and shells round the brain on 2 mm voxels, and their affine."""
    arrays, affine = load_template()
    pad = _SHELLS_MM[-1]
    moved = affine.copy()
    moved[:3, 3] -= pad
    maps, affines = zip(*(coarsen(np.pad(array, pad), moved, 2.0) for array in arrays), strict=True)
    outside = distance_transform_edt(maps[3] < 0.5, sampling=2.0)
    shells = [((outside > low) & (outside <= high)).astype(np.float32) for low, high in pairwise(_SHELLS_MM)]
    return [*maps, *shells], affines[0]


@lru_cache(maxsize=4)
def tissue_points(spacing):
    """Return points (n, 3) in MNI mm where scans are compared, and what is there (n, 12)."""
    fine, affine = _template_maps()
    maps, affines = zip(*(coarsen(array, affine, spacing) for array in fine), strict=True)
    z = affines[0][2, 3] + spacing * np.arange(maps[0].shape[2])
    near = (sum(maps[3:6]) > 0.5) | ((sum(maps[3:]) > 0.5) & (z > _FACE_MM))
    index = np.argwhere(near)
    columns = [np.ones(len(index)), *(array[tuple(index.T)] for array in maps)]
    return index @ affines[0][:3, :3].T + affines[0][:3, 3], np.stack(columns, axis=1).astype(np.float64)


def coarsen(array, affine, spacing):
    """Resample an array in RAS+ order to voxels of at least `spacing` mm; returns it and its affine."""
    old = spacing_from_affine(affine)
    new = np.maximum(old, spacing)
    shape = tuple(int(n) for n in np.maximum(1, np.ceil(np.array(array.shape) * old / new - 1e-3)))
    axes = affine[:3, :3] / old
    moved = from_matvec(axes * new, affine[:3, 3] + axes @ ((new - old) / 2))
    return resample(array, old, new, shape), moved


def scan_points(to_scan, level, spacing):
    """Return `tissue_points` of the brain; its tissues are bands of the intensities of a scan, a `level`."""
    points, tissue = tissue_points(spacing)
    points = points[tissue[:, _BRAIN] > 0.5]
    voxels, seen = _in_view(to_scan, level, points)
    values = _interpolate(level.image, voxels[seen])
    knots = np.percentile(values, _BANDS) if len(values) else np.zeros(len(_BANDS))
    bands = [np.clip(values - low, 0, high - low) for low, high in pairwise(knots)]
    ones = np.ones(len(values))
    columns = np.column_stack([ones, *bands[: _BRAIN - 1], ones, *bands[_BRAIN - 1 :]])
    return points[seen], columns


def quality_of(to_scan, level, compared, *, robust=True):
    """Return the multiple correlation of a scan with what is `compared`; less where the brain is out of view.

    `to_scan` (4, 4) maps MNI mm to those of the scan. `robust`: outliers count less.
    """
    return _compare(to_scan, level, *compared, robust)[0]


def _compare(to_scan, level, points, tissue, robust=True):
    """Return the quality of a map, and of the points in view: which, voxels, intensities, weights, noise."""
    voxels, seen = _in_view(to_scan, level, points)
    if seen.sum() < 50:
        return 0.0, None
    voxels, columns = voxels[seen], tissue[seen]
    values = _interpolate(level.image, voxels)
    weights = np.ones(len(values))
    for _ in range(3 if robust else 0):  # less where tissues explain the intensity badly
        residual = np.abs(values - columns @ _solve(columns, values, weights))
        weights = 1 / np.maximum(1, residual / (3 * np.median(residual) + 1e-6))
    left = weights * (values - columns @ _solve(columns, values, weights)) ** 2
    varied = weights * (values - np.average(values, weights=weights)) ** 2
    explained = 1 - left.sum() / max(varied.sum(), 1e-9)
    overlap = seen[tissue[:, _BRAIN] > 0.5].mean()
    quality = float(np.sqrt(max(explained, 0.0)) * min(1.0, overlap / _LEAST_OVERLAP))
    return quality, (seen, voxels, values, weights, float(left.mean()))


def distance(one, other):
    """Return how far apart two maps (4, 4) put the brain's points, on average, in mm."""
    points = tissue_points(12.0)[0]
    change = one - other
    return float(np.linalg.norm(points @ change[:3, :3].T + change[:3, 3], axis=1).mean())


class Pose:
    """How a map from MNI mm to those of the scan (4, 4) may change: turns, size (not if `rigid`) and shifts.

    With a map `first` by all twelve parameters, held near its own.
    """

    def __init__(self, first=None, *, rigid=False):
        self.first = None if first is None else first[:3, :3]
        self.basis = _TURNS_AND_SIZE if first is None else np.eye(9).reshape(9, 3, 3)
        spread = [np.inf] * 3 + [_SCALE_SD] if first is None else [_AFFINE_SD] * 9
        if rigid:
            self.basis, spread = self.basis[:3], spread[:3]
        self.spread = np.array(spread + [np.inf] * 3)  # of each parameter, about what is usual

    def generators(self, to_scan):
        """Return the change of scan mm per unit of each parameter, of MNI mm about the middle; (n, 3, 4)."""
        n = len(self.basis)
        found = np.zeros((n + 3, 3, 4))
        found[:n, :, :3] = self.basis @ to_scan[:3, :3] if self.first is None else self.basis
        found[range(n, n + 3), range(3), 3] = 1
        return found

    def deviation(self, to_scan):
        """Return how far each parameter is from what is usual, where that is known; (n,)."""
        linear = to_scan[:3, :3]
        if self.first is None:
            size = [np.log(np.cbrt(np.linalg.det(linear)) * SCALE)] if len(self.basis) == 4 else []
            return np.array([0, 0, 0, *size, 0, 0, 0])
        return np.append((linear - self.first).ravel(), np.zeros(3))

    def move(self, to_scan, step):
        """Return the map after a step (n,): the linear part changes about the brain's middle."""
        linear, change = to_scan[:3, :3], np.tensordot(step[:-3], self.basis, 1)
        moved = expm(change) @ linear if self.first is None else linear + change
        return from_matvec(moved, linear @ CENTER + to_scan[:3, 3] + step[-3:] - moved @ CENTER)


def fit(to_scan, level, compared, model, n_steps):
    """Improve a map from MNI mm to those of the scan (4, 4) by Gauss-Newton steps; keep the best on the way.

    What is made small is the share of the scan's variance that the tissues `compared` leave unexplained,
    outliers counting less. (Unexplained variance by itself would be smallest where nothing is seen.)
    """
    points, tissue = compared
    about = np.column_stack([points - CENTER, np.ones(len(points))])
    quality, found = _compare(to_scan, level, points, tissue)
    best, highest = to_scan, quality
    for _ in range(n_steps):
        if found is None:
            break
        seen, voxels, values, weights, noise = found
        columns = tissue[seen]
        slope = np.stack([_interpolate(part, voxels) for part in level.slope], axis=1)
        moves = np.einsum("kij,pj->pki", model.generators(to_scan), about[seen])
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
        length = distance(moved, to_scan)
        if length > _LONGEST_MM:
            moved = model.move(to_scan, step * (_LONGEST_MM / length))
        to_scan = moved
        quality, found = _compare(to_scan, level, points, tissue)
        if quality > highest:
            best, highest = to_scan, quality
        if length < 0.05:
            break
    return best


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
    return map_coordinates(array, voxels.T, order=1, mode="nearest").astype(np.float64)
