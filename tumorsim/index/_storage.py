"""Index directories: generation-numbered files under one manifest that is replaced last."""

import contextlib
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim.exceptions import IndexMismatchError
from tumorsim.io import atomic_path

__all__ = ["read_index", "write_index"]

FORMAT = "tumorsim-index"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LOCK = "write.lock"
LOCK_SECONDS = 10.0
_GENERATION = re.compile(r"(?:embeddings-(\d+)\.npy|metadata-(\d+)\.jsonl)")
_TEMPORARY = re.compile(r"\.(?:embeddings-\d+\.npy|metadata-\d+\.jsonl|manifest\.json)-.*")


def write_index(directory, embeddings, metadata, description, *, expected=None):
    """Write one more generation of an index; until the manifest is replaced, readers see the last one.

    Parameters
    ----------
    directory : str or Path
        Made where it does not exist.
    embeddings : ndarray of shape (n_rows, n_features), dtype=float32
        Stored as ``embeddings-<generation>.npy``.
    metadata : DataFrame of n_rows
        Stored as ``metadata-<generation>.jsonl``: a line with columns and dtypes, then a line a row.
    description : dict
        What else the manifest holds, as JSON.
    expected : int, optional
        The generation that the caller read; another one there is an error.

    Returns
    -------
    int
        The generation that was written.

    Raises
    ------
    IndexMismatchError
        If `directory` holds anything but an index, or another generation than `expected`.
    TimeoutError
        If another process keeps writing for ten seconds.
    """
    import filelock

    directory = Path(directory)
    _check_target(directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(directory / LOCK, timeout=LOCK_SECONDS):
            _check_target(directory)
            return _write_generation(directory, embeddings, metadata, description, expected)
    except filelock.Timeout as err:
        raise TimeoutError(
            f"Index '{directory}' is being written by another process: its lock '{LOCK}' has been held for "
            f"{LOCK_SECONDS:g} s. Wait until it has finished, and try again."
        ) from err


def read_index(directory):
    """Read the newest generation of an index and check it against its checksums.

    Parameters
    ----------
    directory : str or Path
        Written by `write_index`.

    Returns
    -------
    embeddings : memmap of shape (n_rows, n_features), dtype=float32
        Read-only, mapped from the file.
    metadata : DataFrame
        As it was written.
    manifest : dict
        The description, and ``generation``.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    IndexMismatchError
        If it holds no index, or a damaged one.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"Index '{directory}' does not exist. Build it with 'tumorsim index build'.")
    while True:
        manifest = _read_manifest(directory)
        try:
            return *_read_generation(directory, manifest), manifest
        except FileNotFoundError as err:
            # A writer may have replaced the generation between the manifest and its files.
            if _read_manifest(directory)["generation"] == manifest["generation"]:
                raise IndexMismatchError(
                    f"Index '{directory}' is damaged: {Path(err.filename).name} is missing. Build it again."
                ) from err


def _write_generation(directory, embeddings, metadata, description, expected):
    """Write data files, then the manifest, then remove what no manifest names; return the generation."""
    current = _read_manifest(directory)["generation"] if (directory / MANIFEST).exists() else 0
    if expected is not None and current != expected:
        raise IndexMismatchError(
            f"Index '{directory}' has been changed since it was loaded: it is at generation {current}, and "
            f"generation {expected} was loaded. Load it again and repeat the change."
        )
    used = [int(n) for entry in directory.iterdir() for n in _GENERATION.findall(entry.name) for n in n if n]
    generation = max([current, *used]) + 1
    files = {}
    for kind, name, write in (
        ("embeddings", f"embeddings-{generation}.npy", lambda path: _write_array(path, embeddings)),
        ("metadata", f"metadata-{generation}.jsonl", lambda path: _write_table(path, metadata)),
    ):
        with atomic_path(directory / name) as temporary:
            write(temporary)
            files[kind] = {"name": name, "bytes": temporary.stat().st_size, "sha256": _checksum(temporary)}
    manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "generation": generation, **description}
    with atomic_path(directory / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest | {"files": files}, indent=1) + "\n", encoding="utf-8")
    _remove_leftovers(directory, {entry["name"] for entry in files.values()})
    return generation


def _read_generation(directory, manifest):
    """Return embeddings and metadata of one manifest; FileNotFoundError where a file is gone."""
    paths = {}
    for kind in ("embeddings", "metadata"):
        entry = manifest["files"][kind]
        paths[kind] = directory / entry["name"]
        found = _checksum(paths[kind])
        if found != entry["sha256"]:
            raise IndexMismatchError(
                f"Index '{directory}' is damaged: {entry['name']} does not match its SHA-256. "
                f"Expected {entry['sha256'][:8]}…, got {found[:8]}…. Restore a copy, or build it again."
            )
    embeddings = np.load(paths["embeddings"], mmap_mode="r", allow_pickle=False)
    metadata = _read_table(paths["metadata"])
    if len(embeddings) != len(metadata):
        raise IndexMismatchError(
            f"Index '{directory}' is damaged: {len(embeddings)} embeddings, {len(metadata)} rows of metadata."
        )
    return embeddings, metadata


def _read_manifest(directory):
    """Return the manifest, checked for format and schema version."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise IndexMismatchError(f"'{directory}' holds no tumorsim index: it has no {MANIFEST}.") from err
    except ValueError as err:
        raise IndexMismatchError(f"'{path}' is no manifest of a tumorsim index: {err}") from err
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise IndexMismatchError(f"'{path}' is no manifest of a tumorsim index.")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise IndexMismatchError(
            f"Index '{directory}' has schema version {manifest.get('schema_version')!r}; this tumorsim reads "
            f"{SCHEMA_VERSION}. Read it with the version that wrote it, or build it again."
        )
    missing = [key for key in ("generation", "files") if key not in manifest]
    if missing:
        raise IndexMismatchError(
            f"'{path}' is damaged: it lacks {' and '.join(missing)}. Build the index again."
        )
    return manifest


def _check_target(directory):
    """Refuse a directory that holds anything but an index, or what a killed first write left."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise IndexMismatchError(f"'{directory}' is a file. Give a directory for the index.")
    if (directory / MANIFEST).exists():
        _read_manifest(directory)
        return
    for entry in directory.iterdir():
        if (
            entry.name != LOCK
            and not _GENERATION.fullmatch(entry.name)
            and not _TEMPORARY.fullmatch(entry.name)
        ):
            raise IndexMismatchError(
                f"'{directory}' is not empty and holds no tumorsim index: it contains '{entry.name}'. "
                "Give an empty or new directory."
            )


def _remove_leftovers(directory, kept):
    """Delete old generations and what killed writers left; the caller holds the lock."""
    for entry in directory.iterdir():
        old = _GENERATION.fullmatch(entry.name) and entry.name not in kept
        if old or _TEMPORARY.fullmatch(entry.name):
            with contextlib.suppress(OSError):  # Windows keeps files that a reader has mapped
                entry.unlink()


def _write_array(path, embeddings):
    """Write a float32 array as .npy, in the C order that rows are mapped in."""
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(embeddings), allow_pickle=False)


def _write_table(path, table):
    """Write a table as JSON lines: columns and dtypes, then a list a row; missing is null."""
    columns = [
        [
            None if missing else value
            for missing, value in zip(table[name].isna(), table[name].tolist(), strict=True)
        ]
        for name in table
    ]
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        header = {"columns": list(table.columns), "dtypes": [str(dtype) for dtype in table.dtypes]}
        file.write(json.dumps(header) + "\n")
        for row in zip(*columns, strict=True):
            file.write(json.dumps(row) + "\n")


def _read_table(path):
    """Return the table that `_write_table` wrote, dtypes and missing values alike."""
    with open(path, encoding="utf-8", newline="\n") as file:
        header = json.loads(file.readline())
        rows = [json.loads(line) for line in file]
    columns = zip(*rows, strict=True) if rows else [() for _ in header["columns"]]
    pairs = zip(header["columns"], header["dtypes"], columns, strict=True)
    return pd.DataFrame({name: pd.Series(list(values), dtype=dtype) for name, dtype, values in pairs})


def _checksum(path):
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
