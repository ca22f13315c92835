"""`TumorIndex` and its engines: nearest tumors among any embeddings."""

from tumorsim.index._index import TumorIndex

__all__ = ["TumorIndex"]
