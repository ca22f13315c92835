"""Cohort → the same cohort with places filled in."""

import json
import warnings
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from tumorsim._validation import check_integer, check_real
from tumorsim.anatomy._areas import place_labels, region_at
from tumorsim.anatomy._picture import save_picture
from tumorsim.anatomy._register import register_to_mni
from tumorsim.io import content_key, file_stems, partial_file, remove_partial, write_text
from tumorsim.manifest import load_cohort, save_manifest
from tumorsim.records import Cohort, Tumor, group_by_case
from tumorsim.records.columns import PLACE_TASKS

MIN_QUALITY = 0.5
_VERSION = 4  # raise it when results change: what a killed run has kept is then done anew


def add_places(
    cohort, *, areas=None, min_quality=MIN_QUALITY, method="registration", qc_dir=None, partial_dir=None,
    n_jobs=1, progress=False,
):  # fmt: skip
    """Register scans of tumors that lack labels of place to MNI152, and fill these in; others stay.

    Parameters
    ----------
    cohort : Cohort
    areas : AreaMap, optional
        Areas of your own; default: the nearest of 280 landmarks of 11 areas.
    min_quality : float, default=0.5
        Registrations of lower quality give no labels, only coordinates.
    method : {"registration", "header"}, default="registration"
        See `register_to_mni`.
    qc_dir : str or Path, optional
        Write one picture per scan there, ``<case_id>.png``.
    partial_dir : str or Path, optional
        Keep what is known of each scan here, and go on from what an earlier run has kept. Scans in memory
        are not kept.
    n_jobs : int, default=1
        Processes, as in joblib; -1 is all cores.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    Cohort
        New tumors with the labels of `place_labels` and, where the scan was registered, the further columns
        ``mni_x_mm``, ``mni_y_mm``, ``mni_z_mm`` of the centroid; ``region_fractions``, such as
        ``frontal=0.80;insula=0.20``; ``place_quality``, ``place_spread_mm`` and ``place_method`` (see
        `Registration`).

    Raises
    ------
    CohortError
        If scans cannot be used; all of them are listed, before the first is registered.
    TypeError, ValueError
        If an argument is out of its range.

    Warns
    -----
    UserWarning
        If scans could not be placed, or registrations are below `min_quality`.

    See Also
    --------
    places_to_file : From manifest to manifest.
    """
    min_quality = check_real(min_quality, "min_quality", minimum=0, maximum=1)
    if check_integer(n_jobs, "n_jobs") == 0:
        raise ValueError("Parameter 'n_jobs' must be a number of processes, or -1 for all cores. Got 0.")
    cohort.check()
    areas = region_at if areas is None else areas
    tumors = list(cohort)
    lack = [any(tumor.labels.get(task) is None for task in PLACE_TASKS) for tumor in tumors]
    groups = [rows for rows in group_by_case(cohort) if any(lack[row] for row in rows)]
    names = file_stems(tumors[rows[0]].case.case_id for rows in groups)
    pictures = [None if qc_dir is None else Path(qc_dir) / f"{name}.png" for name in names]
    jobs = (
        delayed(_locate)([tumors[r] for r in rows], areas, method, picture, partial_dir, min_quality)
        for rows, picture in zip(groups, pictures, strict=True)
    )
    failed, doubtful = [], []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A worker stopped")  # joblib starts another; an error ends all
        found = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
        bar = tqdm(found, "placing", total=len(groups), unit="scan", disable=None if progress else True)
        for rows, result in zip(groups, bar, strict=True):
            case_id = tumors[rows[0]].case.case_id
            if isinstance(result, str):
                failed.append(f"case '{case_id}': {result}")
                continue
            trusted = result[0]["place_quality"] >= min_quality
            if not trusted:
                doubtful.append(f"'{case_id}' ({result[0]['place_quality']:.2f})")
            for row, place in zip(rows, result, strict=True):
                tumors[row] = _filled(tumors[row], dict(place), trusted)
    if failed:
        listed = "\n  ".join([f"{len(failed)} of {len(groups)} scans have no place:", *failed])
        warnings.warn(listed, stacklevel=2)
    if doubtful:
        which = f"{len(doubtful)} of {len(groups)} scans have a place of quality below {min_quality:g}"
        listed = ", ".join(doubtful[:10]) + " …" * (len(doubtful) > 10)
        warnings.warn(f"{which} and get no labels: {listed}. Look at their pictures.", stacklevel=2)
    return Cohort(tumors)


def places_to_file(archive, output, *, skip_bad=False, **options):
    """Read a manifest, fill in places and write it; a run that was killed goes on where it stopped.

    Parameters
    ----------
    archive : str or Path
        Manifest, see `load_cohort`.
    output : str or Path
        Manifest to write. Scans that are done are kept in ``<output>.partial/`` until all are.
    skip_bad : bool, default=False
        Go on without bad rows, and warn.
    **options
        As in `add_places`, but ``partial_dir``.

    Returns
    -------
    Cohort
    """
    partial = Path(f"{output}.partial")
    cohort = add_places(load_cohort(archive, skip_bad=skip_bad), partial_dir=partial, **options)
    save_manifest(cohort, output)
    remove_partial(partial, ".json")
    return cohort


