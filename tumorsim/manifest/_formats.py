"""Files of tables: CSV as programs and spreadsheets write it, Excel and Parquet ↔ cells of text."""

import csv
import importlib.util
import io
import re
import warnings
import zipfile
from datetime import datetime, time
from pathlib import Path

from tumorsim._validation import install_hint, printable
from tumorsim.exceptions import ManifestError
from tumorsim.io import atomic_path
from tumorsim.records.columns import is_missing

NUMBER = re.compile(r"[+-]?((0|[1-9]\d{0,14})(\.\d*)?|[1-9]\d*\.\d+|\.\d+)([eE][+-]?\d+)?|[+-]?inf")
_FORMULA = re.compile(r"'*(\s*[=+\-@＝＋－＠]|\t|\r).", re.DOTALL)  # what spreadsheets run, marked or not
_NO_NAME = re.compile(r"[\x00-\x08\x0e-\x1f]")  # control characters that no column's name has
_MOST_BYTES = 2**28  # of an Excel file, unpacked


def read_cells(path):
    """Return the rows of a table that are not blank as (line, list of text), and what separates those of CSV.

    CSV may be separated by commas, semicolons or tabs, and written as UTF-8, UTF-16 or Windows-1252; of an
    Excel file the first sheet is read. The kind is told by the content, not by the name; ManifestError says
    that it is none of these.
    """
    path = Path(path)
    if path.is_dir():
        raise ManifestError(f"'{path}' is a folder. Give a table: a CSV, Excel or Parquet file.")
    if not path.is_file():
        raise FileNotFoundError(f"Table '{path}' does not exist.")
    with open(path, "rb") as file:
        start = file.read(8)
    separator = None
    if start.startswith(b"PAR1"):
        records = _read_parquet(path)
    elif start.startswith(b"PK\x03\x04"):
        records = _read_excel(path)
    elif start == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        what = f"'{path}' is an Excel file of the old kind, or has a password."
        raise ManifestError(f"{what} Save it as .xlsx without one.")
    elif path.suffix.lower() in (".xlsx", ".xlsm", ".parquet", ".pq"):
        raise ManifestError(f"'{path}' is no {path.suffix} file: it is damaged, or has a wrong name.")
    else:
        records, separator = _read_csv(path)
    records = [(line, cells) for line, cells in records if any(cell.strip() for cell in cells)]
    if not records:
        raise ManifestError(f"'{path}' is empty. It must start with a header line.")
    if _NO_NAME.search("".join(records[0][1])) or any("\0" in cell for _, cells in records for cell in cells):
        raise ManifestError(f"'{path}' is no table, or damaged: it must be text. Save it as 'CSV UTF-8'.")
    return records, separator


def write_table(path, frame):
    """Write a DataFrame as CSV (UTF-8) or Parquet, atomically; missing is empty.

    Text that a spreadsheet would run as a formula (it begins with = + - @, a tab or a carriage return, and
    is no number) gets an apostrophe in front, in CSV only; `read_table` takes it away again.
    """
    path = Path(path)
    parquet = path.suffix.lower() in (".parquet", ".pq")
    if parquet:
        _require("pyarrow", path, "Parquet")
    with atomic_path(path) as temporary:
        if parquet:
            frame.to_parquet(temporary, index=False)
        else:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(_marked(name) for name in frame.columns)
                for row in frame.itertuples(index=False, name=None):
                    writer.writerow(_marked(value) for value in row)


def _marked(value):
    """Return a cell as text, with an apostrophe in front where a spreadsheet would run it."""
    text = _text(value)
    acts = isinstance(value, str) and _FORMULA.match(text) and not NUMBER.fullmatch(text.strip())
    return f"'{text}" if acts else text


def _read_csv(path):
    """Return (line, cells) of each record of a CSV file, by its first line, and the separator."""
    text = _decoded(path)
    first, _, rest = text.partition("\n")
    line, separator = 1, None
    if re.fullmatch(r"sep=.\r?", first):  # Excel's own hint
        line, separator, text = 2, first[4], rest
    skipped, records = line - 1, []
    try:
        header = io.StringIO(text.lstrip("\r\n"), newline="").readline()  # a guess raises nothing
        separator = separator or max(",;\t", key=lambda s: len(next(csv.reader([header], delimiter=s), ())))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for cells in reader:
            records.append((line, [c[1:] if c[:1] == "'" and _FORMULA.match(c) else c for c in cells]))
            line = skipped + reader.line_num + 1
    except csv.Error as err:
        raise ManifestError(f"'{path}', line {line}: not readable as CSV: {printable(err)}.") from err
    return records, separator


