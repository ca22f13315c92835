"""Argument checks with one wording: the rule, then what was got, then the remedy."""

import dis
import numbers
import re
import traceback
import unicodedata
from importlib import import_module
from pathlib import Path

import numpy as np

from tumorsim.exceptions import BoxError

_ROOT = Path(__file__).parent
_TEMPORARY = re.compile(r"\.([^/\\'\"\s]+?)-[a-z0-9_]{8}((?:\.\w+){0,2})(?=['\"\s:]|$)")  # of io.atomic_path
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory")  # torch's words


def check_integer(value, name, *, minimum=None, allow_none=False):
    """Return `value` as int, or raise ``ValueError``/``TypeError`` that names the parameter."""
    if value is None and allow_none:
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"Parameter '{name}' must be an integer. Got {value!r}.")
    if minimum is not None and value < minimum:
        raise ValueError(f"Parameter '{name}' must be at least {minimum}. Got {value!r}.")
    return int(value)


def check_real(value, name, *, minimum=None, maximum=None, exclusive=False, allow_none=False):
    """Return `value` as float within [minimum, maximum] (`exclusive`: greater than minimum)."""
    if value is None and allow_none:
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"Parameter '{name}' must be a number. Got {value!r}.")
    value = float(value)
    if not np.isfinite(value):
        raise ValueError(f"Parameter '{name}' must be finite. Got {value!r}.")
    if minimum is not None and (value <= minimum if exclusive else value < minimum):
        rule = "greater than" if exclusive else "at least"
        raise ValueError(f"Parameter '{name}' must be {rule} {minimum}. Got {value!r}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"Parameter '{name}' must be at most {maximum}. Got {value!r}.")
    return value


def check_choice(value, name, choices):
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"Parameter '{name}' must be one of {listed}. Got {value!r}.")
    return value


def check_text(value, name):
    """Return `value` as a non-empty string without line breaks; ids and labels are text."""
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be text. Got {value!r}; convert it with str().")
    if not value.strip() or any(c in value for c in "\r\n\0"):
        raise ValueError(f"'{name}' must be non-empty text on one line. Got {value!r}.")
    return value


def counted(n, noun):
    """Return ``1 tumor``, ``2 tumors``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def install_hint(extra):
    """Return how to install an extra of tumorsim: it is in no package registry, so from a clone."""
    return f"Run pip install '.[{extra}]' in your clone of tumorsim."


def import_extra(module, user, extra):
    """Return a module of an extra, which `user` needs, or say how to install it."""
    try:
        return import_module(module)
    except ImportError as err:
        raise ImportError(f"{user} needs {module.partition('.')[0]}. {install_hint(extra)}") from err


def printable(text, longest=300):
    """Return text of a file as a message can show it: control characters replaced, cut at `longest`."""
    shown = str(text)[: longest + 1]
    text = "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "\ufffd" for c in shown)
    return text if len(text) <= longest else text[:longest] + "…"


def is_missing(value):
    """Tell whether a cell holds nothing: None, NaN, or pandas' NA or NaT."""
    if value is None or type(value).__name__ == "NAType":
        return True
    try:
        return bool(value != value)  # only NaN and NaT differ from themselves
    except (TypeError, ValueError):
        return False


def check_pattern(value, name):
    """Return `value` as a compiled regular expression that takes upper and lower case alike."""
    try:
        return re.compile(value, re.IGNORECASE)
    except (re.error, TypeError) as err:
        raise ValueError(f"Parameter '{name}' must be a regular expression. Got {value!r}: {err}.") from err


def check_spacing(value, name="spacing"):
    """Return spacing in mm as a float64 array of shape (3,); a number means all three axes."""
    try:
        array = np.broadcast_to(np.asarray(value, dtype=np.float64), (3,)).copy()
    except (TypeError, ValueError) as err:
        raise ValueError(f"Parameter '{name}' must be one or three numbers in mm. Got {value!r}.") from err
    if not np.isfinite(array).all() or (array <= 0).any():
        raise ValueError(f"Parameter '{name}' must be greater than 0 mm on every axis. Got {value!r}.")
    return array


