"""`find_similar`: validate, embed, search, vote, calibrate, summarize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from pandas import DataFrame, Index, concat, to_numeric

from tumorsim._validation import check_choice, check_fitted, check_integer, counted
from tumorsim.answers import describe_left_out, describe_training, describe_where, summarize, votes
from tumorsim.calibration import VoteCalibration
from tumorsim.index import TumorIndex, where_mask
from tumorsim.records import Case, Cohort, Tumor
from tumorsim.records.columns import IN_SCAN
from tumorsim.retrieval._answer import ACCEPTED, Answer
from tumorsim.retrieval._course import change_since, read_earlier, with_course
from tumorsim.retrieval._measured import embed_measured, with_measures
from tumorsim.retrieval._query import UNKNOWN_PATIENT, check_known, read_query, tumors_of
from tumorsim.retrieval._same import search_others

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from tumorsim.embedder import TumorEmbedder


def find_similar(
    embedder: TumorEmbedder, index: TumorIndex,
    query: str | PathLike | SpatialImage | Case | Tumor | Sequence[Tumor] | Cohort | DataFrame, *,
    mask: str | PathLike | SpatialImage | tuple | None = None, box: Sequence[int] | None = None,
    n_neighbors: int = 5, where: Mapping | None = None, exclude: str | Sequence[str] | None = None,
    aspects: Mapping[str, float] | str | None = None, max_per_patient: int | None = 1,
    alpha: float | None = 0.05, calibration: Mapping | None = None,
    vote_calibration: VoteCalibration | str | PathLike | None = None, show: Sequence[str] = (),
    patient_id: str | None = None, case_id: str | None = None, mask_value: int | str = ">0",
    min_volume_mm3: float = 14.0, merge_distance_mm: float = 2.0, by_value: bool = False,
    threshold: float = 0.5, max_lesions: int = 5, accept: Sequence[int] | None = None,
    keep_same: bool = False, series: str | None = None, roi: str | None = None,
    exclude_roi: str | None = None, key_file: str | PathLike | None = None,
    before: str | PathLike | SpatialImage | Case | None = None,
    mask_before: str | PathLike | SpatialImage | tuple | None = None, dates: Sequence | None = None,
) -> Answer:  # fmt: skip
    """Find the tumors of an archive that are most like new ones, and say what they tell.

    Everything that can be checked is checked before voxels are read.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted; the one whose embeddings the index holds.
    index : TumorIndex
        The archive.
    query : path, nibabel image, Case, Tumor, sequence of Tumor, Cohort or DataFrame
        A new scan: a NIfTI or NRRD file, a folder of DICOM with one T1c series (its SEG or RTSTRUCT is the
        mask), an image in memory, or a `Case`. Or tumors that are known already: records, a manifest (path
        ending in ``.csv`` or ``.parquet``), or its table.
    mask : path, nibabel image or tuple (array, affine), optional
        Mask on the scan's grid; its lesions are the tumors.
    box : sequence of 6 int, optional
        ``x0 y0 z0 x1 y1 z1`` in voxels of the scan, half-open; this is the tumor. Without mask and box the
        embedder's ``segment`` proposes the lesions.
    n_neighbors, where, exclude, aspects, max_per_patient, alpha, calibration
        As in `TumorIndex.search`.
    vote_calibration : calibration.VoteCalibration or path, optional
        What ``tumorsim evaluate --calibrate-votes`` wrote: votes get a probability.
    show : sequence of str, default=()
        Columns of the index to show and to summarize, such as treatment and outcome.
    patient_id, case_id : str, optional
        Of a scan, for `exclude`. Default: its own, else ``"unknown"`` and the file's name without its suffix.
    mask_value, min_volume_mm3, merge_distance_mm, by_value
        How lesions are found in a mask, as in `manifest.tumors_from_case`.
    threshold, max_lesions : float, int
        Probability from which a voxel is proposed as tumor; proposed lesions that are kept, largest first.
    accept : sequence of int, optional
        Proposed lesions that a person has looked at and takes for tumors, numbered from 1 as an answer lists
        them. Without it, an answer to proposed lesions has no vote and no verdict.
    keep_same : bool, default=False
        Keep tumors of the query's own scan or patient; they are marked and never counted. By default they are
        left out and named in ``Answer.left_out``.
    series, roi, exclude_roi, key_file : str, str, str, path, optional
        Of a folder of DICOM: patterns of the T1c series, and of the names of regions that are tumors and that
        are not; the key that the archive was imported with, so that patient and case have the ids that they
        have there.
    before, mask_before, dates : path, nibabel image or Case; mask; two of str or date, optional
        An earlier scan of the patient, its mask, and when both scans were made, as in `match_dates`. How the
        lesions changed is the aspect ``course``.

    Returns
    -------
    Answer
        ``neighbors``, ``votes``, ``closeness`` and ``summary`` are tables; ``save_html`` writes the answer
        sheet.

    Raises
    ------
    IndexMismatchError
        If the index holds embeddings of another embedder, or `vote_calibration` was made for another index.
    TypeError, ValueError
        If a parameter is malformed, a column, an aspect or an id is unknown, or `exclude` compares an id that
        the query does not have.
    FileNotFoundError, GeometryError
        If files cannot be used, or do not fit together.

    Examples
    --------
    >>> from tumorsim import Case, Tumor, TumorEmbedder, TumorIndex
    >>> rng, tumors = np.random.default_rng(0), []
    >>> for i, kind in enumerate(["glioma", "meningioma", "glioma"]):
    ...     scan = rng.normal(size=(24, 24, 24)), np.diag([4.0, 4.0, 4.0, 1.0])
    ...     case = Case(scan, case_id=f"scan-{i}", patient_id=f"patient-{i}")
    ...     tumors.append(Tumor(case, [(8, 8, 8), (14, 14, 14)], tumor_id=f"{i}", labels={"type": kind}))
    >>> archive, small = Cohort(tumors), {"n_channels": 8, "n_blocks": 1, "patch_size": 32, "spacing": 4.0}
    >>> embedder = TumorEmbedder(**small, max_epochs=1, batches_per_epoch=1).fit(archive)
    >>> X = embedder.transform(archive)
    >>> index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
    >>> answer = find_similar(embedder, index, archive[:1], n_neighbors=2, exclude="same_patient")
    >>> answer.neighbors["rank"].tolist(), list(answer.neighbors)[:4]
    ([1, 2], ['query', 'rank', 'distance', 'label_type'])
    """
    options = {"where": where, "exclude": exclude, "aspects": aspects, "max_per_patient": max_per_patient}
    known = {"n_neighbors": n_neighbors, "show": show, "vote_calibration": vote_calibration}
    base, vote_calibration = check_request(embedder, index, **options, **known)
    check_known(query, exclude, patient_id=patient_id, case_id=case_id, key_file=key_file)
    dicom = {"series": series, "include": roi, "exclude": exclude_roi, "key_file": key_file}
    scan = read_query(query, mask=mask, box=box, patient_id=patient_id, case_id=case_id, **dicom)
    lesions = {"mask_value": mask_value, "min_volume_mm3": min_volume_mm3, "by_value": by_value}
    lesions |= {"merge_distance_mm": merge_distance_mm}
    proposing = {"embedder": embedder, "threshold": threshold, "max_lesions": max_lesions}
    earlier = read_earlier(scan, before, mask_before, dates)
    tumors = tumors_of(scan, box=box, **proposing, **lesions)
    proposed = not (isinstance(scan, Cohort) or box is not None or scan.has_mask)
    tumors, proposed = _accepted(tumors, accept, proposed)
    history, settings = None, {}
    if earlier is not None:
        history, quality = change_since(earlier, tumors, dates, **lesions)
        settings["Earlier scan"] = f"{earlier.case_id}, {dates[0]}; quality of the registration {quality}"
    weights, calibrated = index.aspect_weights(aspects), {"calibration": vote_calibration}
    tumors, notes = with_course(tumors, weights)
    X, _, measures = embed_measured(embedder, tumors)
    tumors = with_measures(tumors, measures)
    table = tumors.table
    options |= {"alpha": None if proposed else alpha, "calibration": calibration, "space": embedder.space_}
    options |= {"compared": _compared(table, index, exclude), "keep_same": keep_same}
    neighbors, left_out = search_others(index, tumors, X, n_neighbors, **options)
    counting = neighbors[neighbors["same"].isna()] if "same" in neighbors else neighbors
    settings |= {"Neighbors per query": n_neighbors, "Most of one patient": max_per_patient}
    settings |= {"Where": describe_where(where)} if where else {}
    settings |= {"Left out": exclude if isinstance(exclude, str) else ", ".join(exclude)} if exclude else {}
    settings |= ACCEPTED if accept else {}
    settings["Aspects"] = ", ".join(f"{a} {w:g}" for a, w in weights.items()) or "none: the plain distance"
    return Answer(
        queries=tumors, X=X, neighbors=neighbors, left_out=left_out, proposed=proposed, settings=settings,
        votes=votes(counting[:0] if proposed else counting, base, n_neighbors=n_neighbors, **calibrated),
        summary=summarize(counting, show), inferred=_inferred(embedder.classes_, index, X, table, neighbors),
        index=index, notes=notes + _notes(base, index, where, n_neighbors, left_out, neighbors, table),
        show=tuple(show), aspects=weights, embedder=embedder, history=table if history is None else history,
    )  # fmt: skip


def _accepted(tumors, accept, proposed):
    """Return the accepted ones of proposed tumors, and whether what is left is proposed only."""
    if accept is None:
        return tumors, proposed
    if not proposed:
        rule = "Parameter 'accept' takes lesions that the model proposes."
        raise ValueError(f"{rule} Got drawn ones; leave it out.")
    numbers = [check_integer(number, "accept", minimum=1) for number in dict.fromkeys(accept)]
    if not numbers or max(numbers) > len(tumors):
        rule = f"Parameter 'accept' must number proposals from 1 to {len(tumors)}."
        raise ValueError(f"{rule} Got {list(accept)}.")
    return tumors[[number - 1 for number in numbers]], False


def _inferred(classes, index, X, table, neighbors):
    """Return what the heads of the index infer, a row per task, of each query (rank 0) and its neighbors."""
    space, rows = index.space_, []
    held = Index(index.metadata_["tumor_id"]).get_indexer(neighbors["tumor_id"])
    points = np.concatenate([X, index.embeddings_[held]])
    table = concat([table, index.metadata_.iloc[held]])
    query, rank = np.r_[np.arange(len(X)), neighbors["query"]], np.r_[[0] * len(X), neighbors["rank"]]
    for task in space.offsets:
        shares = space.aspect_coordinates(task, points, table) ** 2
        labels = np.array(classes[task], dtype=object)[shares.argmax(axis=1)]
        row = {"query": query, "rank": rank, "task": task, "label": labels, "probability": shares.max(axis=1)}
        rows.append(DataFrame(row))
    names = ["query", "rank", "task", "label", "probability"]
    found = concat(rows, ignore_index=True) if rows else DataFrame(columns=names)
    return found.sort_values(["query", "rank"], kind="stable", ignore_index=True)


def _notes(base, index, where, n_neighbors, left_out, neighbors, table):
    """Return the warnings that stand at the top of an answer."""
    notes = [describe_training(base, "a new tumor looks less usual among them than it is")]
    own = neighbors["same"].notna() if "same" in neighbors else np.zeros(len(neighbors), dtype=bool)
    if where:
        searched = f"({describe_where(where)}) were searched, {len(base)} of {index.n_samples_fit_}"
        of_these = "votes, base rates and how usual the query is refer to these"
        notes.append(f"Only tumors that meet the conditions {searched}: {of_these}.")
        found = np.bincount(neighbors["query"][~own].astype(int), minlength=len(table))
        if found.min() < n_neighbors:
            left = f"{found.min()} to " * bool(np.ptp(found)) + counted(found.max(), "neighbor")
            example = " One neighbor is an example, no vote." if found.max() == 1 else ""
            notes.append(f"The conditions leave {left} of {n_neighbors} asked for.{example}")
    notes += describe_left_out(left_out)
    several = to_numeric(table[IN_SCAN], errors="coerce").max() if IN_SCAN in table else 1
    if several > 1 and any(IN_SCAN in head.columns for head in index.space_.measured.values()):
        what = f"{several:g} tumors in a scan count as a sign of metastases in the inferred type"
        notes.append(f"{what}. Meningiomas and schwannomas can be several, too.")
    if own.any():
        n = counted(own.sum(), "neighbor")
        notes.append(f"{n} of the query's own scan or patient: marked, and never counted.")
    return [note for note in notes if note]


def check_request(
    embedder, index, *, n_neighbors=5, where=None, exclude=None, aspects=None, show=(), max_per_patient=1,
    vote_calibration=None, **others,
):  # fmt: skip
    """Return rows of the archive that meet `where` and the vote calibration; raise before voxels are read."""
    check_integer(n_neighbors, "n_neighbors", minimum=1)
    check_fitted(index, "metadata_")
    index.check_space(embedder.space_)
    table = index.metadata_
    if isinstance(exclude, str):
        check_choice(exclude, "exclude", ("same_patient", "same_case"))
    elif exclude is not None:
        unknown = sorted(set(exclude) - set(table["tumor_id"]))
        if unknown or not len(exclude):
            rule = "Parameter 'exclude' must be same_patient, same_case, or tumor ids of the index."
            raise ValueError(f"{rule} Got {unknown[0] if unknown else list(exclude)!r}.")
    index.aspect_weights(aspects)
    unknown = [name for name in show if name not in table]
    if unknown:
        listed = ", ".join(table.columns)
        raise ValueError(f"Parameter 'show' must name columns of the index: {listed}. Got '{unknown[0]}'.")
    rows = table[where_mask(table, where or {})]
    if vote_calibration is None:
        return rows, None
    if where or max_per_patient != 1:
        either = "Give a vote calibration, or conditions and more than one tumor per patient, but not both."
        raise ValueError(f"Votes are calibrated without conditions. {either}")
    if not isinstance(vote_calibration, VoteCalibration):
        vote_calibration = VoteCalibration.load(vote_calibration)
    vote_calibration.check(index, n_neighbors, aspects)
    return rows, vote_calibration


def _compared(table, index, exclude):
    """Return the queries' table as the search compares it: of a case alone where the patient is not known."""
    if exclude != "same_case" or not (table["patient_id"] == UNKNOWN_PATIENT).any():
        return table
    archive = index.metadata_
    if {"patient_id", "case_id"} <= set(archive):
        same = archive[archive["case_id"].isin(table["case_id"])]
        if (same.groupby("case_id")["patient_id"].nunique() > 1).any():
            what = f"case '{same['case_id'].iloc[0]}' is of several patients of the index"
            raise ValueError(f"exclude='same_case': {what}. Give patient_id (--patient-id) too.")
    return table.drop(columns="patient_id")
