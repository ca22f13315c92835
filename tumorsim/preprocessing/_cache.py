"""The voxel cache: prepared scans in a folder."""

import contextlib
import hashlib
import json
import math
import os
import re
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from tumorsim.io import atomic_path, content_key, write_array
from tumorsim.preprocessing._volume import Volume

_LOCK = threading.Lock()
_KINDS = {"image": np.float16, "mask": np.uint8}
_MADE = re.compile(r"(?P<writing>\.)?[0-9a-f]{40}-(?:image\.npy|mask\.npy|\w{8}\.npy)")
_SIZES = {}  # folder → bytes when it was last looked at, bytes that this process has written since


class VoxelCache:
    """Prepared scans as ``.npy`` files, keyed by content and preprocessing, safe for several processes.

    Parameters
    ----------
    directory : str or Path
        Made when needed; it may be deleted at any time. Without room in it, scans are prepared anew.
    max_bytes : int, default=20 GB
        When it grows beyond, the files of the cache's own that were used longest ago are removed until 95 %
        are left.
    """

    def __init__(self, directory, *, max_bytes=20 * 1024**3):
        self.directory = Path(directory)
        self.max_bytes = max_bytes

    def get(self, preprocessing, case, mask, make):
        """Return the `Volume` of `case` as memory maps, from `make()` where it is not here yet."""
        sources = {"image": case.image} if mask is None else {"image": case.image, "mask": mask}
        keys = {name: self._key(preprocessing, case, source) for name, source in sources.items()}
        files = {name: self.directory / f"{key}-{name}.npy" for name, key in keys.items()}
        shape = preprocessing.shape_of(case.shape, case.affine)
        arrays = {name: _map(file, _KINDS[name], shape) for name, file in files.items()}
        if any(array is None for array in arrays.values()):
            volume = make()
            written = 0
            try:
                for name, file in files.items():
                    with atomic_path(file) as temporary, open(temporary, "wb") as stream:
                        write_array(stream, getattr(volume, name))
                        written += stream.tell()
                self._count(written, keep=set(files.values()))
            except OSError as err:  # a full disk; Windows refuses to replace what another process has mapped
                if not all(file.exists() for file in files.values()):
                    reason = os.strerror(err.errno) if err.errno else err
                    lost = f"Scans are not kept in the voxel cache '{self.directory}'"
                    remedy = "Make room there, or choose another folder."
                    warnings.warn(f"{lost}, which slows later runs. Got: {reason}. {remedy}", stacklevel=2)
            for name, file in files.items():  # another process may have removed it by now
                mapped = _map(file, _KINDS[name], shape)
                arrays[name] = getattr(volume, name) if mapped is None else mapped
        return Volume(arrays["image"], arrays.get("mask"), preprocessing.spacing, case.shape, case.affine)

    @staticmethod
    def _key(preprocessing, case, source):
        grid = {name: preprocessing.to_dict()[name] for name in ("spacing", "version")}
        digest = hashlib.sha256(json.dumps(grid, sort_keys=True).encode())
        digest.update(case.affine.tobytes())
        if isinstance(source, str):
            digest.update(content_key(source).encode())
        else:
            array = np.ascontiguousarray(source[0] if isinstance(source, tuple) else source)
            digest.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
        return digest.hexdigest()[:40]

    def _count(self, written, keep):
        """Add to the known size; look at the folder if that is too large, or a twentieth has been added."""
        folder = str(self.directory.resolve())
        with _LOCK:
            size, since = _SIZES.get(folder, (None, 0))
            since += written
            if size is None or size + since > self.max_bytes or since > self.max_bytes / 20:
                size, since = self._shrink(keep), 0
            _SIZES[folder] = size, since

    def _shrink(self, keep):
        """Remove the oldest files if there are too many, but none of `keep`; return the size of the rest."""
        files = []
        for file in self.directory.glob("*.npy"):
            match = _MADE.fullmatch(file.name)
            try:
                stat = file.lstat()
            except FileNotFoundError:  # another process removed it
                continue
            if match and (not match["writing"] or time.time() - stat.st_mtime > 3600):  # an hour: given up
                files.append((stat.st_mtime, stat.st_size, file))
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return total
        for _, size, file in sorted(files):
            if total <= 0.95 * self.max_bytes:  # so that the next scans do not each look at all files again
                break
            if file not in keep:
                with contextlib.suppress(PermissionError):  # in use, on Windows
                    file.unlink(missing_ok=True)
                    total -= size
        return total


def _map(file, kind, shape):
    """Map a ``.npy`` file into memory and mark it as used; None where there is none of this type and shape.

    NumPy's own maps hold a file handle each, of which a process may have 256 on macOS; these hold none.
    """
    try:
        with contextlib.suppress(OSError):  # written by somebody else, or the disk is read-only
            os.utime(file)
        with open(file, "rb") as stream:
            np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
            size = start + math.prod(shape) * np.dtype(kind).itemsize
            if header != (shape, False, kind) or os.fstat(stream.fileno()).st_size != size:
                return None
        content = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).numpy()
    except Exception:  # not there, or damaged: NumPy parses the header as Python
        return None
    return content[start:].view(kind).reshape(shape)
