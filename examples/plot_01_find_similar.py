"""
Find the tumors most like a new one
===================================

A small archive of simulated patients is embedded with the shipped weights, indexed, and asked about a new
patient's tumor. Real archives come from `tumorsim.load_cohort`; nothing else changes.
"""

# %%
# The archive and the new patient
# -------------------------------
# Twenty simulated patients; the last three play the new ones. Splits are always by patient.
import matplotlib.pyplot as plt
import numpy as np

from tumorsim import TumorEmbedder, TumorIndex, find_similar, make_cohort
from tumorsim.plotting import plot_neighbors

cohort = make_cohort(20, random_state=7, spacing=3.0)
new_patients = sorted(set(cohort.patient_ids))[-3:]
is_new = np.isin(cohort.patient_ids, new_patients)
archive, new = cohort[~is_new], cohort[is_new]
print(archive.summary())

# %%
# The shipped weights
# -------------------
# They are in the package. With masks or labels of your own, ``fit`` goes on from them (see
# ``train_archive.py``).
embedder = TumorEmbedder.from_pretrained()
print(embedder.classes_["type"])

# %%
# Index the archive, query it with the new tumors
# -----------------------------------------------
# One patient takes at most one place in an answer, however many metastases there are.
index = TumorIndex().fit(embedder.transform(archive), metadata=archive.table, space=embedder.space_)
answer = find_similar(embedder, index, new[:1], n_neighbors=4, exclude="same_patient")
print(answer.neighbors[["rank", "distance", "label_type", "label_region", "tumor_id"]])

# %%
# Look at them
# ------------
by_id = {tumor.tumor_id: tumor for tumor in archive}
found = [by_id[tumor_id] for tumor_id in answer.neighbors["tumor_id"]]
figure = plt.figure(figsize=(11, 7), layout="constrained")
plot_neighbors(new[0], found, answer.neighbors["distance"], figure=figure)
plt.show()

# %%
# A limit: near means near for this network and this archive. Where nothing in the archive is like the query,
# the nearest tumor is still returned; look at the distances, and at the pictures.
