"""Figures of the lab: what is drawn agrees with what went in."""

import numpy as np
import pandas as pd
import pytest
from test_pictures import same_picture  # noqa: F401, the fixture 'same'

from benchmarks.label_free import plot_box_robustness
from benchmarks.paper._figures import plot_methods, plot_strengths


def test_box_robustness(same):
    """Three kinds of perturbation with interval, worst tumors and chance."""
    same(plot_box_robustness(_stability()))


def test_box_robustness_shows_every_kind():
    """Each kind of perturbation is a line from above, with its overlap, worst tumors and chance."""
    result = pd.DataFrame(
        {"kind": ["axes", "box_larger"], "overlap": [1.0, 0.6], "ci_low": [1.0, 0.5], "ci_high": [1.0, 0.7]}
    ).assign(p5=[1.0, 0.2], chance=0.1, n_neighbors=5, n_tumors=9)
    ax = plot_box_robustness(result)
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(lines["median tumor"].get_xdata(), (1.0, 0.6))
    np.testing.assert_allclose(lines["5th percentile"].get_xdata(), (1.0, 0.2))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["axes", "box larger"]
    assert "5 neighbors" in ax.get_xlabel() and "9 tumors" in ax.get_title()
    with pytest.raises(ValueError, match="at least one kind"):
        plot_box_robustness(result[:0])


def test_strengths_are_a_grid_of_scale_and_shift():
    """Each cell carries its value, scales to the right and shifts downward."""
    rows = pd.DataFrame({"scale": [0.8, 1.0, 1.0], "shift": [0.0, 0.0, 0.5], "value": [0.9, 1.0, 0.4]})
    ax = plot_strengths(rows)
    assert [text.get_text() for text in ax.texts] == ["0.90", "1.00", "0.40"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.8", "1"]
    with pytest.raises(ValueError, match="at least one strength"):
        plot_strengths(rows[:0])


def test_methods_stand_beside_each_other_with_intervals():
    """One panel per task, a dot at each method's value, chance as a line; a missing score leaves a gap."""
    rows = pd.DataFrame(
        [
            ("all", "type", 0.8, 0.7, 0.9), ("one", "type", 0.6, 0.5, 0.7),
            ("chance", "type", 0.2, None, None), ("all", "region", 0.5, 0.4, 0.6),
        ],
        columns=["method", "task", "value", "ci_low", "ci_high"],
    ).assign(metric="balanced_accuracy")  # fmt: skip
    axes = plot_methods(rows)
    assert [ax.get_title() for ax in axes] == ["type", "region"]
    dots = [[line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"] for ax in axes]
    assert dots == [[0.8, 0.6], [0.5]]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["all", "one"]
    with pytest.raises(ValueError, match="at least one method"):
        plot_methods(rows[rows["method"] == "chance"])


def _stability():
    """Return a result as `evaluate_stability` gives it."""
    return pd.DataFrame(
        {
            "kind": ["axes", "box_larger", "noise"],
            "overlap": [1.0, 0.7, 0.8],
            "ci_low": [1.0, 0.6, 0.7],
            "ci_high": [1.0, 0.8, 0.9],
            "p5": [1.0, 0.3, 0.5],
            "chance": [0.2, 0.2, 0.2],
            "n_neighbors": 5,
            "n_tumors": 12,
        }
    )
