"""Public data sets → Cohort: cases recognized by their names, tables joined, overlaps left out."""

import os
import re
from pathlib import Path

import pandas as pd

from tumorsim._validation import check_choice
from tumorsim.manifest import cohort_from_scans, load_cohort, save_manifest
from tumorsim.public_sets._found import LAYOUTS, Found, Match
from tumorsim.public_sets._readers import READERS
from tumorsim.public_sets._tables import join_tables, resolve_overlaps
from tumorsim.records import Cohort

_EXAMPLES = Path(__file__).parents[1] / "data" / "examples" / "manifest.csv"


def load_dataset(
    name: str, root: str | os.PathLike | None = None, *, output: str | os.PathLike | None = None,
    mask_value: int | str | None = None, min_volume_mm3: float = 14.0, merge_distance_mm: float = 2.0,
    progress: bool = False,
) -> Cohort:  # fmt: skip
    """Read a public data set, as it lies on disk, as a Cohort; ``docs/public_sets.md`` describes the sets.

    Parameters
    ----------
    name : str
        A layout (``"brats-mets"``, ``"brats-men-rt"`` …), or ``"auto"``: every set that is found below
        `root`, each recognized by the names of its cases. ``"examples"`` are the 12 real stacks in the
        package (CC BY 4.0), with no `root` and no options.
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

    Examples
    --------
    >>> load_dataset("examples").labels["type"].value_counts().sort_index().to_dict()
    {'glioma': 4, 'meningioma': 4, 'pituitary_adenoma': 4}
    """
    if name == "examples":
        return load_cohort(_EXAMPLES)
    if root is None:
        raise ValueError(f"Data set '{name}' is not in the package. Give its folder as 'root'.")
    folder = None if output is None else Path(output).with_name(f"{Path(output).stem}_files")
    sets = _recognize(name, root, folder, progress)
    scans, lesions = [], {}
    for found, rows in zip(sets, _rows_of(sets), strict=True):
        if found.layout.reader:
            pairs = zip(found.matches, rows, strict=False)
            usable = [(match, row) for match, row in pairs if not row.get("problem")]
            left_out = [row for row in rows if row.get("problem")]
            rows, more = READERS[found.layout.reader](found, usable)
            rows += left_out
            lesions |= more
        scans += rows
    if mask_value is not None:
        given = {"mask_value": str(mask_value)}
        scans = [scan if scan["case_id"] in lesions else scan | given for scan in scans]
    errors = None if output is None else Path(f"{output}.errors.txt")
    options = {"min_volume_mm3": min_volume_mm3, "merge_distance_mm": merge_distance_mm, "progress": progress}
    cohort = cohort_from_scans(scans, root, lesions=lesions, errors=errors, **options)
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
    return pd.DataFrame([row for rows in _rows_of(_recognize(name, root)) for row in rows]).fillna("")


def _rows_of(sets):
    """Return, for each `Found`, a row per match and then those met twice, as far as names and tables say."""
    rows = []
    for found in sets:
        own = [found.row(match) for match in found.matches]
        if not found.layout.reader:
            join_tables(own, found)
        rows.append(own + found.repeated)
    resolve_overlaps([row for own in rows for row in own], sets)
    return rows


def _recognize(name, root, folder=None, progress=False):
    """Return a `Found` for each layout that has cases below `root`; `name` is one layout or 'auto'."""
    check_choice(name, "name", ("auto", *LAYOUTS))
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"Folder '{root}' does not exist.")
    root = Path(os.path.realpath(root))
    files = _list_files(root, folder)
    matches = {}
    for path in files.values():
        whole = f"{root.name}/{path}"
        for one in LAYOUTS if name == "auto" else [name]:
            if name == "auto" and not re.search(LAYOUTS[one].within, whole, re.I):
                continue
            found = (re.search(rf"(?:^|/)(?:{pattern})$", whole, re.I) for pattern in LAYOUTS[one].images)
            match = next(filter(None, found), None)
            if match:
                matches.setdefault(one, []).append(Match(path, match.groupdict()))
                break
    if not matches:
        what = "No case of any known data set" if name == "auto" else f"No case of '{name}'"
        rule = f"{what} lies below '{root}' ({len(files)} files)."
        raise ValueError(f"{rule} docs/public_sets.md says how each set names its files.")
    names = [one for one in LAYOUTS if one in matches]
    return [Found(one, LAYOUTS[one], root, files, matches[one], folder, progress) for one in names]


def _list_files(root, skip):
    """Return lower-case path → path, with '/', of all files below `root`, linked folders too, but `skip`."""
    files, seen = {}, {os.path.realpath(skip)} if skip is not None else set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link in a circle, or what an earlier run converted
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            relative = Path(os.path.relpath(os.path.join(folder, name), root)).as_posix()
            files[relative.lower()] = relative
    return files
