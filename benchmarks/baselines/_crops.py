"""Crops around tumors: raw voxels as features, and what a frozen network trained elsewhere makes of them."""

import numpy as np

from benchmarks._checks import check_integer, check_real
from benchmarks.baselines._features import Baseline
from benchmarks.label_free._scans import read_scan
from tumorsim.geometry import crop_slices
from tumorsim.preprocessing import normalize_intensity, resample
from tumorsim.records import group_by_case

__all__ = ["FrozenEmbedder", "crop_features", "tumor_crops"]

MARGIN_MM = 8.0


def tumor_crops(tumors, *, shape=32, margin_mm=MARGIN_MM, spacing=None):
    """Return the image around each tumor, on a grid that is the same for all.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
        Only boxes are used, not masks.
    shape : int or tuple of 3 int, default=32
        Voxels of a crop.
    margin_mm : float, default=8.0
        Width added to the box on each side. The result is stretched to `shape` along each axis, so that size
        and proportions are lost.
    spacing : float or tuple of 3 float, optional
        Millimetres per voxel of a crop about the box's center instead: `margin_mm` does not matter then, size
        and proportions stay, and of a tumor larger than the crop only its middle is seen.

    Returns
    -------
    ndarray of shape (n_tumors, 1, x, y, z), dtype=float32
        In RAS+ order. 0 is air, also where the scan ends; 1 the median of the brain, see
        `preprocessing.normalize_intensity`.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.
    GeometryError
        If an image has one intensity only.
    """
    shape, margin_mm, spacing = _check_grid(shape, margin_mm, spacing)
    crops = np.zeros((len(tumors), 1, *shape), dtype=np.float32)
    for rows in group_by_case(tumors):
        scan = read_scan(tumors[rows[0]].case, [tumors[row].bbox for row in rows])
        image = normalize_intensity(scan.image, scan.spacing)
        for row, box in zip(rows, scan.boxes, strict=True):
            edges = box * scan.spacing  # mm from the scan's first edge
            if spacing is None:
                edges = edges + margin_mm * np.array([[-1], [1]])
            else:
                edges = edges.mean(axis=0) + np.array([[-0.5], [0.5]]) * shape * spacing
            crops[row, 0] = _cut(image, scan.spacing, edges, shape)
    return crops


def crop_features(tumors, *, shape=24, margin_mm=MARGIN_MM, spacing=None):
    """Return the voxels of `tumor_crops` as rows.

    Parameters
    ----------
    tumors : Cohort or sequence of Tumor
    shape : int or tuple of 3 int, default=24
    margin_mm : float, default=8.0
    spacing : float or tuple of 3 float, optional
        As in `tumor_crops`.

    Returns
    -------
    ndarray of shape (n_tumors, x * y * z), dtype=float32
    """
    crops = tumor_crops(tumors, shape=shape, margin_mm=margin_mm, spacing=spacing)
    return crops.reshape(len(crops), -1)


