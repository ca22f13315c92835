"""`Found`: the cases of one public data set below a folder, and the rows that they become."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tumorsim.datasets._layouts import Layout
from tumorsim.datasets._metadata import join_tables

__all__ = ["Found", "Match", "NoPlaceError"]


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
        """Keep one file a case: that of the smallest collection, as corrected cases come alone."""
        crowd = {}
        for match in self.matches:
            crowd[_collection(match.path)] = crowd.get(_collection(match.path), 0) + 1
        self.matches.sort(key=lambda m: (crowd[_collection(m.path)], m.path.endswith(".nii"), m.path))
        kept, self.repeated = {}, []
        for match in self.matches:
            case_id = self.layout.case_id.format(**match.groups)
            first = kept.setdefault(case_id, match)
            if first is not match and not self._same_case_other_file(first, match):
                problem = f"case '{case_id}' is there twice; took '{first.path}', not '{match.path}'"
                self.repeated.append(
                    self.cells(match) | {"image": self.absolute(match.path), "problem": problem}
                )
        self.matches = sorted(kept.values(), key=lambda m: self.layout.case_id.format(**m.groups))

    def _same_case_other_file(self, first, match):
        """Tell whether two files of a case are the same one, packed and unpacked, in one folder."""
        return first.path.removesuffix(".gz") == match.path.removesuffix(".gz")

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

    def below(self, pattern):
        """Return the absolute paths that match the regular expression `pattern` from a name's start on."""
        expression = re.compile(rf"(^|/){pattern}$", re.I)
        return [self.absolute(path) for path in self.files.values() if expression.search(path)]

    def cells(self, match):
        """Return what every row of this set tells of a case."""
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
            found = [self.beside(match, template) for template in self.layout.masks]
            if self.layout.overlay:
                name = re.escape(self.layout.overlay.format(**match.groups))
                found = [*self.below(rf"{name}\.nii(\.gz)?"), *found]
            mask = next((path for path in found if path), None)
            if mask is None:
                wanted = " or ".join(f"'{t.format(**match.groups)}.nii.gz'" for t in self.layout.masks)
                row["problem"] = f"case '{row['case_id']}' has no mask: {wanted} is not beside '{match.path}'"
            row["mask"] = mask or ""
            rows.append(row)
        return join_tables(rows, self)

    def target(self, name):
        """Return the path under which a converted file `name` is kept.

        Raises
        ------
        NoPlaceError
            If there is no folder for it.
        """
        if self.folder is None:
            raise NoPlaceError(
                f"'{self.name}' must be converted to NIfTI, and that needs a place. Give load_dataset an "
                "'output', a manifest to write; the files go into a folder beside it."
            )
        return self.folder / self.name / name


def _collection(path):
    """Return the folder that holds the case's folder."""
    return os.path.dirname(os.path.dirname(path))
