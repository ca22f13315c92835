"""T1c scans of a folder, each with the SEG and RTSTRUCT drawn on it; what is left out, and why."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tumorsim.exceptions import DicomError
from tumorsim.io.dicom._folder import Series, read_folder
from tumorsim.io.dicom._masks import is_tumor, read_regions
from tumorsim.io.dicom._select import t1c_objection
from tumorsim.io.dicom._volume import load_volume, stack

__all__ = ["Scan", "find_scan", "find_scans", "load_mask", "read_series"]


@dataclass(slots=True)
class Scan:
    """A T1c series whose slices make a volume: sorted ``frames``, ``shape``, ``affine``; and its masks."""

    series: Series
    frames: list
    shape: tuple
    affine: np.ndarray
    masks: list = field(default_factory=list)

    def load_image(self):
        """Return the voxels (nx, ny, nz); ``DicomError`` if pixels cannot be decoded."""
        return load_volume(self.frames)


def find_scans(folder, pattern=None, *, progress=False):
    """Find the T1c scans of a folder of mixed DICOM; voxels are not read.

    Parameters
    ----------
    folder : str or Path
    pattern : str, optional
        As in `t1c_objection`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    scans : list of Scan
    skipped : list of (Series, str)
        What is no such scan, and no mask of one, with the reason.
    damaged : list of (str, str)
        Path relative to `folder`, and reason, of files that cannot be used.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    DicomError
        If pydicom is not installed, or there is no DICOM file.
    """
    found, damaged = read_folder(folder, progress=progress)
    scans, skipped = [], []
    masks = [series for series in found if series.kind in ("seg", "rtstruct")]
    for series in found:
        damaged += series.problems
        if series.kind in ("seg", "rtstruct"):
            continue
        reason = "no image" if series.kind == "other" else t1c_objection(series, pattern)
        try:
            if reason:
                raise DicomError(reason)
            if series.problems:
                n_files = f"{len(series.problems)} of its {len(series.files)} files"
                raise DicomError(f"{n_files} cannot be used: {series.problems[0][1]}")
            if len(series.spaces) > 1:
                raise DicomError("Mixed geometry: the slices differ in their frame of reference.")
            scans.append(Scan(series, *stack(series.frames)))
        except DicomError as err:
            skipped.append((series, str(err)))
    for series in masks:
        owners = [s for s in scans if s.series.uid in series.references]
        if not series.references - {""}:  # some writers name the coordinates only
            spaces = series.spaces - {""}
            owners = [s for s in scans if s.series.spaces & spaces and s.series.patient == series.patient]
            owners = owners if len(owners) == 1 else []
        for scan in owners:
            scan.masks.append(series)
        if not owners:
            skipped.append((series, "the series that it was drawn on is no T1c scan of this folder"))
    return scans, skipped, damaged


def find_scan(folder, pattern=None):
    """Return the one T1c scan of a folder.

    Where there are several, the one with a SEG or RTSTRUCT.

    Raises
    ------
    FileNotFoundError, DicomError
        As `find_scans`; and if there is no T1c scan, or no telling which.
    """
    scans, skipped, damaged = find_scans(folder, pattern)
    if not scans:
        reasons = sorted({reason for _, reason in [*skipped, *damaged]})
        raise DicomError(
            f"'{folder}' holds no contrast-enhanced T1 series that can be used. "
            f"Got: {'; '.join(reasons) or 'no series'}. Name the series with a pattern (--series)."
        )
    chosen = [scan for scan in scans if scan.masks] or scans
    if len(chosen) > 1:
        listed = "; ".join(
            f"{Path(s.series.files[0]).parent.name}: {' x '.join(map(str, s.shape))} voxels" for s in chosen
        )
        raise DicomError(
            f"'{folder}' must hold one contrast-enhanced T1 series. Got {len(chosen)} ({listed}). "
            "Give a series' own folder, or name it with a pattern (--series)."
        )
    return chosen[0]


def read_series(folder):
    """Return voxels (columns, rows, slices) and RAS+ affine of a folder's one image series, of any contrast.

    Raises
    ------
    FileNotFoundError, DicomError
        As `find_scans`; and if there is not one image series, or its slices make no volume.
    """
    found, damaged = read_folder(folder)
    found = [series for series in found if series.kind == "image"]
    damaged += [problem for series in found for problem in series.problems]
    if damaged:
        raise DicomError(f"'{damaged[0][0]}' in '{folder}' cannot be used: {damaged[0][1]}")
    if len(found) != 1:
        raise DicomError(f"'{folder}' must hold one image series. Got {len(found)}.")
    frames, _, affine = stack(found[0].frames)
    return load_volume(frames), affine


def load_mask(scan, include=None, exclude=None):
    """Draw the tumors of a scan's SEG and RTSTRUCT.

    Parameters
    ----------
    scan : Scan
    include, exclude : str, optional
        As in `is_tumor`.

    Returns
    -------
    mask : ndarray of shape (nx, ny, nz), dtype=uint8 or uint16, or None
        0 background, then a value for each tumor in the order of its number in its file; where two overlap
        the smaller one keeps its voxels. None where there is no tumor.

    Raises
    ------
    DicomError
        If a file is damaged, or does not fit onto the scan.
    """
    tumors = []
    for series in scan.masks:
        if series.problems:
            raise DicomError(f"A file of its {series.kind.upper()} cannot be used: {series.problems[0][1]}")
        for path in sorted(series.files):
            for region in read_regions(path, series.kind):
                if is_tumor(region, include, exclude):
                    tumors.append(np.flatnonzero(region.draw(scan.shape, scan.affine)))
    tumors = [voxels for voxels in tumors if voxels.size]
    if not tumors:
        return None
    mask = np.zeros(scan.shape, np.uint8 if len(tumors) < 256 else np.uint16)
    for i in sorted(range(len(tumors)), key=lambda i: -tumors[i].size):
        mask.ravel()[tumors[i]] = i + 1
    return mask
