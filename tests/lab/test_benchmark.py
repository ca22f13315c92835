"""The benchmark: who is trained on, what is run and in which order, what is kept, what the report says."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import phantoms
import pytest
import torch
from archives import write_cohort, write_scan_table

from benchmarks.baselines import ForestCodes, RandomVectors, TumorFeatures, volume_place_features
from benchmarks.paper import EXPERIMENTS, PRESETS, run_benchmark
from benchmarks.paper.__main__ import main
from benchmarks.paper._boxes import box_iou, distort_boxes
from benchmarks.paper._data import Data, load_data, load_real, split_of
from benchmarks.paper._label_free import _Leaves, control_table, is_stripped, label_free_table
from benchmarks.paper._methods import new_embedder, spelled
from benchmarks.paper._plan import ALL, PRETRAINED, pairs_of, plan_runs
from benchmarks.paper._report import write_report
from benchmarks.paper._runs import training_rows
from benchmarks.paper._scores import COLUMNS
from tumorsim import Cohort, make_cohort
from tumorsim.manifest import save_manifest
from tumorsim.weights import load_registry

ROOT = Path(__file__).parents[2]
NETWORKS = ("table4", "cohort_size", "finetune", "fig4", "fig5", "fig6", "real", "sites", "baselines")


def with_split(cohort, split):
    """Return the cohort with a column ``split``."""
    for tumor, side in zip(cohort, split, strict=True):
        tumor.metadata["split"] = side
    return cohort


def data_of(cohort):
    """Return a cohort as the benchmark takes it."""
    return Data(cohort, split_of(cohort, 0), {"name": "phantoms"})


def test_patients_are_split_in_three():
    """60/20/20 by patient, the same for the same seed, and no patient on two sides."""
    cohort = phantoms.cohort(20, per_scan=2)
    split = split_of(cohort, 0)
    sides = pd.Series(split).groupby(cohort.patient_ids.astype(str)).agg(["nunique", "first"])
    assert (sides["nunique"] == 1).all()
    assert sides["first"].value_counts().to_dict() == {"train": 12, "validation": 4, "test": 4}
    assert (split == split_of(cohort, 0)).all() and (split != split_of(cohort, 1)).any()


def test_a_given_split_is_kept_to_and_checked():
    """A column says who tests; validation is drawn from the rest; a patient on two sides is an error."""
    cohort = with_split(phantoms.cohort(8), ["test"] * 2 + ["train"] * 6)
    split = split_of(cohort, 0)
    assert (split[:2] == "test").all() and set(split[2:]) == {"train", "validation"}
    both = Cohort([*phantoms.scan("a", [("meningioma", (12, 16, 17), (3, 4, 3))], patient_id="p"),
                   *phantoms.scan("b", [("meningioma", (12, 16, 17), (3, 4, 3))], patient_id="p"),
                   *phantoms.cohort(4)])  # fmt: skip
    with pytest.raises(ValueError, match="one side of the split"):
        split_of(with_split(both, ["train", "test", "train", "train", "validation", "test"]), 0)
    with pytest.raises(ValueError, match="must hold train, validation, test"):
        split_of(with_split(phantoms.cohort(4), ["training"] * 4), 0)


def test_every_experiment_has_its_first_seed_before_any_its_second():
    """Runs are ordered by seed, then by experiment; what experiments share is one fit."""
    runs = plan_runs(PRESETS["small"], data_of(phantoms.cohort(20)), baselines=["random"])
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert {run.experiment for run in runs if run.seed == 0} == set(EXPERIMENTS)
    default = {run.key for run in runs if run.method in (ALL, "16 channels") and run.seed == 0}
    assert len(default) == 1
    table3 = [run for run in runs if run.experiment == "table3" and run.seed == 0]
    tasks = {run.method: run.config["parameters"]["tasks"] for run in table3}
    assert tasks["type only"] == ["type"] and tasks["segmentation only"] == []
    assert tasks["all but type"] == ["hemisphere"] == tasks["localization only"]
    weights = {run.method: run.config["parameters"].get("task_weights") for run in table3}
    assert weights["localization only"] == {"mask": 0.0} and weights["all but type"] is None
    assert len({run.key for run in runs if run.experiment == "table3"}) == 3 * len(table3)


def test_every_planned_network_can_be_made():
    """Each preset's parameters are parameters of the embedder, and the paper's are the paper's."""
    for preset in PRESETS.values():
        for run in plan_runs(preset, data_of(phantoms.cohort(20))):
            embedder = new_embedder(run.config.get("paper")).set_params(**spelled(run.config["parameters"]))
            own = {None} if "weights" in run.config else {4, *preset.channels, 64}
            assert embedder.n_channels in own


