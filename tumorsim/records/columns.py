"""The columns of a table of tumors: ids, files, box, labels, measures; and what counts as missing."""

from tumorsim._validation import check_text, is_missing

__all__ = [
    "BOX_COLUMNS", "FILE_COLUMNS", "ID_COLUMNS", "LABEL_PREFIX", "MEASURED_FROM", "MEASURES", "OWN_COLUMNS",
    "PLACE_TASKS", "box_of", "clean_label", "further_columns", "is_missing", "known_measures",
    "label_column",
    "label_columns",
]  # fmt: skip

ID_COLUMNS = ("patient_id", "case_id", "tumor_id")
FILE_COLUMNS = ("image", "mask")
BOX_COLUMNS = ("x0", "y0", "z0", "x1", "y1", "z1")
OWN_COLUMNS = (*ID_COLUMNS, *FILE_COLUMNS, "mask_value", *BOX_COLUMNS)
LABEL_PREFIX = "label_"
MEASURES = ("volume_mm3", "diameter_mm", "sphericity", "elongation", "x_mm", "y_mm", "z_mm")
MEASURED_FROM = "measured_from"  # "mask", or "box" where size is only that of the box
PLACE_TASKS = ("region", "hemisphere", "front_rear", "upper_lower")


def label_column(task):
    """Return the column of a task's labels, such as ``label_type``."""
    return f"{LABEL_PREFIX}{task}"


def label_columns(columns):
    """Return the label columns among `columns` with the task of each.

    Parameters
    ----------
    columns : iterable
        Names of columns, or a DataFrame.

    Returns
    -------
    dict
        Column → task, in the order of `columns`.

    Examples
    --------
    >>> label_columns(["tumor_id", "label_type", "visit"])
    {'label_type': 'type'}
    """
    return {
        name: name.removeprefix(LABEL_PREFIX)
        for name in columns
        if isinstance(name, str) and name.startswith(LABEL_PREFIX)
    }


def further_columns(columns):
    """Return, as a list, those of `columns` that are neither the table's own nor labels.

    Examples
    --------
    >>> further_columns(["tumor_id", "label_type", "visit", "volume_mm3"])
    ['visit', 'volume_mm3']
    """
    known = {*OWN_COLUMNS, *label_columns(columns)}
    return [name for name in columns if name not in known]


def known_measures(cells):
    """Return further cells without missing measures, and then without where measures came from.

    What is left out is measured anew on first use.

    Parameters
    ----------
    cells : dict
        Column → value.

    Raises
    ------
    ValueError
        If a measure is text.

    Examples
    --------
    >>> known_measures({"dose": 20, "volume_mm3": 5.0, "x_mm": None, "measured_from": "mask"})
    {'dose': 20, 'volume_mm3': 5.0}
    """
    missing = {name for name in MEASURES if name in cells and is_missing(cells[name])}
    for name in MEASURES:
        if isinstance(cells.get(name), str):
            raise ValueError(
                f"The column '{name}' must hold numbers. Got '{cells[name]}'. Leave the column out, and it "
                "is measured anew."
            )
    dropped = {*missing, MEASURED_FROM} if missing else set()
    return {name: value for name, value in cells.items() if name not in dropped}


def clean_label(value, task):
    """Return a label of a task as text; None where it is missing or blank.

    Raises
    ------
    ValueError
        If it has several lines.

    Examples
    --------
    >>> clean_label("glioma", "type"), clean_label(2, "grade"), clean_label(" ", "type")
    ('glioma', '2', None)
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    return check_text(str(value), f"label of task '{task}'")


def box_of(row):
    """Return the box of a row as nested lists of float (2, 3); None where all six cells are missing.

    Parameters
    ----------
    row : mapping
        Column → number or text.

    Raises
    ------
    ValueError
        If a cell is missing or no number while another is there.

    Examples
    --------
    >>> box_of({"x0": 1, "y0": "2", "z0": 3, "x1": 4, "y1": 5, "z1": 6})
    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    """
    cells = [row.get(name) for name in BOX_COLUMNS]
    cells = ["" if is_missing(cell) else cell for cell in cells]
    if all(cell == "" for cell in cells):
        return None
    try:
        numbers = [float(cell) for cell in cells]
    except (TypeError, ValueError) as err:
        got = ", ".join(repr(cell) for cell in cells)
        raise ValueError(
            f"The box {', '.join(BOX_COLUMNS)} must be six whole numbers, or empty. Got {got}."
        ) from err
    return [numbers[:3], numbers[3:]]
