"""The columns of a table of tumors: ids, files, box, labels, measures; and what counts as missing."""

import re
import unicodedata

from tumorsim._validation import check_text, is_missing
from tumorsim.geometry import ENHANCEMENT

__all__ = [
    "BOX_COLUMNS", "FILE_COLUMNS", "ID_COLUMNS", "IN_SCAN", "LABEL_PREFIX", "MEASURED_FROM", "MEASURES",
    "OWN_COLUMNS", "PLACE_TASKS", "box_of", "clean_id", "clean_label", "clean_text", "course_columns",
    "further_columns", "id_key", "id_variants", "is_blank", "is_missing", "known_measures", "label_column",
    "label_columns",
]  # fmt: skip

ID_COLUMNS = ("patient_id", "case_id", "tumor_id")
FILE_COLUMNS = ("image", "mask")
BOX_COLUMNS = ("x0", "y0", "z0", "x1", "y1", "z1")
OWN_COLUMNS = (*ID_COLUMNS, *FILE_COLUMNS, "mask_value", *BOX_COLUMNS)
LABEL_PREFIX = "label_"
MEASURES = ("volume_mm3", "diameter_mm", "sphericity", "elongation", "x_mm", "y_mm", "z_mm")
IN_SCAN = "tumors_in_scan"  # drawn or not, where a manifest tells it; else how many are drawn
MEASURED_FROM = "measured_from"  # "mask", or "box" where size is only that of the box
PLACE_TASKS = ("region", "hemisphere", "front_rear", "upper_lower")

_MISSING = frozenset(r"na n/a <na> nan -nan nat null (null) \n #n/a #na #nv 1.#qnan -1.#ind".split())
_ERROR = re.compile(r"#[^\W\d_]+(/0)?[!?]")  # of a spreadsheet, in any language: #REF!, #WERT!, #DIV/0!
_SHORTENED = re.compile(r"\d([.,]\d+)?[eE]\+\d+")  # a long number as spreadsheets show it
_COURSE = re.compile(  # words of names of columns about dates, treatment and outcome, their ends open
    r"(?:^|[_\s-])(?:(?:dose|fraction|control|recur|progress|follow|surviv|outcome|treat|therap|radioth|surger"
    r"|prior|death|died|dead|relapse)|(?:date|visit|gy|os|pfs)(?:$|[_\s-]))",
    re.IGNORECASE,
)
_CONTROLS = {"Cc", "Zl", "Zp"}  # categories of Unicode: control characters, separators of lines


def label_column(task):
    """Return the column of a task's labels, such as ``label_type``."""
    return f"{LABEL_PREFIX}{task}"


def label_columns(columns):
    """Return, as a dict, column → task of the label columns among `columns`: names, or a DataFrame.

    Examples
    --------
    >>> label_columns(["tumor_id", "label_type", "visit"])
    {'label_type': 'type'}
    """
    names = (name for name in columns if isinstance(name, str) and name.startswith(LABEL_PREFIX))
    return {name: name.removeprefix(LABEL_PREFIX) for name in names}


def further_columns(columns):
    """Return, as a list, those of `columns` that are neither the table's own nor labels.

    Examples
    --------
    >>> further_columns(["tumor_id", "label_type", "visit", "volume_mm3"])
    ['visit', 'volume_mm3']
    """
    known = {*OWN_COLUMNS, *label_columns(columns)}
    return [name for name in columns if name not in known]


def course_columns(columns):
    """Return, as a list, those of `columns` that look like dates, treatment or outcome, measures aside.

    Examples
    --------
    >>> course_columns(["tumor_id", "dose_gy", "rim_fraction", "local_control_12m", "image", "scan_date"])
    ['dose_gy', 'local_control_12m', 'scan_date']
    """
    found = [name for name in further_columns(columns) if _COURSE.search(str(name))]
    return [name for name in found if name not in (*MEASURES, *ENHANCEMENT, IN_SCAN)]


def is_blank(value):
    """Tell whether a cell holds nothing: missing, blank, or a word that programs write for missing.

    The words are ``NA``, ``N/A``, ``<NA>``, ``nan``, ``NaT``, ``NULL``, ``#N/A``, ``#REF!`` and their like in
    any case, and ``None`` as Python writes it; ``none`` is a value.

    Examples
    --------
    >>> [is_blank(value) for value in (None, " ", "NA", "NaN", "None", "none", 0)]
    [True, True, True, True, True, False, False]
    """
    if isinstance(value, str):
        text = value.strip()
        return not text or text == "None" or text.casefold() in _MISSING or bool(_ERROR.fullmatch(text))
    return is_missing(value)


