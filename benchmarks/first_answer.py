"""How long the local page takes from a scan that is dropped to its answer sheet, in seconds of the clock.

    python -m benchmarks.first_answer --repeats 3

Each repeat starts `tumorsim serve` anew, on an index of the package's real example stacks, sends a scan of
240 x 240 x 155 voxels at 1 mm with its mask, asks for five neighbors, and gets the sheet: the first answer of
a server is the slowest. What the browser takes to draw it is not in it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import requests

from benchmarks.speed import SCANS, make_scan
from tumorsim import load_dataset

TOKEN = "0123456789-abcdef"


def main():
    """Build the index, measure, print a line a repeat."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        for _ in range(args.repeats):
            print("  ".join(f"{step} {seconds:.1f} s" for step, seconds in measure(folder).items()))


def build(folder):
    """Write an index of the example stacks, and a scan with its mask."""
    from tumorsim import TumorEmbedder, TumorIndex
    from tumorsim.io import save_nifti

    archive, embedder = load_dataset("examples"), TumorEmbedder.from_pretrained()
    X = embedder.transform(archive)
    TumorIndex().fit(X, metadata=archive.table, space=embedder.space_).save(folder / "index")
    tumors = make_scan(folder / "scan.nii.gz", *SCANS["1 mm, 1 tumor"])
    save_nifti(folder / "mask.nii.gz", *tumors[0].case.mask)


def measure(folder):
    """Return step → seconds of one server's first answer."""
    command = [sys.executable, "-m", "tumorsim", "serve", folder / "index", "--no-browser", "--port", "0"]
    environment = os.environ | {"TUMORSIM_TOKEN": TOKEN}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        link = next(found for line in server.stdout if (found := re.search(r"http://[^/\s]+", line)))[0]
        call = requests.Session()
        call.headers["Authorization"] = f"Bearer {TOKEN}"
        times = [time.perf_counter()]
        files = {name: (folder / f"{part}.nii.gz").open("rb") for name, part in NAMES.items()}
        scan = call.post(f"{link}/scans", files=files)
        times.append(time.perf_counter())
        answer = call.post(f"{link}/queries", json={"scan": scan.json()["id"]})
        times.append(time.perf_counter())
        call.get(f"{link}/queries/{answer.json()['id']}.html").raise_for_status()
        times.append(time.perf_counter())
    finally:
        server.terminate()
        server.wait()
    steps = [after - before for before, after in pairwise(times)]
    return dict(zip(("scan", "answer", "sheet"), steps, strict=True)) | {"together": sum(steps)}


NAMES = {"files": "scan", "mask": "mask"}  # field of the form → file

if __name__ == "__main__":
    main()
