"""What a test on real scans must be compared with: the healthy side, the head alone, untrained networks."""

import numpy as np

from benchmarks._checks import check_integer
from benchmarks.label_free._scans import check_cohort, read_scan
from tumorsim.geometry import crop_slices
from tumorsim.preprocessing import normalize_intensity, resample
from tumorsim.records import Tumor, group_by_case

__all__ = ["HeadEdges", "head_center", "mirrored_box", "untrained_copies", "untrained_copy"]

GRID_MM = 4.0
GRID = 56  # voxels per side of the grid that heads are compared on: 224 mm
BLANK_MM = 8.0  # around tumors


def head_center(case):
    """Return the center of mass of the head's outline, each voxel of tissue counting alike.

    Parameters
    ----------
    case : Case

    Returns
    -------
    ndarray of shape (3,), dtype=float64
        In RAS+ mm of the scan.
    """
    image = case.load_image().astype(np.float32)
    image = image - np.percentile(image, 0.5)
    count, total = 0, np.zeros(3)
    head = image > 0.1 * np.percentile(image, 99)
    for axis in range(3):
        profile = head.sum(axis=tuple(a for a in range(3) if a != axis))
        count, total[axis] = profile.sum(), profile @ np.arange(len(profile))
    if not count:  # a single intensity: the middle of the scan
        count, total = 1, (np.array(case.shape) - 1) / 2
    return case.affine[:3, :3] @ (total / count) + case.affine[:3, 3]


def mirrored_box(tumor, *, center=None):
    """Return the box of the same size on the other side of the head, as a tumor without labels.

    The mirror is the plane through the head's center, across the storage axis nearest to left-right. The box
    of a tumor near the midline overlaps its mirror image, and is then no control.

    Parameters
    ----------
    tumor : Tumor
    center : array-like of shape (3,), optional
        `head_center` of its case in mm, if it is at hand.

    Returns
    -------
    Tumor
        In the same case, with ``-mirrored`` added to its id; the mask is not read there.
        Twice mirrored is the first box again, unless the other side is not imaged whole: then the box is
        shifted inside.
    """
    case, box = tumor.case, tumor.bbox.copy()
    axis = int(np.argmax(np.abs(case.affine[0, :3]) / case.spacing))
    middle = np.linalg.solve(case.affine, [*(head_center(case) if center is None else center), 1])[axis]
    total = round(2 * float(middle)) + 1  # start plus stop of boxes about the plane, in whole voxels
    side = box[1, axis] - box[0, axis]
    start = np.clip(total - box[1, axis], 0, case.shape[axis] - side)
    box[:, axis] = start, start + side
    return Tumor(case, box, tumor_id=f"{tumor.tumor_id}-mirrored")


def untrained_copy(embedder, tumors=None, *, random_state=0):
    """Return an embedder of the same architecture and spacing that has learned nothing.

    Its weights are drawn afresh. Only the running means of its batch norms and its feature scaling are those
    of patches around `tumors`, as training would leave them: without that the network would be not untrained
    but broken.

    Parameters
    ----------
    embedder : TumorEmbedder
        Its parameters say what to build; a fitted one also which heads, as far as `tumors` carry labels.
    tumors : Cohort or sequence of Tumor, optional
        Whose scans the batch norms are settled on; of at most 8 scans. Default: simulated scans.
    random_state : int, default=0
        Seed of the weights.

    Returns
    -------
    TumorEmbedder

    Raises
    ------
    TypeError
        If `embedder` is no `TumorEmbedder`.
    TypeError, ValueError
        If a parameter of an `embedder` that is not fitted is out of its range.
    """
    return next(untrained_copies(embedder, tumors, [random_state]))


