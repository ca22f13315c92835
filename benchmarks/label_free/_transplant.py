"""Tumors pasted into other heads at one site and size: what is left to find is the tumor."""

import numpy as np
import pandas as pd

from benchmarks._checks import check_integer, check_real, check_text
from benchmarks.label_free._controls import head_center, untrained_copies
from benchmarks.label_free._dates import date_queries, method_row, pooled_row
from benchmarks.label_free._scans import brain_level, check_cohort, embed, largest_lesions, read_scan
from benchmarks.shapes import depth_inside, rounded_box
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import bbox_from_mask, crop_slices, select_mask
from tumorsim.records import Case, Tumor

__all__ = ["evaluate_transplant", "transplant"]

MARGIN_MM = 5.0
EQUAL_BOX = 1.25  # sides over the diameter of a ball of the volume
OFFSET_MM = (30.0, -5.0, 20.0)  # from the head's center: white matter beside the ventricles, in most heads


def transplant(tumor, host_case, center_mm, volume_mm3, *, tumor_id=None):
    """Paste a tumor into another head.

    The tumor's voxels and 5 mm around them, over which the paste fades out, are scaled to the volume,
    shifted to the site and interpolated on the host's grid; both scans may have any spacing and orientation.
    Intensities are shifted and scaled so that air and the medians of both brains agree.

    Parameters
    ----------
    tumor : Tumor
        Of a case with a mask.
    host_case : Case
        Its own mask, if any, is not taken over.
    center_mm : array-like of shape (3,)
        Where the centroid goes, in RAS+ mm of the host.
    volume_mm3 : float
        The mask's volume in the host, to half a voxel.
    tumor_id : str, optional
        Default that of `tumor`.

    Returns
    -------
    Tumor
        In a new case in memory with the host's grid in RAS+ order and the ``patient_id`` of `tumor`; its
        ``case_id`` is ``<case of tumor> in <host case>``. The label ``type`` is taken over; those of place
        are not.

    Raises
    ------
    ValueError
        If `tumor` has no mask.
    GeometryError
        If the tumor would leave the host's image.

    Notes
    -----
    A scaled paste carries the thick slices, noise and surroundings of its origin into the host: two dates of
    one scanner can still be recognized by these.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates

    volume_mm3 = check_real(volume_mm3, "volume_mm3", exclusive=True)
    center = np.asarray(center_mm, dtype=np.float64).reshape(3)
    source = read_scan(tumor.case, [tumor.bbox])
    if source.mask is None:
        raise ValueError(f"'tumor' must have a mask to be transplanted. Got '{tumor.tumor_id}' without one.")
    host = read_scan(host_case)
    inside = np.zeros(source.mask.shape, bool)
    lesion = source.mask[crop_slices(source.boxes[0])]
    inside[crop_slices(source.boxes[0])] = select_mask(lesion, tumor.mask_value)
    if not inside.any():
        tumor.measure()  # raises, and names tumor, file and value
    scale = (volume_mm3 / (inside.sum() * source.spacing.prod())) ** (1 / 3)

    pad = np.ceil((MARGIN_MM / min(scale, 1) + 2 * source.spacing.max()) / source.spacing).astype(int) + 2
    box = bbox_from_mask(inside)
    box = np.stack([np.maximum(box[0] - pad, 0), np.minimum(box[1] + pad, inside.shape)])
    inside, image = inside[crop_slices(box)], source.image[crop_slices(box)]
    centroid = source.affine[:3, :3] @ (box[0] + np.argwhere(inside).mean(axis=0)) + source.affine[:3, 3]
    depth = depth_inside(inside, source.spacing)
    depth -= distance_transform_edt(~inside, source.spacing)  # mm, positive inside

    to_source = (
        np.linalg.inv(source.affine[:3, :3]) / scale @ host.affine[:3, :3]
    )  # voxel of host → of source
    origin = np.linalg.solve(source.affine[:3, :3], centroid - source.affine[:3, 3]) - box[0]
    site = np.linalg.solve(host.affine[:3, :3], center - host.affine[:3, 3])
    reach = np.abs(np.linalg.inv(to_source)) @ np.maximum(origin, np.array(inside.shape) - origin) + 1
    low = np.floor(site - reach).astype(int)
    high = np.ceil(site + reach).astype(int) + 1
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"))
    points = np.tensordot(to_source, grid - site[:, None, None, None], 1) + origin[:, None, None, None]

    depth = scale * map_coordinates(depth, points, order=1, mode="nearest")
    seen = np.all([(p > -0.5) & (p < n - 0.5) for p, n in zip(points, inside.shape, strict=True)], axis=0)
    depth = np.where(seen, depth, -np.inf)
    n_voxels = max(1, round(volume_mm3 / host.spacing.prod()))
    deepest = np.argsort(-depth, axis=None, kind="stable")[:n_voxels]
    mask = np.zeros(depth.shape, bool)
    mask.flat[deepest] = True
    found = bbox_from_mask(mask) + low
    if (found[0] < 0).any() or (found[1] > host.image.shape).any():
        raise GeometryError(
            f"Tumor '{tumor.tumor_id}' must lie inside the image of host '{host_case.case_id}'. Got voxels "
            f"{found[0].tolist()} to {found[1].tolist()} of {list(host.image.shape)}. Choose another site."
        )
    ratio = np.abs(to_source).max(axis=1)  # source voxels per host voxel: smooth what would alias
    image = gaussian_filter(image.astype(np.float64), 0.42 * np.sqrt(np.maximum(ratio**2 - 1, 0)))
    levels = brain_level(source.image, source.spacing), brain_level(host.image, host.spacing)
    (air, unit), (host_air, host_unit) = levels
    pasted = host_air + host_unit * (map_coordinates(image, points, order=1, mode="nearest") - air) / unit
    fade = np.clip(1 + depth / MARGIN_MM, 0, 1)
    fade = np.where(mask, 1, 0.5 - 0.5 * np.cos(np.pi * fade))

    kept = np.stack([np.maximum(low, 0), np.minimum(high, host.image.shape)])
    target, part = crop_slices(kept), crop_slices(kept - low)
    result = host.image.astype(np.float32, copy=True)
    result[target] += (fade[part] * (pasted[part] - result[target])).astype(np.float32)
    new_mask = np.zeros(result.shape, np.uint8)
    new_mask[target] = mask[part]
    case = Case(
        (result, host.affine),
        (new_mask, host.affine),
        case_id=f"{tumor.case.case_id} in {host_case.case_id}",
        patient_id=tumor.patient_id,
    )
    labels = {task: value for task, value in tumor.labels.items() if task == "type"}
    name = tumor.tumor_id if tumor_id is None else check_text(tumor_id, "tumor_id")
    return Tumor(case, found, tumor_id=name, labels=labels, mask_value=1)


def evaluate_transplant(
    embedder, cohort, hosts, *, volume_mm3=None, offset_mm=OFFSET_MM, n_untrained=8, random_state=0
):
    """Find a tumor's other date among different tumors pasted at one site of one head, at equal volume.

    Head, place and volume, which suffice in `evaluate_other_date`, are the same for all.

    Parameters
    ----------
    embedder : object with ``transform(tumors)``
        Distances are those of its ``space_``, if it has one.
    cohort : Cohort or sequence of Tumor
        The largest lesion of every scan is transplanted; scans without a mask are left out.
    hosts : sequence of Case
        Heads to paste into, best of patients who are not in `cohort`, with little tumor of their own.
    volume_mm3 : float, optional
        Default: the median of the lesions' volumes.
    offset_mm : array-like of shape (3,), default=(30, -5, 20)
        The site relative to the host's `head_center`, to the right, front and top; on the other side
        where the host's mask has its center of mass on the right.
    n_untrained : int, default=8
        How many untrained networks; needs a `TumorEmbedder`. 0 leaves them out.
    random_state : int, default=0
        Seed of the first untrained network; the others follow.

    Returns
    -------
    DataFrame
        One row per ``method``, ``query_host`` and ``gallery_host``, which are the same, or, where there are
        several, each host and the next. Further columns as in `evaluate_other_date`. Methods:

        - ``tumor box``: the embedder on each pasted tumor's own box.
        - ``equal box``: the embedder on one cube about the site, a quarter wider than a ball of the volume:
          tumors of equal volume still differ in the shape of their boxes.
        - ``box sides``: the logarithms of the own box's sides in mm, and nothing else.
        - ``untrained 1`` and so on, and their mean; ``untrained, equal box 1`` and so on.

    Raises
    ------
    ValueError
        If no patient has masks of two dates, or there is no host.
    GeometryError
        If a tumor does not fit into a host at the site.
    """
    n_untrained = check_integer(n_untrained, "n_untrained")
    cohort = check_cohort(cohort)
    lesions = largest_lesions(cohort[np.array([tumor.case.has_mask for tumor in cohort])])
    queries = date_queries(lesions)
    hosts = list(hosts)
    if not hosts or not all(isinstance(host, Case) for host in hosts):
        raise ValueError(f"'hosts' must hold at least one Case. Got {hosts!r}.")
    volume = float(lesions.table["volume_mm3"].median()) if volume_mm3 is None else volume_mm3
    seeds = range(random_state, random_state + n_untrained)
    embedders = [embedder, _BoxSides(), *untrained_copies(embedder, lesions, seeds)]

    embedded = []  # per host and embedder: (n, 2, n_features), by own box and by equal box
    for host in hosts:
        site = _site(host, np.asarray(offset_mm, dtype=np.float64))
        parts = [[] for _ in embedders]
        for tumor in lesions:  # one pasted scan at a time is in memory
            pasted = transplant(tumor, host, site, volume)
            for part, method in zip(parts, embedders, strict=True):
                part.append(embed(method, [pasted, _equal_box(pasted, site, volume)]))
        embedded.append([np.stack(part) for part in parts])

    methods = [("tumor box", 0, 0), ("equal box", 0, 1), ("box sides", 1, 0)]  # name, embedder, box
    kinds = {"untrained": 0, "untrained, equal box": 1}
    pairs = [(i, i) for i in range(len(hosts))]
    if len(hosts) > 1:
        pairs += [(i, (i + 1) % len(hosts)) for i in range(len(hosts))]
    rows = []
    for i, j in pairs:
        names = {"query_host": hosts[i].case_id, "gallery_host": hosts[j].case_id}

        def row(name, e, box, i=i, j=j, names=names):
            distances = _distances(embedded[i][e][:, box], embedded[j][e][:, box])
            return method_row(name, distances, lesions, queries) | names

        rows += [row(*method) for method in methods]
        for kind, box in kinds.items() if n_untrained else ():
            found = [row(f"{kind} {n + 1}", 2 + n, box) for n in range(n_untrained)]
            rows += [*found, pooled_row(found, f"{kind}, mean") | names]
    table = pd.DataFrame(rows)
    first = ["method", "query_host", "gallery_host"]
    return table[[*first, *table.columns.drop(first)]]


def _equal_box(tumor, site, volume_mm3):
    """Return a pasted tumor in the box that all get, a cube about the site (3,) in mm."""
    case = tumor.case
    half = EQUAL_BOX / 2 * (6 * volume_mm3 / np.pi) ** (1 / 3) / case.spacing
    middle = np.linalg.solve(case.affine, [*site, 1])[:3] + 0.5
    box = rounded_box(np.stack([middle - half, middle + half]), case.shape)
    return Tumor(case, box, tumor_id=f"{tumor.tumor_id}-equal-box", labels=tumor.labels)


class _BoxSides:
    """An embedder that sees nothing but the box."""

    def transform(self, tumors):
        """Return the logarithms of the sides along R, A and S in mm, (n, 3)."""
        sides = [np.abs(t.case.affine[:3, :3]) @ (t.bbox[1] - t.bbox[0]) for t in tumors]
        return np.log(sides)


def _site(host, offset):
    """Return where tumors go in a host, RAS+ mm (3,): on the side with less tumor of its own."""
    center = head_center(host)
    if host.has_mask:
        voxels = np.argwhere(host.load_mask() > 0)
        if len(voxels):
            own = host.affine[:3, :3] @ voxels.mean(axis=0) + host.affine[:3, 3]
            if (own[0] - center[0]) * offset[0] > 0:
                offset = offset * (-1, 1, 1)
    return center + offset


def _distances(first, second):
    """Return Euclidean distances (n, n) of rows."""
    from scipy.spatial.distance import cdist

    return cdist(first, second)
