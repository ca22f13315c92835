"""Figures: what is drawn agrees with what went in; no figure is kept alive."""

import io

import numpy as np
import pandas as pd
import phantoms
import pytest
from matplotlib.colors import to_rgba

from tumorsim import Tumor
from tumorsim.plotting import (
    common_extent,
    plot_cohort,
    plot_knn_curve,
    plot_map,
    plot_neighbors,
    tumor_slices,
)
from tumorsim.rendering import COLORS, color_numbers


@pytest.fixture(scope="module")
def cohort():
    """Return four phantom tumors, one a scan."""
    return phantoms.cohort(4)


@pytest.fixture
def knn_table():
    """Return a result of two tasks and one target at three k, rows not in order of k."""
    rows = [
        {"task": task, "kind": kind, "metric": metric, "k": k, "value": value + k / 100, "chance": chance}
        for task, kind, metric, value, chance in (
            ("type", "class", "balanced_accuracy", 0.7, 1 / 3),
            ("hemisphere", "class", "balanced_accuracy", 0.9, 0.5),
            ("log_volume", "regression", "r2", 0.4, 0.0),
        )
        for k in (10, 1, 5)
    ]
    table = pd.DataFrame(rows)
    return table.assign(
        ci_low=table["value"] - 0.1, ci_high=table["value"] + 0.1, n_queries=20, n_patients=10
    )


def _render(axes):
    """Draw the figure for real, since Matplotlib finds many mistakes only then."""
    figure = np.ravel(axes)[0].figure
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_slices_show_the_tumor_in_the_middle(cohort):
    """The outlined area is the phantom's ellipsoid, and the bright tumor lies inside it."""
    tumor = cohort[0]  # a meningioma, bright all over, radii 3, 4, 3 voxels of 2 mm
    pictures = tumor_slices(tumor, margin_mm=10, n_pixels=120)
    expected = {"axial": 6 * 8, "coronal": 6 * 6, "sagittal": 8 * 6}
    for plane, picture in pictures.items():
        area = picture.mask.sum() * picture.pixel_mm**2
        assert area == pytest.approx(np.pi * expected[plane], rel=0.15)  # voxels of 2 mm round the edge
        assert picture.pixels[picture.mask].mean() > picture.pixels[~picture.mask].mean() + 50
        assert np.abs(np.argwhere(picture.mask).mean(axis=0) - 59.5).max() < 1


def test_slices_end_at_the_margin():
    """Nothing farther than the margin from the box is shown, in a larger frame neither."""
    tumor = phantoms.scan("a", [("meningioma", (20, 22, 17), (3, 3, 3))])[0]
    pictures = tumor_slices(tumor, extent_mm=60, margin_mm=6, n_pixels=60)
    for picture in pictures.values():
        rows, columns = (np.flatnonzero(picture.pixels.any(axis=axis)) for axis in (1, 0))
        assert np.ptp(rows) + 1 <= 7 * 2 + 2 * 6 and np.ptp(columns) + 1 <= 7 * 2 + 2 * 6


@pytest.mark.parametrize("orientation", ["LAS", "PIR"])
def test_slices_do_not_depend_on_storage(orientation):
    """The same scan stored along other axes gives the same pictures."""
    lesion = [("meningioma", (12, 26, 15), (3, 4, 5))]
    expected = tumor_slices(phantoms.scan("a", lesion)[0])
    seen = tumor_slices(phantoms.scan("a", lesion, orientation=orientation)[0])
    for plane, picture in expected.items():
        np.testing.assert_array_equal(seen[plane].mask, picture.mask)
        np.testing.assert_array_equal(seen[plane].pixels, picture.pixels)
        assert seen[plane].marks == picture.marks


def test_planes_meet_a_lesion_of_two_pieces():
    """Where the centroid lies in a gap, the plane moves onto the lesion."""
    first, second = phantoms.scan(
        "a", [("meningioma", (12, 22, 17), (3, 3, 3)), ("meningioma", (28, 22, 17), (3, 3, 3))]
    )
    both = Tumor(first.case, [first.bbox[0], second.bbox[1]], tumor_id="a/3")
    assert all(picture.mask.any() for picture in tumor_slices(both).values())


