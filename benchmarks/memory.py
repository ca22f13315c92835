"""Measure the peak memory of each command on an archive of large scans, and on a table of many tumors.

    python -m benchmarks.memory --out memory.csv

Scans are simulated at 3 mm and brought to the grid of ``--shape`` by nearest neighbors. Each command runs as
a process of its own; its peak is the resident memory that the system reports for it, and for the largest of
the processes that it waited for (POSIX only). The table of ``--rows`` tumors is drawn at random.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    """Make the archive, run the commands, print and write what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="512,512,120")
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape = [int(n) for n in args.shape.split(",")]
        # in a process of their own: the system counts the peak of the parent as a command's, too
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(make_archive, (Path(folder), shape, args.scans))
            pool.apply(make_table, (Path(folder) / "large.npz", args.rows))
        rows = [peak(line.split(), folder) for line in COMMANDS]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


COMMANDS = (
    "manifest scans.csv -o archive.csv",
    "check archive.csv",
    "embed archive.csv -o small.npz",
    "index build small.npz -o small",
    "query small scan0.nii.gz --mask mask0.nii.gz --report answer.html",
    "query small scan0.nii.gz",
    "query small scans.csv --report sheets",
    "segment scan0.nii.gz -o proposed.nii.gz",
    "places archive.csv -o placed.csv",
    "index build large.npz -o large",
    "query large scan0.nii.gz --mask mask0.nii.gz",
    "evaluate small.npz",
)


def make_archive(folder, shape, n_scans):
    """Write scans, masks and a table of them."""
    import nibabel as nib
    import numpy as np
    import pandas as pd

    from tumorsim import make_cohort

    cohort = make_cohort(n_scans, random_state=0, spacing=3.0)
    rows = []
    for number, case in enumerate(cohort.cases):
        grid = np.ix_(*(np.arange(n) * m // n for n, m in zip(shape, case.shape, strict=True)))
        affine = case.affine @ np.diag([m / n for n, m in zip(shape, case.shape, strict=True)] + [1])
        for name, array in (("scan", case.load_image()), ("mask", case.load_mask())):
            kind = np.int16 if name == "scan" else np.uint8
            scale = 1000 / max(float(np.max(array)), 1) if name == "scan" else 1
            image = nib.Nifti1Image((array * scale).astype(kind)[grid], affine)
            nib.save(image, folder / f"{name}{number}.nii.gz")
        row = {"patient_id": f"p{number}", "case_id": f"c{number}", "image": f"scan{number}.nii.gz"}
        rows.append(
            row | {"mask": f"mask{number}.nii.gz", "label_type": ("glioma", "meningioma")[number % 2]}
        )
    pd.DataFrame(rows).to_csv(folder / "scans.csv", index=False)


def make_table(path, n):
    """Write embeddings of `n` tumors that the shipped weights could have made."""
    import numpy as np

    from tumorsim import TumorEmbedder
    from tumorsim.io import save_embeddings

    space, rng = TumorEmbedder.from_pretrained().space_, np.random.default_rng(0)
    columns = {
        "tumor_id": [f"t{i}" for i in range(n)],
        "patient_id": [f"p{i}" for i in rng.integers(max(1, n // 3), size=n)],
        "label_type": rng.choice(["glioma", "meningioma"], n).tolist(),
        "volume_mm3": rng.lognormal(8, 1, n).tolist(),
    }
    X = np.abs(rng.standard_normal((n, space.n_features or len(space.scale)))).astype(np.float32)
    save_embeddings(path, X, columns, space.to_dict())


def peak(words, folder):
    """Run a command and return its seconds, peak in MB and exit code."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tumorsim", *words], cwd=folder, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code:
        print(errors[-500:], file=sys.stderr)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    row = {"command": " ".join(words), "peak_mb": round(usage.ru_maxrss / unit)}
    row |= {"seconds": round(time.perf_counter() - started, 1), "exit_code": code}
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
