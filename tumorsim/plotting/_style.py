"""Colors, figures and names that all pictures share."""

__all__ = ["COLORS", "MARKERS", "MISSING", "OUTLINE", "finish", "new_axes", "new_figure", "readable"]

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by color-blind people; yellow is left out: too
# faint on white. Markers say the same once more.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MISSING = "#999999"
OUTLINE = "#FFB000"


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


def readable(name, *, ids=False):
    """Return a column's or label's name for people; ids stay as they are."""
    text = str(name)
    if ids:
        return text.replace("$", r"\$")  # Matplotlib would read mathematics
    for unit in ("mm3", "mm"):
        if text.endswith(f"_{unit}"):
            text = f"{text.removesuffix(f'_{unit}')} ({unit.replace('3', '³')})"
    return text.removeprefix("label_").replace("_", " ").replace("$", r"\$")
