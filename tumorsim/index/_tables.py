"""Metadata tables of an index: what they may hold, how two become one, and their file."""

import json
import numbers
import zipfile
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tumorsim._validation import check_text, is_missing
from tumorsim.geometry import ENHANCEMENT

ID_COLUMNS = ("patient_id", "case_id", "tumor_id")
TO_MEASURE = dict.fromkeys(ENHANCEMENT, " Embed the archive again, and rebuild the index.")
RESULT_COLUMNS = ("query", "rank", "distance", "p_value", "no_close_match")
_BITS = (8, 16, 32, 64)
_NULLABLE = {"boolean", "Float32", "Float64", *(f"{sign}Int{n}" for sign in ("", "U") for n in _BITS)}


def as_table(metadata, n_rows, name):
    """Return a DataFrame, dict of columns or list of dicts as a new DataFrame of `n_rows` (None: any)."""
    if isinstance(metadata, pd.DataFrame):
        table = metadata.copy()
    elif isinstance(metadata, Mapping | list):
        try:
            table = pd.DataFrame(metadata)
        except ValueError as err:
            raise ValueError(f"'{name}' cannot be made a table: {err}.") from err
    else:
        got = type(metadata).__name__
        raise TypeError(f"'{name}' must be a DataFrame, a dict or a list of dicts. Got {got}.")
    if n_rows is not None and len(table) != n_rows:
        got = f"Got {len(table)} rows for {n_rows} samples."
        raise ValueError(f"'{name}' must have one row per sample. {got}")
    table.index = pd.RangeIndex(len(table))
    for column in table.columns:
        check_text(column, f"column name in {name}")
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise ValueError(f"Columns of '{name}' must be unique. Got '{twice[0]}' twice.")
    return table


def check_metadata(metadata, n_rows):
    """Return a user's table with text as objects, where missing is None, and a ``tumor_id`` in every row."""
    table = pd.DataFrame(index=range(n_rows)) if metadata is None else as_table(metadata, n_rows, "metadata")
    if "tumor_id" not in table:
        table.insert(0, "tumor_id", [str(i) for i in range(n_rows)])
    for name in table.columns.intersection(RESULT_COLUMNS):
        rule = f"Column '{name}' of 'metadata' is reserved for the results of 'search'."
        raise ValueError(f"{rule} Rename it.")
    table = pd.DataFrame({name: _plain_column(table[name], name) for name in table})
    check_ids(table, "metadata")
    twice = table["tumor_id"][table["tumor_id"].duplicated()]
    if len(twice):
        raise ValueError(f"Every 'tumor_id' must be unique in an index. Got '{twice.iloc[0]}' twice.")
    return table


def check_ids(table, name):
    """Raise unless the id columns that `table` has are text in every row."""
    for column in ID_COLUMNS:
        for row, value in enumerate(table[column] if column in table else ()):
            if not isinstance(value, str) or not value.strip():
                rule = f"Column '{column}' of '{name}' must be text in every row. Got {value!r} in row {row}."
                remedy = f"Read tables with dtype={{'{column}': str}}, and fill in missing ids."
                raise TypeError(f"{rule} {remedy}")


def join_tables(old, new):
    """Return two checked tables one below the other; a column that one of them lacks is missing there."""
    names = dict.fromkeys([*old, *new])
    joined = {name: _join(old.get(name), new.get(name), len(old), len(new)) for name in names}
    return check_metadata(joined, len(old) + len(new))


def replace_rows(old, new, rows):
    """Return a checked table with the values of `new` at `rows`; a column that `new` lacks stays as it is."""
    order = np.arange(len(old))
    order[rows] = len(old) + np.arange(len(new))
    columns = {name: _join(old.get(name), new[name], len(old), len(new)) for name in new}
    columns = {name: both.iloc[order].reset_index(drop=True) for name, both in columns.items()}
    return check_metadata({name: old[name] for name in old} | columns, len(old))


def group_codes(table, columns):
    """Return integer codes (n_rows,) of the values of `columns`, and the dict value → code."""
    codes = pd.MultiIndex.from_frame(table[list(columns)]).factorize()
    return codes[0].astype(np.int64), {key: code for code, key in enumerate(codes[1])}


def plain_scalar(value):
    """Return a NumPy scalar as Python's own, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def kind_of(value, rule="Metadata and conditions hold"):
    """Return 'text', 'booleans' or 'numbers' for a scalar of metadata."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "booleans"
    if isinstance(value, numbers.Real):
        return "numbers"
    raise TypeError(f"{rule} text, numbers, booleans or None. Got {value!r}.")


def kind_of_dtype(dtype):
    """Return what a column of a non-object dtype holds."""
    return "booleans" if pd.api.types.is_bool_dtype(dtype) else "numbers"


def write_table(file, table):
    """Write a table that `check_metadata` returned as an uncompressed ``.npz``; nothing is pickled.

    A column of numbers or booleans is an array, with a mask beside it where the dtype is nullable. Any other
    is an array of int32 codes into a JSON list of its values, -1 where missing.
    """
    header = {"columns": list(table.columns), "dtypes": [str(dtype) for dtype in table.dtypes]}
    arrays = {"header": _json_array(header), "n_rows": np.array(len(table))}
    for i, name in enumerate(table):
        column = table[name]
        if column.dtype == object:
            arrays[f"codes{i}"], values = _encode(column)
            arrays[f"values{i}"] = _json_array(values)
        elif isinstance(column.dtype, np.dtype):
            arrays[f"values{i}"] = column.to_numpy()
        else:
            arrays[f"missing{i}"] = column.isna().to_numpy()
            arrays[f"values{i}"] = column.to_numpy(dtype=column.dtype.numpy_dtype, na_value=0)
    np.savez(file, **arrays)


