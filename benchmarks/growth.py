"""How time and memory grow with the size of a scan, its tumors, the number of scans, and the network's width.

    python -m benchmarks.growth --out growth

Each point runs in a process of its own, on one thread: CPU seconds from files to embeddings, without imports,
and its peak memory. The slope is that of the logarithm of seconds: 1 is linear, less is cheaper.
Writes ``growth.csv`` and ``growth.png``.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

SIZE = 120  # voxels a side of 240 mm, where the size is not varied
POINTS = {  # what grows → values
    "voxels a side": (60, 90, 120, 180, 240, 300),
    "tumors a scan": (1, 3, 10, 30, 100),
    "scans": (1, 10, 100, 300),
    "channels": (12, 24, 48, 96),
    "tumors in the index": (1_000, 10_000, 100_000, 1_000_000),
}


def main():
    """Measure every point, print the table and the slopes, and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=list(POINTS), choices=POINTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.only:
        for value in POINTS[name]:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, mb = pool.apply(measure, (name, value))
            rows.append({"grows": name, "value": value, "cpu_s": seconds, "peak_mb": mb})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "growth.csv", index=False)
    slopes = {name: slope(part) for name, part in table.groupby("grows", sort=False)}
    print(pd.Series(slopes, name="slope of the last half").round(2).to_string())
    draw(table, slopes, args.out / "growth.png")


def slope(part):
    """Return d log(seconds) / d log(value) between the last two points, where constants matter least."""
    last = np.log(part[["value", "cpu_s"]].to_numpy(dtype=float)[-2:])
    return (last[1, 1] - last[0, 1]) / (last[1, 0] - last[0, 0])


def measure(name, value):
    """Return CPU seconds and peak MB of one point, in this process."""
    import torch

    torch.set_num_threads(1)
    if name == "tumors in the index":
        return timed(search(value))
    given = {"voxels a side": SIZE, "tumors a scan": 1, "scans": 1, "channels": 48} | {name: value}
    with tempfile.TemporaryDirectory() as folder:
        return timed(embedding(Path(folder), *given.values()))


def timed(run):
    """Return the least CPU seconds of three runs (of one if it is long), and the process's peak MB."""
    times = []
    while len(times) < 3 and sum(times) < 20:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def embedding(folder, side, n_tumors, n_scans, n_channels):
    """Return a function that embeds small tumors of scans of `side` voxels and 240 mm a side."""
    from benchmarks.speed import make_scan
    from tumorsim import Case, Cohort, Tumor, TumorEmbedder

    cohort = make_scan(folder / "scan.nii.gz", (side,) * 3, (240 / side,) * 3, (22,))
    embedder = TumorEmbedder(n_channels=n_channels, device="cpu").initialize(cohort)
    rng, width = np.random.default_rng(0), max(1, side // 20)  # of boxes of 12 mm
    tumors = []
    for i in range(n_scans):
        case = Case(cohort[0].case.image, case_id=f"{i}", patient_id=f"{i}")
        for k, start in enumerate(rng.integers(side // 4, 3 * side // 4 - width, size=(n_tumors, 3))):
            tumors.append(Tumor(case, [start, start + width], tumor_id=f"{i}/{k}"))
    return lambda: embedder.transform(Cohort(tumors))


def search(n_tumors):
    """Return a function that searches ten neighbors of a query among `n_tumors`, after a first search."""
    from tumorsim import TumorIndex

    X = np.random.default_rng(0).normal(size=(n_tumors, 48)).astype(np.float32)
    index = TumorIndex().fit(X, metadata={"patient_id": [f"{i}" for i in range(n_tumors)]})
    index.search(X[:1], 10)
    return lambda: index.search(X[:1] + 0.1, 10)


def draw(table, slopes, path):
    """Draw seconds and memory against what grows, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(3 * len(slopes), 5.5), layout="constrained")
    axes = figure.subplots(2, len(slopes), squeeze=False)
    for (name, part), (above, below) in zip(table.groupby("grows", sort=False), axes.T, strict=True):
        for axis, column, label in ((above, "cpu_s", "CPU s"), (below, "peak_mb", "peak MB")):
            axis.loglog(part["value"], part[column], "o-", color="C0")
            axis.set_ylim(part[column].min() / 2, part[column].max() * 2)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticks(part["value"], [f"{value:,}" for value in part["value"]], rotation=60)
            for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                which(FuncFormatter(lambda y, _: f"{y:g}" if f"{y:.0e}"[0] in "125" else ""))
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
        above.set_title(f"slope {slopes[name]:.2f}")
        below.set_xlabel(name)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
