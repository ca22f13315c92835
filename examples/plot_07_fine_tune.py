"""
Fine-tune on labels of your own
===============================

A label that the shipped weights do not know gets a head of its own, and training goes on from there.
"""

# %%
# An archive with one more label
# ------------------------------
# Whether a tumor is larger than 2 ml stands for whatever you know of your tumors; half of it is missing.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tumorsim import Cohort, Tumor, TumorEmbedder, make_cohort


def with_label(tumor, known):
    """Return the tumor with the label ``large``, where it is known."""
    large = "yes" if tumor.measure()["volume_mm3"] > 2000 else "no"
    labels = tumor.labels | {"large": large if known else None}
    return Tumor(tumor.case, tumor.bbox, tumor_id=tumor.tumor_id, labels=labels, mask_value=tumor.mask_value)


simulated = make_cohort(10, random_state=6, spacing=3.0)
archive = Cohort(with_label(tumor, known=i % 2 == 0) for i, tumor in enumerate(simulated))
print(archive.labels["large"].value_counts(dropna=False).to_dict())

# %%
# A few steps from the shipped weights
# ------------------------------------
# Two short epochs, so that this page is quick; the default recipe takes eight.
embedder = TumorEmbedder.from_pretrained(max_epochs=2, batches_per_epoch=4, random_state=0)
embedder.fit(archive)
print(embedder.classes_["large"], embedder.initial_weights)
losses = pd.DataFrame(embedder.history_).set_index("epoch").filter(like="loss_")
losses.div(losses.iloc[0]).plot(ylabel="training loss / loss of the first epoch", figsize=(8, 4), ylim=0)
plt.show()

# %%
# It is another model now
# -----------------------
# Its embeddings cannot be compared with those of the shipped weights, and an index refuses to.
shipped = TumorEmbedder.from_pretrained()
print(embedder.space_.fingerprint[:12], "is not", shipped.space_.fingerprint[:12])
print(np.round(embedder.transform(archive[:1])[0, :5] - shipped.transform(archive[:1])[0, :5], 2))

# %%
# A limit: eight batches teach nothing. On a small archive freeze the backbone (``freeze_backbone=True``), and
# measure on patients that were held out.
