"""A proposed mask of a scan, written where people look at it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

import tumorsim
from tumorsim.io import save_nifti
from tumorsim.manifest import load_dicom_case
from tumorsim.retrieval._query import read_query

__all__ = ["segment_to_file"]


def segment_to_file(
    embedder,
    scan: str | PathLike,
    output: str | PathLike | None = None,
    *,
    seg: str | PathLike | None = None,
    series: str | None = None,
    threshold: float = 0.5,
) -> float:
    """Propose a tumor mask for a scan, on the scan's own grid, and write it.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    scan : path
        T1c image (NIfTI or NRRD), or a folder of DICOM.
    output : path, optional
        Mask to write, ending in ``.nii`` or ``.nii.gz``.
    seg : path, optional
        DICOM SEG to write, which refers to the series of the folder.
    series : str, optional
        Pattern of the T1c series in the folder.
    threshold : float, default=0.5
        Probability from which a voxel is proposed as tumor.

    Returns
    -------
    volume_ml : float
        Of the proposed tumor.

    Raises
    ------
    FileNotFoundError, DicomError, ValueError
        If no file is to be written, its name does not suit, or the scan cannot be used.
    """
    dicom = Path(scan).is_dir()
    if (output is None and seg is None) or (seg is not None and not dicom):
        raise ValueError("Give a file to write: -o for NIfTI, or --seg for a DICOM SEG of --dicom.")
    if output is not None and not str(output).lower().endswith((".nii", ".nii.gz")):
        raise ValueError(
            f"The mask is written as NIfTI: its name must end in .nii or .nii.gz. Got '{output}'."
        )
    if dicom:
        case, source = load_dicom_case(scan, series=series, with_mask=False)
    else:
        case, source = read_query(scan), None
    mask = embedder.segment(case, threshold=threshold)
    if output is not None:
        save_nifti(output, mask, case.affine)
    if seg is not None:
        from tumorsim.io.dicom import save_seg

        save_seg(seg, mask, source, version=tumorsim.__version__)
    return float(np.count_nonzero(mask) * case.spacing.prod() / 1000)