def read_table(path):
    """Return the table that `write_table` wrote, dtypes and missing values alike; a ValueError is damage."""
    arrays = _members(path)
    header, n_rows = _parse(arrays["header"]), int(arrays["n_rows"])
    columns = {}
    for i, (name, dtype) in enumerate(zip(header["columns"], header["dtypes"], strict=True)):
        values, kind = arrays[f"values{i}"], np.dtype(dtype).kind if dtype not in _NULLABLE else "nullable"
        if dtype == "object":
            values = _decode(_parse(values), arrays[f"codes{i}"], name)
        elif kind == "nullable":
            values = pd.array(values, dtype=dtype)
            values[arrays[f"missing{i}"]] = pd.NA
        elif kind not in "buif" or values.dtype != dtype:
            raise ValueError(f"column {i} is no column of {dtype}")
        if values.shape != (n_rows,) or check_text(name, "column") in columns:
            raise ValueError(f"column {i} has no name or shape of its own")
        columns[name] = pd.Series(values, dtype=dtype, copy=False)
    if columns["tumor_id"].dtype != object:
        raise ValueError("tumor ids are no text")
    return pd.DataFrame(columns, index=pd.RangeIndex(n_rows), copy=False)


def map_array(path):
    """Return the float32 matrix of an ``.npy`` file, mapped; NumPy holds its header against its size."""
    embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or not embeddings.flags.c_contiguous:
        raise ValueError(f"it holds {embeddings.dtype} of shape {embeddings.shape}")
    return embeddings


def _members(path):
    """Return name → array of an ``.npz`` file that is not compressed, and larger than what it holds."""
    with zipfile.ZipFile(path) as packed:
        infos = packed.infolist()
        if sum(info.file_size for info in infos) > path.stat().st_size or any(i.compress_type for i in infos):
            raise ValueError("it is compressed")
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _decode(held, codes, name):
    """Return the column of objects whose values `held` and codes `_encode` returned."""
    if type(held) is not list or codes.dtype != np.int32 or not -1 <= codes.min() <= codes.max() < len(held):
        raise ValueError(f"codes of column '{name}' do not fit its values")
    kinds = {kind_of(value) for value in held}
    if name in ID_COLUMNS and (kinds != {"text"} or codes.min() < 0 or not all(map(str.strip, held))):
        raise ValueError(f"column '{name}' is not text in every row")
    values = np.empty(len(held) + 1, dtype=object)  # the last one stays None, for code -1
    values[: len(held)] = held
    return values[codes]


def _plain_column(series, name):
    """Return a column as numbers, booleans, or objects (text, numbers, booleans; missing is None)."""
    dtype = series.dtype
    if (isinstance(dtype, np.dtype) and dtype.kind in "buif") or str(dtype) in _NULLABLE:
        return series
    if pd.api.types.is_datetime64_any_dtype(dtype):  # ISO text sorts by time
        series = series.astype(object).map(lambda v: v.isoformat(), na_action="ignore")
    values = [None if is_missing(value) else plain_scalar(value) for value in series]
    for value in values:
        if value is not None:
            kind_of(value, f"Column '{name}' of 'metadata' must hold")
    return pd.Series(values, index=series.index, dtype=object)


def _join(old, new, n_old, n_new):
    """Return one column of two tables: of their dtype, else float64 for numbers, else object."""
    sized = ((old, n_old), (new, n_new))
    parts = [pd.Series([None] * n, dtype=object) if part is None else part for part, n in sized]
    if parts[0].dtype == parts[1].dtype:
        return pd.concat(parts, ignore_index=True)
    numeric = [part.dtype != object and kind_of_dtype(part.dtype) == "numbers" for part in parts]
    empty = [part.dtype == object and part.isna().all() for part in parts]
    if any(numeric) and all(np.logical_or(empty, numeric)):
        parts = [part.astype("Float64").to_numpy(float, na_value=np.nan) for part in parts]
        return pd.Series(np.concatenate(parts))
    return pd.Series([value for part in parts for value in part.astype(object)], dtype=object)


def _encode(column):
    """Return int32 codes of a column of objects, -1 where missing, and the list of its values."""
    missing = column.isna().to_numpy()
    held = column[~missing]
    codes = np.full(len(column), -1, dtype=np.int32)
    if all(type(value) is str for value in held):
        found, values = pd.factorize(held.to_numpy(dtype=object))
        codes[~missing] = found
        return codes, values.tolist()
    codes[~missing] = np.arange(len(held))  # 1, 1.0 and True are equal, but not the same
    return codes, held.tolist()


def _json_array(content):
    """Return JSON as an array of bytes."""
    return np.frombuffer(json.dumps(content).encode("ascii"), dtype=np.uint8)


def _parse(array):
    """Return the content of `_json_array`."""
    return json.loads(array.tobytes())
