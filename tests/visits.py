"""Patients who are scanned twice: lesions that grow, shrink, come, go and merge."""

from dataclasses import replace

import numpy as np

from tumorsim._validation import check_integer, check_real
from tumorsim.manifest import tumors_from_case
from tumorsim.records import Case, Cohort
from tumorsim.simulation._anatomy import load_head, load_label_head
from tumorsim.simulation._appearance import draw_intensities, to_scanner
from tumorsim.simulation._scan import STRIPPED_MM, draw_scan
from tumorsim.simulation._simulate import TEMPLATE, check_anatomies, find_lesion, store
from tumorsim.simulation._tumors import TYPES, draw_lesion

__all__ = ["make_visits"]

_NEW, _VANISHED, _MERGING = 0.2, 0.1, 0.3  # share of lesions, of lesions, of patients
_TRIES, _POSES = 40, 20
_GAP_MM = 2.5  # between lesions of one date; nearer ones count as one
_STEPS = 8  # points along a radius where true volume is counted: 0.5 % of the volume


def make_visits(n_patients, *, random_state=None, spacing=2.0, anatomies=None, output_dir=None, n_jobs=1):
    """Simulate patients who are scanned at two dates, on two scanners.

    A patient has 1 to 20 lesions. At the second date a tenth of them is gone, a fifth is new, the others have
    0.4 to 2.5 times their volume; in some patients two have grown into one. Brain, skull and face are the
    same; pose, voxels, slices, field of view, contrast and noise are another scan's.

    Parameters
    ----------
    n_patients : int
        How many.
    random_state : int, optional
        Seed. Patient i depends on it, on i and on `spacing` only.
    spacing, anatomies, output_dir, n_jobs
        As in `make_cohort`; no manifest is written to `output_dir`.

    Returns
    -------
    Cohort
        The lesions of both masks as `tumors_from_case` finds them. Further columns: ``visit`` (1 or 2),
        ``date``, ``lesions`` (true numbers of what the lesion consists of, such as ``3+5``),
        ``true_volume_mm3``, and ``stripped_share`` of it, which a scan without skull lacks. The mask holds
        true numbers.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    See Also
    --------
    tumorsim.match_dates : Tells which lesion is which.

    Examples
    --------
    >>> visits = make_visits(1, random_state=2, spacing=4.0)
    >>> sorted({tumor.metadata["visit"] for tumor in visits})
    [1, 2]
    """
    from joblib import Parallel, delayed

    n_patients = check_integer(n_patients, "n_patients", minimum=1)
    random_state = check_integer(random_state, "random_state", minimum=0, allow_none=True)
    spacing = check_real(spacing, "spacing", minimum=0.5, maximum=8.0)
    heads = check_anatomies(anatomies)
    entropy = np.random.SeedSequence(random_state).entropy
    jobs = (delayed(_make_patient)(entropy, i, spacing, heads, output_dir) for i in range(n_patients))
    return Cohort(tumor for tumors in Parallel(n_jobs=n_jobs)(jobs) for tumor in tumors)


def _make_patient(entropy, i, spacing, heads, folder):
    """Return the tumors of both dates of patient `i`."""
    rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(2, i)))
    name = heads[rng.integers(len(heads))]
    head = load_head() if name == TEMPLATE else load_label_head(name)
    while True:
        body = int(rng.integers(2**63))
        first = _first_date(rng, body, spacing, head)
        second = _second_date(rng, body, spacing, head, first[1])
        if second is not None:
            break
    start = np.datetime64("2024-01-08") + int(rng.integers(365))
    dates = start, start + int(rng.integers(28, 365))
    patient, found = f"sim-{i + 1:05d}", []
    for visit, ((scan, lesions, depths, mask), date) in enumerate(
        zip((first, second), dates, strict=True), 1
    ):
        shown = {number: lesion for number, lesion in lesions.items() if (mask == number).any()}
        image = draw_intensities(rng, scan, list(shown.values()), [depths[n] for n in shown], _body(body))
        image, mask, affine = store(rng, to_scanner(rng, scan, image), mask, scan.affine)
        sources = _sources(folder, f"{patient}-{visit}", image, mask, affine)
        case = Case(*sources, case_id=f"{patient}-{visit}", patient_id=patient)
        true = {n: _true_volume(lesion, scan) for n, lesion in shown.items()}
        for tumor in tumors_from_case(case, metadata={"visit": visit, "date": str(date)}):
            inside = np.unique(mask[tuple(map(slice, *tumor.bbox))])
            numbers = [int(n) for n in inside if n and _mostly_inside(mask == n, tumor.bbox)]
            tumor.metadata["lesions"] = "+".join(map(str, numbers))
            tumor.metadata["true_volume_mm3"] = round(float(sum(true[n][0] for n in numbers)), 1)
            tumor.metadata["stripped_share"] = round(max((true[n][1] for n in numbers), default=0.0), 3)
            found.append(tumor)
    return found


def _body(seed):
    """Return a new generator of what stays the same."""
    return np.random.default_rng(seed)


def _first_date(rng, body, spacing, head):
    """Return the scan of the first date, lesions and depths by number, and the mask (x, y, z)."""
    number = int(np.clip(np.round(np.exp(rng.uniform(np.log(0.6), np.log(20.4)))), 1, 20))
    names = list(TYPES) if number < 3 else ["metastasis"]
    name, merging = names[rng.integers(len(names))], rng.random() < _MERGING
    while True:
        scan = draw_scan(rng, spacing, head, _body(body))
        lesions, depths, mask = {}, {}, np.zeros(scan.shape, np.uint8)
        _add(rng, scan, (draw_lesion(name, rng, head) for _ in range(_TRIES)), 1, lesions, depths, mask)
        if lesions and merging:
            _add(rng, scan, _beside(rng, lesions[1], head), 1, lesions, depths, mask)
        rest = max(0, number - len(lesions))
        _add(
            rng,
            scan,
            (draw_lesion(name, rng, head) for _ in range(_TRIES * rest)),
            rest,
            lesions,
            depths,
            mask,
        )
        if lesions:
            return scan, lesions, depths, mask