class FrozenEmbedder(Baseline):
    """Any embedder of crops that has been trained elsewhere, such as a foundation model.

    Parameters
    ----------
    embed : callable or transformer
        Crops, float32 (n, 1, x, y, z) as from `tumor_crops`, → array or tensor (n, n_features): a function,
        or an object with a method ``transform``, as scikit-learn has. It is used as it is: neither `fit` nor
        scikit-learn's ``clone`` changes or copies it.
    shape : int or tuple of 3 int, default=32
    margin_mm : float, default=8.0
    spacing : float or tuple of 3 float, optional
        The crops, as in `tumor_crops`.
    batch_size : int, default=16
        Crops that `embed` is given at once.

    Attributes
    ----------
    n_features_out_ : int

    Notes
    -----
    A foundation model in PyTorch, at the voxel size it was trained with::

        def embed(crops):
            with torch.inference_mode():
                return model(torch.from_numpy(crops)).flatten(1)

        FrozenEmbedder(embed, shape=96, spacing=1.0)

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> cohort = make_cohort(2, random_state=0, spacing=4.0)
    >>> def brightness(crops):
    ...     return np.percentile(crops, (10, 50, 90), axis=(1, 2, 3, 4)).T
    >>> FrozenEmbedder(brightness).fit_transform(cohort).shape == (len(cohort), 3)
    True
    """

    def __init__(self, embed, *, shape=32, margin_mm=MARGIN_MM, spacing=None, batch_size=16):
        self.embed = embed
        self.shape = shape
        self.margin_mm = margin_mm
        self.spacing = spacing
        self.batch_size = batch_size

    def __sklearn_clone__(self):
        """Return an unfitted copy around the very same `embed`, which scikit-learn would else reset."""
        return type(self)(**self.get_params(deep=False))

    def _fit(self, tumors, y):
        check_integer(self.batch_size, "batch_size", minimum=1)
        _check_grid(self.shape, self.margin_mm, self.spacing)
        if not callable(self.embed) and not hasattr(self.embed, "transform"):
            raise TypeError(
                "Parameter 'embed' must be a callable or have a method 'transform'. Got "
                f"{type(self.embed).__name__}."
            )
        self.n_features_out_ = self._rows(tumors[:1], None).shape[1]

    def _transform(self, tumors):
        # tumors of one scan stand together in a batch, so that each scan is read about once
        order = [row for rows in group_by_case(tumors) for row in rows]
        X = np.zeros((len(tumors), self.n_features_out_), dtype=np.float32)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            X[rows] = self._rows([tumors[row] for row in rows], self.n_features_out_)
        return X

    def _rows(self, tumors, width):
        """Return what `embed` returns for a batch, checked; (n_tumors, `width`), or any width for None."""
        crops = tumor_crops(tumors, shape=self.shape, margin_mm=self.margin_mm, spacing=self.spacing)
        found = self.embed.transform(crops) if hasattr(self.embed, "transform") else self.embed(crops)
        if hasattr(found, "detach"):  # a torch tensor, perhaps on another device
            found = found.detach().cpu().numpy()
        found = np.asarray(found)
        if found.ndim != 2 or len(found) != len(crops) or width not in (None, found.shape[1]):
            expected = f"({len(crops)}, {width or 'n_features'})"
            raise ValueError(f"'embed' must return an array of shape {expected}. Got {found.shape}.")
        if not np.isfinite(found).all():
            raise ValueError("'embed' must return finite numbers. Got NaN or infinity.")
        return found


def _check_grid(shape, margin_mm, spacing):
    """Return the shape (tuple of 3 int), margin (float) and spacing (ndarray (3,) or None) of a crop."""
    sides = shape if isinstance(shape, tuple | list) else (shape,) * 3
    if len(sides) != 3:
        raise ValueError(f"Parameter 'shape' must be one or three numbers of voxels. Got {shape!r}.")
    sides = tuple(check_integer(side, "shape", minimum=1) for side in sides)
    margin_mm = check_real(margin_mm, "margin_mm")
    if spacing is not None:
        edges = np.broadcast_to(spacing, 3).tolist()
        spacing = np.array([check_real(edge, "spacing", exclusive=True) for edge in edges])
    return sides, margin_mm, spacing


def _cut(image, spacing, edges, shape):
    """Return `shape` voxels between `edges` (2, 3) in mm of an image in RAS+ order, air around it."""
    size = (edges[1] - edges[0]) / shape
    reach = np.maximum(size, spacing)  # of the resampling kernel
    low = np.floor((edges[0] - reach) / spacing).astype(np.int64)
    high = np.ceil((edges[1] + reach) / spacing).astype(np.int64)
    inside = np.stack([np.maximum(low, 0), np.minimum(high, image.shape)])  # a box of the scan is in it
    part = np.pad(image[crop_slices(inside)], np.stack([inside[0] - low, high - inside[1]], axis=1))
    return resample(part, spacing, size, shape, offset=edges[0] - low * spacing)
