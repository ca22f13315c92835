"""Where a patient lies in the scanner: field of view, voxel grid, and the map from it to MNI space."""

from dataclasses import dataclass, replace

import numpy as np
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

from tumorsim.simulation._anatomy import Head
from tumorsim.simulation._noise import draw_frame, noise, smooth_field

STRIPPED_MM = 6.0  # beyond the brain, of what a scan without skull shows
_CENTER = np.array([0.0, -16.0, 10.0])  # mm, about the middle of the brain in MNI
_THICK_SHARE = 0.45
_THICKEST = 7.5  # mm


@dataclass
class Scan:
    """A voxel grid in scanner space, and the MNI position of the points that show the patient."""

    head: Head
    whole_head: bool
    shape: tuple  # of the stored voxels, axes R, A, S
    spacing: np.ndarray  # (3,), mm
    origin: np.ndarray  # (3,), mm of the first voxel's center
    n_per_voxel: int  # points that a voxel averages over, along its longest edge
    voxel: np.ndarray  # (n,), flat stored voxel of each point
    points: np.ndarray  # (n, 3), MNI mm of each point that is in the patient; float32
    distance: np.ndarray  # (n,), mm outside the brain's envelope
    skin: np.ndarray  # (n,), mm outside the skin
    cerebrum: np.ndarray  # (n,), 0..1
    midline: np.ndarray  # (n,), mm right of the plane between the hemispheres

    def gather(self, values):
        """Average `values` of the points over each voxel; float32 of `shape`."""
        total = np.bincount(self.voxel, weights=values, minlength=int(np.prod(self.shape)))
        return (total / self.n_per_voxel).astype(np.float32).reshape(self.shape)

    def take(self, index):
        """Return the scan with the points at `index` only."""
        names = ("voxel", "points", "distance", "skin", "cerebrum", "midline")
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    @property
    def affine(self):
        """Voxel → RAS+ mm, shape (4, 4)."""
        return from_matvec(np.diag(self.spacing), self.origin)


def draw_scan(rng, spacing, head, body=None):
    """Draw a head's position, deformation, field of view and voxels.

    Parameters
    ----------
    rng : numpy.random.Generator
    spacing : float
        Of the base grid, in mm.
    head : Head
        Of `load_head` or `load_label_head`.
    body : Generator, optional
        Draws what a patient's dates share. Default: `rng`, and a stronger deformation.

    Returns
    -------
    scan : Scan
        The voxel grid, and the points that fill it in MNI mm.
    """
    whole_head = bool(rng.random() < (0.65 if head.real else 0.4))
    turn = Rotation.from_euler("xyz", rng.uniform(-12, 12, 3), degrees=True).as_matrix()
    size = (body or rng).uniform(0.92, 1.08) * (body or rng).uniform(0.96, 1.04, 3)
    to_mni = np.diag(head.scale * np.clip(size, 0.9, 1.1)) @ turn  # scanner mm → MNI mm
    offset = rng.uniform(-15, 15, 3)  # mm, where in the scanner the head lies
    voxel_size, n_per_voxel, thick_axis = _draw_voxel(rng, spacing)
    shape, origin = _draw_field_of_view(rng, whole_head, to_mni, offset, voxel_size)

    fine = np.array(shape)
    fine[thick_axis] *= n_per_voxel
    steps = [np.arange(n, dtype=np.float32) for n in fine]
    steps[thick_axis] = (steps[thick_axis] + 0.5) / n_per_voxel - 0.5
    mm = [origin[a] + voxel_size[a] * steps[a] for a in range(3)]
    grid = np.stack(np.meshgrid(*mm, indexing="ij"), axis=-1).astype(np.float32)
    points = (grid - np.float32(offset)) @ np.float32(to_mni.T) + np.float32(_CENTER)
    if body is None:
        bend = smooth_field(rng, tuple(int(n) for n in fine), 5, 3) * np.float32(rng.uniform(1, 4))  # mm
        points += np.moveaxis(bend, 0, -1)
        points = points.reshape(-1, 3)
    else:
        points = points.reshape(-1, 3)
        points += noise(points, 80.0, draw_frame(body))[[0, 2, 3]].T * np.float32(body.uniform(0.5, 2))

    shell = head.shell.sample(points)
    seen = np.flatnonzero(shell[1] < 1) if whole_head else np.flatnonzero(shell[0] < STRIPPED_MM)
    where = list(np.unravel_index(seen, tuple(fine)))
    where[thick_axis] //= n_per_voxel
    voxel = np.ravel_multi_index(where, shape)
    shell = (channel[seen] for channel in shell)
    return Scan(head, whole_head, shape, voxel_size, origin, n_per_voxel, voxel, points[seen], *shell)


def _draw_voxel(rng, spacing):
    """Draw voxel edges (3,) in mm, points per voxel, and the axis along which slices are thick."""
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.70)))  # sagittal, coronal, axial
    if rng.random() >= _THICK_SHARE or spacing >= _THICKEST:
        return np.full(3, float(spacing)), 1, axis
    size = np.full(3, round(spacing * rng.uniform(0.7, 0.9), 3))
    size[axis] = round(rng.uniform(spacing, _THICKEST), 3)
    return size, max(1, round(size[axis] / (1.2 * spacing))), axis


def _draw_field_of_view(rng, whole_head, to_mni, offset, voxel_size):
    """Return shape and origin (3,) of a box round the head, its faces shifted and one of them cut in."""
    low = np.array([-86, -120, rng.uniform(-95, -66)] if whole_head else [-72, -107, -72])
    high = np.array([86, 108, 98] if whole_head else [72, 76, 82])
    to_scanner = np.linalg.inv(to_mni)
    middle = offset + to_scanner @ ((low + high) / 2 - _CENTER)
    half = np.sqrt((to_scanner**2) @ ((high - low) / 2) ** 2)  # of the rotated ellipsoid
    start = middle - half - rng.uniform(-8, 14, 3)
    stop = middle + half + rng.uniform(-8, 14, 3)
    if rng.random() < 0.2:
        cut = rng.uniform(8, 30)
        axis = int(rng.choice(3, p=(0.1, 0.2, 0.7)))
        if rng.random() < 0.5:
            start[axis] += cut
        else:
            stop[axis] -= cut
    shape = tuple(int(n) for n in np.maximum(np.round((stop - start) / voxel_size), 4))
    return shape, start + voxel_size / 2
