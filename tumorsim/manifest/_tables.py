"""Tables as text: rows with line numbers, bad rows reported together, paths relative to the table."""

import os
import re
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

from tumorsim._validation import printable
from tumorsim.exceptions import ManifestError
from tumorsim.io import write_text
from tumorsim.manifest._formats import NUMBER, read_cells
from tumorsim.manifest._guesses import looking_like, point_columns, remarks_of
from tumorsim.records.columns import (
    FILE_COLUMNS,
    ID_COLUMNS,
    LABEL_PREFIX,
    OWN_COLUMNS,
    clean_id,
    clean_text,
    further_columns,
    is_blank,
    label_columns,
)

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,14})")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # C:\ or \\server
_ACTS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]"
)


@dataclass
class Row:
    """One row: its line (the header is line 1) and its cells, column → text."""

    line: int
    cells: dict

    def get(self, column):
        """Return a cell without surrounding blanks; empty where column or value is missing."""
        cell = self.cells.get(column, "").strip()
        return "" if is_blank(cell) else cell


class Table:
    """A table of text cells.

    `path`, `columns`, `rows` (list of Row), `problems`; `unit` is what a row is, `separator` that of a CSV.
    """

    def __init__(self, path, columns, rows, unit="line", separator=None):
        self.path, self.columns, self.rows = path, columns, rows
        self.problems = Problems(path, unit)
        self.tasks = label_columns(columns)  # column → task
        self.folder = Path(os.path.realpath(path.parent))
        self.names = {}  # absolute path → how the table names it
        if LABEL_PREFIX in self.tasks:
            raise ManifestError(f"'{path}': a label column must name its task: 'label_<task>'. Got 'label_'.")
        if not rows:
            raise ManifestError(f"'{path}' has a header, but no rows.")
        for row in rows:
            try:
                self._clean(row)
            except ValueError as err:
                self.problems.add(row, err)
        self.problems.remarks = [*point_columns(self, separator), *remarks_of(self)]

    def _clean(self, row):
        """Clean the ids and further cells of a row in place, or raise ``ValueError``."""
        for name in row.cells.keys() - OWN_COLUMNS - self.tasks.keys():
            row.cells[name] = _ACTS.sub("\ufffd", row.cells[name])
        for name in row.cells.keys() & ID_COLUMNS:
            row.cells[name] = clean_id(row.cells[name], name)
        for name in row.cells.keys() & FILE_COLUMNS:
            cell = row.get(name)
            if _ACTS.search(cell):
                raise ManifestError(f"{name} must have no control characters. Got {cell!r}.")
            if os.name != "nt" and _DRIVE.match(cell) and not os.path.exists(self.locate(cell)):
                what = f"{name} '{cell}' is a path of Windows with a drive."
                raise ManifestError(f"{what} Write it relative to the table.")

    def require(self, columns):
        """Raise ``ManifestError`` unless all `columns` are there; it says which columns look like them."""
        missing = [c for c in columns if c not in self.columns]
        if missing:
            looks = {c: map(printable, looking_like(self.columns, c)) for c in missing}
            alike = {c: " or ".join(f"'{name}'" for name in names) for c, names in looks.items()}
            listed = ", ".join(f"'{c}'" + (f" (is it {alike[c]}?)" if alike[c] else "") for c in missing)
            remedy = " Give 'tumorsim manifest' --columns NAME=COLUMN,… to map them."
            remedy = remedy if any(alike.values()) else ""
            rule = f"'{self.path}' must have the columns {', '.join(columns)}. Missing: {listed}."
            raise ManifestError(f"{rule} Got {_listed(self.columns)}.{remedy}")

    def locate(self, cell):
        """Return the file that a cell names; backslashes may be slashes, letters composed or not (macOS)."""
        slashes = cell.replace("\\", "/")
        ways = (cell, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))
        path, *others = (real_path(self.folder / os.path.expanduser(way)) for way in dict.fromkeys(ways))
        if others and not os.path.exists(path):
            path = next(filter(os.path.exists, others), path)
        self.names[path] = cell
        return path

    def existing_files(self, row):
        """Return column → absolute path of the files that a row names (`image`, `mask`), which must exist."""
        files = {column: self.locate(row.get(column)) for column in FILE_COLUMNS if row.get(column)}
        for column, path in files.items():
            if not os.path.isfile(path):
                what = "is a folder, not a file" if os.path.isdir(path) else "does not exist"
                raise FileNotFoundError(f"{column} '{row.get(column)}' {what}.")
        return files

    def labels(self, row):
        """Return task → label of a row, None where it is missing."""
        return {task: row.get(column) or None for column, task in self.tasks.items()}

    def metadata(self, rows):
        """Return a dict of the further columns for each row: numbers where a whole column is numeric."""
        return typed_cells([row.cells for row in rows], further_columns(self.columns))

    def frame(self):
        """Return own and label columns of the rows that are not bad as a DataFrame; its index: the lines."""
        import pandas as pd

        names = [name for name in (*OWN_COLUMNS, *self.tasks) if name in self.columns]
        rows = [row for row in self.rows if row.line not in self.problems.reasons]
        cells = [
            {n: self.locate(row.get(n)) if n in FILE_COLUMNS and row.get(n) else row.get(n) for n in names}
            for row in rows
        ]
        index = pd.Index([row.line for row in rows], name=self.problems.unit)
        return pd.DataFrame(cells, index=index, columns=names, dtype=object)