def test_fine_tuned_and_from_scratch_differ_by_their_start_only():
    """Both have the same patients and steps; other weights would be another run."""
    data = data_of(phantoms.cohort(20))
    runs = {run.method: run for run in plan_runs(PRESETS["small"], data, experiments=["finetune"])}
    names = ("fine-tuned on 25 patients", "from scratch on 25 patients")
    assert pairs_of(runs)[0] == names and pairs_of(runs)[1] == (names[0], PRETRAINED)
    tuned, scratch = (runs[name].config for name in names)
    assert tuned["n_patients"] == scratch["n_patients"] == 25
    different = {
        k for k in scratch["parameters"] if scratch["parameters"][k] != tuned["parameters"].get(k, "")
    }
    assert different == {"lr", "initial_weights"}
    assert tuned["weights"]["sha256"] == load_registry().get("t1c-v6-simulated").sha256
    other = replace(PRESETS["small"], weights="t1c-v6")
    keys = {run.key for run in plan_runs(other, data, experiments=["finetune"])}
    assert not keys & {run.key for run in runs.values()}


def test_smaller_cohorts_lie_in_larger_ones():
    """Patients of a smaller training cohort are among those of every larger one, with all their tumors."""
    data = data_of(phantoms.cohort(20, per_scan=2))
    small, large, whole = (training_rows({"n_patients": n, "seed": 0}, data) for n in (3, 6, None))
    assert set(small) < set(large) < set(whole)
    assert len(set(data.cohort[small].patient_ids)) == 3 and len(small) == 6


def test_boxes_are_scaled_and_shifted():
    """Sides and centers follow the strength, in whole voxels; strengths 1 and 0 change nothing."""
    cohort = phantoms.cohort(3)
    boxes = np.array([tumor.bbox for tumor in cohort])
    np.testing.assert_array_equal([t.bbox for t in distort_boxes(cohort, 1, 0)], boxes)
    twice = np.array([t.bbox for t in distort_boxes(cohort, 2, 0)])
    sides = boxes[:, 1] - boxes[:, 0]
    assert (np.abs(twice[:, 1] - twice[:, 0] - 2 * sides) <= 1).all()  # both edges are rounded
    moved = np.array([t.bbox for t in distort_boxes(cohort, 1, 0.5)])
    assert (np.abs(np.abs(moved - boxes) - sides[:, None] / 2) <= 0.5).all()
    unit = np.array([[(0, 0, 0), (2, 2, 2)]])
    assert box_iou(unit, [[(1, 0, 0), (3, 2, 2)]]).tolist() == [4 / 12]
    assert box_iou(unit, [[(2, 0, 0), (3, 2, 2)]]).tolist() == [0]


