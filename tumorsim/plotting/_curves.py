"""Scores: retrieval against k."""

import numpy as np

from tumorsim._validation import check_choice
from tumorsim.plotting._style import finish, new_axes, readable, style_of

_METRIC_NAMES = {"balanced_accuracy": "balanced accuracy", "r2": "R²", "spearman": "Spearman correlation"}


def plot_knn_curve(result, *, metric=None, ax=None):
    """Plot retrieval performance against the number of neighbors (Fig. 4 of the paper).

    Parameters
    ----------
    result : DataFrame
        What `evaluate_knn` returns.
    metric : str, optional
        Which of its metrics; default the first, ``balanced_accuracy`` where there is one.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    ax : Axes
        One line per task, its 95 % confidence interval at the k nearest to 5 (as a band along the whole line
        where there is one task), and its chance level as a short line on the right.

    Raises
    ------
    ValueError
        If `result` has no such metric.
    """
    metrics = list(dict.fromkeys(result["metric"]))
    if metric is None and metrics:
        metric = "balanced_accuracy" if "balanced_accuracy" in metrics else metrics[0]
    check_choice(metric, "metric", metrics)
    part = result[result["metric"] == metric]
    ax = new_axes(ax, (7.2, 4.2))
    ticks = np.unique(part["k"])
    middle, n_tasks = ticks[np.abs(ticks - 5).argmin()], part["task"].nunique()
    for i, (task, rows) in enumerate(part.groupby("task", sort=False)):
        rows = rows.sort_values("k")
        style = style_of(i)
        k, values, low, high, chance = (
            rows[name].to_numpy(dtype=float) for name in ("k", "value", "ci_low", "ci_high", "chance")
        )
        ax.plot(k, values, ms=5, **style, label=readable(task))
        if n_tasks == 1:
            ax.fill_between(k, low, high, color=style["color"], alpha=0.15, lw=0)
        else:  # bands of several tasks would hide each other
            at = k == middle
            shifted = k[at] * 1.035 ** (i - (n_tasks - 1) / 2)  # beside each other
            ax.vlines(shifted, low[at], high[at], color=style["color"], lw=2.5, alpha=0.55)
        ax.plot([k[-1] * 1.06, k[-1] * 1.2], chance[[-1, -1]], color=style["color"], lw=2.5)
    ax.plot([], [], color="0.4", lw=2.5, label="chance (right edge)")
    interval = "95 % interval" + ("" if n_tasks == 1 else f" (k = {middle})")
    ax.plot([], [], color="0.4", ls="", marker="|", ms=12, mew=2.5, label=interval)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    name = _METRIC_NAMES.get(metric, readable(metric))
    ax.set(xlabel="number of neighbors", ylabel=name)
    if metric == "balanced_accuracy":
        ax.set_ylim(0, 1.02)
    few, many = int(part["n_queries"].min()), int(part["n_queries"].max())
    number = str(many) if few == many else f"{few} to {many}"
    ax.set_title(f"{name[0].upper()}{name[1:]}, {number} queries", loc="left")
    finish(ax)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
