"""Write files so that a reader sees the old one or the new one, and keep what a killed run has done."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

__all__ = ["atomic_path", "content_key", "partial_file", "remove_leftovers", "remove_partial"]


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path in the same folder; on success it replaces `path`, on error it goes.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])  # nibabel chooses the format by suffix
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path):
    """Delete temporary files that a killed process left beside `path`; nobody may be writing it meanwhile."""
    path = Path(path)
    prefix, suffix = f".{path.name[:40]}-", "".join(path.suffixes[-2:])
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        made = file.name.startswith(prefix) and file.name.endswith(suffix)
        if made and len(file.name) == len(prefix) + 8 + len(suffix):  # mkstemp draws eight characters
            file.unlink(missing_ok=True)


def content_key(path):
    """Return the SHA-256 of a file's bytes, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_file(folder, content, suffix):
    """Return where a long run keeps one result; its name follows `content`: all that it depends on."""
    return Path(folder) / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}{suffix}"


def remove_partial(folder, suffix):
    """Delete the results that a run has kept in a folder, and the folder where nothing else is in it."""
    folder = Path(folder)
    if folder.is_dir():
        for file in folder.glob(f"*{suffix}"):
            file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
