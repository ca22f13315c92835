"""How often are side, front or rear, upper or lower and area right? Simulated patients tell.

    python -m benchmarks.places --heads DIR/head_13.nii.gz DIR/head_14.nii.gz --n-patients 100 --seed 7

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
from tumorsim.anatomy import add_places, place_labels, region_at
from tumorsim.records.columns import PLACE_TASKS

MNI = ["mni_x_mm", "mni_y_mm", "mni_z_mm"]
THICK_MM = 4.0  # slices above it are thick; simulated voxels are 2 mm wide, or slices up to 7.5 mm
ANY = "any"
SCANS, SLICES = ("whole head", "stripped"), ("thick", "thin")
MIDDLE = np.array([0.0, -16.0, 10.0])  # MNI mm of the brain's middle


def main():
    """Print tables: each task by method and kind of scan, errors in mm, and what quality tells of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, nargs="+", required=True, help="label maps, see make_cohort")
    parser.add_argument("--n-patients", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--output", type=Path, help="CSV of one row per tumor and method")
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
            print(f"{method}: {seconds:.1f} s of one core per scan")
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
    """Return one row per tumor: kind of scan, true and found labels, error in mm, if the area is clear."""
    truth = pd.DataFrame([t.metadata for t in cohort])
    steps = np.stack(np.meshgrid(*[np.arange(-5.0, 5.1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = steps[np.linalg.norm(steps, axis=1) <= 5]
    clear = [len(np.unique(region_at(ball + center))) == 1 for center in truth[MNI].to_numpy()]
    table = pd.DataFrame(
        {
            "tumor_id": cohort.tumor_ids,
            "patient": [int(p.removeprefix("sim-")) for p in cohort.patient_ids],
            "anatomy": truth["anatomy"],
            "scan": np.where(truth["whole_head"], *SCANS),
            "slices": np.where([t.case.spacing.max() > THICK_MM for t in cohort], *SLICES),
            "clear": clear,
            "error_mm": np.linalg.norm(found[MNI].to_numpy() - truth[MNI].to_numpy(), axis=1),
            "quality": found.get("place_quality", np.nan),
            "spread_mm": found.get("place_spread_mm", np.nan),
        }
    )
    for column in MNI:
        table[f"off_{column[4:]}"] = found[column].to_numpy() - truth[column].to_numpy()
    for task in PLACE_TASKS:
        table[f"true_{task}"] = cohort.labels[task].to_numpy()
        table[task] = found[task].to_numpy()
    return table


def report(table):
    """Print what `compare` found, by method and kind of scan; then what quality and spread tell of errors."""
    kinds = [(scan, slices) for scan in (ANY, *SCANS) for slices in (ANY, *SLICES)]
    rows = []
    for method, part in table.groupby("method", sort=False):
        for scan, slices in kinds:
            chosen = part[(scan == ANY) | (part["scan"] == scan)]
            chosen = chosen[(slices == ANY) | (chosen["slices"] == slices)]
            rows.append({"method": method, "scan": scan, "slices": slices} | scores(chosen))
    print(pd.DataFrame(rows).to_string(index=False))
    registered = table[table["method"] == "registration"]
    worst = registered.nlargest(8, "error_mm")
    shown = ["tumor_id", "anatomy", "scan", "slices", "error_mm", "quality", "spread_mm"]
    print(worst[shown].round(2).to_string(index=False))
    report_quality(registered)


def scores(part):
    """Return right labels of some tumors as counts with exact 95 % intervals, and errors in mm."""
    row = {"tumors": len(part)}
    sided = part[part["true_hemisphere"].notna()]
    given = sided[sided["hemisphere"].notna()]
    row["side"] = share(given["hemisphere"] == given["true_hemisphere"])
    row["side given"] = share(sided["hemisphere"].notna())
    for task in ("front_rear", "upper_lower", "region"):
        row[task] = share(part[task] == part[f"true_{task}"])
    clear = part[part["clear"]]
    row["region, clear"] = share(clear["region"] == clear["true_region"])
    row["mm, median"], row["mm, 95 %"] = part["error_mm"].quantile([0.5, 0.95]).round(1)
    return row


def share(right):
    """Return a share as text: right of all, and the exact 95 % interval, tumors as if independent."""
    from scipy.stats import binomtest

    if not len(right):
        return "-"
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="exact")
    return f"{right.sum()}/{len(right)} {right.mean():.1%} ({low:.1%}-{high:.1%})"


def report_quality(table):
    """Print how quality and spread tell large errors: limits from half the patients, scored on the others.

    A limit is where the share of large errors below it, less that of small errors, is greatest.
    """
    first, spread = table["patient"] % 2 == 0, table["spread_mm"].astype(float).fillna(99.0)
    signs = {"quality": -table["quality"], "spread_mm": spread}
    signs["quality - spread_mm / 50"] = spread / 50 - table["quality"]
    rows = []
    for limit in (10.0, 15.0):
        wrong = table["error_mm"] > limit
        for name, doubt in signs.items():
            cut = best_cut(doubt[first], wrong[first])
            flagged = doubt[~first] >= cut
            rows.append(
                {
                    "error above": f"{limit:g} mm",
                    "sign": name,
                    "large here/there": f"{wrong[first].sum()}/{wrong[~first].sum()}",
                    "AUROC here": auroc(doubt[first], wrong[first]),
                    "AUROC there": auroc(doubt[~first], wrong[~first]),
                    "limit": round(-cut if name != "spread_mm" else cut, 2),
                    "large flagged there": share(flagged[wrong[~first]]),
                    "small flagged there": share(flagged[~wrong[~first]]),
                }
            )
    print(pd.DataFrame(rows).to_string(index=False))
    print(
        f"rank correlation of quality and error: {table['quality'].corr(table['error_mm'], 'spearman'):.2f}"
    )


def best_cut(doubt, wrong):
    """Return the doubt from which on most of what is wrong and least of what is right is flagged."""
    if not wrong.any():
        return np.inf
    cuts = np.unique(doubt)
    return cuts[np.argmax([(doubt[wrong] >= c).mean() - (doubt[~wrong] >= c).mean() for c in cuts])]


def auroc(doubt, wrong):
    """Return the chance that a wrong tumor is in greater doubt than a right one."""
    from sklearn.metrics import roc_auc_score

    return round(roc_auc_score(wrong, doubt), 3) if 0 < wrong.sum() < len(wrong) else np.nan


if __name__ == "__main__":
    main()
