"""Tumors as pictures: three planes of one, and a query beside its neighbors."""

import numpy as np

from tumorsim._validation import check_real
from tumorsim.plotting._style import new_figure, readable
from tumorsim.records import read_surroundings
from tumorsim.rendering import OUTLINE_COLOR, PLANES, scale_bar_mm


def common_extent(tumors, *, margin_mm=30.0):
    """Return the edge in mm of the square that holds the box and its margin of every tumor."""
    sides = [((t.bbox[1] - t.bbox[0]) * t.case.spacing).max() for t in tumors]
    return float(np.ceil(max(sides) + 2 * margin_mm))


def tumor_slices(tumor, *, extent_mm=None, margin_mm=30.0, n_pixels=160):
    """Read a tumor's scan and return three planes through the lesion's center.

    Nothing farther from the box than `margin_mm` is shown: whole heads have faces.

    Parameters
    ----------
    tumor : Tumor
        Its scan is read here.
    extent_mm : float, optional
        Edge of the pictures; default the box and its margin. Give the same to tumors shown side by side.
    margin_mm : float, default=30.0
        Surroundings of the box that are shown.
    n_pixels : int, default=160
        Pixels on an edge.

    Returns
    -------
    pictures : dict of str to rendering.Picture
        ``axial``, ``coronal``, ``sagittal``; ``mask`` is None where the case has no mask.

    Raises
    ------
    FileNotFoundError, GeometryError
        If image or mask cannot be read or do not fit together.
    """
    margin_mm = check_real(margin_mm, "margin_mm", minimum=0)
    extent_mm = common_extent([tumor], margin_mm=margin_mm) if extent_mm is None else extent_mm
    return read_surroundings(tumor, margin_mm).slices(extent_mm, n_pixels)


def plot_neighbors(query_tumor, neighbor_tumors, distances=None, *, task="type", margin_mm=30.0, figure=None):
    """Show a tumor beside its nearest neighbors, all at one scale (Fig. 6 of the paper).

    Parameters
    ----------
    query_tumor : Tumor
        Shown in the first column.
    neighbor_tumors : sequence of Tumor
        Nearest first.
    distances : sequence of float, optional
        Of the neighbors.
    task : str, default="type"
        Label written above each column, where it is known.
    margin_mm : float, default=30.0
        Surroundings of the box that are shown.
    figure : Figure or SubFigure, optional
        Where to draw; default a new figure.

    Returns
    -------
    axes : ndarray of Axes of shape (3, 1 + n_neighbors)
        Axial, coronal and sagittal planes, radiological display. Masks are outlined; where there is none,
        the box is dashed.

    Raises
    ------
    ValueError
        If `distances` has another length than `neighbor_tumors`.
    """
    tumors = [query_tumor, *neighbor_tumors]
    distances = [None] * (len(tumors) - 1) if distances is None else list(distances)
    if len(distances) != len(tumors) - 1:
        raise ValueError(f"There must be a distance a neighbor: {len(tumors) - 1}. Got {len(distances)}.")
    if figure is None:
        figure = new_figure((2.1 * len(tumors) + 0.3, 7.0))
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0, hspace=0)
    axes = figure.subplots(3, len(tumors), squeeze=False)
    extent = common_extent(tumors, margin_mm=margin_mm)
    for column, (tumor, distance) in enumerate(zip(tumors, [None, *distances], strict=True)):
        pictures = tumor_slices(tumor, extent_mm=extent, margin_mm=margin_mm, n_pixels=220)
        head = "query" if column == 0 else f"neighbor {column}"
        head += "" if distance is None else f", distance {distance:.3g}"
        label = tumor.labels.get(task)
        axes[0, column].set_title(f"{head}\n{readable(label) if label else f'{task} unknown'}", fontsize=9)
        for ax, plane in zip(axes[:, column], PLANES, strict=True):
            _draw(ax, pictures[plane], extent)
            if column == 0:
                ax.set_ylabel(plane, fontsize=9)
    tumor_id = query_tumor.tumor_id.replace("$", r"\$")  # Matplotlib would read mathematics
    figure.suptitle(f"{tumor_id} and its nearest neighbors", fontsize=11)
    return axes


def _draw(ax, picture, extent_mm):
    """Draw one picture with outline or box, scale bar and marks."""
    from matplotlib.patheffects import withStroke

    n = len(picture.pixels)
    ax.imshow(picture.pixels, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    if picture.mask is not None and picture.mask.any():
        ax.contour(picture.mask, levels=[0.5], colors=OUTLINE_COLOR, linewidths=1.1)
    elif picture.box is not None:
        x0, y0, x1, y1 = (edge - 0.5 for edge in picture.box)  # pixel centers are integers here
        ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=OUTLINE_COLOR, lw=1.1, ls="--")
    bar = scale_bar_mm(extent_mm)
    left, bottom, right = 0.05 * n, 0.95 * n, 0.05 * n + bar / picture.pixel_mm
    ax.plot([left, right], [bottom, bottom], color="white", lw=2, solid_capstyle="butt")
    edge = [withStroke(linewidth=1.5, foreground="black")]  # readable on fat, too
    style = {"color": "white", "fontsize": 9, "path_effects": edge}
    ax.text(left, bottom - 0.02 * n, f"{bar} mm", va="bottom", ha="left", **style)
    ax.text(0.02 * n, n / 2, picture.marks[0], va="center", ha="left", **style)
    ax.text(0.97 * n, n / 2, picture.marks[1], va="center", ha="right", **style)
    ax.set(xticks=[], yticks=[], xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    for spine in ax.spines.values():
        spine.set_visible(False)
