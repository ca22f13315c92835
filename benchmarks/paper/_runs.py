"""One fit and what it leaves in its folder: model, embeddings, history; done once, whatever interrupts it."""

import json
import platform
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

import tumorsim
from benchmarks.paper._boxes import box_iou, distort_boxes
from benchmarks.paper._label_free import label_free_table
from benchmarks.paper._methods import make_baseline, new_embedder, spelled
from tumorsim.io import atomic_path
from tumorsim.metrics import dice
from tumorsim.spaces import EmbeddingSpace

__all__ = ["Result", "finish_run", "load_result", "training_rows", "versions"]

RECORD = "record.json"


def finish_run(run, data, out, *, real=None, dates=None, boxes=None, baselines=None, n_jobs=1, verbose=0):
    """Do what of a run is not in its folder yet.

    Parameters
    ----------
    run : Run
    data : Data
    out : Path
        Of the benchmark; the run's own folder is ``runs/<key>``.
    real : tuple of str and Cohort, optional
        Name and tumors of real scans, which are embedded, and their masks proposed.
    dates : tuple of str and Cohort, optional
        Name and tumors of real scans for the tests that need no labels.
    boxes : list of (float, float), optional
        Scales and shifts of the test tumors' boxes to embed.
    baselines : dict of callable, optional
        Name → callable(random_state) → estimator.
    n_jobs : int, default=1
    verbose : int, default=0
        As of `TumorEmbedder`.
    """
    folder = Path(out) / "runs" / run.key
    fresh = not (folder / RECORD).exists()
    new_real = real is not None and not (folder / f"real-{real[0]}.npz").exists()
    new_boxes = bool(boxes) and "baseline" not in run.config and not _has_boxes(folder, boxes)
    new_dates = dates is not None and not (folder / _label_free_name(dates[0])).exists()
    if not (fresh or new_real or new_dates or new_boxes):
        return
    started = time.perf_counter()
    if "baseline" in run.config:
        estimator = make_baseline(run.config, out, baselines)
        estimator.fit(data.cohort[data.rows("train")])
        masks = False
    else:
        estimator = _network(run, data, Path(out), folder, n_jobs, verbose)
        masks = run.config["parameters"].get("task_weights", {}).get("mask", 1) > 0
    trained = time.perf_counter()
    if fresh:
        space = json.dumps(getattr(estimator, "space_", EmbeddingSpace("none")).to_dict())
        _write_arrays(folder / "embeddings.npz", X=_embed(estimator, data.cohort), space=np.array(space))
        if masks:
            _write_masks(folder / "masks.csv", estimator, data.cohort[data.rows("test")].cases)
        seconds = {"fit": round(trained - started, 1), "all": round(time.perf_counter() - started, 1)}
        record = {
            "config": run.config,
            "metric": getattr(estimator, "metric", "euclidean"),
            "seconds": seconds,
        }
        _write_json(folder / RECORD, record | {"history": getattr(estimator, "history_", None)} | versions())
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    if new_real:
        name, cohort = real
        cases = [case for case in cohort.cases if case.has_mask]
        if masks and cases:
            _write_masks(folder / f"real-{name}-masks.csv", estimator, cases)
        _write_arrays(folder / f"real-{name}.npz", X=_embed(estimator, cohort))
    if new_dates:
        with atomic_path(folder / _label_free_name(dates[0])) as temporary:
            label_free_table(estimator, dates[1]).to_csv(temporary, index=False)
    if new_boxes:
        _write_boxes(folder / "boxes.npz", estimator, data.cohort[data.rows("test")], boxes)


class Result:
    """What a finished run has left.

    Attributes
    ----------
    run : Run
    record : dict
    X : ndarray of shape (n_tumors, n_features)
        Of all tumors of the data, in their order, where an index measures distances.
    """

    def __init__(self, run, folder):
        self.run = run
        self.folder = Path(folder)
        self.record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        arrays = self._read("embeddings.npz")
        self._space = EmbeddingSpace.from_dict(json.loads(str(arrays["space"])))
        self.X = self._space.coordinates(arrays["X"])

    @property
    def metric(self):
        """How rows are compared, ``euclidean`` or ``hamming``."""
        return self.record["metric"]

    def distorted(self):
        """Return (scale, shift) → embeddings of the test tumors and IoU of their boxes, or None."""
        arrays = self._read("boxes.npz")
        if arrays is None:
            return None
        strengths = [tuple(pair) for pair in arrays["strengths"].tolist()]
        points = [self._space.coordinates(X) for X in arrays["X"]]
        return {pair: (points[i], arrays["iou"][i]) for i, pair in enumerate(strengths)}

    def real(self, name):
        """Return embeddings of the real scans called `name`, or None."""
        arrays = self._read(f"real-{name}.npz")
        return None if arrays is None else self._space.coordinates(arrays["X"])

    def label_free(self, name):
        """Return what the tests without labels said on the scans called `name`, or None."""
        path = self.folder / _label_free_name(name)
        if not path.exists():
            return None
        return pd.read_csv(path, dtype={"method": str, "why": str}).fillna({"method": "", "why": ""})

    def masks(self, name=None):
        """Return case ids and Dice of masks proposed for test patients, or for real scans; or None."""
        path = self.folder / ("masks.csv" if name is None else f"real-{name}-masks.csv")
        return pd.read_csv(path, dtype={"case_id": str}) if path.exists() else None

    def _read(self, name):
        if not (self.folder / name).exists():
            return None
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)


