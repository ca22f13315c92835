"""How unusual a query is: p-values of the distance to its nearest case of another patient."""

from dataclasses import dataclass

import numpy as np

from tumorsim.index._filters import Selection

__all__ = ["Calibration", "calibrate", "p_values"]

MOST_PATIENTS = 10_000  # that calibrate


@dataclass(frozen=True, eq=False)
class Calibration:
    """Distances of calibration tumors to their nearest tumor of another patient.

    Parameters
    ----------
    codes : ndarray of shape (n,), dtype=int64
        Patients, ascending, one tumor each.
    distances : ndarray of shape (n,), dtype=float64
        Their tumors' distances.
    """

    codes: np.ndarray
    distances: np.ndarray


def calibrate(engine, points, allowed, eligible, codes):
    """Return the `Calibration` of an archive: one tumor of each patient, drawn with a fixed seed.

    Parameters
    ----------
    engine : Engine
        Exact; of the archive's rows.
    points : ndarray of shape (n_rows, n_features)
        What the engine takes as queries, of the archive's own rows.
    allowed : ndarray of shape (n_rows,), dtype=bool, or None
        Rows that may be neighbors.
    eligible : ndarray of shape (n_rows,), dtype=bool, or None
        Rows that may calibrate; of these only allowed ones do.
    codes : ndarray of shape (n_rows,), dtype=int64
        Patients.
    """
    may = np.ones(len(codes), dtype=bool)
    for mask in (allowed, eligible):
        may &= True if mask is None else mask
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.flatnonzero(may))
    patients, first = np.unique(codes[rows], return_index=True)
    if len(patients) > MOST_PATIENTS:
        some = np.sort(rng.choice(len(patients), MOST_PATIENTS, replace=False))
        patients, first = patients[some], first[some]
    rows = rows[first]
    if not len(rows):
        return Calibration(patients, np.empty(0))
    nearest = engine.nearest(points[rows], 1, Selection(allowed, codes, codes[rows]))[0][:, 0]
    known = np.isfinite(nearest)
    return Calibration(patients[known], nearest[known])


def p_values(calibration, nearest, query_codes, alpha):
    """Return p-values (n_queries,): (1 + #{a_i ≥ a}) / (n + 1), NaN where n + 1 < 1 / alpha.

    a is the query's distance to the nearest tumor of another patient, and a_i that of a calibration tumor.
    The definition admits the query as a neighbor of calibration tumors, which makes a_i at most their
    distance to the query. That is never below a, since calibration tumors are among those that a is the
    minimum over; so whether a_i ≥ a is the same with and without the query. The query's own patient does not
    count.

    Parameters
    ----------
    calibration : Calibration
    nearest : ndarray of shape (n_queries,)
        Each query's a.
    query_codes : ndarray of shape (n_queries,), dtype=int64
        Patients of the queries; negative: not in the archive.
    alpha : float
        Level.
    """
    ordered = np.sort(calibration.distances)
    n = np.full(len(nearest), len(ordered))
    at_least = len(ordered) - np.searchsorted(ordered, nearest, side="left")
    place = np.searchsorted(calibration.codes, query_codes)
    inside = place < len(ordered)
    own = np.flatnonzero(inside)[calibration.codes[place[inside]] == query_codes[inside]]
    n[own] -= 1
    at_least[own] -= calibration.distances[place[own]] >= nearest[own]
    p = (1 + at_least) / (n + 1)
    return np.where((n + 1 < 1 / alpha) | ~np.isfinite(nearest), np.nan, p)
