"""Tumors with class numbers → prepared scans, as training reads them."""

import hashlib
import secrets

import numpy as np
from torch import distributed

import tumorsim
from tumorsim._validation import check_mask_value
from tumorsim.exceptions import CohortError
from tumorsim.geometry import select_mask
from tumorsim.nn import n_processes, process_rank
from tumorsim.records import group_by_case
from tumorsim.training._patches import TrainingCase
from tumorsim.training._prefetch import prefetch_scans

__all__ = ["describe_cases", "describe_data", "find_trained", "hash_scans", "load_training_cases"]

_SALT_BYTES, _HASH_DIGITS = 8, 16


def load_training_cases(tumors, codes, preprocessing, *, cache, n_jobs, verbose):
    """Read and prepare every scan of tumors with class numbers (n_tumors, n_tasks): a list of `TrainingCase`.

    A `CohortError` lists every scan that cannot be used, with its file and the reason.
    """

    def prepare(rows):
        case = tumors[rows[0]].case
        try:
            for row in rows:
                tumors[row].check()
            mask = case.load_mask()
            if mask is not None:
                for row in rows:
                    if not tumors[row].select(mask).any():
                        tumors[row].measure(mask)  # raises, and names tumor, file and value
                mask = _tumor_voxels([tumors[row] for row in rows], mask)
            return preprocessing.prepare_case(case, mask=mask, cache=cache)
        except (ValueError, OSError) as err:
            where = case.image if isinstance(case.image, str) else "in memory"
            return f"case '{case.case_id}' ({where}): {err}"

    groups = group_by_case(tumors)
    shown = {"n_jobs": n_jobs, "description": "preparing", "verbose": verbose}
    if cache is not None and n_processes() > 1:  # each process fills its share of the cache
        for _ in prefetch_scans(prepare, groups[process_rank() :: n_processes()], **shown):
            pass
        distributed.barrier()
    volumes = prefetch_scans(prepare, groups, **shown)
    cases, problems = [], []
    for rows, volume in zip(groups, volumes, strict=True):
        if isinstance(volume, str):
            problems.append(volume)
            continue
        case = tumors[rows[0]].case
        boxes = volume.boxes([tumors[row].bbox for row in rows])
        dataset = dataset_of(tumors[rows[0]])
        cases.append(TrainingCase(volume, boxes, codes[rows], case.case_id, case.patient_id, dataset))
    if problems:
        raise CohortError("\n  ".join([f"{len(problems)} of {len(groups)} scans cannot be used:", *problems]))
    return cases


def describe_cases(cases):
    """Return what of `load_training_cases` a resumed run must find again; lists that JSON can hold."""
    return [
        [c.patient_id, c.case_id, c.volume.mask is not None, c.boxes.tolist(), c.labels.tolist()]
        for c in cases
    ]


def describe_data(tumors, initial=None):
    """Return what a model file says of the tumors that it was trained on; a dict that JSON can hold.

    `initial` is the same of the model that training began with; where it has no hashes of scans, neither has
    what is returned. Simulated patients are no scans of an archive, and are not among the hashed.
    """
    before = {} if initial is None else initial.get("scans")
    scans = hash_scans([t.case for t in tumors if dataset_of(t) != "simulated"])
    return {
        "n_tumors": len(tumors),
        "n_scans": len(group_by_case(tumors)),
        "n_patients": len({t.patient_id for t in tumors}),
        "data": sorted({dataset_of(t) for t in tumors}),
        "licenses": sorted({str(t.metadata["license"]) for t in tumors if t.metadata.get("license")}),
        "tumorsim": tumorsim.__version__,
    } | ({} if before is None else {"scans": before | scans})


def hash_scans(cases):
    """Return a new salt → the scans' salted hashes, sorted; an empty dict of no scans.

    A hash is the first 16 hexadecimal digits of the SHA-256 of salt and `Case.voxel_key`.
    """
    salt = secrets.token_hex(_SALT_BYTES)
    hashes = sorted({_hash(salt, case) for case in cases})
    return {salt: hashes} if hashes else {}


def find_trained(record, tumors):
    """Tell which tumors lie in scans of a training `record`: bool (n_tumors,), or None without hashes."""
    if record.get("scans") is None:
        return None
    known = {salt: set(hashes) for salt, hashes in record["scans"].items()}
    cases = {id(tumor.case): tumor.case for tumor in tumors}
    found = {
        key: any(_hash(salt, case) in hashes for salt, hashes in known.items()) for key, case in cases.items()
    }
    return np.array([found[id(tumor.case)] for tumor in tumors], dtype=bool)


def _hash(salt, case):
    """Return the salted hash of a scan's voxels."""
    return hashlib.sha256(f"{salt}{case.voxel_key}".encode()).hexdigest()[:_HASH_DIGITS]


def dataset_of(tumor):
    """Return the name of a tumor's data set, ``"unnamed"`` where it has none."""
    return str(tumor.metadata.get("dataset", "unnamed"))


def _tumor_voxels(tumors, mask):
    """Return as bool (nx, ny, nz) all voxels of the values that these tumors of one case select."""
    values = {check_mask_value(t.mask_value) for t in tumors}
    return select_mask(mask, None if None in values else tuple(sorted(set().union(*values))))
