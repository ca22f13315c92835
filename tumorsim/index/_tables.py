"""Metadata tables in files: columns as NumPy arrays, text as codes into a list; nothing is pickled."""

import json

import numpy as np
import pandas as pd

__all__ = ["read_lines", "read_table", "write_table"]


def write_table(path, table):
    """Write a table that `check_metadata` returned, column by column, as an uncompressed ``.npz``.

    A column of numbers or booleans is an array, with a mask beside it where the dtype is nullable. Any other
    is an array of int32 codes into a JSON list of its values, -1 where missing, so that a million rows are
    read in half a second.
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
    with open(path, "wb") as file:  # by name numpy would add '.npz'
        np.savez(file, **arrays)


def read_table(path):
    """Return the table that `write_table` wrote, dtypes and missing values alike."""
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        header = _parse(file["header"])
        columns = {}
        for i, (name, dtype) in enumerate(zip(header["columns"], header["dtypes"], strict=True)):
            values = file[f"values{i}"]
            if dtype == "object":
                held = _parse(values)
                values = np.empty(len(held) + 1, dtype=object)  # the last one stays None: that of code -1
                values[: len(held)] = held
                values = values[file[f"codes{i}"]]
            elif f"missing{i}" in file:
                values = pd.array(values, dtype=dtype)
                values[file[f"missing{i}"]] = pd.NA
            columns[name] = pd.Series(values, dtype=dtype, copy=False)
        return pd.DataFrame(columns, index=pd.RangeIndex(int(file["n_rows"])), copy=False)


def read_lines(path):
    """Return the table of a file of schema version 1: columns and dtypes, then a JSON list a row."""
    with open(path, encoding="utf-8", newline="\n") as file:
        header = json.loads(file.readline())
        rows = [json.loads(line) for line in file]
    columns = zip(*rows, strict=True) if rows else [() for _ in header["columns"]]
    pairs = zip(header["columns"], header["dtypes"], columns, strict=True)
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for name, dtype, values in pairs})


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
