"""How well lesions of two dates are matched, and how far measured growth is from the truth.

Run: ``python tests/match_visits.py --out matching.jsonl``; a run that was stopped goes on.
One line per simulated patient goes to the file; the tables are printed. Ten to thirty seconds per patient.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from visits import make_visits

from tumorsim import match_dates

NEAR_MM = 15.0  # within which nearest centers are taken for one lesion
MOST_CUT = 0.05  # share of a lesion; more makes its growth unknowable
METHODS = ("match_dates", "nearest_center", "overlap")


def patient_row(seed, spacing):
    """Return pairs right, wrong and missed by each method, and growth of each true pair, of one patient."""
    visits = list(make_visits(1, random_state=seed, spacing=spacing))
    before, after = ([t for t in visits if t.metadata["visit"] == visit] for visit in (1, 2))
    table = match_dates(before, after)
    parts = {t.tumor_id: set(t.metadata["lesions"].split("+")) for t in visits}
    true = {
        (i, j)
        for i, b in enumerate(before)
        for j, a in enumerate(after)
        if parts[b.tumor_id] & parts[a.tumor_id]
    }
    rows = {t.tumor_id: n for side in (before, after) for n, t in enumerate(side)}
    found = {
        (rows[b], rows[a])
        for row in table.itertuples()
        for b in row.tumors_before.split(";")
        for a in row.tumors_after.split(";")
        if b and a
    }
    points = [points_of(before), points_of(after)]
    to_after = np.array(table.attrs["to_after"])
    points[0] = [p @ to_after[:3, :3].T + to_after[:3, 3] for p in points[0]]
    others = {
        "match_dates": found,
        "nearest_center": nearest(*points),
        "overlap": overlapping(*points, after[0].case),
    }
    result = {"seed": seed, "quality": float(table["registration_quality"].iloc[0]), "n_true": len(true)}
    result["slice_mm"] = float(max(before[0].case.spacing.max(), after[0].case.spacing.max()))
    result["lesions"] = [len(before), len(after)]
    result["pairs"] = {n: [len(true & p), len(p - true), len(true - p)] for n, p in others.items()}
    volume = {t.tumor_id: t.metadata["true_volume_mm3"] for t in visits}
    cut = {t.tumor_id: t.metadata["stripped_share"] for t in visits}
    result["growth"] = [
        [
            row.growth_percent,
            row.growth_error_percent,
            100 * (volume[row.tumors_after] / volume[row.tumors_before] - 1),
            volume[row.tumors_before],
            max(cut[row.tumors_before], cut[row.tumors_after]),
        ]
        for row in table.itertuples()
        if row.status == "same" and parts[row.tumors_before] == parts[row.tumors_after]
    ]
    return result


def points_of(tumors):
    """Return voxel centers of each tumor in mm of its scan."""
    mask, affine = tumors[0].case.load_mask(), tumors[0].case.affine
    return [(np.argwhere(t.select(mask)) + t.bbox[0]) @ affine[:3, :3].T + affine[:3, 3] for t in tumors]


def nearest(before, after):
    """Return pairs whose centers are each other's nearest, within `NEAR_MM`."""
    apart = np.array([[np.linalg.norm(b.mean(0) - a.mean(0)) for a in after] for b in before])
    return {
        (i, j)
        for i, j in np.ndindex(apart.shape)
        if apart[i, j] <= NEAR_MM and apart[i].argmin() == j and apart[:, j].argmin() == i
    }


def overlapping(before, after, case):
    """Return pairs that share a voxel of the later scan."""
    to_voxel = np.linalg.inv(case.affine)

    def voxels(points):
        return set(map(tuple, np.round(points @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int).tolist()))

    old, new = [voxels(p) for p in before], [voxels(p) for p in after]
    return {(i, j) for i, one in enumerate(old) for j, other in enumerate(new) if one & other}


def pair_table(rows, n_draws=2000):
    """Return F1, precision and recall of pairs by method, with 95 % intervals of F1 by patient."""
    rng, table = np.random.default_rng(0), []
    for name in METHODS:
        counts = np.array([row["pairs"][name] for row in rows])
        draws = counts[rng.integers(len(counts), size=(n_draws, len(counts)))].sum(axis=1)
        low, high = np.percentile(
            2 * draws[:, 0] / (2 * draws[:, 0] + draws[:, 1] + draws[:, 2]), (2.5, 97.5)
        )
        right, wrong, missed = counts.sum(axis=0)
        table.append(
            {"method": name, "F1": 2 * right / (2 * right + wrong + missed), "low": low, "high": high}
            | {
                "precision": right / (right + wrong),
                "recall": right / (right + missed),
                "pairs": right + missed,
            }
        )
    return pd.DataFrame(table)


def growth_table(rows):
    """Return the error of measured growth by size and slice thickness, and how often 1.96 errors cover it.

    Lesions of which skull stripping took more than `MOST_CUT` at a date have a row of their own.
    """
    frame = pd.DataFrame(
        [[row["slice_mm"], *values] for row in rows for values in row["growth"]],
        columns=["slice_mm", "growth", "error", "true", "volume", "cut"],
    )
    ball = np.cbrt(6 * frame["volume"] / np.pi)
    frame["diameter"] = pd.cut(ball, [0, 6, 10, 20, 100], labels=["< 6 mm", "6-10 mm", "10-20 mm", "> 20 mm"])
    frame["slices"] = pd.cut(frame["slice_mm"], [0, 2.01, 4, 9], labels=["2 mm", "2-4 mm", "> 4 mm"])
    frame["slices"] = frame["slices"].astype(str).where(frame["cut"] <= MOST_CUT, "any, cut by stripping")
    frame["off"] = (frame["growth"] - frame["true"]).abs()
    frame["covered"] = frame["off"] <= 1.96 * frame["error"]
    groups = frame.groupby(["diameter", "slices"], observed=True)
    return groups.agg(
        n=("off", "size"), median_error=("off", "median"), covered=("covered", "mean")
    ).reset_index()


def main():
    """Simulate and match patients that the file lacks, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-patients", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first patient")
    parser.add_argument("--spacing", type=float, default=2.0)
    options = parser.parse_args()
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    rows = {row["seed"]: row for row in map(json.loads, lines)}
    for seed in (s for s in range(options.first, options.first + options.n_patients) if s not in rows):
        rows[seed] = patient_row(seed, options.spacing)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[seed]) + "\n")
    print(pair_table(list(rows.values())).round(3).to_string(index=False))
    print(growth_table(list(rows.values())).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
