"""`run_benchmark`: train what is not trained yet, then work out tables, figures and the report."""

import json
import re
import time
from pathlib import Path

import pandas as pd

from benchmarks._checks import check_choice
from benchmarks.paper._data import digest, load_data, load_real
from benchmarks.paper._elsewhere import LABEL_FREE
from benchmarks.paper._label_free import LESIONS, control_table
from benchmarks.paper._methods import known_baselines
from benchmarks.paper._plan import plan_runs
from benchmarks.paper._presets import EXPERIMENTS, PRESETS
from benchmarks.paper._runs import finish_run, load_result, versions
from benchmarks.paper._scores import Bench
from tumorsim.io import atomic_path

__all__ = ["run_benchmark"]

_NO_MEMORY = r"out of memory|can't allocate memory"  # as torch says it for a GPU and for a CPU
_PATH = r" in '[^']*[/\\\\][^']*'"


def run_benchmark(
    output_dir,
    preset="small",
    *,
    anatomies=None,
    manifest=None,
    stacks=None,
    dates=None,
    only=None,
    baselines=None,
    train=True,
    split_seed=0,
    n_jobs=1,
    verbose=0,
    echo=print,
):
    """Repeat the paper's experiments, and some more, against baselines.

    Tumors are split by patient, 60/20/20: those of training patients are the gallery, those of test patients
    the queries, and the number of neighbors is chosen on validation patients. Every fit is kept in ``runs/``
    under a name that changes with all that it depends on, so a benchmark that was stopped, or is run with
    more experiments, continues where it was.

    Parameters
    ----------
    output_dir : str or Path
        Receives ``results.csv`` (one row per score: experiment, method, task, metric, k, value, ci_low,
        ci_high, n_patients, seed; seed is empty where seeds are pooled), ``results.json`` (versions,
        hardware, times), ``report.md`` and figures, and keeps ``data/``, ``runs/`` and ``cache/``.
    preset : {"smoke", "small", "paper"}, default="small"
        How large: minutes on two cores, hours on two cores, or days on a GPU.
    anatomies : str or Path, optional
        Folder of label maps of real heads for simulated patients (see `make_cohort`). Test patients are put
        into the last four, in order of names, which no network sees in training; all others into the rest
        and the template. Default: all in the template.
    manifest : str or Path, optional
        Tumors to train and test on, instead of simulated ones. A column ``split`` (train, validation, test)
        is kept to.
    stacks : str or Path, optional
        Real scans, as a scan table or a manifest, that nothing is trained on: queries and gallery by folds.
    dates : str or Path, optional
        Real scans with masks, some of one patient at two dates, as a scan table or a manifest, for the tests
        that need no labels (``label_free``); see `label_free.evaluate_other_date`. Scans without skull are
        told by a column ``stripped``, or else by the name of a public data set in the column ``dataset``.
    only : sequence of str, optional
        Experiments to run; default those of the preset.
    baselines : dict of callable, optional
        Name → callable(random_state) → estimator with ``fit(tumors)`` and ``transform(tumors)``, and perhaps
        ``metric``. Results are kept by name: another method needs another name. Default: those of
        `baselines.BASELINES` that the preset names, an untrained network of the benchmark's own size, and
        forests over the embeddings of the network of all tasks.
    train : bool, default=True
        False makes tables and figures of the runs that are there, and trains nothing.
    split_seed : int, default=0
        Seed of the split, where neither `anatomies` nor `manifest` give one.
    n_jobs : int, default=1
        Processes that simulate, threads that prepare scans.
    verbose : int, default=0
        1 shows progress of each fit.
    echo : callable, default=print
        Receives lines of text.

    Returns
    -------
    DataFrame
        What ``results.csv`` holds. A run that failed or has not finished has no rows; the report calls it
        missing.

    Raises
    ------
    ValueError
        If an argument is out of range, or a patient would be on two sides of the split.

    References
    ----------
    arXiv:1810.09369, section 3.
    """
    check_choice(preset, "preset", tuple(PRESETS))
    settings, out = PRESETS[preset], Path(output_dir)
    chosen = settings.experiments if only is None else tuple(dict.fromkeys(only))
    for name in chosen:
        check_choice(name, "only", EXPERIMENTS)
    started = time.perf_counter()
    baselines = known_baselines(settings.baselines) if baselines is None else dict(baselines)
    data = load_data(
        out / "data", settings, anatomies=anatomies, manifest=manifest, split_seed=split_seed, n_jobs=n_jobs,
        progress=bool(verbose),
    )  # fmt: skip
    for side in ("train", "validation", "test"):
        echo(f"{side}: {data.cohort[data.rows(side)]!r}")
    real = None
    if stacks is not None:
        real = _named(load_real(stacks, out / "real.csv"))
        echo(f"real scans: {real[1]!r}")
    planned = chosen
    if dates is not None:
        dates = _named(load_real(dates, out / "dates.csv", **LESIONS))
        echo(f"scans for tests without labels: {dates[1]!r}")
    elif "label_free" in chosen:
        echo("Skipping label_free: no scans were given for it (dates=, --dates).")
        planned = [name for name in chosen if name != "label_free"]
    runs = plan_runs(settings, data, experiments=planned, baselines=baselines)
    failed = {}
    if train:
        failed = _finish(runs, data, out, settings, real, dates, baselines, n_jobs, verbose, echo)
    controls = None if dates is None else (dates[0], _controls(out, dates, "label_free" in planned and train))
    return _write_results(out, preset, runs, data, settings, chosen, real, controls, failed, started, echo)


