"""A disk that is full: no file grows beyond a size, or one call fails."""

import errno
import os
import resource
from contextlib import contextmanager

__all__ = ["failing", "no_room_after"]


@contextmanager
def no_room_after(size):
    """Let no file grow beyond `size` bytes, as on a full disk; the kernel refuses the write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing(monkeypatch, name, at, code=errno.ENOSPC):
    """Make call number `at` of ``os.<name>`` fail, as on a full disk; returns the list of calls."""
    original, calls = getattr(os, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            file = args[0] if args and isinstance(args[0], str | os.PathLike) else None
            raise OSError(code, os.strerror(code), file)
        return original(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return calls
