"""The benchmark of answers, on Gaussian tumors whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import answers
from tumorsim import EmbeddingSpace


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Take few resamples and splits."""
    monkeypatch.setattr(answers, "N_RESAMPLES", 50)
    monkeypatch.setattr(answers, "N_SPLITS", 4)


def archive(n, seed=0):
    """Return embeddings with types far apart and sides read off another feature, their table and space."""
    rng = np.random.default_rng(seed)
    types, sides = rng.integers(3, size=n), rng.integers(2, size=n)
    centers = 7 * np.eye(3)
    X = np.column_stack([centers[types] + rng.normal(size=(n, 3)), 2 * sides + rng.normal(size=n)])
    table = pd.DataFrame(
        {
            "tumor_id": [f"t{i}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],  # two tumors a patient
            "label_type": np.array(["a", "b", "c"])[types],
            "label_hemisphere": np.array(["left", "right"])[sides],
            "volume_mm3": np.exp(rng.normal(7, 1, size=n)),
        }
    )
    heads = {"type": np.eye(4)[:3], "hemisphere": np.eye(4)[3:]}
    return X.astype(np.float32), table, EmbeddingSpace("f", heads)


def test_the_benchmark_finds_what_is_there():
    """Aspects gain their own precision, new types are told, votes and p-values are as calibrated."""
    tables = answers.run(*archive(240))
    gains = tables["aspects"].set_index(["aspect", "precision_of"])
    assert gains.loc[("hemisphere", "hemisphere"), "ci_low"] > 0
    assert gains.loc[("size", "size"), "by_aspect"] > 0.9 > gains.loc[("size", "size"), "plain"]
    assert gains.loc[("size", "type"), "gain"] < 0  # what it costs
    assert (gains["time_ratio"] > 0).all()
    usual = tables["p_values"].set_index("level")["share"]
    assert usual[0.25] == pytest.approx(0.25, abs=0.12)  # 240 queries of 4 dependent splits
    new = tables["left_out"]
    assert new["left_out"].tolist() == ["a", "b", "c"]
    assert (new["auroc"] > 0.9).all() and (new["called_new"] > 0.8).all()
    assert (new["falsely_called"] < 0.2).all()  # 0.05, of about 25 patients
    assert (tables["hubness"]["precision"] > 0.9).all() and len(tables["hubness"]) == 6
    assert {"brier_before", "brier_after", "ece_before", "ece_after"} <= set(tables["votes"])


def test_a_small_archive_says_less_and_fails_nowhere():
    """Eight tumors have no p-values and no calibration, and every part returns a table."""
    with pytest.warns(UserWarning, match="No calibration: Calibration needs"):
        tables = answers.run(*archive(8))
    assert tables["p_values"]["share"].isna().all()
    assert len(tables["left_out"]) == 0 and len(tables["votes"]) == 0
