"""Embeddings files: one ``.npz`` with the vectors and what is known of their tumors; nothing is pickled."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np

from tumorsim._validation import is_missing
from tumorsim.io._files import atomic_path

SCHEMA = 1
_CELLS = {str, int, float, bool, type(None)}
_LEAST_BOMB, _DENSEST = 2**26, 100  # bytes, and times the file's size: embeddings hardly shrink


def save_embeddings(path, X, columns, space):
    """Write embeddings with their table, atomically.

    Parameters
    ----------
    path : str or Path
        By custom with suffix ``.npz``.
    X : ndarray of shape (n_tumors, n_features)
        Kept as float32.
    columns : dict of sequence
        The table's columns, ``tumor_id`` among them: text, numbers, booleans, None; NaN becomes None.
    space : dict
        What ``EmbeddingSpace.to_dict`` returns, ``fingerprint`` among it.

    Raises
    ------
    ValueError
        If a column has another length than `X`, or there is no ``tumor_id``.
    TypeError
        If a value cannot be kept.
    """
    X = np.ascontiguousarray(X, dtype=np.float32)
    if "tumor_id" not in columns:
        raise ValueError("'columns' must have 'tumor_id'. Got none.")
    columns = {str(name): [_plain(value, name) for value in values] for name, values in columns.items()}
    for name, values in columns.items():
        if len(values) != len(X):
            raise ValueError(f"Column '{name}' must have a value per row of X: {len(X)}. Got {len(values)}.")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:  # by name numpy would add '.npz'
        texts = {"tumor_ids": columns["tumor_id"], "fingerprint": space["fingerprint"]}
        for name, value in (("columns", columns), ("space", space)):
            texts[name] = json.dumps(value, allow_nan=False)
        arrays = {name: np.array(text, dtype=np.str_) for name, text in texts.items()}
        np.savez_compressed(file, schema=np.array(SCHEMA), X=X, **arrays)


def load_embeddings(path):
    """Read what `save_embeddings` wrote.

    Returns
    -------
    X : ndarray of shape (n_tumors, n_features), dtype=float32
    columns : dict of list
        The table's columns; missing is None.
    space : dict
        For ``EmbeddingSpace.from_dict``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an embeddings file, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Embeddings file '{path}' does not exist. Write it with 'tumorsim embed'.")
    problem = f"'{path}' is no embeddings file of tumorsim, or it is damaged. Write it with 'tumorsim embed'."
    try:
        with open(path, "rb") as opened:
            held = sum(member.file_size for member in zipfile.ZipFile(opened).infolist())
            if held > max(_LEAST_BOMB, _DENSEST * path.stat().st_size):
                raise ValueError(f"it would unpack to {held} bytes")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                schema = int(file["schema"])
                X = file["X"]
                columns, space = json.loads(str(file["columns"])), json.loads(str(file["space"]))
    except Exception as err:  # NumPy, zipfile and zlib raise many kinds for damaged files
        raise ValueError(problem) from err
    if schema != SCHEMA:
        raise ValueError(f"'{path}' has schema {schema}; this tumorsim reads {SCHEMA}. Embed anew.")
    whole = isinstance(X, np.ndarray) and X.dtype == np.float32 and X.ndim == 2
    tables = isinstance(columns, dict) and isinstance(space, dict) and "tumor_id" in columns
    if not (whole and tables and all(isinstance(values, list) for values in columns.values())):
        raise ValueError(problem)
    if any(len(values) != len(X) or not set(map(type, values)) <= _CELLS for values in columns.values()):
        raise ValueError(problem)
    return X, columns, space


def _plain(value, name):
    """Return a scalar as JSON holds it."""
    if is_missing(value):
        return None
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | bool | int | float):
        raise TypeError(f"Column '{name}' must hold text, numbers, booleans or None. Got {value!r}.")
    if value in (math.inf, -math.inf):
        raise TypeError(f"Column '{name}' must hold finite numbers. Got {value}.")
    return value
