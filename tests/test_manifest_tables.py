"""Tables as hospitals and spreadsheets write them: separators, encodings, Excel, other names, odd cells."""

import csv
import io
import unicodedata
import warnings
import zipfile
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tumorsim import load_cohort
from tumorsim.checks import check_archive
from tumorsim.exceptions import ManifestError
from tumorsim.manifest import build_manifest, read_table, write_table

TWO = (((5, 6, 7), (3, 3, 3)), ((14, 17, 20), (4, 4, 5)))  # two ellipsoids, the second larger


@pytest.fixture
def rows(tmp_path, make_case, write_case):
    """Rows of a scan table with two scans of two tumors each, files in scans/."""
    rows = []
    for case_id, patient_id in (("a", "Müller"), ("b", "007")):
        write_case(make_case(case_id, "x", ellipsoids=TWO), tmp_path / "scans")
        files = {kind: f"scans/{case_id}_{kind}.nii.gz" for kind in ("image", "mask")}
        rows.append({"patient_id": patient_id, "case_id": case_id, **files, "label_type": "glioma"})
    return rows


def text_of(rows, separator=",", end="\r\n"):
    """Return rows (dicts) as the text of a CSV file."""
    file = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(file, names, delimiter=separator, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def table_of(path, rows, **options):
    """Write rows as CSV and return the path."""
    path.write_text(text_of(rows, **options), encoding="utf-8")
    return path


def excel_of(path, rows):
    """Write rows as the first sheet of an Excel file and return its sheet, to be saved again."""
    openpyxl = pytest.importorskip("openpyxl", reason="Excel needs openpyxl, an extra")
    book = openpyxl.Workbook()
    names = list(dict.fromkeys(name for row in rows for name in row))
    for cells in (names, *([row.get(name) for name in names] for row in rows)):
        book.active.append(cells)
    book.create_sheet("notes").append(["not", "read"])
    book.save(path)
    return book


# Separators, encodings, decimal commas


@pytest.mark.parametrize("hint", ["", "sep=;\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "cp1252", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_tables_of_german_excel_are_read(tmp_path, rows, separator, encoding, hint):
    """Semicolons or tabs, a byte-order mark or none, decimal commas: values are those of a plain table."""
    if hint and separator != ";":
        pytest.skip("Excel writes this hint with semicolons")
    expected = build_manifest(
        table_of(tmp_path / "plain.csv", [row | {"dose": 12.5, "ml": 1234.5} for row in rows]),
        tmp_path / "m.csv",
    )
    german = [rows[0] | {"dose": "12,5", "ml": "1.234,5"}, rows[1] | {"dose": "12,50", "ml": "1234,5"}]
    path = tmp_path / "german.csv"
    path.write_bytes((hint + text_of(german, separator)).encode(encoding))
    if encoding == "cp1252":
        with pytest.warns(UserWarning, match=r"german\.csv' is not UTF-8 and was read as Windows-1252"):
            cohort = build_manifest(path, tmp_path / "n.csv")
    else:
        cohort = build_manifest(path, tmp_path / "n.csv")
    pd.testing.assert_frame_equal(cohort.table, expected.table)
    assert cohort[0].patient_id == "Müller" and cohort[0].metadata["ml"] == 1234.5


def test_boxes_may_have_decimal_commas(tmp_path, rows):
    """A box of whole numbers with a comma is that box, in a file and in memory; a text column stays text."""
    box = dict(zip(("x0", "y0", "z0", "x1", "y1", "z1"), ("1,0", "2,0", "3", "4,0", "6", "8"), strict=True))
    row = rows[0] | {"tumor_id": "a/1", "mask": "", "note": "left, large", "dose": "2,5"} | box
    cohort = load_cohort(table_of(tmp_path / "m.csv", [row], separator=";"))
    assert cohort[0].bbox.tolist() == [[1, 2, 3], [4, 6, 8]]
    assert cohort[0].metadata == {"note": "left, large", "dose": 2.5}
    frame = pd.DataFrame([row | {"image": str(tmp_path / row["image"])}])
    again = load_cohort(frame)
    assert again[0].bbox.tolist() == cohort[0].bbox.tolist() and again[0].metadata == cohort[0].metadata


def test_commas_that_may_group_digits_are_told(tmp_path, rows):
    """1,234 in a table of commas may be 1234 or 1.234: it stays text, with a warning."""
    many = [row | {"dose": dose} for row, dose in zip(rows, ("1,234", "5,678"), strict=True)]
    with pytest.warns(UserWarning, match="Numbers of column 'dose' have commas that may not be decimal"):
        cohort = build_manifest(table_of(tmp_path / "scans.csv", many), tmp_path / "m.csv")
    assert cohort[0].metadata["dose"] == "1,234"


@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (("1.528", "528"), None),
        (("-1.528", ""), None),
        (("\u22121.528", "2"), None),
        (("1.528", "1.234.567"), (1528, 1234567)),
        (("#N/A", "1.234.567"), (float("nan"), 1234567)),
        (("1.528", "NA"), None),
        (("1.528", "12.5"), (1.528, 12.5)),
        (("1.528", "0.528"), (1.528, 0.528)),
        (("1.528", "1528"), (1.528, 1528)),
    ],
)
def test_points_beside_columns_of_decimal_commas_may_group_digits(tmp_path, rows, separator, cells, read):
    """In a German table 1.528 may be 1528: unless its column tells, an error names both ways to write it."""
    many = [row | {"mm3": cell, "age": "51,5"} for row, cell in zip(rows, cells, strict=True)]
    path = table_of(tmp_path / "s.csv", many, separator=separator)
    if read is None:
        told = r"column 'mm3' holds -?1\.528, and 'age' has decimal commas.*Write -?1528 or -?1,528\."
        with pytest.raises(ManifestError, match=told):
            build_manifest(path, tmp_path / "m.csv")
        many = [row | {"age": "51.5"} for row in many]
        path, read = (
            table_of(tmp_path / "s.csv", many, separator=separator),
            (float(cells[0].replace("\u2212", "-")),),
        )
    cohort = build_manifest(path, tmp_path / "m.csv")
    values = dict.fromkeys(tumor.metadata["mm3"] for tumor in cohort)
    assert_array_equal(list(values)[: len(read)], read)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_numbers_of_programs_and_typists_are_numbers(tmp_path, rows, separator):
    """A typographic minus and invisible characters make no text; commas may group but with semicolons."""
    many = [row | {"shift": "\u22125", "age": "51\u200b", "mm3": "1,528"} for row in rows]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cohort = build_manifest(table_of(tmp_path / "s.csv", many, separator=separator), tmp_path / "m.csv")
    told = " ".join(str(one.message) for one in caught)
    assert (cohort[0].metadata["shift"], cohort[0].metadata["age"]) == (-5, 51)
    assert cohort[0].metadata["mm3"] == (1.528 if separator == ";" else "1,528")
    assert ("'mm3' have commas that may not be decimal" in told) == (separator == "\t")


def test_a_word_among_numbers_is_told(tmp_path, rows):
    """One cell of ten that is no number makes a column text: the line is named."""
    many = [rows[0] | {"case_id": f"a{i}", "age": "n.a." if i == 7 else str(50 + i)} for i in range(11)]
    with pytest.warns(
        UserWarning, match=r"Column 'age' holds numbers, but 'n\.a\.' in line 9, so it stays text"
    ):
        cohort = build_manifest(table_of(tmp_path / "scans.csv", many), tmp_path / "m.csv")
    assert cohort[0].metadata["age"] == "50"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_are_found_in_either_form_of_unicode(tmp_path, rows, form):
    """A table and an archive file of two computers may write ü in one character or in two."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / "scans").rename(tmp_path / unicodedata.normalize(form, "für"))
    cell = unicodedata.normalize(other, "für")
    files = [{name: row[name].replace("scans", cell) for name in ("image", "mask")} for row in rows]
    many = [row | one for row, one in zip(rows, files, strict=True)]
    assert len(build_manifest(table_of(tmp_path / "scans.csv", many), tmp_path / "m.csv")) == 4


# Excel


def test_merged_cells_are_told(tmp_path, rows):
    """Only the first of merged cells holds a value: the others would be missing without a word."""
    book = excel_of(tmp_path / "scans.xlsx", rows)
    book.active.merge_cells("E2:E3")
    book.save(tmp_path / "scans.xlsx")
    with pytest.warns(
        UserWarning, match=r"scans\.xlsx' has merged cells, of which only the first holds a value"
    ):
        read_table(tmp_path / "scans.xlsx")


def test_excel_is_read_as_a_person_sees_it(tmp_path, rows):
    """Of the first sheet numbers, dates and ids with leading zeros come out as they are shown."""
    more = {"dose": 12.5, "n": 3.0, "day": datetime(2024, 5, 17), "time": datetime(2024, 5, 17, 8, 30)}
    rows = [rows[0] | more | {"patient_id": 12.0}, rows[1] | more | {"patient_id": 7}, {"dose": None}]
    book = excel_of(tmp_path / "scans.xlsx", rows)
    book.active["A3"].number_format = "000"
    book.save(tmp_path / "scans.xlsx")
    table = read_table(tmp_path / "scans.xlsx")
    assert [row.line for row in table.rows] == [2, 3]
    assert [row.get("patient_id") for row in table.rows] == ["12", "007"]
    assert [table.rows[0].get(name) for name in ("n", "day", "time")] == [
        "3",
        "2024-05-17",
        "2024-05-17 08:30:00",
    ]
    cohort = build_manifest(tmp_path / "scans.xlsx", tmp_path / "m.csv")
    assert cohort.patient_ids.tolist() == ["12", "12", "007", "007"] and cohort[0].metadata["dose"] == 12.5


def edit_book(path, *changes):
    """Replace text (old, new) in the XML of an Excel file's sheets and workbook."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for old, new in changes:
        assert any(old in part for part in parts.values())
        parts = {name: part.replace(old, new) for name, part in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def test_formulas_without_a_value_are_refused(tmp_path, rows):
    """What no program has computed is an error that names the cell, not a missing value or 0."""
    path = tmp_path / "scans.xlsx"
    book = excel_of(path, [row | {"dose": dose} for row, dose in zip(rows, (12.5, "=2*E2"), strict=True)])
    cell = next(cell for cell in book.active[3] if cell.value == "=2*E2").coordinate
    refused = pytest.raises(
        ManifestError, match=f"the formula in cell {cell} was never computed; open .* Excel"
    )
    with refused:
        read_table(path)
    edit_book(path, (b"<v />", b"<v>0</v>"))  # as XlsxWriter does
    with refused:
        read_table(path)
    edit_book(path, (b"<v>0</v>", b"<v>25</v>"))
    assert read_table(path).rows[1].get("dose") == "25"
    edit_book(path, (b"<v>25</v>", b"<v>0</v>"), (b' fullCalcOnLoad="1"', b""))  # computed by Excel
    assert read_table(path).rows[1].get("dose") == "0"
    edit_book(path, (f'r="{cell}"'.encode(), f'r="{cell}" t="str"'.encode()), (b"<v>0</v>", b"<v></v>"))
    assert read_table(path).rows[1].get("dose") == ""
    book.active[cell].value = 25
    book["notes"]["A2"] = "=1+1"
    book.save(path)
    assert read_table(path).rows[1].get("dose") == "25"


def test_excel_without_openpyxl_says_what_to_install(tmp_path, rows, monkeypatch):
    """Where openpyxl is not installed the error names the extra."""
    excel_of(tmp_path / "scans.xlsx", rows)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ManifestError, match=r"needs openpyxl\. Run pip install '\.\[xlsx\]'"):
        read_table(tmp_path / "scans.xlsx")


def test_the_content_tells_the_kind(tmp_path, rows):
    """An Excel file called CSV is read; a CSV file called Excel, a folder and a bomb are refused by name."""
    excel_of(tmp_path / "scans.xlsx", rows)
    (tmp_path / "scans.xlsx").rename(tmp_path / "scans.csv")
    assert len(read_table(tmp_path / "scans.csv").rows) == 2
    table_of(tmp_path / "text.xlsx", rows)
    with pytest.raises(ManifestError, match=r"text\.xlsx' is no \.xlsx file"):
        read_table(tmp_path / "text.xlsx")
    with pytest.raises(ManifestError, match=r"scans' is a folder\. Give a table"):
        read_table(tmp_path / "scans")


# Names of columns


def test_columns_of_other_names_are_mapped(tmp_path, rows):
    """With `columns` a table keeps its own names, and its manifest has ours."""
    theirs = {"patient_id": "Patient", "case_id": "Scan", "image": "Bild", "label_type": "Histology"}
    mapped = [{theirs.get(name, name): cell for name, cell in row.items()} for row in rows]
    path = table_of(tmp_path / "scans.csv", mapped)
    cohort = build_manifest(path, tmp_path / "m.csv", columns=theirs)
    expected = build_manifest(table_of(tmp_path / "ours.csv", rows), tmp_path / "n.csv")
    pd.testing.assert_frame_equal(cohort.table, expected.table)
    for columns, message in (
        ({"image": "Foto"}, "no column 'Foto' to be 'image'. Got Patient, Scan"),
        ({"mask": "Bild"}, "has a column 'mask' already"),
        ({"image": "Bild", "label_x": "Bild"}, "must map each column"),
    ):
        with pytest.raises(ManifestError, match=message):
            build_manifest(path, tmp_path / "m.csv", columns=columns)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("Patient ID", "Fall", "Bild", "Maske"), ("Patient ID", "Fall", "Bild", "Maske")),
        (("PatientID", "case", "Pfad", "Segmentation"), ("PatientID", "case", "Pfad", "Segmentation")),
        (("MRN", "CASE_ID", "imgae", "masks"), ("MRN", "CASE_ID", "imgae", "masks")),
    ],
)
def test_a_missing_column_says_what_looks_like_it(tmp_path, names, found):
    """The error of a missing column names those that may be meant, and how to map them."""
    table_of(tmp_path / "scans.csv", [dict.fromkeys(names, "x")])
    with pytest.raises(ManifestError) as caught:
        build_manifest(tmp_path / "scans.csv", tmp_path / "m.csv")
    for ours, theirs in zip(("patient_id", "case_id", "image", "mask"), found, strict=True):
        assert f"'{ours}' (is it '{theirs}'?)" in str(caught.value)
    assert "--columns" in str(caught.value)


