"""The lab's strict protocol: whole rankings of held-out queries, chance levels, paired differences."""

from benchmarks.protocol._chance import chance_levels, macro_average, ndcg_chance, relevance_of_neighbors
from benchmarks.protocol._paired import RetrievalScores, paired_differences, pool_scores
from benchmarks.protocol._retrieval import evaluate_retrieval, rank_gallery
from benchmarks.protocol._splits import block_folds, check_apart

__all__ = [
    "RetrievalScores",
    "block_folds",
    "chance_levels",
    "check_apart",
    "evaluate_retrieval",
    "macro_average",
    "ndcg_chance",
    "paired_differences",
    "pool_scores",
    "rank_gallery",
    "relevance_of_neighbors",
]
