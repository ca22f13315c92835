"""The table of results of a search: nearest tumors, distances by aspect, and how unusual a query is."""

import hashlib

import numpy as np
import pandas as pd

from tumorsim._validation import check_integer, check_real, is_missing
from tumorsim.index._aspects import check_weights, standard_aspects, weighted_points
from tumorsim.index._filters import Selection, nearest_per_group, select, where_mask
from tumorsim.index._tables import as_table

HELD_OUT = "held_out"  # metadata column: patients that the embedder was not fitted on
MOST_PATIENTS = 2_000  # that calibrate p-values: a p of 0.05 is known to 0.005 (one standard error)


def kneighbors(archive, engine, X, n_neighbors):
    """Return distances and rows of `TumorIndex.kneighbors`; `engine` is a function of the archive."""
    n_neighbors = check_integer(5 if n_neighbors is None else n_neighbors, "n_neighbors", minimum=1)
    available = len(archive) - (X is None)
    if n_neighbors > available:
        rule = f"Parameter 'n_neighbors' must be at most the {available} other rows."
        raise ValueError(f"{rule} Got {n_neighbors}.")
    own = np.arange(len(archive)) if X is None else None
    X = archive.embeddings if X is None else X
    distances, rows = engine(archive).nearest(X, n_neighbors, Selection(None, own, own))
    return _to_metric(distances, archive.metric), rows


def search(archive, engine, X, n_neighbors, table, where, exclude, aspects, limit, alpha, calibration):
    """Return the table of `TumorIndex.search`; `engine` is a function of the archive."""
    n_neighbors = check_integer(n_neighbors, "n_neighbors", minimum=1)
    limit = check_integer(limit, "max_per_patient", minimum=1, allow_none=True)
    alpha = check_real(alpha, "alpha", minimum=0, maximum=1, exclusive=True, allow_none=True)
    weights = check_weights(aspects, archive)
    table = None if table is None else as_table(table, len(X), "query_metadata")
    selection = select(archive.metadata, where, exclude, table, len(X), archive.codes)
    if weights:
        held, engine, points = archive.weighted(weights)
        queries = weighted_points(held, weights, X, table)[0]
        _check_measured(queries, held, weights if aspects is not None else (), X, table)
    else:
        held, engine, points, queries = archive.aspects, engine(archive), archive.embeddings, X
    codes, own = archive.patients(table, len(X))
    n_neighbors = min(n_neighbors, len(archive))
    if limit is None or "patient_id" not in archive.metadata:
        distances, rows = engine.nearest(queries, n_neighbors, selection)
    else:
        distances, rows = nearest_per_group(engine, queries, n_neighbors, selection, codes, limit)
    query, place = np.nonzero(rows >= 0)
    row, distance = rows[query, place], distances[query, place]
    found = {"query": query, "rank": place + 1}
    found["distance"] = distance if weights else _to_metric(distance, archive.metric)
    shown = {name: held[name] for name in dict.fromkeys([*standard_aspects(held), *weights])}
    found |= _aspect_columns(archive, shown, query, row, X, table)
    if alpha is not None:
        exact = getattr(engine, "exact", engine)
        others = selection.row_codes is codes or ((own < 0).all() and not selection.most_excluded())
        if engine is exact and others:
            nearest = distances[:, 0]  # is of another patient
        else:
            others = Selection(selection.allowed, codes, own, selection.left_out)
            nearest = exact.nearest(queries, 1, others)[0][:, 0]
        calibrated = _calibration(archive, exact, points, selection.allowed, calibration, weights)
        p = p_values(calibrated, nearest, own, alpha)
        found |= {"p_value": p[query], "no_close_match": p[query] <= alpha}
    taken = [column for column in found if column in archive.metadata]
    if taken:
        raise ValueError(f"Column '{taken[0]}' of the metadata has the name of a result's column. Rename it.")
    return pd.concat([pd.DataFrame(found), archive.metadata.iloc[row].reset_index(drop=True)], axis=1)


def _to_metric(distances, metric):
    """Return distances in a metric: between unit vectors, 1 - cosine is half the square."""
    return distances**2 / 2 if metric == "cosine" else distances


