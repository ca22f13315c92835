"""Public data sets → Cohort: cases recognized by their names, tables joined, overlaps left out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tumorsim._validation import check_choice
from tumorsim.manifest import cohort_from_scans, save_manifest
from tumorsim.public_sets import _readers
from tumorsim.public_sets._found import LAYOUTS, Found, Match
from tumorsim.public_sets._tables import join_tables, resolve_overlaps

if TYPE_CHECKING:
    import pandas as pd

    from tumorsim.records import Cohort

__all__ = ["list_scans", "load_dataset"]


def load_dataset(
    name: str,
    root: str | os.PathLike,
    *,
    output: str | os.PathLike | None = None,
    mask_value: int | str | None = None,
    min_volume_mm3: float = 14.0,
    merge_distance_mm: float = 2.0,
    progress: bool = False,
) -> Cohort:
    """Read a public data set, as it lies on disk, as a Cohort.

    Parameters
    ----------
    name : str
        A layout (``"brats-mets"``, ``"brats-men-rt"`` …), or ``"auto"``: every set that is found below
        `root`, each recognized by the names of its cases.
    root : str or Path
        A folder that holds the set at any depth. Nothing is written there.
    output : str or Path, optional
        A manifest to write. What must be converted (DICOM, contours, 4-D files, slices) is written as NIfTI
        under ``<stem of output>_files/``; sets that need it cannot be read without `output`. What was
        converted before is not converted again.
    mask_value : int or str, optional
        Voxels of masks that are tumor; default: the tumor core as each set's masks number it, without edema
        and resection cavity. Masks that are made from contours or one file per lesion hold nothing else.
    min_volume_mm3, merge_distance_mm : float
        As in `tumorsim.manifest.tumors_from_case`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    Cohort
        Tumors with the label ``type`` where the set gives it, and further columns ``dataset``, ``visit``,
        ``license`` and those of the set's own tables.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If the layout is unknown, no case of it is there, or `output` is needed.
    ManifestError
        If no case can be used.

    Warns
    -----
    UserWarning
        If cases are left out: incomplete, damaged, twice there, or patients of another set that was found.
        With `output` all are listed in ``<output>.errors.txt``.

    See Also
    --------
    tumorsim.public_sets.list_scans : The cases alone, without reading a voxel.

    Notes
    -----
    The sets, how to get them, their licenses and overlaps: ``docs/public_sets.md``. In most of them all
    tumors are of one type, so a network can learn the hospital instead of the type; keep ``dataset`` and
    compare.
    """
    folder = None if output is None else Path(output).with_name(f"{Path(output).stem}_files")
    scans, lesions = _collect(name, root, folder, Path(output) if output is not None else None, progress)
    if mask_value is not None:
        given = {"mask_value": str(mask_value)}
        scans = [scan if scan["case_id"] in lesions else scan | given for scan in scans]
    cohort = cohort_from_scans(
        scans,
        root,
        lesions=lesions,
        errors=None if output is None else Path(f"{output}.errors.txt"),
        progress=progress,
        min_volume_mm3=min_volume_mm3,
        merge_distance_mm=merge_distance_mm,
    )
    if output is not None:
        save_manifest(cohort, output)
    return cohort


def list_scans(name: str, root: str | os.PathLike) -> pd.DataFrame:
    """List the cases of a public data set without reading a voxel.

    Parameters
    ----------
    name, root
        As in `load_dataset`.

    Returns
    -------
    DataFrame
        One row per case: ``patient_id, case_id, image, mask, dataset, …``, and ``problem``: why it would be
        left out, empty where it would not. Cases whose files must be converted first are named by the file
        that they were recognized by.
    """
    import pandas as pd

    sets = _recognize(name, _existing_folder(root), None, None)
    return pd.DataFrame(_first_rows(sets)).fillna("")


def _first_rows(sets):
    """Return the rows of all `sets` as far as names and tables say, with their problems."""
    rows = []
    for found in sets:
        own = found.bare_rows() if found.layout.reader else join_tables(found.plain_rows(), found)
        rows += own + found.repeated
    return resolve_overlaps(rows, sets)


def _collect(name, root, folder, output, progress):
    """Return the rows of all scans, and of some the lesions (case_id → value of the mask → cells)."""
    sets = _recognize(name, _existing_folder(root), folder, output, progress)
    first, scans, lesions = _first_rows(sets), [], {}
    for found in sets:
        own = [row for row in first if row["dataset"] == found.name]
        if not found.layout.reader:
            scans += own
            continue
        left_out = [row for row in own if row.get("problem")]
        keep = {row["case_id"]: row for row in own if not row.get("problem")}
        found.matches = [m for m in found.matches if found.layout.case_id.format(**m.groups) in keep]
        rows, more = getattr(_readers, found.layout.reader)(found)
        scans += rows + left_out
        lesions |= more
    return scans, lesions


def _recognize(name, root, folder, output, progress=False):
    """Return a `Found` for each layout that has cases below `root`; `name` is one layout or 'auto'."""
    check_choice(name, "name", ("auto", *LAYOUTS))
    files = _list_files(root, skip=(folder, output))
    matches = {}
    for path in files.values():
        for layout_name in LAYOUTS if name == "auto" else [name]:
            layout = LAYOUTS[layout_name]
            if name == "auto" and not re.search(layout.within, f"{root.name}/{path}", re.I):
                continue
            groups = _match(layout, f"{root.name}/{path}")
            if groups is not None:
                matches.setdefault(layout_name, []).append(Match(path, groups))
                break
    if not matches:
        what = "No case of any known data set" if name == "auto" else f"No case of '{name}'"
        raise ValueError(
            f"{what} lies below '{root}' ({len(files)} files). "
            "docs/public_sets.md says how each set names its files."
        )
    order = [layout_name for layout_name in LAYOUTS if layout_name in matches]
    return [
        Found(layout_name, LAYOUTS[layout_name], root, files, matches[layout_name], folder, progress)
        for layout_name in order
    ]


def _match(layout, path):
    """Return the groups of a path that is an image of the layout, else None."""
    for pattern in layout.images:
        match = re.search(rf"(?:^|/)(?:{pattern})$", path, re.I)
        if match:
            return match.groupdict()
    return None


def _existing_folder(root):
    """Return `root` as an absolute Path of a folder."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"Folder '{root}' does not exist.")
    return Path(os.path.realpath(root))


def _list_files(root, skip):
    """Return lower-case path → path, with '/', of all files below `root`, linked folders too, but `skip`."""
    skip = {os.path.realpath(path) for path in skip if path is not None}
    skip_names = {os.path.basename(path) for path in skip}
    files, seen = {}, set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or real in skip:  # a link in a circle, or what an earlier run converted
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name not in skip_names or os.path.realpath(path) not in skip:
                relative = Path(os.path.relpath(path, root)).as_posix()
                files[relative.lower()] = relative
    return files