def untrained_copies(embedder, tumors, seeds):
    """Yield an `untrained_copy` per seed."""
    from sklearn.base import clone

    from tumorsim import TumorEmbedder, make_cohort

    seeds = [check_integer(seed, "random_state") for seed in seeds]
    if not seeds:
        return
    if not isinstance(embedder, TumorEmbedder):
        raise TypeError(
            f"Untrained copies can be made of a TumorEmbedder. Got {type(embedder).__name__}; "
            "set n_untrained=0."
        )
    tumors = make_cohort(6, random_state=0, spacing=4.0) if tumors is None else check_cohort(tumors)
    several = tumors.labels.nunique() > 1
    tasks = [task for task in getattr(embedder, "tasks_", ()) if several.get(task)]
    for seed in seeds:
        yield clone(embedder).set_params(tasks=tasks, random_state=seed).initialize(tumors)


class HeadEdges:
    """The edges of heads without their tumors, on one coarse grid about each head's center.

    Parameters
    ----------
    cohort : Cohort
        One row of the result per tumor; its scan's mask and all boxes of the scan in the cohort are blanked.
    centers : ndarray of shape (n, 3)
        `head_center` of each tumor's case.
    """

    def __init__(self, cohort, centers):
        self._edges = np.zeros((len(cohort), GRID, GRID, GRID), np.float16)
        self._seen = np.zeros(self._edges.shape, bool)
        for rows in group_by_case(cohort):
            tumors = [cohort[row] for row in rows]
            self._edges[rows], self._seen[rows] = _edges(tumors, centers[rows[0]])

    def correlation(self, first, second):
        """Return Pearson's r of two rows outside both tumors; -1 if they share under a hundred voxels."""
        both = self._seen[first] & self._seen[second]
        a, b = (self._edges[row][both].astype(np.float64) for row in (first, second))
        if len(a) < 100 or not a.std() or not b.std():
            return -1.0
        return float(np.corrcoef(a, b)[0, 1])

    def distances(self, rows):
        """Return one less the correlation of `rows` with all, (n, n), NaN elsewhere."""
        n = len(self._edges)
        result = np.full((n, n), np.nan)
        for i in rows:
            for j in range(n):
                known = result[j, i]
                result[i, j] = known if known == known else 1 - self.correlation(i, j)
        return result


def _edges(tumors, center):
    """Return gradient magnitude (float16) and what is seen (bool) of one scan, (GRID, GRID, GRID) each."""
    from scipy.ndimage import binary_dilation, gaussian_gradient_magnitude
    from scipy.ndimage import shift as shift_array

    scan = read_scan(tumors[0].case, [tumor.bbox for tumor in tumors])
    blank = (
        np.zeros(scan.image.shape, np.float32) if scan.mask is None else (scan.mask > 0).astype(np.float32)
    )
    for box in scan.boxes:
        blank[crop_slices(box)] = 1
    shape = np.maximum(1, np.round(np.array(scan.image.shape) * scan.spacing / GRID_MM)).astype(int)
    coarse = normalize_intensity(scan.image, scan.spacing)
    arrays = [resample(a, scan.spacing, np.full(3, GRID_MM), tuple(shape.tolist())) for a in (coarse, blank)]
    edges = gaussian_gradient_magnitude(np.minimum(arrays[0], 4), 1.0)  # 4: bright fat and vessels saturate
    blank = binary_dilation(arrays[1] > 0.01, iterations=max(1, round(BLANK_MM / GRID_MM)))
    voxel = np.linalg.solve(scan.affine, [*center, 1])[:3]  # of the scan; edges of both grids are equal
    steps = (GRID - 1) / 2 - ((voxel + 0.5) * scan.spacing / GRID_MM - 0.5)
    padded, seen = (np.zeros((GRID,) * 3, np.float32) for _ in range(2))
    whole = np.round(steps).astype(int)
    low, high = np.maximum(whole, 0), np.minimum(whole + shape, GRID)
    if (high > low).all():
        target, source = crop_slices((low, high)), crop_slices((low - whole, high - whole))
        padded[target], seen[target] = edges[source], ~blank[source]
    rest = steps - whole
    seen = shift_array(seen, rest, order=1) > 0.99
    return shift_array(padded, rest, order=1).astype(np.float16), seen
