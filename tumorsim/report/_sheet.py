"""The answer sheet as a page."""

import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim._validation import counted
from tumorsim.answers import describe_closeness, describe_summary, describe_volume, describe_vote, summarize
from tumorsim.io import write_text
from tumorsim.records import Cohort, Tumor
from tumorsim.records.columns import course_columns, label_columns
from tumorsim.rendering import PLANES
from tumorsim.report._columns import UNKNOWN, column_of, course_cell, labels_of, picture_extent, shown_text
from tumorsim.report._neighborhood import Neighborhood
from tumorsim.report._pages import MARGIN_MM, render

TUMOR_BYTES = 560_000  # compressed voxels of a tumor; base64, the still pictures and text stay below 1 MB
SHEET_BYTES = 24_000_000  # of all tumors of a sheet
N_PIXELS = 180  # on an edge of a still picture
_CODE = re.compile(r"((left|right) )?-?\d+|True|False")  # labels that say nothing to a reader
N_BESIDE = 5  # neighbors that stand beside the query; further ones go into a table of their own


def save_report(path, **content):
    """Write `render_report` of `content` to a file, atomically, and return its path."""
    return write_text(path, render_report(**content))


def render_report(
    *, query, neighbors, archive=(), archive_name=None, model_info=None, settings=None, show=(), aspects=None,
    votes=None, summary=None, inferred=None, left_out=None, notes=(), proposed=False, index=None,
    courses=None, query_X=None, margin_mm=30.0, full=False,
):  # fmt: skip
    """Return the answer to a query as one HTML page that loads nothing from anywhere.

    Query and neighbors stand side by side at one scale, in radiological display; their planes are scrolled
    in the browser. Voxels and pictures end `margin_mm` from the tumor's box, since whole heads have faces.

    Parameters
    ----------
    query : Tumor or sequence of Tumor
        The query tumors; one section each.
    neighbors : DataFrame
        Of `TumorIndex.search` or ``Answer.neighbors``. What its column ``same`` names as the query's own scan
        or patient is marked.
    archive : iterable of Tumor, default=()
        Where the neighbors' pictures come from, by ``tumor_id``; one that is not there has no picture.
    archive_name, model_info, settings : str, mapping, mapping, optional
        Shown at the bottom: for instance the index's path, what `describe_model` returns (where its key
        ``pretrained_on_simulated`` is true the sheet says so at the top), and those of the search.
    show, aspects, votes, summary, inferred, left_out, notes, proposed, index, courses : optional
        Attributes of `tumorsim.retrieval.Answer`. Columns that look like dates, treatment and outcome are
        shown without `show`, too. Without `votes` the neighbors' labels are counted. With `index` the sheet
        has a map of the archive, its sizes and types, and tells how many tumors each neighbor's scan has.
    query_X : array-like of shape (n_queries, n_features), optional
        The queries' embeddings, which `index` needs.
    margin_mm : float, default=30.0
        What is shown around a tumor's box.
    full : bool, default=False
        Embed whole scans instead, with their faces. Get permission first.

    Returns
    -------
    page : str
        A tumor whose scan cannot be read is shown without a picture, with a warning.

    Raises
    ------
    ValueError
        If a column of `show` is unknown, `neighbors` belong to other queries, or `index` comes without
        `query_X`.
    """
    query = query if isinstance(query, Cohort) else Cohort([query] if isinstance(query, Tumor) else query)
    unknown = [name for name in show if name not in neighbors]
    if unknown:
        rule = f"Parameter 'show' must name columns of the neighbors ({', '.join(neighbors.columns)})."
        raise ValueError(f"{rule} Got '{unknown[0]}'.")
    if len(neighbors) and not neighbors["query"].between(0, len(query) - 1).all():
        rule = f"'neighbors' must be those of the {len(query)} query tumors."
        raise ValueError(f"{rule} Got other rows in 'query'.")
    if index is not None and query_X is None:
        raise ValueError("Parameter 'index' needs 'query_X', the embeddings of the queries. Got None.")
    around = None if index is None else Neighborhood(index, query_X, query_table=query.table, aspects=aspects)
    archive = {tumor.tumor_id: tumor for tumor in archive}
    drawing = {"margin_mm": np.inf if full else margin_mm, "n_pixels": N_PIXELS}
    n_bytes = int(min(TUMOR_BYTES, SHEET_BYTES / (len(query) + len(neighbors))))
    drawing |= {"n_bytes": n_bytes, "aspects": aspects}
    show = list(dict.fromkeys([*show, *(c for c in course_columns(neighbors) if neighbors[c].notna().any())]))
    told = [] if summary is None else list(summary["column"])
    course = _counted(neighbors).pipe(summarize, [name for name in show if name not in told])
    sections, confidence = [], query.table.get("confidence")
    for i in range(len(query)):
        of_query = neighbors[neighbors["query"] == i]
        others = bool(_rows(left_out, i)) or "Left out" in (settings or {})
        section = _section(query, i, of_query, archive, show, drawing, around, left_out=others)
        for column in section["columns"]:
            own = [row for row in _rows(courses, i) if row["rank"] == (column["rank"] or 0)]
            column["facts"] |= {"Volume over time": course_cell(pd.DataFrame(own))} if own else {}
        _compare_labels(section["columns"], _rows(inferred, i))
        section |= {"tables": _tables(section["columns"]), "left_out": _rows(left_out, i)}
        section["summary"] = [describe_summary(row) for t in (summary, course) for row in _rows(t, i)]
        voted = _rows(None if proposed else votes, i)
        section["votes"] = [row | {"text": describe_vote(row)} for row in voted]
        known = confidence is not None and np.isfinite(confidence[i])
        section["confidence"] = round(100 * float(confidence[i])) if known else None
        sections.append(section)
    named = {"Archive": archive_name} if archive_name else {}
    facts = dict(model_info or {}) | named | dict(settings or {})
    shown = {"shown": None if full else f"{margin_mm:g}", "proposed": proposed, "notes": list(notes)}
    return render("answer", facts=facts, sections=sections, planes=PLANES, **shown)