@pytest.mark.parametrize("name", ["type", "Histology", "diagnosis", "Diagnose", "side", "Tumor type"])
def test_a_column_that_may_be_a_label_draws_a_suggestion(tmp_path, rows, name):
    """It is carried along, with a warning that says how to make it a label; `check` lists it."""
    some = [{key: cell for key, cell in row.items() if key != "label_type"} | {name: "x"} for row in rows]
    with pytest.warns(
        UserWarning, match=rf"'{name}' is carried along, but is no label.*--columns label_.*={name}"
    ):
        cohort = build_manifest(table_of(tmp_path / "scans.csv", some), tmp_path / "m.csv")
    assert cohort[0].metadata[name] == "x" and not cohort[0].labels
    findings = check_archive(tmp_path / "m.csv")
    assert "no label" in set(findings["check"])


# Ids and missing values


def test_missing_words_of_tables(tmp_path, rows):
    """A label that says NA, nan or None is missing, and a patient without an id is an error by line."""
    for word in ("NA", "nan", "None", "NULL", "N/A", "<NA>"):
        path = table_of(tmp_path / "scans.csv", [rows[0] | {"label_type": word}, rows[1] | {"label_x": word}])
        cohort = build_manifest(path, tmp_path / "m.csv")
        assert cohort.labels["type"].tolist() == [None, None, "glioma", "glioma"]
        assert f",{word}," not in (tmp_path / "m.csv").read_text()
        assert load_cohort(tmp_path / "m.csv").labels["type"].tolist() == [None, None, "glioma", "glioma"]
        path = table_of(tmp_path / "scans.csv", [rows[0], rows[1] | {"patient_id": word}])
        with pytest.raises(
            ManifestError, match=rf"line 3: .*'patient_id' must be non-empty text. Got '{word}'"
        ):
            build_manifest(path, tmp_path / "m.csv")
        frame = pd.DataFrame([row | {"tumor_id": row["case_id"]} for row in (rows[0], rows[1])])
        frame[["image", "mask"]] = frame[["image", "mask"]].map(lambda cell: str(tmp_path / cell))
        frame["label_type"] = [word, "glioma"]
        assert load_cohort(frame).labels["type"].tolist() == [None, "glioma"]
        frame["patient_id"] = ["p", word]
        with pytest.raises(ManifestError, match=r"row 1: .*'patient_id' must be non-empty"):
            load_cohort(frame)


