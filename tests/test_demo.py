"""The main job on real example scans and an archive of phantoms, with the shipped weights."""

import pandas as pd
import phantoms
from archives import write_cohort

import tumorsim
from tumorsim import load_cohort
from tumorsim.demo import run_demo


def test_demo_leaves_figures_a_table_and_a_sheet(tmp_path, monkeypatch):
    """Every file that it names is there, and what it says holds query, neighbors and votes."""

    def make_cohort(n_patients, *, output_dir, **_):
        output_dir.mkdir(parents=True)
        return write_cohort(phantoms.cohort(n_patients), output_dir)

    monkeypatch.setattr(tumorsim, "make_cohort", make_cohort)
    said = []
    files = run_demo(tmp_path, n_patients=8, echo=said.append)
    assert sorted(files) == ["answer", "cohort", "knn", "map", "neighbors"]
    assert all(path.stat().st_size > 5000 for path in files.values())
    assert {"hemisphere", "log_volume"} <= set(pd.read_csv(tmp_path / "knn.csv")["task"])
    assert "rank  distance" in said[-2] and "of 5 neighbors" in said[-2] and "answer.html" in said[-1]
    page = files["answer"].read_text()
    assert page.count("<image ") == 18 and "real example scans and simulated patients (18 tumors)" in page
    shown = load_cohort(tmp_path / "scans" / "manifest.csv")
    assert len(shown) == 12 + 8 and (shown.table["dataset"] == "cheng").sum() == 12
