"""Cheng's brain tumor slices (figshare 1512427), put back into stacks by patient and likeness."""

import re

import numpy as np

from tumorsim._validation import install_hint
from tumorsim.exceptions import ManifestError
from tumorsim.io import save_nifti

__all__ = ["read_slices"]

_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary_adenoma"}
_FIELD_MM = 0.49 * 512  # some slices are stored at half the resolution
_STEP_MM = 7.0  # 6 mm slices, 1 mm gap
_LIKENESS = 0.68  # correlation of neighbors; see read_slices
_SMALL = 64  # voxels, for comparing
# Columns and rows run to the patient's left and back in the radiological convention; slices upward.
_AXIAL = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_slices(found):
    """Read Cheng's slices: stacks of consecutive numbers of one patient and type whose neighbors are alike.

    All voxels of a stack's mask are one lesion. The files state neither the plane nor the direction of the
    slices. Series of other planes have other pictures, so a stack ends where neighbors correlate by less than
    0.68: of 368 pairs of neighbors in real axial stacks of this set 95 % correlate by 0.70 or more.
    """
    from tqdm import tqdm

    rows, lesions, stacks = [], {}, []
    before = None
    for match in tqdm(_numbered(found), found.name, disable=None if found.progress else True, leave=False):
        path = found.absolute(match.path)
        try:
            patient, kind, image, _ = _read_slice(path)
        except (OSError, ValueError) as err:
            rows.append(found.cells(match) | {"image": path, "problem": f"slice '{match.path}': {err}"})
            before = None
            continue
        number, small = int(match.groups["case"]), _shrink(image)
        alike = before is not None and before[:3] == (patient, kind, number - 1) and before[3] == image.shape
        if alike and np.corrcoef(before[4].ravel(), small.ravel())[0, 1] >= _LIKENESS:
            stacks[-1][1].append((number, path))
        else:
            stacks.append(((match, patient, kind), [(number, path)]))
        before = (patient, kind, number, image.shape, small)
    for (match, patient, kind), slices in stacks:
        name = f"cheng-{slices[0][0]:04d}-{slices[-1][0]:04d}"
        image, mask = (found.target(f"{name}_{what}.nii.gz") for what in ("t1c", "mask"))
        if not (image.is_file() and mask.is_file()):
            _write_stack([path for _, path in slices], image, mask)
        row = found.cells(match) | {
            "patient_id": f"cheng-{patient}",
            "case_id": name,
            "label_type": _TYPES[kind],
        }
        rows.append(row | {"image": str(image), "mask": str(mask), "n_slices": str(len(slices))})
        lesions[name] = {1: {}}
    return rows, lesions


def _numbered(found):
    """Return the matches in the order of their numbers; ``cvind.mat`` is none of them."""
    return sorted(found.matches, key=lambda match: int(match.groups["case"]))


def _read_slice(path):
    """Return patient, type number, image (rows, columns) and mask of one file, or raise ``ManifestError``."""
    try:
        import h5py
    except ImportError as err:
        raise ManifestError(f"it needs h5py. {install_hint('datasets')}") from err
    try:
        with h5py.File(path) as file:
            data = file["cjdata"]
            codes, kind = np.ravel(data["PID"]), int(np.ravel(data["label"])[0])
            image, mask = (
                np.asarray(data[name]).T for name in ("image", "tumorMask")
            )  # column-major in MATLAB
    except (KeyError, OSError) as err:
        raise ManifestError(f"it is no slice of this set ({err})") from err
    patient = re.sub(r"[^\w.-]", "_", "".join(chr(int(code)) for code in codes).strip())
    if kind not in _TYPES or image.ndim != 2 or image.shape != mask.shape or not patient:
        raise ManifestError(
            f"it is no slice of this set (label {kind}, image {image.shape}, mask {mask.shape})"
        )
    return patient, kind, image, mask > 0


def _shrink(image):
    """Return an image averaged to 64 x 64."""
    blocks = [np.add.reduceat(np.ones(n), _edges(n)) for n in image.shape]
    sums = np.add.reduceat(
        np.add.reduceat(image.astype(np.float64), _edges(image.shape[0]), 0), _edges(image.shape[1]), 1
    )
    return sums / np.outer(*blocks)


def _edges(n):
    """Return the first index of each of 64 blocks of n voxels."""
    return np.unique(np.arange(_SMALL) * n // _SMALL)


def _write_stack(paths, image_path, mask_path):
    """Write slices as one NIfTI image and its mask."""
    slices = [_read_slice(path)[2:] for path in paths]
    shape = slices[0][0].shape
    affine = _AXIAL @ np.diag([_FIELD_MM / shape[1], _FIELD_MM / shape[0], _STEP_MM, 1.0])
    image, mask = (np.stack([one[i].T for one in slices], axis=-1) for i in (0, 1))
    save_nifti(image_path, image, affine)
    save_nifti(mask_path, mask, affine)
