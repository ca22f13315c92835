"""Damaged images: NIfTI, MGZ and NRRD, in one file or with voxels beside."""

import gzip

import numpy as np

from tumorsim.io import load_image, save_nifti

from ._engine import Reader

_AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def _voxels():
    """Return unequal axes with a mask's and an image's values, (7, 8, 9)."""
    image = np.arange(7 * 8 * 9, dtype=np.int16).reshape(7, 8, 9)
    return {"image": image, "mask": (image > 400).astype(np.uint8), "float": image.astype(np.float32) / 7}


def _nifti(suffix):
    """Return a function that writes NIfTI images with this suffix."""

    def seeds(folder):
        for name, array in _voxels().items():
            save_nifti(folder / f"{name}{suffix}", array, _AFFINE)
        return sorted(folder.iterdir())

    return seeds


def _analyze_pair(folder):
    """Write a header and its voxels in two files."""
    import nibabel as nib

    (folder / "pair").mkdir()
    nib.save(nib.Nifti1Pair(_voxels()["image"], _AFFINE), folder / "pair" / "scan.img")
    return [folder / "pair" / "scan.hdr", folder / "pair" / "scan.img"]


def _mgh(folder):
    """Write FreeSurfer images, packed and plain."""
    import nibabel as nib

    nib.save(nib.MGHImage(_voxels()["float"], _AFFINE), folder / "scan.mgz")
    nib.save(nib.MGHImage(_voxels()["image"], _AFFINE), folder / "scan.mgh")
    return sorted(folder.iterdir())


def _nrrd_header(array, encoding, more=""):
    """Return the text of an NRRD header."""
    kind = {"i": "int16", "u": "uint8", "f": "float"}[array.dtype.kind]
    rows = ["NRRD0004", f"type: {kind}", "dimension: 3", "space: left-posterior-superior"]
    rows += [f"sizes: {' '.join(str(n) for n in array.shape)}", "space directions: (1,0,0) (0,1.5,0) (0,0,2)"]
    rows += [
        "kinds: domain domain domain",
        "endian: little",
        f"encoding: {encoding}",
        "space origin: (1,2,3)",
    ]
    return "\n".join(rows) + "\n" + more


def _nrrd(folder):
    """Write NRRD files with their voxels, as each encoding has them."""
    for name, array in _voxels().items():
        raw = array.tobytes(order="F")
        (folder / f"{name}.nrrd").write_bytes((_nrrd_header(array, "raw") + "\n").encode() + raw)
        packed = (_nrrd_header(array, "gzip", "key:=value\n") + "\n").encode() + gzip.compress(raw, 1)
        (folder / f"{name}_gz.nrrd").write_bytes(packed)
    text = " ".join(str(v) for v in _voxels()["mask"].ravel(order="F"))
    (folder / "text.nrrd").write_text(_nrrd_header(_voxels()["mask"], "ascii") + "\n" + text)
    return sorted(folder.iterdir())


def _nhdr(folder):
    """Write NRRD headers with the voxels in a file beside."""
    for name, array in _voxels().items():
        for encoding in ("raw", "gzip"):
            raw = array.tobytes(order="F")
            place = folder / f"{name}_{encoding}"
            place.mkdir()
            header = _nrrd_header(array, encoding, "data file: voxels.raw\n")
            (place / "scan.nhdr").write_text(header)
            (place / "voxels.raw").write_bytes(raw if encoding == "raw" else gzip.compress(raw, 1))
    return sorted(folder.rglob("*.nhdr"))


def _read(path):
    """Read an image; what is accepted is 3-D with a usable affine."""
    array, affine = load_image(path)
    assert array.ndim == 3 and array.size and array.dtype.kind in "uif"
    assert np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0


_NRRD_WORDS = """\
|type: |dimension: |space: |space dimension: |sizes: |space directions: |none|kinds: |endian: |big
|encoding: |raw|gzip|bzip2|ascii|hex|txt|space origin: |data file: |LIST|LIST 2|%03d.raw 1 3 1|../voxels.raw
|/dev/zero|/etc/passwd|line skip: |byte skip: |-1|block|block size: |float|double|int64|uint64|list|domain
|left-posterior-superior|right-anterior-superior|scanner-xyz|thicknesses: |measurement frame: |:=|# |(1,0,0)
|(nan,0,0)|NRRD0005|NRRD0004|spacings: |vector"""
_NRRD_WORDS = tuple(_NRRD_WORDS.replace("\n", "").encode().split(b"|"))[1:]
_NIFTI_WORDS = (b"n+1\x00", b"ni1\x00", b"n+2\x00\r\n\x1a\n", b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")
_NIFTI_WORDS += tuple(
    code.to_bytes(2, "little") for code in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1536, 2304)
)

READERS = [
    Reader("nifti-gz", _nifti(".nii.gz"), _read, _NIFTI_WORDS, ci=250),
    Reader("nifti", _nifti(".nii"), _read, _NIFTI_WORDS, ci=300),
    Reader("nifti-pair", _analyze_pair, _read, _NIFTI_WORDS, ci=150),
    Reader("mgh", _mgh, _read, ci=250),
    Reader("nrrd", _nrrd, _read, _NRRD_WORDS, ci=250),
    Reader("nhdr", _nhdr, _read, _NRRD_WORDS, ci=250),
]
