"""NIfTI, MGH, Analyze and NRRD ↔ (array, affine)."""

import contextlib
import hashlib
import io
import math
import os
from pathlib import Path

import numpy as np

from tumorsim._validation import printable
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import check_affine, to_ras
from tumorsim.io._files import atomic_path
from tumorsim.io._nrrd import BZIP2, GZIP, SPARE, open_nrrd, rescaled, voxel_file

_KEY_VOXELS = 128**3

ORIENTATION_REMEDY = (
    "Find out which way its axes point. If nibabel's affine is right, say so in the header: image = "
    "nibabel.load(FILE); image.set_sform(image.affine, 1); image.set_qform(image.affine, 1); "
    "nibabel.save(image, NEW_FILE)."
)
ORIENTATION_UNKNOWN = "states no orientation, or two that disagree, so left and right are a guess"
MAX_VOXELS = 512**3  # of a file; ``TUMORSIM_MAX_VOXELS`` in the environment replaces it


_COMPRESSED = {".gz": GZIP, ".mgz": GZIP, ".bz2": BZIP2}
_LONGEST_HEADER = 2**26  # bytes of a header's extension
_NIFTI_UNITS = {0: "", 1: "m", 2: "mm", 3: "um"}
_PAIRS = {".hdr": ".img", ".img": ".hdr"}


def read_geometry(path):
    """Return shape and affine of an image file without reading its voxels.

    Parameters
    ----------
    path : str or Path
        A ``.nii``, ``.nii.gz``, ``.mgz``, ``.nrrd`` or ``.nhdr`` file, or a header with ``.img`` beside it.

    Returns
    -------
    shape : tuple of 3 int
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm; units other than mm are converted.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    GeometryError
        If it is not a 3-D image, cannot be read, has more than 512³ voxels (or as many as
        ``TUMORSIM_MAX_VOXELS`` in the environment says), or its affine is no use (see `check_affine`).
    """
    with contextlib.ExitStack() as stack:
        return _open(path, stack)[:2]


def load_image(path):
    """Read an image file.

    Parameters
    ----------
    path : str or Path
        As for `read_geometry`.

    Returns
    -------
    array : ndarray of shape (nx, ny, nz)
        In the file's own integer type where it is not rescaled, else float32.
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Raises
    ------
    FileNotFoundError, GeometryError
        As `read_geometry`, and ``GeometryError`` if the voxels cannot be read, or a checksum is wrong.
    """
    with contextlib.ExitStack() as stack:
        shape, affine, voxels, _ = _open(path, stack)
        try:
            array = voxels()
        except Exception as err:  # a truncated gzip, a bad byte: whatever the reader raises, name the file
            raise GeometryError(
                f"The voxels of '{path}' cannot be read: {printable(err)}. It is damaged: copy the file anew."
            ) from err
        return _plain_array(array, shape, f"'{path}'"), affine


def states_orientation(image):
    """Tell whether a file, or an image of nibabel, says which way its axes point; else sides are a guess.

    NIfTI files whose sform and qform codes are both 0, or where one of the two mirrors or turns over the
    other, Analyze files and MGH files without a good RAS transform do not.
    """
    if hasattr(image, "dataobj"):
        return _is_stated(image, image.get_filename())
    with contextlib.ExitStack() as stack:
        return _open(image, stack)[3]


def content_key(path):
    """Return the SHA-256 of a file's bytes, and of the file that holds its voxels, as hexadecimal text."""
    path = Path(path)
    packed = path.suffix if path.suffix.lower() in _COMPRESSED else ""
    stem = path.name.removesuffix(packed)
    other = path
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        other = voxel_file(path)
    elif stem[-4:].lower() in _PAIRS:
        own = _PAIRS[stem[-4:].lower()]
        other = path.with_name(stem[:-4] + (own.upper() if stem[-4:].isupper() else own) + packed)
    keys = []
    for name in dict.fromkeys([path, other] if other.is_file() else [path]):
        with open(name, "rb") as file:
            keys.append(hashlib.file_digest(file, "sha256").hexdigest())
    return keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()