def test_extent_holds_the_largest_box(cohort):
    """The common frame is the longest side of all boxes and two margins."""
    sides = [((t.bbox[1] - t.bbox[0]) * t.case.spacing).max() for t in cohort]
    assert common_extent(cohort, margin_mm=30) == max(sides) + 60


def test_neighbors_are_named_and_outlined(cohort):
    """One column per tumor and one row per plane; titles hold distance and label; masks are contoured."""
    axes = plot_neighbors(cohort[0], list(cohort[1:]), [0.5, 1.25, 2.0])
    assert axes.shape == (3, 4)
    assert axes[0, 0].get_title() == "query\nmeningioma"
    assert axes[0, 2].get_title() == "neighbor 2, distance 1.25\nmeningioma"
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["axial", "coronal", "sagittal"]
    texts = [t.get_text() for t in axes[0, 1].texts]
    assert "R" in texts and "L" in texts and any(t.endswith(" mm") for t in texts)
    assert all(len(ax.collections) == 1 for ax in axes.flat)
    _render(axes)


def test_scale_bar_has_its_length(cohort):
    """The bar's pixels times the pixel's size are the millimetres written above it."""
    axes = plot_neighbors(cohort[0], [])
    bar = max(axes[0, 0].lines, key=lambda line: line.get_linewidth())
    millimetres = next(float(t.get_text()[:-3]) for t in axes[0, 0].texts if t.get_text().endswith(" mm"))
    pixels = axes[0, 0].images[0].get_array().shape[0]
    assert np.ptp(bar.get_xdata()) * common_extent([cohort[0]]) / pixels == pytest.approx(millimetres)


