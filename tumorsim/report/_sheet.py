"""The answer sheet as a page."""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from tumorsim._validation import counted
from tumorsim.answers import describe_closeness, describe_summary, describe_vote
from tumorsim.records import Cohort, Tumor
from tumorsim.records.columns import label_columns
from tumorsim.rendering import PLANES
from tumorsim.report._columns import UNKNOWN, column_of, labels_of, picture_extent, shown_text
from tumorsim.report._neighborhood import Neighborhood
from tumorsim.report._pages import write_page

__all__ = ["describe_model", "save_report"]

TUMOR_BYTES = 560_000  # compressed voxels of a tumor; base64, the still pictures and text stay below 1 MB
SHEET_BYTES = 24_000_000  # of all tumors of a sheet
N_PIXELS = 180  # on an edge of a still picture
N_BESIDE = 5  # neighbors that stand beside the query; further ones go into a table of their own


def save_report(
    path,
    *,
    query,
    neighbors,
    archive=(),
    archive_name=None,
    model_info=None,
    settings=None,
    show=(),
    votes=None,
    summary=None,
    index=None,
    query_X=None,
    margin_mm=30.0,
    full=False,
):
    """Write the answer to a query as one HTML file that loads nothing from anywhere.

    Query and neighbors stand side by side at one scale, in radiological display; their planes are scrolled
    in the browser. Voxels and pictures end `margin_mm` from the tumor's box, since whole heads have faces.

    Parameters
    ----------
    path : str or Path
        The file to write.
    query : Tumor or sequence of Tumor
        The query tumors; one section each.
    neighbors : DataFrame
        Of `TumorIndex.search` or ``Answer.neighbors``.
    archive : iterable of Tumor, default=()
        Where the neighbors' pictures come from, by ``tumor_id``; one that is not there has no picture.
    archive_name, model_info, settings : str, mapping, mapping, optional
        Shown at the bottom: for instance the index's path, what `describe_model` returns (where its key
        ``pretrained_on_simulated`` is true the sheet says so at the top), and those of the search.
    show : sequence of str, default=()
        Further columns of `neighbors` to show.
    votes, summary : DataFrame, optional
        Of `answers.votes`, which take the place of plain counts of the neighbors' labels, and
        `answers.summarize`.
    index, query_X : TumorIndex, array-like of shape (n_queries, n_features), optional
        The archive searched and the queries' embeddings: the sheet has a map of the archive, its sizes and
        types, and tells how many tumors each neighbor's scan has.
    full : bool, default=False
        Embed whole scans instead, with their faces. Get permission first.

    Returns
    -------
    path : Path

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
        listed = ", ".join(neighbors.columns)
        raise ValueError(
            f"Parameter 'show' must name columns of the neighbors ({listed}). Got '{unknown[0]}'."
        )
    if len(neighbors) and not neighbors["query"].between(0, len(query) - 1).all():
        raise ValueError(
            f"'neighbors' must be those of the {len(query)} query tumors. Got other rows in 'query'."
        )
    if index is not None and query_X is None:
        raise ValueError("Parameter 'index' needs 'query_X', the embeddings of the queries. Got None.")
    around = None if index is None else Neighborhood(index, query_X)
    archive = {tumor.tumor_id: tumor for tumor in archive}
    drawing = {"margin_mm": np.inf if full else margin_mm, "n_pixels": N_PIXELS}
    drawing["n_bytes"] = int(min(TUMOR_BYTES, SHEET_BYTES / (len(query) + len(neighbors))))
    sections = [
        _section(query, i, neighbors[neighbors["query"] == i], archive, show, drawing, around)
        | {"votes": _lines(votes, i, describe_vote), "summary": _lines(summary, i, describe_summary)}
        for i in range(len(query))
    ]
    facts = (
        dict(model_info or {}) | ({"Archive": archive_name} if archive_name else {}) | dict(settings or {})
    )
    shown = None if full else f"{margin_mm:g}"
    return write_page(path, "answer", facts=facts, sections=sections, shown=shown)


def describe_model(embedder, path=None):
    """Return what an answer sheet says of a fitted `TumorEmbedder`, as a dict for ``model_info``."""
    facts = {} if path is None else {"Model": Path(path).name}
    facts["Fingerprint"] = embedder.fingerprint_
    training = getattr(embedder, "training_", None) or {}
    if training:
        data = ", ".join(training.get("data", [])) or "unnamed"
        tumors, patients = training.get("n_tumors", "?"), training.get("n_patients", "?")
        facts |= {"pretrained_on_simulated": True} if "simulated" in training.get("data", []) else {}
        facts["Trained on"] = f"{counted(tumors, 'tumor')} of {counted(patients, 'patient')} (data: {data})"
    return facts


def _section(query, i, neighbors, archive, show, drawing, around):
    """Return what the template needs for one query tumor and its neighbors."""
    tumor, row = query[i], query.table.iloc[i]
    found = [archive.get(tumor_id) for tumor_id in neighbors["tumor_id"]] if len(neighbors) else []
    shown = [t if t is not None and _readable(t) else None for t in [tumor, *found]]
    sized = [t for t in shown if t is not None]
    drawing = drawing | {"extent_mm": picture_extent(sized, drawing["margin_mm"]) if sized else None}
    same_scan = query.table["case_id"] == row["case_id"]
    scan = (int(same_scan.sum()), float(query.table.loc[same_scan, "volume_mm3"].sum()))
    first = column_of(row, shown[0], lesions=scan if tumor.case.has_mask else None, **drawing)
    columns = [first]
    for (_, neighbor), picture_of in zip(neighbors.iterrows(), shown[1:], strict=True):
        lesions = None if around is None else around.lesions(neighbor)
        rank = int(neighbor["rank"])
        columns.append(column_of(neighbor, picture_of, rank=rank, show=show, lesions=lesions, **drawing))
        for task, cell in columns[-1]["facts"].items():
            known = cell.get("label") and cell["text"] is not None and first["labels"].get(task) is not None
            cell["agrees"] = cell["text"] == first["labels"][task] if known else None
    for number, column in enumerate(columns):
        column["key"] = f"t{i}-{number}"
    closeness = describe_closeness(neighbors) if "p_value" in neighbors and len(neighbors) else None
    section = {"columns": columns, "tables": _tables(columns), "planes": PLANES}
    section |= {"closeness": closeness, "counts": _counts(neighbors), "n_neighbors": len(neighbors)}
    section["far"] = closeness is not None and bool(neighbors["no_close_match"].iloc[0])
    section |= {"map": None, "sizes": None, "types": [], "task": None}
    if around is not None and len(neighbors):
        tasks = [*_counts(neighbors), *labels_of(row)]
        task = "type" if "type" in tasks or not tasks else tasks[0]
        section |= {"task": task, "map": around.map(i, neighbors, task)}
        section |= {"types": around.types(neighbors, task)}
        section["sizes"] = (
            around.sizes(row.get("volume_mm3"), neighbors) if "volume_mm3" in neighbors else None
        )
    return section


def _tables(columns):
    """Return the columns that stand side by side, the query first in each table, and the rows of facts."""
    query, rest = columns[0], columns[1:]
    parts = [rest[start : start + N_BESIDE] for start in range(0, len(rest), N_BESIDE)] or [[]]
    tables = []
    for part in parts:
        beside = [query, *part]
        names = list(dict.fromkeys(name for column in [*part, query] for name in column["facts"]))
        rows = [(name, [column["facts"].get(name) for column in beside]) for name in names]
        tables.append({"columns": beside, "rows": rows})
    return tables


def _lines(table, query, describe):
    """Return the rows of one query in words."""
    if table is None:
        return []
    return [describe(row) for _, row in table[table["query"] == query].iterrows()]


def _readable(tumor):
    """Tell whether a tumor's files are there and its box fits; warn if not."""
    try:
        tumor.check()
        tumor.case.check_grid()
    except (OSError, ValueError) as err:
        warnings.warn(f"No picture of tumor '{tumor.tumor_id}': {err}", stacklevel=2)
        return False
    return True


def _counts(neighbors):
    """Return task → [(label, count), …] over the neighbors, most frequent first."""
    counts = {}
    for name, task in label_columns(neighbors).items():
        found = Counter(shown_text(value) for value in neighbors[name])
        if set(found) - {None}:
            ordered = sorted(found.items(), key=lambda item: (item[0] is None, -item[1]))  # unknown last
            counts[task] = [(label or UNKNOWN, n) for label, n in ordered]
    return counts
