"""Scores: retrieval against k, loss against the epoch."""

import numpy as np

from tumorsim._validation import check_choice
from tumorsim.plotting._style import finish, new_axes, readable, style_of
from tumorsim.rendering import COLORS

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


def plot_history(history, *, ax=None):
    """Plot each head's training loss against the epoch.

    Parameters
    ----------
    history : list of dict
        ``embedder.history_``: an entry an epoch with ``epoch``, ``lr``, ``loss``, ``loss_<head>``.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    ax : Axes
        One line per head, relative to its first epoch; vertical lines where the learning rate falls.

    Raises
    ------
    ValueError
        If `history` is empty.
    """
    history = list(history)
    if not history:
        rule = "Parameter 'history' must hold at least one epoch."
        raise ValueError(f"{rule} Got none; fit the embedder first.")
    ax = new_axes(ax, (6.4, 4.2))
    epochs = [entry["epoch"] for entry in history]
    heads = list(dict.fromkeys(key for entry in history for key in entry if key.startswith("loss_")))
    for i, key in enumerate(heads):
        losses = np.array([entry.get(key) for entry in history], dtype=float)  # None is NaN
        first = losses[np.isfinite(losses)][:1]
        if len(first) and first[0] > 0:
            style = {"color": COLORS[i % len(COLORS)], "ls": "-" if i < len(COLORS) else "--"}
            label = f"{readable(key[5:])} ({first[0]:.2f} at first)"
            ax.plot(epochs, losses / first[0], label=label, **style)
    rates = np.array([entry.get("lr") for entry in history], dtype=float)
    # a schedule of steps is marked, a smooth one is not: steps stand between epochs of equal rate
    steps = [i for i in range(1, len(rates)) if rates[i] != rates[i - 1]]
    drops = [epochs[i] for i in steps if rates[i] < rates[i - 1]] if 2 * len(steps) <= len(rates) else []
    for i, epoch in enumerate(drops):
        label = "learning rate drops" if i == 0 else None
        ax.axvline(epoch, color="0.75", lw=1, ls="--", zorder=0, label=label)
    ax.axhline(1, color="0.85", lw=1, zorder=0)
    ax.set(xlabel="epoch", ylabel="training loss / loss of the first epoch")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title("Training loss of each head")
    finish(ax)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
