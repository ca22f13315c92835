"""Pages that load nothing from anywhere: how all are rendered; overview of a table, review of masks."""

import base64
import hashlib
import warnings
from datetime import datetime
from pathlib import Path

import numpy as np

import tumorsim
from tumorsim._validation import printable
from tumorsim.geometry import ras_affine, spacing_from_affine, to_ras
from tumorsim.io import atomic_path
from tumorsim.records import read_surroundings
from tumorsim.rendering import (
    COLORS,
    MISSING_COLOR,
    OUTLINE_COLOR,
    PROPOSED_COLOR,
    encode_png,
    find_background,
    orthogonal_slices,
    outline_path,
    scale_bar_mm,
)

RESEARCH = "Research use only; not for diagnosis or treatment."
SIMULATED = "Pretrained mostly on simulated tumors."
OUTCOME = (
    "Similar appearance does not imply similar outcome; an archive holds only patients who were treated."
)
N_PIXELS, MARGIN_MM = 150, 30.0


def write_page(path, template, **content):
    """Write one of the templates as a page, atomically; see `render`."""
    page = render(template, **content)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def render(template, *, facts, warning=OUTCOME, **content):
    """Return one of the templates as HTML; `facts` (name → value) stand at its bottom.

    The page's policy allows its own script and style, by their hashes, and nothing else. Where the fact
    ``pretrained_on_simulated`` is true, the page says so at its top instead.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tumorsim"),
        autoescape=True,  # manifests may hold any text
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    simulated = SIMULATED if facts.get("pretrained_on_simulated") else ""
    facts = {name: str(value) for name, value in facts.items() if name != "pretrained_on_simulated"}
    facts["Written"] = f"{datetime.now():%Y-%m-%d %H:%M} by tumorsim {tumorsim.__version__}"
    colors = {"outline": OUTLINE_COLOR, "proposed": PROPOSED_COLOR, "missing": MISSING_COLOR}
    colors |= {f"color{number}": color for number, color in enumerate(COLORS)}
    head = f":root {{ {' '.join(f'--{name}: {color};' for name, color in colors.items())} }}\n"
    for name, file, start in (("script", "answer.js", ""), ("style", "answer.css", head)):
        text = start + environment.loader.get_source(environment, file)[0]
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        content |= {name: text, f"{name}_hash": f"sha256-{base64.b64encode(digest).decode('ascii')}"}
    content |= {"footer": facts, "disclaimer": " ".join(filter(None, (RESEARCH, simulated, warning)))}
    content |= {"colors": colors}
    return environment.get_template(f"{template}.html.j2").render(**content)


def save_overview(path, rows, aside, *, facts):
    """Write the page that leads to the answer sheets of a table of scans.

    Parameters
    ----------
    path : str or Path
    rows : list of dict
        One per query tumor: ``sheet`` (name of its file), ``number`` (of its section, from 1), ``query`` (of
        ``Answer.to_dict``), ``proposed`` (bool) and ``picture`` (of `draw_tumor`).
    aside : list of (str, str)
        Scans that could not be used, and why.
    facts : dict
        Shown at the bottom.
    """
    return write_page(path, "overview", rows=rows, aside=aside, facts=facts)


def save_review(path, cards, aside, *, facts):
    """Write the page on which a person looks through proposed masks.

    Parameters
    ----------
    path : str or Path
    cards : list of dict
        One per scan: ``case_id``, ``patient_id``, ``image``, ``mask``, ``volumes_mm3`` (of its lesions) and
        ``pictures`` (of `draw_proposal`).
    aside, facts
        As in `save_overview`.
    """
    return write_page(path, "review", cards=cards, aside=aside, facts=facts, warning="")


def draw_tumor(tumor):
    """Return a tumor's axial plane as the pages show it; None, with a warning, if its scan cannot be read."""
    try:
        near = read_surroundings(tumor, MARGIN_MM)
    except (OSError, ValueError) as err:
        warnings.warn(f"No picture of tumor '{tumor.tumor_id}': {err}", stacklevel=2)
        return None
    return still(near.slices(_extent_mm(near), N_PIXELS)["axial"])


def draw_proposal(case, mask, tumors):
    """Return pictures of a proposed mask (nx, ny, nz): a whole axial plane, and the tumors from nearby.

    The first of `tumors` has three planes, and the whole one goes through it; further ones have one. Other
    whole planes would show the face.
    """
    image, shown = to_ras(case.load_image(), case.affine), to_ras(np.asarray(mask) > 0, case.affine)
    spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
    options, nearby = {"background": find_background(image)}, []
    for number, tumor in enumerate(tumors):
        near = read_surroundings(tumor, MARGIN_MM)
        planes = [still(picture) for picture in near.slices(_extent_mm(near), N_PIXELS).values()]
        nearby += planes[: 1 if number else 3]
    if nearby:
        whole = read_surroundings(tumors[0], np.inf)
        options |= {"through": whole.through, "window": whole.window}
    middle, extent = (np.array(image.shape) - 1) / 2, float((np.array(image.shape) * spacing)[:2].max())
    options |= {"mask": shown, "n_pixels": 2 * N_PIXELS}
    return [still(orthogonal_slices(image, middle, spacing, extent, **options)["axial"]), *nearby]


def still(picture):
    """Return one picture of `rendering.orthogonal_slices` as text and numbers for the templates."""
    n = len(picture.pixels)
    bar = scale_bar_mm(n * picture.pixel_mm)
    drawn = {"plane": picture.plane, "n": n, "marks": picture.marks, "png": encode_png(picture.pixels)}
    drawn |= {"outline": outline_path(picture.mask), "bar_mm": bar, "bar": bar / picture.pixel_mm}
    return drawn | {"box": picture.box if picture.mask is None else None}


def _extent_mm(near):
    """Return the edge of a square that holds a tumor's box and margin."""
    return float((np.diff(near.bbox, axis=0)[0] * near.spacing).max() + 2 * MARGIN_MM)


def _shown(value):
    """Return a value as a page shows it: without control characters."""
    return printable(value, len(value)) if type(value) is str and not value.isprintable() else value
