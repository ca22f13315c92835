"""How good the neighbors of a saved archive are, and how often their votes are right."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import pandas as pd

from tumorsim.calibration import VoteCalibration, calibrate_votes
from tumorsim.evaluation import evaluate_knn
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import TumorIndex
from tumorsim.retrieval._embed import read_embeddings

__all__ = ["evaluate_files"]


def evaluate_files(
    source: str | PathLike,
    *,
    queries: str | PathLike | None = None,
    n_neighbors: Sequence[int] = (1, 3, 5, 10, 20),
    calibrate: bool = False,
    random_state: int = 0,
) -> tuple[pd.DataFrame, VoteCalibration | None]:
    """Evaluate an archive that was embedded: how well its neighbors tell labels and shape.

    Parameters
    ----------
    source : path
        Embeddings file, or folder of an index.
    queries : path, optional
        Embeddings of held-out patients; default: every tumor of the archive is a query.
    n_neighbors : sequence of int, default=(1, 3, 5, 10, 20)
        Numbers of neighbors.
    calibrate : bool, default=False
        Learn from `queries` how often votes of that one number of neighbors are right.
    random_state : int, default=0
        Seed of the confidence intervals.

    Returns
    -------
    result : DataFrame
        Of `evaluation.evaluate_knn`.
    calibration : VoteCalibration or None

    Raises
    ------
    IndexMismatchError
        If `source` and `queries` come from different models.
    FileNotFoundError, ValueError
        If files cannot be used, or `calibrate` lacks queries or one number of neighbors.
    """
    if calibrate and (queries is None or len(n_neighbors) != 1):
        raise ValueError(
            "Calibrating votes (--calibrate-votes) needs queries (--queries), embeddings of held-out "
            "patients, and one number of neighbors, such as --n-neighbors 5."
        )
    if Path(source).is_dir():
        index = TumorIndex.load(source)
    else:
        X, table, space = read_embeddings(source)
        index = TumorIndex().fit(X, metadata=table, space=space)
    asked = {}
    if queries is not None:
        X, table, space = read_embeddings(queries)
        if index.space_ is not None and space.fingerprint != index.space_.fingerprint:
            raise IndexMismatchError(
                f"'{source}' and '{queries}' must come from one model. Got fingerprints "
                f"{index.space_.fingerprint[:12]}… and {space.fingerprint[:12]}…. Embed both with one model."
            )
        asked = {"query_X": X, "query_table": table}
    result = evaluate_knn(
        index.embeddings_,
        index.metadata_,
        n_neighbors=n_neighbors,
        random_state=random_state,
        metric=index.metric,
        space=index.space_,
        **asked,
    )
    if not calibrate:
        return result, None
    return result, calibrate_votes(index, X, table, n_neighbors=n_neighbors[0], space=space)
