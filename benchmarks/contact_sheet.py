"""Simulated scans beside real ones, for the eye.

    python -m benchmarks.contact_sheet --heads HEADS --real SCANS.csv STACKS.csv --out sheet.png

Each scan is shown through its largest tumor, in axial view, at one intensity scale; tumor masks are outlined.
Left: simulated patients in turn from every head and the template. Right: as many scans of the tables, evenly
drawn, of patients whose licence begins with CC BY and allows it to be shown (not NC).
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tumorsim import Case, make_cohort
from tumorsim.preprocessing import Preprocessing

N_COLUMNS, N_ROWS = 4, 6
SEED = 550_000


def main():
    """Draw both halves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--real", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    n = N_COLUMNS * N_ROWS
    cohort = make_cohort(
        n, random_state=SEED, anatomies=[*sorted(args.heads.glob("*.nii.gz"))[::3], "mni152"]
    )
    types = cohort.table.drop_duplicates("case_id")["label_type"]
    pages = {
        "simulated": list(zip(types, cohort.cases, strict=True)),
        "real (CC BY)": [found for table in args.real for found in real_cases(table, n // len(args.real))],
    }
    figure, axes = plt.subplots(
        N_ROWS, 2 * N_COLUMNS + 1, figsize=(2 * N_COLUMNS * 1.7 + 0.5, N_ROWS * 2.0), facecolor="black",
        width_ratios=[1] * N_COLUMNS + [0.15] + [1] * N_COLUMNS,
    )  # fmt: skip
    for ax in axes.ravel():
        ax.axis("off")
    for (title, cases), half in zip(
        pages.items(), (axes[:, :N_COLUMNS], axes[:, N_COLUMNS + 1 :]), strict=True
    ):
        for (kind, case), ax in zip(cases, half.ravel(), strict=False):
            draw(ax, kind, case)
        half[0, 0].annotate(title, (0, 1.25), xycoords="axes fraction", color="white", fontsize=13)
    figure.savefig(args.out, dpi=75, bbox_inches="tight")


def real_cases(table, n):
    """Return type and case of `n` scans of a table, evenly drawn, that may be shown."""
    rows = pd.read_csv(table, dtype=str)
    rows = rows[rows["license"].str.match(r"CC BY(?!-NC)") & rows["mask"].notna()]
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int)]
    kinds = rows["label_type"] if "label_type" in rows else rows["type"]
    for kind, (_, row) in zip(kinds, rows.iterrows(), strict=True):
        files = table.parent / row["image"], table.parent / row["mask"]
        yield kind, Case(*files, case_id=row["case_id"], patient_id=row["patient_id"])


def draw(ax, kind, case):
    """Draw the axial slice that shows most of the tumor."""
    volume = Preprocessing(1.0).prepare_case(case, mask=case.load_mask() > 0)
    inside = volume.mask > 127
    z = int(inside.sum(axis=(0, 1)).argmax())
    ax.imshow(volume.image[:, :, z].astype(np.float32).T, origin="lower", cmap="gray", vmin=0, vmax=2.2)
    ax.contour(inside[:, :, z].T, [0.5], colors="tab:orange", linewidths=0.6)
    ax.set_title(kind.replace("_", " "), color="silver", fontsize=7, pad=2)


if __name__ == "__main__":
    main()
