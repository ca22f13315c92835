"""A whole archive: embed it scan by scan, read its embeddings, evaluate its neighbors."""

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from tumorsim import io
from tumorsim._validation import counted, printable
from tumorsim.answers import describe_training
from tumorsim.calibration import VoteCalibration, calibrate_votes
from tumorsim.embedder import TumorEmbedder
from tumorsim.evaluation import evaluate_knn
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import TumorIndex
from tumorsim.manifest import load_cohort
from tumorsim.records import Cohort, group_by_case
from tumorsim.retrieval._measured import NAMES, with_measures
from tumorsim.retrieval._query import is_table
from tumorsim.retrieval._workers import embed_each
from tumorsim.spaces import EmbeddingSpace
from tumorsim.weights import find_weights


def embed_to_file(
    embedder, tumors, path, *, overwrite=False, skip_bad=False, progress=False, workers=None, dask=None
):
    """Embed a cohort into an ``.npz`` file; a run that was killed goes on where it stopped.

    Parameters
    ----------
    embedder, tumors : TumorEmbedder, Cohort
        As in `embed_archive`. Scans are kept in ``<path>.partial/`` one by one until all are done.
    path : str or Path
        The file to write, see `io.load_embeddings`.
    overwrite : bool, default=False
        Replace a file of another model, or of tumors that `tumors` lacks.
    skip_bad : bool, default=False
        Leave out scans whose voxels cannot be used, warn, and list them in ``<path>.errors.txt``.
    progress, workers, dask : bool, int, str
        As in `embed_archive`.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
        Without the tumors that were left out.

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    FileExistsError
        If there is a file that only `overwrite` replaces.
    """
    if not overwrite and Path(path).exists():
        try:
            _, columns, space = io.load_embeddings(path)
            same = space.get("fingerprint") == embedder.space_.fingerprint
            lost = set(columns.get("tumor_id", ())) - set(tumors.tumor_ids)
            what = f"embeddings of tumors that this archive lacks, such as '{min(lost)}'" if lost else ""
            what = what if same else "embeddings of another model"
        except ValueError:
            what = "something else than embeddings"
        if what:
            what = f"'{path}' exists already and holds {what}."
            raise FileExistsError(f"{what} Give another name, or overwrite it (--overwrite).")
    where = {"workers": workers, "dask": dask, "skipped": {} if skip_bad else None}
    X, columns = embed_archive(embedder, tumors, partial_dir=f"{path}.partial", progress=progress, **where)
    if where["skipped"]:
        lines = (f"case '{case}': {printable(err)}\n" for case, err in where["skipped"].items())
        io.write_text(f"{path}.errors.txt", "".join(lines))
        lost = counted(len(where["skipped"]), "scan")
        warnings.warn(f"{lost} could not be used and left out; see '{path}.errors.txt'.", stacklevel=2)
    io.save_embeddings(path, X, columns, embedder.space_.to_dict())
    io.remove_partial(f"{path}.partial", ".npy")
    return X


def embed_archive(
    embedder, tumors, *, partial_dir=None, progress=False, workers=None, dask=None, skipped=None
):
    """Embed a cohort scan by scan.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    tumors : Cohort
        The archive.
    partial_dir : str or Path, optional
        Keep each scan's embeddings here, but of scans in memory, and take from here what an earlier run has
        done of the same model, files and boxes.
    progress : bool, default=False
        Show a progress bar, with the time left.
    workers : int, optional
        Processes that embed a scan at a time, on one thread each. Rows and their bytes do not depend on how
        many there are; what a process that died had in hand is done again. Default: this process, by the
        embedder's threads.
    dask : str, optional
        Address of a Dask scheduler whose workers embed; they see the scans under the same paths, and have
        this version of tumorsim.
    skipped : dict, optional
        Filled with case id → exception of scans whose voxels cannot be used; their tumors are left out.
        Default: the first such scan raises.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
    columns : dict of list
        The cohort's table, with absolute paths of images and masks; ``tumors_in_scan``, those of the cohort
        where nothing else tells it; and of tumors with a mask ``contrast``, ``rim_fraction`` and
        ``necrotic_share`` (`geometry.lesion_enhancement`), unless such columns are there. Where the model
        knows, ``in_training`` tells which tumors it was trained on.

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is embedded.
    """
    tumors.check()
    n_features = embedder.n_features_out_
    found = np.zeros((len(tumors), n_features + 1 + len(NAMES)))  # embeddings, in training, measures
    groups, bad = group_by_case(tumors), []
    with tqdm(total=len(groups), desc="embedding", unit="scan", disable=None if progress else True) as bar:

        def left():
            for rows in groups:
                scan = Cohort(tumors[row] for row in rows)
                file = _partial_file(partial_dir, embedder, scan)
                if file is not None and file.is_file():
                    found[rows] = np.load(file, allow_pickle=False)
                    bar.update()
                else:
                    yield (rows, file), scan

        with contextlib.closing(embed_each(embedder, left(), workers=workers, dask=dask)) as done:
            for (rows, file), result in done:
                if isinstance(result, Exception):
                    if skipped is None or not isinstance(result, OSError | ValueError):
                        raise result
                    skipped[tumors[rows[0]].case.case_id] = result
                    bad += rows
                else:
                    found[rows] = result
                    if file is not None:
                        with io.atomic_path(file) as temporary, open(temporary, "wb") as opened:
                            io.write_array(opened, found[rows])
                bar.update()
    if bad:
        kept = np.setdiff1d(np.arange(len(tumors)), bad)
        tumors, found = tumors[kept], found[kept]
    X, trained, measures = np.split(found, (n_features, n_features + 1), axis=1)
    columns = with_measures(tumors, measures, complete=True).table.to_dict("list")
    for name in {"image", "mask"} & set(columns):
        columns[name] = [str(Path(p).resolve()) if isinstance(p, str) else None for p in columns[name]]
    columns.pop("in_training", None)  # of another model
    if not np.isnan(trained).any():
        columns["in_training"] = trained[:, 0].astype(bool).tolist()
    return X.astype(np.float32, order="C"), columns


