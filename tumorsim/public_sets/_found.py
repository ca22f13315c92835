"""`Layout`: how a public data set names its files (see layouts.toml); `Found`: its cases below a folder."""

import os
import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

__all__ = ["LAYOUTS", "Found", "Layout", "Match", "NoPlaceError"]


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
    stripped: bool = False  # whether the scans are published without skull
    reader: str = ""  # function of `_readers` that makes the rows, where files must be converted


def _read():
    """Return the name of each set → its `Layout`, as layouts.toml lists them."""
    text = files("tumorsim").joinpath("public_sets/layouts.toml").read_text(encoding="utf-8")
    return {
        name: Layout(**{field: tuple(v) if isinstance(v, list) else v for field, v in fields.items()})
        for name, fields in tomllib.loads(text).items()
    }


LAYOUTS = _read()


class NoPlaceError(ValueError):
    """Files must be converted, and there is no folder for them."""


@dataclass
class Match:
    """One file that was recognized: its path below the root, and the groups of its name."""

    path: str
    groups: dict


@dataclass
class Found:
    """The cases of one set below a root; `files` maps lower-case paths below the root to true ones."""

    name: str
    layout: Layout
    root: Path
    files: dict
    matches: list
    folder: Path | None  # for converted files
    progress: bool = False

    def __post_init__(self):
        """Keep one file per case: that of the smallest collection, as corrected cases come alone."""
        crowd = {}
        for match in self.matches:
            crowd[_collection(match.path)] = crowd.get(_collection(match.path), 0) + 1
        self.matches.sort(key=lambda m: (crowd[_collection(m.path)], m.path.endswith(".nii"), m.path))
        kept, self.repeated = {}, []
        for match in self.matches:
            case_id = self.layout.case_id.format(**match.groups)
            first = kept.setdefault(case_id, match)
            if first.path.removesuffix(".gz") != match.path.removesuffix(".gz"):  # not packed and unpacked
                problem = f"case '{case_id}' is there twice; took '{first.path}', not '{match.path}'"
                self.repeated.append(
                    self.cells(match) | {"image": self.absolute(match.path), "problem": problem}
                )
        self.matches = sorted(kept.values(), key=lambda m: self.layout.case_id.format(**m.groups))

    def absolute(self, path):
        """Return a path below the root as an absolute one."""
        return os.path.join(os.path.realpath(self.root), *path.split("/"))

    def beside(self, match, template):
        """Return the absolute path of the NIfTI file that `template` names from a match's folder, or None."""
        base = os.path.normpath(os.path.join(os.path.dirname(match.path), template.format(**match.groups)))
        for suffix in (".nii.gz", ".nii"):
            path = self.files.get((base.replace(os.sep, "/") + suffix).lower())
            if path is not None:
                return self.absolute(path)
        return None

    @cached_property
    def _tails(self):
        """Folder and name, in lower case, of every file → its path below the root."""
        return {"/".join(low.split("/")[-2:]): path for low, path in self.files.items()}

    def overlaid(self, match):
        """Return the absolute path of the mask that replaces a match's own, or None."""
        for suffix in (".nii.gz", ".nii") if self.layout.overlay else ():
            path = self._tails.get(f"{self.layout.overlay.format(**match.groups)}{suffix}".lower())
            if path is not None:
                return self.absolute(path)
        return None

    def cells(self, match):
        """Return the cells that every row of this set has."""
        layout = self.layout
        cells = {
            "patient_id": layout.patient_id.format(**match.groups),
            "case_id": layout.case_id.format(**match.groups),
            "image": "",
            "mask": "",
            "mask_value": layout.mask_value,
            "label_type": layout.type,
            "dataset": self.name,
            "visit": match.groups.get("visit") or "",
            "license": layout.license,
        }
        for pattern, other in layout.special:
            if re.match(pattern, cells["case_id"], re.I):
                cells |= other
        return cells

    def bare_rows(self):
        """Return a row for each case that names only the file it was recognized by."""
        return [self.cells(match) | {"image": self.absolute(match.path)} for match in self.matches]

    def plain_rows(self):
        """Return a row for each case whose image and mask can be read as they are."""
        rows = []
        for match in self.matches:
            row = self.cells(match) | {"image": self.absolute(match.path)}
            own = (self.beside(match, template) for template in self.layout.masks)
            mask = self.overlaid(match) or next((path for path in own if path), None)
            if mask is None:
                wanted = " or ".join(f"'{t.format(**match.groups)}.nii.gz'" for t in self.layout.masks)
                row["problem"] = f"case '{row['case_id']}' has no mask: {wanted} is not beside '{match.path}'"
            row["mask"] = mask or ""
            rows.append(row)
        return rows

    def target(self, name):
        """Return the path of a converted file `name`; ``NoPlaceError`` if there is no folder for it."""
        if self.folder is None:
            raise NoPlaceError(
                f"'{self.name}' must be converted to NIfTI, and that needs a place. Give load_dataset an "
                "'output', a manifest to write; the files go into a folder beside it."
            )
        return self.folder / self.name / name


def _collection(path):
    """Return the folder that holds the case's folder."""
    return os.path.dirname(os.path.dirname(path))
