"""
See whether neighbors depend on how the box was drawn
=====================================================

Another reader draws another box. How many of the five nearest tumors stay?
"""

# %%
# Draw every box again
# --------------------
# Sides are scaled by a fifth about the box's center, or the box is moved by a fifth of its sides.
import matplotlib.pyplot as plt
import numpy as np

from tumorsim import Tumor, TumorEmbedder, make_cohort
from tumorsim.evaluation import neighbors_of_other_patients
from tumorsim.metrics import neighbor_overlap_at_k

CHANGES = {"sides × 1.2": (1.2, 0.0), "sides × 0.8": (0.8, 0.0), "moved by 0.2": (1.0, 0.2)}


def redrawn(tumor, factor, move):
    """Return the tumor in another box."""
    sides = tumor.bbox[1] - tumor.bbox[0]
    middle = tumor.bbox.mean(axis=0) + move * sides
    edges = np.round([middle - factor * sides / 2, middle + factor * sides / 2])
    box = np.clip(edges, (0, 0, 0), tumor.case.shape)
    return Tumor(tumor.case, box, tumor_id=tumor.tumor_id)


archive = make_cohort(14, random_state=4, spacing=3.0)
embedder = TumorEmbedder.from_pretrained()
points = embedder.space_.coordinates(embedder.transform(archive))

# %%
# What stays
# ----------
# Every tumor is a query twice, by its own box and by the other, among the undisturbed tumors of all others.
patients, k = archive.patient_ids, 5
before = neighbors_of_other_patients(points, patients, points, patients, k)
overlap = {}
for name, change in CHANGES.items():
    again = embedder.space_.coordinates(embedder.transform([redrawn(t, *change) for t in archive]))
    after = neighbors_of_other_patients(points, patients, again, patients, k)
    overlap[name] = [neighbor_overlap_at_k(a, b, k) for a, b in zip(before, after, strict=True)]
    print(f"{name}: {np.mean(overlap[name]):.2f} of the {k} nearest stay, on average")

_, ax = plt.subplots(figsize=(8, 3.5), layout="constrained")
ax.boxplot(list(overlap.values()), tick_labels=list(overlap))
others = np.mean([(patients != patient).sum() for patient in patients])
ax.axhline(k / others, linestyle=":", color="gray", label="chance")
ax.set(ylabel=f"share of the {k} nearest that stay", ylim=(0, 1.05))
ax.legend()
plt.show()

# %%
# A limit: stable neighbors may still be wrong, and with an archive this small chance is high. There are more
# such tests, of noise, slices and field of view, in ``benchmarks/label_free``.
