"""The tumors of a benchmark: simulated or given, split by patient in training, validation and test."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim.evaluation import split_patients
from tumorsim.io import content_key
from tumorsim.records import Case, Cohort, Tumor

__all__ = ["Data", "digest", "load_data", "load_real"]

N_TEST_HEADS = 4
CHUNK = 100  # patients; a killed simulation goes on with the next
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Data:
    """Tumors, and the side of the split that each is on.

    Attributes
    ----------
    cohort : Cohort
    split : ndarray of str, shape (n_tumors,)
        train, validation or test.
    description : dict
        What the data are, as JSON can hold it; results are cached under its digest.
    """

    cohort: Cohort
    split: np.ndarray
    description: dict

    def rows(self, name):
        """Return the row numbers of one side of the split."""
        return np.flatnonzero(self.split == name)


def digest(content, length=16):
    """Return a name for JSON-like content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:length]


def load_data(folder, preset, *, anatomies=None, manifest=None, split_seed=0, n_jobs=1, progress=False):
    """Return the tumors that networks are trained and tested on.

    Parameters
    ----------
    folder : Path
        Where simulated scans are kept.
    preset : Preset
    anatomies : str or Path, optional
        Folder of label maps of heads. Test patients are put into the last four, by name; all others into
        the rest and the template.
    manifest : str or Path, optional
        One row per tumor, instead of simulated patients. A column ``split`` (train, validation, test) is kept
        to; without one, patients are drawn.
    split_seed : int, default=0
    n_jobs : int, default=1
    progress : bool, default=False
    """
    if manifest is not None:
        from tumorsim.manifest import load_cohort

        cohort = load_cohort(manifest)
        return Data(
            cohort, split_of(cohort, split_seed), {"manifest": content_key(manifest), "split": split_seed}
        )
    heads = [] if anatomies is None else _heads(anatomies)
    description = {
        "n_patients": preset.n_patients,
        "spacing": preset.scan_spacing,
        "heads": {head.name: content_key(head)[:16] for head in heads},
        "split": split_seed,
    }
    cohort = _simulated(Path(folder), preset, heads, {"n_jobs": n_jobs, "progress": progress})
    return Data(cohort, split_of(cohort, split_seed), description)


def load_real(path, target, **options):
    """Return real scans of a scan table or a manifest, in the order of their case ids.

    A manifest of a scan table is written to `target`, with `options` of `build_manifest`.
    """
    from tumorsim.manifest import build_manifest, load_cohort

    header = pd.read_csv(path, nrows=0).columns
    if "tumor_id" in header:
        cohort = load_cohort(path)
    else:
        cohort = build_manifest(path, target, **options)
    return cohort[np.argsort(cohort.table["case_id"].to_numpy(dtype=str), kind="stable")]


def split_of(cohort, seed):
    """Return train, validation or test of each tumor, 60/20/20 by patient where the cohort does not say.

    Raises
    ------
    ValueError
        If the column ``split`` has other values, or puts a patient on two sides, or a side is empty.
    """
    patients = cohort.patient_ids.astype(str)
    given = np.array([_text(tumor.metadata.get("split")) for tumor in cohort], dtype="<U10")
    if (given == "").all():
        given[split_patients(patients, test_share=0.2, random_state=seed)[1]] = "test"
    given[given == ""] = "train"
    unknown = sorted(set(given) - set(SPLITS))
    if unknown:
        raise ValueError(f"Column 'split' must hold train, validation, test or nothing. Got {unknown}.")
    if not (given == "validation").any():
        rest = np.flatnonzero(given == "train")
        _, chosen = split_patients(patients[rest], test_share=0.25, random_state=seed)
        given[rest[chosen]] = "validation"
    sides = pd.Series(given).groupby(patients).nunique()
    if (sides > 1).any():
        raise ValueError(
            f"A patient must be on one side of the split. Got '{sides.idxmax()}' on {sides.max()} "
            f"({int((sides > 1).sum())} such patients)."
        )
    missing = [name for name in SPLITS if not (given == name).any()]
    if missing:
        raise ValueError(f"The split must leave tumors on every side. Got none for {', '.join(missing)}.")
    return given


def _text(value):
    """Return a cell as text, empty where it is missing."""
    return "" if pd.isna(value) else str(value)


def _heads(anatomies):
    """Return the label maps of a folder, sorted; enough of them to hold four back."""
    heads = sorted(p for p in Path(anatomies).iterdir() if p.name.endswith((".nii.gz", ".nii", ".nrrd")))
    if len(heads) <= N_TEST_HEADS:
        raise ValueError(
            f"'anatomies' must hold more than {N_TEST_HEADS} heads, since the last {N_TEST_HEADS} are kept "
            f"for testing. Got {len(heads)} in '{anatomies}'."
        )
    return heads


def _simulated(folder, preset, heads, options):
    """Return simulated patients from `folder`; those that are not there are made, chunk by chunk."""
    from tumorsim.manifest import load_cohort, save_manifest
    from tumorsim.simulation import make_cohort

    path = folder / "manifest.csv"
    if not path.exists():
        n_test = round(0.2 * preset.n_patients)
        parts = {
            "unseen": (n_test, 20_000, heads[-N_TEST_HEADS:]),
            "seen": (preset.n_patients - n_test, 10_000, [*heads[:-N_TEST_HEADS], "mni152"]),
        }
        tumors = []
        for part, (n, seed, anatomies) in parts.items():
            for chunk in range(-(-n // CHUNK)):
                made = folder / part / f"{chunk:03d}"
                if not (made / "manifest.csv").exists():
                    make_cohort(
                        min(CHUNK, n - chunk * CHUNK), random_state=seed + chunk,
                        spacing=preset.scan_spacing, anatomies=anatomies or None, output_dir=made, **options,
                    )  # fmt: skip
                split = {"split": "test"} if part == "unseen" else {}
                tumors += _renamed(load_cohort(made / "manifest.csv"), f"{part}-{chunk:03d}", split)
        save_manifest(Cohort(tumors), path)
    return load_cohort(path)


def _renamed(cohort, prefix, further):
    """Return tumors whose patients are told from those of other cohorts, with further columns."""
    cases = {
        id(case): Case(
            case.image, case.mask, case_id=f"{prefix}-{case.case_id}",
            patient_id=f"{prefix}-{case.patient_id}",
        )
        for case in cohort.cases
    }  # fmt: skip
    return [
        Tumor(
            cases[id(t.case)], t.bbox, tumor_id=f"{prefix}-{t.tumor_id}", labels=t.labels,
            mask_value=t.mask_value, metadata=t.metadata | further,
        )
        for t in cohort
    ]  # fmt: skip
