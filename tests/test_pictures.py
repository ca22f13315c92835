"""Figures as pictures: each is compared with the one in `baseline/`, drawn by the same code before.

``TUMORSIM_DRAW_BASELINE=1 pytest tests/test_pictures.py`` draws them anew; look at them.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import phantoms
import pytest
from matplotlib.legend import Legend
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

from tumorsim import Cohort, Tumor
from tumorsim.plotting import (
    plot_cohort,
    plot_knn_curve,
    plot_map,
    plot_neighbors,
)

BASELINE = Path(__file__).parent / "baseline"
# Root mean square over gray levels. Text is hidden, since fonts differ; a moved line gives 5 and more.
TOLERANCE = 3.0


@pytest.fixture(name="same")
def same_picture(request, tmp_path):
    """Return a function that fails where a figure is not the one in `baseline/` of the test's name."""

    def compare(axes):
        figure = np.ravel(axes)[0].figure
        for part in [*figure.findobj(Text), *figure.findobj(Legend)]:
            part.set_visible(False)
        name = f"{request.node.name.removeprefix('test_')}.png"
        if os.environ.get("TUMORSIM_DRAW_BASELINE"):
            figure.savefig(BASELINE / name, dpi=50, metadata={"Software": None})
        figure.savefig(tmp_path / name, dpi=50)
        problem = compare_images(str(BASELINE / name), str(tmp_path / name), TOLERANCE)
        assert problem is None, problem

    return compare


def _placed(n=6):
    """Return phantom tumors with places in MNI, on a circle."""
    return Cohort(
        Tumor(
            tumor.case,
            tumor.bbox,
            tumor_id=tumor.tumor_id,
            labels=tumor.labels,
            mask_value=tumor.mask_value,
            metadata={"mni_x_mm": 40 * np.cos(i), "mni_y_mm": 40 * np.sin(i), "mni_z_mm": 5.0 * i},
        )
        for i, tumor in enumerate(phantoms.cohort(n))
    )


def test_neighbors(same):
    """A query and two neighbors, outlined, with scale."""
    cohort = phantoms.cohort(3)
    same(plot_neighbors(cohort[0], list(cohort[1:]), [0.5, 1.25]))


def test_map(same):
    """Two groups, missing labels gray, two rows circled."""
    X = np.random.default_rng(0).normal(size=(30, 4)) + np.repeat([[0], [3], [6]], 10, axis=0)
    same(plot_map(X, ["glioma"] * 12 + ["meningioma"] * 12 + [None] * 6, highlight=[3, 17]))


def test_knn_curve(same):
    """Two tasks with bands and chance."""
    rows = [(task, k, value + k / 100) for task, value in (("type", 0.6), ("side", 0.8)) for k in (1, 3, 10)]
    table = pd.DataFrame(rows, columns=["task", "k", "value"]).assign(metric="balanced_accuracy", chance=0.3)
    table = table.assign(ci_low=table["value"] - 0.1, ci_high=table["value"] + 0.1, n_queries=20)
    same(plot_knn_curve(table))


def test_cohort(same):
    """Sizes, counts, and places on the glass brain."""
    same(plot_cohort(_placed()))
