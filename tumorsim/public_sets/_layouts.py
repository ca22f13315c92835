"""`Layout`: how a public data set names its files; the sets are listed in layouts.toml."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True)
class Layout:
    """One public data set.

    Names are regular expressions or templates over the groups ``case``, ``patient`` and ``visit`` that
    `images` find. All paths are below the root that the user gives, with ``/``; letter case does not count.
    """

    title: str
    images: tuple  # regular expressions of T1c files, matched at a path's end, from the start of a name
    masks: tuple = ()  # templates relative to the image's folder, without suffix; the first there is counts
    overlay: str = ""  # template of folder and name of a mask that replaces it, in any place
    type: str = ""  # label_type of every tumor
    mask_value: str = ">0"
    license: str = ""
    patient_id: str = "{patient}"
    case_id: str = "{case}"
    within: str = ""  # regular expression that the path must hold for 'auto' to take it for this set
    special: tuple = ()  # (regular expression of case ids, cells that differ there)
    tables: tuple = ()  # names of tables, with * and ?; a row is joined by the case, else the patient
    key: str = ""  # column of these tables that holds the id; without one, that whose values are ids
    key_id: str = ""  # template of the id in `key`, where it is not case_id or patient_id
    overlaps: tuple = ()  # (layout, regular expression of case ids here): patients of it under other ids
    reader: str = ""  # function of `_readers` that makes the rows, where files must be converted


def _read():
    """Return the name of each set → its `Layout`, as layouts.toml lists them."""
    text = files("tumorsim").joinpath("public_sets/layouts.toml").read_text(encoding="utf-8")
    return {
        name: Layout(**{field: tuple(v) if isinstance(v, list) else v for field, v in fields.items()})
        for name, fields in tomllib.loads(text).items()
    }


LAYOUTS = _read()
