"""Damaged DICOM: bytes, and elements deleted, exchanged or set, in series, SEG and RTSTRUCT."""

import copy
import io
import tempfile
import warnings
from pathlib import Path

import dicoms
import numpy as np
import pydicom
from grids import ellipsoid_mask

from tumorsim.io.dicom import draw_tumors, find_scan, read_regions

from ._engine import Reader

_SHAPE = (16, 14, 6)
_VALUES = (
    "",
    "x",
    "1",
    "-1",
    "0",
    "65535",
    "1e400",
    "nan",
    "2147483647",
    "\\",
    "1\\2",
    "CLOSED_PLANAR",
    "1.2.3",
)


def _elements(rng, content):
    """Delete, exchange or set elements of a DICOM file, also within sequences; bytes → bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _changed(rng, content)


def _changed(rng, content):
    """Do it; a value that cannot be written becomes a flipped bit."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        places = [(d, e.tag) for d, e in _walk(dataset)]
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            owner, tag = rng.choice(places)
            what = rng.random()
            if tag not in owner:
                continue
            if what < 0.3:
                del owner[tag]
            elif what < 0.6:
                other, from_tag = rng.choice(places)
                if from_tag in other:
                    owner[tag].value = copy.deepcopy(other[from_tag].value)
            elif what < 0.7 and owner[tag].VR == "SQ" and owner[tag].value:
                owner[tag].value.append(copy.deepcopy(rng.choice(list(owner[tag].value))))
            elif what < 0.8 and owner[tag].VR in ("US", "UL", "SS"):
                owner[tag].value = rng.choice((0, 1, 2, 7, 255, 65535))
            else:
                owner[tag] = pydicom.dataelem.RawDataElement(
                    tag, owner[tag].VR, 0, rng.choice(_VALUES).encode(), 0, False, True
                )
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()
    except Exception:
        at = rng.randrange(len(content) + 1)
        if at == len(content):
            return content
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _walk(dataset):
    """Yield (dataset, element) of a dataset and of the items of its sequences."""
    for element in dataset:
        yield dataset, element
        if element.VR == "SQ":
            for item in element.value:
                yield from _walk(item)


def _scan(folder, **options):
    """Write a series and return its mask and the slices' paths."""
    mask = ellipsoid_mask(_SHAPE, [((8, 7, 3), (4, 3, 2))]) > 0
    image = np.random.default_rng(0).integers(0, 500, _SHAPE).astype(np.uint16)
    return mask, dicoms.write_series(folder, image, np.eye(4), **options)


def _seg(path, mask, sources):
    """Write a SEG of two segments."""
    dicoms.write_seg(path, [mask, mask], sources, names=("tumor", "edema"))


def _rtstruct(path, mask, sources, reference=True):
    """Write an RTSTRUCT of a tumor and an organ."""
    contours = dicoms.contours_of(mask, np.eye(4))
    regions = {"GTV": contours, "Cochlea": contours[:1]}
    dicoms.write_rtstruct(path, regions, sources, reference=reference)


def _folders(folder):
    """Write scans: plain with a SEG, padded with an RTSTRUCT of its coordinates, compressed, enhanced."""
    _seg(folder / "plain" / "seg", *_scan(folder / "plain"))
    more = {"PixelPaddingValue": 3, "PixelPaddingRangeLimit": 9, "RescaleSlope": 2}
    _rtstruct(folder / "padded" / "rt", *_scan(folder / "padded", **more), reference=False)
    _rtstruct(folder / "packed" / "rt", *_scan(folder / "packed", compress="RLELossless"))
    image = np.random.default_rng(0).integers(0, 500, _SHAPE).astype(np.uint16)
    dicoms.write_enhanced(folder / "enhanced" / "file", image, np.eye(4))
    return sorted(folder.iterdir())


def _read_folder(folder):
    """Read a folder's scan and tumors; what is accepted is a volume and a mask of its shape."""
    scan = find_scan(folder)
    assert scan.load_image().shape == scan.shape
    mask, regions, _ = draw_tumors(scan)
    assert mask is None or (mask.shape == scan.shape and mask.max() <= len(regions))


def _file(write, kind):
    """Return the functions that write a SEG or RTSTRUCT, and read it."""

    def seeds(folder):
        with tempfile.TemporaryDirectory() as other:
            write(folder / kind, *_scan(Path(other)))
        return [folder / kind]

    def read(path):
        for region in read_regions(path, kind):
            assert region.draw(_SHAPE, np.eye(4), []).dtype == bool

    return seeds, read


_WORDS = (
    *(b"DICM", b"\xfe\xff\x00\xe0", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"SQ", b"UI", b"OW", b"DS"),
    *(b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2", b"\x28\x00\x10\x00", b"\x20\x00\x32\x00"),
)

READERS = [
    Reader("dicom-folder", _folders, _read_folder, _WORDS, (_elements,) * 6, needs=("highdicom",), ci=150),
    Reader("dicom-seg", *_file(_seg, "seg"), _WORDS, (_elements,) * 6, needs=("highdicom",), ci=200),
    Reader("dicom-rtstruct", *_file(_rtstruct, "rtstruct"), _WORDS, (_elements,) * 6, ("pydicom",), ci=200),
]
