"""Phantom archives on disk: scans as NIfTI, and the table of scans that a user would write."""

import csv
from pathlib import Path

from tumorsim import Case, Cohort, Tumor
from tumorsim.io import save_nifti

TRAINING = "--max-epochs 1 --batches-per-epoch 4 --batch-size 2 --patch-size 32 --n-channels 8 --n-blocks 1"


def write_cohort(cohort, folder):
    """Write a cohort's scans as NIfTI, and return the same tumors in these files."""
    cases = {}
    for case in cohort.cases:
        files = [Path(folder) / f"{case.case_id}_{kind}.nii.gz" for kind in ("image", "mask")]
        save_nifti(files[0], *case.image)
        save_nifti(files[1], *case.mask)
        cases[case.case_id] = Case(*files, case_id=case.case_id, patient_id=case.patient_id)
    return Cohort(
        Tumor(cases[t.case.case_id], t.bbox, tumor_id=t.tumor_id, labels=t.labels, mask_value=t.mask_value)
        for t in cohort
    )


def write_scan_table(cohort, path):
    """Write a cohort in files as a table with a row a scan, labels of its first tumor."""
    first = {}
    for tumor in cohort:
        first.setdefault(tumor.case.case_id, tumor)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        tasks = list(next(iter(first.values())).labels)
        writer.writerow(
            ["patient_id", "case_id", "image", "mask", *(f"label_{task}" for task in tasks), "visit"]
        )
        for tumor in first.values():
            case = tumor.case
            labels = [tumor.labels[task] for task in tasks]
            writer.writerow([case.patient_id, case.case_id, case.image, case.mask, *labels, "2024-05"])
