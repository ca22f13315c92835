"""Cheng's brain tumor slices (figshare 1512427), put back into stacks by patient and likeness."""

import re

import numpy as np
from tqdm import tqdm

from tumorsim._validation import import_extra, printable
from tumorsim.exceptions import ManifestError
from tumorsim.io import save_nifti

_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary_adenoma"}
_FIELD_MM = 0.49 * 512  # some slices are stored at half the resolution
_STEP_MM = 7.0  # 6 mm slices, 1 mm gap
_LIKENESS = 0.68  # correlation of neighbors; see read_slices
_SMALL = 64  # voxels, for comparing
_LARGEST = 2**24  # values of one array of a file


def read_slices(found, usable):
    """Read Cheng's slices: stacks of consecutive numbers of one patient and type whose neighbors are alike.

    All voxels of a stack's mask are one lesion. The files do not state the plane, so a stack ends where
    neighbors correlate by less than 0.68: in real axial stacks of this set 95 % do by 0.70 or more.
    """
    rows, stacks, before = [], [], None
    usable = sorted(usable, key=lambda pair: int(pair[0].groups["case"]))
    for match, row in tqdm(usable, found.name, disable=None if found.progress else True, leave=False):
        path, number = row["image"], int(match.groups["case"])
        try:
            patient, kind, image, _ = _read_slice(path)
        except (ImportError, OSError, ValueError) as err:
            rows.append(row | {"problem": f"slice '{match.path}': {printable(err, 600)}"})
            before = None
            continue
        small = _shrink(image).ravel()
        alike = before is not None and before[:3] == (patient, kind, number - 1) and before[3] == image.shape
        if alike and np.corrcoef(before[4], small)[0, 1] >= _LIKENESS:
            stacks[-1][1].append((number, path))
        else:
            cells = {"patient_id": f"cheng-{patient}", "label_type": _TYPES[kind]}
            stacks.append((row | cells, [(number, path)]))
        before = (patient, kind, number, image.shape, small)
    for row, slices in stacks:
        row["case_id"] = f"cheng-{slices[0][0]:04d}-{slices[-1][0]:04d}"
        files = [found.target(f"{row['case_id']}_{what}.nii.gz") for what in ("t1c", "mask")]
        if not all(file.is_file() for file in files):
            _write_stack([path for _, path in slices], *files)
        row |= {"image": str(files[0]), "mask": str(files[1]), "n_slices": str(len(slices))}
    return rows + [row for row, _ in stacks], {row["case_id"]: {1: {}} for row, _ in stacks}


def _read_slice(path):
    """Return patient, type number, image (rows, columns) and mask of one file, or raise ``ManifestError``."""
    h5py = import_extra("h5py", "it", "datasets")
    try:
        with h5py.File(path) as file:
            data = file["cjdata"]
            if max(data[name].size for name in ("PID", "label", "image", "tumorMask")) > _LARGEST:
                raise ValueError(f"it claims more than {_LARGEST} values")
            codes, kind = np.ravel(data["PID"]), int(np.ravel(data["label"])[0])
            image, mask = np.asarray(data["image"]).T, np.asarray(data["tumorMask"]).T  # MATLAB: column-major
    except Exception as err:  # h5py raises many kinds
        raise ManifestError(f"it is no slice of this set ({printable(err)})") from err
    patient = re.sub(r"[^\w.-]", "_", "".join(chr(int(code)) for code in codes).strip())
    if kind not in _TYPES or image.ndim != 2 or image.shape != mask.shape or not patient:
        got = f"label {kind}, image {image.shape}, mask {mask.shape}"
        raise ManifestError(f"it is no slice of this set ({got})")
    return patient, kind, image, mask > 0


def _shrink(image):
    """Return an image averaged to 64 x 64."""
    blocks = np.ones(image.shape), image.astype(np.float64)
    for axis, n in enumerate(image.shape):
        starts = np.unique(np.arange(_SMALL) * n // _SMALL)
        blocks = [np.add.reduceat(block, starts, axis) for block in blocks]
    return blocks[1] / blocks[0]


def _write_stack(paths, image_path, mask_path):
    """Write slices as one NIfTI image and its mask."""
    slices = [_read_slice(path)[2:] for path in paths]
    rows, columns = slices[0][0].shape
    # Columns and rows run to the patient's left and back in the radiological convention; slices upward.
    affine = np.diag([-_FIELD_MM / columns, -_FIELD_MM / rows, _STEP_MM, 1.0])
    for i, path in enumerate((image_path, mask_path)):
        save_nifti(path, np.stack([one[i].T for one in slices], axis=-1), affine)