def test_too_few_heads_are_refused(tmp_path):
    """Four heads are kept for testing, so more must be there."""
    for i in range(4):
        (tmp_path / f"{i}.nii.gz").touch()
    with pytest.raises(ValueError, match="more than 4 heads"):
        load_data(tmp_path / "data", PRESETS["smoke"], anatomies=tmp_path)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Return the folder of a smoke benchmark by command: a few tiny networks, trained, and real scans."""
    folder = tmp_path_factory.mktemp("benchmark")
    make_cohort(10, random_state=5, spacing=4.0, output_dir=folder / "real")
    scans = pd.read_csv(folder / "real" / "manifest.csv").assign(dataset="another hospital's")
    scans.to_csv(folder / "real" / "manifest.csv", index=False)
    words = ["--preset", "smoke", "--out", folder / "out"]
    words += ["--stacks", folder / "real" / "manifest.csv"]
    words += ["--only", ",".join(NETWORKS), "--n-jobs", "1"]
    main([str(word) for word in words])
    return folder / "out"


@pytest.mark.slow
def test_smoke_leaves_tidy_scores_figures_and_a_report(smoke):
    """Every experiment has rows with intervals about their values, and its figures are in the report."""
    tidy = pd.read_csv(smoke / "results.csv")
    assert tidy.columns.tolist() == COLUMNS
    assert set(NETWORKS) - {"fig5", "fig6"} <= set(tidy["experiment"])
    pair = "fine-tuned on 8 patients − from scratch on 8 patients"
    for part, of in (("finetune", "paired"), ("real", "paired_real")):
        assert len(tidy[(tidy["experiment"] == of) & (tidy["method"] == pair)])
        named = set(tidy.loc[tidy["experiment"] == part, "method"])
        assert {PRETRAINED, *pair.split(" − ")} <= named
    scores = tidy[~tidy["experiment"].str.startswith("paired")]  # differences may be negative
    shares = scores[
        scores["metric"].isin(["balanced_accuracy", "precision_at_k", "dice", "overlap_at_k", "iou"])
    ]
    assert shares["value"].between(0, 1).all()
    known = tidy[tidy["ci_low"].notna()]
    assert len(known) > 300 and (known["ci_low"] <= known["ci_high"]).all()
    exact = tidy[tidy["method"].str.endswith("scale 1, shift 0") & (tidy["metric"] == "overlap_at_k")]
    assert len(exact) == 2 and (exact["value"] == 1).all()
    report = (smoke / "report.md").read_text(encoding="utf-8")
    for name in ("table4_0.png", "fig4_classes.png", "fig5_type.png", "fig6_metastasis.png", "real.png"):
        assert f"({name})" in report and (smoke / name).stat().st_size > 1000
    about = json.loads((smoke / "results.json").read_text(encoding="utf-8"))
    assert {run["state"] for run in about["runs"]} == {"finished"}
    assert "| fine-tuned on 8 patients against |" in report
    dice = tidy[(tidy["task"] == "mask") & (tidy["metric"] == "dice")].set_index(["experiment", "method"])[
        "value"
    ]
    for paired, part in (("paired", "finetune"), ("paired_real", "real")):
        first, other = (dice[part, name] for name in pair.split(" − "))
        assert dice[paired, pair] == pytest.approx(first - other, abs=1e-5)
    across = set(tidy.loc[tidy["experiment"] == "sites", "method"])
    assert f"{ALL}: another hospital's as queries to the others" in across
    assert about["versions"]["torch"] and about["hardware"]["threads"] >= 1


@pytest.mark.slow
def test_an_interrupted_benchmark_goes_on(smoke, tmp_path):
    """Finished runs are kept; one whose embeddings are lost makes the same ones from its model."""
    out = tmp_path / "out"
    shutil.copytree(smoke, out)
    models = sorted((out / "runs").glob("*/model.safetensors"))
    configs = {
        m.parent: json.loads((m.parent / "record.json").read_text(encoding="utf-8"))["config"] for m in models
    }
    folders = [path for path, config in configs.items() if "weights" not in config]  # not of finetune
    lost, kept = folders[0], {path: (path / "record.json").read_bytes() for path in folders[1:]}
    before = dict(np.load(lost / "embeddings.npz"))
    for name in ("record.json", "embeddings.npz"):
        (lost / name).unlink()
    lines = []
    run_benchmark(out, "smoke", only=["table4", "cohort_size"], echo=lines.append)
    np.testing.assert_array_equal(np.load(lost / "embeddings.npz")["X"], before["X"])
    assert {path: (path / "record.json").read_bytes() for path in kept} == kept
    assert sum("was there" in line for line in lines) == 2 and sum(" done, " in line for line in lines) == 1


@pytest.mark.slow
def test_what_is_not_there_is_called_missing(smoke, tmp_path):
    """Without training, a run that is lost has no rows, and the report says so instead of guessing."""
    out = tmp_path / "out"
    shutil.copytree(smoke, out)
    whole = pd.read_csv(out / "results.csv")
    for record in (out / "runs").glob("*/record.json"):
        if json.loads(record.read_text(encoding="utf-8"))["config"].get("n_patients"):
            record.unlink()
    tidy = run_benchmark(out, "smoke", only=["cohort_size"], train=False, echo=lambda text: None)
    name = "trained on 8 patients"
    assert name in set(whole["method"]) and name not in set(tidy["method"])
    assert f"| {name} | missing |" in (out / "report.md").read_text(encoding="utf-8")


class Volume:
    """A method of a user's own: one number a tumor."""

    def fit(self, tumors, y=None):
        """Learn nothing."""
        return self

    def transform(self, tumors):
        """Return the logarithm of the box's volume."""
        return np.log([[float(np.prod(t.bbox[1] - t.bbox[0]))] for t in tumors])


