"""Tumors with class numbers → prepared scans, as training reads them; the one prefetch, in threads."""

import hashlib
import secrets
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import distributed
from tqdm import tqdm

import tumorsim
from tumorsim._validation import check_mask_value
from tumorsim.exceptions import CohortError
from tumorsim.geometry import select_mask
from tumorsim.nn import n_processes, process_rank
from tumorsim.records import group_by_case
from tumorsim.training._patches import TrainingCase

_SALT_BYTES, _HASH_DIGITS = 8, 16


def load_training_cases(tumors, codes, preprocessing, *, cache, n_jobs, verbose):
    """Prepare scans of tumors with class numbers (n_tumors, n_tasks); a `CohortError` lists all that fail."""

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
                values = {check_mask_value(tumors[row].mask_value) for row in rows}
                mask = select_mask(mask, None if None in values else tuple(sorted(set().union(*values))))
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
    ids = [[case.patient_id, case.case_id, case.volume.mask is not None] for case in cases]
    return [[*own, c.boxes.tolist(), c.labels.tolist()] for own, c in zip(ids, cases, strict=True)]


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
    found = np.zeros(len(tumors), dtype=bool)
    for rows in group_by_case(tumors):
        case = tumors[rows[0]].case
        found[rows] = any(_hash(salt, case) in hashes for salt, hashes in known.items())
    return found


def _hash(salt, case):
    """Return the salted hash of a scan's voxels."""
    return hashlib.sha256(f"{salt}{case.voxel_key}".encode()).hexdigest()[:_HASH_DIGITS]


def dataset_of(tumor):
    """Return the name of a tumor's data set, ``"unnamed"`` where it has none."""
    return str(tumor.metadata.get("dataset", "unnamed"))


def prefetch(make, items, *, n_jobs, torch_threads=None):
    """Yield ``make(item)`` in order, computed in threads; at most ``n_jobs + 1`` results wait at once.

    Close the generator to stop early. In each thread torch uses `torch_threads`; None: as elsewhere.
    """
    before = torch.get_num_threads()
    initializer = None if torch_threads is None else torch.set_num_threads
    pool = ThreadPoolExecutor(n_jobs, initializer=initializer, initargs=(torch_threads,))
    coming = iter(items)
    try:
        waiting = deque(pool.submit(make, item) for item in islice(coming, n_jobs + 1))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(coming, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if torch_threads is not None:
            torch.set_num_threads(before)  # of threads to come, too


def prefetch_scans(make, scans, *, n_jobs, description, verbose):
    """Iterate over ``make(scan)`` in order through `prefetch`, with a progress bar if `verbose`."""
    shown = verbose and len(scans) > 1 and process_rank() == 0
    made = prefetch(make, scans, n_jobs=n_jobs)
    return tqdm(made, description, total=len(scans), unit="scan", disable=None if shown else True)
