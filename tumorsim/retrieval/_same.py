"""The query's own scan and patient among the neighbors: found, named, left out or marked."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim.io import content_key
from tumorsim.records import Case
from tumorsim.records.columns import id_key
from tumorsim.retrieval._query import UNKNOWN_PATIENT

LEFT_OUT_COLUMNS = ("query", "tumor_id", "case_id", "patient_id", "reason")
EQUAL = 1e-5  # of the embedding's norm: float32 sums of one tumor in another order differ by less


def search_others(index, tumors, X, n_neighbors, *, exclude, keep_same, compared, **options):
    """Return neighbors of other patients, and a table of what was left out of them.

    With `keep_same` they stay, marked in column ``same`` ("scan", "patient" or None); `compared` has the ids
    that `exclude` compares, and p-values are those of the others all the same.
    """
    options |= {"query_metadata": compared}
    first = found = index.search(X, n_neighbors, exclude=exclude, **options)
    own, left_out = _excluded(index.metadata_, exclude, compared, len(X)), []
    scan_of = None  # tables have ids, and reading all their neighbors takes long
    if len({id(tumor.case) for tumor in tumors}) == 1:
        scan_of = functools.cache(lambda image: Case(image, case_id="scan", patient_id=UNKNOWN_PATIENT))
    known = functools.cache(content_key), scan_of
    marks = first_marks = _marks(index, tumors, X, found, *known)
    while True:
        dropped = (marks == "scan") | ((marks == "patient") & (exclude != "same_case"))
        if not dropped.any():
            break
        rows = found[dropped].reindex(columns=LEFT_OUT_COLUMNS)
        left_out.append(rows.assign(reason=[f"same {mark}" for mark in marks[dropped]]))
        for query, tumor_id in zip(rows["query"], rows["tumor_id"], strict=True):
            own[query] |= _of_same_patient(index.metadata_, tumor_id)
        found = index.search(X, n_neighbors, exclude=[sorted(ids) for ids in own], **options)
        marks = _marks(index, tumors, X, found, *known)
    if keep_same and left_out:
        found, marks = _with_p_values(first, found), first_marks
    if keep_same or (marks != None).any():  # noqa: E711, elementwise
        found = found.assign(same=pd.Series(marks, found.index, dtype=object))
    named = [] if keep_same else left_out
    empty = pd.DataFrame(columns=LEFT_OUT_COLUMNS)
    return found, pd.concat(named).sort_values("query", kind="stable", ignore_index=True) if named else empty


def _marks(index, tumors, X, found, key_of, scan_of):
    """Return "scan", "patient" or None of each row of a search, an array of objects (n_rows,)."""
    held = pd.Index(index.metadata_["tumor_id"]).get_indexer(found["tumor_id"])
    query = found["query"].to_numpy(dtype=int)
    apart = np.linalg.norm(index.embeddings_[held].astype(float) - X[query], axis=1)
    equal = apart <= EQUAL * np.linalg.norm(X[query].astype(float), axis=1)
    marks = np.full(len(found), None, dtype=object)
    for i, row in enumerate(found.to_dict("records")):
        case = tumors[int(query[i])].case
        patient = case.patient_id != UNKNOWN_PATIENT
        patient = patient and id_key(str(row.get("patient_id"))) == id_key(case.patient_id)
        same_case = equal[i] or (patient and row.get("case_id") == case.case_id)
        if same_case or _same_content(case, row.get("image"), key_of, scan_of):
            marks[i] = "scan"
        elif patient:
            marks[i] = "patient"
    return marks


def _same_content(case, image, key_of, scan_of):
    """Tell whether an image is the file of a case, or has its bytes, or its voxels, packed or turned."""
    if not isinstance(image, str):
        return False
    try:
        if isinstance(case.image, str):
            a, b = Path(case.image), Path(image)
            alike = a.stat().st_size == b.stat().st_size and key_of(a) == key_of(b)
            if alike or a.resolve() == b.resolve():
                return True
        if scan_of is None:
            return False
        other = scan_of(image)
        return sorted(other.shape) == sorted(case.shape) and other.voxel_key == case.voxel_key
    except (OSError, ValueError):
        return False


def _of_same_patient(table, tumor_id):
    """Return the ids of all tumors of the patient, or else of the scan, of one tumor of the archive."""
    row = table[table["tumor_id"] == tumor_id].iloc[0]
    for column in ("patient_id", "case_id"):
        if column in table and row[column] != UNKNOWN_PATIENT:
            return set(table.loc[table[column] == row[column], "tumor_id"])
    return {tumor_id}


def _excluded(table, exclude, compared, n_queries):
    """Return for each query the set of ids that `exclude` of a search leaves out."""
    if not isinstance(exclude, str):
        return [set(exclude or ()) for _ in range(n_queries)]
    columns = ("patient_id",) if exclude == "same_patient" else ("patient_id", "case_id")
    columns = [name for name in columns if name in table and name in compared]
    rows = compared[columns].to_numpy(dtype=object)
    held = table[columns].to_numpy(dtype=object)
    return [set(table.loc[(held == row).all(axis=1), "tumor_id"]) for row in rows]


def _with_p_values(first, others):
    """Return a search's rows with the p-values of another search of the same queries."""
    names = [name for name in ("p_value", "no_close_match") if name in first]
    if not names:
        return first
    of = others.groupby("query")[names].first().reindex(first["query"])
    of["no_close_match"] = of["no_close_match"].eq(True)
    return first.assign(**{name: of[name].to_numpy() for name in names})
