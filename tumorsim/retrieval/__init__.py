"""The whole way in one call: a query in, the most similar tumors of an archive and what they say out."""

from tumorsim.retrieval._answer import ACCEPTED, Answer, neighbor_tumors
from tumorsim.retrieval._archive import (
    embed_archive,
    embed_to_file,
    evaluate_files,
    load_embedder,
    read_embeddings,
)
from tumorsim.retrieval._find import find_similar
from tumorsim.retrieval._query import is_table, segment_to_file, tumors_of
from tumorsim.retrieval._tables import answer_table, segment_table

__all__ = [
    "ACCEPTED", "Answer", "answer_table", "embed_archive", "embed_to_file", "evaluate_files", "find_similar",
    "is_table", "load_embedder", "neighbor_tumors", "read_embeddings", "segment_table", "segment_to_file",
    "tumors_of",
]  # fmt: skip