def voxel_key(array, affine):
    """Return the SHA-256 of a scan's voxels (nx, ny, nz), whatever their format, type and order of axes.

    Voxels are taken as float32 in RAS+ order; of a scan of more than 128³ every n-th along each axis, with
    the least n that leaves no more, which takes milliseconds and still tells any two scans apart.

    Examples
    --------
    >>> image = np.arange(24).reshape(2, 3, 4)
    >>> flipped = voxel_key(image[::-1].astype(np.uint8), np.diag([-1.0, 1, 1, 1]))
    >>> flipped == voxel_key(image, np.eye(4))
    True
    """
    array, step = to_ras(array, affine), 1
    while math.prod(-(-n // step) for n in array.shape) > _KEY_VOXELS:
        step += 1
    lattice = np.ascontiguousarray(array[::step, ::step, ::step], dtype=np.float32) + 0.0  # no -0.0
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(lattice)
    return digest.hexdigest()


def arrays_of_nibabel(image, *, what="The image"):
    """Return voxels and affine of an image of nibabel, as `load_image` does of a file.

    Parameters
    ----------
    image : nibabel.spatialimages.SpatialImage
    what : str, default="The image"
        How messages call it.

    Raises
    ------
    GeometryError
        If it is not 3-D, has no voxels, its affine is no use, or the file behind it is damaged.
    """
    shape, affine = _checked_geometry(*_nibabel_geometry(image, what), what)
    try:
        file = getattr(getattr(image.dataobj, "file_like", None), "filename", None) or image.get_filename()
        if not isinstance(image.dataobj, np.ndarray) and Path(file or "").suffix.lower() in _COMPRESSED:
            with _Stream(file) as stream:  # nibabel does not read as far as the checksum
                stream.end = stream.size
                stream.finish()
        array = np.asanyarray(image.dataobj)
    except Exception as err:  # as in `load_image`
        raise GeometryError(f"{what} cannot be read: {printable(err)}. Its file is damaged.") from err
    return _plain_array(array, shape, what), affine


def save_nifti(path, array, affine):
    """Write `array` (nx, ny, nz) and `affine` as NIfTI, atomically; types that NIfTI readers lack are recast.

    Raises
    ------
    GeometryError
        If 64-bit integers do not fit into 32 bits.
    """
    import nibabel as nib

    array = np.asarray(array)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype.kind in "ui" and array.dtype.itemsize == 8:  # few programs read 64-bit NIfTI
        if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
            raise GeometryError(f"Integers in '{path}' must fit into 32 bits. Got {array.max()}.")
        array = array.astype(np.int32)
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


class _Stream(io.RawIOBase):
    """A compressed file for nibabel; it refuses more than `longest` bytes at once, or beyond `end`."""

    _file = None

    def __init__(self, path):
        opened, densest = _COMPRESSED[Path(path).suffix.lower()]
        self._file = opened(path)
        self.longest = self.end = _LONGEST_HEADER
        self.size = min(densest * os.path.getsize(path), 8 * _most_voxels() + _LONGEST_HEADER)

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._file.tell()

    def seek(self, offset, whence=0):
        if offset > self.size:
            raise ValueError(f"it is too short to hold {offset} bytes")
        return self._file.seek(offset, whence)

    def readinto(self, buffer):
        if len(buffer) > self.longest:
            raise ValueError(f"a part of its header claims {len(buffer)} bytes")
        return self._file.readinto(buffer)

    def close(self):
        if self._file is not None:
            self._file.close()
        super().close()

    def finish(self):
        """Read to the end, where the checksum is; return the number of bytes."""
        while self._file.read(2**16):
            if self._file.tell() > self.end:
                raise ValueError("there are more than its header says")
        return self._file.tell()


def _open(path, stack):
    """Return shape, affine, a function that returns the voxels, and whether the orientation is stated."""
    path, what = Path(path), f"'{path}'"
    if not path.is_file():
        raise FileNotFoundError(f"Image '{path}' does not exist, or is no regular file.")
    try:
        nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
        shape, affine, *rest = open_nrrd(path) if nrrd else _open_nibabel(path, stack)
        return *_checked_geometry(shape, affine, what), *rest
    except GeometryError:
        raise
    except Exception as err:  # nibabel and pynrrd raise many kinds for a file that is none of their formats
        raise GeometryError(f"{what} is neither NIfTI nor NRRD, or it is damaged: {printable(err)}") from err


def _open_nibabel(path, stack):
    """Return what `_open` does, of a file that nibabel reads."""
    import nibabel as nib

    sniff = None
    for kind in nib.imageclasses.all_image_classes:
        fits, sniff = kind.path_maybe_image(path, sniff)
        if fits:
            break
    else:
        if path.suffix.lower() in _COMPRESSED:
            stack.enter_context(_Stream(path)).finish()  # a damaged one says what is wrong
        raise ValueError("it has neither the name nor the first bytes of an image")
    if not issubclass(kind, nib.spatialimages.SpatialImage):
        raise ValueError(f"{kind.__name__} holds no voxels")
    files = kind.filespec_to_file_map(path)
    for holder in files.values():
        file = Path(holder.filename)
        if file.exists() and not file.is_file():
            raise ValueError(f"'{file}' is no regular file")
        if file.suffix.lower() in _COMPRESSED and file.is_file():
            holder.fileobj = stack.enter_context(_Stream(file))
    image = kind.from_file_map(files)
    if isinstance(image, nib.Nifti1Pair) and not image.header["sform_code"]:  # nibabel takes 0 mm for 1 mm
        with files.get("header", files["image"]).get_prepare_fileobj("rb") as file:
            if not kind.header_class.from_fileobj(file, check=False)["pixdim"][1:4].all():
                raise ValueError("its voxel sizes (pixdim) hold a 0")
    shape, affine = _nibabel_geometry(image, f"'{path}'")
    return shape, affine, lambda: _nibabel_voxels(image, files["image"]), _is_stated(image, path)


def _is_stated(image, path):
    """Tell whether an image of nibabel says which way its axes point."""
    import nibabel as nib

    if isinstance(image, nib.MGHImage) and path:  # nibabel fills in a transform where there is none
        with nib.openers.ImageOpener(path) as file:
            return any(file.read(30)[28:])
    if isinstance(image, nib.Nifti1Pair):
        codes = image.header["sform_code"], image.header["qform_code"]
        with contextlib.suppress(ValueError, nib.spatialimages.HeaderDataError):  # of a qform that is none
            if all(codes):
                turn = image.get_sform()[:3, :3] @ np.linalg.inv(image.get_qform()[:3, :3])
                return bool(min(np.linalg.det(turn), *np.diag(turn)) > 1e-3)
        return any(codes)
    mat = image.file_map.get("mat")
    return not isinstance(image, nib.AnalyzeImage) or (mat is not None and os.path.isfile(mat.filename))


def _nibabel_geometry(image, what):
    """Return shape and affine in mm of an image of nibabel."""
    if image.affine is None:
        raise GeometryError(f"{what} has no affine, so its left and right are unknown.")
    kind = image.get_data_dtype() if hasattr(image, "get_data_dtype") else image.dataobj.dtype
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise GeometryError(f"{what} must hold one number per voxel. Got {kind}.")
    code = int(image.header["xyzt_units"]) & 7 if hasattr(image.header, "get_xyzt_units") else 0
    unit = _NIFTI_UNITS.get(code, f"code {code}")
    return image.shape, rescaled(image.affine, [unit] * 3, what)


def _nibabel_voxels(image, holder):
    """Return voxels as stored where they are not rescaled, else float32; streams are read to their ends."""
    from nibabel.arrayproxy import ArrayProxy

    proxy, stream = image.dataobj, holder.fileobj
    size = os.path.getsize(holder.filename) if stream is None else stream.size
    offset, n_bytes = getattr(proxy, "offset", 0), math.prod(image.shape) * image.get_data_dtype().itemsize
    if stream is not None:
        stream.longest, stream.end = n_bytes, offset + n_bytes + SPARE
    plain, start = type(proxy) is ArrayProxy, getattr(image.header, "single_vox_offset", 0)
    if plain and offset + n_bytes > size:
        raise ValueError(f"it is too short to hold {math.prod(image.shape)}")
    if plain and offset < start and image.header.is_single:  # it says that voxels begin where it does itself
        if (size if stream is None else stream.finish()) != start + n_bytes:
            raise ValueError("its header says that they begin at byte 0 (vox_offset)")
        spec = (proxy.shape, proxy.dtype, start, proxy.slope, proxy.inter)
        proxy = type(proxy)(proxy.file_like, spec)
    raw = np.asanyarray(proxy.get_unscaled() if plain else proxy)
    if stream is not None:
        stream.finish()
    if not plain or (proxy.slope, proxy.inter) == (1, 0):
        return raw
    slope, inter, array = np.array([proxy.slope]), np.array([proxy.inter]), np.empty(raw.shape, np.float32)
    for x in range(len(raw)):  # plane by plane: the product is float64
        array[x] = raw[x] * slope + inter
    return array


def _checked_geometry(shape, affine, what):
    """Return shape, without further axes of length 1, and affine if they are those of a 3-D image."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        rule = f"{what} must be a 3-D image. Got {len(shape)} dimensions of shape {tuple(shape)}."
        raise GeometryError(f"{rule} Split it, and name the contrast-enhanced T1 volume.")
    if min(shape) < 1:
        raise GeometryError(f"{what} has no voxels: its shape is {tuple(shape)}.")
    most = _most_voxels()
    if math.prod(int(n) for n in shape) > most:
        rule = f"{what} must have at most {most} voxels. Got {' x '.join(map(str, shape))}."
        remedy = "crop it, or set the environment variable TUMORSIM_MAX_VOXELS to what memory can hold."
        raise GeometryError(f"{rule} If the header is right, {remedy}")
    return tuple(int(n) for n in shape), check_affine(affine, what=what)


def _most_voxels():
    """Return how many voxels an image may have."""
    text = os.environ.get("TUMORSIM_MAX_VOXELS", str(MAX_VOXELS))
    if not text.isdigit():
        raise GeometryError(f"TUMORSIM_MAX_VOXELS must be a whole number. Got '{text}'.")
    return int(text)


def _plain_array(array, shape, what):
    """Return voxels in this machine's byte order and `shape`, floats as float32; in memory as they were."""
    if array.dtype.kind not in "uif":
        raise GeometryError(f"{what} must hold one number per voxel. Got {array.dtype}.")
    kind = np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("=")  # as torch wants
    return np.asarray(array.reshape(shape, order="F"), dtype=kind)