def test_neighbors_without_mask_have_a_box():
    """Where no mask is known the box is drawn, dashed."""
    tumors = phantoms.scan("a", [("meningioma", (20, 22, 17), (3, 4, 5))], with_mask=False)
    axes = plot_neighbors(tumors[0], [])
    dashed = [line for line in axes[0, 0].lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1 and not axes[0, 0].collections


def test_neighbors_need_a_distance_each(cohort):
    """Distances of another number than neighbors are refused."""
    with pytest.raises(ValueError, match="a distance a neighbor: 1"):
        plot_neighbors(cohort[0], [cohort[1]], [1.0, 2.0])


def test_knn_curve_shows_every_task_and_chance(knn_table):
    """Lines run through the values in order of k; chance and one interval are drawn, no other metric."""
    ax = plot_knn_curve(knn_table)
    lines = {line.get_label(): line for line in ax.lines}
    assert set(ax.get_legend_handles_labels()[1]) == {
        "type",
        "hemisphere",
        "chance (right edge)",
        "95 % interval (k = 5)",
    }
    np.testing.assert_allclose(lines["type"].get_xdata(), (1, 5, 10))
    np.testing.assert_allclose(lines["type"].get_ydata(), (0.71, 0.75, 0.8))
    assert any(np.allclose(line.get_ydata(), 1 / 3) for line in ax.lines if len(line.get_xdata()) == 2)
    (low, high), *others = (c.get_segments()[0][:, 1] for c in ax.collections)  # intervals at k = 5
    assert (low, high) == pytest.approx((0.65, 0.85)) and len(others) == 1
    assert ax.get_xlabel() == "number of neighbors" and "20 queries" in ax.get_title(loc="left")
    assert plot_knn_curve(knn_table, metric="r2").get_ylabel() == "R²"
    _render(ax)


def test_knn_curve_knows_its_metrics(knn_table):
    """An unknown metric is refused with those that there are."""
    with pytest.raises(ValueError, match="balanced_accuracy"):
        plot_knn_curve(knn_table, metric="accuracy")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map_colors_by_label(method):
    """Each value is a group with its count, missing labels are gray, highlighted rows are numbered."""
    X = np.random.default_rng(0).normal(size=(12, 4))
    labels = pd.Series(["glioma"] * 5 + ["meningioma"] * 4 + [None] * 3, name="label_type")
    ax = plot_map(X, labels, method=method, highlight=[3, 7])
    names = ax.get_legend_handles_labels()[1]
    assert {"glioma (5)", "meningioma (4)", "unknown"} <= set(names)
    assert [t.get_text() for t in ax.texts] == ["1", "2"]
    assert "12 tumors" in ax.get_title() and ax.get_title().endswith("by type")
    _render(ax)


def test_map_colors_by_number():
    """Numbers get a color bar, on a logarithmic scale where they span a wide range."""
    from matplotlib.colors import LogNorm

    X = np.random.default_rng(0).normal(size=(6, 3))
    ax = plot_map(X, [10.0, 100.0, 1000.0, 5.0, None, np.nan], name="volume_mm3")
    assert any(isinstance(c.norm, LogNorm) for c in ax.collections)
    assert [a.get_ylabel() for a in ax.figure.axes[1:]] == ["volume (mm³)"]
    _render(ax)


def test_map_stands_identical_rows():
    """Embeddings without any spread, or without labels, are drawn without a warning."""
    _render(plot_map(np.ones((4, 3)), ["a", "b", "a", "b"]))
    _render(plot_map(np.eye(3)))


def test_a_type_has_one_color_everywhere(cohort):
    """Whatever else is shown and however frequent it is, on the map, in bars and in the table of colors."""
    expected = to_rgba(COLORS[color_numbers(["meningioma"])["meningioma"]])
    for others in (["glioma"], ["metastasis", "lymphoma"]):
        labels = ["meningioma", *others, *others]
        ax = plot_map(np.eye(len(labels)), labels)
        handles, names = ax.get_legend_handles_labels()
        shown = next(h for h, name in zip(handles, names, strict=True) if name.startswith("meningioma"))
        assert to_rgba(shown.get_facecolor()[0])[:3] == expected[:3]
    bars, axes = ["meningioma", "metastasis"], plot_cohort(cohort)
    names = [text.get_text() for text in axes[1].get_yticklabels()]
    assert sorted(names) == bars
    assert axes[1].patches[names.index("meningioma")].get_facecolor() == expected


def test_map_checks_its_rows():
    """Too few rows, and labels of another number, are refused."""
    with pytest.raises(ValueError, match="at least 3 rows"):
        plot_map(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="one label per row"):
        plot_map(np.zeros((4, 4)), ["a"])


def test_cohort_counts_every_tumor(cohort):
    """The histogram's bars add up to the cohort; the counts are those of the table."""
    axes = plot_cohort(cohort)
    assert sum(patch.get_height() for patch in axes[0].patches) == len(cohort)
    assert sorted(patch.get_width() for patch in axes[1].patches) == [2, 2]
    assert axes[0].get_xlabel() == "volume (ml)"
    _render(axes)


def test_cohort_of_one_unlabeled_tumor_is_drawn(cohort):
    """One tumor of unknown type makes a figure."""
    tumor = Tumor(cohort[0].case, cohort[0].bbox, tumor_id="x", mask_value=cohort[0].mask_value)
    axes = plot_cohort(type(cohort)([tumor]))
    assert [t.get_text() for t in axes[1].get_yticklabels()] == ["unknown"]
    _render(axes)
    with pytest.raises(ValueError, match="at least one tumor"):
        plot_cohort(cohort[:0])


def test_pyplot_keeps_nothing(cohort, knn_table):
    """Functions draw on figures of their own, or on the axes given, and open none in pyplot."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    before = plt.get_fignums()
    plot_cohort(cohort)
    own = Figure().subplots()
    assert plot_knn_curve(knn_table, ax=own) is own
    assert plt.get_fignums() == before


def test_cohort_with_places_has_a_glass_brain(cohort):
    """Where MNI places are known they are drawn, and pyplot keeps nothing."""
    import matplotlib.pyplot as plt

    placed = type(cohort)(
        Tumor(
            t.case,
            t.bbox,
            tumor_id=t.tumor_id,
            labels=t.labels,
            mask_value=t.mask_value,
            metadata={"mni_x_mm": 10.0, "mni_y_mm": -20.0, "mni_z_mm": 30.0},
        )
        for t in cohort
    )
    before = plt.get_fignums()
    axes = plot_cohort(placed)
    assert len(axes) == 3 and axes[2].get_title(loc="left") == "Places of 4 tumors (MNI)"
    _render(axes)
    assert plt.get_fignums() == before
