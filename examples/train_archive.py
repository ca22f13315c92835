"""
Train on your own archive, and see how good retrieval is
========================================================

    python examples/train_archive.py archive.csv model.safetensors

``archive.csv`` is what ``tumorsim manifest`` wrote. A fifth of the patients is held out, for queries only.
The run may be killed and started again: it goes on where it was. It begins with the shipped weights, on which
new labels get heads of their own; ``TumorEmbedder()`` instead begins with random weights, and takes about an
hour for 300 scans on two cores.
"""

import sys

from tumorsim import TumorEmbedder, evaluate_knn, load_cohort
from tumorsim.evaluation import format_knn_table, split_patients

archive = load_cohort(sys.argv[1])
train_rows, test_rows = split_patients(archive.patient_ids, test_share=0.2)
train, test = archive[train_rows], archive[test_rows]

embedder = TumorEmbedder.from_pretrained(
    checkpoint_dir=f"{sys.argv[2]}-run", n_jobs=2, random_state=0, verbose=1
)
embedder.fit(train, resume=True)
embedder.save(sys.argv[2])

result = evaluate_knn(
    embedder.transform(train), train.table,
    query_X=embedder.transform(test), query_table=test.table, space=embedder.space_,
)  # fmt: skip
print(format_knn_table(result))

# A limit: a score on this archive's held-out patients says nothing about another hospital's scanner.
