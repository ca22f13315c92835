"""What a tumor's scan shows around it, and how records show themselves in notebooks."""

from dataclasses import dataclass

import numpy as np

from tumorsim._validation import check_real
from tumorsim.geometry import crop_slices, ras_affine, ras_box, spacing_from_affine, to_ras
from tumorsim.rendering import display_window, find_background, orthogonal_slices, page_environment

_MARGIN_MM, _WINDOW_MARGIN_MM = 30.0, 10.0
_THUMBNAIL_PIXELS = 140
_N_THUMBNAILS = 4


@dataclass(frozen=True)
class Surroundings:
    """A tumor's scan around it, axes in RAS+ order, and how to show it."""

    image: np.ndarray  # (nx, ny, nz): the box and a margin of the scan
    lesion: np.ndarray | None  # bool (nx, ny, nz): the tumor at the same voxels; None where there is no mask
    spacing: np.ndarray  # (3,), mm per voxel
    bbox: np.ndarray  # (2, 3): the tumor's box in voxels of `image`, half-open
    through: np.ndarray  # (3,): voxel where planes cross, on the tumor
    window: tuple  # intensities shown black and white
    background: float | None  # value of the air around the head, if it is constant

    @property
    def middle(self):
        """The box's middle in voxels of `image`, shape (3,)."""
        return (self.bbox.sum(axis=0) - 1) / 2

    def slices(self, extent_mm=None, n_pixels=160):
        """Return three planes as pictures of `extent_mm`; default: what holds the box and 30 mm around it."""
        if extent_mm is None:
            extent_mm = float((np.diff(self.bbox, axis=0)[0] * self.spacing).max() + 2 * _MARGIN_MM)
        options = {"through": self.through, "mask": self.lesion, "bbox": self.bbox, "n_pixels": n_pixels}
        options |= {"window": self.window, "background": self.background}
        return orthogonal_slices(self.image, self.middle, self.spacing, extent_mm, **options)


def read_surroundings(tumor, margin_mm=_MARGIN_MM):
    """Read a tumor's scan and keep what lies at most `margin_mm` from its box: whole heads have faces.

    An infinite margin keeps the whole scan. FileNotFoundError or GeometryError: image or mask cannot be read,
    or they do not fit together.
    """
    case = tumor.case
    if margin_mm != np.inf:
        margin_mm = check_real(margin_mm, "margin_mm", minimum=0)
    tumor.check()
    stored_mask = case.load_mask()
    lesion = None
    if stored_mask is not None:
        whole = np.zeros(case.shape, dtype=bool)
        whole[crop_slices(tumor.bbox)] = tumor.select(stored_mask)
        lesion = to_ras(whole, case.affine) if whole.any() else None
    image = to_ras(case.load_image(), case.affine)
    spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
    bbox = ras_box(tumor.bbox, case.shape, case.affine)
    background = find_background(image)
    near = image[_around(bbox, _WINDOW_MARGIN_MM / spacing, image.shape)]  # so that scalp fat does not count
    window = display_window(near, background=background)
    crop = _around(bbox, np.minimum(margin_mm / spacing, max(image.shape)), image.shape)
    image, lesion = image[crop], None if lesion is None else lesion[crop]
    bbox = bbox - [part.start for part in crop]
    through = np.round((bbox.sum(axis=0) - 1) / 2) if lesion is None else _planes_through(lesion)
    return Surroundings(image, lesion, spacing, bbox, through, window, background)


def tumor_html(tumor):
    """Return a tumor's three planes, ids and labels as HTML; its box alone where the scan cannot be read."""
    known = {task: value for task, value in tumor.labels.items() if value is not None}
    lines = [f"patient {tumor.patient_id}, case {tumor.case.case_id}"]
    lines += [f"{task}: {value}".replace("_", " ") for task, value in known.items()]
    return _html(f"Tumor {tumor.tumor_id}", lines, _thumbnails(tumor, ("axial", "coronal", "sagittal")))


def case_html(case):
    """Return a scan's ids, grid and axial plane as HTML."""
    try:
        spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
        shape = " × ".join(str(n) for n in case.shape)
        grid = f"{shape} voxels of {' × '.join(f'{s:.3g}' for s in spacing)} mm (R–L × A–P × S–I)"
        picture = axial_plane(case, case.load_mask(), n_pixels=_THUMBNAIL_PIXELS)
        shown = [("axial plane of the scan", picture.parts())]
    except (OSError, ValueError) as err:
        grid, shown = f"cannot be read: {err}", []
    lines = [f"patient {case.patient_id}", grid, "with mask" if case.has_mask else "without mask"]
    return _html(f"Case {case.case_id}", lines, shown)


def axial_plane(case, mask, **options):
    """Return the axial plane of a whole scan, by default through its mask (nx, ny, nz or None), as a picture.

    `options` are those of `rendering.orthogonal_slices`. Other whole planes would show the face.
    """
    image = to_ras(case.load_image(), case.affine)
    mask = None if mask is None else to_ras(np.asarray(mask) > 0, case.affine)
    spacing = spacing_from_affine(ras_affine(case.shape, case.affine)[1])
    middle, extent = (np.array(image.shape) - 1) / 2, float((np.array(image.shape) * spacing)[:2].max())
    through = middle if mask is None or not mask.any() else _planes_through(mask)
    options = {"through": through, "mask": mask, "background": find_background(image)} | options
    return orthogonal_slices(image, middle, spacing, extent, **options)["axial"]


def cohort_html(cohort):
    """Return a cohort's counts and its first tumors as HTML; masks of others are not read."""
    lines = []
    for task, values in cohort.labels.items():
        counts = values.value_counts()
        text = ", ".join(f"{name} {n}" for name, n in counts.head(6).items())
        more = f" and {len(counts) - 6} more" if len(counts) > 6 else ""
        missing = f", not known {values.isna().sum()}" if values.isna().any() else ""
        lines.append(f"{task}: {text}{more}{missing}".replace("_", " "))
    shown = [one for tumor in cohort[:_N_THUMBNAILS] for one in _thumbnails(tumor, ("axial",))]
    return _html(repr(cohort), lines, shown)


def _html(title, lines, pictures):
    """Return a title, lines of text, and pictures (as `_thumbnails` returns them) as HTML."""
    template = page_environment().get_template("record.html.j2")
    return template.render(title=title, lines=lines, pictures=pictures)


def _thumbnails(tumor, planes):
    """Return planes through a tumor as (label, parts of the picture), or why there are none."""
    try:
        pictures = read_surroundings(tumor).slices(n_pixels=_THUMBNAIL_PIXELS)
    except (OSError, ValueError) as err:
        return [(f"No picture: {err}", None)]
    return [(f"{plane} plane of tumor {tumor.tumor_id}", pictures[plane].parts()) for plane in planes]


def _around(bbox, margin, shape):
    """Return slices of a box grown by at most `margin` voxels (3,), inside `shape`."""
    margin = np.floor(margin + 1e-6).astype(np.int64)  # 1e-6 voxel: despite rounding in headers
    return crop_slices([np.maximum(bbox[0] - margin, 0), np.minimum(bbox[1] + margin, shape)])


def _planes_through(lesion):
    """Return the voxel (3,) where planes cross: the centroid, moved onto planes that meet the lesion."""
    voxels = np.argwhere(lesion)
    center = voxels.mean(axis=0)
    for axis in range(3):
        planes = np.unique(voxels[:, axis])
        if np.round(center[axis]) not in planes:  # between two pieces of one lesion
            center[axis] = planes[np.abs(planes - center[axis]).argmin()]
    return center
