"""Tests on real scans that need no labels, for every method alike, and what they must be compared with."""

import numpy as np
import pandas as pd

from benchmarks.label_free import (
    evaluate_mirror,
    evaluate_other_date,
    evaluate_pattern,
    evaluate_rescan,
    evaluate_transplant,
)
from tumorsim.public_sets import LAYOUTS

__all__ = ["CONTROLS", "LESIONS", "control_table", "is_stripped", "label_free_table", "transplant_hosts"]

CONTROLS = ("untrained", "centroid only", "head correlation", "box sides", "chance")  # in this order below
LESIONS = {"min_volume_mm3": 100.0, "merge_distance_mm": 10.0}  # ragged post-operative rims are one lesion
N_HOSTS = 2
N_NEIGHBORS = 5
MIN_STRIPPED = 5  # patients: fewer have no neighbors to speak of
RANK = "mean_reciprocal_rank"
MIRROR = {  # measure of `evaluate_mirror` → task
    "sides_flipped": "mirror: side flips",
    "types_unchanged": "mirror: type stays",
    "neighbor_types_unchanged": "mirror: neighbors' type stays",
    "log_volume_change": "mirror: volume changes",
    "log_volume_spread": "mirror: volume's spread",
    "relative_distance": "mirror: distance",
}


def label_free_table(estimator, cohort):
    """Return what the tests say of one fitted method.

    Parameters
    ----------
    estimator : object with ``transform(tumors)``
    cohort : Cohort

    Returns
    -------
    DataFrame
        ``method`` (empty: the estimator itself; else a control), ``task``, ``metric``, ``k``, ``value``,
        ``ci_low``, ``ci_high``, ``n_patients``, and ``why``: a test that this method cannot take has no value
        but a reason.
    """
    stripped = is_stripped(cohort)
    whole, bare = cohort[~stripped], cohort[stripped]
    parts = [(whole, "")]
    if len(set(bare.patient_ids)) >= MIN_STRIPPED:
        parts.append((bare, ", stripped"))
    tests = [("other date", _other_date, cohort), ("other date: mirrored box", _mirrored_box, cohort)]
    tests += [("transplant", _transplant, whole), ("pattern", _pattern, cohort)]
    for part, suffix in parts:
        tests += [(f"mirror{suffix}", _mirror, part, suffix), (f"rescan{suffix}", _rescan, part, suffix)]
    rows = []
    for task, test, *arguments in tests:
        try:
            rows += test(_comparable(estimator), *arguments)
        except (TypeError, ValueError) as err:  # no mask in a mirrored box, say
            rows.append({"task": task, "why": f"{type(err).__name__}: {err}"})
    columns = ["method", "task", "metric", "k", "value", "ci_low", "ci_high", "n_patients", "why"]
    return pd.DataFrame([{"method": "", "why": ""} | row for row in rows]).reindex(columns=columns)


def control_table(cohort):
    """Return the ranks of the other date that take no method: by place, and by the head around the tumor."""
    names = ("centroid only", "head correlation")
    found = evaluate_other_date(_Nothing(), cohort, controls=names, n_untrained=0).set_index("method")
    return pd.DataFrame(
        {"method": name, "task": "other date", "metric": RANK, "value": found.loc[name, RANK]}
        | {"n_patients": _n_dated(cohort), "why": ""}
        for name in names
    )


def _other_date(estimator, cohort):
    """Return the rank of the other date, and that of a random ranking."""
    row = evaluate_other_date(estimator, cohort, controls=False).iloc[0]
    return _ranked("other date", row[RANK], row["chance"], _n_dated(cohort))


def _mirrored_box(estimator, cohort):
    """Return the rank that the healthy side of the same head has."""
    table = evaluate_other_date(estimator, cohort, controls=("mirrored box",), n_untrained=0)
    row = table.set_index("method").loc["mirrored box"]
    return _ranked("other date: mirrored box", row[RANK], row["chance"], _n_dated(cohort))


def _transplant(estimator, whole):
    """Return ranks in one head, mean over hosts, by equal and by own boxes, and across heads."""
    table = evaluate_transplant(estimator, whole, transplant_hosts(whole), n_untrained=0)
    n = _n_dated(whole[np.array([tumor.case.has_mask for tumor in whole])])
    same = table["query_host"] == table["gallery_host"]
    rows = []
    for task, method, chosen in (
        ("transplant", "equal box", same),
        ("transplant: own box", "tumor box", same),
        ("transplant: own box", "box sides", same),
        ("transplant: another head", "equal box", ~same),
    ):
        part = table[chosen & (table["method"] == method)]
        if len(part):
            found = _ranked(task, part[RANK].mean(), part["chance"].mean(), n)
            rows += [found[0] | ({"method": method} if method == "box sides" else {}), *found[1:]]
    return rows


