"""MNI millimetres → area, side, front or rear, upper or lower."""

import hashlib
from functools import lru_cache
from importlib.resources import files

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from tumorsim.exceptions import GeometryError, ManifestError
from tumorsim.geometry import spacing_from_affine
from tumorsim.io import load_image
from tumorsim.manifest import read_table

_MIDLINE_MM = 5.0  # nearer to it a side would be a guess
_FRONT_MM = -18.0  # MNI y
_UPPER_MM = 10.0  # MNI z


@lru_cache(maxsize=1)
def _landmarks():
    """Return a KD tree of the landmarks and their regions (n,)."""
    with files("tumorsim").joinpath("data/areas.csv").open() as file:
        table = pd.read_csv(file)
    return cKDTree(table[["x_mm", "y_mm", "z_mm"]].to_numpy(float)), table["region"].to_numpy(str)


def region_at(points):
    """Return the region of the nearest landmark for `points` (..., 3) in MNI mm; array of str.

    Examples
    --------
    >>> region_at([[25, -36, -36], [0, -80, -30]]).tolist()
    ['cerebellopontine_angle', 'cerebellum']
    """
    tree, regions = _landmarks()
    return regions[tree.query(np.asarray(points, dtype=float))[1]]


class AreaMap:
    """A label map in MNI space, to be used in place of the 280 landmarks.

    Parameters
    ----------
    labels : ndarray of shape (nx, ny, nz), dtype=int
        0 is no area: points there take the area of the nearest voxel that has one.
    affine : ndarray of shape (4, 4)
        Voxel → MNI mm.
    names : dict of int to str
        Name of each value.

    Raises
    ------
    GeometryError
        If no voxel has a named value.

    Examples
    --------
    >>> labels = np.zeros((4, 5, 6), int)
    >>> labels[1, 2, 3], labels[3, 2, 3] = 1, 2
    >>> areas = AreaMap(labels, np.eye(4), {1: "motor", 2: "visual"})
    >>> areas([[0.4, 2, 3], [9, 2, 3]]).tolist()
    ['motor', 'visual']
    """

    def __init__(self, labels, affine, names):
        labels = np.asarray(labels)
        named = np.isin(labels, list(names))
        if not named.any():
            rule = f"A label map of areas must hold a value that has a name ({', '.join(map(str, names))})."
            raise GeometryError(f"{rule} Got the values {', '.join(map(str, np.unique(labels)[:8]))}.")
        nearest = distance_transform_edt(
            ~named, sampling=spacing_from_affine(affine), return_distances=False, return_indices=True
        )
        values, where = np.unique(labels[tuple(nearest)], return_inverse=True)
        self._regions = np.array([names[int(value)] for value in values])
        self._region = where.reshape(labels.shape)
        self._to_voxel = np.linalg.inv(affine)
        parts = self._region, self._regions, self._to_voxel
        self.key = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    @classmethod
    def load(cls, image, names):
        """Read a NIfTI or NRRD label map in MNI space, and a CSV table of its `names`: ``value, region``.

        Raises
        ------
        FileNotFoundError, GeometryError
            If the label map cannot be used.
        ManifestError
            If the table lacks a column, or a value is no whole number.
        """
        table = read_table(names)
        table.require(("value", "region"))
        found = {}
        for row in table.rows:
            value, region = row.get("value"), row.get("region")
            if not value.isdigit() or int(value) == 0 or not region:
                rule = f"'{names}', line {row.line}: an area needs a whole number above 0 and a name."
                raise ManifestError(f"{rule} Got '{value}' and '{region}'.")
            found[int(value)] = region
        return cls(*load_image(image), found)

    def __call__(self, points):
        """Return the area of `points` (..., 3) in MNI mm; array of str."""
        voxels = np.asarray(points, dtype=float) @ self._to_voxel[:3, :3].T + self._to_voxel[:3, 3]
        voxels = np.clip(np.round(voxels), 0, np.array(self._region.shape) - 1).astype(np.int64)
        return self._regions[self._region[tuple(np.moveaxis(voxels, -1, 0))]]


def place_labels(center, areas=region_at):
    """Return the labels of place of a tumor.

    Parameters
    ----------
    center : array-like of shape (3,)
        Its centroid in MNI mm.
    areas : callable, default=region_at
        Points (..., 3) in MNI mm → names of areas, for instance an `AreaMap`.

    Returns
    -------
    dict
        ``region``, ``hemisphere`` (None within 5 mm of the midline), ``front_rear``, ``upper_lower``.

    Examples
    --------
    >>> place_labels([-40, -60, 40])
    {'region': 'parietal', 'hemisphere': 'left', 'front_rear': 'rear', 'upper_lower': 'upper'}
    """
    x, y, z = (float(mm) for mm in center)
    return {
        "region": str(areas([x, y, z])),
        "hemisphere": None if abs(x) < _MIDLINE_MM else "left" if x < 0 else "right",
        "front_rear": "front" if y >= _FRONT_MM else "rear",
        "upper_lower": "upper" if z >= _UPPER_MM else "lower",
    }