def test_one_patient_written_in_two_ways(tmp_path, rows):
    """Decomposed letters, invisible characters and 7.0 make no second patient; the manifest has one id."""
    for one, other in (
        ("Müller", unicodedata.normalize("NFD", "Müller")),
        ("p\u00a01", "p 1"),
        ("p1", "p\u200b1\ufeff"),
        ("7", "7.0"),
    ):
        path = table_of(
            tmp_path / "scans.csv", [rows[0] | {"patient_id": one}, rows[1] | {"patient_id": other}]
        )
        cohort = build_manifest(path, tmp_path / "m.csv")
        assert len(set(cohort.patient_ids)) == 1 == len(set(load_cohort(tmp_path / "m.csv").patient_ids))


@pytest.mark.parametrize(("one", "other"), [("p01", "P01"), ("7", "007"), ("sub-1", "Sub-01")])
def test_patients_that_may_be_one_are_told(tmp_path, rows, one, other):
    """Letter case and leading zeros stay, with a warning of `manifest` and a finding of `check`."""
    path = table_of(tmp_path / "scans.csv", [rows[0] | {"patient_id": one}, rows[1] | {"patient_id": other}])
    with pytest.warns(
        UserWarning, match=rf"patient_id '{one}' \(line 2\) and '{other}' \(line 3\) may be one"
    ):
        build_manifest(path, tmp_path / "m.csv")
    findings = check_archive(tmp_path / "m.csv").set_index("check")
    assert f"'{other}' (line 4) may be one patient" in findings.loc["patient ids", "problem"]
    assert findings.loc["patient ids", "severity"] == "warning"


