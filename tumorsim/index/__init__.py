"""`TumorIndex` and its engines: nearest tumors among any embeddings."""

from tumorsim.index._filters import where_mask
from tumorsim.index._index import TumorIndex

__all__ = ["TumorIndex", "where_mask"]
