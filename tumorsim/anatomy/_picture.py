"""Picture of a registration: the scan in MNI space, the template's outline and the tumors on it."""

import re
from pathlib import Path

import numpy as np

from tumorsim.anatomy._fit import load_template
from tumorsim.io import atomic_path
from tumorsim.rendering import display_window

__all__ = ["picture_file", "save_picture"]

_LOW, _HIGH = np.array([-98, -134, -82]), np.array([99, 100, 109])  # MNI mm, every millimetre a pixel
_PLANES = ((2, -40), (2, -16), (2, 8), (2, 32), (2, 56), (1, -60), (1, -18), (1, 24), (0, -30), (0, 0))
_SHOWN = {0: (1, 2), 1: (0, 2), 2: (0, 1)}  # axis cut → axes across and down
_BRAIN, _TUMOR, _LINES = (64, 224, 255), (255, 96, 96), (255, 220, 64)
_LIMITS = {0: 0.0, 1: -18.0, 2: 10.0}  # MNI mm between left and right, rear and front, lower and upper


def picture_file(folder, case_id):
    """Return the file of a case's picture; what file systems refuse in a name becomes ``_``."""
    return Path(folder) / (re.sub(r"[^\w.-]", "_", case_id) + ".png")


def save_picture(path, image, affine, tumors, to_mni, *, title, centers=()):
    """Write a PNG of ten planes of a scan brought to MNI space, atomically; radiological display.

    `image` and `tumors` (bool) are (nx, ny, nz); `affine` maps voxels to RAS+ mm of the scan, `to_mni` those
    to MNI mm. A plane through each of the first two `centers` (3,), in MNI mm, joins the others. Cyan:
    outline of the template's brain, and of its white matter. Red: tumors. Yellow: where left meets right,
    front meets rear and upper meets lower.
    """
    from PIL import Image, ImageDraw

    mni_to_voxel = np.linalg.inv(to_mni @ affine)
    planes = [*_PLANES, *((2, round(float(c[2]))) for c in centers[:2])]
    low, high = display_window(image, background=float(image.min()))
    tiles = []
    for cut, mm in planes:
        points, shape = _plane_points(cut, mm)
        voxels = points @ mni_to_voxel[:3, :3].T + mni_to_voxel[:3, 3]
        gray = np.clip((_sample(image, voxels, 1, low) - low) / (high - low), 0, 1).reshape(shape)
        tile = np.repeat((gray * 255).astype(np.uint8)[..., None], 3, axis=2)
        arrays, template_affine = load_template()
        at = points - template_affine[:3, 3]  # the template's voxels are 1 mm
        for outline, color in (
            (_sample(arrays[2], at, 0, 0).reshape(shape) > 0.6, tuple(c // 2 for c in _BRAIN)),
            (_sample(arrays[3], at, 0, 0).reshape(shape) > 0.5, _BRAIN),
            (_sample(tumors.astype(np.uint8), voxels, 0, 0).reshape(shape) > 0, _TUMOR),
        ):
            tile[_edge(outline)] = color
        tiles.append(_with_limits(tile, cut))
    width, height = (max(t.shape[a] for t in tiles) for a in (1, 0))
    columns, top = 5, 18
    sheet = Image.new("RGB", (columns * width, top + height * -(-len(tiles) // columns)))
    draw = ImageDraw.Draw(sheet)
    for i, (tile, (cut, mm)) in enumerate(zip(tiles, planes, strict=True)):
        x, y = i % columns * width, top + i // columns * height
        sheet.paste(Image.fromarray(tile), (x, y))
        sides = "" if cut == 0 else "  R | L"
        draw.text((x + 3, y + 2), f"{'xyz'[cut]} = {mm} mm{sides}", fill=(255, 255, 255))
    draw.text((3, 3), title.encode("ascii", "replace").decode(), fill=(255, 255, 255))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _plane_points(cut, mm):
    """Return the MNI mm of the pixels of a plane (n, 3), row by row from the top, and its (rows, columns)."""
    across, down = _SHOWN[cut]
    x, y = (np.arange(_HIGH[a] - 1, _LOW[a] - 1, -1.0) for a in (across, down))  # axes run backwards
    points = np.empty((len(y), len(x), 3))
    points[..., cut], points[..., across], points[..., down] = mm, x[None], y[:, None]
    return points.reshape(-1, 3), (len(y), len(x))


def _sample(array, voxels, order, outside):
    """Sample an array (nx, ny, nz) at `voxels` (n, 3)."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(array, voxels.T, order=order, mode="constant", cval=outside)


def _edge(inside):
    """Return the border pixels of a bool array."""
    from scipy.ndimage import binary_erosion

    return inside & ~binary_erosion(inside)


def _with_limits(tile, cut):
    """Dot the limits between sides, front and rear, upper and lower into a tile (rows, columns, 3)."""
    across, down = _SHOWN[cut]
    column, row = (round(_HIGH[a] - 1 - _LIMITS[a]) for a in (across, down))
    tile[::6, column] = _LINES
    tile[row, ::6] = _LINES
    return tile
