"""
Write an answer sheet
=====================

One HTML file with scrollable pictures of the query and its neighbors, to be looked at offline.
"""

# %%
# A query and its neighbors
# -------------------------
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from tumorsim import TumorEmbedder, TumorIndex, make_cohort
from tumorsim.answers import describe_closeness, describe_vote, votes
from tumorsim.plotting import plot_map
from tumorsim.report import describe_model, save_report

cohort = make_cohort(20, random_state=9, spacing=3.0)
is_new = cohort.patient_ids == sorted(set(cohort.patient_ids))[0]
archive, query = cohort[~is_new], cohort[is_new][:1]

embedder = TumorEmbedder.from_pretrained()
X, query_X = embedder.transform(archive), embedder.transform(query)
index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
neighbors = index.search(query_X, 5, query_metadata=query.table, space=embedder.space_)

# %%
# What can be said of them
# ------------------------
counted = votes(neighbors, index.metadata_)
print(describe_closeness(neighbors))
for _, vote in counted.iterrows():
    print(describe_vote(vote))

# %%
# The sheet
# ---------
# ``tumorsim query … --report answer.html`` does the same.
path = save_report(
    Path(tempfile.mkdtemp()) / "answer.html",
    query=query,
    neighbors=neighbors,
    archive=archive,
    index=index,
    query_X=query_X,
    votes=counted,
    model_info=describe_model(embedder),
)
print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

# %%
# The archive's map
# -----------------
rows = [archive.tumor_ids.tolist().index(tumor_id) for tumor_id in neighbors["tumor_id"]]
_, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
plot_map(embedder.space_.coordinates(X), archive.labels["type"], highlight=rows, ax=ax)
plt.show()

# %%
# A limit: two dimensions show little of thirty-two; what is near on the map need not be near.