def test_labels_that_say_unknown_are_found(tmp_path, rows):
    """A type called unknown, none or ? is a value, so `check` asks whether it is one."""
    many = [row | {"label_type": label} for row, label in zip(rows, ("unknown", "?"), strict=True)]
    build_manifest(table_of(tmp_path / "scans.csv", many), tmp_path / "m.csv")
    findings = check_archive(tmp_path / "m.csv")
    assert findings[findings["check"] == "label unknown"]["line"].tolist() == [2, 4]


# Files that a table names


def test_paths_of_windows(tmp_path, rows):
    """Backslashes in relative paths are folders; a drive is refused in words; a folder is no file."""
    bad = [rows[0] | {"image": rows[0]["image"].replace("/", "\\")}, rows[1]]
    assert len(build_manifest(table_of(tmp_path / "scans.csv", bad), tmp_path / "m.csv")) == 4
    for cell in (r"D:\scans\a.nii.gz", r"\\server\share\a.nii.gz"):
        path = table_of(tmp_path / "scans.csv", [rows[0], rows[1] | {"mask": cell}])
        with pytest.raises(ManifestError, match=r"line 3: .*is a path of Windows with a drive"):
            build_manifest(path, tmp_path / "m.csv")
    path = table_of(tmp_path / "scans.csv", [rows[0], rows[1] | {"image": "scans"}])
    with pytest.raises(ManifestError, match=r"line 3: image 'scans' is a folder, not a file"):
        build_manifest(path, tmp_path / "m.csv")


