"""
Make an archive of your own scans
=================================

A table with one row per scan becomes a manifest with one row per tumor. Here the scans are simulated and
written to a folder first; yours are there already.
"""

# %%
# A folder of scans, and a table of them
# --------------------------------------
# Labels are optional, and any further columns are carried along.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from tumorsim import load_cohort, make_cohort
from tumorsim.manifest import build_manifest
from tumorsim.plotting import plot_cohort

folder = Path(tempfile.mkdtemp())
make_cohort(12, random_state=5, spacing=3.0, output_dir=folder / "scans")
simulated = pd.read_csv(folder / "scans" / "manifest.csv")
scans = simulated.drop_duplicates("case_id")[["patient_id", "case_id", "image", "mask", "label_type"]]
scans = scans.assign(visit="2024-05")
scans.to_csv(folder / "scans" / "scans.csv", index=False)
print(scans.head(3).to_string(index=False))

# %%
# A manifest: one row per tumor
# -----------------------------
# Lesions are components of the mask; ``tumorsim manifest scans.csv -o archive.csv`` does the same. Bad scans
# would be listed here, all at once, with the remedy.
build_manifest(folder / "scans" / "scans.csv", folder / "archive.csv", by_value=True)
archive = load_cohort(folder / "archive.csv")
print(archive)
print(archive.table[["tumor_id", "label_type", "volume_mm3", "diameter_mm", "visit"]].head().to_string())

# %%
# What is in it
# -------------
print(archive.summary().to_string())
plot_cohort(archive, figure=plt.figure(figsize=(9, 3.8), layout="constrained"))
plt.show()

# %%
# A limit: what the mask does not hold is not in the archive. Look at a few tumors before going on:
archive[0]
