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

from tumorsim import TumorEmbedder, TumorIndex, find_similar, make_cohort
from tumorsim.plotting import plot_map

cohort = make_cohort(20, random_state=9, spacing=3.0)
is_new = cohort.patient_ids == sorted(set(cohort.patient_ids))[0]
archive, query = cohort[~is_new], cohort[is_new][:1]

embedder = TumorEmbedder.from_pretrained()
X = embedder.transform(archive)
index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
answer = find_similar(embedder, index, query, n_neighbors=5)

# %%
# What can be said of them
# ------------------------
# As text; ``answer.neighbors`` and ``answer.votes`` are tables.
print(answer)

# %%
# In a notebook it shows the axial row, and how near each neighbor is in type, place, size and look.
answer  # noqa: B018

# %%
# The sheet
# ---------
# ``tumorsim query … --report answer.html`` does the same.
path = answer.save_html(Path(tempfile.mkdtemp()) / "answer.html", archive=archive)
print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

# %%
# The archive's map
# -----------------
# By the distance of the answer, which joins type, place, size and look.
rows = [archive.tumor_ids.tolist().index(tumor_id) for tumor_id in answer.neighbors["tumor_id"]]
_, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
plot_map(index.coordinates(aspects=answer.aspects), archive.labels["type"], highlight=rows, ax=ax)
plt.show()

# %%
# A limit: two dimensions show little of so many; what is near on the map need not be near.
