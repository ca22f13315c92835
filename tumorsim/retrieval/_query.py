"""What a query may be → its tumors, or their proposed mask."""

import re
import warnings
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import pandas as pd

import tumorsim
from tumorsim._validation import check_box, check_integer, check_real
from tumorsim.geometry import crop_slices
from tumorsim.io import ORIENTATION_REMEDY, ORIENTATION_UNKNOWN, save_nifti
from tumorsim.io.dicom import save_seg
from tumorsim.manifest import load_cohort, load_dicom_case, tumors_from_case
from tumorsim.records import Case, Cohort, Tumor
from tumorsim.records.columns import IN_SCAN

UNKNOWN_PATIENT = "unknown"
_TABLES = (".csv", ".parquet", ".pq", ".tsv", ".xlsm", ".xlsx")


def read_query(query, *, mask=None, box=None, patient_id=None, case_id=None, **dicom):
    """Return the Case of a scan, or the Cohort of known tumors; of voxels only those of DICOM are read.

    `dicom` are ``series``, ``include``, ``exclude`` and ``key_file`` of `manifest.load_dicom_case`.
    """
    if mask is not None and box is not None:
        raise ValueError("A tumor is given by a mask or by a box. Got both; leave one out.")
    if is_scan(query) or isinstance(query, Case):
        return _case_of(query, mask, box, patient_id, case_id, dicom)
    given = {"mask": mask, "box": box, "patient_id": patient_id, "case_id": case_id}
    given |= {{"include": "roi", "exclude": "exclude_roi"}.get(k, k): value for k, value in dicom.items()}
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"Parameter '{name}' belongs to a scan. Got it beside tumors; leave it out.")
    if isinstance(query, pd.DataFrame | str | PathLike):
        return load_cohort(query)
    if isinstance(query, Cohort):
        return query
    return Cohort([query] if isinstance(query, Tumor) else query)


def is_table(query):
    """Tell whether a query is the file of a table."""
    return isinstance(query, str | PathLike) and Path(query).suffix.lower() in _TABLES


def is_scan(query):
    """Tell whether a query is a scan without ids: a file, a folder of DICOM, or a nibabel image."""
    return not is_table(query) if isinstance(query, str | PathLike) else hasattr(query, "dataobj")


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
        rule = f"exclude='{exclude}' needs the query's {name}. Give {name}_id (--{name}-id),"
        raise ValueError(f"{rule} or with DICOM the archive's key_file (--key-file).")


def tumors_of(case, *, box, embedder, threshold, max_lesions, **lesions) -> Cohort:
    """Return the tumors of a scan: in its box, of its mask, or proposed by the embedder; of a Cohort all.

    Proposed ones are sorted by ``confidence``, the mean probability in the lesion. Tumors of a scan are named
    ``<case>/1``, ``<case>/2`` …; `lesions` are parameters of `manifest.tumors_from_case`.
    """
    if isinstance(case, Cohort):
        return case
    if not case.states_orientation:
        what = f"The file of case '{case.case_id}' {ORIENTATION_UNKNOWN}."
        warnings.warn(f"{what} {ORIENTATION_REMEDY}", stacklevel=3)
    if box is not None:
        box = np.reshape(box, (2, 3)) if np.size(box) == 6 else box
        box = check_box(box, shape=case.shape, what=f"The box in '{case.case_id}'")
        return Cohort([Tumor(case, box, tumor_id=f"{case.case_id}/1")])
    if case.has_mask:
        return tumors_from_case(case, **lesions)
    check_real(threshold, "threshold", minimum=0, maximum=1)
    probability = embedder.segment(case, threshold=None)
    proposed = (probability >= threshold).astype(np.uint8)
    if not proposed.any():
        rule = f"The model proposes no lesion in '{case.case_id}'."
        raise ValueError(f"{rule} Lower the threshold, or give a mask, or a box in voxels of the image.")
    case = Case(case.image, (proposed, case.affine), case_id=case.case_id, patient_id=case.patient_id)
    cohort = tumors_from_case(case, **(lesions | {"mask_value": ">0"}))
    largest = list(cohort[: check_integer(max_lesions, "max_lesions", minimum=1)])
    for tumor in largest:
        inside = probability[crop_slices(tumor.bbox)][tumor.select(proposed)]
        tumor.metadata["confidence"] = float(inside.mean())
        tumor.metadata.pop(IN_SCAN)  # some are no tumors
    largest.sort(key=lambda tumor: -tumor.metadata["confidence"])
    for number, tumor in enumerate(largest, 1):
        tumor.tumor_id = f"{case.case_id}/{number}"
    return Cohort(largest)


def segment_to_file(
    embedder, scan: str | PathLike, output: str | PathLike | None = None, *,
    seg: str | PathLike | None = None, series: str | None = None, threshold: float = 0.5,
) -> float:  # fmt: skip
    """Propose a tumor mask for a scan, on the scan's own grid, and write it.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    scan : path
        T1c image (NIfTI or NRRD), or a folder of DICOM.
    output, seg : path, optional
        Mask to write, ending in ``.nii`` or ``.nii.gz``; DICOM SEG that refers to the series of the folder.
    series, threshold
        As in `find_similar`.

    Returns
    -------
    volume_ml : float
        Of the proposed tumor.

    Raises
    ------
    FileNotFoundError, DicomError, ValueError
        If no file is to be written, its name does not suit, or the scan cannot be used.
    """
    dicom = _is_folder(scan)
    if (output is None and seg is None) or (seg is not None and not dicom):
        raise ValueError("Give a file to write: -o for NIfTI, or --seg for a DICOM SEG of --dicom.")
    if output is not None and not str(output).lower().endswith((".nii", ".nii.gz")):
        rule = "The mask is written as NIfTI: its name must end in .nii or .nii.gz."
        raise ValueError(f"{rule} Got '{output}'.")
    if dicom:
        case, source = load_dicom_case(scan, series=series, with_mask=False)
    else:
        case, source = read_query(scan), None
    mask = embedder.segment(case, threshold=threshold)
    if output is not None:
        save_nifti(output, mask, case.affine)
    if seg is not None:
        save_seg(seg, mask, source, version=tumorsim.__version__)
    return float(np.count_nonzero(mask) * case.spacing.prod() / 1000)


def _case_of(query, mask, box, patient_id, case_id, dicom):
    """Return a scan as a Case with the ids and the mask that were given, else with its own."""
    if _is_folder(query):
        with_mask = mask is None and box is None
        query, _ = load_dicom_case(query, patient_id=patient_id, with_mask=with_mask, **dicom)
    elif any(value is not None for value in dicom.values()):
        rule = "A key file, and patterns of series and regions, belong to a folder of DICOM."
        raise ValueError(f"{rule} Got a scan that is none; leave them out.")
    if isinstance(query, Case):
        ids = {"case_id": case_id or query.case_id, "patient_id": patient_id or query.patient_id}
        mask = query.mask if mask is None and box is None else mask
        return Case(query.image, mask, **ids)
    named = isinstance(query, str | PathLike)
    name = Path(re.sub(r"(?i)(?<=\.nii)\.gz$", "", fspath(query))).stem if named else "query"
    return Case(query, mask, case_id=case_id or name, patient_id=patient_id or UNKNOWN_PATIENT)


def _is_folder(query):
    """Tell whether a query is a folder, which holds DICOM."""
    return isinstance(query, str | PathLike) and Path(query).is_dir()
