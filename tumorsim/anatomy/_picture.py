"""Picture of a registration: the scan in MNI space, the template's outline and the tumors on it."""

import numpy as np
from scipy.ndimage import affine_transform, binary_erosion

from tumorsim.anatomy._fit import load_template
from tumorsim.io import atomic_path
from tumorsim.rendering import display_window

_PLANES = ((2, -40), (2, -16), (2, 8), (2, 32), (2, 56), (1, -60), (1, -18), (1, 24), (0, -30), (0, 0))
_BRAIN, _WHITE, _TUMOR, _LINES = (64, 224, 255), (32, 112, 127), (255, 96, 96), (255, 220, 64)
_LIMITS = np.array([0.0, -18.0, 10.0])  # MNI mm between left and right, rear and front, lower and upper


def save_picture(path, image, affine, tumors, to_mni, *, title, centers=()):
    """Write a PNG of ten planes of a scan brought to MNI space, atomically; radiological display.

    `image` and `tumors` (bool) are (nx, ny, nz); `affine` maps voxels to RAS+ mm of the scan, `to_mni` those
    to MNI mm. A plane through each of the first two `centers` (3,), in MNI mm, joins the others.
    """
    from PIL import Image, ImageDraw

    (_, _, white, brain), template = load_template()  # its voxels are 1 mm along the axes of MNI space
    to_voxel = np.linalg.inv(to_mni @ affine) @ template
    low, high = display_window(image, background=float(image.min()))
    image = affine_transform(image, to_voxel, output_shape=brain.shape, order=1, cval=low)
    gray = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    tumors = affine_transform(tumors.astype(np.uint8), to_voxel, output_shape=brain.shape, order=0)
    outlined = ((white > 0.6, _WHITE), (brain > 0.5, _BRAIN), (tumors > 0, _TUMOR))
    planes = [*_PLANES, *((2, round(float(c[2]))) for c in centers[:2])]
    width, height, columns, top = brain.shape[1], brain.shape[1], 5, 18
    sheet = Image.new("RGB", (columns * width, top + height * -(-len(planes) // columns)))
    draw = ImageDraw.Draw(sheet)
    for i, (cut, mm) in enumerate(planes):
        index = int(np.clip(mm - template[cut, 3], 0, brain.shape[cut] - 1))
        tile = np.repeat(_plane(gray, index, cut)[..., None], 3, axis=2)
        for array, color in outlined:
            inside = _plane(array, index, cut)
            tile[inside & ~binary_erosion(inside)] = color
        column, row = np.delete(np.array(brain.shape) - 1 - (_LIMITS - template[:3, 3]).astype(int), cut)
        tile[::6, column] = tile[row, ::6] = _LINES
        x, y = i % columns * width, top + i // columns * height
        sheet.paste(Image.fromarray(tile), (x, y))
        sides = "" if cut == 0 else "  R | L"
        draw.text((x + 3, y + 2), f"{'xyz'[cut]} = {mm} mm{sides}", fill=(255, 255, 255))
    draw.text((3, 3), title.encode("ascii", "replace").decode(), fill=(255, 255, 255))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _plane(array, index, cut):
    """Return a plane of an array of the template's grid as a picture (rows, columns): axes run backwards."""
    return np.take(array, index, axis=cut).T[::-1, ::-1]