def render_notebook(titles, lines, neighbors, *, queries, archive, proposed=False, aspects=None):
    """Return the axial row and the aspects of each query as HTML without script and style sheet.

    Title (str) and lines (list of str) are those of each query that is shown; the others are as in
    `render_report`, `queries` being a Cohort.
    """
    tumors = {tumor.tumor_id: tumor for tumor in archive}
    shown = []
    for i, (title, text) in enumerate(zip(titles, lines, strict=True)):
        rows = [queries.table.iloc[i].to_dict(), *_rows(neighbors, i)]
        found = [queries[i], *(tumors.get(row["tumor_id"]) for row in rows[1:])]
        found, extent_mm = _drawable(found, MARGIN_MM)
        drawing = {"extent_mm": extent_mm, "margin_mm": MARGIN_MM, "n_pixels": 150, "n_bytes": None}
        columns = []
        for row, tumor in zip(rows, found, strict=True):
            column = column_of(row, tumor, rank=row.get("rank"), aspects=aspects, **drawing)
            columns.append(column | {"picture": next(iter(column["pictures"]), None)})
        shown.append({"title": title, "lines": text, "columns": columns, "proposed": proposed})
    return render("notebook", facts={}, queries=shown, left=len(queries) - len(titles))


def describe_model(embedder, path=None):
    """Return what an answer sheet says of a fitted `TumorEmbedder`, as a dict for ``model_info``."""
    name = getattr(embedder, "initial_weights", None) if path is None else Path(path).stem
    facts = {"Model": name} if isinstance(name, str) else {}
    facts["Fingerprint"] = embedder.fingerprint_[:12]
    training = getattr(embedder, "training_", None) or {}
    if training:
        data = ", ".join(training.get("data", [])) or "unnamed"
        tumors, patients = training.get("n_tumors", "?"), training.get("n_patients", "?")
        facts |= {"pretrained_on_simulated": True} if "simulated" in training.get("data", []) else {}
        facts["Trained on"] = f"{counted(tumors, 'tumor')} of {counted(patients, 'patient')} (data: {data})"
    return facts


def _section(query, i, neighbors, archive, show, drawing, around, *, left_out):
    """Return what the template needs for one query tumor and its neighbors."""
    tumor, row = query[i], query.table.iloc[i]
    found = [archive.get(tumor_id) for tumor_id in neighbors["tumor_id"]] if len(neighbors) else []
    shown, extent_mm = _drawable([tumor, *found], drawing["margin_mm"])
    drawing = drawing | {"extent_mm": extent_mm}
    same_scan = query.table["case_id"] == row["case_id"]
    scan = (int(same_scan.sum()), float(query.table.loc[same_scan, "volume_mm3"].sum()))
    lesions = scan if tumor.case.has_mask else None
    columns = [column_of(row, shown[0], show=show, lesions=lesions, **drawing)]
    for (_, neighbor), picture_of in zip(neighbors.iterrows(), shown[1:], strict=True):
        lesions = None if around is None else around.lesions(neighbor)
        rank = int(neighbor["rank"])
        columns.append(column_of(neighbor, picture_of, rank=rank, show=show, lesions=lesions, **drawing))
    for number, column in enumerate(columns):
        column["key"] = f"t{i}-{number}"
    counted = _counted(neighbors)
    section = {"columns": columns, "n_neighbors": len(neighbors)}
    section |= {"counts": _counts(counted), "farthest": max([c["distance"] for c in columns[1:]], default=0)}
    told = "p_value" in neighbors or not len(counted)
    section["closeness"] = describe_closeness(neighbors, left_out=left_out) if told else None
    section["far"] = "p_value" in neighbors and bool(counted["no_close_match"].any())
    section["volumes"] = _volumes(row, counted)
    section |= {"map": None, "sizes": None, "types": [], "task": None}
    if around is not None and len(neighbors):
        tasks = [*section["counts"], *labels_of(row)]
        task = "type" if "type" in tasks or not tasks else tasks[0]
        section |= {"task": task, "map": around.map(i, neighbors, task)}
        section |= {"types": around.types(counted, task)}
        if "volume_mm3" in neighbors:
            section["sizes"] = around.sizes(row.get("volume_mm3"), neighbors)
    return section


