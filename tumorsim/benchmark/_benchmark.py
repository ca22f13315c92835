"""`run_benchmark`: train what is not trained yet, then work out tables, figures and the report."""

import time
from pathlib import Path

from tumorsim._validation import check_choice
from tumorsim.benchmark._data import digest, load_data, load_real
from tumorsim.benchmark._plan import plan_runs
from tumorsim.benchmark._presets import EXPERIMENTS, PRESETS
from tumorsim.benchmark._runs import finish_run, load_result

__all__ = ["run_benchmark"]


def run_benchmark(
    output_dir,
    preset="small",
    *,
    anatomies=None,
    manifest=None,
    stacks=None,
    only=None,
    baselines=None,
    split_seed=0,
    n_jobs=1,
    verbose=0,
    echo=print,
):
    """Repeat the paper's experiments, and more, against baselines.

    Every fit is kept in ``runs/`` under a name that changes with all that it depends on, so a benchmark that
    was stopped, or is asked for more, goes on where it was.
    """
    check_choice(preset, "preset", tuple(PRESETS))
    settings, out = PRESETS[preset], Path(output_dir)
    chosen = settings.experiments if only is None else tuple(only)
    for name in chosen:
        check_choice(name, "only", EXPERIMENTS)
    baselines = _known_baselines() if baselines is None else dict(baselines)
    echo(f"Benchmark '{preset}' in {out}: {', '.join(chosen)}")
    data = load_data(
        out / "data", settings, anatomies=anatomies, manifest=manifest, split_seed=split_seed, n_jobs=n_jobs,
        progress=bool(verbose),
    )  # fmt: skip
    sides = ", ".join(f"{name} {data.cohort[data.rows(name)]!r}" for name in ("train", "validation", "test"))
    echo(f"Data: {sides}")
    real = None
    if stacks is not None:
        scans = load_real(stacks, out)
        real = digest(sorted([t.tumor_id, t.bbox.tolist()] for t in scans), 8), scans
        echo(f"Real scans: {scans!r}")
    runs = plan_runs(settings, data, experiments=chosen, baselines=baselines)
    failed = _finish(runs, data, out, settings, real, baselines, n_jobs, verbose, echo)
    return failed


def _known_baselines():
    """Return the baselines that are installed: name → callable(random_state)."""
    from tumorsim import baselines

    return dict(getattr(baselines, "BASELINES", {}))


def _finish(runs, data, out, settings, real, baselines, n_jobs, verbose, echo):
    """Do all runs, each once, and return the errors of those that failed by key."""
    by_key, strengths = {}, {}
    grid = [(scale, shift) for scale in settings.scales for shift in settings.shifts]
    for run in runs:
        by_key.setdefault(run.key, run)
        if run.experiment == "table4":
            strengths[run.key] = grid
    failed = {}
    for number, (key, run) in enumerate(by_key.items(), start=1):
        done = load_result(run, out) is not None
        what = f"{number}/{len(by_key)} {run.experiment}: {run.method}, seed {run.seed} [{key}]"
        if not done:
            echo(f"{what} …")
        started = time.perf_counter()
        try:
            finish_run(
                run, data, out, real=real, boxes=strengths.get(key), baselines=baselines, n_jobs=n_jobs,
                verbose=verbose,
            )  # fmt: skip
        except (ImportError, TypeError, ValueError) as err:  # one method must not cost the others
            failed[key] = f"{type(err).__name__}: {err}"
            echo(f"{what} failed: {failed[key]}")
            continue
        echo(f"{what} {'kept' if done else 'done'}, {(time.perf_counter() - started) / 60:.1f} min")
    return failed
