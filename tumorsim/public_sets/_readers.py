"""Readers of the public data sets whose files must be converted: a function a set, rows and lesions out."""

import json
import os
import re

import numpy as np

from tumorsim.exceptions import GeometryError, GridMismatchError, ManifestError
from tumorsim.geometry import check_same_grid
from tumorsim.io import load_image, read_geometry, save_nifti
from tumorsim.io.dicom import mask_of_contours, read_series
from tumorsim.public_sets._found import NoPlaceError
from tumorsim.public_sets._slices import read_slices
from tumorsim.public_sets._tables import find_tables, read_sheets

__all__ = [
    "read_decathlon",
    "read_gamma_knife",
    "read_series_masks",
    "read_slices",
    "read_vestibular_schwannoma",
]

_AREAS = (  # area, words of a location in free text
    ("cerebellopontine_angle", r"cerebello-?\s?pontine|\bcp ?angle|\bcpa\b|acoustic|\biac\b"),
    ("cerebellum", r"cerebell|vermi[sa]|tonsil"),
    ("brainstem", r"brain ?stem|\bpons\b|pontine|midbrain|medulla|mesenceph|peduncle"),
    ("sellar", r"sella|pituitar|cavernous|clivus|chiasm"),
    ("deep_gray", r"thalam|basal gang|caudat|putamen|pallid|lentiform|striat|internal capsule"),
    ("insula", r"insul"),
    ("cingulate", r"cingul"),
    ("frontal", r"front|precentral|motor"),
    ("parietal", r"pariet|postcentral|precuneus"),
    ("temporal", r"tempor|hippocamp|amygdal|uncus"),
    ("occipital", r"occip|\bcuneus|calcarine"),
)


def _each(found, read):
    """Return a row for each match, filled by `read(match, row)`; its errors become the row's problem."""
    from tqdm import tqdm

    rows = []
    for match in tqdm(found.matches, found.name, disable=None if found.progress else True, leave=False):
        row = found.cells(match)
        try:
            read(match, row)
        except NoPlaceError:
            raise
        except (OSError, ValueError) as err:
            row["problem"] = f"case '{row['case_id']}': {str(err).rstrip('.')}"
        rows.append(row)
    return rows


def _convert(target, sources, make):
    """Write the (array, affine) of `make()` as NIfTI under `target`, unless it is there; return its path."""
    if not target.is_file() or target.stat().st_mtime < max(os.stat(source).st_mtime for source in sources):
        save_nifti(target, *make())
    return str(target)


def region_of(text):
    """Return the area that a location in free text names, or empty where it names none or several.

    Examples
    --------
    >>> region_of("Rt Frontal"), region_of("left parieto-occipital"), region_of("R cerebellopontine angle")
    ('frontal', '', 'cerebellopontine_angle')
    """
    found = []
    for area, words in _AREAS:
        text, n_found = re.subn(words, " ", text, flags=re.I)  # what was found is neither cerebellum nor pons
        found += [area] * (n_found > 0)
    return found[0] if len(found) == 1 else ""


def read_gamma_knife(found):
    """Read Brain-TR-GammaKnife: one NRRD file per lesion, described in two sheets."""
    sheets = {"lesion_level": [], "course_level": []}
    for path in find_tables(found):
        for name, sheet in read_sheets(path).items():
            if name.strip().lower() in sheets:
                sheets[name.strip().lower()] += sheet.to_dict("records")
    lesions = {}

    def read(match, row):
        row["image"] = found.absolute(match.path)
        ids = {"unique_pt_id": match.groups["patient"][3:], "visit": match.groups["visit"]}
        for course in sheets["course_level"]:
            if [course.get("unique_pt_id"), course.get("Course #")] == [*ids.values()]:
                row |= {name: value for name, value in course.items() if name not in row}
        described = [
            lesion
            for lesion in sheets["lesion_level"]
            if [lesion.get("unique_pt_id"), lesion.get("Treatment Course")] == [*ids.values()]
        ]
        folder = os.path.dirname(match.path).lower()
        paths = [found.absolute(path) for low, path in found.files.items() if os.path.dirname(low) == folder]
        paths = sorted(p for p in paths if _is_lesion(p) and p != row["image"])
        if not paths:
            raise ManifestError(f"no lesion (a further .nrrd file) is beside '{match.path}'")
        target = found.target(f"{row['case_id']}_mask.nii.gz")
        row["mask"] = _convert(target, paths, lambda: _one_mask(paths, row))
        lesions[row["case_id"]] = {n: _describe(path, described) for n, path in enumerate(paths, start=1)}

    return _each(found, read), lesions


def _is_lesion(path):
    """Tell whether an NRRD file of a course's folder is a lesion: neither an image nor the dose."""
    name = os.path.basename(path).lower()
    return name.endswith(".nrrd") and "dose" not in name and not re.search(r"_mr_|_ct_", name)


