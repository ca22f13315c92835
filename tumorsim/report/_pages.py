"""Pages that load nothing from anywhere: how all are rendered; overview of a table, masks, two dates."""

import base64
import hashlib
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np

import tumorsim
from tumorsim.geometry import select_mask
from tumorsim.io import write_text
from tumorsim.records import axial_plane, read_surroundings
from tumorsim.rendering import display_window, find_background, orthogonal_slices, page_environment

RESEARCH = "Research use only; not for diagnosis or treatment."
SIMULATED = "Pretrained mostly on simulated tumors."
OUTCOME = (
    "Similar appearance does not imply similar outcome; an archive holds only patients who were treated."
)
N_PIXELS, MARGIN_MM = 150, 30.0
_MEANINGS = {"merged": "were several, are one", "split": "was one, are several"}


def render(template, *, facts, warning=OUTCOME, **content):
    """Return one of the templates as HTML; `facts` (name → value) stand at its bottom.

    The page's policy allows its own script and style, by their hashes, and nothing else. Where the fact
    ``pretrained_on_simulated`` is true, the page says so at its top instead.
    """
    environment = page_environment()
    simulated = SIMULATED if facts.get("pretrained_on_simulated") else ""
    facts = {name: str(value) for name, value in facts.items() if name != "pretrained_on_simulated"}
    facts["Written"] = f"{datetime.now():%Y-%m-%d %H:%M} by tumorsim {tumorsim.__version__}"
    colors = environment.globals["colors"].items()
    head = f":root {{ {' '.join(f'--{name}: {color};' for name, color in colors)} }}\n"
    for name, file, start in (("script", "answer.js", ""), ("style", "answer.css", head)):
        text = start + environment.loader.get_source(environment, file)[0]
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        content |= {name: text, f"{name}_hash": f"sha256-{base64.b64encode(digest).decode('ascii')}"}
    content |= {"footer": facts, "disclaimer": " ".join(filter(None, (RESEARCH, simulated, warning)))}
    return environment.get_template(f"{template}.html.j2").render(**content)


def save_overview(path, rows, aside, *, facts):
    """Write the page that leads to the answer sheets of a table of scans, and return its path.

    A row is one query tumor: ``sheet`` (name of its file), ``number`` (of its section, from 1), ``query`` (of
    ``Answer.to_dict``), ``proposed`` (bool) and ``picture`` (of `draw_tumor`). `aside` are scans that could
    not be used, and why; `facts` (name → text) stand at the bottom.
    """
    return write_text(path, render("overview", rows=rows, aside=aside, facts=facts))


def save_review(path, cards, aside, *, facts):
    """Write the page on which a person looks through proposed masks, and return its path.

    A card is one scan: ``case_id``, ``patient_id``, ``image``, ``mask``, ``volumes_mm3`` (of its lesions) and
    ``pictures`` (of `draw_proposal`). `aside` and `facts` are as in `save_overview`.
    """
    return write_text(path, render("review", cards=cards, aside=aside, facts=facts, warning=""))


def draw_tumor(tumor):
    """Return a tumor's axial plane as the pages show it; None, with a warning, if its scan cannot be read."""
    near = try_surroundings(tumor)
    return None if near is None else near.slices(n_pixels=N_PIXELS)["axial"].parts()


def try_surroundings(tumor, margin_mm=MARGIN_MM):
    """Return a tumor's `Surroundings`; None, with a warning, if its scan cannot be read."""
    try:
        return read_surroundings(tumor, margin_mm)
    except (OSError, ValueError) as err:
        warnings.warn(f"No picture of tumor '{tumor.tumor_id}': {err}", stacklevel=3)
        return None


def draw_proposal(case, mask, tumors):
    """Return pictures of a proposed mask (nx, ny, nz): a whole axial plane, and the tumors from nearby.

    The first of `tumors` has three planes, and the whole one goes through it; further ones have one.
    """
    options, nearby = {"n_pixels": 2 * N_PIXELS}, []
    for number, tumor in enumerate(tumors):
        near = read_surroundings(tumor, MARGIN_MM)
        planes = [picture.parts() for picture in near.slices(n_pixels=N_PIXELS).values()]
        nearby += planes[: 1 if number else 3]
    if nearby:
        scan = read_surroundings(tumors[0], np.inf)
        options |= {"through": scan.through, "window": scan.window}
    return [axial_plane(case, mask, **options).parts(), *nearby]


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
        cards.append(empty | {"pictures": pictures, "means": _MEANINGS.get(row["status"], "")})
    names = [Path(c.image).name if isinstance(c.image, str) else c.case_id for c in (before, after)]
    names += [f"{quality:.2f}" for quality in table["registration_quality"][:1]]  # of no lesion none
    facts = dict(zip(("Earlier scan", "Later scan", "Quality of the registration"), names, strict=False))
    content = {"cards": cards, "limits": table.attrs["limits_percent"], "aside": [], "warning": ""}
    return write_text(path, render("match", facts=facts, **content))


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
