"""False alarms of `tumorsim check`: on simulated archives without a fault, and on real scans.

    python -m benchmarks.check --n-patients 60 --data DATA

DATA holds `real/scans.csv` and `stacks/scans.csv`, tables of scans with masks; it may be left out.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import pandas as pd

from tumorsim import make_cohort
from tumorsim.checks import check_archive
from tumorsim.manifest import build_manifest


def report(name, manifest):
    """Print how many scans have findings, and which."""
    scans = pd.read_csv(manifest, dtype=str)["case_id"].nunique()
    start = time.perf_counter()
    findings = check_archive(manifest)
    seconds = time.perf_counter() - start
    print(f"{name}: {scans} scans, {len(findings)} findings, {seconds / scans:.2f} s a scan")
    columns = ["severity", "check", "case_id", "problem"]
    if len(findings):
        print(findings[columns].to_string(index=False, max_colwidth=None))


def main():
    """Run on what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-patients", type=int, default=60)
    parser.add_argument("--random-state", type=int, default=100)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_cohort(args.n_patients, random_state=args.random_state, spacing=3.0, output_dir=folder)
        report("simulated", folder / "manifest.csv")
        for source in ("real", "stacks") if args.data else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scans without a mask, and small lesions
                build_manifest(args.data / source / "scans.csv", folder / f"{source}.csv", skip_bad=True)
            report(source, folder / f"{source}.csv")


if __name__ == "__main__":
    main()
