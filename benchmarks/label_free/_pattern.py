"""Whether tumors that enhance alike lie near each other, beyond size, place and origin."""

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks._checks import check_integer
from benchmarks.label_free._controls import head_center, mirrored_box, untrained_copies
from benchmarks.label_free._scans import check_cohort, embed, read_scan
from benchmarks.metrics import partial_mantel
from benchmarks.shapes import depth_inside
from tumorsim.geometry import crop_slices, lesion_shape, select_mask, upper_half
from tumorsim.preprocessing import normalize_intensity
from tumorsim.records import group_by_case

__all__ = ["enhancement_pattern", "evaluate_pattern"]

CLOSE_MM = 3.0
PATTERN = ("bright_rim", "rim_contrast", "contrast", "sphericity")


def enhancement_pattern(tumor, *, center=None):
    """Measure how a tumor enhances, from its mask and intensities alone.

    Some masks hold the whole tumor, others its enhancing rim only: gaps of a mask up to 6 mm are closed and
    what it then encloses is filled first.

    Parameters
    ----------
    tumor : Tumor
        Of a case with a mask.
    center : array-like of shape (3,), optional
        `head_center` of its case in mm, if it is at hand.

    Returns
    -------
    dict of float
        ``bright_rim``: of the brighter half of its voxels, the share that lies in the outer half, nearer to
        the surface than the median voxel; 0.5 for a solid tumor, near 1 for a ring. ``rim_contrast``: mean
        of the outer half less mean of the inner half. ``contrast``: mean of the tumor less mean of the
        mirrored place on the other side of the head. Both in units of the brain's median. ``sphericity``: of
        `geometry.lesion_shape`, of the filled mask.

    Raises
    ------
    ValueError
        If the tumor has no mask, or the mask has no voxel in the box.

    Notes
    -----
    Where slices are as thick as the rim, ring and solid are told apart by the slice through the middle only.
    Near the midline the mirrored place is tumor too, and contrast is too small.
    """
    return _patterns([tumor], head_center(tumor.case) if center is None else center)[0]


def evaluate_pattern(embedder, cohort, *, n_permutations=999, n_untrained=8, random_state=0):
    """Correlate embedding distance with that of the enhancement pattern, given size, place and data set.

    Parameters
    ----------
    embedder : object with ``transform(tumors)``
        Distances are those of its ``space_``, if it has one.
    cohort : Cohort or sequence of Tumor
        Tumors without a mask are left out. Metadata ``dataset``, where it is there, is held fixed.
    n_permutations : int, default=999
        Of patients; see `benchmarks.metrics.partial_mantel`.
    n_untrained : int, default=8
        How many untrained networks; needs a `TumorEmbedder`. 0 leaves them out.
    random_state : int, default=0
        Seed of permutations and of the first untrained network; the others follow.

    Returns
    -------
    DataFrame
        One row per ``method`` (``tumor box``, ``untrained 1`` …): ``correlation``, Pearson's r of the
        distances; ``partial_correlation`` and ``p_value``, given the differences of log-volume, place
        relative to the head's center, and data set; ``n_tumors``, ``n_patients``.

    Raises
    ------
    ValueError
        If there are fewer than four patients with masks.

    See Also
    --------
    enhancement_pattern : The four figures, each divided by its standard deviation over tumors.

    Notes
    -----
    Controls are held fixed as far as they act linearly (see `benchmarks.metrics.partial_mantel`), and a
    network that sees intensities at all, trained or not, sees something of the pattern: compare with the
    untrained rows.
    """
    from scipy.spatial.distance import cdist

    n_untrained = check_integer(n_untrained, "n_untrained")
    cohort = check_cohort(cohort)
    cohort = check_cohort(cohort[np.array([tumor.case.has_mask for tumor in cohort])])
    table, patients = cohort.table, cohort.patient_ids.astype(str)
    centers, patterns = np.zeros((len(cohort), 3)), [None] * len(cohort)
    for rows in group_by_case(cohort):
        tumors = [cohort[row] for row in rows]
        centers[rows] = head_center(tumors[0].case)
        for row, pattern in zip(rows, _patterns(tumors, centers[rows[0]]), strict=True):
            patterns[row] = pattern
    pattern = pd.DataFrame(patterns)[list(PATTERN)].to_numpy()
    spread = pattern.std(axis=0)
    pattern = pattern / np.where(spread > 0, spread, 1)
    place = table[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float) - centers
    volume = np.log(table["volume_mm3"].to_numpy(dtype=float))[:, None]
    controls = [cdist(volume, volume), cdist(place, place)]
    if "dataset" in table:
        dataset = table["dataset"].astype(str).to_numpy()
        controls.append((dataset[:, None] != dataset).astype(float))
    target = cdist(pattern, pattern)
    methods = {"tumor box": embedder}
    copies = untrained_copies(embedder, cohort, range(random_state, random_state + n_untrained))
    methods |= {f"untrained {i + 1}": copy for i, copy in enumerate(copies)}
    rows = []
    for name, method in methods.items():
        X = embed(method, cohort)
        distances = cdist(X, X)
        plain, _ = partial_mantel(distances, target, groups=patients, n_permutations=0)
        partial, p_value = partial_mantel(
            distances, target, controls, patients, n_permutations=n_permutations, random_state=random_state
        )
        row = {"method": name, "correlation": plain, "partial_correlation": partial, "p_value": p_value}
        rows.append(row | {"n_tumors": len(cohort), "n_patients": len(set(patients))})
    return pd.DataFrame(rows)


