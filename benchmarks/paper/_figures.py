"""The paper's figures, and the tables' values as pictures."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.paper._plan import ALL
from benchmarks.paper._report import MAIN, headline, split_strengths
from benchmarks.protocol import rank_gallery
from tumorsim.io import atomic_path
from tumorsim.plotting import plot_knn_curve, plot_map, plot_neighbors
from tumorsim.rendering import COLORS

__all__ = ["draw_all", "plot_methods", "plot_strengths"]

N_SHOWN = 2  # neighbors of Fig. 6
PANELS = ("type", "region", "hemisphere", "log_volume", "graded")


def draw_all(out, tidy, planned, results, bench):
    """Draw what has finished into `out`; returns experiment → list of (caption, file name)."""
    drawn = {}

    def keep(experiment, caption, name, axes):
        with atomic_path(out / name) as temporary:
            np.ravel(axes)[0].figure.savefig(temporary, dpi=100)
        drawn.setdefault(experiment, []).append((caption, name))

    for experiment in planned:
        rows = headline(tidy[tidy["experiment"] == experiment])
        if experiment in ("fig5", "fig6", "sites", "label_free"):
            continue
        if experiment == "fig4":
            for metric, about in (("balanced_accuracy", "classes"), ("spearman", "numbers")):
                curve = _curve(rows, metric)
                if len(curve):
                    ax = plot_knn_curve(curve, metric=metric)
                    ax.set_title(
                        f"{about.capitalize()} from the k nearest, {curve['n_queries'].max()} patients"
                    )
                    keep("fig4", f"Scores of {about} against k", f"fig4_{about}.png", ax)
        elif experiment == "table4":
            for i, name in enumerate(planned["table4"]):
                part = split_strengths(rows)
                part = part[(part["base"] == name) & (part["metric"] == "overlap_at_k")]
                if len(part):
                    ax = plot_strengths(part)
                    ax.set_title(f"Overlap of the 10 nearest: {name}", fontsize=9)
                    keep("table4", f"Overlap of neighbors, {name}", f"table4_{i}.png", ax)
        else:
            part = rows[rows["metric"] == rows["task"].map(MAIN).fillna("balanced_accuracy")]
            part = part[(part["metric"] != "ndcg_at_k") | (pd.to_numeric(part["k"]) == 10)]
            panels = [task for task in PANELS if task in set(part["task"])]
            if panels and (part["method"] != "chance").any():
                axes = plot_methods(part, tasks=panels)
                keep(experiment, f"Scores of {experiment}", f"{experiment}.png", axes)
    if results.get(("fig5", ALL)):
        _maps(keep, bench, results["fig5", ALL][0])
    if results.get(("fig6", ALL)):
        _neighbors(keep, bench, results["fig6", ALL][0])
    return drawn


def plot_strengths(result, *, ax=None):
    """Plot scores over a grid of how boxes were scaled and shifted (Table 4 of the paper).

    Parameters
    ----------
    result : DataFrame
        One row per strength: ``scale``, ``shift``, ``value``.
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
    ax = Figure(figsize=(5.2, 3.0), layout="constrained").subplots() if ax is None else ax
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


def plot_methods(result, *, tasks=None, figure=None):
    """Plot every method's score with its interval, in one panel per task.

    Parameters
    ----------
    result : DataFrame
        One row per method and task: ``method``, ``task``, ``metric``, ``value``, ``ci_low``, ``ci_high``.
        Rows of method ``chance`` are drawn as vertical lines; methods without rows are not there.
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
        size = (2.2 + 1.75 * len(tasks), 0.32 * len(methods) + 1.4)
        figure = Figure(figsize=size, layout="constrained")
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
        ax.set_title(task.replace("_", " "), fontsize=9)
        ax.set_xlabel(metric.replace("_", " "), fontsize=8)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="0.92", lw=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    return axes


def _curve(rows, metric):
    """Return the rows of Fig. 4 as `plot_knn_curve` takes them."""
    rows = rows[rows["metric"] == metric]
    chance = rows[rows["method"] == "chance"].set_index(["task", "k"])["value"]
    part = rows[rows["method"] != "chance"]
    level = [chance.get((row.task, row.k), np.nan) for row in part.itertuples()]
    return part.assign(chance=level, k=pd.to_numeric(part["k"]).astype(int), n_queries=part["n_patients"])


def _maps(keep, bench, result):
    """Draw the map of all tumors by type and size, and of schwannomas by side (Fig. 5)."""
    table = bench.table
    if "label_type" in table:
        ax = plot_map(result.X, table["label_type"], method="tsne", name="type")
        keep("fig5", "t-SNE of all tumors, by type", "fig5_type.png", ax)
        rows = np.flatnonzero(table["label_type"] == "schwannoma")
        if len(rows) > 10 and "label_hemisphere" in table:
            sides = table["label_hemisphere"].iloc[rows]
            ax = plot_map(result.X[rows], sides, method="tsne", name="side")
            ax.set_title(f"{len(rows)} schwannomas by hemisphere")
            keep("fig5", "t-SNE of schwannomas, by hemisphere", "fig5_schwannoma.png", ax)
    ax = plot_map(result.X, table["volume_mm3"].astype(float), method="tsne", name="volume (mm³)")
    keep("fig5", "t-SNE of all tumors, by volume", "fig5_size.png", ax)


def _neighbors(keep, bench, result):
    """Draw a test tumor of each type, of middle size, beside its nearest of other patients (Fig. 6)."""
    table, gallery = bench.table, bench.data.rows("train")
    test = bench.data.rows("test")
    types = table["label_type"] if "label_type" in table else pd.Series("tumor", table.index)
    for name in sorted(types.iloc[test].dropna().unique()):
        rows = test[(types.iloc[test] == name).to_numpy()]
        query = rows[np.argsort(table["volume_mm3"].to_numpy()[rows], kind="stable")[len(rows) // 2]]
        found = gallery[rank_gallery(result.X[gallery], result.X[[query]], metric=result.metric)[0]]
        patients = table["patient_id"].iloc[found]
        found = found[~patients.duplicated().to_numpy()][:N_SHOWN]
        distances = np.linalg.norm(result.X[found] - result.X[query], axis=1)
        tumors = [bench.data.cohort[int(row)] for row in (query, *found)]
        axes = plot_neighbors(tumors[0], tumors[1:], distances)
        keep("fig6", f"A {name} and its {N_SHOWN} nearest tumors of other patients", f"fig6_{name}.png", axes)
