"""Cohorts of simulated patients."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from warnings import catch_warnings, filterwarnings

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs
from scipy.ndimage import label
from tqdm import tqdm

from tumorsim._validation import check_choice, check_integer, check_real
from tumorsim.anatomy import place_labels
from tumorsim.geometry import bbox_from_mask, crop_slices, to_storage
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.records import Case, Cohort, Tumor
from tumorsim.records.columns import IN_SCAN
from tumorsim.simulation._anatomy import load_head, load_label_head
from tumorsim.simulation._appearance import draw_intensities, to_scanner
from tumorsim.simulation._scan import draw_scan
from tumorsim.simulation._tumors import TYPES, draw_lesion

TEMPLATE = "mni152"
_MIN_VOLUME = 14.0  # mm3, a ball of 3 mm
_TRIES = 60
_GOLDEN = 0.6180339887498949


def make_cohort(
    n_patients: int, *, random_state: int | None = None, spacing: float = 2.0,
    types: Sequence[str] | None = None,
    anatomies: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    output_dir: str | os.PathLike | None = None, n_jobs: int = 1, progress: bool = False,
) -> Cohort:  # fmt: skip
    """Simulate contrast-enhanced T1 scans of patients with brain tumors.

    Each patient has one scan and tumors of one type, in the MNI152 anatomy that nilearn ships or in a real
    head that you have as a label map; ``docs/public_sets.md`` says what is drawn, and what differs from real
    scans. Masks hold the tumor core (enhancing part and necrosis) without edema and dural tail. Side,
    position and area of a tumor are those of its centroid in MNI space, known from the deformation.

    Parameters
    ----------
    n_patients : int
    random_state : int, optional
        Seed. Patient i depends on it, on i, `spacing` and `types` only, not on `n_patients` or `n_jobs`.
    spacing : float, default=2.0
        Voxel edge in mm. Nearly half of the scans have slices instead, from `spacing` to 7.5 mm thick, with
        finer voxels (0.7 to 0.9 `spacing`) in plane.
    types : sequence of str, optional
        Tumor types to draw from; default all: metastasis, meningioma, schwannoma, glioma,
        pituitary_adenoma, at 0.28, 0.22, 0.15, 0.20, 0.15.
    anatomies : str, Path or sequence of them, optional
        Heads to put tumors into: files or folders of label maps (see Notes), and ``"mni152"`` for the
        template that nilearn ships, which is the default.
    output_dir : str or Path, optional
        Write ``images/*.nii.gz``, ``masks/*.nii.gz`` and ``manifest.csv`` there, and read them when needed;
        default: keep arrays in memory, some 2 MB per scan at 2 mm.
    n_jobs : int, default=1
        Processes, as in joblib; -1 is all cores.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    Cohort
        Tumors with labels ``type``, ``region``, ``hemisphere`` (missing within 5 mm of the midline),
        ``front_rear`` and ``upper_lower``; the mask value of a tumor is its number in the scan, from 1.
        Further columns: ``anatomy``; ``whole_head``, or stripped to the brain; ``mni_x_mm``, ``mni_y_mm``,
        ``mni_z_mm`` of the centroid; ``ring``, whether its middle is necrosis or a cavity.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range, or a type is unknown.

    Notes
    -----
    Label maps of heads carry FreeSurfer's numbers inside the brain and 24 for the fluid around it; numbers
    of 500 and more are tissue outside, as in the maps that SynthSeg was trained on (Billot 2023,
    Apache-2.0). An affine map lays them on the template, in some ten seconds per head and process.

    References
    ----------
    Number of metastases: Delattre et al., Arch Neurol 45, 741-744, 1988. Their place: Lee et al., 2022. Place
    of gliomas: Larjavaara et al., Neuro Oncol 9, 319-325, 2007. Volume of meningiomas: Kreil et al., J
    Neurol Neurosurg Psychiatry 76, 1425-1430, 2005; their sites: Brain Science Foundation. Heads: Billot
    et al., "SynthSeg", Med Image Anal 86, 102789, 2023. Anatomy: MNI152 2009a, Fonov et al., NeuroImage
    54, 313-327, 2011.

    Examples
    --------
    >>> cohort = make_cohort(1, random_state=0, spacing=4.0, types=["schwannoma"])
    >>> cohort[0].labels["type"], cohort[0].tumor_id
    ('schwannoma', 'sim-00001/1')
    """
    n_patients = check_integer(n_patients, "n_patients", minimum=1)
    random_state = check_integer(random_state, "random_state", minimum=0, allow_none=True)
    spacing = check_real(spacing, "spacing", minimum=0.5, maximum=8.0)
    types = _check_types(types)
    heads = check_anatomies(anatomies)
    n_jobs = effective_n_jobs(check_integer(n_jobs, "n_jobs"))
    entropy = np.random.SeedSequence(random_state).entropy
    folder = None if output_dir is None else Path(os.path.abspath(output_dir))
    parts = _share_out(entropy, n_patients, types, heads, n_jobs)
    common = (spacing, types, heads, folder, n_jobs > 1)
    jobs = (delayed(_make)(entropy, part, *common) for part in parts)
    made, shown = {}, None if progress else True
    with tqdm(desc="simulating scans", total=n_patients, disable=shown, leave=False) as bar, catch_warnings():
        filterwarnings("ignore", "A worker stopped")  # joblib starts another; an error ends all
        for result in Parallel(n_jobs, return_as="generator")(jobs):
            made |= result
            bar.update(len(result))
    tumors = []
    for case_id, image, mask, found in (made[i] for i in range(n_patients)):
        case = Case(image, mask, case_id=case_id, patient_id=case_id)
        for j, (box, labels, notes) in enumerate(found, start=1):
            known = {"labels": labels, "metadata": notes | {IN_SCAN: len(found)}}
            tumors.append(Tumor(case, box, tumor_id=f"{case_id}/{j}", mask_value=j, **known))
    cohort = Cohort(tumors)
    if folder is not None:
        save_manifest(cohort, folder / "manifest.csv")
    return cohort


def _check_types(types):
    """Return the names of tumor types to draw from, in the order of `TYPES`."""
    if types is None:
        return tuple(TYPES)
    if isinstance(types, str):
        raise TypeError(f"Parameter 'types' must be a sequence of text. Got {types!r}; write [{types!r}].")
    chosen = {check_choice(name, "types", tuple(TYPES)) for name in types}
    if not chosen:
        raise ValueError(f"Parameter 'types' must name at least one of {', '.join(TYPES)}. Got none.")
    return tuple(name for name in TYPES if name in chosen)


def check_anatomies(anatomies):
    """Return a tuple of files of label maps and `TEMPLATE`."""
    found = []
    for name in [anatomies] if isinstance(anatomies, str | os.PathLike) else list(anatomies or [TEMPLATE]):
        path, files = Path(name), [name]
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.name.endswith((".nii.gz", ".nii", ".nrrd")))
        if not files or not (str(name) == TEMPLATE or path.exists()):
            rule = "'anatomies' must name files of label maps, folders that hold NIfTI or NRRD files,"
            raise ValueError(f"{rule} or {TEMPLATE!r}. Got '{name}'.")
        found += [TEMPLATE if str(file) == TEMPLATE else os.path.abspath(file) for file in files]
    return tuple(found)


def _type_of(entropy, i, types):
    """Return the type of patient `i`: golden-ratio steps keep the shares even at any number of patients."""
    start = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(0,))).random()
    shares = np.cumsum([TYPES[name].weight for name in types])
    return types[int(np.searchsorted(shares / shares[-1], (start + i * _GOLDEN) % 1, side="right"))]


def _begin(entropy, i, types, heads):
    """Return patient `i`'s random numbers, type, number of tumors and head, the first that is tried."""
    rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(1, i)))
    name = _type_of(entropy, i, types)
    return rng, name, TYPES[name].count(rng), heads[rng.integers(len(heads))]


def _share_out(entropy, n_patients, types, heads, n_jobs):
    """Return parts of the patients for `n_jobs` processes; of several heads a part has one.

    Joblib would take heads that pile up in a process for a memory leak, and end it.
    """
    if n_jobs == 1 or len(heads) == 1:
        return [[i] for i in range(n_patients)]
    groups = defaultdict(list)
    for i in range(n_patients):
        groups[_begin(entropy, i, types, heads)[-1]].append(i)
    n_parts = -(-2 * n_jobs // len(groups))  # of a head: processes finish at about the same time
    return [rows[k::n_parts] for rows in groups.values() for k in range(min(n_parts, len(rows)))]


def _make(entropy, part, spacing, types, heads, folder, in_worker):
    """Simulate some patients; returns number → what `_make_patient` does."""
    if in_worker:
        torch.set_num_threads(1)
        if len(heads) > 1:
            load_label_head.cache_clear()  # of the part before
    return {i: _make_patient(entropy, i, spacing, types, heads, folder) for i in part}


def _make_patient(entropy, i, spacing, types, heads, folder):
    """Simulate patient `i`; returns case_id, image, mask and, for each tumor, (box, labels, notes)."""
    rng, name, number, head = _begin(entropy, i, types, heads)
    case_id = f"sim-{i + 1:05d}"
    scan, lesions, depths, mask = _place_tumors(rng, name, number, head, spacing, heads)
    image = to_scanner(rng, scan, draw_intensities(rng, scan, lesions, depths))
    centers = [scan.points[index[depth > 0]].mean(axis=0, dtype=np.float64) for index, depth in depths]
    image, mask, affine = store(rng, image, mask, scan.affine)
    known = {"dataset": "simulated", "anatomy": scan.head.name, "whole_head": scan.whole_head}
    tumors = []
    for value, (lesion, center) in enumerate(zip(lesions, centers, strict=True), start=1):
        place = {f"mni_{axis}_mm": round(float(mm), 1) for axis, mm in zip("xyz", center, strict=True)}
        notes = known | {"ring": bool(lesion.rim)} | place
        tumors.append((bbox_from_mask(mask == value), {"type": name} | place_labels(center), notes))
    if folder is None:
        return case_id, (image, affine), (mask, affine), tumors
    files = [folder / kind / f"{case_id}.nii.gz" for kind in ("images", "masks")]
    save_nifti(files[0], image, affine)
    save_nifti(files[1], mask, affine)
    return case_id, *files, tumors


def _place_tumors(rng, name, number, head, spacing, heads):
    """Draw a scan that can hold tumors, a list of `Lesion` in it, their `depths` and the mask, uint8."""
    while True:
        scan = draw_scan(rng, spacing, load_head() if head == TEMPLATE else load_label_head(head))
        mask = np.zeros(scan.shape, np.uint8)
        lesions, depths = [], []
        for _ in range(_TRIES + 5 * number):
            lesion = draw_lesion(name, rng, scan.head)
            found = find_lesion(scan, lesion)
            if found is None or mask[found[2]][found[3]].any():
                continue
            index, depth, box, inside = found
            lesions.append(lesion)
            depths.append((index, depth))
            mask[box][inside] = len(lesions)
            if len(lesions) == number:
                break
        if lesions:
            return scan, lesions, depths, mask
        head = heads[rng.integers(len(heads))]


def find_lesion(scan, lesion):
    """Return points near a lesion, their depth, its box and its voxels; None where it must not be."""
    near = (np.abs(scan.points - np.float32(lesion.center)) < lesion.reach).all(axis=1)
    index = np.flatnonzero(near)
    if len(index) == 0:
        return None
    depth = lesion.depth(scan.points[index], scan.distance[index])
    voxels, counts = np.unique(scan.voxel[index[depth > 0]], return_counts=True)
    voxels = voxels[2 * counts >= scan.n_per_voxel]
    if len(voxels) * scan.spacing.prod() < _MIN_VOLUME:
        return None
    where = np.stack(np.unravel_index(voxels, scan.shape), axis=-1)
    low, high = where.min(axis=0), where.max(axis=0)
    if (low == 0).any() or (high == np.array(scan.shape) - 1).any():
        return None  # the field of view cuts it
    inside = np.zeros(high - low + 1, bool)
    inside[tuple((where - low).T)] = True
    if label(inside, np.ones((3, 3, 3)))[1] > 1:
        return None  # the dura cuts it in pieces
    return index, depth, crop_slices(np.stack([low, high + 1])), inside


def store(rng, image, mask, affine):
    """Return image, mask and affine with their axes in a random order and direction."""
    order = rng.permutation(3)
    flips = rng.random(3) < 0.5
    change = np.zeros((4, 4))
    change[order, range(3)] = np.where(flips, -1, 1)
    change[order, 3] = np.where(flips, np.array(image.shape)[order] - 1, 0)
    change[3, 3] = 1
    image, mask = (np.ascontiguousarray(to_storage(array, change)) for array in (image, mask))
    return image, mask, affine @ change
