"""Tumors with class numbers → prepared scans, as training reads them."""

import tumorsim
from tumorsim._validation import check_mask_value
from tumorsim.exceptions import CohortError
from tumorsim.geometry import select_mask
from tumorsim.records import group_by_case
from tumorsim.training._patches import TrainingCase
from tumorsim.training._prefetch import prefetch_scans

__all__ = ["describe_cases", "describe_data", "load_training_cases"]


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
    volumes = prefetch_scans(prepare, groups, n_jobs=n_jobs, description="preparing", verbose=verbose)
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


def describe_data(tumors):
    """Return what a model file says of the tumors that it was trained on; a dict that JSON can hold."""
    return {
        "n_tumors": len(tumors),
        "n_scans": len(group_by_case(tumors)),
        "n_patients": len({t.patient_id for t in tumors}),
        "data": sorted({dataset_of(t) for t in tumors}),
        "licenses": sorted({str(t.metadata["license"]) for t in tumors if t.metadata.get("license")}),
        "tumorsim": tumorsim.__version__,
    }


def dataset_of(tumor):
    """Return the name of a tumor's data set, ``"unnamed"`` where it has none."""
    return str(tumor.metadata.get("dataset", "unnamed"))


def _tumor_voxels(tumors, mask):
    """Return as bool (nx, ny, nz) all voxels of the values that these tumors of one case select."""
    values = {check_mask_value(t.mask_value) for t in tumors}
    return select_mask(mask, None if None in values else tuple(sorted(set().union(*values))))
