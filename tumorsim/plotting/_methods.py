"""Methods beside each other: scores with intervals, and a grid of how badly a box was drawn."""

import numpy as np

from tumorsim.plotting._style import finish, new_figure, readable
from tumorsim.rendering import COLORS

__all__ = ["plot_methods", "plot_strengths"]


def plot_methods(result, *, tasks=None, figure=None):
    """Plot every method's score with its interval, a panel a task.

    Parameters
    ----------
    result : DataFrame
        A row a method and task: ``method``, ``task``, ``metric``, ``value``, ``ci_low``, ``ci_high``. Rows of
        method ``chance`` are drawn as upright lines; methods without rows are not there.
    tasks : sequence of str, optional
        Panels, from the left; default all, in the order of `result`.
    figure : Figure or SubFigure, optional
        Where to draw; default a new figure.

    Returns
    -------
    axes : ndarray of Axes of shape (n_tasks,)

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    tasks = list(dict.fromkeys(result["task"])) if tasks is None else list(tasks)
    part = result[result["task"].isin(tasks)]
    methods = [name for name in dict.fromkeys(part["method"]) if name != "chance"]
    if not methods:
        raise ValueError("Parameter 'result' must hold at least one method's score. Got none.")
    if figure is None:
        figure = new_figure((2.2 + 1.75 * len(tasks), 0.32 * len(methods) + 1.4))
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, task in zip(axes, tasks, strict=True):
        rows = part[part["task"] == task]
        for y, method in enumerate(methods):
            for row in rows[rows["method"] == method].head(1).itertuples():
                style = {"color": COLORS[0] if y == 0 else COLORS[1]}
                ax.plot([row.ci_low, row.ci_high], [y, y], lw=2.5, alpha=0.4, **style)
                ax.plot(row.value, y, ls="", marker="o", ms=5, **style)
        for row in rows[rows["method"] == "chance"].head(1).itertuples():
            ax.axvline(row.value, color="0.4", ls=":", lw=1.2)
        metric = next(iter(rows["metric"]), "")
        ax.set_title(readable(task), fontsize=9)
        ax.set_xlabel(readable(metric), fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="0.92", lw=0.8)
        ax.set_axisbelow(True)
        finish(ax)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    return axes


def plot_strengths(result, *, ax=None):
    """Plot scores over a grid of how boxes were scaled and shifted (Table 4 of the paper).

    Parameters
    ----------
    result : DataFrame
        A row a strength: ``scale``, ``shift``, ``value``.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    ax : Axes

    Raises
    ------
    ValueError
        If `result` is empty.
    """
    if not len(result):
        raise ValueError("Parameter 'result' must hold at least one strength. Got none.")
    grid = result.pivot_table(index="shift", columns="scale", values="value")
    ax = new_figure((5.2, 3.0)).subplots() if ax is None else ax
    values = grid.to_numpy(dtype=float)
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if value > 0.6 else "black")  # fmt: skip
    ax.set_xticks(range(len(grid.columns)), [f"{v:g}" for v in grid.columns])
    ax.set_yticks(range(len(grid.index)), [f"{v:g}" for v in grid.index])
    ax.set(xlabel="scale of the box's sides", ylabel="shift, in sides")
    return ax