def _mirror(estimator, cohort, suffix):
    """Return what changes with the side; types say nothing where all tumors have one."""
    n_types = cohort.table.get("label_type", pd.Series(dtype=object)).nunique()
    return [
        row | {"task": MIRROR[row["measure"]] + suffix, "metric": row["measure"]}
        for row in evaluate_mirror(estimator, cohort, n_neighbors=N_NEIGHBORS).to_dict("records")
        if row["measure"] != "neighbor_types_unchanged" or n_types > 1
    ]


def _rescan(estimator, cohort, suffix):
    """Return the neighbors that stay in a second scan, of each kind, and their mean."""
    table = evaluate_rescan(estimator, cohort, n_neighbors=N_NEIGHBORS)
    rows = []
    for row in table.to_dict("records"):
        task = f"rescan: overlap@{N_NEIGHBORS}, {row['kind'].replace('_', ' ')}{suffix}"
        rows.append(row | {"task": task, "value": row["overlap"]})
    mean = {"task": f"rescan: overlap@{N_NEIGHBORS}{suffix}", "n_patients": table["n_patients"].iloc[0]}
    rows.append(mean | {"value": table["overlap"].mean()})
    rows.append(mean | {"value": table["chance"].mean(), "method": "chance"})
    k = int(table["n_neighbors"].iloc[0])
    return [row | {"metric": "overlap_at_k", "k": k} for row in rows]


def _pattern(estimator, cohort):
    """Return whether neighbors enhance alike, given size and place."""
    row = evaluate_pattern(estimator, cohort, n_untrained=0).iloc[0].to_dict()
    tasks = {"partial_correlation": "pattern: partial Mantel r", "p_value": "pattern: p"}
    fixed = {"n_patients": row["n_patients"]}
    return [fixed | {"task": task, "metric": name, "value": row[name]} for name, task in tasks.items()]


def _ranked(task, value, chance, n_patients):
    """Return the rows of a mean reciprocal rank and of its chance level."""
    fixed = {"task": task, "metric": RANK, "n_patients": n_patients}
    return [fixed | {"value": value}, fixed | {"method": "chance", "value": chance}]


def _n_dated(cohort):
    """Return how many patients have scans of several dates."""
    return int((cohort.table.groupby("patient_id")["case_id"].nunique() > 1).sum())


def is_stripped(cohort):
    """Tell which tumors lie in scans without skull, bool (n,).

    What the column ``stripped`` says counts. Where it says nothing, the data set does: by what is known of
    the public sets, else whether its name holds ``BraTS``.
    """
    table = cohort.table
    empty = pd.Series("", table.index)
    names = table.get("dataset", empty).astype(str).str.lower()
    known = {key.lower(): layout.stripped for name, layout in LAYOUTS.items() for key in (name, layout.title)}
    by_name = {name: known.get(name, "brats" in name) for name in names.unique()}
    told = table.get("stripped", empty).fillna("").astype(str).str.strip().str.lower()
    return np.where(told == "", names.map(by_name), told.isin(("true", "1", "1.0", "yes"))).astype(bool)


def transplant_hosts(cohort, n_hosts=N_HOSTS):
    """Return the heads of patients with one date that have the least tumor of their own."""
    table = cohort.table
    single = table.groupby("patient_id")["case_id"].transform("nunique") == 1
    volume = table[single].groupby("case_id")["volume_mm3"].sum().sort_values(kind="stable")
    cases = {case.case_id: case for case in cohort.cases}
    return [cases[name] for name in volume.index[:n_hosts]]


def _comparable(estimator):
    """Return an estimator whose rows Euclidean distance compares.

    Raises
    ------
    TypeError
        If it looks at ids only, or compares otherwise.
    """
    from benchmarks.baselines import ForestCodes, RandomVectors

    if isinstance(estimator, RandomVectors):
        raise TypeError("It draws by tumor id, and sees nothing of a scan; look at chance.")
    if isinstance(estimator, ForestCodes):
        return _Leaves(estimator)
    metric = getattr(estimator, "metric", "euclidean")
    if metric != "euclidean":
        raise TypeError(f"These tests compare by Euclidean distance. Got '{metric}'.")
    return estimator


class _Leaves:
    """Forest codes as indicators: Euclidean distance is the root of how many codes differ, times 2."""

    def __init__(self, forest):
        self._forest = forest
        trees = [tree for part in forest.forests_.values() for tree in part.estimators_]
        self._leaves = np.arange(max(tree.tree_.node_count for tree in trees))

    def transform(self, tumors):
        """Return one column per tree and leaf."""
        codes = self._forest.transform(tumors)
        return (codes[:, :, None] == self._leaves).reshape(len(codes), -1).astype(np.float32)


class _Nothing:
    """An embedder that knows nothing, where only controls are computed."""

    def transform(self, tumors):
        """Return zeros."""
        return np.zeros((len(tumors), 1))
