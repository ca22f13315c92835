"""
Use scikit-learn on tumors
==========================

The sample is the tumor, so scikit-learn's splitters, pipelines and scores work on a cohort. Groups keep a
patient on one side.
"""

# %%
# Tumors in, numbers out
# ----------------------
import matplotlib.pyplot as plt
import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tumorsim import TumorEmbedder, make_cohort

archive = make_cohort(18, random_state=2, spacing=3.0)
embedder = TumorEmbedder.from_pretrained()
X, y = embedder.transform(archive), archive.labels["type"].to_numpy(str)
print(X.shape, X.dtype, len(set(archive.patient_ids)), "patients")

# %%
# Which type? Held-out patients
# -----------------------------
# The embedder was fitted elsewhere, so only the classifier is cross-validated. To fit the embedder in each
# fold, too, put it into the pipeline and pass the cohort instead of ``X``.
folds = {"cv": GroupKFold(4), "groups": archive.patient_ids}
models = {
    "3 nearest": make_pipeline(StandardScaler(), KNeighborsClassifier(3)),
    "the most frequent": DummyClassifier(),
}
right = {name: cross_val_predict(model, X, y, **folds) == y for name, model in models.items()}
for name, hits in right.items():
    print(f"{name}: {hits.mean():.2f} of {len(y)} tumors right")

# %%
# Right answers by type
# ---------------------
_, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
kinds = sorted(set(y))
for i, (name, hits) in enumerate(right.items()):
    shares = [hits[y == kind].mean() for kind in kinds]
    ax.bar(np.arange(len(kinds)) + 0.4 * i, shares, width=0.38, label=name, color=("#0072B2", "#999999")[i])
ax.set_xticks(np.arange(len(kinds)) + 0.2, [kind.replace("_", " ") for kind in kinds])
ax.set(ylim=(0, 1), ylabel="share right")
ax.legend(frameon=False)
plt.show()

# %%
# A limit: accuracy counts tumors, so one patient with many metastases weighs much; ``evaluate_knn`` scores
# classes equally and gives intervals by patient.
