"""With the content of scans mirrored, sides must change and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks._checks import check_integer
from benchmarks.label_free._scans import (
    check_cohort,
    distances_to_others,
    embed,
    embed_by_case,
    read_scan,
    tumors_of,
)
from tumorsim.evaluation import interval, neighbors_of_other_patients, patient_weights
from tumorsim.records import Cohort, Tumor, group_by_case

__all__ = ["evaluate_mirror", "mirrored_content"]

SIDES = {"left": "right", "right": "left"}


def mirrored_content(cohort):
    """Return the same tumors in scans whose content is mirrored left to right under an unchanged header.

    Parameters
    ----------
    cohort : Cohort or sequence of Tumor

    Returns
    -------
    Cohort
        The same ids in the order given; masks and boxes follow, and labels ``left`` and ``right`` swap.
        Arrays are in memory: for many large scans, mirror a part of the cohort at a time.
    """
    cohort = check_cohort(cohort)
    made = [None] * len(cohort)
    for rows in group_by_case(cohort):
        for row, tumor in zip(rows, _mirrored([cohort[row] for row in rows]), strict=True):
            made[row] = tumor
    return Cohort(made)


def evaluate_mirror(embedder, cohort, *, n_neighbors=5, random_state=0):
    """Mirror every scan's content and look at what changes.

    Parameters
    ----------
    embedder : object with ``transform(tumors)``
        Its ``predict``, if it has one, gives sides and types.
    cohort : Cohort or sequence of Tumor
        One mirrored scan at a time is in memory.
    n_neighbors : int, default=5
        For type and volume by neighbors, undisturbed tumors of other patients.
    random_state : int, default=0
        Seed of the bootstrap over patients (1,000 resamples).

    Returns
    -------
    DataFrame
        One row per ``measure`` with ``value``, its 95 % interval ``ci_low``, ``ci_high``, ``n_tumors`` and
        ``n_patients``:

        - ``sides_flipped``: share of predicted sides that change; 1 is right. Where `embedder` predicts
          task ``hemisphere``.
        - ``types_unchanged``: share of predicted types that do not. Where it predicts ``type``.
        - ``neighbor_types_unchanged``: share of tumors whose neighbors' most frequent type stays. Where
          tumors have labels of it.
        - ``log_volume_change``: mean absolute change of the neighbors' mean logarithm of volume;
          ``log_volume_spread`` beside it: the standard deviation over tumors before.
        - ``relative_distance``: mean distance between mirrored pairs over the median distance to tumors of
          other patients.

    Raises
    ------
    ValueError
        If there is one patient.

    Notes
    -----
    A network that knows sides must move a tumor in the embedding, so that a small ``relative_distance`` is
    not good in itself; near 1 the mirror image is as foreign as another tumor. The sides of tumors on the
    midline cannot flip.
    """
    k = check_integer(n_neighbors, "n_neighbors", minimum=1)
    cohort = check_cohort(cohort)
    table, patients = cohort.table, cohort.patient_ids.astype(str)
    X = embed(embedder, cohort)
    typical = distances_to_others(cohort, X)[1]
    recorder = _Recorder(embedder)
    Y = embed_by_case([recorder], cohort, _mirrored)[0][:, 0]

    measures = {}
    if hasattr(embedder, "predict"):
        order = [row for rows in group_by_case(cohort) for row in rows]
        before = embedder.predict(list(cohort))
        after = pd.concat(recorder.predicted, ignore_index=True)
        after.index = order
        after = after.sort_index()
        if "hemisphere" in before:
            measures["sides_flipped"] = after["hemisphere"] == before["hemisphere"].map(SIDES)
        if "type" in before:
            measures["types_unchanged"] = after["type"] == before["type"]
    near, far = (neighbors_of_other_patients(X, patients, Z, patients, min(k, len(X))) for Z in (X, Y))
    if "label_type" in table:
        types = table["label_type"].to_numpy(dtype=object)
        pairs = [(_most_frequent(types, a), _most_frequent(types, b)) for a, b in zip(near, far, strict=True)]
        known = [None not in pair for pair in pairs]
        measures["neighbor_types_unchanged"] = np.where(known, [a == b for a, b in pairs], np.nan)
    volume = np.log(table["volume_mm3"].to_numpy(dtype=float))
    predicted, moved = (np.array([volume[row[row >= 0]].mean() for row in rows]) for rows in (near, far))
    measures["log_volume_change"] = np.abs(moved - predicted)
    distance = np.linalg.norm(Y - X, axis=1)
    measures["relative_distance"] = distance / np.where(typical > 0, typical, np.nan)

    rows = [_mean_row(name, values, patients, random_state) for name, values in measures.items()]
    spread = {"measure": "log_volume_spread", "value": float(predicted.std()), "n_tumors": len(cohort)}
    return pd.DataFrame([*rows, spread | {"n_patients": len(set(patients))}])


class _Recorder:
    """An embedder that also notes what it predicts of the tumors that pass."""

    def __init__(self, embedder):
        self._embedder = embedder
        self.space_ = getattr(embedder, "space_", None)
        self.predicted = []

    def transform(self, tumors):
        """Return embeddings."""
        if hasattr(self._embedder, "predict"):
            self.predicted.append(self._embedder.predict(tumors))
        return self._embedder.transform(tumors)


def _mirrored(tumors):
    """Return the tumors of one case in a scan of mirrored content, RAS+ order."""
    scan = read_scan(tumors[0].case, [tumor.bbox for tumor in tumors])
    boxes = scan.boxes.copy()
    boxes[:, :, 0] = scan.image.shape[0] - scan.boxes[:, ::-1, 0]
    mask = None if scan.mask is None else np.ascontiguousarray(scan.mask[::-1])
    scan = replace(scan, image=np.ascontiguousarray(scan.image[::-1]), mask=mask, boxes=boxes)
    return [
        Tumor(
            tumor.case,
            tumor.bbox,
            tumor_id=tumor.tumor_id,
            labels={task: SIDES.get(value, value) for task, value in tumor.labels.items()},
            mask_value=tumor.mask_value,
            metadata=tumor.metadata,
        )
        for tumor in tumors_of(scan, tumors)
    ]


def _most_frequent(types, rows):
    """Return the most frequent type among rows, the nearer at a tie; None if none is known."""
    known = [types[row] for row in rows if row >= 0 and types[row] is not None and types[row] == types[row]]
    return max(known, key=known.count) if known else None


def _mean_row(name, values, patients, random_state):
    """Return the mean of a measure over tumors with its interval by patient."""
    values = np.asarray(values, dtype=float)
    known = ~np.isnan(values)
    row = {"measure": name, "value": np.nan, "ci_low": np.nan, "ci_high": np.nan}
    if known.any():
        weights = patient_weights(patients[known], random_state)
        row |= interval(weights @ values[known] / weights.sum(axis=1))
    return row | {"n_tumors": int(known.sum()), "n_patients": len(set(patients[known]))}
