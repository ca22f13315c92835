"""Damaged downloads of public data sets: images, tables, contours, slices."""

import shutil
from functools import partial

from ._engine import Reader


def _brats(folder):
    """Write scans that are read as they are, with an Excel and a CSV table."""
    import pandas as pd
    import trees

    base = folder / "set"
    trees.brats(base, "MET", ["00001-000", "00002-000"], folder="Pretreat-MetsToBrain-Masks")
    for unused in base.rglob("*-t[12][nwf]*"):
        unused.unlink()
    rows = [{"BraTS_MET_ID": f"BraTS-MET-0000{n}-000", "Death": n, "Age": 60.5} for n in (1, 2)]
    trees.workbook(base / "Pretreat-MetsToBrain-Masks_clin_1.xlsx", Data=rows)
    study = base / "imaging" / "patientId" / "41" / "studyId" / "907"
    trees.pair(study, "RTSTRUCT_MRI.nii.gz", "RTSTRUCT_segmentation.nii.gz", (1,), 41)
    pd.DataFrame([{"PatientID": 41, "StudyID": s} for s in (907, 908)]).to_csv(base / "meta.csv", index=False)
    return [base]


def _tree(make, folder):
    """Write one of the trees that the tests of public sets read."""
    import trees

    getattr(trees, make)(folder / "set")
    return [folder / "set"]


def _contours(folder):
    """Write one patient with contours and a DICOM series of few slices."""
    import trees

    trees.vestibular(folder / "set")
    for path in folder.rglob("*"):
        if path.is_dir() and (path.name.endswith("_t2") or path.name in ("VS-SEG-002", "VS-SEG-063")):
            shutil.rmtree(path)
    return [folder / "set"]


def _read(path):
    """Read all sets that are there, and convert what must be."""
    from tumorsim import load_dataset

    cohort = load_dataset("auto", path, output=path.parent / "archive.csv")
    assert len(cohort) and all(len(t.tumor_id) for t in cohort)


_WORDS = (
    b"structure_name",
    b"LPS_contour_points",
    b"T1 image",
    b"VS-SEG-001",
    b"StudyID",
    b"t1gd",
    b"cjdata",
)
_NEEDS = ("h5py", "openpyxl", "pydicom", "nrrd")

READERS = [
    Reader(f"public-{name}", seeds, _read, _WORDS, needs=_NEEDS, ci=12, seconds=20)
    for name, seeds in {
        "plain": _brats,
        "lesion-files": partial(_tree, "gamma_knife"),
        "contours": _contours,
        "series": partial(_tree, "mc_rc"),
        "channels": partial(_tree, "decathlon"),
        "slices": partial(_tree, "cheng"),
    }.items()
]
