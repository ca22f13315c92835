"""Text of options → arguments of functions."""

import csv
import re

_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|=|<|>)\s*(.*?)\s*")


def parse_where(texts, metadata):
    """Return conditions like ``type=meningioma`` or ``volume_mm3>=500`` as `where` of a search.

    Texts are ``column=value``, ``column=value,value`` (any of them), ``column=`` (missing), ``column!=`` (not
    missing), or with ``!=``, ``<``, ``<=``, ``>``, ``>=``. Several conditions on a column must all hold. A
    column of numbers in the index's `metadata` makes the value a number, one of booleans true or false.
    """
    parsed = {}
    for text in texts or ():
        match = _CONDITION.fullmatch(text)
        if match is None:
            rule = "A condition is a column, one of = != < <= > >=, and a value, such as 'type=meningioma'."
            raise ValueError(f"{rule} Got {text!r}.")
        column, operator, right = match.groups()
        values = [_value(part, column, metadata) for part in right.split(",")]
        if operator in ("=", "=="):
            condition = values if len(values) > 1 else ("==", values[0])
        elif len(values) > 1:
            raise ValueError(f"Only '=' takes several values. Got {text!r}.")
        else:
            condition = (operator, values[0])
        parsed.setdefault(column, []).append(condition)
    return {column: _joined(column, conditions) for column, conditions in parsed.items()} or None


def parse_aspects(texts):
    """Return ``type=1`` and the like as a dict of weights, "embedding" as it is, or None."""
    if texts and list(texts) == ["embedding"]:
        return "embedding"
    aspects = {}
    for text in texts or ():
        name, separator, weight = text.partition("=")
        try:
            aspects[name.strip()] = float(weight) if separator else 1.0
        except ValueError as err:
            raise ValueError(f"An aspect is a task and its weight, such as 'type=1'. Got {text!r}.") from err
    return aspects or None


def parse_exclude(text):
    """Return ``same_patient`` or ``same_case`` as it is, else a list of tumor ids; None without any."""
    return text if text in (None, "same_patient", "same_case") else split_names(text) or [text]


def parse_numbers(text, option):
    """Return ``1,5,10`` as a list of int."""
    try:
        return [int(number) for number in split_names(text) or ()]
    except ValueError as err:
        raise ValueError(f"{option} takes whole numbers such as 1,5,10. Got {text!r}.") from err


def parse_columns(text):
    """Return ``patient_id=MRN,"label_type=Type, WHO"`` as a dict of names, or None without any."""
    columns = {}
    for part in next(csv.reader([text or ""])):
        ours, sign, theirs = (side.strip() for side in part.partition("="))
        if not (ours and sign and theirs) or ours in columns:
            raise ValueError(f"--columns is NAME=COLUMN,… with each name once. Got {text!r}.")
        columns[ours] = theirs
    return columns or None


def split_names(text):
    """Return ``a,b`` as a list of names, or None without any."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return names or None


def _joined(column, conditions):
    """Return one condition, or the list of those that must all hold."""
    if len(conditions) == 1:
        return conditions[0]
    if any(isinstance(condition, list) for condition in conditions):
        raise ValueError(f"A list of values for '{column}' cannot be joined with further conditions on it.")
    return conditions


def _value(text, column, metadata):
    """Return a value as the column holds it: number, boolean or text; None if empty."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    text = text.strip()
    if not text:
        return None
    series = metadata[column] if column in metadata else metadata.get(f"label_{column}")
    if series is None:
        return text
    present = series.dropna()
    if is_bool_dtype(series) or (len(present) and all(isinstance(v, bool) for v in present)):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"Column '{column}' holds true or false. Got {text!r}.")
        return text.lower() == "true"
    if not is_numeric_dtype(series):
        return text
    try:
        return float(text)
    except ValueError as err:
        raise ValueError(f"Column '{column}' holds numbers. Got {text!r}.") from err
