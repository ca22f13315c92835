"""`Answer`: what an archive says to a query, as tables, text and a page."""

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim import answers
from tumorsim._validation import counted
from tumorsim.manifest import write_table
from tumorsim.records import Cohort
from tumorsim.records.columns import BOX_COLUMNS, IN_SCAN, OWN_COLUMNS, label_columns
from tumorsim.report import describe_model, render_notebook, save_report
from tumorsim.retrieval._query import UNKNOWN_PATIENT

_N_SHOWN = 5  # queries in a notebook
_TABLES = ("neighbors", "votes", "summary", "left_out", "inferred", "courses")
ACCEPTED = {"Query tumors": "proposed by the model, accepted by a person"}
PROPOSED = (
    "No verdict: the model proposed this lesion, and it may be normal anatomy. Look at it; then accept it by "
    "its number (accept=[1], --accept 1), or give a box or a mask."
)


@dataclass(eq=False, repr=False)
class Answer:
    """What an archive says to a query, by `find_similar`: printed a text, in a notebook with pictures.

    Attributes
    ----------
    queries : Cohort
        The query's tumors.
    X : ndarray of shape (n_queries, n_features), dtype=float32
        Their embeddings.
    neighbors : DataFrame
        One row per query and neighbor: ``query`` (row of `queries`), ``rank`` (from 1), ``distance``, the
        labels, then the further columns of `TumorIndex.search`.
    votes : DataFrame
        One row per query and task, see `answers.votes`.
    summary : DataFrame
        One row per query and column of `show`, see `answers.summarize`.
    left_out : DataFrame
        Tumors of the query's own scan or patient that were among the nearest: ``query``, ``tumor_id``,
        ``case_id``, ``patient_id`` and ``reason`` ("same scan" or "same patient").
    inferred : DataFrame
        What the network infers, apart from labels: ``query``, ``rank`` (0: the query itself), ``task``,
        ``label`` and ``probability``.
    notes : list of str
        Warnings on the whole answer.
    proposed : bool
        Whether the model proposed the tumors: nobody drew or accepted them, and there is no vote.
    settings : dict
        Parameters of the search, in words.
    show : tuple of str
        Further columns that are shown.
    aspects : dict of str to float
        Weights of the aspects that the distance joins; empty for the plain distance.
    index, embedder : TumorIndex, TumorEmbedder
        With which the answer was found.
    history : DataFrame
        Volumes of the query's own lesions: ``lesion_id``, ``date`` or ``visit``, and ``volume_mm3``.
    """

    queries: Cohort
    X: np.ndarray
    neighbors: pd.DataFrame
    votes: pd.DataFrame
    summary: pd.DataFrame
    left_out: pd.DataFrame
    inferred: pd.DataFrame
    notes: list
    proposed: bool
    settings: dict
    show: tuple
    aspects: dict
    index: object
    embedder: object
    history: pd.DataFrame

    def __post_init__(self):
        first = ["query", "rank", "distance", *label_columns(self.neighbors)]
        self.neighbors = self.neighbors[[*first, *self.neighbors.columns.drop(first)]]

    @property
    def closeness(self) -> pd.DataFrame:
        """One row per query: ``query``, ``p_value``, ``no_close_match`` and ``text``."""
        rows = []
        for i in range(len(self.queries)):
            found = self._of(self.neighbors, i)
            left_out = "Left out" in self.settings or len(self._of(self.left_out, i)) > 0
            row = {"query": i, "p_value": np.nan, "no_close_match": False}
            if len(found) and "p_value" in found:
                row |= {name: found[name].iloc[0] for name in ("p_value", "no_close_match")}
            text = answers.describe_closeness(found, left_out=left_out)
            rows.append(row | {"text": PROPOSED if self.proposed else text})
        return pd.DataFrame(rows, columns=["query", "p_value", "no_close_match", "text"])

    @cached_property
    def courses(self) -> pd.DataFrame:
        """Volumes over time of lesions with several dates, see `answers.courses`; rank 0: the query."""
        own = self.queries.table.assign(query=range(len(self.queries)), rank=0)
        asked = (own, self.history), (self.neighbors, self.index.metadata_)
        return pd.concat([answers.courses(*pair) for pair in asked], ignore_index=True)

    def __str__(self):
        parts = [f"Note: {note}" for note in self.notes]
        for i, closeness in enumerate(self.closeness["text"]):
            found = self._of(self.neighbors, i)
            table = [self._shown(found).to_string(index=False, na_rep="-")] if len(found) else []
            parts += [self._title(i), closeness, *table, *self._lines(i)]
        return "\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self):
        n = min(len(self.queries), _N_SHOWN)
        texts = self.closeness["text"][:n]
        lines = [[] if self.proposed else [text, *self._lines(i)] for i, text in enumerate(texts)]
        lines[0][:0] = self.notes
        rows = self.neighbors[self.neighbors["query"] < n]
        parts = {"archive": neighbor_tumors(rows), "proposed": self.proposed, "queries": self.queries}
        return render_notebook([self._title(i) for i in range(n)], lines, rows, aspects=self.aspects, **parts)

    def to_frame(self) -> pd.DataFrame:
        """Return the neighbors with the query's id in column ``query_tumor_id``, for other tools."""
        frame = self.neighbors.copy()
        frame.insert(1, "query_tumor_id", self.queries.tumor_ids[frame["query"]])
        return frame

    def to_dict(self) -> dict:
        """Return everything as dicts and lists of text, numbers, booleans and None, ready for JSON."""
        closeness, queries = _plain(self.closeness.drop(columns="query")), _plain(self.queries.table)
        for i, query in enumerate(queries):
            query["closeness"] = closeness[i]
            query |= {name: _plain(self._of(getattr(self, name), i)) for name in _TABLES}
        told = {"settings": dict(self.settings), "aspects": dict(self.aspects), "notes": list(self.notes)}
        return told | {"proposed": self.proposed, "queries": queries}

    def save_csv(self, path: str | PathLike) -> Path:
        """Write `to_frame` as CSV, atomically."""
        write_table(path, self.to_frame())
        return Path(path)

    def save_html(
        self, path: str | PathLike, *, full: bool = False, archive=None, archive_name: str | None = None,
        model_name: str | PathLike | None = None,
    ) -> Path:  # fmt: skip
        """Write the answer sheet: one HTML file that loads nothing from anywhere.

        Parameters
        ----------
        path : path
        full : bool, default=False
            Embed whole scans, with their faces. Get permission first.
        archive : iterable of Tumor, optional
            Where the neighbors' pictures come from. Default: the files that the index names.
        archive_name, model_name : str or path, optional
            Shown at the bottom.

        Returns
        -------
        path : Path
            A tumor whose scan cannot be read is shown without a picture, with a warning.
        """
        size = counted(self.index.n_samples_fit_, "tumor")
        names = "neighbors show aspects votes summary index inferred courses left_out notes proposed settings"
        facts = {"query": self.queries, "query_X": self.X}
        facts |= {name: getattr(self, name) for name in names.split()}
        facts["archive"] = neighbor_tumors(self.neighbors) if archive is None else archive
        facts["archive_name"] = f"{archive_name} ({size})" if archive_name else size
        return save_report(path, model_info=describe_model(self.embedder, model_name), full=full, **facts)

    def _title(self, i):
        """Return a query's id and volume."""
        proposed = " (proposed by the model)" if self.proposed else ""
        if "confidence" in self.queries[i].metadata:
            proposed += f", confidence {self.queries[i].metadata['confidence']:.2f}"
        return f"{self.queries[i].tumor_id}: {answers.describe_volume(self.queries.table.iloc[i])}{proposed}"

    def _lines(self, i):
        """Return votes, courses and summary of a query in words."""
        votes = [answers.describe_vote(vote) for _, vote in self._of(self.votes, i).iterrows()]
        votes += answers.describe_disagreements(self._of(self.inferred, i), self._of(self.neighbors, i))
        for rank, course in self._of(self.courses, i).groupby("rank"):
            whose = f"Neighbor {rank}, volume over time" if rank else "Volume over time"
            votes.append(f"{whose}: {answers.describe_course(course)}")
        return votes + [answers.describe_summary(line) for _, line in self._of(self.summary, i).iterrows()]

    def _shown(self, found):
        """Return the columns of one query's neighbors that people read, with the nearness in aspects."""
        names = ["rank", "distance", *(f"distance_{name}" for name in self.aspects), "tumor_id", "patient_id"]
        names += [*label_columns(found), "volume_mm3", *self.show, "same"]
        table = found[[name for name in dict.fromkeys(names) if name in found]].round(3)
        text = table.select_dtypes(exclude="number")
        table[text.columns] = text.where(text.notna(), "-")
        words = [answers.describe_aspects(neighbor) for neighbor in found.to_dict("records")]
        return table.assign(**{"nearer than random pairs": words}) if any(words) else table

    @staticmethod
    def _of(table, i):
        """Return a table's rows of one query."""
        return table[table["query"] == i]


def neighbor_tumors(neighbors: pd.DataFrame) -> Cohort:
    """Return the neighbors of a search as tumors, as far as their metadata name image and box.

    Parameters
    ----------
    neighbors : DataFrame
        ``Answer.neighbors``, or of `TumorIndex.search`.

    Returns
    -------
    cohort : Cohort
        Each tumor once. Files may have moved since; they are not looked at.
    """
    if not {"tumor_id", "image", *BOX_COLUMNS} <= set(neighbors.columns):
        return Cohort([])
    rows = neighbors.reindex(columns=[*OWN_COLUMNS, IN_SCAN, *label_columns(neighbors)])
    rows = rows.dropna(subset=["image", *BOX_COLUMNS]).drop_duplicates("tumor_id")
    rows["case_id"] = rows["case_id"].fillna(rows["tumor_id"])
    rows["patient_id"] = rows["patient_id"].fillna(UNKNOWN_PATIENT)
    return Cohort.from_table(rows.reset_index(drop=True), check=False)


def _plain(table):
    """Return a table's rows as dicts of Python's own values; what is missing is None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()} for row in rows]
