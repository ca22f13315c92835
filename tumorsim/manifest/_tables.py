"""Tables as text: rows with line numbers, bad rows reported together, paths relative to the table."""

import csv
import importlib.util
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from tumorsim._validation import install_hint
from tumorsim.exceptions import ManifestError
from tumorsim.io import atomic_path
from tumorsim.records.columns import (
    FILE_COLUMNS,
    LABEL_PREFIX,
    OWN_COLUMNS,
    further_columns,
    is_missing,
    label_columns,
)

__all__ = [
    "Problems",
    "Row",
    "Table",
    "read_table",
    "real_path",
    "relative_path",
    "typed_cells",
    "write_table",
]

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,14})")
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf")
_NO_NUMBER = ("", "NA", "NaN", "nan")  # how programs write a missing number


@dataclass
class Row:
    """One row: its line (the header is line 1) and its cells, column → text."""

    line: int
    cells: dict

    def get(self, column):
        """Return a cell without surrounding blanks; empty where the column is missing."""
        return self.cells.get(column, "").strip()


class Table:
    """A table of text cells: `path`, `columns`, `rows` (list of Row), `problems`; `unit` is what a row is."""

    def __init__(self, path, columns, rows, unit="line"):
        self.path = path
        self.columns = columns
        self.rows = rows
        self.problems = Problems(path, unit)
        self.tasks = label_columns(columns)  # column → task
        self.folder = Path(os.path.realpath(path.parent))
        self.names = {}  # absolute path → how the table names it
        if LABEL_PREFIX in self.tasks:
            raise ManifestError(f"'{path}': a label column must name its task: 'label_<task>'. Got 'label_'.")
        if not rows:
            raise ManifestError(f"'{path}' has a header, but no rows.")

    def require(self, columns):
        """Raise ``ManifestError`` unless all `columns` are there."""
        missing = [c for c in columns if c not in self.columns]
        if missing:
            listed = ", ".join(f"'{c}'" for c in missing)
            raise ManifestError(
                f"'{self.path}' must have the columns {', '.join(columns)}. Missing: {listed}. "
                f"Got {', '.join(self.columns)}."
            )

    def locate(self, cell):
        """Return the file that a cell names as an absolute path."""
        path = real_path(self.folder / Path(cell).expanduser())
        self.names[path] = cell
        return path

    def existing_files(self, row):
        """Return column → absolute path of the files that a row names (`image`, `mask`), which must exist."""
        files = {column: self.locate(row.get(column)) for column in FILE_COLUMNS if row.get(column)}
        for column, path in files.items():
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{column} '{row.get(column)}' does not exist.")
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
        self.path = path
        self.unit = unit
        self.reasons = {}  # line → reason
        self.errors = {}  # line → exception
        self.rows = {}  # line → Row

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
                with atomic_path(list_path) as temporary:
                    temporary.write_text(
                        "\n".join([*(f"'{self.path}', {x}" for x in lines), ""]), encoding="utf-8"
                    )
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
    columns = [_typed([row.get(name, "") for row in rows]) for name in names]
    return [{name: column[i] for name, column in zip(names, columns, strict=True)} for i in range(len(rows))]


def read_table(path):
    """Read a CSV or Parquet file as text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ManifestError
        If it is no table, or its header has no comma or names a column twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Table '{path}' does not exist.")
    records = _read_parquet(path) if _is_parquet(path) else _read_csv(path)
    if not records:
        raise ManifestError(f"'{path}' is empty. It must start with a header line.")
    header = [name.strip() for name in records[0][1]]
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        sign = "semicolons" if ";" in header[0] else "tabs"
        raise ManifestError(
            f"'{path}' must separate its columns by commas. Got {sign}. Save it as comma-separated CSV."
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ManifestError(f"'{path}' must name every column once. Got twice: {', '.join(twice)}.")
    rows, too_long = [], []
    for line, cells in records[1:]:
        if not any(cell.strip() for cell in cells):
            continue  # spreadsheets write empty rows at the end, and no empty cells at the end of a row
        rows.append(Row(line, {name: cell for name, cell in zip(header, cells, strict=False) if name}))
        if any(cell.strip() for cell in cells[len(header) :]):
            too_long.append((rows[-1], len(cells)))
    table = Table(path, [name for name in header if name], rows)
    for row, n_cells in too_long:
        wrong = (
            f"the header has {len(header)} columns, this row {n_cells}. Put cells with commas into quotes."
        )
        table.problems.add(row, ManifestError(wrong))
    return table


def write_table(path, frame, *, for_people=False):
    """Write a DataFrame as CSV (UTF-8) or Parquet, atomically; missing is empty.

    With `for_people`, text of a CSV file that a spreadsheet would take for a formula gets a ``'`` before it.
    """
    path = Path(path)
    if _is_parquet(path):
        _require_pyarrow(path)
    with atomic_path(path) as temporary:
        if _is_parquet(path):
            frame.to_parquet(temporary, index=False)
        else:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(frame.columns)
                text = _unrun if for_people else _text
                writer.writerows([text(v) for v in row] for row in frame.itertuples(index=False, name=None))


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


def _read_csv(path):
    """Return (line, cells) of each record of a CSV file; a record starts at its first line."""
    records, line = [], 1
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    records.append((line, cells))
                line = reader.line_num + 1
    except UnicodeDecodeError as err:
        raise ManifestError(f"'{path}' must be UTF-8 text. Save it as 'CSV UTF-8'. ({err})") from err
    except csv.Error as err:
        raise ManifestError(f"'{path}', line {line}: not readable as CSV: {err}.") from err
    return records


def _read_parquet(path):
    """Return (line, cells) of each row of a Parquet file, as if it were CSV."""
    import pandas as pd

    _require_pyarrow(path)
    try:
        frame = pd.read_parquet(path)
    except Exception as err:  # pyarrow raises kinds of its own
        raise ManifestError(f"'{path}' cannot be read as Parquet: {err}") from err
    rows = [(i, [_text(v) for v in row]) for i, row in enumerate(frame.itertuples(index=False, name=None), 2)]
    return [(1, [str(name) for name in frame.columns]), *rows]


def _require_pyarrow(path):
    """Raise ``ManifestError`` unless pyarrow is installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ManifestError(f"'{path}' is a Parquet file, which needs pyarrow. {install_hint('parquet')}")


def _is_parquet(path):
    """Tell by the suffix whether a table is Parquet."""
    return path.suffix.lower() in (".parquet", ".pq")


def _text(value):
    """Return a cell as text: missing is empty, numbers keep every digit, line breaks are newlines."""
    # csv does not quote a lone carriage return before Python 3.13, and would read two rows
    return "" if is_missing(value) else str(value).replace("\r\n", "\n").replace("\r", "\n")


def _unrun(value):
    """Return a cell as text that no spreadsheet runs; numbers stay."""
    text = _text(value)
    return f"'{text}" if isinstance(value, str) and text.lstrip()[:1] in ("=", "+", "-", "@") else text


def _typed(cells):
    """Return a column as int, as float where cells are missing, or as text (empty: None) if any is no number.

    Codes such as 007 and numbers too long for a float stay text.
    """
    stripped = [cell.strip() for cell in cells]
    numbers = [cell for cell in stripped if cell not in _NO_NUMBER]
    if not numbers or not all(_NUMBER.fullmatch(cell) for cell in numbers):
        return [cell if cell.strip() else None for cell in cells]
    if len(numbers) == len(cells) and all(_WHOLE.fullmatch(cell) for cell in cells):
        return [int(cell) for cell in cells]
    return [float("nan") if cell in _NO_NUMBER else float(cell) for cell in stripped]
