"""The page of two dates: each lesion before and after, side by side at one place."""

from pathlib import Path

import numpy as np

from tumorsim.geometry import select_mask
from tumorsim.rendering import display_window, find_background, orthogonal_slices
from tumorsim.report._pages import MARGIN_MM, N_PIXELS, render, write_page

_ANSWERS = {"merged": "were several, are one", "split": "was one, are several"}


def save_match(path, before, after, table):
    """Write a page that shows each lesion of a `match_dates` table on both Cases, cut at one place."""
    to_after = np.array(table.attrs["to_after"])
    scans = (before, np.eye(4)), (after, to_after)
    masks = [select_mask(case.load_mask(), table.attrs["mask_value"]) for case, _ in scans]
    turns = [np.linalg.inv(case.affine) @ turn for case, turn in scans]
    sides = list(zip([case.load_image() for case, _ in scans], masks, turns, strict=True))
    cards = []
    for row in table.to_dict("records"):
        extent = float(np.nanmax([row["diameter_before_mm"], row["diameter_after_mm"]])) + 2 * MARGIN_MM
        center = np.array([row[f"{axis}_mm"] for axis in "xyz"])
        pictures = [_planes(*side, center, extent) for side in sides]
        empty = {key: value if value == value else None for key, value in row.items()}
        cards.append(empty | {"pictures": pictures, "means": _ANSWERS.get(row["status"], "")})
    names = [Path(c.image).name if isinstance(c.image, str) else c.case_id for c in (before, after)]
    names += [f"{quality:.2f}" for quality in table["registration_quality"][:1]]  # of no lesion none
    facts = dict(zip(("Earlier scan", "Later scan", "Quality of the registration"), names, strict=False))
    content = {"cards": cards, "limits": table.attrs["limits_percent"], "aside": [], "warning": ""}
    return write_page(path, render("match", facts=facts, **content))


def _planes(image, mask, to_voxel, center, extent):
    """Return the axial and the coronal plane through `center` (3,), in mm of the earlier scan."""
    from scipy.ndimage import map_coordinates

    n = int(np.ceil(extent)) | 1
    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij"), axis=-1) + center
    voxels = np.moveaxis(grid @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)
    background = find_background(image)
    cube = map_coordinates(image.astype(np.float32), voxels, order=1, cval=background or 0.0)
    inside = map_coordinates(mask.astype(np.uint8), voxels, order=0) > 0
    options = {"mask": inside, "n_pixels": 2 * N_PIXELS, "background": background}
    options["window"] = display_window(cube, background=background)
    found = orthogonal_slices(cube, np.full(3, n // 2), np.ones(3), extent, **options)
    return [found[plane].parts() for plane in ("axial", "coronal")]