def _tables(columns):
    """Return the columns that stand side by side, the query first in each table, and the rows of facts."""
    query, rest = columns[0], columns[1:]
    parts = [rest[start : start + N_BESIDE] for start in range(0, len(rest), N_BESIDE)] or [[]]
    tables = []
    for part in parts:
        beside = [query, *part]
        rows = {}
        for kind in ("labels", "facts", "more"):
            names = list(dict.fromkeys(name for column in beside for name in column[kind]))
            rows[kind] = [(name, [column[kind].get(name) for column in beside]) for name in names]
        tables.append({"columns": beside} | rows)
    return tables


def _compare_labels(columns, inferred):
    """Put what the network infers beside each label, and whether the two, and the query's, are the same."""
    known = {(row["rank"], row["task"]): row for row in inferred}
    tasks = dict.fromkeys([task for column in columns for task in column["labels"]] + [t for _, t in known])
    codes = {task for (_, task), row in known.items() if _CODE.fullmatch(str(row["label"]))}
    codes -= {task for column in columns for task, label in column["labels"].items() if label is not None}
    tasks, own = [task for task in tasks if task not in codes], dict(columns[0]["labels"])
    for column in columns:
        labels = {}
        for task in tasks:
            label, found = column["labels"].get(task), known.get((column["rank"] or 0, task), {})
            labels[task] = {"text": label, "source": column["sources"].get(task), "same": None}
            labels[task] |= {"inferred": found.get("label"), "probability": found.get("probability")}
            if column["rank"] is not None and label is not None and own.get(task) is not None:
                labels[task]["same"] = label == own[task]
            labels[task]["differs"] = None not in (label, found.get("label")) and label != found["label"]
        column["labels"] = labels


def _volumes(row, neighbors):
    """Return volumes (mm³) of a query, also as text, and of its neighbors; None where not known."""
    own = row.get("volume_mm3")
    known = neighbors["volume_mm3"].dropna() if "volume_mm3" in neighbors else neighbors["rank"][:0]
    known = known[known > 0]
    spread = (float(known.min()), float(known.max()), len(known)) if len(known) else None
    own, text = (float(own), describe_volume(row)) if own is not None and own > 0 else (None, "")
    return {"query": own, "text": text, "neighbors": spread}


def _rows(table, query):
    """Return the rows of one query as dicts."""
    return [] if table is None else table[table["query"] == query].to_dict("records")


def _counted(neighbors):
    """Return the neighbors that count: not of the query's own scan or patient."""
    return neighbors[neighbors["same"].isna()] if "same" in neighbors else neighbors


def _drawable(tumors, margin_mm):
    """Return tumors, None with a warning where files or box do not fit, and the pictures' edge in mm."""
    shown = list(tumors)
    for i, tumor in enumerate(shown):
        try:
            if tumor is not None:
                tumor.check()
                tumor.case.check_grid()
        except (OSError, ValueError) as err:
            warnings.warn(f"No picture of tumor '{tumor.tumor_id}': {err}", stacklevel=2)
            shown[i] = None
    known = [tumor for tumor in shown if tumor is not None]
    return shown, picture_extent(known, margin_mm) if known else None


def _counts(neighbors):
    """Return task → [(label, count), …] over the neighbors, most frequent first."""
    counts = {}
    for name, task in label_columns(neighbors).items():
        found = Counter(filter(None, map(shown_text, neighbors[name]))).most_common()
        n_known = sum(n for _, n in found)
        if found:
            counts[task] = found + ([(UNKNOWN, len(neighbors) - n_known)] if n_known < len(neighbors) else [])
    return counts