def _check_measured(queries, held, asked, X, table):
    """Raise where a query has none of the aspects of a search, or all queries lack a column asked for."""
    for name in asked:
        if held[name].measured and np.isnan(held[name].points(X, table)).all():
            columns = "' and column '".join(held[name].columns)
            what = "a volume greater than 0" if name == "size" else "a number"
            rule = f"Aspect '{name}' needs {what} in column '{columns}' of 'query_metadata'"
            raise ValueError(f"{rule}. Got none. Leave the aspect out, or give the query's value.")
    unknown = np.flatnonzero(np.isnan(queries).all(axis=1))
    if len(unknown):
        raise ValueError(f"A query needs one of the aspects {', '.join(asked)}. Query {unknown[0]} has none.")


def _aspect_columns(archive, aspects, query, rows, X, table):
    """Return columns of each aspect's distance, and of the share of random pairs that are farther."""
    distances = {}
    for name, aspect in aspects.items():
        if not aspect.measured or (table is not None and set(aspect.columns) <= set(table)):
            distances[name] = aspect.between(rows, archive.embeddings, archive.metadata, query, X, table)
    closer = {f"closer_than_{name}": aspects[name].closer_than(d) for name, d in distances.items()}
    return {f"distance_{name}": d for name, d in distances.items()} | closer


def _calibration(archive, engine, points, allowed, conditions, weights):
    """Return `calibrate` of the rows that are allowed and meet `conditions`, made once."""
    eligible = None
    if conditions is not None:
        eligible = where_mask(archive.metadata, conditions)
    elif HELD_OUT in archive.metadata:
        values = [v for v in archive.metadata[HELD_OUT].tolist() if not is_missing(v)]
        if values and all(isinstance(v, bool) for v in values):
            eligible = where_mask(archive.metadata, {HELD_OUT: True})
    key = [None if m is None else hashlib.sha256(m.tobytes()).digest() for m in (allowed, eligible)]
    key.append(tuple(weights.items()))
    codes = archive.patients()[0]
    return archive.last("calibration", key, lambda: calibrate(engine, points, allowed, eligible, codes))


def calibrate(engine, points, allowed, eligible, codes):
    """Return patients (n,), ascending, distances (n,) of one tumor each to others' nearest, and sorted.

    The exact `engine` takes `points` (n_rows, n_features) as queries. Rows are neighbors if `allowed`
    (n_rows,), and calibrate if `eligible` (n_rows,) as well; None stands for all.
    """
    everything, rng = np.ones(len(codes), dtype=bool), np.random.default_rng(0)
    may = np.logical_and.reduce([everything if mask is None else mask for mask in (allowed, eligible)])
    rows = rng.permutation(np.flatnonzero(may))
    patients, first = np.unique(codes[rows], return_index=True)
    if len(patients) > MOST_PATIENTS:
        some = np.sort(rng.choice(len(patients), MOST_PATIENTS, replace=False))
        patients, first = patients[some], first[some]
    rows = rows[first]
    nearest = engine.nearest(points[rows], 1, Selection(allowed, codes, codes[rows]))[0][:, 0]
    known = np.isfinite(nearest)
    return patients[known], nearest[known], np.sort(nearest[known])


def p_values(calibration, nearest, query_codes, alpha):
    """Return p-values (n_queries,): (1 + #{a_i ≥ a}) / (n + 1), NaN where n + 1 < 1 / alpha.

    a, in `nearest` (n_queries,), is the query's distance to the nearest tumor of another patient, and a_i
    that of a calibration tumor. That the query may be nearer to it than a_i does not matter, since a is never
    above the distance of the two. The query's own patient, in `query_codes` (n_queries,), does not count.
    """
    codes, distances, ordered = calibration
    n = np.full(len(nearest), len(ordered))
    at_least = len(ordered) - np.searchsorted(ordered, nearest, side="left")
    place = np.searchsorted(codes, query_codes)
    inside = place < len(ordered)
    own = np.flatnonzero(inside)[codes[place[inside]] == query_codes[inside]]
    n[own] -= 1
    at_least[own] -= distances[place[own]] >= nearest[own]
    p = (1 + at_least) / (n + 1)
    return np.where((n + 1 < 1 / alpha) | ~np.isfinite(nearest), np.nan, p)
