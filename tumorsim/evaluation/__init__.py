"""Protocols that turn embeddings and labels into tables of scores with intervals by patient."""

from tumorsim.evaluation._knn import compare_knn, evaluate_knn, format_knn_table, neighbors_of_other_patients
from tumorsim.evaluation._protocol import Score, Task, check_embeddings, find_tasks, vote_scores
from tumorsim.evaluation._splits import hold_out_patients, split_patients
from tumorsim.evaluation._statistics import N_RESAMPLES, balanced_accuracy, interval, patient_weights

__all__ = [
    "N_RESAMPLES", "Score", "Task", "balanced_accuracy", "check_embeddings", "compare_knn", "evaluate_knn",
    "find_tasks", "format_knn_table", "hold_out_patients", "interval", "neighbors_of_other_patients",
    "patient_weights", "split_patients", "vote_scores",
]  # fmt: skip
