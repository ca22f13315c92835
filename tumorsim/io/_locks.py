"""One process at a time, where the file system has locks."""

import contextlib
from pathlib import Path

__all__ = ["locked"]


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
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout as err:
        raise busy from err
    except NotImplementedError:  # some network file systems
        yield
        return
    try:
        yield
    finally:
        lock.release()
