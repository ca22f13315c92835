"""NIfTI and NRRD ↔ (array, affine)."""

from pathlib import Path

import numpy as np

from tumorsim.exceptions import GeometryError
from tumorsim.geometry import check_affine
from tumorsim.io._files import atomic_path

__all__ = ["arrays_of_nibabel", "load_image", "read_geometry", "save_nifti"]

_NRRD_TO_RAS = {"lps": (-1, -1, 1), "las": (-1, 1, 1), "ras": (1, 1, 1)}


def read_geometry(path):
    """Return shape and affine of an image file without reading its voxels.

    Parameters
    ----------
    path : str or Path
        A ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.nhdr`` file.

    Returns
    -------
    shape : tuple of 3 int
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    GeometryError
        If it is not a 3-D image, cannot be read, or its affine is no use (see `check_affine`).
    """
    path, what = Path(path), f"'{path}'"
    if not path.is_file():
        raise FileNotFoundError(f"Image '{path}' does not exist.")
    shape, affine = _read_nrrd_header(path) if _is_nrrd(path) else _nifti_geometry(_open_nifti(path), what)
    return _checked_geometry(shape, affine, what)


def load_image(path):
    """Read an image file.

    Parameters
    ----------
    path : str or Path
        A ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.nhdr`` file.

    Returns
    -------
    array : ndarray of shape (nx, ny, nz)
        In the file's own integer type where it is not rescaled, else float32.
    affine : ndarray of shape (4, 4)
        Voxel → RAS+ mm.

    Raises
    ------
    FileNotFoundError, GeometryError
        As `read_geometry`, and ``GeometryError`` if the voxels cannot be read.
    """
    path = Path(path)
    shape, affine = read_geometry(path)
    try:
        if _is_nrrd(path):
            import nrrd

            array = nrrd.read(str(path), index_order="F")[0]
        else:
            array = _nifti_voxels(_open_nifti(path))
    except Exception as err:  # a truncated gzip, a bad byte: whatever the reader raises, name the file
        raise GeometryError(f"The voxels of '{path}' cannot be read: {err}. Copy the file anew.") from err
    return _plain_array(array, shape, f"'{path}'"), affine


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
        If it is not 3-D, has no voxels, or its affine is no use.
    """
    shape, affine = _checked_geometry(*_nifti_geometry(image, what), what)
    return _plain_array(_nifti_voxels(image), shape, what), affine


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
            raise GeometryError(
                f"Integers must fit into 32 bits to be written to '{path}'. Got {array.max()}."
            )
        array = array.astype(np.int32)
    image = nib.Nifti1Image(array, np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def _is_nrrd(path):
    """Tell by the suffix whether a file is NRRD."""
    return path.suffix.lower() in (".nrrd", ".nhdr")


def _open_nifti(path):
    """Open what nibabel can read, voxels unread."""
    import nibabel as nib

    try:
        return nib.load(path)
    except Exception as err:  # nibabel raises many kinds for a file that is none of its formats
        raise GeometryError(f"'{path}' is neither NIfTI nor NRRD, or it is damaged: {err}") from err


def _nifti_geometry(image, what):
    """Return shape and affine of a nibabel image."""
    if image.affine is None:
        raise GeometryError(f"{what} has no affine, so its left and right are unknown.")
    return image.shape, image.affine


def _nifti_voxels(image):
    """Return the voxels of a nibabel image: as stored where they are not rescaled, else float32."""
    stored = image.dataobj
    array = np.asanyarray(stored)
    if array.dtype.kind == "f" or getattr(stored, "slope", 1) != 1 or getattr(stored, "inter", 0) != 0:
        array = array.astype(np.float32)
    return array


def _checked_geometry(shape, affine, what):
    """Return shape, without further axes of length 1, and affine if they are those of a 3-D image."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise GeometryError(
            f"{what} must be a 3-D image. Got {len(shape)} dimensions of shape {tuple(shape)}. "
            "Split it, and name the contrast-enhanced T1 volume."
        )
    if 0 in shape:
        raise GeometryError(f"{what} has no voxels: its shape is {tuple(shape)}.")
    return tuple(int(n) for n in shape), check_affine(affine, what=what)


def _plain_array(array, shape, what):
    """Return voxels in this machine's byte order and `shape`."""
    if array.dtype.kind not in "uif":
        raise GeometryError(f"{what} must hold one number per voxel. Got {array.dtype}.")
    native = array.dtype.newbyteorder("=")  # torch takes no other byte order
    return np.ascontiguousarray(array.reshape(shape, order="F"), dtype=native)


def _read_nrrd_header(path):
    """Return shape and RAS+ affine of an NRRD file."""
    import nrrd

    try:
        header = nrrd.read_header(str(path))
        shape = tuple(int(n) for n in header["sizes"])
    except Exception as err:  # pynrrd raises its own and built-in kinds
        raise GeometryError(f"'{path}' is not a readable NRRD file: {err}") from err
    space = str(header.get("space", "")).lower()
    space = "".join(word[:1] for word in space.split("-")) if "-" in space else space
    directions = header.get("space directions")
    if space not in _NRRD_TO_RAS or directions is None or len(shape) != 3:
        if len(shape) != 3:
            return shape, np.eye(4)
        raise GeometryError(
            f"'{path}' must state 'space' and 'space directions', or its left and right are unknown. "
            f"Got space {space or 'none'!r}. Write it again from a program that knows the patient's axes."
        )
    signs = np.array(_NRRD_TO_RAS[space], dtype=np.float64)[:, None]
    affine = np.eye(4)
    affine[:3, :3] = signs * np.asarray(directions, dtype=np.float64).T
    affine[:3, 3] = signs[:, 0] * np.asarray(header.get("space origin", np.zeros(3)), dtype=np.float64)
    return shape, affine
