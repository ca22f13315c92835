"""NRRD → shape, affine, and a function that reads the voxels; also where they lie in a file of their own."""

import bz2
import gzip
import io
import math
import os

import numpy as np

from tumorsim._validation import printable
from tumorsim.exceptions import GeometryError

_TO_RAS = {"lps": (-1, -1, 1), "las": (-1, 1, 1), "ras": (1, 1, 1)}
_LONGEST_HEADER = 2**22  # bytes; those of many segments with their terminologies have a tenth
SPARE = 2**24  # bytes that a file may hold beside header and voxels


def _open_gzip(file):
    """Open a gzip file by isal where it is installed, which unpacks in a third of the time."""
    try:
        from isal import igzip
    except ImportError:
        return gzip.open(file)
    return igzip.open(file)


GZIP, BZIP2 = (_open_gzip, 1100), (bz2.open, 2_000_000)  # and how much larger than the file voxels can be
_READERS = {"gzip": GZIP, "gz": GZIP, "bzip2": BZIP2, "bz2": BZIP2}
_MICRONS = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers")
MM = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "meter": 1000.0}
MM |= {"meters": 1000.0, **dict.fromkeys(_MICRONS, 1e-3)}


def open_nrrd(path):
    """Return shape, affine, a function that returns the voxels, and that the orientation is stated."""
    header, start = _read_header(path)
    shape, affine = _geometry(header, f"'{path}'")
    return shape, affine, lambda: _voxels(path, header, start, math.prod(shape)), True


def voxel_file(path, header=None):
    """Return the file that holds the voxels of an NRRD header: itself, or one below its folder."""
    header = _read_header(path)[0] if header is None else header
    name = header.get("data file", header.get("datafile"))
    if name is None:
        return path
    folder = path.parent.resolve()
    file = (folder / name).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        rule = f"The voxels of '{path}' must lie in a regular file below its folder"
        raise GeometryError(f"{rule}. Got '{printable(name)}'.")
    return file


def _read_header(path):
    """Return the fields of the header, and where the voxels begin."""
    import nrrd

    with open(path, "rb") as file:
        head = file.read(_LONGEST_HEADER)
    try:
        lines = io.BytesIO(head)
        header = nrrd.read_header(lines)
        if lines.tell() == _LONGEST_HEADER:
            raise ValueError("its header has no end")
        header["sizes"] = np.array([int(n) for n in header["sizes"]], dtype=np.int64)
    except Exception as err:  # pynrrd raises its own and built-in kinds
        raise GeometryError(f"'{path}' is not a readable NRRD file: {printable(err)}") from err
    return header, lines.tell()


def _geometry(header, what):
    """Return shape and RAS+ affine; axes that are none of space, such as a list's, must have one entry."""
    sizes, space = header["sizes"], str(header.get("space", "")).lower()
    space = "".join(word[:1] for word in space.split("-")) if "-" in space else space
    rows = header.get("space directions")
    if rows is None:
        rows = np.eye(3) if len(sizes) == 3 else np.zeros((len(sizes), 3))
    else:
        rows = np.array([[np.nan] * 3 if row is None else row[:3] for row in rows], dtype=np.float64)
    spatial = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    if len(rows) != len(sizes) or spatial.sum() != 3 or (sizes[~spatial] > 1).any():
        raise GeometryError(
            f"{what} must be a 3-D image. Got {len(sizes)} dimensions of shape {tuple(sizes.tolist())}, "
            f"{spatial.sum()} of them in space. Split it, or collapse the layers of a segmentation into one."
        )
    signs = _TO_RAS.get(space.removesuffix("t") if len(space) == 4 else space)
    missing = [name for name in ("space", "space directions", "space origin") if name not in header]
    if signs is None or missing:
        got = f"no '{missing[0]}'" if missing else f"space '{printable(header['space'])}'"
        raise GeometryError(
            f"{what} must state 'space', 'space directions' and 'space origin', or its left and right are "
            f"unknown, or where it lies. Got {got}. Write it by a program that knows the patient's axes."
        )
    affine = np.eye(4)
    affine[:3, :3] = rows[spatial].T
    affine[:3, 3] = np.asarray(header["space origin"], dtype=np.float64)[:3]
    units = [str(unit).strip() for unit in header.get("space units", [""] * 3)][:3]
    affine = rescaled(affine, units, what)
    return tuple(sizes[spatial].tolist()), np.diag([*signs, 1.0]) @ affine


def rescaled(affine, units, what):
    """Return an affine in mm from one in `units` of its three rows."""
    if any(unit.lower() not in MM for unit in units):
        got = printable(", ".join(units))
        raise GeometryError(f"{what} must be in mm. Got the units {got}. Convert its header.")
    factors = [MM[unit.lower()] for unit in units]
    if factors == [1.0] * 3:
        return affine
    affine = np.diag([*factors, 1.0]) @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacing > 0.01) & (spacing < 100)).all():
        found = f"its voxels would have {' x '.join(f'{s:.3g}' for s in spacing)} mm"
        stated = f"{what} states its units as {', '.join(units)}"
        raise GeometryError(f"{stated}, so {found}. Correct the unit in its header.")
    return affine


def _voxels(path, header, start, n_voxels):
    """Return the voxels, axes of `header["sizes"]`; the compressed stream is read to its checksum."""
    import nrrd

    file, encoding = voxel_file(path, header), str(header.get("encoding", ""))
    plain = {name: value for name, value in header.items() if name not in ("data file", "datafile")}
    skip = header.get("byte skip", header.get("byteskip", 0))
    least = 32 * n_voxels if encoding.lower() in ("ascii", "text", "txt") else 8 * n_voxels
    with open(file, "rb") as packed:
        packed.seek(start if file == path else 0)
        for _ in range(plain.pop("line skip", plain.pop("lineskip", 0))):
            packed.readline(_LONGEST_HEADER)
        stream, densest = packed, 1
        if encoding in _READERS:
            opened, densest = _READERS[encoding]
            stream, plain["encoding"] = opened(packed), "raw"
        content = stream.read(min(least + SPARE, densest * os.path.getsize(file)))
        if stream.read(3)[2:]:
            raise ValueError("there are more than its header says")
    array = nrrd.read_data(plain, io.BytesIO(content), str(path))
    # Some programs end a file with a line feed
    if plain["encoding"] == "raw" and len(content) > array.nbytes + skip + 2 >= array.nbytes:
        raise ValueError("there are more than its header says")
    return array
