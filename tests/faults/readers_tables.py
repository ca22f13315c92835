"""Damaged tables: CSV of several makes, Excel and Parquet."""

import csv

from ._engine import Reader

_NAMES = (
    "patient_id",
    "case_id",
    "tumor_id",
    "image",
    "mask",
    "mask_value",
    "x0",
    "y0",
    "z0",
    "x1",
    "y1",
    "z1",
)
_NAMES += ("label_type", "dose", "note")


def _rows(comma=False):
    """Return the cells of a manifest of boxes, the header first."""
    dose = "12,5" if comma else "12.5"
    for i, kind in enumerate(("glioma", "", "NA")):
        yield [
            f"Mü{i}",
            f"c{i}",
            f"c{i}/1",
            "i.nii",
            "",
            "",
            0,
            0,
            0,
            2,
            3,
            4,
            kind,
            dose,
            'said "no", left\nright',
        ]


def _image(folder):
    """Write the scan that all rows name."""
    import numpy as np

    from tumorsim.io import save_nifti

    folder.mkdir()
    save_nifti(folder / "i.nii", np.ones((5, 6, 7), np.uint8), np.eye(4))


def _csv(folder):
    """Write manifests as programs and spreadsheets do."""
    paths = []
    for name, separator, encoding in (
        ("plain", ",", "utf-8"),
        ("german", ";", "cp1252"),
        ("marked", ";", "utf-8-sig"),
        ("unicode", "\t", "utf-16"),
    ):
        _image(folder / name)
        paths.append(folder / name / "m.csv")
        with open(paths[-1], "w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=separator).writerows([_NAMES, *_rows(comma=separator != ",")])
    return paths


def _frame(folder, suffix):
    """Write one manifest as Excel or Parquet, numbers as numbers."""
    import pandas as pd

    _image(folder / "one")
    path = folder / "one" / f"m{suffix}"
    frame = pd.DataFrame(list(_rows()), columns=_NAMES)
    frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_parquet(path, index=False)
    return [path]


def _read(path):
    """Read a manifest and look through it; what is accepted has clean ids and can be written and read."""
    from tumorsim import load_cohort
    from tumorsim.manifest import save_manifest
    from tumorsim.records.columns import clean_id

    cohort = load_cohort(path)
    assert len(cohort) and all(clean_id(t.patient_id, "patient_id") == t.patient_id for t in cohort)
    again = path.with_name("again.csv")
    save_manifest(cohort, again)
    assert load_cohort(again).tumor_ids.tolist() == cohort.tumor_ids.tolist()


_WORDS = (
    *(name.encode() for name in _NAMES),
    *(
        b"NA",
        b"nan",
        b"None",
        b"7.0",
        b"007",
        b"1,5",
        b"1.234,5",
        b"1E+05",
        b"sep=;\r\n",
        b"label_",
        b"=1+1",
        b"'=",
    ),
    *(
        b"..\\i.nii",
        b"C:\\i.nii",
        b"~root/i.nii",
        b"\\\\host\\i.nii",
        b"/dev/zero",
        b".",
        b"\xe2\x80\x8b",
        b'""',
        b"\r",
    ),
    *(b"<v>", b"</row>", b't="s"', b't="e"', b'r="A1"', b'r="XFD1048576"', b"<!DOCTYPE x>", b"&x;", b"<f>"),
)

READERS = [
    Reader("csv", _csv, _read, _WORDS, ci=250),
    Reader("excel", lambda folder: _frame(folder, ".xlsx"), _read, _WORDS, needs=("openpyxl",), ci=100),
    Reader(
        "parquet-table", lambda folder: _frame(folder, ".parquet"), _read, _WORDS, needs=("pyarrow",), ci=100
    ),
]
