"""Volume → picture arrays: planes through a lesion, with its mask at the same pixels; and pages of them."""

import base64
import io
import itertools
from dataclasses import dataclass

import numpy as np

from tumorsim._validation import printable

__all__ = [
    "COLORS", "MISSING_COLOR", "OUTLINE_COLOR", "PLANES", "PROPOSED_COLOR", "Picture", "color_numbers",
    "display_window", "encode_png", "find_background", "orthogonal_slices", "outline_path",
    "page_environment", "scale_bar_mm",
]  # fmt: skip

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by color-blind people; yellow is left out: too
# faint on white. Black comes last: it is not seen on a dark page.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MISSING_COLOR = "#999999"
OUTLINE_COLOR = "#FFB000"
PROPOSED_COLOR = "#4DD8FF"  # dashed: nobody drew it
_TYPES = ("metastasis", "meningioma", "schwannoma", "glioma", "pituitary_adenoma")  # in the order of COLORS

# plane → (RAS+ axis cut, axis across, axis down, what the left, right, top and bottom edge look at).
# Radiological display: the patient's right is on the picture's left. Rightwards and downwards, every axis
# runs backwards.
_LAYOUT = {"axial": (2, 0, 1, "RLAP"), "coronal": (1, 0, 2, "RLSI"), "sagittal": (0, 1, 2, "APSI")}
PLANES = tuple(_LAYOUT)


@dataclass(frozen=True)
class Picture:
    """One plane through a lesion as it is shown.

    Attributes
    ----------
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    pixels, mask : ndarray of shape (n, n), dtype uint8 and bool
        Gray values, row 0 on top; the lesion at the same pixels, or None.
    box : tuple of 4 float, or None
        The lesion's box: left, top, right, bottom edge, in pixels from the picture's upper left corner.
    pixel_mm : float
        Edge length of a pixel.
    marks : str
        Where the left, right, top and bottom edges look, for instance ``"RLAP"``.
    """

    plane: str
    pixels: np.ndarray
    mask: np.ndarray | None
    box: tuple | None
    pixel_mm: float
    marks: str

    def parts(self):
        """Return text and numbers for templates of pages: plane, PNG, outline or box, marks, scale bar."""
        n, bar = len(self.pixels), scale_bar_mm(len(self.pixels) * self.pixel_mm)
        drawn = {"plane": self.plane, "n": n, "marks": self.marks, "png": encode_png(self.pixels)}
        drawn |= {"outline": outline_path(self.mask), "bar_mm": bar, "bar": bar / self.pixel_mm}
        return drawn | {"box": self.box if self.mask is None else None}


