"""Embed an archive scan by scan, and read embeddings wherever they are."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim.io import (
    atomic_path,
    content_key,
    load_embeddings,
    partial_file,
    remove_partial,
    save_embeddings,
)
from tumorsim.manifest import load_cohort
from tumorsim.records import group_by_case
from tumorsim.spaces import EmbeddingSpace

__all__ = ["embed_archive", "embed_to_file", "load_embedder", "read_embeddings"]


def embed_to_file(embedder, tumors, path, *, progress=False):
    """Embed a cohort into an ``.npz`` file; a run that was killed goes on where it stopped.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    tumors : Cohort
        The archive. Scans are kept in ``<path>.partial/`` one by one until all are done.
    path : str or Path
        The file to write, see `io.load_embeddings`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    """
    partial = Path(f"{path}.partial")
    X, columns = embed_archive(embedder, tumors, partial_dir=partial, progress=progress)
    save_embeddings(path, X, columns, embedder.space_.to_dict())
    remove_partial(partial, ".npy")
    return X


def embed_archive(embedder, tumors, *, partial_dir=None, progress=False):
    """Embed a cohort scan by scan.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    tumors : Cohort
        The archive.
    partial_dir : str or Path, optional
        Keep each scan's embeddings here, and take from here what an earlier run has done of the same model,
        files and boxes. Scans in memory are not kept.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
    columns : dict of list
        The cohort's table, with absolute paths of images and masks.

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    """
    from tqdm import tqdm

    tumors.check()
    X = np.zeros((len(tumors), embedder.n_features_out_), dtype=np.float32)
    groups = group_by_case(tumors)
    files = [_partial_file(partial_dir, embedder, [tumors[r] for r in rows]) for rows in groups]
    left = []
    with tqdm(total=len(groups), desc="embedding", unit="scan", disable=None if progress else True) as bar:
        for rows, file in zip(groups, files, strict=True):
            if file is not None and file.is_file():
                X[rows] = np.load(file, allow_pickle=False)
                bar.update()
            else:
                left.append((rows, file))
        step = 4 * int(getattr(embedder, "n_jobs", 1))  # scans at once, so that its threads stay busy
        for start in range(0, len(left), step):
            part = left[start : start + step]
            rows = [row for rows, _ in part for row in rows]
            X[rows] = np.asarray(embedder.transform(tumors[rows]))
            for rows, file in part:
                if file is not None:
                    with atomic_path(file) as temporary, open(temporary, "wb") as opened:
                        np.save(opened, X[rows])
            bar.update(len(part))
    table = tumors.table
    columns = {name: table[name].tolist() for name in table}
    for name in {"image", "mask"} & set(columns):
        columns[name] = [str(Path(p).resolve()) if isinstance(p, str) else None for p in columns[name]]
    return X, columns


def load_embedder(model: str | PathLike | None = None, *, device: str = "auto", n_jobs: int = 2):
    """Return the TumorEmbedder of a model file, or of shipped weights by name; None is the default ones."""
    from tumorsim.embedder import TumorEmbedder
    from tumorsim.weights import find_weights

    embedder = TumorEmbedder.load(find_weights(model, progress=True), device=device)
    return embedder.set_params(n_jobs=n_jobs)


def read_embeddings(
    source: str | PathLike,
    *,
    model: str | PathLike | None = None,
    device: str = "auto",
    n_jobs: int = 2,
    partial_dir: str | PathLike | None = None,
):
    """Return the embeddings of an archive, read from a file or an index, or made of a manifest now.

    Parameters
    ----------
    source : str or Path
        Embeddings file of `embed_to_file`, folder of an index, or manifest (``.csv`` or ``.parquet``).
    model, device, n_jobs
        What embeds a manifest, as in `load_embedder`.
    partial_dir : str or Path, optional
        Of `embed_archive`, for a manifest.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
    table : DataFrame
        One row per tumor.
    space : EmbeddingSpace or None
        Of the embedder.

    Raises
    ------
    FileNotFoundError, ValueError
        If `source` is missing or nothing of these.
    """
    source = Path(source)
    if source.is_dir():
        from tumorsim.index import TumorIndex

        index = TumorIndex.load(source)
        return index.embeddings_, index.metadata_, index.space_
    if source.suffix.lower() not in (".csv", ".parquet"):
        X, columns, space = load_embeddings(source)
        return X, pd.DataFrame(columns), EmbeddingSpace.from_dict(space)
    cohort = load_cohort(source)
    embedder = load_embedder(model, device=device, n_jobs=n_jobs)
    X, columns = embed_archive(embedder, cohort, partial_dir=partial_dir, progress=True)
    return X, pd.DataFrame(columns), embedder.space_


def _partial_file(folder, embedder, tumors):
    """Return where one scan's embeddings are kept: the name changes with model, file and boxes."""
    image = tumors[0].case.image
    if folder is None or not isinstance(image, str):
        return None
    content = [embedder.space_.fingerprint, content_key(image), [t.bbox.tolist() for t in tumors]]
    return partial_file(folder, content, ".npy")