def _filled(tumor, place, trusted):
    """Return a tumor with the missing labels of `place` filled in, and its further columns."""
    found = place.pop("labels")
    labels = dict(tumor.labels)
    for task in PLACE_TASKS:
        labels[task] = labels.get(task) or (found[task] if trusted else None)
    same = {"tumor_id": tumor.tumor_id, "mask_value": tumor.mask_value}
    return Tumor(tumor.case, tumor.bbox, labels=labels, metadata=tumor.metadata | place, **same)


def _locate(tumors, areas, method, picture, partial_dir, min_quality):
    """Return one dict per tumor of one scan (labels and columns), or the reason why there is none."""
    case = tumors[0].case
    kept = _kept_file(partial_dir, tumors, areas, method)
    if kept is not None and kept.is_file() and (picture is None or picture.is_file()):
        return json.loads(kept.read_text(encoding="utf-8"))
    try:
        image, voxels, registration = register_case(tumors, method=method)
    except (OSError, ValueError) as err:
        return str(err)
    to_mni = registration.to_mni @ case.affine
    places = [_place(index @ to_mni[:3, :3].T + to_mni[:3, 3], areas) for index in voxels]
    if not case.states_orientation:
        for place in places:
            place["labels"]["hemisphere"] = None
    quality, used = registration.quality, registration.method
    spread = None if np.isnan(registration.spread_mm) else round(registration.spread_mm, 1)
    notes = {"place_quality": round(quality, 3), "place_spread_mm": spread, "place_method": used}
    result = [place | notes for place in places]
    if picture is not None:
        shown = np.zeros(case.shape, bool)
        for index in voxels:
            shown[tuple(index.T)] = True
        trust = "" if quality >= min_quality else " (below the limit: no labels)"
        labels = [[str(place["labels"][task] or "midline") for task in PLACE_TASKS] for place in places]
        said = "; ".join(map(" ".join, labels))
        centers = [[place[f"mni_{axis}_mm"] for axis in "xyz"] for place in places]
        title = f"{case.case_id}: quality {quality:.2f}{trust}, {used}; {said}"
        save_picture(picture, image, case.affine, shown, registration.to_mni, title=title, centers=centers)
    if kept is not None:
        write_text(kept, json.dumps(result))
    return result


def register_case(tumors, *, method):
    """Lay the scan of some tumors on MNI152, without looking at any tumor's voxels.

    Parameters
    ----------
    tumors : list of Tumor
        Of one case. Without a mask, the ellipsoid in the box stands for a tumor.
    method : {"registration", "header"}
        See `register_to_mni`.

    Returns
    -------
    image : ndarray of shape (x, y, z)
    voxels : list of ndarray of shape (n, 3)
        Each tumor's, in the image's own storage order.
    registration : Registration
    """
    case = tumors[0].case
    image, mask = case.load_image(), case.load_mask()
    voxels = [_tumor_voxels(tumor, mask) for tumor in tumors]
    ignore = np.zeros(case.shape, dtype=bool) if mask is None else mask > 0
    for index in voxels:
        ignore[tuple(index.T)] = True
    return image, voxels, register_to_mni(image, case.affine, ignore=ignore, method=method)


def _tumor_voxels(tumor, mask):
    """Return a tumor's voxels (n, 3): of the case's mask, or without one of the ellipsoid in its box."""
    if mask is not None:
        inside = tumor.select(mask)
    if mask is None or not inside.any():
        size = tumor.bbox[1] - tumor.bbox[0]
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1)
        inside = (((grid + 0.5) / size * 2 - 1) ** 2).sum(axis=-1) <= 1
        inside[tuple(size // 2)] = True
    return tumor.bbox[0] + np.argwhere(inside)


def _place(points, areas):
    """Return labels and columns of a tumor whose voxels are at `points` (n, 3) in MNI mm."""
    center = points.mean(axis=0)
    names, counts = np.unique(areas(points), return_counts=True)
    shares = [(names[i], counts[i] / len(points)) for i in np.argsort(-counts, kind="stable")]
    place = {f"mni_{axis}_mm": round(float(mm), 1) for axis, mm in zip("xyz", center, strict=True)}
    place["region_fractions"] = ";".join(f"{name}={share:.2f}" for name, share in shares if share >= 0.005)
    return {"labels": place_labels(center, areas)} | place


def _kept_file(folder, tumors, areas, method):
    """Return where one scan's places are kept: the name changes with all that they depend on."""
    case = tumors[0].case
    sources = [source for source in (case.image, case.mask) if source is not None]
    if folder is None or not all(isinstance(source, str) for source in sources):
        return None
    content = [_VERSION, method, getattr(areas, "key", "landmarks"), [content_key(s) for s in sources]]
    content.append([[t.tumor_id, t.bbox.tolist(), t.mask_value] for t in tumors])
    return partial_file(folder, content, ".json")