def page_environment():
    """Return Jinja's environment of the package's templates: text is escaped and printable, colors known."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined, "finalize": _shown}
    environment = Environment(loader=PackageLoader("tumorsim"), autoescape=True, **options)
    colors = {"outline": OUTLINE_COLOR, "proposed": PROPOSED_COLOR, "missing": MISSING_COLOR}
    environment.globals["colors"] = colors | {f"color{i}": color for i, color in enumerate(COLORS)}
    return environment


def _shown(value):
    """Return a value as a page shows it: without control characters."""
    return printable(value, len(value)) if type(value) is str and not value.isprintable() else value


def color_numbers(labels):
    """Return label → number of its color: a tumor type has the same one everywhere, others take what is left.

    Examples
    --------
    >>> color_numbers(["meningioma", "lymphoma", "metastasis"])
    {'metastasis': 0, 'meningioma': 1, 'lymphoma': 2}
    """
    labels = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(_TYPES) if name in labels}
    free = (number for number in itertools.count() if number not in numbers.values())
    return numbers | {name: next(free) for name in labels if name not in _TYPES}


def find_background(image):
    """Return the value that fills the scan's surroundings, or None where they are noise.

    It is the one that at least five of the eight corners of an image of shape (nx, ny, nz) share.

    Examples
    --------
    >>> image = np.zeros((7, 8, 9))
    >>> image[2:5, 2:5, 2:5] = 3
    >>> find_background(image)
    0.0
    """
    corners = np.asarray(image)[np.ix_(*[(0, -1)] * 3)].ravel()
    values, counts = np.unique(corners, return_counts=True)
    return float(values[counts.argmax()]) if counts.max() >= 5 else None


def display_window(image, *, background=None):
    """Return the intensities that are shown black and white: percentiles 1 and 99.5.

    Parameters
    ----------
    image : ndarray
        Voxels around the lesion, of any shape.
    background : float, optional
        A value that does not count, see `find_background`.

    Returns
    -------
    low, high : float
        With ``low < high``, even where the image is constant.

    Examples
    --------
    >>> display_window(np.array([0, 0, 0, 5, 6, 7]), background=0)
    (5.02, 6.99)
    """
    values = np.asarray(image).ravel()
    if background is not None and (values != background).any():
        values = values[values != background]
    low, high = (float(v) for v in np.percentile(values, (1.0, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def orthogonal_slices(
    image, center, spacing, extent_mm, *, through=None, mask=None, bbox=None, n_pixels=160, window=None,
    background=None,
):  # fmt: skip
    """Cut three planes through a point and show them as square pictures of isotropic pixels.

    A plane is one slice of voxels, never a blend, so that outlines fit thick slices too. Within it images are
    interpolated linearly and averaged where pixels are coarser; masks take the nearest voxel.

    Parameters
    ----------
    image : ndarray of shape (nx, ny, nz)
        Intensities, axes in RAS+ order (`geometry.to_ras`).
    center : array-like of shape (3,)
        Middle of the pictures in voxels of `image`; integers are voxel centers.
    spacing : array-like of shape (3,)
        Millimetres per voxel, in the same order.
    extent_mm : float
        Edge length of the pictures.
    through : array-like of shape (3,), optional
        Where the planes cut, in voxels; default `center`.
    mask, bbox : ndarray of bool of shape (nx, ny, nz), ndarray of shape (2, 3), optional
        The lesion, and its box in voxels of `image`, half-open.
    n_pixels : int, default=160
        Pixels on an edge.
    window, background : tuple of 2 float, float, optional
        Intensities of black and white, default `display_window`; value that is always black.

    Returns
    -------
    pictures : dict of str to Picture
        ``axial``, ``coronal``, ``sagittal``, in radiological display: the patient's left is on the right.

    Raises
    ------
    ValueError
        If `image` is not 3-D, or `mask` has another shape.

    Examples
    --------
    >>> image = np.zeros((7, 8, 9))
    >>> image[6, 4, 4] = 1  # far to the patient's right
    >>> axial = orthogonal_slices(image, (3, 4, 4), (1, 1, 1), 9, n_pixels=9, window=(0, 1))["axial"]
    >>> np.argwhere(axial.pixels == 255).tolist(), axial.marks
    ([[4, 1]], 'RLAP')
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"Parameter 'image' must be 3-D. Got shape {image.shape}.")
    if mask is not None and np.shape(mask) != image.shape:
        raise ValueError(f"Parameter 'mask' must have the image's shape {image.shape}. Got {np.shape(mask)}.")
    center, spacing = np.asarray(center, dtype=np.float64), np.asarray(spacing, dtype=np.float64)
    through = center if through is None else through
    low, high = display_window(image, background=background) if window is None else window
    pixel_mm = float(extent_mm) / n_pixels
    pictures = {}
    for plane, (cut, *shown, marks) in _LAYOUT.items():
        index = int(np.clip(np.round(through[cut]), 0, image.shape[cut] - 1))
        flat = image.take(index, axis=cut).astype(np.float32)  # (across, down)
        if background is not None:
            flat[flat == background] = low
        for axis, voxel in enumerate(shown):
            finer = max(1, int(np.ceil(pixel_mm / spacing[voxel] - 1e-6)))
            at = center[voxel] - _offsets_mm(n_pixels * finer, pixel_mm / finer) / spacing[voxel]
            flat = _interpolate(flat, at, axis, fill=low)
            runs = list(flat.shape)
            runs[axis : axis + 1] = [n_pixels, finer]
            flat = flat.reshape(runs).mean(axis=axis + 1)
        gray = np.clip((flat - low) / (high - low), 0, 1) * 255
        outlined = None
        if mask is not None:
            at = [center[voxel] - _offsets_mm(n_pixels, pixel_mm) / spacing[voxel] for voxel in shown]
            outlined = _nearest(np.asarray(mask, dtype=bool).take(index, axis=cut), at).T
        box = None
        if bbox is not None:  # a voxel's edges lie half a voxel before and after its center
            edges = (center - (np.asarray(bbox) - 0.5)) * spacing / pixel_mm + n_pixels / 2
            box = tuple(float(v) for v in edges[::-1, shown].ravel())
        pictures[plane] = Picture(plane, np.round(gray).astype(np.uint8).T, outlined, box, pixel_mm, marks)
    return pictures