def _decoded(path):
    """Return the text of a CSV file; what is neither UTF-8 nor UTF-16 is taken for Windows-1252, and told."""
    data = path.read_bytes()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as err:
        text = "\0" if wide else data.decode("cp1252", errors="replace").replace("\ufffd", "\0")
        if "\0" not in text:
            warnings.warn(
                f"'{path}' is not UTF-8 and was read as Windows-1252 ({err.reason} at byte {err.start}). "
                "Look at its umlauts and accents, or save it as 'CSV UTF-8'.",
                stacklevel=6,
            )
    return text


def _read_excel(path):
    """Return (row, cells) of the first visible sheet of an Excel file, cells as a person sees them."""
    _require("openpyxl", path, "Excel", extra="xlsx")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MOST_BYTES:
                raise ValueError(f"it unpacks to more than {_MOST_BYTES >> 20} MB; save it as CSV")
            parts = [name for name in archive.namelist() if name.startswith("xl/work")]
            content = b"".join(map(archive.read, parts))
        if b"<mergeCell " in content:
            merged = "merged cells, of which only the first holds a value. Unmerge them and fill them in."
            warnings.warn(f"'{path}' has {merged}", stacklevel=2)
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of styles and extensions that are not read
            rows = list(_first_sheet(file, data_only=True))
            if re.search(rb"[<:]f[ />]", content):
                unset = (None, 0) if b'fullCalcOnLoad="1"' in content else (None,)  # some programs write 0
                _check_computed(rows, _first_sheet(file, data_only=False), unset)
        return [(i, [_shown(cell) for cell in row]) for i, row in enumerate(rows, 1)]
    except Exception as err:  # zipfile, XML parsers and openpyxl raise kinds of their own
        raise ManifestError(f"'{path}' cannot be read as Excel: {printable(err)}. Save it anew.") from err


def _first_sheet(file, *, data_only):
    """Yield the rows of the first visible sheet of an Excel file, with `data_only` values for formulas."""
    import openpyxl

    book = openpyxl.load_workbook(file, read_only=True, data_only=data_only)
    sheet = next(one for one in book.worksheets if one.sheet_state == "visible")
    sheet.reset_dimensions()
    yield from sheet.iter_rows()


def _check_computed(rows, formulas, unset):
    """Raise unless the formulas of a sheet have values other than `unset`; an empty text is one."""
    for row, own in zip(rows, formulas, strict=True):
        for cell, formula in zip(row, own, strict=True):
            if formula.data_type == "f" and cell.value in unset and cell.data_type != "str":
                what = f"the formula in cell {formula.coordinate} was never computed"
                raise ValueError(f"{what}; open the file in Excel or LibreOffice, which compute it")


def _shown(cell):
    """Return a cell of Excel as text: whole numbers without point, and leading zeros of its format."""
    value = cell.value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    zeros = isinstance(value, int) and re.fullmatch("0+", str(cell.number_format))
    return f"{value:0{len(cell.number_format)}d}" if zeros else _text(value)


def _read_parquet(path):
    """Return (line, cells) of each row of a Parquet file, as if it were CSV."""
    import pandas as pd

    _require("pyarrow", path, "Parquet")
    try:
        frame = pd.read_parquet(path)
        rows = frame.itertuples(index=False, name=None)
        rows = [(i, [_text(value) for value in row]) for i, row in enumerate(rows, 2)]
    except Exception as err:  # pyarrow raises kinds of its own
        raise ManifestError(f"'{path}' cannot be read as Parquet: {printable(err)}") from err
    return [(1, [str(name) for name in frame.columns]), *rows]


def _require(module, path, kind, extra="parquet"):
    """Raise ``ManifestError`` unless a module is installed."""
    if importlib.util.find_spec(module) is None:
        raise ManifestError(f"'{path}' is a file of {kind}, which needs {module}. {install_hint(extra)}")


def _text(value):
    """Return a cell as text: missing is empty, dates are ISO, numbers keep every digit."""
    if is_missing(value):
        return ""
    if isinstance(value, datetime):
        value = value.date() if value.time() == time() and value.tzinfo is None else value
    # csv does not quote a lone carriage return before Python 3.13, and would read two rows
    return str(value).replace("\r\n", "\n").replace("\r", "\n")