def load_result(run, out):
    """Return the `Result` of a run, or None while it has not finished."""
    folder = Path(out) / "runs" / run.key
    return Result(run, folder) if (folder / RECORD).exists() else None


def versions():
    """Return what computed, and on what."""
    import sklearn
    import torch

    return {
        "versions": {
            "tumorsim": tumorsim.__version__, "python": platform.python_version(), "numpy": np.__version__,
            "torch": torch.__version__, "scikit-learn": sklearn.__version__,
        },
        "hardware": {
            "machine": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }  # fmt: skip


def training_rows(config, data):
    """Return the rows that a run is trained on: those of some patients, for a smaller cohort.

    Patients are drawn so that a larger cohort holds every smaller one.
    """
    rows, n = data.rows("train"), config.get("n_patients")
    if n is None:
        return rows
    patients = data.cohort.patient_ids.astype(str)
    chosen = np.random.default_rng(config["seed"]).permutation(np.unique(patients[rows]))[:n]
    return rows[np.isin(patients[rows], chosen)]


def _network(run, data, out, folder, n_jobs, verbose):
    """Return the embedder of a run, from its model file, or trained, going on from its checkpoint."""
    from tumorsim.embedder import TumorEmbedder

    path = folder / "model.safetensors"
    if path.exists():
        return TumorEmbedder.load(path).set_params(cache_dir=out / "cache", n_jobs=n_jobs)
    if "weights" in run.config:
        embedder = TumorEmbedder.from_pretrained(run.config["weights"]["name"])
    else:
        embedder = new_embedder(run.config.get("paper"))
    embedder.set_params(
        **spelled(run.config["parameters"]), random_state=run.config["seed"],
        checkpoint_dir=folder / "checkpoint", cache_dir=out / "cache", n_jobs=n_jobs, verbose=verbose,
    )  # fmt: skip
    if not run.config["parameters"]:
        return embedder  # pretrained, and not trained further
    tumors = data.cohort[training_rows(run.config, data)]
    embedder.fit(tumors, _kept_labels(run.config, tumors), resume=True)
    with atomic_path(path) as temporary:
        embedder.save(temporary)
    return embedder


def _kept_labels(config, tumors):
    """Return labels of which a share is missing at random, cell by cell, or None to take all."""
    if not config.get("drop"):
        return None
    labels = tumors.labels.astype(object)
    dropped = np.random.default_rng(config["seed"]).random(labels.shape) < config["drop"]
    return labels.mask(dropped, None)


def _embed(estimator, tumors):
    """Return embeddings as float32."""
    return np.asarray(estimator.transform(tumors), dtype=np.float32)


def _write_boxes(path, estimator, cohort, strengths):
    """Embed tumors in distorted boxes."""
    exact = np.array([tumor.bbox for tumor in cohort])
    X, iou = [], []
    for scale, shift in strengths:
        distorted = distort_boxes(cohort, scale, shift)
        X.append(_embed(estimator, distorted))
        iou.append(box_iou([tumor.bbox for tumor in distorted], exact))
    _write_arrays(path, strengths=np.array(strengths), X=np.array(X), iou=np.array(iou))


def _label_free_name(name):
    """Return the name of the file of tests on the scans called `name`."""
    return f"label-free-{name}.csv"


def _has_boxes(folder, strengths):
    """Return whether just these strengths are in a run's folder."""
    path = folder / "boxes.npz"
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as file:
        return np.array_equal(file["strengths"], np.array(strengths))


def _write_masks(path, embedder, cases):
    """Write the Dice overlap of proposed and given masks, one row per scan."""
    rows = [
        {"case_id": case.case_id, "dice": dice(embedder.segment(case) > 0, case.load_mask() > 0)}
        for case in cases
    ]
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def _write_arrays(path, **arrays):
    """Write arrays, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def _write_json(path, content):
    """Write JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
