"""Metrics of retrieval and overlap: arrays in, numbers out."""

from tumorsim.metrics._retrieval import (
    average_precision,
    dice,
    mean_average_precision,
    ndcg_at_k,
    neighbor_overlap_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)

__all__ = [
    "average_precision", "dice", "mean_average_precision", "ndcg_at_k", "neighbor_overlap_at_k",
    "precision_at_k", "recall_at_k", "reciprocal_rank",
]  # fmt: skip
