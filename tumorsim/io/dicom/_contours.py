"""Closed planar contours in millimetres → a mask on a grid, whatever the grid's orientation."""

import numpy as np

from tumorsim.exceptions import DicomError

_ON_EDGE_MM = 0.01  # contours are written with two decimals; a voxel center on one is inside
_FLAT_MM = 0.1  # distance of a contour's points from its plane
THICKEST_MM = 10.0  # planes that are farther apart than slices of a scan are of two lesions


def mask_of_contours(contours, shape, affine, *, thickness=None):
    """Return the voxels of a grid whose centers lie inside closed contours (RAS+ mm), bool of `shape`.

    In a plane the even-odd rule over all of its contours decides: a contour within another is a hole. Centers
    on an edge count as inside. A plane stands for the slab around it, of `thickness` mm; by default as thick
    as the distance of two planes where that is regular, else as a voxel. So planes may be finer or coarser
    than the grid's slices and lie across them, and slices between two lesions stay empty.

    ``DicomError`` if a contour has fewer than three points or is not planar, planes are not parallel, or
    contours reach out of the grid by more than a voxel, so that slices of it must be missing.
    """
    mask = np.zeros(shape, dtype=bool)
    contours = [np.asarray(c, dtype=np.float64).reshape(-1, 3) for c in contours]
    if any(len(c) < 3 for c in contours):
        raise DicomError("A closed contour needs at least three points.")
    if not all(np.isfinite(c).all() for c in contours):
        raise DicomError("The points of contours must be finite numbers.")
    contours = list({c.tobytes(): c for c in contours}.values())  # drawn twice it would cancel itself out
    if not contours:
        return mask
    normal = _common_normal(contours, affine)
    depths = np.array([(c @ normal).mean() for c in contours])
    if max(np.ptp(c @ normal) for c in contours) > 2 * _FLAT_MM:
        raise DicomError("The contours must be planar, and their planes parallel.")
    planes, usual = _planes(depths, normal, affine)
    thickness = thickness or usual

    u = np.linalg.svd(normal[None])[2][1]  # two directions in the plane
    axes = np.stack([u, np.cross(normal, u)], axis=1)
    owner = np.abs(depths[:, None] - planes).argmin(axis=1)
    polygons = [[contours[j] @ axes for j in np.flatnonzero(owner == i)] for i in range(len(planes))]
    for index in _voxels_around(contours, normal, thickness, shape, affine):
        center = index @ affine[:3, :3].T + affine[:3, 3]
        depth = center @ normal
        nearest = np.searchsorted((planes[1:] + planes[:-1]) / 2, depth)
        near = np.abs(depth - planes[nearest]) <= thickness / 2 * (1 + 1e-6)
        for i in np.unique(nearest[near]):
            chosen = np.flatnonzero(near & (nearest == i))
            inside = _even_odd(center[chosen] @ axes, polygons[i])
            mask[tuple(index[chosen[inside]].T)] = True
    return mask


def slice_distance(contours, every, affine):
    """Return the smallest distance (mm) of those planes of `every` parallel to `contours`, or None."""
    normal = _common_normal(contours, affine)
    depths = np.sort([(c @ normal).mean() for c in every if np.ptp(c @ normal) <= 2 * _FLAT_MM])
    gaps = np.diff(depths)
    gaps = gaps[(gaps > 2 * _FLAT_MM) & (gaps <= THICKEST_MM)]
    return gaps.min() if gaps.size else None


def _common_normal(contours, affine):
    """Return the unit normal (3,) of the contours' planes: where possible that of the grid's slices."""
    for axis in (2, 1, 0):
        others = [a for a in range(3) if a != axis]
        normal = np.cross(*affine[:3, others].T)
        normal /= np.linalg.norm(normal)
        if max(np.ptp(c @ normal) for c in contours) <= _FLAT_MM:
            return normal
    area = max(map(area_vector, contours), key=np.linalg.norm)
    if np.linalg.norm(area) < 1e-6:
        raise DicomError("The contours enclose no area.")
    return area / np.linalg.norm(area)


def area_vector(points):
    """Return the area vector (3,) of a polygon (n, 3), by Newell's formula."""
    points = points - points[0]
    return np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0) / 2


def _planes(depths, normal, affine):
    """Return the depths of the distinct planes, ascending, and the thickness of each one's slab."""
    ordered = np.sort(depths)
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > 2 * _FLAT_MM) + 1)
    planes = np.array([g.mean() for g in groups])
    voxel = np.abs(normal @ affine[:3, :3]).max()
    gaps = np.diff(planes)
    if not gaps.size:
        return planes, voxel
    regular = len(gaps) > 1 and np.median(gaps) - gaps.min() <= 2 * _FLAT_MM and gaps.min() <= 3 * voxel
    return planes, gaps.min() if regular or gaps.min() < voxel else voxel


def _voxels_around(contours, normal, thickness, shape, affine):
    """Yield the indices (n, 3) of the voxels near the contours, about a million at a time."""
    to_voxels = np.linalg.inv(affine[:3, :3]).T
    voxels = (np.concatenate(contours) - affine[:3, 3]) @ to_voxels
    if voxels.min() < -1.5 or (voxels > np.array(shape) + 0.5).any():
        raise DicomError("The contours reach out of the scan: it is another one, or slices are missing.")
    half = np.abs(normal @ to_voxels) * thickness / 2
    start = np.clip(np.floor(voxels.min(axis=0) - half - 1e-6), 0, shape).astype(int)
    stop = np.clip(np.ceil(voxels.max(axis=0) + half + 1e-6) + 1, start, shape).astype(int)
    step = max(1, 2**20 // max(1, np.prod(stop[:2] - start[:2])))
    for z in range(start[2], stop[2], step):
        ranges = [*map(np.arange, start[:2], stop[:2]), np.arange(z, min(z + step, stop[2]))]
        yield np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)


def _even_odd(points, polygons):
    """Tell which points (n, 2) lie inside an odd number of polygons [(m, 2), …], or on an edge; bool (n,)."""
    order = np.argsort(points[:, 1], kind="stable")
    xs, ys = points[order].T
    inside, on_edge = np.zeros(len(points), dtype=bool), np.zeros(len(points), dtype=bool)
    for polygon in polygons:
        others = np.roll(polygon, -1, axis=0)
        low = np.searchsorted(ys, np.minimum(polygon, others)[:, 1] - _ON_EDGE_MM)
        high = np.searchsorted(ys, np.maximum(polygon, others)[:, 1] + _ON_EDGE_MM, side="right")
        for (x0, y0), (x1, y1), start, stop in zip(polygon, others, low, high, strict=True):
            dx, dy = x1 - x0, y1 - y0
            length = np.hypot(dx, dy)
            if length == 0 or start == stop:
                continue
            x, y, part = xs[start:stop], ys[start:stop], slice(start, stop)
            if dy != 0:
                inside[part] ^= ((y0 > y) != (y1 > y)) & (x < x0 + dx * (y - y0) / dy)
            along = np.clip(((x - x0) * dx + (y - y0) * dy) / length**2, 0, 1)
            on_edge[part] |= np.hypot(x - x0 - along * dx, y - y0 - along * dy) <= _ON_EDGE_MM
    result = np.empty(len(points), dtype=bool)
    result[order] = inside | on_edge
    return result