@pytest.mark.slow
def test_own_archive_and_own_method(smoke, tmp_path, monkeypatch):
    """A manifest replaces simulated patients, any transformer is a method; one that fails costs no other."""
    steps = {"max_epochs": 1, "batches_per_epoch": 1}
    preset = replace(PRESETS["smoke"], parameters=PRESETS["smoke"].parameters | steps)
    monkeypatch.setitem(PRESETS, "smoke", preset)

    errors = {
        "broken": ValueError("it cannot"),
        "too large": MemoryError("Unable to allocate 7 PiB"),
        "too large for the GPU": torch.cuda.OutOfMemoryError("CUDA out of memory."),
        "too large for torch": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    }

    def failing(error):
        def make(random_state):
            raise error

        return make

    lines = []
    tidy = run_benchmark(
        tmp_path, "smoke", manifest=smoke / "data" / "manifest.csv", only=["baselines"], echo=lines.append,
        baselines={name: failing(error) for name, error in errors.items()}
        | {"my volume": lambda random_state: Volume()},
    )  # fmt: skip
    row = tidy.query("method == 'my volume' and task == 'log_volume' and metric == 'spearman'")
    assert len(row) == 1 and row["value"].iloc[0] > 0.5
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    for name, error in errors.items():
        said = f"{type(error).__name__}: {error}"
        assert any(f" {name}, seed 0" in line and f"failed: {said}" in line for line in lines)
        assert f"| {name} | missing |" in report and said in report
    assert not (tmp_path / "data").exists()


def test_real_scans_are_a_scan_table_or_a_manifest(tmp_path):
    """Both give the same tumors, in the order of their case ids."""
    cohort = write_cohort(phantoms.cohort(3), tmp_path)
    write_scan_table(cohort[[2, 0, 1]], tmp_path / "scans.csv")
    save_manifest(cohort[[1, 2, 0]], tmp_path / "tumors.csv")
    found = [load_real(tmp_path / name, tmp_path / "real.csv") for name in ("scans.csv", "tumors.csv")]
    assert [[t.case.case_id for t in part] for part in found] == [["s0", "s1", "s2"]] * 2


@pytest.fixture(scope="module")
def dates():
    """Return six patients, two of them imaged at two dates."""
    tumors = []
    for i in range(6):
        lesion = (("meningioma", "metastasis")[i % 2], (12 + i, 16 + 2 * i, 17), (3 + i % 3, 4, 3))
        for date in range(2 if i < 2 else 1):
            tumors += phantoms.scan(f"p{i}-{date}", [lesion], patient_id=f"p{i}", seed=i)
    return Cohort(tumors)


def test_a_test_without_meaning_for_a_method_has_no_number(dates):
    """A method of place takes the tests; one that draws by id takes none and says why; forests by leaves."""
    place = TumorFeatures(volume_place_features, standardize=False).fit(dates)
    table = label_free_table(place, dates)
    own = table[table["method"] == ""].set_index("task")
    assert {"other date", "transplant", "mirror: distance", "rescan: overlap@5"} <= set(own.index)
    assert (
        own.loc["other date", "value"] > own.loc["other date: mirrored box"].get("value", 0)
        or (own.loc["other date: mirrored box", "why"])
    )
    assert own.loc["other date", "n_patients"] == 2
    assert "mirror: side flips" not in own.index  # it predicts nothing
    assert set(table["method"]) == {"", "chance", "box sides"}
    blind = label_free_table(RandomVectors().fit(dates), dates)
    assert blind["value"].isna().all() and blind["why"].str.contains("tumor id").all()
    forest = ForestCodes(place, n_trees=5, min_samples_leaf=1).fit(dates)
    codes, leaves = forest.transform(dates), _Leaves(forest).transform(dates)
    different = (codes[:, None] != codes).sum(axis=2)
    np.testing.assert_allclose(((leaves[:, None] - leaves) ** 2).sum(axis=2), 2 * different)
    controls = control_table(dates).set_index("method")
    assert list(controls.index) == ["centroid only", "head correlation"]
    assert (controls["value"] == 1).all()  # the same head, the same place


def test_scans_without_skull_are_told_by_column_or_data_set():
    """Public sets are known by name or title in any case; a cell of ``stripped`` counts for more."""
    names = [
        "brats-mets",
        "BraTS-MEN-RT 2024",
        "brats-men-rt",
        "BraTS 2013",
        "brats-gli",
        "cheng",
        "brats-men",
    ]
    cohort = phantoms.cohort(len(names))
    for tumor, name in zip(cohort, names, strict=True):
        tumor.metadata["dataset"] = name
    assert is_stripped(cohort).tolist() == [True, False, False, True, True, False, True]
    cohort[0].metadata["stripped"], cohort[5].metadata["stripped"] = "false", "yes"
    assert is_stripped(Cohort(list(cohort))).tolist() == [False, False, False, True, True, True, True]