def _one_mask(paths, row):
    """Return one mask of several files, numbered from 1, and its affine; small lesions over large ones."""
    shape, affine = read_geometry(row["image"])
    mask, found = np.zeros(shape, np.uint8), []
    for number, path in enumerate(paths, start=1):
        lesion, own = load_image(path)
        if len(np.unique(lesion)) > 2:
            raise GeometryError(f"'{path}' is no mask: it holds more than two values.")
        lesion = _mask_on_grid(
            (lesion > lesion.min()).astype(np.uint8), own, shape, affine, case_id=row["case_id"]
        )
        found.append((int(lesion.sum()), number, np.flatnonzero(lesion)))
    for _, number, voxels in sorted(found, key=lambda one: -one[0]):
        mask.flat[voxels] = number
    return mask, affine


def _describe(path, described):
    """Return the cells of a lesion's file: its row of the sheet (names differ in case), and its area."""
    name = _plain(os.path.basename(path).removesuffix(".nrrd"))
    names = [_plain(lesion.get("Lesion Name in NRRD files", "")) for lesion in described]
    chosen = [i for i, other in enumerate(names) if other == name]
    if not chosen:  # some files carry a date that the sheet does not
        chosen = [
            i for i, other in enumerate(names) if other and re.fullmatch(rf"{re.escape(other)}\d+", name)
        ]
    cells = {"lesion_file": os.path.basename(path), "label_region": ""}
    if len(chosen) == 1:
        cells |= described[chosen[0]]
        cells["label_region"] = region_of(cells.get("Lesion Location", ""))
    return {name: value for name, value in cells.items() if name != "unique_pt_id"}


def _plain(name):
    """Return a name as lower-case letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_NOT_TUMOR = re.compile(r"brain ?stem|modiolus|cochlea.*|test|vol 2y", re.I)  # 'vol 2y': badly interpolated
_TUMOR_NAMES = ("tv", "an")


def read_vestibular_schwannoma(found):
    """Read Vestibular-Schwannoma-SEG: NIfTI as KCL's script writes it, or DICOM with contours as JSON."""
    series, lesions = _t1_series(found), {}

    def read(match, row):
        if not match.path.lower().endswith(".json"):
            row["image"] = found.absolute(match.path)
            row["mask"] = found.beside(match, found.layout.masks[0]) or ""
            if not row["mask"]:
                raise ManifestError(f"'vs_gk_seg_refT1.nii.gz' is not beside '{match.path}'")
            return
        contours = found.absolute(match.path)
        structures = _tumor_structures(contours, row)
        folder = series.get(row["case_id"])
        if folder is None:
            raise ManifestError(
                "there is no T1 series of this patient. Put the DICOM folders and "
                "DirectoryNamesMappingModality.csv below the root"
            )
        image, mask = (found.target(f"{row['case_id']}_{kind}.nii.gz") for kind in ("t1c", "mask"))
        row["image"] = _convert(image, [folder], lambda: _as_stored(*read_series(folder)))
        row["mask"] = _convert(mask, [contours, image], lambda: _filled(structures, image))
        lesions[row["case_id"]] = {n: {"label_type": kind} for n, (kind, _) in enumerate(structures, start=1)}

    return _each(found, read), lesions


def _tumor_structures(path, row):
    """Return (type, contours) of the tumors in a file of contours."""
    with open(path, encoding="utf-8") as file:
        structures = {one["structure_name"].strip(): one["LPS_contour_points"] for one in json.load(file)}
    tumors = {
        name: points for name, points in structures.items() if points and not _NOT_TUMOR.fullmatch(name)
    }
    meningiomas = [points for name, points in tumors.items() if name.lower() == "men"]
    others = {name: points for name, points in tumors.items() if name.lower() != "men"}
    named = {name: points for name, points in others.items() if name.lower() in _TUMOR_NAMES}
    if len(others) > 1 and len(named) == 1:
        others = named
    if len(others) > 1 or not tumors:
        listed = ", ".join(repr(name) for name in structures)
        raise ManifestError(f"which structure is the tumor is not clear. Got {listed}")
    found = [(row["label_type"], points) for points in others.values()]
    return found + [("meningioma", points) for points in meningiomas]


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
    folders = {}
    for path in found.files.values():
        folder, _, name = path.rpartition("/")
        if "VS-SEG-" in folder and not name.startswith("."):
            folders.setdefault(folder.lower(), folder)
    series = {}
    for table in find_tables(found, ("DirectoryNamesMappingModality*.csv",)):
        for sheet in read_sheets(table).values():
            for row in sheet.to_dict("records"):
                if row.get("Modality", "").lower() != "t1 image":
                    continue
                for column in ("Classic Directory Name", "Descriptive Directory Name"):
                    parts = row.get(column, "").lower().strip("/").split("/")
                    fits = [
                        true
                        for low, true in folders.items()
                        if low.rpartition("/")[2] == parts[-1] and f"{parts[0]}/" in f"{low}/"
                    ]
                    if len(fits) == 1:
                        series.setdefault(parts[0].upper(), found.absolute(fits[0]))
    return series