def _patterns(tumors, center):
    """Return `enhancement_pattern` of tumors of one case."""
    case = tumors[0].case
    if not case.has_mask:
        raise ValueError(f"'tumor' must have a mask. Got '{tumors[0].tumor_id}' without one.")
    mirrored = [mirrored_box(tumor, center=center).bbox for tumor in tumors]
    scan = read_scan(case, [*(tumor.bbox for tumor in tumors), *mirrored])
    scan = replace(scan, image=normalize_intensity(scan.image, scan.spacing))
    mask = case.load_mask()
    found = []
    for tumor, box, other in zip(tumors, scan.boxes, scan.boxes[len(tumors) :], strict=False):
        if not tumor.select(mask).any():
            tumor.measure(mask)  # raises, and names tumor, file and value
        found.append(_pattern(tumor, scan, box, other))
    return found


def _pattern(tumor, scan, box, other):
    """Return one tumor's figures from a scan in units of the brain; `other` is its mirrored box."""
    pad = np.ceil(CLOSE_MM / scan.spacing).astype(np.int64)[None] * [[-1], [1]]
    inside = np.pad(select_mask(scan.mask[crop_slices(box)], tumor.mask_value), pad[1][:, None])
    inside = _filled(inside, scan.spacing)
    voxels = np.argwhere(inside) + box[0] + pad[0]
    seen = ((voxels >= 0) & (voxels < scan.image.shape)).all(axis=1)
    depth = depth_inside(inside, scan.spacing)[inside][seen]
    voxels = voxels[seen]
    values = scan.image[tuple(voxels.T)].astype(np.float64)
    voxels[:, 0] = box[0, 0] + other[1, 0] - 1 - voxels[:, 0]
    imaged = (voxels[:, 0] >= 0) & (voxels[:, 0] < scan.image.shape[0])
    mirrored = scan.image[tuple(voxels[imaged].T)]
    outer, bright = upper_half(-depth.round(6)), upper_half(values)
    return {
        "bright_rim": float(outer @ bright / bright.sum()),
        "rim_contrast": float(outer @ values / outer.sum() - (1 - outer) @ values / (1 - outer).sum()),
        "contrast": float(values[imaged].mean() - mirrored.mean()) if imaged.any() else 0.0,
        "sphericity": lesion_shape(inside, scan.spacing)["sphericity"],
    }


def _filled(inside, spacing):
    """Return `inside` with gaps of less than twice `CLOSE_MM` closed, and what a rim then encloses.

    Slice by slice as well, since the rims of thick slices have no bottom.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    axis = int(np.argmax(spacing))
    flat = [1 if a == axis else 3 for a in range(3)]
    grown = distance_transform_edt(~inside, spacing) <= CLOSE_MM
    grown = binary_fill_holes(binary_fill_holes(grown, np.ones(flat)))
    shrunk = distance_transform_edt(np.pad(grown, 1, mode="edge"), spacing)[1:-1, 1:-1, 1:-1] > CLOSE_MM
    return inside | (shrunk if not grown.all() else grown)
