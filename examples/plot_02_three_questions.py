"""
Ask three questions of one tumor
================================

"Similar" may mean of the same type, at the same place, or of the same size. Aspects say which: the same query
gets three different answers from one index.
"""

# %%
# An archive and a query
# ----------------------
import matplotlib.pyplot as plt
import pandas as pd

from tumorsim import TumorEmbedder, TumorIndex, find_similar, make_cohort
from tumorsim.plotting import plot_neighbors

cohort = make_cohort(16, random_state=3, spacing=3.0)
is_new = cohort.patient_ids == sorted(set(cohort.patient_ids))[0]
archive, query = cohort[~is_new], cohort[is_new][:1]

embedder = TumorEmbedder.from_pretrained()
index = TumorIndex().fit(embedder.transform(archive), metadata=archive.table, space=embedder.space_)
shown = ["label_type", "label_region", "label_hemisphere", "volume_mm3"]
print(query.table[shown].to_string(index=False))

# %%
# The same type, the same place, the same size
# --------------------------------------------
# Aspects are weights. ``type`` and ``place`` are what the network infers, ``size`` is measured.
questions = {"type": {"type": 1}, "place": {"place": 1}, "size": {"size": 1}}
answers = {
    name: find_similar(embedder, index, query, n_neighbors=3, aspects=aspects)
    for name, aspects in questions.items()
}
print(pd.concat(answers, names=["same", ""])[["tumor_id", *shown]].to_string())

# %%
# The nearest of each answer, beside the query
# --------------------------------------------
by_id = {tumor.tumor_id: tumor for tumor in archive}
nearest = [by_id[answer["tumor_id"].iloc[0]] for answer in answers.values()]
axes = plot_neighbors(query[0], nearest, figure=plt.figure(figsize=(9, 7), layout="constrained"))
for ax, name in zip(axes[0, 1:], questions, strict=True):
    ax.set_title(f"nearest by {name}", fontsize=9)
plt.show()

# %%
# A limit: type and place are inferred from the image, and the network may be wrong about both. Labels that
# are known are for ``where={"type": "meningioma"}``.
