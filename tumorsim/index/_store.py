"""Where an index is saved: generation-numbered files of a directory, under one manifest replaced last."""

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._tables import read_table, write_table
from tumorsim.io import atomic_path, content_key

__all__ = ["Store"]

FORMAT = "tumorsim-index"
SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
LOCK = "write.lock"
LOCK_SECONDS = 10.0
CHECKED_BYTES = 2**25  # files up to this size are checked against their SHA-256 whenever they are read
CHECKED_ROWS = 65_536  # that are checked at once: bounds the memory
_FILE = r"(?:embeddings-(\d+)\.npy|metadata-(\d+)\.npz)"
_GENERATION = re.compile(_FILE)
_TEMPORARY = re.compile(rf"\.(?:{_FILE}|manifest\.json)-.*")


class Store:
    """One index directory, and the generation of it that was read or written last.

    A writer adds the files of the next generation and then replaces the manifest, so a reader sees the old
    index or the new one, whenever the writer is killed. A store that has read a generation does not overwrite
    another one.
    """

    def __init__(self, directory):
        self.directory = Path(directory)
        self.path = self.directory.resolve()
        self.generation = None

    @contextlib.contextmanager
    def lock(self):
        """Hold the lock of the directory, which is made where it does not exist."""
        import filelock

        self._check_target()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout as err:
            raise TimeoutError(
                f"Index '{self.directory}' is being written by another process: its lock '{LOCK}' has been "
                f"held for {LOCK_SECONDS:g} s. Wait until it has finished, and try again."
            ) from err
        try:
            yield
        finally:
            lock.release()

    def write(self, embeddings, metadata, description):
        """Write the next generation, whose manifest holds the dict `description` too, under the lock."""
        self._check_target()
        current = self._manifest()["generation"] if (self.path / MANIFEST).exists() else 0
        if self.generation not in (None, current):
            found = f"it is at generation {current}, and generation {self.generation} was loaded"
            raise IndexMismatchError(
                f"Index '{self.directory}' has been changed since it was loaded: {found}. Load it again and "
                "repeat the change."
            )
        used = (_GENERATION.fullmatch(entry.name) for entry in self.path.iterdir())
        generation = max([current, *(int(match[1] or match[2]) for match in used if match)]) + 1
        files = {}
        for kind, name, write, content in (
            ("embeddings", f"embeddings-{generation}.npy", np.save, np.ascontiguousarray(embeddings)),
            ("metadata", f"metadata-{generation}.npz", write_table, metadata),
        ):
            with atomic_path(self.path / name) as temporary:
                with open(temporary, "wb") as file:  # by name NumPy would add a suffix
                    write(file, content)
                size, key = temporary.stat().st_size, content_key(temporary)
            files[kind] = {"name": name, "bytes": size, "sha256": key}
        manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "generation": generation}
        manifest |= {**description, "files": files}
        manifest["sha256"] = _manifest_key(manifest)
        self._sync()  # the names of the data files reach the disk before that of the manifest
        with atomic_path(self.path / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        self._sync()
        self._remove_leftovers({entry["name"] for entry in files.values()})
        self.generation = generation

    def read(self, *, everything=False):
        """Return embeddings, mapped from their file, metadata and manifest of the newest generation.

        Sizes of files are checked, and checksums of files up to 32 MB, or all content if `everything`.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"Index '{self.directory}' does not exist. Build it with 'tumorsim index build'."
            )
        while True:
            manifest = self._manifest()
            try:
                content = self._read_generation(manifest, everything)
                break
            except FileNotFoundError as err:  # unless a writer has replaced the generation meanwhile
                if self._manifest()["generation"] == manifest["generation"]:
                    raise self._damaged(f"{Path(err.filename).name} is missing") from err
        self.generation = manifest["generation"]
        return *content, manifest

    def _damaged(self, what):
        """Return the error that files of the index are not what the writer wrote."""
        return IndexMismatchError(
            f"Index '{self.directory}' is damaged: {what}. Restore it from a copy, or build it again."
        )

    def _read_generation(self, manifest, everything):
        """Return embeddings and metadata; FileNotFoundError where a file is gone."""
        entries = manifest["files"]
        found = [self._file_damage(entry, everything) for entry in entries.values()]
        damage = [text for text in found if text is not None]
        if not damage:
            path = self.path / entries["embeddings"]["name"]
            embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
            metadata = read_table(self.path / entries["metadata"]["name"])
            damage = _content_damage(embeddings, metadata, manifest, everything)
        if damage:
            raise self._damaged("; ".join(damage))
        return embeddings, metadata

    def _file_damage(self, entry, everything):
        """Return what is wrong with a data file, or None."""
        path, name = self.path / entry["name"], entry["name"]
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} bytes instead of {entry['bytes']}"
        if size > CHECKED_BYTES and not everything:
            return None
        found = content_key(path)
        if found != entry["sha256"]:
            return f"{name} does not match its SHA-256: expected {entry['sha256'][:8]}…, got {found[:8]}…"
        return None

    def _manifest(self):
        """Return the manifest, checked for format, schema version and checksum."""
        path = self.directory / MANIFEST
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise ValueError("it says nothing of the format")
        except FileNotFoundError as err:
            raise IndexMismatchError(
                f"'{self.directory}' holds no tumorsim index: it has no {MANIFEST}."
            ) from err
        except ValueError as err:
            raise IndexMismatchError(f"'{path}' is no manifest of a tumorsim index: {err}.") from err
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            older = isinstance(version, int) and version < SCHEMA_VERSION
            remedy = "Build it again in a new directory." if older else "Update tumorsim, or build it again."
            raise IndexMismatchError(
                f"Index '{self.directory}' has schema version {version!r}; this tumorsim reads "
                f"{SCHEMA_VERSION}. {remedy}"
            )
        missing = [key for key in ("generation", "files") if key not in manifest]
        if missing:
            raise self._damaged(f"{MANIFEST} lacks {' and '.join(missing)}")
        if manifest.get("sha256") != _manifest_key(manifest):
            raise self._damaged(f"{MANIFEST} does not match its SHA-256")
        return manifest

    def _check_target(self):
        """Refuse a directory that holds anything but an index, or what a killed first write left."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise IndexMismatchError(f"'{self.directory}' is a file. Give a directory for the index.")
        if (self.path / MANIFEST).exists():
            self._manifest()
            return
        for name in (entry.name for entry in self.path.iterdir()):
            if name != LOCK and not _GENERATION.fullmatch(name) and not _TEMPORARY.fullmatch(name):
                raise IndexMismatchError(
                    f"'{self.directory}' is not empty and holds no tumorsim index: it contains '{name}'. "
                    "Give an empty or new directory."
                )

    def _remove_leftovers(self, kept):
        """Delete old generations and what killed writers left; the caller holds the lock."""
        for entry in self.path.iterdir():
            old = _GENERATION.fullmatch(entry.name) and entry.name not in kept
            if old or _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # Windows keeps files that a reader has mapped
                    entry.unlink()

    def _sync(self):
        """Bring the names in the directory to the disk, where the system can."""
        if os.name == "posix":
            handle = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _content_damage(embeddings, metadata, manifest, everything):
    """Return what an index holds that `TumorIndex` cannot have written, as a list of texts."""
    if not everything:
        rows = f"{len(embeddings)} embeddings, {len(metadata)} rows of metadata"
        return [] if len(embeddings) == len(metadata) else [rows]
    damage, shape = [], (manifest.get("size"), manifest.get("n_features"))
    if embeddings.shape != shape or embeddings.dtype != np.float32:
        found = f"{embeddings.dtype} {embeddings.shape}"
        damage.append(f"embeddings are {found}, and the manifest says float32 {shape}")
    starts = range(0, len(embeddings), CHECKED_ROWS)
    if not all(np.isfinite(embeddings[i : i + CHECKED_ROWS]).all() for i in starts):
        damage.append("embeddings hold values that are not finite")
    if "tumor_id" not in metadata or not metadata["tumor_id"].is_unique:
        damage.append("tumor ids are not unique")
    return damage


def _manifest_key(manifest):
    """Return the SHA-256 of a manifest's content, without the checksum itself."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()
