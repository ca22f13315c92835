"""Readers of the public data sets whose files must be converted."""

import contextlib
import gzip
import itertools
import json
import os
import re
from functools import partial

import nibabel as nib
import numpy as np
from scipy.ndimage import affine_transform
from tqdm import tqdm

from tumorsim._validation import printable
from tumorsim.exceptions import GeometryError, GridMismatchError, ManifestError
from tumorsim.geometry import check_same_grid
from tumorsim.io import load_image, read_geometry, save_nifti
from tumorsim.io.dicom import mask_of_contours, read_series
from tumorsim.public_sets._found import NoPlaceError, read_toml
from tumorsim.public_sets._slices import read_slices
from tumorsim.public_sets._tables import sheets_of

_NOT_TUMOR = re.compile(r"brain ?stem|modiolus|cochlea.*|test|vol 2y", re.I)  # 'vol 2y': badly interpolated
_TUMOR_NAMES = ("tv", "an")
_LARGEST = 2**30  # bytes of a 4-D image


def _each(prepare, found, usable):
    """Read usable matches with their rows one by one; return the filled rows, and lesions.

    `prepare(found)` returns a function that fills a row, and may return its lesions: mask value → cells.
    """
    fill, lesions = prepare(found), {}
    for match, row in tqdm(usable, found.name, disable=None if found.progress else True, leave=False):
        try:
            cells = fill(match, row)
        except NoPlaceError:
            raise
        except Exception as err:  # json, zlib, nibabel and pydicom raise kinds of their own
            own = "" if isinstance(err, OSError | ValueError) else f"damaged files: {type(err).__name__} "
            row["problem"] = f"case '{row['case_id']}': {own}{printable(err, 600).rstrip('.')}"
        else:
            lesions |= {row["case_id"]: cells} if cells else {}
    return [row for _, row in usable], lesions


def _convert(found, row, kind, sources, make):
    """Write what `make` returns as NIfTI, unless it was written before, and give `row` its path."""
    suffix = {"image": "t1c", "channel": "t1gd", "mask": "mask"}[kind]
    target = found.target(f"{row['case_id']}_{suffix}.nii.gz")
    if not target.is_file() or target.stat().st_mtime < max(os.stat(source).st_mtime for source in sources):
        save_nifti(target, *make())
    row["mask" if kind == "mask" else "image"] = str(target)


def _gamma_knife(found):
    """Brain-TR-GammaKnife: one NRRD file per lesion, described in two sheets."""
    sheets = {"lesion_level": [], "course_level": []}
    for name, sheet in sheets_of(found):
        if name in sheets:
            sheets[name] += sheet.to_dict("records")

    def fill(match, row):
        ids = match.groups["patient"][3:], match.groups["visit"]
        for course in sheets["course_level"]:
            if (course.get("unique_pt_id"), course.get("Course #")) == ids:
                row |= {name: value for name, value in course.items() if name not in row}
        lesions = sheets["lesion_level"]
        described = [one for one in lesions if (one.get("unique_pt_id"), one.get("Treatment Course")) == ids]
        beside = re.escape(os.path.dirname(match.path).lower())
        lesion = re.compile(rf"{beside}/(?![^/]*(dose|_mr_|_ct_))[^/]*\.nrrd")  # no image and no dose
        paths = sorted(found.absolute(path) for low, path in found.files.items() if lesion.fullmatch(low))
        if not paths:
            raise ManifestError(f"no lesion (a further .nrrd file) is beside '{match.path}'")
        _convert(found, row, "mask", paths, lambda: _one_mask(paths, row))
        return {number: _describe(path, described) for number, path in enumerate(paths, start=1)}

    return fill


def _one_mask(paths, row):
    """Return one mask of several files, numbered from 1, and its affine; small lesions over large ones."""
    shape, affine = read_geometry(row["image"])
    mask, found = np.zeros(shape, np.uint8), []
    for number, path in enumerate(paths, start=1):
        lesion, own = load_image(path)
        if len(np.unique(lesion)) > 2:
            raise GeometryError(f"'{path}' is no mask: it holds more than two values.")
        lesion = _on_grid(lesion > lesion.min(), own, shape, affine, row["case_id"])
        found.append((int(lesion.sum()), number, np.flatnonzero(lesion)))
    for _, number, voxels in sorted(found, key=lambda one: -one[0]):
        mask.flat[voxels] = number
    return mask, affine