def _named(scans):
    """Return a name that depends on scans and lesions, and the scans."""
    return digest(sorted([t.tumor_id, t.bbox.tolist()] for t in scans), 8), scans


def _controls(out, dates, make):
    """Return the controls that take no method, made once; None if they are missing."""
    path = out / f"label-free-{dates[0]}.csv"
    if make and not path.exists():
        with atomic_path(path) as temporary:
            control_table(dates[1]).to_csv(temporary, index=False)
    return pd.read_csv(path) if path.exists() else None


def _finish(runs, data, out, settings, real, dates, baselines, n_jobs, verbose, echo):
    """Do all runs, each once, and return the errors of those that failed by key."""
    by_key, strengths = {}, {}
    first = [run for run in runs if run.seed == 0 or run.experiment == "label_free"]
    tested = set()  # by the tests without labels: first seeds, and controls
    if dates is not None:
        tested = {run.key for run in first if run.experiment in LABEL_FREE}
    grid = [(scale, shift) for scale in settings.scales for shift in settings.shifts]
    for run in runs:
        by_key.setdefault(run.key, run)
        if run.experiment == "table4":
            strengths[run.key] = grid
    failed = {}
    for number, (key, run) in enumerate(by_key.items(), start=1):
        done = load_result(run, out) is not None
        what = f"run {number}/{len(by_key)} ({run.experiment}: {run.method}, seed {run.seed})"
        started = time.perf_counter()
        try:
            finish_run(
                run, data, out, real=real, dates=dates if key in tested else None,
                boxes=strengths.get(key), baselines=baselines, n_jobs=n_jobs, verbose=verbose,
            )  # fmt: skip
        except Exception as err:
            if not _others_can_go_on(err):
                raise
            failed[key] = f"{type(err).__name__}: {err}"
            echo(f"{what} failed: {failed[key]}")
            continue
        echo(f"{what} {'was there' if done else 'done'}, {(time.perf_counter() - started) / 60:.1f} min")
    return failed


def _others_can_go_on(err):
    """Return whether an error is one method's own: what it cannot take, misses, or has no memory for."""
    if isinstance(err, ImportError | MemoryError | TypeError | ValueError):
        return True
    return isinstance(err, RuntimeError) and re.search(_NO_MEMORY, str(err)) is not None


def _write_results(out, preset, runs, data, settings, experiments, real, dates, failed, started, echo):
    """Score what has finished, and write CSV, JSON, figures and report; returns the rows."""
    from benchmarks.paper._experiments import tabulate
    from benchmarks.paper._figures import draw_all
    from benchmarks.paper._report import write_report

    planned, results, states = {name: [] for name in experiments}, {}, []
    for run in runs:
        if run.method not in planned[run.experiment]:
            planned[run.experiment].append(run.method)
        result = load_result(run, out)
        state = {"experiment": run.experiment, "method": run.method, "seed": run.seed, "key": run.key}
        if result is None:
            states.append(state | {"state": "failed" if run.key in failed else "missing"} | (
                {"error": failed[run.key]} if run.key in failed else {}))  # fmt: skip
            continue
        states.append(state | {"state": "finished", "seconds": result.record["seconds"]})
        results.setdefault((run.experiment, run.method), []).append(result)
    bench = Bench(data, data.cohort.table, settings.n_resamples)
    tidy = tabulate(bench, results, experiments, real=real, dates=dates, echo=echo)
    with atomic_path(out / "results.csv") as temporary:
        tidy.to_csv(temporary, index=False, float_format="%.6g")
    tidy = pd.read_csv(out / "results.csv")  # the report is what anybody can make of the CSV
    about = {
        "preset": preset, "data": data.description, "n_resamples": settings.n_resamples,
        "sides": {side: repr(data.cohort[data.rows(side)]) for side in ("train", "validation", "test")},
        "real": None if real is None else repr(real[1]),
        "left_out": {} if dates is None else _left_out(results, dates[0]),
        "runs": states, "seconds": round(time.perf_counter() - started, 1), **versions(),
    }  # fmt: skip
    with atomic_path(out / "results.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
    figures = draw_all(out, tidy, planned, results, bench)
    with atomic_path(out / "report.md") as temporary:
        temporary.write_text(write_report(tidy, planned, about, figures), encoding="utf-8")
    n_done = sum(state["state"] == "finished" for state in states)
    echo(f"{n_done} of {len(states)} cells have their run; tables and figures are in {out / 'report.md'}")
    return tidy


def _left_out(results, name):
    """Return method → test → why it cannot take it, of the tests without labels."""
    found = {}
    for (experiment, method), runs in results.items():
        table = runs[0].label_free(name) if experiment in LABEL_FREE else None
        if table is not None and (table["why"] != "").any():
            part = table[table["why"] != ""]
            why = part["why"].str.replace(_PATH, "", regex=True)  # reports are shared
            found[method] = dict(zip(part["task"], why, strict=True))
    return found
