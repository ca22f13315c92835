"""A whole cohort: sizes and types, and the map of its embeddings."""

import numpy as np

from tumorsim._validation import check_choice
from tumorsim.plotting._style import COLORS, MARKERS, MISSING, finish, new_axes, new_figure, readable

__all__ = ["plot_cohort", "plot_map"]

_PLACE = ("mni_x_mm", "mni_y_mm", "mni_z_mm")


def plot_map(X, labels=None, *, method="pca", name=None, highlight=None, random_state=0, ax=None):
    """Plot embeddings on a plane, colored by a label or a number (Fig. 5 of the paper).

    Parameters
    ----------
    X : ndarray of shape (n_tumors, n_features)
        Embeddings, at least three.
    labels : array-like of shape (n_tumors,), optional
        Text (a color and marker a value) or numbers (a color scale, logarithmic where they span more than
        a factor of 20). Missing: None or NaN, drawn gray.
    method : {"pca", "tsne"}, default="pca"
        How to get to two dimensions. Distances between groups on a t-SNE map mean little.
    name : str, optional
        What the labels are; default their ``name`` if they are a Series.
    highlight : sequence of int, optional
        Rows to circle and to number from 1, for instance a query and its neighbors.
    random_state : int, default=0
        Seed of t-SNE.
    ax : Axes, optional
        Where to draw; default a new figure.

    Returns
    -------
    ax : Axes

    Raises
    ------
    ValueError
        If there are fewer than three rows, or as many labels are not given.
    """
    X = np.asarray(X, dtype=np.float64)
    check_choice(method, "method", ("pca", "tsne"))
    if X.ndim != 2 or len(X) < 3:
        raise ValueError(f"Parameter 'X' must have at least 3 rows of features. Got shape {X.shape}.")
    name = name or getattr(labels, "name", None) or "label"
    by_what = "" if labels is None else f", by {readable(name)}"
    labels = [None] * len(X) if labels is None else list(labels)
    if len(labels) != len(X):
        raise ValueError(f"There must be a label a row: {len(X)}. Got {len(labels)}.")
    points, axis_names = _project(X, method, random_state)
    ax = new_axes(ax, (6.8, 5.0))
    missing = np.array([value is None or value != value for value in labels])
    ax.scatter(
        *points[missing].T, c=MISSING, s=14, alpha=0.6, lw=0, label="unknown" if missing.any() else None
    )
    if all(
        isinstance(v, int | float | np.number) for v, gone in zip(labels, missing, strict=True) if not gone
    ):
        _scatter_numbers(ax, points[~missing], np.array(labels, dtype=float)[~missing], readable(name))
    else:
        text = np.array([str(value) for value in labels], dtype=object)
        for i, value in enumerate(sorted(set(text[~missing]))):
            rows = points[~missing & (text == value)]
            style = {"c": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
            ax.scatter(*rows.T, s=24, alpha=0.8, lw=0, label=f"{readable(value)} ({len(rows)})", **style)
        ax.legend(frameon=False, title=readable(name), loc="center left", bbox_to_anchor=(1.0, 0.5))
    for number, row in enumerate(highlight if highlight is not None else (), start=1):
        ax.scatter(*points[row], s=110, facecolors="none", edgecolors="black", lw=1.3)
        ax.annotate(str(number), points[row], xytext=(6, 6), textcoords="offset points", fontweight="bold")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    title = "t-SNE" if method == "tsne" else "Principal components"
    ax.set_title(f"{title} of {len(X)} tumors' embeddings{by_what}")
    finish(ax)
    if method == "tsne":
        ax.set(xticks=[], yticks=[])  # its units mean nothing
    return ax


def plot_cohort(cohort, *, task="type", figure=None):
    """Show how large a cohort's tumors are, how many there are of each type, and where they lie.

    Parameters
    ----------
    cohort : Cohort
        Masks are measured where the manifest does not carry sizes. Places need the columns ``mni_x_mm``,
        ``mni_y_mm`` and ``mni_z_mm``.
    task : str, default="type"
        Label to split by.
    figure : Figure or SubFigure, optional
        Where to draw; default a new figure.

    Returns
    -------
    axes : ndarray of Axes of shape (2,) or (3,)
        Distribution of volume; counts; where MNI places are known, tumors on a glass brain.

    Raises
    ------
    ValueError
        If `cohort` is empty.
    """
    if len(cohort) == 0:
        raise ValueError("Parameter 'cohort' must hold at least one tumor. Got none.")
    table = cohort.table
    column = f"label_{task}"
    kinds = table[column] if column in table else table["tumor_id"].map(lambda _: None)
    kinds = kinds.where(kinds.notna(), "unknown").astype(str)
    order = [k for k in kinds.value_counts().index if k != "unknown"] + ["unknown"] * bool(
        (kinds == "unknown").any()
    )
    colors = [MISSING if k == "unknown" else COLORS[i % len(COLORS)] for i, k in enumerate(order)]
    places = table[list(_PLACE)].to_numpy(dtype=float) if set(_PLACE) <= set(table) else np.empty((0, 3))
    known = np.isfinite(places).all(axis=1)
    height = 3.6 + 3.2 * known.any()
    figure = new_figure((9.2, height)) if figure is None else figure
    if known.any():
        grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
        parts = [grid[0, 0], grid[0, 1], grid[1, :]]
        axes = np.array([figure.add_subplot(part) for part in parts], dtype=object)
        _glass_brain(axes[2], places[known], kinds.to_numpy()[known], order, colors)
    else:
        axes = figure.subplots(1, 2, width_ratios=(1.5, 1))
    volume = table["volume_mm3"].to_numpy(dtype=float) / 1000
    low, high = np.log10(max(volume.min(), 1e-3)), np.log10(volume.max())
    bins = np.logspace(low - 0.05, max(high, low) + 0.05, int(np.clip(len(volume) / 4, 6, 24)) + 1)
    parts = [volume[(kinds == kind).to_numpy()] for kind in order]
    axes[0].hist(parts, bins=bins, stacked=True, color=colors, edgecolor="white", lw=0.5)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set(xlabel="volume (ml)", ylabel="tumors", title=f"Size of {len(table)} tumors")
    patients = [table.loc[(kinds == kind).to_numpy(), "patient_id"].nunique() for kind in order]
    bars = axes[1].barh(range(len(order)), [len(p) for p in parts], color=colors)
    texts = [f" {len(p)} in {n} patient{'s' * (n != 1)}" for p, n in zip(parts, patients, strict=True)]
    axes[1].bar_label(bars, texts, fontsize=9)
    axes[1].set_yticks(range(len(order)), [readable(k) for k in order])
    axes[1].invert_yaxis()
    axes[1].set_xlim(0, max(len(p) for p in parts) * 1.6)  # room for the text
    axes[1].set(xlabel="tumors", title=f"Tumors by {readable(task)}")
    for ax in axes[:2]:
        finish(ax)
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    return axes


def _glass_brain(ax, places, kinds, order, colors):
    """Draw places (n, 3) in MNI mm on nilearn's glass brain, colored by kind."""
    from nilearn.plotting import plot_glass_brain

    shown = plot_glass_brain(None, display_mode="ortho", figure=ax.figure, axes=ax, annotate=True)
    for kind, color in zip(order, colors, strict=True):
        if (kinds == kind).any():
            shown.add_markers(places[kinds == kind], marker_color=color, marker_size=18, alpha=0.8)
    ax.set_title(f"Places of {len(places)} tumors (MNI)")


def _project(X, method, random_state):
    """Return points (n, 2) and the names of the two axes."""
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(X) - 1) / 3)
        return TSNE(perplexity=perplexity, init="pca", random_state=random_state).fit_transform(X), ("", "")
    from sklearn.decomposition import PCA

    n_components = min(2, X.shape[1])
    pca = PCA(n_components, svd_solver="full")
    points = np.zeros((len(X), 2))
    total = X.var(axis=0).sum()
    if total > 0:  # identical rows have no direction, and PCA warns
        points[:, :n_components] = pca.fit_transform(X)
        shares = [*pca.explained_variance_ratio_, 0.0][:2]
    else:
        shares = [0.0, 0.0]
    return points, [f"component {i} ({share:.0%} of variance)" for i, share in enumerate(shares, start=1)]


def _scatter_numbers(ax, points, values, name):
    """Scatter points colored by numbers, with a color bar."""
    from matplotlib.colors import LogNorm

    if not len(values):
        return
    wide = values.min() > 0 and values.max() > 20 * values.min()
    drawn = ax.scatter(
        *points.T, c=values, cmap="viridis", norm=LogNorm() if wide else None, s=24, alpha=0.9, lw=0
    )
    bar = ax.figure.colorbar(drawn, ax=ax)
    bar.set_label(name)
    bar.outline.set_visible(False)
