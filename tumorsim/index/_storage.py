"""Index directories: generation-numbered files under one manifest that is replaced last."""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._tables import read_lines, read_table, write_table
from tumorsim.io import atomic_path, content_key

__all__ = ["read_index", "verify_index", "write_index", "write_lock"]

FORMAT = "tumorsim-index"
SCHEMA_VERSION = 2
TABLE_READERS = {1: read_lines, 2: read_table}  # every version that was ever written stays readable
MANIFEST = "manifest.json"
LOCK = "write.lock"
LOCK_SECONDS = 10.0
CHECKED_BYTES = 2**25  # files up to this size are checked against their SHA-256 whenever they are read
_FILE = r"(?:embeddings-(\d+)\.npy|metadata-(\d+)\.(?:jsonl|npz))"
_GENERATION = re.compile(_FILE)
_TEMPORARY = re.compile(rf"\.(?:{_FILE}|manifest\.json)-.*")


@contextlib.contextmanager
def write_lock(directory):
    """Hold the lock of an index directory, which is made where it does not exist.

    Raises
    ------
    IndexMismatchError
        If `directory` holds anything but an index.
    TimeoutError
        If another thread or process keeps writing for ten seconds.
    """
    import filelock

    directory = Path(directory)
    _check_target(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCK, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout as err:
        raise TimeoutError(
            f"Index '{directory}' is being written by another process: its lock '{LOCK}' has been held for "
            f"{LOCK_SECONDS:g} s. Wait until it has finished, and try again."
        ) from err
    try:
        yield
    finally:
        lock.release()


def write_index(directory, embeddings, metadata, description, *, expected=None):
    """Write one more generation of an index; until the manifest is replaced, readers see the last one.

    The caller holds `write_lock`.

    Parameters
    ----------
    directory : str or Path
        The index.
    embeddings : ndarray of shape (n_rows, n_features), dtype=float32
        Stored as ``embeddings-<generation>.npy``.
    metadata : DataFrame of n_rows
        Stored as ``metadata-<generation>.npz``.
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
    """
    directory = Path(directory)
    _check_target(directory)
    current = _read_manifest(directory)["generation"] if (directory / MANIFEST).exists() else 0
    if expected is not None and current != expected:
        raise IndexMismatchError(
            f"Index '{directory}' has been changed since it was loaded: it is at generation {current}, and "
            f"generation {expected} was loaded. Load it again and repeat the change."
        )
    used = [int(n) for entry in directory.iterdir() for n in _GENERATION.findall(entry.name) for n in n if n]
    generation = max([current, *used]) + 1
    files = {}
    for kind, name, write, content in (
        ("embeddings", f"embeddings-{generation}.npy", _write_array, embeddings),
        ("metadata", f"metadata-{generation}.npz", write_table, metadata),
    ):
        with atomic_path(directory / name) as temporary:
            write(temporary, content)
            files[kind] = {"name": name, "bytes": temporary.stat().st_size, "sha256": content_key(temporary)}
    manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "generation": generation, **description}
    manifest["files"] = files
    manifest["sha256"] = _manifest_key(manifest)
    _sync(directory)  # the names of the data files reach the disk before that of the manifest
    with atomic_path(directory / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _sync(directory)
    _remove_leftovers(directory, {entry["name"] for entry in files.values()})
    return generation


def read_index(directory):
    """Read the newest generation of an index.

    Sizes of files are checked, and checksums of files up to 32 MB; `verify_index` checks all of them.

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
    while True:
        manifest = _manifest_of(directory)
        with contextlib.suppress(_Replaced), _whole_generation(directory, manifest):
            return *_read_generation(directory, manifest), manifest


def verify_index(directory):
    """Check everything that an index directory holds, whatever its size.

    Parameters
    ----------
    directory : str or Path
        Written by `write_index`.

    Returns
    -------
    manifest : dict
        Of the index.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    IndexMismatchError
        If something is damaged; the message names every file that is, and how.
    """
    directory = Path(directory)
    while True:
        manifest = _manifest_of(directory)
        with contextlib.suppress(_Replaced), _whole_generation(directory, manifest):
            damage = _all_damage(directory, manifest)
            break
    if damage:
        raise IndexMismatchError(
            f"Index '{directory}' is damaged at generation {manifest['generation']}: {'; '.join(damage)}. "
            "Restore these files from a copy, or build it again."
        )
    return manifest


class _Replaced(Exception):
    """A writer has replaced the generation between the manifest and its files."""


@contextlib.contextmanager
def _whole_generation(directory, manifest):
    """Turn a missing file into `_Replaced` if there is a newer generation, else into damage."""
    try:
        yield
    except FileNotFoundError as err:
        if _read_manifest(directory)["generation"] != manifest["generation"]:
            raise _Replaced from err
        raise IndexMismatchError(
            f"Index '{directory}' is damaged: {Path(err.filename).name} is missing. Build it again."
        ) from err


def _read_generation(directory, manifest):
    """Return embeddings and metadata of one manifest; FileNotFoundError where a file is gone."""
    for entry in manifest["files"].values():
        damage = _file_damage(directory, entry, largest=CHECKED_BYTES)
        if damage is not None:
            raise IndexMismatchError(
                f"Index '{directory}' is damaged: {damage}. Restore a copy, or build it again."
            )
    kinds = ("embeddings", "metadata")
    embeddings, metadata = (directory / manifest["files"][kind]["name"] for kind in kinds)
    embeddings = np.load(embeddings, mmap_mode="r", allow_pickle=False)
    metadata = TABLE_READERS[manifest["schema_version"]](metadata)
    if len(embeddings) != len(metadata):
        raise IndexMismatchError(
            f"Index '{directory}' is damaged: {len(embeddings)} embeddings, {len(metadata)} rows of metadata."
        )
    return embeddings, metadata


def _file_damage(directory, entry, *, largest):
    """Return what is wrong with a data file, or None; files above `largest` bytes are only measured."""
    path, name = directory / entry["name"], entry["name"]
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{name} has {size} bytes instead of {entry['bytes']}"
    if largest is not None and size > largest:
        return None
    found = content_key(path)
    if found != entry["sha256"]:
        return f"{name} does not match its SHA-256: expected {entry['sha256'][:8]}…, got {found[:8]}…"
    return None


def _all_damage(directory, manifest):
    """Return everything that is wrong with a generation, as a list of texts."""
    entries = manifest["files"].values()
    damage = [found for entry in entries if (found := _file_damage(directory, entry, largest=None))]
    return damage or _content_damage(*_read_generation(directory, manifest), manifest)


def _content_damage(embeddings, metadata, manifest):
    """Return what an index holds that `TumorIndex` cannot have written, as a list of texts."""
    damage = []
    shape = (manifest.get("size"), manifest.get("n_features"))
    if embeddings.shape != shape or embeddings.dtype != np.float32:
        found = f"{embeddings.dtype} {embeddings.shape}"
        damage.append(f"embeddings are {found}, and the manifest says float32 {shape}")
    step = 65_536
    if not all(np.isfinite(embeddings[i : i + step]).all() for i in range(0, len(embeddings), step)):
        damage.append("embeddings hold values that are not finite")
    if "tumor_id" not in metadata or not metadata["tumor_id"].is_unique:
        damage.append("tumor ids are not unique")
    return damage


def _manifest_of(directory):
    """Return the manifest of a directory that must be there."""
    if not directory.is_dir():
        raise FileNotFoundError(f"Index '{directory}' does not exist. Build it with 'tumorsim index build'.")
    return _read_manifest(directory)


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
    if manifest.get("schema_version") not in TABLE_READERS:
        raise IndexMismatchError(
            f"Index '{directory}' has schema version {manifest.get('schema_version')!r}; this tumorsim reads "
            f"1 to {SCHEMA_VERSION}. Update tumorsim, or build the index again."
        )
    missing = [key for key in ("generation", "files") if key not in manifest]
    if missing:
        raise IndexMismatchError(
            f"'{path}' is damaged: it lacks {' and '.join(missing)}. Build the index again."
        )
    if manifest["schema_version"] > 1 and manifest.get("sha256") != _manifest_key(manifest):
        raise IndexMismatchError(
            f"'{path}' is damaged: it does not match its SHA-256. Restore a copy, or build the index again."
        )
    return manifest


def _manifest_key(manifest):
    """Return the SHA-256 of a manifest's content, but for the checksum itself."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


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


def _sync(directory):
    """Bring the names in a directory to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