def test_home_of_nobody_is_a_missing_file(tmp_path, rows):
    """A path that begins with ~ and an unknown name is no traceback."""
    path = table_of(tmp_path / "scans.csv", [rows[0], rows[1] | {"image": "~nobody-here/a.nii"}])
    with pytest.raises(ManifestError, match=r"line 3: image '~nobody-here/a\.nii' does not exist"):
        build_manifest(path, tmp_path / "m.csv")


def test_an_image_as_its_own_mask_and_a_missing_mask(tmp_path, rows):
    """Both are told by line, and a mask that is missing is called a mask."""
    path = table_of(
        tmp_path / "scans.csv", [rows[0] | {"mask": rows[0]["image"]}, rows[1] | {"mask": "no.nii"}]
    )
    with pytest.raises(ManifestError) as caught:
        build_manifest(path, tmp_path / "m.csv")
    listed = (tmp_path / "m.csv.errors.txt").read_text()
    assert "line 2: " in str(caught.value) and "is its image" in listed
    assert "line 3: mask 'no.nii' does not exist" in listed


# Words that act


@pytest.mark.parametrize("sign", ["\x1b[2J", "\x07", "\x9b", "\u202e", "\u2066"])
def test_signs_that_act_leave_tables(tmp_path, rows, sign):
    """In ids and labels they are refused by line or dropped, in paths refused, in other cells replaced."""
    note = build_manifest(
        table_of(tmp_path / "scans.csv", [row | {"note": f"a{sign}b"} for row in rows]), tmp_path / "m.csv"
    )[0].metadata["note"]
    assert note.startswith("a\ufffd") and sign not in note
    for name in ("patient_id", "label_type", "image"):
        path = table_of(tmp_path / "scans.csv", [rows[0], rows[1] | {name: f"a{sign}b"}])
        if sign in "\u202e\u2066" and name != "image":
            cohort = build_manifest(path, tmp_path / "m.csv")
            assert "ab" in (cohort[-1].patient_id, cohort[-1].labels["type"])
        else:
            with pytest.raises(ManifestError, match=r"line 3: .*control characters") as caught:
                build_manifest(path, tmp_path / "m.csv")
            assert sign not in str(caught.value)


