"""Write files so that a reader sees the old one or the new one; locks; what a killed run has kept."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def atomic_path(path, *, mode=0o666):
    """Yield a temporary path in the same folder; on success it replaces `path`, on error it goes.

    Parameters
    ----------
    path : str or Path
        A new file, or a regular one to be replaced, whose permissions stay.
    mode : int, default=0o666
        Permissions of a new file, less the umask.

    Raises
    ------
    OSError
        If there is a link, a device, a pipe or a folder of that name; if the disk is full.

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
    kept = None
    with contextlib.suppress(FileNotFoundError):
        old = path.lstat().st_mode
        if not stat.S_ISREG(old):
            raise FileExistsError(f"Only a regular file is replaced, no link or folder. Got '{path}'.")
        mode = kept = stat.S_IMODE(old)
    suffix = "".join(path.suffixes[-2:])  # nibabel chooses the format by suffix
    temporary = path.parent / f".{path.name[:40]}-{secrets.token_hex(4)}{suffix}"
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode | stat.S_IWUSR))
        yield temporary
        with open(temporary, "rb+") as file:  # Windows flushes only what is open for writing
            os.fsync(file.fileno())
        if kept is not None:
            temporary.chmod(kept)  # what the umask took
        os.replace(temporary, path)
    except OSError as err:
        if type(err) is OSError and err.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            free = shutil.disk_usage(path.parent).free / 2**20
            raise OSError(
                err.errno or errno.ENOSPC,
                f"'{path}' could not be written whole ({err.strerror or err}); {free:,.0f} MB are free. What "
                "was there before is unchanged. Make room, or choose another disk",
            ) from err
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write text as UTF-8, atomically, and return the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def save_tensors(path, tensors, metadata):
    """Write a safetensors file atomically; ``OSError`` also where safetensors raises a kind of its own."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as err:  # also of a full disk
            raise OSError(str(err)) from err


def remove_leftovers(path):
    """Delete temporary files that a killed process left beside `path`; nobody may be writing it meanwhile."""
    path = Path(path)
    prefix, suffix = (glob.escape(part) for part in (f".{path.name[:40]}-", "".join(path.suffixes[-2:])))
    for file in path.parent.glob(f"{prefix}{'?' * 8}{suffix}"):  # eight characters at random
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path, busy, *, seconds=0):
    """Hold a lock file while the block runs; where a file system has no locks, nothing is locked.

    Parameters
    ----------
    path : str or Path
        The lock file; its folder is made where it does not exist.
    busy : Exception
        Raised if another holds the lock for so long.
    seconds : float, default=0
        How long to wait for it.
    """
    import filelock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(path, timeout=seconds))
        except filelock.Timeout as err:
            raise busy from err
        except NotImplementedError:  # some network file systems
            pass
        yield


def write_array(file, array):
    """Write ``.npy`` content to an open file; unlike `numpy.save` it notices every byte that a disk loses."""
    array = np.asarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(file, header)
    file.write(np.ascontiguousarray(array.T if header["fortran_order"] else array).data)


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


def file_stems(ids):
    """Return a name for the files of each id: no two share one, wherever case and signs do not count.

    Examples
    --------
    >>> file_stems(["a/1", "b"]), len({name.lower() for name in file_stems(["p1", "P1", "p1"])})
    (['a_1', 'b'], 3)
    """
    ids, stems = list(ids), {}
    names = [re.sub(r"^\.|[^\w.-]", "_", unicodedata.normalize("NFC", one))[:56] for one in ids]
    counts = Counter(name.casefold() for name in names)
    for one, name in zip(ids, names, strict=True):
        if counts[name.casefold()] > 1:
            name = f"{name}-{hashlib.sha256(one.encode()).hexdigest()[:8]}"
        while name in stems:  # the same id twice
            name += "_"
        stems[name] = None
    return list(stems)