def check_box(bbox, *, shape=None, what="The box"):
    """Return `bbox` as int64 (2, 3), start before stop and inside `shape` if given, or raise ``BoxError``."""
    try:
        array = np.asarray(bbox)
    except ValueError:  # rows of unequal length
        array = np.empty(0)
    if array.shape != (2, 3):
        raise BoxError(f"{what} must have shape (2, 3): start and stop voxel. Got {bbox!r}.")
    numeric = np.issubdtype(array.dtype, np.number)
    if not numeric or not np.isfinite(array).all() or not np.array_equal(array, np.round(array)):
        raise BoxError(f"{what} must hold whole numbers of voxels. Got {array.tolist()}.")
    array = array.astype(np.int64)
    start, stop = (tuple(int(v) for v in row) for row in array)
    if (array[0] >= array[1]).any():
        raise BoxError(f"{what} must start before it stops on every axis. Got start {start}, stop {stop}.")
    if (array[0] < 0).any() or (shape is not None and (array[1] > np.asarray(shape)).any()):
        inside = "" if shape is None else f" of shape {tuple(int(n) for n in shape)}"
        rule = f"{what} must lie inside the image{inside}. Got start {start}, stop {stop}."
        raise BoxError(f"{rule} Check that it is in voxels of this image, not in mm.")
    return array


def check_mask_value(mask_value):
    """Parse `mask_value`: ``1``, ``"1"``, ``"1+3"`` or ``">0"`` → tuple of ints, or None for ``">0"``."""
    if mask_value is None or (isinstance(mask_value, str) and mask_value.replace(" ", "") == ">0"):
        return None
    if isinstance(mask_value, numbers.Real) and not isinstance(mask_value, bool):
        mask_value = str(mask_value)
    rule = "mask_value must be a positive integer, several joined by '+', or '>0'."
    try:
        parts = (part.strip().removesuffix(".0") for part in mask_value.split("+"))  # as tables write numbers
        values = tuple(sorted({int(part) for part in parts}))
    except (AttributeError, TypeError, ValueError) as err:
        raise ValueError(f"{rule} Got {mask_value!r}.") from err
    if values[0] <= 0:
        raise ValueError(f"{rule} Got {mask_value!r}; 0 is background.")
    return values


def check_fitted(estimator, attribute):
    """Raise scikit-learn's ``NotFittedError`` unless `estimator` has `attribute`."""
    if not hasattr(estimator, attribute):
        from sklearn.exceptions import NotFittedError

        name = type(estimator).__name__
        raise NotFittedError(f"This {name} is not fitted yet. Call 'fit' first, or load a saved one.")


def words_of(err):
    """Return whether the user can mend an error, and its text: tumorsim and the system speak to people."""
    text = re.sub(r"^\[\w+ \d+\] ", "", _TEMPORARY.sub(r"\1", str(err)))
    if isinstance(err, MemoryError) or (isinstance(err, RuntimeError) and _NO_MEMORY.search(text)):
        return True, f"Not enough memory. {text}".rstrip()
    return _is_worded(err), text or type(err).__name__


def _is_worded(err):
    """Tell whether tumorsim raised an error itself, here or in another process, or the system did."""
    if isinstance(err, OSError | ImportError) or type(err).__module__.startswith("tumorsim"):
        return True
    if not isinstance(err, TypeError | ValueError):
        return False
    last = err.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    if Path(code.co_filename).is_relative_to(_ROOT):  # not what an operation on arrays says of its own
        return code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    files = re.findall(r'File "(.+?)", line', "".join(traceback.format_exception_only(err.__cause__)))
    return bool(files) and Path(files[-1]).is_relative_to(_ROOT)  # joblib's text of the other process
