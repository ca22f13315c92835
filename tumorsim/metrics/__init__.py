"""Metrics of retrieval and overlap: arrays in, numbers out."""

from tumorsim.metrics._chance import chance_levels, macro_average, ndcg_chance, relevance_of_neighbors
from tumorsim.metrics._overlap import dice, neighbor_overlap_at_k
from tumorsim.metrics._retrieval import (
    average_precision,
    mean_average_precision,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
    reciprocal_rank,
)

__all__ = [
    "average_precision",
    "chance_levels",
    "dice",
    "macro_average",
    "mean_average_precision",
    "ndcg_at_k",
    "ndcg_chance",
    "neighbor_overlap_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank",
    "relevance_of_neighbors",
]
