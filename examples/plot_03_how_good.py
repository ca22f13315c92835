"""
Measure how good retrieval is
=============================

Every tumor is a query against those of all other patients, and its neighbors vote. Intervals resample
patients, and chance stands beside every score.
"""

# %%
# Embed an archive that the weights have not seen
# -----------------------------------------------
import matplotlib.pyplot as plt

from tumorsim import TumorEmbedder, evaluate_knn, make_cohort
from tumorsim.evaluation import format_knn_table
from tumorsim.plotting import plot_knn_curve

archive = make_cohort(18, random_state=11, spacing=3.0)
embedder = TumorEmbedder.from_pretrained()
X = embedder.transform(archive)

# %%
# Neighbors of other patients vote
# --------------------------------
result = evaluate_knn(X, archive.table, n_neighbors=(1, 3, 5, 10), space=embedder.space_, random_state=0)
print(format_knn_table(result))

# %%
# Retrieval against the number of neighbors
# -----------------------------------------
_, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
plot_knn_curve(result, ax=ax)
plt.show()

# %%
# A limit: eighteen simulated patients decide nothing, as the wide bands show. Scores on tumors that a model
# was trained on are too good; hold patients out instead.