def load_embedder(model: str | PathLike | None = None, *, device: str = "auto", n_jobs: int = 2):
    """Return the TumorEmbedder of a model file, or of shipped weights by name; None is the default ones."""
    embedder = TumorEmbedder.load(find_weights(model, progress=True), device=device)
    return embedder.set_params(n_jobs=n_jobs)


def read_embeddings(source: str | PathLike, *, partial_dir: str | PathLike | None = None, **model):
    """Return the embeddings of an archive, read from a file or an index, or made of a manifest now.

    Parameters
    ----------
    source : path
        Embeddings file of `embed_to_file`, folder of an index, or manifest (``.csv`` or ``.parquet``).
    partial_dir : path, optional
        Of `embed_archive`, for a manifest.
    **model
        What embeds a manifest: parameters of `load_embedder`.

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
        index = TumorIndex.load(source)
        return index.embeddings_, index.metadata_, index.space_
    if not is_table(source):
        X, columns, space = io.load_embeddings(source)
        return X, pd.DataFrame(columns), EmbeddingSpace.from_dict(space)
    cohort, embedder = load_cohort(source), load_embedder(**model)
    X, columns = embed_archive(embedder, cohort, partial_dir=partial_dir, progress=True)
    return X, pd.DataFrame(columns), embedder.space_


def evaluate_files(
    source: str | PathLike, *, queries: str | PathLike | None = None,
    n_neighbors: Sequence[int] = (1, 3, 5, 10, 20), calibrate: bool = False,
    aspects: Mapping[str, float] | str | None = None, random_state: int = 0,
) -> tuple[pd.DataFrame, VoteCalibration | None, str | None]:  # fmt: skip
    """Evaluate an archive that was embedded: how well its neighbors tell labels and shape.

    Parameters
    ----------
    source : path
        Embeddings file, or folder of an index.
    queries : path, optional
        Embeddings of held-out patients; default: every tumor of the archive is a query.
    n_neighbors, random_state
        As in `evaluation.evaluate_knn`.
    calibrate : bool, default=False
        Learn from `queries` how often votes of that one number of neighbors are right.
    aspects : mapping of str to float or "embedding", optional
        Of the votes, see `TumorIndex.search`. The result is always of the plain distance.

    Returns
    -------
    result : DataFrame
        Of `evaluation.evaluate_knn`.
    calibration : VoteCalibration or None
    warning : str or None
        That the model was trained on the queries, and what to do then.

    Raises
    ------
    FileNotFoundError, IndexMismatchError, ValueError
        If files cannot be used, come from different models, or `calibrate` lacks what it needs.
    """
    if calibrate and (queries is None or len(n_neighbors) != 1):
        rule = "Calibrating votes (--calibrate-votes) needs queries (--queries), embeddings of held-out"
        raise ValueError(f"{rule} patients, and one number of neighbors, such as --n-neighbors 5.")
    if Path(source).is_dir():
        index = TumorIndex.load(source)
    else:
        X, table, space = read_embeddings(source)
        index = TumorIndex().fit(X, metadata=table, space=space)
    options, asked = {"metric": index.metric, "space": index.space_, "random_state": random_state}, {}
    if queries is not None:
        X, table, space = read_embeddings(queries)
        if index.space_ is not None and space.fingerprint != index.space_.fingerprint:
            got = f"Got fingerprints {index.space_.fingerprint[:12]}… and {space.fingerprint[:12]}…."
            rule = f"'{source}' and '{queries}' must come from one model."
            raise IndexMismatchError(f"{rule} {got} Embed both with one model.")
        asked = {"query_X": X, "query_table": table}
    result = evaluate_knn(index.embeddings_, index.metadata_, n_neighbors=n_neighbors, **options, **asked)
    warning = describe_training(asked.get("query_table", index.metadata_), "these scores flatter")
    if warning is not None:
        warning += (
            " To measure on new patients, hold some out of training ('tumorsim fit --hold-out 0.2') and give "
            "them as --queries, or embed with a model that saw none of them (--model t1c-v6-simulated)."
        )
    if not calibrate:
        return result, None, warning
    options = {"n_neighbors": n_neighbors[0], "space": space, "aspects": aspects}
    return result, calibrate_votes(index, X, table, **options), warning


def _partial_file(folder, embedder, tumors):
    """Return where one scan's embeddings are kept: the name changes with model, files, boxes and measures."""
    files = [file for file in (tumors[0].case.image, tumors[0].case.mask) if file is not None]
    if folder is None or not all(isinstance(file, str) for file in files):
        return None
    salts = sorted(embedder.training_.get("scans") or ())
    rows = [[tumor.bbox.tolist(), tumor.mask_value] for tumor in tumors]
    content = [embedder.space_.fingerprint, salts, NAMES, *map(io.content_key, files), rows]
    return io.partial_file(folder, content, ".npy")