def _describe(path, described):
    """Return the cells of a lesion's file: its row of the sheet (names differ in case), and its area."""
    name = _plain(os.path.basename(path).removesuffix(".nrrd"))
    names = [_plain(lesion.get("Lesion Name in NRRD files", "")) for lesion in described]
    chosen = []
    for date in ("", r"\d+"):  # some files carry a date that the sheet does not
        fits = [bool(other and re.fullmatch(other + date, name)) for other in names]
        chosen = chosen or list(itertools.compress(described, fits))
    cells = {"lesion_file": os.path.basename(path), "label_region": ""}
    if len(chosen) == 1:
        cells |= chosen[0] | {"label_region": _region_of(chosen[0].get("Lesion Location", ""))}
    return {name: value for name, value in cells.items() if name != "unique_pt_id"}


def _plain(name):
    """Return a name as lower-case letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _region_of(text):
    """Return the area that a location in free text names, or empty where it names none or several."""
    found = []
    for area, words in read_toml("areas.toml").items():
        text, n_found = re.subn(words, " ", text, flags=re.I)  # what was found is neither cerebellum nor pons
        found += [area] * (n_found > 0)
    return found[0] if len(found) == 1 else ""


def _contours(found):
    """Vestibular-Schwannoma-SEG: NIfTI as KCL's script writes it, or DICOM with contours as JSON."""
    series = _t1_series(found)

    def fill(match, row):
        if row["mask"]:
            return None
        contours, folder = row["image"], series.get(row["case_id"])
        structures = _tumor_structures(contours, row)
        if folder is None:
            remedy = "Put the DICOM folders and DirectoryNamesMappingModality.csv below the root"
            raise ManifestError(f"there is no T1 series of this patient. {remedy}")
        _convert(found, row, "image", [folder], lambda: _as_stored(*read_series(folder)))
        _convert(found, row, "mask", [contours, row["image"]], lambda: _filled(structures, row["image"]))
        return {number: {"label_type": kind} for number, (kind, _) in enumerate(structures, start=1)}

    return fill


def _tumor_structures(path, row):
    """Return (type, contours) of the tumors in a file of contours."""
    with open(path, encoding="utf-8") as file:
        structures = {one["structure_name"].strip(): one["LPS_contour_points"] for one in json.load(file)}
    tumors = {name: own for name, own in structures.items() if own and not _NOT_TUMOR.fullmatch(name)}
    others = {name: points for name, points in tumors.items() if name.lower() != "men"}
    named = {name: points for name, points in others.items() if name.lower() in _TUMOR_NAMES}
    if len(named) == 1:
        others = named
    if len(others) > 1 or not tumors:
        listed = ", ".join(repr(name) for name in structures)
        raise ManifestError(f"which structure is the tumor is not clear. Got {listed}")
    found = [(row["label_type"], points) for points in others.values()]
    return found + [("meningioma", points) for name, points in tumors.items() if name.lower() == "men"]


def _filled(structures, image):
    """Return a mask of structures, numbered from 1, on the grid of an image file, and its affine."""
    shape, affine = read_geometry(image)
    mask = np.zeros(shape, np.uint8)
    for number, (_, contours) in enumerate(structures, start=1):
        drawn = [np.asarray(points, float).reshape(-1, 3) * (-1, -1, 1) for points in contours]  # LPS → RAS
        mask[mask_of_contours([points for points in drawn if len(points) > 2], shape, affine)] = number
    return mask, affine


def _t1_series(found):
    """Return VS-SEG id → folder of its T1 series, from the table of directory names."""
    folders = {low.rpartition("/")[0]: path.rpartition("/")[0] for low, path in found.files.items()}
    series = {}
    for _, sheet in sheets_of(found, ("DirectoryNamesMappingModality*.csv",)):
        for row in sheet.to_dict("records"):
            for column in ("Classic Directory Name", "Descriptive Directory Name"):
                parts = row.get(column, "").lower().strip("/").split("/")
                named = {low: path for low, path in folders.items() if low.rpartition("/")[2] == parts[-1]}
                fits = [path for low, path in named.items() if f"{parts[0]}/" in f"{low}/"]
                if len(fits) == 1 and row.get("Modality", "").lower() == "t1 image":
                    series.setdefault(parts[0].upper(), found.absolute(fits[0]))
    return series


