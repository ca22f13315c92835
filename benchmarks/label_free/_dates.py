"""Ranks of a tumor's own other date, beside those that the head alone would give."""

import numpy as np
import pandas as pd

from benchmarks._checks import check_choice, check_integer
from benchmarks.label_free._controls import HeadEdges, head_center, mirrored_box, untrained_copies
from benchmarks.label_free._scans import check_cohort, embed_by_case, largest_lesions

__all__ = ["date_queries", "evaluate_other_date", "method_row", "own_ranks", "pooled_row"]

CONTROLS = ("mirrored box", "centroid only", "head correlation", "untrained")


def evaluate_other_date(embedder, cohort, *, controls=True, n_untrained=8, random_state=0):
    """Rank, for each scan of a patient with several, the largest lesion of another date of the same patient.

    A tumor imaged at two dates lies in the same head at the same place, so a good rank alone shows nothing.
    Beside it stand the ranks that come without the tumor, or without learning.

    Parameters
    ----------
    embedder : object with ``transform(tumors)``
        Distances are those of its ``space_``, if it has one.
    cohort : Cohort or sequence of Tumor
        Dates are the ``case_id`` of a patient; the other patients are the other candidates.
    controls : bool or sequence of str, default=True
        Whether to add the rows other than ``tumor box``, or which of ``mirrored box``, ``centroid only``,
        ``head correlation`` and ``untrained``.
    n_untrained : int, default=8
        How many untrained networks; needs a `TumorEmbedder`. 0 leaves them out.
    random_state : int, default=0
        Seed of the first untrained network; the others follow.

    Returns
    -------
    DataFrame
        One row per ``method``:

        - ``tumor box``: the embedder.
        - ``mirrored box``: the embedder on the same box at the other side of the head.
        - ``centroid only``: place relative to the head's center, mm.
        - ``head correlation``: of edges on a grid of 4 mm, tumors of both heads blanked, centers aligned.
        - ``untrained 1`` and so on: networks of the same shape, tumor box; then their mean.

        ``mean_reciprocal_rank`` over queries; ``chance``, its expectation for a random ranking;
        ``tumor_minus_mirror``, that of the tumor box less that of the mirrored box, for networks;
        ``n_queries``, ``n_gallery``; then a column ``rank <case_id>`` for each query, 1 is best. Ties count
        against the method.

    Raises
    ------
    ValueError
        If no patient has scans of two dates, or there is no other patient.
    TypeError
        If untrained copies cannot be made of `embedder`.

    Notes
    -----
    The gallery of a query is the largest lesion by volume of every other scan, among them the other dates of
    the same patient, of which the best ranked counts. Where a tumor crosses the midline, its mirrored box
    holds tumor too, and the difference to it is too small.
    """
    n_untrained = check_integer(n_untrained, "n_untrained")
    chosen = (CONTROLS if controls else ()) if isinstance(controls, bool) else tuple(controls)
    for name in chosen:
        check_choice(name, "controls", CONTROLS)
    lesions = largest_lesions(check_cohort(cohort))
    queries = date_queries(lesions)
    seeds = range(random_state, random_state + n_untrained * ("untrained" in chosen))
    embedders = [embedder, *untrained_copies(embedder, lesions, seeds)]
    middle = np.array([head_center(tumor.case) for tumor in lesions]) if chosen else None

    changes = [list]
    if "mirrored box" in chosen:
        center = {tumor.tumor_id: place for tumor, place in zip(lesions, middle, strict=True)}
        changes.append(lambda tumors: [mirrored_box(t, center=center[t.tumor_id]) for t in tumors])
    rows, untrained = [], []
    for number, X in enumerate(embed_by_case(embedders, lesions, *changes)):
        name = "tumor box" if number == 0 else f"untrained {number}"
        found = [method_row(name, _distances(X[:, 0]), lesions, queries)]
        if len(changes) > 1:
            found.append(method_row("mirrored box", _distances(X[:, 1]), lesions, queries))
            own, healthy = (row["mean_reciprocal_rank"] for row in found)
            found[0]["tumor_minus_mirror"] = own - healthy
        if number == 0:
            rows += found
        else:
            untrained.append(found[0])
    if "centroid only" in chosen:
        place = lesions.table[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=float) - middle
        rows.append(method_row("centroid only", _distances(place), lesions, queries))
    if "head correlation" in chosen:
        distances = HeadEdges(lesions, middle).distances(queries)
        rows.append(method_row("head correlation", distances, lesions, queries))
    if untrained:
        rows += [*untrained, pooled_row(untrained, "untrained, mean")]
    return pd.DataFrame(rows, columns=_columns(rows))


def date_queries(lesions):
    """Return rows of `lesions`, one per scan, whose patient has another scan."""
    patients = lesions.patient_ids.astype(str)
    names, counts = np.unique(patients, return_counts=True)
    queries = np.flatnonzero(np.isin(patients, names[counts > 1]))
    if not len(queries) or len(names) < 2:
        raise ValueError(
            "'cohort' must hold a patient with scans of two dates (two case_ids), and another patient. Got "
            f"{len(lesions)} scans of {len(names)} patients."
        )
    return queries


def own_ranks(distances, patients, queries):
    """Return the rank of the nearest other scan of the same patient, int64 (n_queries,); ties count against.

    Parameters
    ----------
    distances : ndarray of shape (n, n)
        From query row to gallery row; the query's own row is left out.
    patients : ndarray of shape (n,)
    queries : ndarray of shape (n_queries,)
    """
    ranks = []
    for row in queries:
        other = np.arange(len(patients)) != row
        own = (patients == patients[row]) & other
        ranks.append(1 + int((distances[row, other & ~own] <= distances[row, own].min()).sum()))
    return np.array(ranks, dtype=np.int64)


def method_row(name, distances, lesions, queries):
    """Return a method's row of the table as a dict."""
    patients = lesions.patient_ids.astype(str)
    ranks = own_ranks(distances, patients, queries)
    n = len(lesions) - 1
    row = {"method": name, "mean_reciprocal_rank": float(np.mean(1 / ranks))}
    row["chance"] = float(np.mean([_chance(n, (patients == patients[q]).sum() - 1) for q in queries]))
    row |= {"n_queries": len(queries), "n_gallery": n}
    return row | {
        f"rank {lesions[int(q)].case.case_id}": rank for q, rank in zip(queries, ranks, strict=True)
    }


def _chance(n, n_own):
    """Return the expected reciprocal rank, best of `n_own` among the others, in a shuffled gallery of `n`."""
    others = n - n_own
    left, mean = 1.0, 0.0
    for before in range(others + 1):  # `before` others precede the first own one
        hit = left * n_own / (n - before)
        mean += hit / (1 + before)
        left -= hit
    return mean


def pooled_row(rows, name):
    """Return the mean of several methods' rows."""
    table = pd.DataFrame(rows)
    return {"method": name} | table.drop(columns="method").mean(numeric_only=True).to_dict()


def _columns(rows):
    """Return the columns, the ranks last."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return sorted(names, key=lambda name: name.startswith("rank "))


def _distances(X):
    """Return Euclidean distances (n, n) of rows."""
    from scipy.spatial.distance import cdist

    return cdist(X, X)