FORMULAS = [
    "=1+1",
    "+49 1",
    "-x",
    "@SUM(A1)",
    "\tx",
    "'=1",
    "''-a",
    " =1",
    "＝1",
    "'",
    "-",
    "a=b",
    "'a",
    "=\nx",
]


def test_formulas_reach_no_spreadsheet_and_come_back(tmp_path):
    """Text that a spreadsheet would run is marked in the file, numbers are not, and reading gives it back."""
    frame = pd.DataFrame({"=name": FORMULAS, "n": np.linspace(-3, 3, len(FORMULAS)), "t": "-5.5"})
    write_table(tmp_path / "t.csv", frame)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        raw = list(csv.reader(file))
    assert raw[0] == ["'=name", "n", "t"] and raw[1][1] == "-3.0" and raw[1][2] == "-5.5"
    assert not [row[0] for row in raw if row[0].lstrip(" ")[:1] in "=+@\t" or row[0][:2] == "-x"]
    table = read_table(tmp_path / "t.csv")
    assert [row.cells["=name"] for row in table.rows] == FORMULAS and table.columns == ["=name", "n", "t"]


@given(st.lists(st.text(st.sampled_from("=+-@'\t\n ,;\"a1.＝"), max_size=5), min_size=1, max_size=5))
@settings(deadline=None, max_examples=100)
def test_any_cells_come_back(tmp_path_factory, cells):
    """Whatever begins or separates a cell of a column that is not of numbers alone, its text comes back."""
    cells = [*cells, "text"]  # a column of 1,5 alone is read as numbers
    path = tmp_path_factory.mktemp("cells") / "t.csv"
    write_table(path, pd.DataFrame({"cell": cells, "end": "x"}))
    assert [row.cells["cell"] for row in read_table(path).rows] == cells


def test_a_point_beside_a_comma_may_be_decimal(tmp_path, rows):
    """12.125 beside 3,5 is no 12125: such a column stays text, with a warning."""
    many = [row | {"dose": dose} for row, dose in zip(rows, ("12.125", "3,5"), strict=True)]
    with pytest.warns(UserWarning, match="Numbers of column 'dose' have commas that may not be decimal"):
        cohort = build_manifest(table_of(tmp_path / "scans.csv", many), tmp_path / "m.csv")
    assert cohort[0].metadata["dose"] == "12.125"


@pytest.mark.parametrize("sign", [";", "\t", ","])
def test_quoted_headers_are_read(tmp_path, sign):
    """R and LibreOffice put every name in quotation marks, whatever separates them."""
    names = ["patient_id", "case_id, number", "image"]
    lines = [sign.join(f'"{name}"' for name in names), sign.join(f'"{c}"' for c in "abc")]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    assert table.columns == names and list(table.rows[0].cells.values()) == ["a", "b", "c"]


@pytest.mark.parametrize(("name", "cell"), [("a\x02", "x"), ("a", "x\0")])
def test_text_that_csv_cannot_give_back_is_refused(tmp_path, name, cell):
    """A column's name with a control character, or a cell with a NUL, is refused in every kind of table."""
    frame = pd.DataFrame({"patient_id": ["p"], name: [cell]})
    for path in (tmp_path / "m.csv", tmp_path / "m.parquet"):
        if path.suffix == ".parquet":
            pytest.importorskip("pyarrow", reason="Parquet is an extra")
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
        with pytest.raises(ManifestError, match=rf"{path.name}' is no table, or damaged: it must be text"):
            read_table(path)


def test_damaged_parquet_is_our_error(tmp_path):
    """A Parquet file that was cut or overwritten names itself."""
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, an extra")
    path = tmp_path / "m.parquet"
    write_table(path, pd.DataFrame({"patient_id": ["a"] * 50}))
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], whole[:8] + b"\xff" * 40 + whole[48:]):
        path.write_bytes(damaged)
        with warnings.catch_warnings(), pytest.raises(ManifestError, match=r"m\.parquet' cannot be read"):
            warnings.simplefilter("error")
            read_table(path)