def _series_masks(found):
    """VS-MC-RC: masks as NIfTI, images as DICOM series that a table names by their UID."""
    uids = {
        row["SegmentationPath"].lower().lstrip("./"): row.get("series_instance_uid", "")
        for _, sheet in sheets_of(found)
        for row in sheet.to_dict("records")
        if row.get("SegmentationPath")
    }
    by_uid = _series_folders(found) if uids else {}

    def fill(match, row):
        uid = uids.get("/".join(match.path.lower().split("/")[-3:]))
        if uid is None:
            raise ManifestError(f"no '*segmentation-info*.csv' below the root names '{match.path}'")
        if uid not in by_uid:
            raise ManifestError(f"its DICOM series {uid} is not below the root")

        def moved():
            mask, own = load_image(source)
            shape, affine = read_geometry(row["image"])
            return _on_grid(mask > 0, own, shape, affine, row["case_id"]), affine

        source = row["image"]
        _convert(found, row, "image", [by_uid[uid]], lambda: _as_stored(*read_series(by_uid[uid])))
        _convert(found, row, "mask", [source, row["image"]], moved)

    return fill


def _series_folders(found):
    """Return series UID → folder: by the folder's name, else by the header of one of its files."""
    dicom = {path.rpartition("/")[0]: path for path in found.files.values() if path.lower().endswith(".dcm")}
    series = {}
    for folder, path in dicom.items():
        uid = folder.rpartition("/")[2]
        if not re.fullmatch(r"[\d.]{20,}", uid):
            import pydicom

            with contextlib.suppress(Exception):  # no DICOM file: then nothing is found there
                tags = {"stop_before_pixels": True, "specific_tags": ["SeriesInstanceUID"]}
                uid = str(pydicom.dcmread(found.absolute(path), **tags).get("SeriesInstanceUID", ""))
        series[uid] = found.absolute(folder)
    return series


def _channel(found):
    """Decathlon's Task01: 4-D images; the task says which channel is contrast-enhanced T1, else it is 2."""

    def fill(match, row):
        def cut():
            with (gzip.open if path.lower().endswith(".gz") else open)(path, "rb") as file:
                content = file.read(_LARGEST + 1)  # to the end, where the checksum is
            if len(content) > _LARGEST:
                raise GeometryError(f"'{path}' must unpack to at most {_LARGEST} bytes. It has more.")
            image = nib.Nifti1Image.from_bytes(content)
            if len(image.shape) != 4 or image.shape[3] <= channel:
                rule = f"'{path}' must have 4 dimensions and a channel {channel}"
                raise GeometryError(f"{rule}. Got shape {image.shape}.")
            return np.asanyarray(image.dataobj[..., channel]), image.affine

        path, modality = row["image"], {}
        task = os.path.dirname(os.path.dirname(match.path))
        described = found.files.get(f"{task}/dataset.json".lstrip("/").lower())
        if described is not None:
            with open(found.absolute(described), encoding="utf-8") as file:
                modality = json.load(file).get("modality", {})
        names = ("t1gd", "t1ce", "t1c")
        channel = next((int(n) for n, name in modality.items() if name.lower() in names), 2)
        _convert(found, row, "channel", [path], cut)

    return fill


def _as_stored(image, affine):
    """Return an image as int16 where that loses nothing, and its affine."""
    small = image.astype(np.int16)
    return (small if np.array_equal(small, image) else image), affine


def _on_grid(mask, own, shape, affine, case_id):
    """Return a bool mask of affine `own` on an image's grid, as uint8, by nearest neighbor if need be."""
    mask = mask.astype(np.uint8)
    with contextlib.suppress(GridMismatchError):
        check_same_grid(shape, affine, mask.shape, own, case_id=case_id)
        return mask
    to_mask = np.linalg.inv(own) @ affine  # voxel of the image → voxel of the mask
    moved = affine_transform(mask, to_mask[:3, :3], to_mask[:3, 3], output_shape=shape, order=0)
    if mask.any() and not moved.any():
        raise GridMismatchError(
            f"Nothing of the mask of case '{case_id}' lies inside its image. Check that both are of one scan."
        )
    return moved


READERS = {
    "lesion_files": partial(_each, _gamma_knife),
    "contours": partial(_each, _contours),
    "series_masks": partial(_each, _series_masks),
    "channel": partial(_each, _channel),
    "slices": read_slices,
}
