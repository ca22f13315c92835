"""Where an index is saved: generation-numbered files of a directory, under one manifest replaced last."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from pathlib import Path

import numpy as np

from tumorsim._validation import printable
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._tables import map_array, read_table, write_table
from tumorsim.io import atomic_path, content_key, locked, write_array, write_text

FORMAT = "tumorsim-index"
SCHEMA_VERSION = 2
MANIFEST, MANIFEST_BYTES = "manifest.json", 2**26  # name, and more than any writer's
LOCK = "write.lock"
LOCK_SECONDS = 10.0
CHECKED_BYTES = 2**25  # files up to this size are checked against their SHA-256 whenever they are read
CHECKED_ROWS = 65_536  # that are checked at once: bounds the memory
_GENERATION = re.compile(r"(?:embeddings|metadata)-([1-9]\d*)\.np[yz]")
_TEMPORARY = re.compile(r"\.(?:(?:embeddings|metadata)-\d+\.np[yz]|manifest\.json)-.*")


class Store:
    """One index directory, and the generation that was read or written last, the only one it replaces."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.path = self.directory.resolve()
        self.generation = None

    def lock(self):
        """Hold the lock of the directory, which is made where it does not exist."""
        self._check_target()
        busy = TimeoutError(
            f"Index '{self.directory}' is being written by another process: its lock '{LOCK}' has been "
            f"held for {LOCK_SECONDS:g} s. Wait until it has finished, and try again."
        )
        return locked(self.path / LOCK, busy, seconds=LOCK_SECONDS)

    def write(self, embeddings, metadata, description):
        """Write the next generation, whose manifest holds the dict `description` too, under the lock."""
        self._check_target()
        old = self._manifest() if (self.path / MANIFEST).exists() else {"generation": 0, "files": {}}
        if self.generation not in (None, old["generation"]):
            found = f"it is at generation {old['generation']}, and generation {self.generation} was loaded"
            what = f"Index '{self.directory}' has been changed since it was loaded: {found}."
            raise IndexMismatchError(f"{what} Load it again and repeat the change.")
        used = (_GENERATION.fullmatch(entry.name) for entry in self.path.iterdir())
        generation, name = max([old["generation"], *(int(match[1]) for match in used if match)]) + 1, LOCK
        manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "generation": generation}
        manifest |= {**description, "files": {}}
        try:
            work = ((write_array, np.ascontiguousarray(embeddings)), (write_table, metadata))
            for (kind, name), (write, content) in zip(_names(generation).items(), work, strict=True):
                self._write_file(name, old["files"].get(kind), write, content)
                size, key = (self.path / name).stat().st_size, content_key(self.path / name)
                manifest["files"][kind] = {"name": name, "bytes": size, "sha256": key}
            manifest["sha256"] = _manifest_key(manifest)
            self._sync()  # the names of the data files reach the disk before that of the manifest
            name = MANIFEST
            write_text(self.path / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            self.generation = generation
            self._sync()
        except OSError as err:
            done = "is written, but may not survive a power failure"
            state = done if self.generation == generation else "is not written; what it held before is whole"
            what = f"Index '{self.directory}' {state}: {os.strerror(err.errno) if err.errno else err}"
            raise OSError(err.errno or errno.EIO, what, str(self.path / name)) from err
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._remove_leftovers()

    def _write_file(self, name, old, write, content):
        """Write a new data file, with the mode of the `old` one of the same kind."""
        mode = None
        with contextlib.suppress(OSError):  # a damaged index may be replaced
            mode = None if old is None else stat.S_IMODE((self.path / old["name"]).stat().st_mode)

        with atomic_path(self.path / name, mode=0o666 if mode is None else mode) as temporary:
            with open(temporary, "wb") as file:
                write(file, content)
        if mode is not None:  # which the umask has narrowed
            (self.path / name).chmod(mode)

    def read(self, *, everything=False):
        """Return embeddings, mapped from their file, metadata and manifest of the newest generation.

        Sizes of files are checked, and checksums of files up to 32 MB, or all content if `everything`.
        """
        if not self.path.is_dir():
            what = f"Index '{self.directory}' does not exist."
            raise FileNotFoundError(f"{what} Build it with 'tumorsim index build'.")
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
        what = f"Index '{self.directory}' is damaged: {what}."
        return IndexMismatchError(f"{what} Restore it from a copy, or build it again.")

    def _read_generation(self, manifest, everything):
        """Return embeddings and metadata; FileNotFoundError where a file is gone."""
        entries = manifest["files"]
        found = [self._file_damage(entry, everything) for entry in entries.values()]
        damage = [text for text in found if text is not None]
        if not damage:
            embeddings = self._parsed(map_array, entries["embeddings"]["name"])
            metadata = self._parsed(read_table, entries["metadata"]["name"])
            everything = everything or entries["embeddings"]["bytes"] <= CHECKED_BYTES
            damage = _content_damage(embeddings, metadata, manifest, everything)
        if damage:
            raise self._damaged("; ".join(damage))
        return embeddings, metadata

    def _parsed(self, read, name):
        """Return `read` of a data file; whatever it raises is damage."""
        try:
            return read(self.path / name)
        except FileNotFoundError:
            raise
        except Exception as err:  # of NumPy, zipfile, zlib, json, pandas
            raise self._damaged(f"{name} cannot be read: {type(err).__name__}, {printable(err)}") from err

    def _file_damage(self, entry, everything):
        """Return what is wrong with a data file, or None."""
        path, name = self.path / entry["name"], entry["name"]
        held = path.stat()
        if not stat.S_ISREG(held.st_mode) or path.resolve().parent != self.path:
            return f"{name} is a link out of the folder, or no file"
        if held.st_size != entry["bytes"]:
            return f"{name} has {held.st_size} bytes instead of {entry['bytes']}"
        if held.st_size > CHECKED_BYTES and not everything:
            return None
        found = content_key(path)
        if found != entry["sha256"]:
            expected = printable(entry["sha256"], 8)
            return f"{name} does not match its SHA-256: expected {expected}, got {printable(found, 8)}"
        return None

    def _manifest(self):
        """Return the manifest, checked for format, schema version and checksum."""
        path = self.directory / MANIFEST
        try:
            held = (self.path / MANIFEST).stat()
            if not stat.S_ISREG(held.st_mode) or held.st_size > MANIFEST_BYTES:
                raise ValueError("it is no file, or too large")
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise ValueError("it says nothing of the format")
        except FileNotFoundError as err:
            what = f"'{self.directory}' holds no tumorsim index"
            raise IndexMismatchError(f"{what}: it has no {MANIFEST}.") from err
        except (ValueError, RecursionError) as err:
            what = f"'{path}' is no manifest of a tumorsim index"
            raise IndexMismatchError(f"{what}: {printable(err)}.") from err
        version = manifest.get("schema_version")
        if version != SCHEMA_VERSION:
            older = isinstance(version, int) and version < SCHEMA_VERSION
            remedy = "Build it again in a new directory." if older else "Update tumorsim, or build it again."
            what = f"Index '{self.directory}' has schema version {printable(version)}"
            raise IndexMismatchError(f"{what}; this tumorsim reads {SCHEMA_VERSION}. {remedy}")
        missing = [key for key in ("generation", "files") if key not in manifest]
        if missing:
            raise self._damaged(f"{MANIFEST} lacks {' and '.join(missing)}")
        if manifest.get("sha256") != _manifest_key(manifest):
            raise self._damaged(f"{MANIFEST} does not match its SHA-256")
        try:
            entries = [manifest["files"][kind] for kind in _names(1)]
            counts = [manifest[key] for key in ("generation", "size", "n_features")]
            right = all(type(n) is int and n > 0 for n in (*counts, *(entry["bytes"] for entry in entries)))
            right &= {kind: entry["name"] for kind, entry in manifest["files"].items()} == _names(counts[0])
        except (KeyError, TypeError, AttributeError):
            right = False
        if not right:
            raise self._damaged(f"{MANIFEST} does not hold what a writer writes")
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
                what = f"'{self.directory}' is not empty and holds no tumorsim index: it contains"
                raise IndexMismatchError(f"{what} '{printable(name)}'. Give an empty or new directory.")

    def _remove_leftovers(self):
        """Delete old generations and what killed or failed writers left; the caller holds the lock."""
        files = self._manifest()["files"] if (self.path / MANIFEST).exists() else {}
        kept = {entry["name"] for entry in files.values()}
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


def _names(generation):
    """Return the names of the data files of a generation, which lie beside the manifest."""
    return {"embeddings": f"embeddings-{generation}.npy", "metadata": f"metadata-{generation}.npz"}


def _content_damage(embeddings, metadata, manifest, everything):
    """Return what an index holds that `TumorIndex` cannot have written, as a list of texts."""
    shape, damage = (manifest["size"], manifest["n_features"]), []
    if len(embeddings) != len(metadata):
        damage.append(f"{len(embeddings)} embeddings, {len(metadata)} rows of metadata")
    if not everything:
        return damage
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
