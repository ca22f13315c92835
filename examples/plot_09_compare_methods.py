"""
Compare two methods on the same patients
========================================

An archive is queried with held-out patients, once by embeddings and once by size and place alone. Both
methods are scored on the same resamples of patients, so that their difference has an interval of its own.
"""

# %%
# An archive, and held-out queries
# --------------------------------
import matplotlib.pyplot as plt
import numpy as np

from tumorsim import TumorEmbedder, make_cohort
from tumorsim.evaluation import compare_knn, split_patients

cohort = make_cohort(24, random_state=3, spacing=4.0)
archive, queries = (cohort[rows] for rows in split_patients(cohort.patient_ids, test_share=0.4))

# %%
# One protocol for both methods
# -----------------------------
embedder = TumorEmbedder.from_pretrained()


def network(tumors):
    """Return embeddings in the coordinates in which an index measures distances."""
    return embedder.space_.coordinates(embedder.transform(tumors))


def size_and_place(tumors):
    """Return log2 of the diameter, and the centroid in units of 20 mm."""
    place = tumors.table[["x_mm", "y_mm", "z_mm"]].to_numpy() / 20
    return np.column_stack([np.log2(tumors.table["diameter_mm"]), place])


methods = (network, size_and_place)
X, query_X = ([method(tumors) for method in methods] for tumors in (archive, queries))
found = compare_knn(
    *X, archive.table, query_X=query_X[0], other_query_X=query_X[1], query_table=queries.table
)
found = found[found["metric"] != "r2"].set_index("task")

# %%
# Differences on the same resamples
# ---------------------------------
# Positive: the pretrained network is better. A tie is an interval that holds 0.
shown = found.loc[["type", "front_rear", "upper_lower", "log_volume"]]
low, high = shown["difference"] - shown["ci_low"], shown["ci_high"] - shown["difference"]
_, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
ax.errorbar(shown["difference"], range(len(shown)), xerr=[low, high], fmt="o")
ax.axvline(0, color="0.6", ls=":")
ax.set_yticks(range(len(shown)), [f"{task} ({row.metric})" for task, row in shown.iterrows()])
ax.set_xlabel("network − size and place, with 95 % intervals")
plt.show()
print(found[["metric", "value", "other", "chance", "difference", "outcome"]].round(2))

# %%
# A limit: with ten patients as queries, nearly everything is a tie; such a sample can say no more. The
# lab in the repository (``python -m benchmarks.paper``) does the same with a hundred, and with networks
# trained for it.
