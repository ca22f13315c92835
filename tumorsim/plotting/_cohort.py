"""A whole cohort: sizes and types, and the map of its embeddings."""

import numpy as np

from tumorsim._validation import check_choice, counted
from tumorsim.plotting._style import finish, label_styles, new_axes, new_figure, readable
from tumorsim.records.columns import is_missing, label_column
from tumorsim.rendering import MISSING_COLOR

_PLACE = ("mni_x_mm", "mni_y_mm", "mni_z_mm")


def plot_map(X, labels=None, *, method="pca", name=None, highlight=None, random_state=0, ax=None):
    """Plot embeddings on a plane, colored by a label or a number (Fig. 5 of the paper).

    Parameters
    ----------
    X : ndarray of shape (n_tumors, n_features)
        Embeddings, or points such as index.coordinates(aspects=None); at least three.
    labels : array-like of shape (n_tumors,), optional
        Text (a color and a marker per value) or numbers (a color scale, logarithmic where they span more than
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
        raise ValueError(f"There must be one label per row: {len(X)}. Got {len(labels)}.")
    points, axis_names = _project(X, method, random_state)
    ax = new_axes(ax, (6.8, 5.0))
    missing = np.array([is_missing(value) for value in labels])
    style = {"c": MISSING_COLOR, "s": 14, "alpha": 0.6, "lw": 0}
    ax.scatter(*points[missing].T, label="unknown" if missing.any() else None, **style)
    known = [value for value, gone in zip(labels, missing, strict=True) if not gone]
    if all(isinstance(value, int | float | np.number) for value in known):
        _scatter_numbers(ax, points[~missing], np.array(known, dtype=float), readable(name))
    else:
        _scatter_labels(ax, points[~missing], np.array([str(value) for value in known]), readable(name))
    for number, row in enumerate(highlight if highlight is not None else (), start=1):
        ax.scatter(*points[row], s=110, facecolors="none", edgecolors="black", lw=1.3)
        ax.annotate(str(number), points[row], xytext=(6, 6), textcoords="offset points", fontweight="bold")
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
    title = "t-SNE" if method == "tsne" else "Principal components"
    ax.set_title(f"{title} of {len(X)} tumors{by_what}")
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
    column = label_column(task)
    kinds = table[column] if column in table else table["tumor_id"].map(lambda _: None)
    styles = label_styles(kinds.dropna().astype(str))
    counts = kinds.dropna().astype(str).value_counts()
    kinds = kinds.where(kinds.notna(), "unknown").astype(str).to_numpy()
    order = [*counts.index, *(["unknown"] if "unknown" in kinds and "unknown" not in counts else [])]
    colors = [styles[kind]["color"] if kind in styles else MISSING_COLOR for kind in order]
    places = table[list(_PLACE)].to_numpy(dtype=float) if set(_PLACE) <= set(table) else np.empty((0, 3))
    known = np.isfinite(places).all(axis=1)
    figure = new_figure((9.2, 3.6 + 3.6 * known.any())) if figure is None else figure
    if known.any():
        grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
        axes = np.array([figure.add_subplot(grid[part]) for part in ((0, 0), (0, 1), (1, slice(None)))])
    else:
        axes = figure.subplots(1, 2, width_ratios=(1.5, 1))
    parts = [table[kinds == kind] for kind in order]
    _draw_sizes(axes[0], [part["volume_mm3"].to_numpy(dtype=float) / 1000 for part in parts], colors)
    _draw_counts(axes[1], parts, order, colors, readable(task))
    for ax in axes[:2]:
        finish(ax)
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    if known.any():
        _glass_brain(axes[2], places[known], kinds[known], order, colors)
    return axes


def _draw_sizes(ax, parts, colors):
    """Draw the distribution of volumes (ml) of each kind, stacked."""
    volume = np.concatenate(parts)
    low, high = np.log10(max(volume.min(), 1e-3)), np.log10(volume.max())
    bins = np.logspace(low - 0.05, max(high, low) + 0.05, int(np.clip(len(volume) / 4, 6, 24)) + 1)
    ax.hist(parts, bins=bins, stacked=True, color=colors, edgecolor="white", lw=0.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="volume (ml)", ylabel="tumors", title=f"Size of {counted(len(volume), 'tumor')}")


def _draw_counts(ax, parts, order, colors, task):
    """Draw how many tumors and patients each kind has."""
    patients = [part["patient_id"].nunique() for part in parts]
    bars = ax.barh(range(len(order)), [len(part) for part in parts], color=colors)
    texts = [f" {len(p)} in {counted(n, 'patient')}" for p, n in zip(parts, patients, strict=True)]
    ax.bar_label(bars, texts, fontsize=9)
    ax.set_yticks(range(len(order)), [readable(kind) for kind in order])
    ax.invert_yaxis()
    ax.set_xlim(0, max(len(part) for part in parts) * 1.6)  # room for the text
    ax.set(xlabel="tumors", title=f"Tumors by {task}")


def _glass_brain(ax, places, kinds, order, colors):
    """Draw places (n, 3) in MNI mm on nilearn's glass brain, colored by kind."""
    from nilearn.plotting import plot_glass_brain

    ax.set_title(f"Places of {counted(len(places), 'tumor')} (MNI)", loc="left")
    ax.figure.draw_without_rendering()  # so that the axes are where they will be: nilearn copies their place
    shown = plot_glass_brain(None, display_mode="ortho", figure=ax.figure, axes=ax, annotate=True)
    for kind, color in zip(order, colors, strict=True):
        if (kinds == kind).any():
            shown.add_markers(places[kinds == kind], marker_color=color, marker_size=18, alpha=0.8)


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


def _scatter_labels(ax, points, labels, name):
    """Scatter points in a color and with a marker per label, and a legend."""
    for label, style in sorted(label_styles(labels).items()):
        rows = points[labels == label]
        ax.scatter(*rows.T, s=24, alpha=0.8, lw=0, label=f"{readable(label)} ({len(rows)})", **style)
    ax.legend(frameon=False, title=name, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _scatter_numbers(ax, points, values, name):
    """Scatter points colored by numbers, with a color bar."""
    from matplotlib.colors import LogNorm

    if not len(values):
        return
    norm = LogNorm() if values.min() > 0 and values.max() > 20 * values.min() else None
    drawn = ax.scatter(*points.T, c=values, cmap="viridis", norm=norm, s=24, alpha=0.9, lw=0)
    bar = ax.figure.colorbar(drawn, ax=ax)
    bar.set_label(name)
    bar.outline.set_visible(False)
