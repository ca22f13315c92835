"""Colors, figures and names that all pictures share."""

from tumorsim.records.columns import LABEL_PREFIX
from tumorsim.rendering import COLORS, color_numbers

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # say once more what colors say


def style_of(number):
    """Return color and marker of the n-th thing that is drawn."""
    return {"color": COLORS[number % len(COLORS)], "marker": _MARKERS[number % len(_MARKERS)]}


def label_styles(labels):
    """Return label → color and marker; a tumor type has the same ones in every figure."""
    return {label: style_of(number) for label, number in color_numbers(labels).items()}


def new_figure(size):
    """Return a figure of `size` inches that pyplot does not keep alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def new_axes(ax, size):
    """Return `ax`, or the axes of a new figure."""
    return new_figure(size).subplots() if ax is None else ax


def finish(ax):
    """Take away the frame's upper and right line."""
    ax.spines[["top", "right"]].set_visible(False)


def readable(name):
    """Return a column's or label's name for people."""
    text = str(name)
    for unit in ("mm3", "mm"):
        if text.endswith(f"_{unit}"):
            text = f"{text.removesuffix(f'_{unit}')} ({unit.replace('3', '³')})"
    return text.removeprefix(LABEL_PREFIX).replace("_", " ").replace("$", r"\$")  # no mathematics
