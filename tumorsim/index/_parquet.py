"""Parquet files of an index: one row per tumor, for other tools; needs pyarrow."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim._validation import import_extra, printable
from tumorsim.exceptions import IndexMismatchError
from tumorsim.io import atomic_path

EMBEDDING = "embedding"
KEY = b"tumorsim-index"  # of the file's metadata, which holds the description
MOST_BYTES = 2**32  # of a file whose columns are unpacked
JSON = {b"tumorsim": b"json"}  # marks columns of several kinds of values, which Parquet does not know


def write_parquet(path, embeddings, metadata, description):
    """Write metadata with a column ``embedding`` of float32 lists, and a dict as the file's own metadata."""
    pa, parquet = (import_extra(name, "Parquet", "parquet") for name in ("pyarrow", "pyarrow.parquet"))
    if EMBEDDING in metadata:
        raise ValueError(f"Column '{EMBEDDING}' of the metadata is reserved for the embeddings. Rename it.")
    columns = {name: _to_arrow(metadata[name], pa) for name in metadata}
    flat = pa.array(np.ascontiguousarray(embeddings).reshape(-1))
    columns[EMBEDDING] = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1]), None
    fields = [pa.field(name, array.type, metadata=mark) for name, (array, mark) in columns.items()]
    description = description | {"dtypes": {name: str(metadata[name].dtype) for name in metadata}}
    schema = pa.schema(fields, metadata={KEY: json.dumps(description).encode()})
    with atomic_path(path) as temporary:
        table = pa.Table.from_arrays([array for array, _ in columns.values()], schema=schema)
        parquet.write_table(table, temporary)


def read_parquet(path):
    """Return embeddings (n_rows, n_features), metadata and description ({} of another tool's file)."""
    parquet = import_extra("pyarrow.parquet", "Parquet", "parquet")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Parquet file '{path}' does not exist.")
    try:
        with parquet.ParquetFile(path) as file:
            held = file.metadata
            size = sum(held.row_group(i).total_byte_size for i in range(held.num_row_groups))
            if size > MOST_BYTES or held.num_rows * held.num_columns > MOST_BYTES // 8:
                raise ValueError(f"it has more than {MOST_BYTES} bytes")
            return _content(file.read())
    except Exception as err:  # of pyarrow, json, NumPy, pandas
        what = f"'{path}' is no Parquet file of an index, or it is damaged"
        raise IndexMismatchError(f"{what}: {printable(err)}") from err


def _content(table):
    """Return what `read_parquet` does of an Arrow table."""
    if EMBEDDING not in table.column_names:
        raise ValueError(f"it has no column '{EMBEDDING}'. Export an index to see the layout.")
    description = json.loads((table.schema.metadata or {}).get(KEY, b"{}"))
    lists = table[EMBEDDING].combine_chunks()
    lengths = set(lists.value_lengths().to_pylist()) if len(lists) else set()
    if len(lengths) != 1 or None in lengths or not isinstance(description, dict):
        raise ValueError(f"every '{EMBEDDING}' must be a list of equally many numbers.")
    embeddings = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), lengths.pop())
    dtypes, columns = description.get("dtypes", {}), {}
    for field in table.drop_columns(EMBEDDING).schema:
        values = table[field.name].to_pylist()
        if (field.metadata or {}).get(b"tumorsim") == b"json":
            values = [None if value is None else json.loads(value) for value in values]
        columns[field.name] = pd.Series(values, dtype=dtypes.get(field.name))
    return embeddings.astype(np.float32), pd.DataFrame(columns), description


def _to_arrow(column, pa):
    """Return one column as an Arrow array, and the mark of its field or None."""
    missing = column.isna().to_numpy()
    if column.dtype != object:
        if not isinstance(column.dtype, np.dtype):
            return pa.array(column.to_numpy(dtype=column.dtype.numpy_dtype, na_value=0), mask=missing), None
        return pa.array(column.to_numpy()), None  # NaN stays NaN
    values = [None if gone else value for gone, value in zip(missing, column, strict=True)]
    if len({type(value) for value in values if value is not None}) <= 1:
        try:
            return pa.array(values, from_pandas=False), None
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):  # over 64 bits, half a character
            pass
    return pa.array([None if v is None else json.dumps(v) for v in values], type=pa.string()), JSON