def read_series_masks(found):
    """Read VS-MC-RC: masks as NIfTI, images as DICOM series that a table names by their UID."""
    uids, by_uid = {}, {}
    for table in find_tables(found):
        for sheet in read_sheets(table).values():
            for row in sheet.to_dict("records"):
                if row.get("SegmentationPath"):
                    uids[row["SegmentationPath"].lower().lstrip("./")] = row.get("series_instance_uid", "")
    if uids:
        by_uid = _series_folders(found)

    def read(match, row):
        uid = uids.get("/".join(match.path.lower().split("/")[-3:]))
        if uid is None:
            raise ManifestError(f"no '*segmentation-info*.csv' below the root names '{match.path}'")
        if uid not in by_uid:
            raise ManifestError(f"its DICOM series {uid} is not below the root")
        source = found.absolute(match.path)
        image, mask = (found.target(f"{row['case_id']}_{kind}.nii.gz") for kind in ("t1c", "mask"))
        row["image"] = _convert(image, [by_uid[uid]], lambda: _as_stored(*read_series(by_uid[uid])))
        row["mask"] = _convert(mask, [source, image], lambda: _moved(source, image, row["case_id"]))

    return _each(found, read), {}


def _series_folders(found):
    """Return series UID → folder: by the folder's name, else by the header of one of its files."""
    folders = {}
    for path in found.files.values():
        if path.lower().endswith(".dcm"):
            folders.setdefault(path.rpartition("/")[0], path)
    series = {}
    for folder, path in folders.items():
        uid = folder.rpartition("/")[2]
        if not re.fullmatch(r"[\d.]{20,}", uid):
            import pydicom

            header = pydicom.dcmread(
                found.absolute(path), stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
            )
            uid = str(header.get("SeriesInstanceUID", ""))
        series[uid] = found.absolute(folder)
    return series


def _moved(source, image, case_id):
    """Return a mask file on the grid of an image file, as uint8, and its affine."""
    mask, own = load_image(source)
    shape, affine = read_geometry(image)
    return _mask_on_grid((mask > 0).astype(np.uint8), own, shape, affine, case_id=case_id), affine


def read_decathlon(found):
    """Read the Decathlon's Task01: 4-D images, of which one channel is contrast-enhanced T1."""
    import nibabel as nib

    def cut(path, match):
        image, channel = nib.load(path), _t1gd_channel(found, match)
        if len(image.shape) != 4 or image.shape[3] <= channel:
            raise GeometryError(
                f"'{path}' must have 4 dimensions and a channel {channel}. Got shape {image.shape}."
            )
        return np.asanyarray(image.dataobj[..., channel]), image.affine

    def read(match, row):
        path = found.absolute(match.path)
        row["mask"] = found.beside(match, found.layout.masks[0]) or ""
        if not row["mask"]:
            raise ManifestError(f"'labelsTr/{match.groups['case']}.nii.gz' does not exist")
        target = found.target(f"{row['case_id']}_t1gd.nii.gz")
        row["image"] = _convert(target, [path], lambda: cut(path, match))

    return _each(found, read), {}


def _t1gd_channel(found, match):
    """Return the number of the contrast-enhanced T1 channel, as the task describes itself, else 2."""
    task = os.path.dirname(os.path.dirname(match.path))
    path = found.files.get(f"{task}/dataset.json".lstrip("/").lower())
    if path is None:
        return 2
    with open(found.absolute(path), encoding="utf-8") as file:
        modality = json.load(file).get("modality", {})
    return next((int(n) for n, name in modality.items() if name.lower() in ("t1gd", "t1ce", "t1c")), 2)


def _as_stored(image, affine):
    """Return an image as int16 where that loses nothing, and its affine."""
    small = image.astype(np.int16)
    return (small if np.array_equal(small, image) else image), affine


def _mask_on_grid(mask, mask_affine, shape, affine, *, case_id):
    """Return a mask (nx, ny, nz) of integers on the grid of an image, by nearest neighbor where grids differ.

    ``GridMismatchError`` if nothing of the mask lies inside the image.
    """
    try:
        check_same_grid(shape, affine, mask.shape, mask_affine, case_id=case_id)
    except GridMismatchError:
        pass
    else:
        return mask
    from scipy.ndimage import affine_transform

    to_mask = np.linalg.inv(mask_affine) @ affine  # voxel of the image → voxel of the mask
    moved = affine_transform(
        mask, to_mask[:3, :3], to_mask[:3, 3], output_shape=shape, order=0, prefilter=False
    )
    if mask.any() and not moved.any():
        raise GridMismatchError(
            f"Nothing of the mask of case '{case_id}' lies inside its image. Check that both are of one scan."
        )
    return moved
