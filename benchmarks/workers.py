"""What the processes of `tumorsim embed --workers` cost beside the work, and how much sooner they are done.

    python -m benchmarks.workers --workers 1 2 --scans 4 16

Each run is the command on scans of 240 x 240 x 155 voxels of 1 mm with a tumor each. CPU seconds are those of
the command and all of its processes; a scan's are the difference between many scans and few, which leaves out
what starting takes, over the difference of their number. They can be compared while the machine does other
things; seconds on the wall, and the efficiency (of linear), only while there is a core for each process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.speed import SCANS, make_scan
from tumorsim.io import load_image, save_nifti


def main():
    """Run the command by turns, print the table of the least of the repeats."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scans", type=int, nargs=2, default=[4, 16], metavar=("FEW", "MANY"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    few, many = args.scans
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        table = make_archive(Path(folder), many)
        for n in args.scans:
            table[:n].to_csv(Path(folder) / f"{n}.csv", index=False)
        for _ in range(args.repeats):
            for workers in args.workers:
                for n in args.scans:
                    cpu, wall = embed(Path(folder), n, workers)
                    runs.append({"workers": workers, "scans": n, "cpu_s": cpu, "wall_s": wall})
                    print(runs[-1], flush=True)
    least = pd.DataFrame(runs).groupby(["workers", "scans"]).min().unstack()
    a_scan = pd.DataFrame(
        {name: (least[name, many] - least[name, few]) / (many - few) for name in ("cpu_s", "wall_s")}
    )
    first = a_scan.iloc[0]
    a_scan["starting_cpu_s"] = least["cpu_s", few] - few * a_scan["cpu_s"]
    a_scan["cpu_over_first"] = a_scan["cpu_s"] / first["cpu_s"]
    linear = a_scan.index.to_numpy() / a_scan.index[0]
    a_scan["efficiency"] = first["wall_s"] / a_scan["wall_s"] / linear
    print(f"\nA scan's:\n{a_scan.round(3).to_string()}")


def make_archive(folder, n):
    """Write `n` scans that differ in noise, and return the manifest of their tumors."""
    tumor = make_scan(folder / "first.nii.gz", *SCANS["1 mm, 1 tumor"])[0]
    image, affine = load_image(folder / "first.nii.gz")
    box = dict(zip(("x0", "y0", "z0", "x1", "y1", "z1"), tumor.bbox.ravel().tolist(), strict=True))
    rows = []
    for i in range(n):
        noise = np.random.default_rng(i).integers(0, 3, size=image.shape)
        save_nifti(folder / f"scan{i}.nii.gz", (image + noise).astype(np.int16), affine)
        names = {"patient_id": f"p{i}", "case_id": f"c{i}", "tumor_id": f"t{i}", "image": f"scan{i}.nii.gz"}
        rows.append(names | box)
    return pd.DataFrame(rows)


def embed(folder, n, workers):
    """Return the CPU seconds of the command and its processes, and its seconds on the wall."""
    words = ["-m", "tumorsim", "embed", f"{n}.csv", "-o", "rows.npz"]
    (folder / "rows.npz").unlink(missing_ok=True)  # so that nothing of an earlier run is kept
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *words, "--workers", str(workers)], cwd=folder, check=True,
        stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, wall


if __name__ == "__main__":
    main()
