"""Answer sheets: a query tumor and its neighbors as one self-contained HTML file."""

import base64
import io
import warnings
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np

import tumorsim
from tumorsim.answers import describe_agreement, describe_closeness, describe_summary, describe_vote
from tumorsim.geometry import ras_affine, ras_box, spacing_from_affine
from tumorsim.io import atomic_path
from tumorsim.plotting import common_extent, tumor_slices
from tumorsim.records import Cohort, Tumor
from tumorsim.rendering import scale_bar_mm

__all__ = ["describe_model", "save_report"]

PICTURE_BYTES = 600_000  # of all pictures in a file; a gray PNG takes at most about a byte a pixel
MAX_PIXELS, MIN_PIXELS = 200, 48  # on a picture's edge
THICK_SLICE_MM = 3.0
DISCLAIMERS = (
    "Research use only; not for diagnosis or treatment.",
    "Pretrained mostly on simulated tumors.",
    "Similar appearance does not imply similar outcome; an archive holds only patients who were treated.",
)


def save_report(
    path,
    *,
    query,
    neighbors,
    archive=(),
    archive_name=None,
    model_info=None,
    settings=None,
    show=(),
    votes=None,
    summary=None,
    margin_mm=30.0,
):
    """Write the answer to a query as one HTML file that loads nothing from anywhere.

    Pictures end `margin_mm` from the tumor's box, since whole heads have faces. All tumors of a query are
    shown at one scale, in radiological display.

    Parameters
    ----------
    path : str or Path
        The file to write.
    query : Tumor or sequence of Tumor
        What was asked; a section each.
    neighbors : DataFrame
        What `TumorIndex.search` or `find_similar` returned: ``query``, ``rank``, ``distance`` and the
        neighbors' metadata.
    archive : iterable of Tumor, default=()
        Where the neighbors' pictures come from, by ``tumor_id``; one that is not there has no picture.
    archive_name : str, optional
        Shown at the bottom, for instance the index's path.
    model_info : mapping of str to object, optional
        Shown at the bottom (see `describe_model`). Its key ``pretrained_on_simulated`` is not shown: where
        it is true the sheet says so.
    settings : mapping of str to object, optional
        Of the search, shown at the bottom.
    show : sequence of str, default=()
        Further columns of `neighbors` to show.
    votes : DataFrame, optional
        Of `answers.votes`; they take the place of plain counts of the neighbors' labels.
    summary : DataFrame, optional
        Of `answers.summarize`.
    margin_mm : float, default=30.0
        Surroundings of the box that are shown.

    Returns
    -------
    path : Path

    Raises
    ------
    ValueError
        If a column of `show` is unknown, or `neighbors` belong to other queries.

    Warns
    -----
    UserWarning
        For each tumor whose scan cannot be read; it is then shown without a picture.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    query = query if isinstance(query, Cohort) else Cohort([query] if isinstance(query, Tumor) else query)
    unknown = [name for name in show if name not in neighbors]
    if unknown:
        listed = ", ".join(neighbors.columns)
        raise ValueError(
            f"Parameter 'show' must name columns of the neighbors ({listed}). Got '{unknown[0]}'."
        )
    if len(neighbors) and not neighbors["query"].between(0, len(query) - 1).all():
        raise ValueError(
            f"'neighbors' must be those of the {len(query)} query tumors. Got other rows in 'query'."
        )
    archive = {tumor.tumor_id: tumor for tumor in archive}
    n_pictures = 3 * (len(query) + len(neighbors))
    n_pixels = int(np.clip(np.sqrt(PICTURE_BYTES / max(n_pictures, 1)), MIN_PIXELS, MAX_PIXELS))
    drawing = {"margin_mm": margin_mm, "n_pixels": n_pixels}
    sections = [
        _section(query[i], query.table.iloc[i], neighbors[neighbors["query"] == i], archive, show, drawing)
        | {"votes": _lines(votes, i, describe_vote), "summary": _lines(summary, i, describe_summary)}
        for i in range(len(query))
    ]
    model_info = dict(model_info or {})
    simulated = model_info.pop("pretrained_on_simulated", False)
    facts = model_info | ({"Archive": archive_name} if archive_name else {}) | dict(settings or {})
    facts["Written"] = f"{datetime.now():%Y-%m-%d %H:%M} by tumorsim {tumorsim.__version__}"
    environment = Environment(
        loader=PackageLoader("tumorsim"),
        autoescape=True,  # manifests may hold any text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("answer.html.j2").render(
        sections=sections,
        facts_table={name: str(value) for name, value in facts.items()},
        disclaimer=" ".join(text for i, text in enumerate(DISCLAIMERS) if simulated or i != 1),
        margin_mm=f"{margin_mm:g}",
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def describe_model(embedder, path=None):
    """Return what an answer sheet says of a fitted `TumorEmbedder`, as a dict for ``model_info``."""
    facts = {} if path is None else {"Model": Path(path).name}
    facts["Fingerprint"] = embedder.fingerprint_
    training = getattr(embedder, "training_", None) or {}
    if training:
        data = ", ".join(training.get("data", [])) or "unnamed"
        tumors, patients = training.get("n_tumors", "?"), training.get("n_patients", "?")
        facts["Trained on"] = f"{tumors} tumors of {patients} patients (data: {data})"
    return facts


def _section(tumor, row, neighbors, archive, show, drawing):
    """Return what the template needs for one query tumor and its neighbors."""
    found = [archive.get(tumor_id) for tumor_id in neighbors["tumor_id"]] if len(neighbors) else []
    shown = [t if t is not None and _readable(t) else None for t in [tumor, *found]]
    sized = [t for t in shown if t is not None]
    extent = common_extent(sized, margin_mm=drawing["margin_mm"]) if sized else None
    drawing = drawing | {"extent_mm": extent}
    labels = _labels(row)
    cards = []
    for (_, neighbor), picture_of in zip(neighbors.iterrows(), shown[1:], strict=True):
        card = _card(neighbor, picture_of, show, drawing)
        card |= {"rank": int(neighbor["rank"]), "distance": f"{neighbor['distance']:.2f}"}
        card["agreement"] = describe_agreement(neighbor)
        for task, label in card["labels"].items():
            known = labels.get(task) is not None and label["value"] is not None
            label["agrees"] = (label["value"] == labels[task]) if known else None
        cards.append(card)
    query = _card(row, shown[0], (), drawing)
    closeness = describe_closeness(neighbors) if "p_value" in neighbors and len(neighbors) else None
    far = closeness is not None and bool(neighbors["no_close_match"].iloc[0])
    found = {"neighbors": cards, "counts": _counts(neighbors)}
    return {"query": query, "closeness": closeness, "far": far} | found


def _lines(table, query, describe):
    """Return the rows of one query in words."""
    if table is None:
        return []
    return [describe(row) for _, row in table[table["query"] == query].iterrows()]


def _card(row, tumor, show, drawing):
    """Return ids, labels, sizes and pictures of one tumor from its metadata; `tumor` None: no scan."""
    card = {name: _text(row.get(name)) for name in ("patient_id", "case_id", "tumor_id")}
    card["labels"] = {task: {"value": value, "agrees": None} for task, value in _labels(row).items()}
    card["thick"] = False
    facts = {}
    volume, diameter = row.get("volume_mm3"), row.get("diameter_mm")
    if _text(volume) is not None:
        from_box = " (ellipsoid in the box)" if row.get("measured_from") == "box" else ""
        facts["Volume"] = f"{volume / 1000:.3g} ml{from_box}"
    if _text(diameter) is not None:
        facts["Longest diameter"] = f"{diameter:.0f} mm"
    if tumor is not None:
        case = tumor.case
        spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
        sides = np.diff(ras_box(tumor.bbox, case.shape, case.affine), axis=0)[0] * spacing
        facts["R–L × A–P × S–I"] = " × ".join(f"{side:.0f}" for side in sides) + " mm"
        facts["Voxels"] = " × ".join(f"{s:.2g}" for s in spacing) + " mm"
        card["thick"] = spacing.max() > THICK_SLICE_MM
    facts |= {name: _text(row[name]) or "not known" for name in show}
    card["facts"] = facts
    card["pictures"] = [] if tumor is None else _pictures(tumor, drawing)
    return card


def _pictures(tumor, drawing):
    """Return the three planes of a tumor as the template draws them; none if its scan cannot be read."""
    try:
        pictures = tumor_slices(tumor, **drawing).values()
    except (OSError, ValueError) as err:
        _warn(tumor, err)
        return []
    n = drawing["n_pixels"]
    bar = scale_bar_mm(drawing["extent_mm"])
    return [
        {
            "plane": picture.plane,
            "n": n,
            "png": _png(picture.pixels),
            "outline": _outline(picture.mask),
            "box": picture.box if picture.mask is None else None,
            "marks": picture.marks,
            "bar_mm": bar,
            "bar": bar / picture.pixel_mm,
        }
        for picture in pictures
    ]


def _readable(tumor):
    """Tell whether a tumor's files are there and its box fits; warn if not."""
    try:
        tumor.check()
        tumor.case.check_grid()
    except (OSError, ValueError) as err:
        _warn(tumor, err)
        return False
    return True


