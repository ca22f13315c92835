"""`Layout`: how a public data set names its files (see layouts.toml); `Found`: its cases below a folder."""

import os
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """One public data set.

    Names are regular expressions or templates over the groups ``case``, ``patient`` and ``visit`` that
    `images` find. All paths are below the root that the user gives, with ``/``; letter case does not count.
    """

    title: str
    images: tuple  # regular expressions of T1c files, matched at a path's end, from the start of a name
    masks: tuple = ()  # templates relative to a NIfTI image's folder, without suffix, '**/' for any folder;
    # the first there is counts
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
    reader: str = ""  # key of `_readers.READERS`, where files must be converted


@cache
def read_toml(name):
    """Return the content of a TOML file of this room."""
    return tomllib.loads(files("tumorsim").joinpath("public_sets", name).read_text(encoding="utf-8"))


LAYOUTS = {
    name: Layout(**{field: tuple(v) if isinstance(v, list) else v for field, v in fields.items()})
    for name, fields in read_toml("layouts.toml").items()
}


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
        crowd = Counter(_collection(match.path) for match in self.matches)
        self.matches.sort(key=lambda m: (crowd[_collection(m.path)], m.path.endswith(".nii"), m.path))
        kept, self.repeated = {}, []
        for match in self.matches:
            case_id = self.layout.case_id.format(**match.groups)
            first = kept.setdefault(case_id, match)
            if first.path.removesuffix(".gz") != match.path.removesuffix(".gz"):  # not packed and unpacked
                problem = f"case '{case_id}' is there twice; took '{first.path}', not '{match.path}'"
                self.repeated.append(self.row(match) | {"mask": "", "problem": problem})
        self.matches = [kept[case_id] for case_id in sorted(kept)]

    def absolute(self, path):
        """Return a path below the root as an absolute one."""
        return os.path.join(os.path.realpath(self.root), *path.split("/"))

    @cached_property
    def _tails(self):
        """Folder and name, in lower case, of every file → its path below the root."""
        return {"/".join(low.split("/")[-2:]): path for low, path in self.files.items()}

    def _mask(self, match):
        """Return the absolute path of a match's mask, or empty."""
        for template in self.layout.masks:
            name = template.format(**match.groups)
            files = self._tails if name.startswith("**/") else self.files
            if files is self.files:
                name = os.path.normpath(os.path.join(os.path.dirname(match.path), name)).replace(os.sep, "/")
            for suffix in (".nii.gz", ".nii"):
                path = files.get((name.removeprefix("**/") + suffix).lower())
                if path is not None:
                    return self.absolute(path)
        return ""

    def row(self, match):
        """Return the row of a match, with its image and, of a NIfTI image, its mask, or why it has none."""
        layout = self.layout
        row = {
            "patient_id": layout.patient_id.format(**match.groups),
            "case_id": layout.case_id.format(**match.groups),
            "image": self.absolute(match.path),
            "mask": "",
            "mask_value": layout.mask_value,
            "label_type": layout.type,
            "dataset": self.name,
            "visit": match.groups.get("visit") or "",
            "license": layout.license,
        }
        for pattern, other in layout.special:
            if re.match(pattern, row["case_id"], re.I):
                row |= other
        if layout.masks and match.path.lower().endswith((".nii.gz", ".nii")):
            row["mask"] = self._mask(match)
            if not row["mask"]:
                names = [t.format(**match.groups) for t in layout.masks if not t.startswith("**/")]
                wanted = " or ".join(f"'{name}.nii.gz'" for name in names)
                row["problem"] = f"case '{row['case_id']}' has no mask: {wanted} is not beside '{match.path}'"
        return row

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
