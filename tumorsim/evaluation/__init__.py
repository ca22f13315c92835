"""Protocols that turn embeddings and labels into tables of scores with intervals by patient."""

from tumorsim.evaluation._knn import evaluate_knn, format_knn_table, neighbors_of_other_patients
from tumorsim.evaluation._paired import RetrievalScores, paired_differences, pool_scores
from tumorsim.evaluation._retrieval import evaluate_retrieval, rank_gallery
from tumorsim.evaluation._splits import block_folds, check_apart, hold_out_patients, split_patients
from tumorsim.evaluation._statistics import N_RESAMPLES, balanced_accuracy, interval, patient_weights

__all__ = [
    "N_RESAMPLES",
    "RetrievalScores",
    "balanced_accuracy",
    "block_folds",
    "check_apart",
    "evaluate_knn",
    "evaluate_retrieval",
    "format_knn_table",
    "hold_out_patients",
    "interval",
    "neighbors_of_other_patients",
    "paired_differences",
    "patient_weights",
    "pool_scores",
    "rank_gallery",
    "split_patients",
]
