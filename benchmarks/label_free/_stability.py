"""Whether the neighbors of a tumor stay when scan or box are a little different."""

import numpy as np
import pandas as pd

from benchmarks._checks import check_choice, check_integer, check_real
from benchmarks.label_free._perturb import PERTURBATIONS, perturb
from benchmarks.label_free._scans import check_cohort, distances_to_others, embed, embed_by_case
from tumorsim.evaluation import interval, neighbors_of_other_patients, patient_weights
from tumorsim.metrics import neighbor_overlap_at_k
from tumorsim.records import Cohort

__all__ = ["evaluate_rescan", "evaluate_stability"]

RESCAN = ("shifted_slices", "field_of_view", "field_of_view_40", "stripped")


def evaluate_stability(
    embedder, cohort, kinds=PERTURBATIONS, *, n_neighbors=10, min_diameter_mm=10.0, random_state=0
):
    """Compare the neighbors of perturbed tumors with those of the undisturbed ones.

    The gallery holds the undisturbed tumors of all other patients.

    Parameters
    ----------
    embedder : object with ``transform(tumors)``
        Distances are those of its ``space_``, if it has one.
    cohort : Cohort or sequence of Tumor
        Labels are not used. One perturbed scan at a time is in memory.
    kinds : sequence of str, optional
        Of `perturb`; default all.
    n_neighbors : int, default=10
        At most the number of tumors of other patients.
    min_diameter_mm : float, default=10.0
        Smaller tumors are in the gallery but are no queries.
    random_state : int, default=0
        Seed of the perturbations and of the bootstrap over patients (1,000 resamples).

    Returns
    -------
    DataFrame
        One row per ``kind``: ``overlap``, the median over tumors of the share of neighbors that stay, its
        95 % interval ``ci_low``, ``ci_high``, its 5th and 25th percentile ``p5`` and ``p25``; ``chance``, the
        mean overlap of two random lists; ``relative_distance``, the mean distance to the undisturbed tumor
        over its median distance to tumors of other patients; ``n_neighbors``, ``n_tumors``, ``n_patients``.

    Raises
    ------
    ValueError
        If a kind is unknown, there is one patient, or no tumor is large enough.

    Notes
    -----
    With a gallery hardly larger than `n_neighbors` any embedder passes: look at ``chance``. An embedder that
    sees nothing but the place of the box passes too; stability says nothing of what neighbors have in common.
    """
    kinds = [
        check_choice(kind, "kinds", PERTURBATIONS) for kind in ([kinds] if isinstance(kinds, str) else kinds)
    ]
    n_neighbors = check_integer(n_neighbors, "n_neighbors", minimum=1)
    min_diameter_mm = check_real(min_diameter_mm, "min_diameter_mm")
    cohort = check_cohort(cohort)
    patients = cohort.patient_ids.astype(str)
    large = np.flatnonzero(cohort.table["diameter_mm"].to_numpy(dtype=float) >= min_diameter_mm)
    if not len(large):
        raise ValueError(f"'cohort' must hold a tumor of at least {min_diameter_mm} mm. Got none.")
    X = embed(embedder, cohort)
    typical = distances_to_others(cohort, X)[1][large]
    n_others = np.array([(patients != patients[row]).sum() for row in large])
    k = min(n_neighbors, int(n_others.min()))
    before = neighbors_of_other_patients(X, patients, X[large], patients[large], k)
    weights = patient_weights(patients[large], random_state)
    queries = Cohort(cohort[int(row)] for row in large)
    rows = []
    for kind in kinds:

        def change(tumors, kind=kind):
            return list(perturb(tumors, kind, random_state=random_state))

        Y = embed_by_case([embedder], queries, change)[0][:, 0]
        after = neighbors_of_other_patients(X, patients, Y, patients[large], k)
        overlap = np.array([neighbor_overlap_at_k(a, b, k) for a, b in zip(before, after, strict=True)])
        found = interval(_weighted_median(overlap, weights))
        low, quarter = np.percentile(overlap, (5, 25))
        moved = np.linalg.norm(Y - X[large], axis=1) / np.where(typical > 0, typical, np.nan)
        rows.append(
            {
                "kind": kind,
                "overlap": found["value"],
                "ci_low": found["ci_low"],
                "ci_high": found["ci_high"],
                "p5": float(low),
                "p25": float(quarter),
                "chance": float(np.mean(k / n_others)),
                "relative_distance": float(np.mean(moved)),
                "n_neighbors": k,
                "n_tumors": len(large),
                "n_patients": len(set(patients[large])),
            }
        )
    return pd.DataFrame(rows)


def evaluate_rescan(embedder, cohort, *, n_neighbors=5, min_diameter_mm=10.0, random_state=0):
    """Run `evaluate_stability` on what differs between two scans of one day: slices, field of view, skull.

    Slices lie 3 mm up or down, the field of view ends 20 and 40 mm earlier, and the skull is removed.

    Parameters
    ----------
    embedder, cohort, n_neighbors, min_diameter_mm, random_state
        As in `evaluate_stability`.

    Returns
    -------
    DataFrame
        As `evaluate_stability`.
    """
    return evaluate_stability(
        embedder,
        cohort,
        RESCAN,
        n_neighbors=n_neighbors,
        min_diameter_mm=min_diameter_mm,
        random_state=random_state,
    )


def _weighted_median(values, weights):
    """Return the median of `values` (n,) as if value i occurred weights[:, i] times, (n_weightings,)."""
    order = np.argsort(values, kind="stable")
    values, total = values[order], np.cumsum(weights[:, order], axis=1)
    half = total[:, -1:] / 2
    return (values[(total >= half).argmax(axis=1)] + values[(total > half).argmax(axis=1)]) / 2
