"""What a query may be → its tumors."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim._validation import check_box, check_integer
from tumorsim.manifest import load_cohort, load_dicom_case, tumors_from_case
from tumorsim.records import Case, Cohort, Tumor

__all__ = ["UNKNOWN_PATIENT", "check_known", "query_tumors", "read_query"]

UNKNOWN_PATIENT = "unknown"
_TABLES = (".csv", ".parquet")


def query_tumors(
    query,
    *,
    mask=None,
    box: Sequence[int] | None = None,
    embedder=None,
    patient_id: str | None = None,
    case_id: str | None = None,
    threshold: float = 0.5,
    max_lesions: int = 5,
    **lesions,
) -> Cohort:
    """Return the tumors of a query: known ones as they are; of a scan by mask, by box, or proposed.

    Parameters
    ----------
    query : path, nibabel image, Case, Tumor, sequence of Tumor, Cohort or DataFrame
        As in `find_similar`.
    mask : path, nibabel image or tuple (array, affine), optional
        Mask on the scan's grid; its lesions are the tumors.
    box : sequence of 6 int, optional
        ``x0 y0 z0 x1 y1 z1`` in voxels of the scan, half-open; this is the tumor.
    embedder : TumorEmbedder, optional
        Without mask and box its ``segment`` proposes lesions.
    patient_id, case_id : str, optional
        Of a scan. Default: its own, else ``"unknown"`` and the file's name without its suffix.
    threshold : float, default=0.5
        Probability from which a voxel is proposed as tumor.
    max_lesions : int, default=5
        Number of proposed lesions that are kept, largest first.
    **lesions
        ``mask_value``, ``min_volume_mm3``, ``merge_distance_mm``, ``by_value`` of
        `manifest.tumors_from_case`.

    Returns
    -------
    cohort : Cohort
        Tumors of a scan are named ``<case>/1``, ``<case>/2`` ….

    Raises
    ------
    FileNotFoundError, GeometryError, TypeError, ValueError
        If files cannot be used, the box leaves the image, both mask and box are given, or nothing is
        proposed.
    """
    case = read_query(query, mask=mask, box=box, patient_id=patient_id, case_id=case_id)
    if isinstance(case, Cohort):
        return case
    if box is not None:
        box = check_box(np.reshape(box, (2, 3)), shape=case.shape, what=f"The box in '{case.case_id}'")
        return Cohort([Tumor(case, box, tumor_id=f"{case.case_id}/1")])
    if case.has_mask:
        return tumors_from_case(case, **lesions)
    if embedder is None:
        raise ValueError("A scan needs a mask, a box, or an embedder that proposes lesions. Got none.")
    proposed = embedder.segment(case, threshold=threshold)
    if not proposed.any():
        raise ValueError(
            f"The model proposes no lesion in '{case.case_id}'. Lower the threshold, or give a mask, or a "
            "box in voxels of the image."
        )
    case = _with_mask(case, (proposed, case.affine))
    cohort = tumors_from_case(case, **(lesions | {"mask_value": ">0"}))
    return cohort[: check_integer(max_lesions, "max_lesions", minimum=1)]


def read_query(query, *, mask=None, box=None, patient_id=None, case_id=None, **dicom):
    """Return the Case of a scan, or the Cohort of known tumors; of voxels only those of DICOM are read.

    `dicom` are ``series``, ``include``, ``exclude`` and ``key_file`` of `manifest.load_dicom_case`.
    """
    if mask is not None and box is not None:
        raise ValueError("A tumor is given by a mask or by a box. Got both; leave one out.")
    if is_scan(query) or isinstance(query, Case):
        return _case_of(query, mask, box, patient_id, case_id, dicom)
    given = {"mask": mask, "box": box, "patient_id": patient_id, "case_id": case_id}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"Parameter '{name}' belongs to a scan. Got it beside tumors; leave it out.")
    if isinstance(query, pd.DataFrame | str | PathLike):
        return load_cohort(query)
    if isinstance(query, Cohort):
        return query
    return Cohort([query] if isinstance(query, Tumor) else query)


def is_scan(query):
    """Tell whether a query is a scan without ids: a file, a folder of DICOM, or a nibabel image."""
    if isinstance(query, str | PathLike):
        return Path(query).suffix.lower() not in _TABLES
    return hasattr(query, "dataobj")


def check_known(query, exclude, *, patient_id, case_id, key_file):
    """Raise unless the query has the id that `exclude` compares: a file's name does not tell it."""
    if exclude not in ("same_patient", "same_case"):
        return
    name, given = ("patient", patient_id) if exclude == "same_patient" else ("case", case_id)
    if is_scan(query):
        known = given is not None or (key_file is not None and _is_folder(query))
    elif isinstance(query, Case):
        known = given is not None or name == "case" or query.patient_id != UNKNOWN_PATIENT
    else:
        known = name == "case" or not isinstance(query, Cohort) or UNKNOWN_PATIENT not in query.patient_ids
    if not known:
        raise ValueError(
            f"exclude='{exclude}' needs the query's {name}. Give {name}_id (--{name}-id), or with DICOM the "
            "archive's key_file (--key-file)."
        )


def _case_of(query, mask, box, patient_id, case_id, dicom):
    """Return a scan as a Case with the ids and the mask that were given, else with its own."""
    if _is_folder(query):
        with_mask = mask is None and box is None
        query, _ = load_dicom_case(query, patient_id=patient_id, with_mask=with_mask, **dicom)
    elif any(value is not None for value in dicom.values()):
        raise ValueError(
            "A key file, and patterns of series and regions, belong to a folder of DICOM. Got a scan that is "
            "none; leave them out."
        )
    if isinstance(query, Case):
        ids = {"case_id": case_id or query.case_id, "patient_id": patient_id or query.patient_id}
        mask = query.mask if mask is None and box is None else mask
        return Case(query.image, mask, **ids)
    name = _stem(query) if isinstance(query, str | PathLike) else "query"
    return Case(query, mask, case_id=case_id or name, patient_id=patient_id or UNKNOWN_PATIENT)


def _is_folder(query):
    """Tell whether a query is a folder, which holds DICOM."""
    return isinstance(query, str | PathLike) and Path(query).is_dir()


def _with_mask(case, mask):
    """Return a case with another mask."""
    return Case(case.image, mask, case_id=case.case_id, patient_id=case.patient_id)


def _stem(path):
    """Return a file's name without ``.nii.gz`` and the like."""
    name = Path(path).name
    for suffix in (".nii.gz", ".nii", ".nrrd", ".nhdr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(path).stem