def _add(rng, scan, candidates, number, lesions, depths, mask):
    """Draw up to `number` lesions that lie in the scan whole and apart, in place."""
    from scipy.ndimage import distance_transform_edt

    goal = len(lesions) + number
    near = distance_transform_edt(mask == 0, sampling=scan.spacing) <= _GAP_MM + scan.spacing.max()
    near &= mask.any()
    for lesion in candidates if number else ():
        found = find_lesion(scan, lesion)
        if found is None or near[found[2]][found[3]].any():
            continue
        index, depth, box, inside = found
        key = len(lesions) + 1
        lesions[key], depths[key] = lesion, (index, depth)
        mask[box][inside] = key
        near |= distance_transform_edt(mask != key, sampling=scan.spacing) <= _GAP_MM + scan.spacing.max()
        if key == goal:
            return


def _beside(rng, lesion, head):
    """Yield metastases so near a lesion that both can grow into one."""
    for _ in range(_TRIES):
        other = draw_lesion("metastasis", rng, head)
        away = rng.standard_normal(3)
        gap = lesion.radius + other.radius + rng.uniform(3, 8)
        yield replace(other, center=lesion.center + away / np.linalg.norm(away) * gap, lobes=(), cone=None)


def _second_date(rng, body, spacing, head, before):
    """Return what `_first_date` does of the second date; None where no pose shows all that is left."""
    goes = {n: rng.random() < _VANISHED for n in before}
    if all(goes.values()):
        goes[1] = False
    factors = {n: np.exp(rng.uniform(np.log(0.4), np.log(2.5))) for n in before}
    if len(before) > 1 and _near(before[1], before[2]):
        goes |= {1: False, 2: False}
        factors |= {1: rng.uniform(1.8, 3.5), 2: rng.uniform(1.8, 3.5)}
    after = {n: _grown(lesion, np.cbrt(factors[n])) for n, lesion in before.items() if not goes[n]}
    n_new = int(rng.binomial(len(before) + 1, _NEW))
    for _ in range(_POSES):
        scan = draw_scan(rng, spacing, head, _body(body))
        found = {n: find_lesion(scan, lesion) for n, lesion in after.items()}
        if any(f is None and factors[n] > 0.7 for n, f in found.items()):
            continue  # one that shrinks may fade; one that grows is cut by the field of view
        mask, depths, lesions = np.zeros(scan.shape, np.uint8), {}, dict(before)
        for number, (index, depth, box, inside) in ((n, f) for n, f in found.items() if f is not None):
            depths[number] = index, depth
            mask[box][inside & (mask[box] == 0)] = number
        lesions |= after
        candidates = (draw_lesion("metastasis", rng, head) for _ in range(_TRIES * n_new))
        _add(rng, scan, candidates, n_new, lesions, depths, mask)
        if mask.any():
            return scan, lesions, depths, mask
    return None


def _near(one, other):
    """Tell whether two lesions are some millimetres apart."""
    return np.linalg.norm(one.center - other.center) < one.radius + other.radius + 8


def _grown(lesion, factor):
    """Return a lesion of `factor` times the diameter."""
    center = lesion.center
    lobes = tuple((center + factor * (other - center), factor * radius) for other, radius in lesion.lobes)
    cone = lesion.cone
    if cone is not None:
        cone = (*(center + factor * (end - center) for end in cone[:2]), *(factor * r for r in cone[2:]))
    return replace(lesion, radius=factor * lesion.radius, lobes=lobes, cone=cone)


def _true_volume(lesion, scan):
    """Return a lesion's volume in mm3 of the person, and the share of it that was stripped with the skull.

    Both are counted on points much finer than voxels.
    """
    step = lesion.radius / _STEPS
    reach = np.arange(-lesion.reach, lesion.reach, step, dtype=np.float32)
    plane = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    count = stripped = 0
    for z in reach:
        points = np.column_stack([plane, np.full(len(plane), z)]) + np.float32(lesion.center)
        outside = scan.head.shell.sample(points)[0]
        inside = lesion.depth(points, outside) > 0
        count += int(inside.sum())
        stripped += 0 if scan.whole_head else int((inside & (outside >= STRIPPED_MM)).sum())
    where = np.stack(np.unravel_index(scan.voxel[::97], scan.shape), axis=-1) * scan.spacing
    to_mni = np.linalg.lstsq(np.column_stack([where, np.ones(len(where))]), scan.points[::97], rcond=None)[0]
    return count * step**3 / abs(np.linalg.det(to_mni[:3])), stripped / max(count, 1)


def _mostly_inside(voxels, box):
    """Tell whether more than half of a lesion's voxels lie in a box."""
    return 2 * voxels[tuple(map(slice, *box))].sum() > voxels.sum()


def _sources(folder, name, image, mask, affine):
    """Return image and mask as arrays, or as the files that they were written to."""
    from pathlib import Path

    from tumorsim.io import save_nifti

    if folder is None:
        return (image, affine), (mask, affine)
    files = [Path(folder) / kind / f"{name}.nii.gz" for kind in ("images", "masks")]
    for file, array in zip(files, (image, mask), strict=True):
        save_nifti(file, array, affine)
    return files