def scale_bar_mm(extent_mm):
    """Return a round length (1, 2, 5, 10, 20, 50 … mm) near a quarter of the picture's edge.

    Examples
    --------
    >>> scale_bar_mm(100), scale_bar_mm(70), scale_bar_mm(15)
    (20, 10, 2)
    """
    goal = extent_mm / 4
    power = 10 ** np.floor(np.log10(goal))
    length = max(f * power for f in (1, 2, 5) if f * power <= goal * (1 + 1e-9))
    return int(length) if length >= 1 else float(length)


def encode_png(pixels):
    """Return a uint8 (n, n) array as the base64 text of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def outline_path(mask):
    """Return a bool (n, n) mask's outline as an SVG path in pixels from the upper left corner, or None.

    Examples
    --------
    >>> outline_path(np.zeros((3, 3), dtype=bool)) is None
    True
    """
    if mask is None or not mask.any():
        return None
    from contourpy import contour_generator

    lines = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    parts = []
    for line in lines:
        # the pad is one pixel, a pixel's center is half a pixel from its edge
        points = np.round(line - 0.5, 1)
        steps = np.diff(points, axis=0)
        turns = np.ones(len(points), dtype=bool)
        turns[1:-1] = ~np.isclose(steps[:-1, 0] * steps[1:, 1], steps[:-1, 1] * steps[1:, 0])
        corners = points[turns][:-1]
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(parts)


def _offsets_mm(n_pixels, pixel_mm):
    """Return where the pixels' centers lie from the picture's middle, shape (n_pixels,)."""
    return (np.arange(n_pixels) - (n_pixels - 1) / 2) * pixel_mm


def _interpolate(flat, at, axis, *, fill):
    """Sample `flat` linearly at voxel coordinates `at` of one axis; `fill` beyond its outer voxels' edges."""
    size = flat.shape[axis]
    inner = np.clip(at, 0, size - 1)
    first = np.minimum(inner.astype(np.int64), max(size - 2, 0))
    shape = [1, 1]
    shape[axis] = -1
    weight = (inner - first).astype(np.float32).reshape(shape)
    second = np.minimum(first + 1, size - 1)
    result = flat.take(first, axis) * (1 - weight) + flat.take(second, axis) * weight
    return np.where(((at >= -0.5) & (at < size - 0.5)).reshape(shape), result, np.float32(fill))


def _nearest(flat, at):
    """Sample a bool array at two lists of voxel coordinates; False outside."""
    nearest = [np.floor(a + 0.5).astype(np.int64) for a in at]
    inside = [(n >= 0) & (n < size) for n, size in zip(nearest, flat.shape, strict=True)]
    result = flat[np.ix_(*[np.clip(n, 0, size - 1) for n, size in zip(nearest, flat.shape, strict=True)])]
    return result & np.outer(*inside)
