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
import pandas as pd

from tumorsim import TumorEmbedder, make_cohort
from tumorsim.evaluation import evaluate_retrieval, paired_differences, split_patients
from tumorsim.plotting import plot_methods

cohort = make_cohort(24, random_state=3, spacing=4.0)
archive, queries = (cohort[rows] for rows in split_patients(cohort.patient_ids, test_share=0.4))

# %%
# One protocol for every method
# -----------------------------
# A patient on both sides, or a mirrored copy of a scan under another name, would be an error.
embedder = TumorEmbedder.from_pretrained()


def network(tumors):
    """Return embeddings in the coordinates in which an index measures distances."""
    return embedder.space_.coordinates(embedder.transform(tumors))


def size_and_place(tumors):
    """Return log2 of the diameter, and the centroid in units of 20 mm."""
    place = tumors.table[["x_mm", "y_mm", "z_mm"]].to_numpy() / 20
    return np.column_stack([np.log2(tumors.table["diameter_mm"]), place])


scores = {}
for name, method in {"pretrained": network, "size and place": size_and_place}.items():
    X, query_X = method(archive), method(queries)
    scores[name] = evaluate_retrieval(
        X, archive.table, query_X=query_X, query_table=queries.table, n_neighbors=5, cutoffs=5
    )

# %%
# Scores, each with its chance level
# ----------------------------------
table = pd.concat([part.table.assign(method=name) for name, part in scores.items()])
table = table[table["metric"].isin(["balanced_accuracy", "spearman"])]
levels = table.drop_duplicates("task").assign(method="chance", value=lambda rows: rows["chance"])
figure = plt.figure(figsize=(9, 2.4), layout="constrained")
plot_methods(
    pd.concat([table, levels]), tasks=["type", "front_rear", "upper_lower", "log_volume"], figure=figure
)
plt.show()

# %%
# Differences on the same resamples
# ---------------------------------
# Positive: the pretrained network is better. A tie is an interval that holds 0.
found = paired_differences(scores["pretrained"], scores["size and place"])
found = found[found["metric"].isin(["balanced_accuracy", "average_precision", "spearman"])]
print(found.drop(columns="k").round(2).to_string(index=False))

# %%
# A limit: with ten patients as queries, nearly everything is a tie; such a sample can say no more. The
# lab in the repository (``python -m benchmarks.paper``) does the same with a hundred, and with networks
# trained for it.