def _warn(tumor, err):
    """Warn that a tumor is shown without a picture."""
    warnings.warn(f"No picture of tumor '{tumor.tumor_id}': {err}", stacklevel=2)


def _png(pixels):
    """Return a uint8 (n, n) array as the base64 text of a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _outline(mask):
    """Return a bool (n, n) mask's outline as an SVG path in pixels from the upper left corner, or None."""
    if mask is None or not mask.any():
        return None
    from contourpy import contour_generator

    lines = contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
    parts = []
    for line in lines:
        points = np.round(
            line - 0.5, 1
        )  # the pad is one pixel, a pixel's center is half a pixel from its edge
        steps = np.diff(points, axis=0)
        turns = np.ones(len(points), dtype=bool)
        turns[1:-1] = ~np.isclose(steps[:-1, 0] * steps[1:, 1], steps[:-1, 1] * steps[1:, 0])
        corners = points[turns][:-1]
        parts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z")
    return "".join(parts)


def _labels(row):
    """Return task → label of a table's row; None where it is missing."""
    return {
        str(name).removeprefix("label_"): _text(value)
        for name, value in row.items()
        if str(name).startswith("label_")
    }


def _counts(neighbors):
    """Return task → [(label, count), …] over the neighbors, most frequent first."""
    counts = {}
    for name in (n for n in neighbors.columns if str(n).startswith("label_")):
        found = Counter(_text(value) for value in neighbors[name])
        if set(found) - {None}:
            ordered = sorted(found.items(), key=lambda item: (item[0] is None, -item[1]))  # unknown last
            counts[name.removeprefix("label_")] = [(label or "not known", n) for label, n in ordered]
    return counts


def _text(value):
    """Return a table's value as text, or None where it is missing."""
    if value is None or value != value or value == "":
        return None
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
