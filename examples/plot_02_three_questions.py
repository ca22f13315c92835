"""
Three questions about one tumor
===============================

"Which tumors are like this one?" has more than one answer. An *aspect* says which similarity counts: type,
place or size. Here one query is searched by each of the three, with three answers.
"""

# %%
# An archive, embedded once
# -------------------------
# Forty simulated patients; the last one plays the new one. Questions are asked of the index: the network runs
# once a scan, whatever is asked afterwards.
import matplotlib.pyplot as plt
import pandas as pd

from tumorsim import TumorEmbedder, TumorIndex, make_cohort
from tumorsim.answers import describe_aspects
from tumorsim.plotting import plot_neighbors

cohort = make_cohort(40, random_state=11, spacing=3.0)
embedder = TumorEmbedder.from_pretrained()
X = embedder.transform(cohort)
new = [i for i, patient in enumerate(cohort.patient_ids) if patient == cohort.patient_ids[-1]][:1]
archive = [i for i, patient in enumerate(cohort.patient_ids) if patient != cohort.patient_ids[-1]]
index = TumorIndex().fit(X[archive], metadata=cohort[archive].table, space=embedder.space_)
query = cohort[new]
columns = ["label_type", "label_region", "label_hemisphere", "volume_mm3"]
print(query.table[columns].T)

# %%
# Ask
# ---
# ``place`` joins the tasks hemisphere, front/rear, upper/lower and region; ``size`` is measured on mask or
# box. What the network infers is asked for, not the label: for labels there is ``where``.
questions = {"the same type": {"type": 1}, "the same place": {"place": 1}, "the same size": {"size": 1}}
answers = {
    question: index.search(
        X[new], 3, query_metadata=query.table, space=embedder.space_, exclude="same_patient", aspects=aspects
    )
    for question, aspects in questions.items()
}

# %%
# Three answers
# -------------
# The last column says how near each neighbor is in every aspect, whatever it was found by: nearer than that
# share of random pairs of the archive.
for question, answer in answers.items():
    table = answer[["rank", *columns]].assign(nearer=answer.apply(describe_aspects, axis=1))
    print(f"\nOf {question}:\n{table.round(0).to_string(index=False)}")

# %%
# The pictures
# ------------
by_id = {tumor.tumor_id: tumor for tumor in cohort}
for question, answer in answers.items():
    axes = plot_neighbors(query[0], [by_id[i] for i in answer["tumor_id"]], answer["distance"])
    axes[0, 0].figure.suptitle(f"Of {question}")

# %%
# Weights mix the questions: place twice as important as type, size a little. The three answers have little in
# common; the mixture lies between them.
mixed = index.search(
    X[new], 3, query_metadata=query.table, space=embedder.space_, exclude="same_patient",
    aspects={"type": 1, "place": 2, "size": 0.5},
)  # fmt: skip
found = {question: set(answer["tumor_id"]) for question, answer in (answers | {"mixed": mixed}).items()}
print(pd.DataFrame({a: {b: len(found[a] & found[b]) for b in found} for a in found}))
plt.show()