def clean_text(text):
    r"""Return text in Unicode's composed form (NFC), without invisible characters and surrounding blanks.

    Zero-width characters, byte-order marks and marks of writing direction go; other blanks become spaces.

    Examples
    --------
    >>> clean_text("\u200bMu\u0308ller\u00a0A ")
    'Müller A'
    """
    text = unicodedata.normalize("NFC", text)
    if text.isascii():
        return text.strip()
    kinds = [(c, unicodedata.category(c)) for c in text]
    return "".join(" " if kind == "Zs" else c for c, kind in kinds if kind != "Cf").strip()


def clean_id(value, name):
    """Return an id of column `name` as it is compared: as `clean_text` does, and ``7.0`` as ``7``.

    A column of whole numbers with gaps becomes ``7.0`` in many programs, so that this is one patient.
    Letter case and leading zeros stay: ``p01`` and ``P01``, ``7`` and ``007`` are different ids, which
    `id_variants` finds, ``manifest`` warns of and ``check`` lists.

    Raises
    ------
    TypeError, ValueError
        If it is no text, missing (see `is_blank`; ``none`` too), has control characters or several lines, or
        is a number that a spreadsheet has shortened, such as ``1.23E+11``.

    Examples
    --------
    >>> clean_id("7.0", "patient_id"), clean_id(" 007", "patient_id")
    ('7', '007')
    """
    text = clean_text(value) if isinstance(value, str) else check_text(value, name)
    if is_blank(text) or text.casefold() == "none":
        raise ValueError(f"'{name}' must be non-empty text. Got {value!r}: the id is missing.")
    _check_line(text, value, name)
    if _SHORTENED.fullmatch(text):
        got = (
            f"Got {text!r}, which a spreadsheet has shortened. Format the column as text and export it again."
        )
        raise ValueError(f"'{name}' must have all its digits. {got}")
    return _whole(text)


def _whole(text):
    """Return a whole number that a program wrote with decimals as one: ``7.0`` and ``7,00`` are ``7``."""
    return re.split("[.,]", text)[0] if re.fullmatch(r"\d+[.,]00?", text) else text


def _check_line(text, value, name):
    """Raise ``ValueError`` unless `text`, made of `value`, is one line without control characters."""
    if any(unicodedata.category(c) in _CONTROLS for c in text):
        raise ValueError(f"'{name}' must be text on one line without control characters. Got {value!r}.")


def id_variants(ids):
    """Return lists of different ids that look like one (see `id_key`).

    Examples
    --------
    >>> id_variants(["p01", "7", "P01", "8", "007"])
    [['p01', 'P01'], ['7', '007']]
    """
    groups = {}
    for one in dict.fromkeys(ids):
        groups.setdefault(id_key(one), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def id_key(text):
    """Return what ids of one patient share: neither case, leading zeros, width, dashes nor blanks count.

    Examples
    --------
    >>> id_key("P_01") == id_key("p – 1")
    True
    """
    text = re.sub(r"[\s_\u2010-\u2015\u2212-]+", "-", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def known_measures(cells):
    """Return further cells (column → value) without missing measures, then without where others came from.

    Raises
    ------
    ValueError
        If a measure is text.

    Examples
    --------
    >>> known_measures({"dose": 20, "volume_mm3": 5.0, "x_mm": None, "measured_from": "mask"})
    {'dose': 20, 'volume_mm3': 5.0}
    """
    missing = {name for name in MEASURES if name in cells and is_blank(cells[name])}
    for name in MEASURES:
        if name not in missing and isinstance(cells.get(name), str):
            got = f"Got '{cells[name]}'. Leave the column out, and it is measured anew."
            raise ValueError(f"The column '{name}' must hold numbers. {got}")
    dropped = {*missing, MEASURED_FROM} if missing else set()
    return {name: value for name, value in cells.items() if name not in dropped}


def clean_label(value, task):
    """Return a label of a task as text, as `clean_text` does; None where it is missing (see `is_blank`).

    Raises
    ------
    ValueError
        If it has several lines or control characters.

    Examples
    --------
    >>> clean_label("glioma", "type"), clean_label(2, "grade"), clean_label("NA", "type")
    ('glioma', '2', None)
    """
    text = "" if is_blank(value) else clean_text(str(value))
    if is_blank(text):
        return None
    _check_line(text, value, f"label of task '{task}'")
    return _whole(text)


def box_of(row):
    """Return the box of a row as nested lists of float (2, 3); None where all six cells are missing.

    Raises
    ------
    ValueError
        If a cell, number or text, is missing or no number while another is there.

    Examples
    --------
    >>> box_of({"x0": 1, "y0": "2", "z0": 3, "x1": 4, "y1": 5, "z1": 6})
    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    """
    cells = ["" if is_blank(row.get(name)) else row[name] for name in BOX_COLUMNS]
    if all(cell == "" for cell in cells):
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError) as err:
        rule = f"The box {', '.join(BOX_COLUMNS)} must be six whole numbers, or empty."
        raise ValueError(f"{rule} Got {', '.join(map(repr, cells))}.") from err
    return [numbers[:3], numbers[3:]]