class Problems:
    """Bad rows of a table, reported together."""

    def __init__(self, path, unit="line"):
        self.path, self.unit = path, unit
        self.reasons, self.errors, self.rows = {}, {}, {}  # line → text, exception, Row
        self.remarks = []  # on the table as a whole: (kind, line or 0, problem, remedy)

    def __len__(self):
        return len(self.reasons)

    def add(self, row, err, table=None):
        """Note the error of a row; with its `table` the message names files as the table does."""
        reason, cells = str(err), []
        if table is not None:
            cells = [row.get(column) for column in FILE_COLUMNS if row.get(column)]
            for cell in cells:
                reason = reason.replace(table.locate(cell), cell)
            reason = re.sub("'([^']*)'", lambda quoted: f"'{table.names.get(quoted[1], quoted[1])}'", reason)
        if cells and not any(cell in reason for cell in cells):
            reason = f"'{cells[0]}': {reason}"
        reason = printable(" ".join(reason.splitlines()), 1000)
        self.reasons.setdefault(row.line, reason if reason.endswith(".") else f"{reason}.")
        self.errors.setdefault(row.line, err)
        self.rows.setdefault(row.line, row)

    def finish(self, list_path, *, n_rows, skip_bad, always_list, stacklevel=3):
        """Raise, or with `skip_bad` warn, with all bad rows; long lists go to the file `list_path`."""
        if not self.reasons:
            return
        lines = [f"{self.unit} {line}: {reason}" for line, reason in sorted(self.reasons.items())]
        where = ""
        if list_path is not None and (always_list or len(lines) > 5):
            where = f"; see '{list_path}'"
            try:
                write_text(list_path, "".join(f"'{self.path}', {line}\n" for line in lines))
            except OSError as err:  # a read-only folder: all goes into the message
                where = f" ('{list_path}' cannot be written: {err.strerror})"
        text = f"'{self.path}', {lines[0]}"
        noun = "row" if self.unit == "line" else self.unit
        if len(lines) > 1:
            text += f" {len(lines) - 1} more {noun}{'s are' if len(lines) > 2 else ' is'} bad{where}."
        elif where:
            text += f" 1 {noun} is bad{where}."
        if 1 < len(lines) <= 5 or "cannot be written" in where:
            text += "".join(f"\n  {x}" for x in lines[1:])
        if not skip_bad or len(lines) >= n_rows:
            raise ManifestError(text)
        warnings.warn(f"Went on without {len(lines)} of {n_rows} {noun}s. {text}", stacklevel=stacklevel)


def typed_cells(rows, names):
    """Return of each row (dict of text) the columns `names`: numbers where a whole column is numeric."""
    columns = [typed_column([row.get(name, "") for row in rows]) for name in names]
    return [{name: column[i] for name, column in zip(names, columns, strict=True)} for i in range(len(rows))]


def read_table(path, columns=None):
    """Read a CSV, Excel or Parquet file as text.

    Parameters
    ----------
    path : str or Path
        CSV may be separated by commas, semicolons or tabs; of an Excel file the first sheet is read.
    columns : dict, optional
        Name of a column → its name in the table.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ManifestError
        If it is no table, names a column twice, or lacks one of `columns`.
    """
    path = Path(path)
    records, separator = read_cells(path)
    header = _header(path, records.pop(0)[1], columns or {})
    rows, too_long = [], []
    for line, cells in records:  # spreadsheets write no empty cells at the end of a row
        rows.append(Row(line, {name: cell for name, cell in zip(header, cells, strict=False) if name}))
        if any(cell.strip() for cell in cells[len(header) :]):
            too_long.append((rows[-1], len(cells)))
    table = Table(path, [name for name in header if name], rows, separator=separator)
    for row, n_cells in too_long:
        wrong = f"the header has {len(header)} columns, this row {n_cells}."
        table.problems.add(row, ManifestError(f"{wrong} Put cells with commas into quotes."))
    return table


def _header(path, cells, columns):
    """Return the names of a table's columns, those that `columns` (name → name in the table) maps renamed."""
    header = [clean_text(name) for name in cells]
    for ours, theirs in columns.items():
        if theirs not in header:
            raise ManifestError(f"'{path}' has no column '{theirs}' to be '{ours}'. Got {_listed(header)}.")
        if ours in header and ours not in columns.values():
            raise ManifestError(f"'{path}' has a column '{ours}' already. Map '{theirs}' to another name.")
    names = {theirs: ours for ours, theirs in columns.items()}
    if len(names) < len(columns):
        raise ManifestError(f"'columns' must map each column of '{path}' once. Got {columns}.")
    header = [names.get(name, name) for name in header]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ManifestError(f"'{path}' must name every column once. Got twice: {_listed(twice)}.")
    return header


def _listed(names):
    """Return names of columns for a message."""
    return printable(", ".join(name for name in names if name))


def real_path(path):
    """Return an absolute path whose folders are no links; the file may be one, as data managers make them."""
    path = os.fspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def relative_path(path, folder):
    """Return `path` relative to `folder`, or absolute where no relative path exists (another drive)."""
    path = real_path(path)
    try:
        return Path(os.path.relpath(path, os.path.realpath(folder))).as_posix()
    except ValueError:
        return path


def typed_column(cells):
    """Return a column as int, as float where cells are missing, or as text (empty: None) if any is no number.

    Codes such as 007 and numbers too long for a float stay text.
    """
    stripped = [cell.strip() for cell in cells]
    numbers = [cell for cell in stripped if not is_blank(cell)]
    if not numbers or not all(NUMBER.fullmatch(cell) for cell in numbers):
        return [cell if cell.strip() else None for cell in cells]
    if len(numbers) == len(cells) and all(_WHOLE.fullmatch(cell) for cell in cells):
        return [int(cell) for cell in cells]
    return [float("nan") if is_blank(cell) else float(cell) for cell in stripped]