@pytest.mark.slow
def test_tests_without_labels_stand_beside_their_controls(smoke, dates, tmp_path):
    """Every method that was run is tested once; without scans the experiment is skipped, with a message."""
    out = tmp_path / "out"
    shutil.copytree(smoke, out)
    write_scan_table(write_cohort(dates, tmp_path), tmp_path / "dates.csv")
    lines = []
    options = {"only": ["label_free", "baselines"], "echo": lines.append}
    tidy = run_benchmark(out, "smoke", dates=tmp_path / "dates.csv", **options)
    rows = tidy[tidy["experiment"] == "label_free"]
    methods = set(rows["method"])
    assert {ALL, "untrained", "volume_place", "intensity", "centroid only", "head correlation"} <= methods
    assert {"box sides", "chance"} <= methods and "random" not in methods
    untrained = rows[(rows["method"] == "untrained") & (rows["task"] == "other date")]
    seeds = untrained.set_index("seed")["value"]
    assert len(seeds) == 3 and seeds[seeds.index.isna()].iloc[0] == pytest.approx(seeds[[0, 1]].mean())
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "| *centroid only* | 1.00 |" in report and "A rank by itself shows nothing" in report
    assert "- random, not other date, other date: mirrored box, transplant" in report
    assert str(tmp_path) not in report
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("label-free-*.csv")}
    assert len(kept) == 1 + len({r["key"] for r in json.loads((out / "results.json").read_text())["runs"]})
    again = run_benchmark(out, "smoke", dates=tmp_path / "dates.csv", train=False, **options)
    pd.testing.assert_frame_equal(again, tidy)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    run_benchmark(out, "smoke", train=False, **options)
    assert any(line.startswith("Skipping label_free") for line in lines)
    assert "no real scans were given" in (out / "report.md").read_text(encoding="utf-8")


def test_report_counts_wins_ties_and_losses():
    """An interval above 0 is a win, below a loss, about 0 a tie; a method without rows is missing."""
    fixed = {"experiment": "paired", "method": f"{ALL} − type only", "metric": "balanced_accuracy"}
    fixed |= {"k": np.nan, "n_patients": 9, "seed": np.nan}
    found = {"type": (-0.2, -0.3, -0.1), "region": (0.2, 0.1, 0.3), "side": (0.1, -0.1, 0.3)}
    rows = [
        fixed | {"task": task, "value": value, "ci_low": low, "ci_high": high}
        for task, (value, low, high) in found.items()
    ]
    score = {
        "experiment": "table3",
        "method": "type only",
        "task": "region",
        "value": 0.7,
        "ci_low": 0.6,
        "ci_high": 0.8,
    }
    tidy = pd.DataFrame([*rows, fixed | score])[COLUMNS]
    hardware = {"threads": 1, "cuda": None}
    about = {"preset": "small", "sides": {}, "runs": [], "n_resamples": 1000, "hardware": hardware}
    report = write_report(tidy, {"table3": [ALL, "type only"]}, about, {})
    assert "| type only | 1 | 1 | 1 |" in report
    assert "region balanced accuracy +0.20 (+0.10 to +0.30)" in report and "| all tasks | missing |" in report


def test_help_teaches():
    """`python -m benchmarks.paper --help` names the presets and every experiment, and shows how to begin."""
    command = [sys.executable, "-m", "benchmarks.paper", "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m benchmarks.paper --preset smoke" in text
    assert all(name in text for name in (*PRESETS, *EXPERIMENTS))


def test_what_the_user_can_mend_is_one_line(tmp_path, capsys):
    """A file where a folder belongs, or an unknown experiment, ends with one line and exit code 2."""
    (tmp_path / "file").touch()
    for words, message in (
        (["--out", str(tmp_path / "file")], "is a file. Give a folder."),
        (["--out", str(tmp_path / "out"), "--only", "table9"], "'only' must be one of"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_wrong_preset_or_experiment_is_named(tmp_path):
    """Both are checked before anything is simulated."""
    with pytest.raises(ValueError, match="'preset' must be one of"):
        run_benchmark(tmp_path, "large")
    with pytest.raises(ValueError, match="'only' must be one of"):
        run_benchmark(tmp_path, "smoke", only=["table9"])
    assert not list(tmp_path.iterdir())
