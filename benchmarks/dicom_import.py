"""Peak memory and time of importing DICOM, one scan against many: python -m benchmarks.dicom_import."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

IMPORT = """
import resource, sys
from tumorsim.manifest import import_dicom
cohort, _ = import_dicom(sys.argv[1], sys.argv[2])
print(len(cohort.cases), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main():
    """Write scans, then import one of them, and all, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=50)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    import dicoms

    shape = (options.size, options.size, options.slices)
    image = (np.indices(shape, sparse=True)[0] + np.indices(shape, sparse=True)[2]).astype(np.uint16)
    image = np.broadcast_to(image, shape)
    print(f"one scan: {shape}, {np.prod(shape) * 2 / 2**20:.0f} MiB")
    corner = np.array([(60, 60, 20), (70, 60, 20), (70, 70, 20), (60, 70, 20)], float)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i in range(options.scans):
            scan = folder / "dicom" / str(i)
            paths = dicoms.write_series(scan / "t1c", image, np.eye(4), patient_id=f"p{i}")
            contours = [corner + np.array([0, 0, z]) for z in range(10)]
            dicoms.write_rtstruct(scan / "plan", {"GTV": contours}, paths)
        for source in (folder / "dicom" / "0", folder / "dicom"):
            start = time.perf_counter()
            command = [sys.executable, "-c", IMPORT, str(source), str(folder / "out" / "archive.csv")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            n_scans, peak = done.stdout.split()
            print(f"{n_scans:>4} scans: peak {float(peak):.0f} MiB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
