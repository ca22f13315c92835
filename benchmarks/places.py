"""How often are side, front or rear, upper or lower and area right? Simulated patients tell.

    python benchmarks/places.py --heads DIR/head_13.nii.gz DIR/head_14.nii.gz --n-patients 100 --seed 7

Poses, fields of view, slices and contrasts are those of `make_cohort`. Areas count where the ball of 5 mm
round the true centroid lies in one of them. Beside the registration: header and outline only, and the scan's
own millimetres about the middle of its field of view, which is what one has without any template.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim import Cohort, Tumor, make_cohort
from tumorsim.anatomy import PLACE_TASKS, add_places, place_labels, region_at

MNI = ["mni_x_mm", "mni_y_mm", "mni_z_mm"]
THICK_MM = 4.0
MIDDLE = np.array([0.0, -16.0, 10.0])  # MNI mm of the brain's middle


def main():
    """Print tables: each task by method and kind of scan, errors in mm, and errors by quality."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="label maps, see make_cohort")
    parser.add_argument("--n-patients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="CSV of a row a tumor and method")
    args = parser.parse_args()
    cohort = make_cohort(
        args.n_patients, random_state=args.seed, spacing=args.spacing, anatomies=args.heads,
        n_jobs=args.n_jobs, progress=True,
    )  # fmt: skip
    bare = Cohort(Tumor(t.case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value) for t in cohort)
    parts = []
    for method in ("registration", "header"):
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of doubtful scans: they are counted below
            placed = add_places(bare, method=method, n_jobs=args.n_jobs, min_quality=0, progress=True)
        if args.n_jobs == 1:
            seconds = (time.process_time() - started) / len(cohort.cases)
            print(f"{method}: {seconds:.1f} s of one core a scan")
        found = pd.DataFrame([t.labels | t.metadata for t in placed])
        parts.append(compare(cohort, found).assign(method=method))
    parts.append(compare(cohort, own_millimetres(cohort)).assign(method="none"))
    table = pd.concat(parts, ignore_index=True)
    if args.output is not None:
        table.to_csv(args.output, index=False)
    report(table)


def own_millimetres(cohort):
    """Return labels from the scan's own mm about the middle of its field of view, no template involved."""
    rows = []
    for tumor in cohort:
        affine, middle = tumor.case.affine, (np.array(tumor.case.shape) - 1) / 2
        measures = tumor.measure()
        center = np.array([measures[f"{a}_mm"] for a in "xyz"]) - (affine[:3, :3] @ middle + affine[:3, 3])
        center = center + MIDDLE
        rows.append(place_labels(center) | dict(zip(MNI, center, strict=True)))
    return pd.DataFrame(rows)


def compare(cohort, found):
    """Return a row a tumor: kind of scan, true and found labels, error in mm, and if its area is clear."""
    truth = pd.DataFrame([t.metadata for t in cohort])
    steps = np.stack(np.meshgrid(*[np.arange(-5.0, 5.1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = steps[np.linalg.norm(steps, axis=1) <= 5]
    clear = [len(np.unique(region_at(ball + center))) == 1 for center in truth[MNI].to_numpy()]
    table = pd.DataFrame(
        {
            "tumor_id": cohort.tumor_ids,
            "anatomy": truth["anatomy"],
            "scan": np.where(truth["whole_head"], "whole head", "stripped"),
            "slices": np.where([t.case.spacing.max() > THICK_MM for t in cohort], "thick", "thin"),
            "clear": clear,
            "error_mm": np.linalg.norm(found[MNI].to_numpy() - truth[MNI].to_numpy(), axis=1),
            "quality": found.get("place_quality", pd.Series(np.nan, found.index)),
        }
    )
    for column in MNI:
        table[f"off_{column[4:]}"] = found[column].to_numpy() - truth[column].to_numpy()
    for task in PLACE_TASKS:
        table[f"true_{task}"] = cohort.labels[task].to_numpy()
        table[task] = found[task].to_numpy()
    return table


def report(table):
    """Print what `compare` found, by method and kind of scan."""
    rows = []
    kinds = [
        ("all", slice(None)),
        ("scan", "whole head"),
        ("scan", "stripped"),
        ("slices", "thick"),
        ("slices", "thin"),
    ]
    for method, part in table.groupby("method", sort=False):
        for column, kind in kinds:
            chosen = part if column == "all" else part[part[column] == kind]
            rows.append({"method": method, "scans": column if column == "all" else kind} | scores(chosen))
    print(pd.DataFrame(rows).to_string(index=False))
    measured = table[table["quality"].notna()]
    bins = pd.cut(measured["quality"], [-0.01, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0])
    error = measured.groupby([measured["method"], bins], observed=True)["error_mm"]
    print(error.agg(["size", "median", lambda e: e.quantile(0.95), "max"]).round(1).to_string())
    worst = table[table["method"] == "registration"].nlargest(8, "error_mm")
    print(
        worst[["tumor_id", "anatomy", "scan", "slices", "error_mm", "quality"]]
        .round(2)
        .to_string(index=False)
    )


def scores(part):
    """Return shares of right labels, and errors in mm, of some tumors."""
    row = {"tumors": len(part)}
    sided = part[part["true_hemisphere"].notna()]
    given = sided[sided["hemisphere"].notna()]
    row["side right"] = share(given["hemisphere"] == given["true_hemisphere"])
    row["side given"] = share(sided["hemisphere"].notna())
    for task in ("front_rear", "upper_lower", "region"):
        row[task] = share(part[task] == part[f"true_{task}"])
    clear = part[part["clear"]]
    row["clear areas"] = len(clear)
    row["area, clear"] = share(clear["region"] == clear["true_region"])
    row["mm, median"], row["mm, 95 %"] = part["error_mm"].quantile([0.5, 0.95]).round(1)
    return row


def share(right):
    """Return a share in percent to one decimal."""
    return round(100 * float(np.mean(right)), 1) if len(right) else np.nan


if __name__ == "__main__":
    main()
