"""The figure of `evaluate_stability`."""

import numpy as np
from matplotlib.figure import Figure

from tumorsim.rendering import COLORS

__all__ = ["plot_box_robustness"]


def plot_box_robustness(result, *, ax=None):
    """Plot how many neighbors stay when box or scan are a little different (after Table 4 of the paper).

    Parameters
    ----------
    result : DataFrame
        What `evaluate_stability` returns: one row per ``kind`` with ``overlap``, ``ci_low``,
        ``ci_high``, ``p5``, ``chance``, ``n_neighbors``, ``n_tumors``.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    ax : Axes
        One line per kind, from above: the median over tumors with its 95 % interval, the 5th percentile as an
        open square, chance as an upright stroke.

    Raises
    ------
    ValueError
        If `result` is empty.
    """
    if not len(result):
        raise ValueError("Parameter 'result' must hold at least one kind of perturbation. Got none.")
    if ax is None:
        ax = Figure(figsize=(6.8, 0.42 * len(result) + 1.6), layout="constrained").subplots()
    rows = np.arange(len(result))
    overlap, low, high, worst, chance = (
        result[name].to_numpy(dtype=float) for name in ("overlap", "ci_low", "ci_high", "p5", "chance")
    )
    ax.hlines(rows, low, high, color=COLORS[0], lw=5, alpha=0.3, label="95 % interval of the median")
    ax.plot(overlap, rows, ls="", marker="o", color=COLORS[0], label="median tumor")
    ax.plot(worst, rows, ls="", marker="s", mfc="none", color=COLORS[1], label="5th percentile")
    ax.plot(chance, rows, ls="", marker="|", ms=14, mew=1.5, color="0.4", label="chance")
    ax.set_yticks(rows, [kind.replace("_", " ") for kind in result["kind"]])
    ax.invert_yaxis()
    ax.set(xlim=(-0.02, 1.02), xlabel=f"share of the {int(result['n_neighbors'].max())} neighbors that stay")
    n = result["n_tumors"].astype(int)
    number = str(n.max()) if n.min() == n.max() else f"{n.min()} to {n.max()}"
    ax.set_title(f"Neighbors of {number} tumors, disturbed against undisturbed")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
