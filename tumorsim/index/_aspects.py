"""Aspects of similarity: what one head says of a tumor, or a measured size, each in its own unit."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from tumorsim._validation import check_real
from tumorsim.answers import PLACE
from tumorsim.index._exact import Coordinates, pair_distances

__all__ = ["SIZE_COLUMN", "check_weights", "make_aspects", "weighted_points"]

PAIRS = 10_000  # random pairs of the archive that an aspect's spread is measured on
SIZE_COLUMN = "volume_mm3"
ROWS = 16_384  # mapped at once: bounds the float64 copies


@dataclass(frozen=True, eq=False)
class Aspect:
    """One aspect of an archive: points whose distances are in units of its median over random pairs."""

    parts: tuple  # of Coordinates, or a number that divides the logarithm of the measured volume
    pairs: np.ndarray  # (n_pairs,) distances of random pairs of different patients, ascending

    @property
    def measured(self):
        """Whether the aspect comes from a column, not from features."""
        return isinstance(self.parts[0], float)

    def points(self, X, table):
        """Return float64 points (n, n_coordinates), NaN where a measure is missing."""
        if self.measured:
            return log_size(table, len(X))[:, None] / self.parts[0]
        return _mapped(self.parts, X)

    def between(self, rows, embeddings, table, of_query, queries, query_table):
        """Return distances (n_pairs,) of pairs of a row of the archive and a query, NaN where unknown."""

        def held(part):
            return self.points(embeddings[part], table.iloc[part] if self.measured else None)

        return pair_distances(held, rows, self.points(queries, query_table), of_query, ROWS)

    def closer_than(self, distances):
        """Return the share of random pairs that are farther apart than `distances`, NaN where unknown."""
        if not len(self.pairs):
            return np.full(len(distances), np.nan)
        share = 1 - np.searchsorted(self.pairs, distances, side="right") / len(self.pairs)
        return np.where(np.isnan(distances), np.nan, share)


def make_aspects(embeddings, table, space, unit_length, codes):
    """Return name → `Aspect` of an archive, `codes` (n_rows,) being its patients.

    They are those of the space that have a distance; ``place``, the sum of two or more of its tasks that
    tell it; and ``size``, the logarithm of the column volume_mm3. A task named place or size comes first.
    """
    pairs = random_pairs(codes)
    aspects = {}
    for name in () if space is None else space.aspects:
        coordinates = _coordinates(space, name, unit_length)
        if coordinates is not None:
            aspects[name] = _scaled([coordinates], embeddings, pairs)
    place = [part for name in PLACE if name in aspects for part in aspects[name].parts]
    if len(place) > 1 and "place" not in aspects:
        aspects["place"] = _scaled(place, embeddings, pairs)
    if SIZE_COLUMN in table and "size" not in (() if space is None else space.aspects):
        size = log_size(table, len(table))
        apart = np.abs(size[pairs[0]] - size[pairs[1]])
        apart, spread = _in_units(apart[~np.isnan(apart)])
        aspects["size"] = Aspect((spread,), apart)
    return aspects


def check_weights(aspects, known, space):
    """Return weights of the `known` aspects of an index as a dict name → float."""
    if not isinstance(aspects, Mapping) or not aspects:
        rule = "Parameter 'aspects' must map aspect names to weights, for instance {'type': 1}."
        raise TypeError(f"{rule} Got {aspects!r}.")
    for name in aspects:
        if name not in known:
            if space is not None and name in space.aspects:
                raise ValueError(f"Aspect {name!r} reads nothing of the features and has no distance.")
            listed = f"aspects are {', '.join(known) or 'none'}"
            if space is None:
                listed += "; those of an embedder come with fit(…, space=embedder.space_)"
            raise ValueError(f"'aspects' must name aspects of the index. Got {name!r}; {listed}.")
    weights = {name: check_real(w, f"aspects[{name!r}]", minimum=0) for name, w in aspects.items()}
    if not any(weights.values()):
        raise ValueError("At least one weight of 'aspects' must be greater than 0.")
    return weights


def weighted_points(aspects, weights, X, table):
    """Return points (n, n_coordinates) whose squared distance is the weighted sum of those of the aspects."""
    return np.hstack([np.sqrt(w) * aspects[name].points(X, table) for name, w in weights.items() if w > 0])


def log_size(table, n_rows):
    """Return log volumes in mm³, NaN where the table has none or the volume is not greater than 0."""
    if table is None or SIZE_COLUMN not in table:
        return np.full(n_rows, np.nan)
    volume = pd.to_numeric(table[SIZE_COLUMN], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return np.log(np.where((volume > 0) & np.isfinite(volume), volume, np.nan))


def random_pairs(codes):
    """Return two arrays of rows: pairs of different codes, all of them or as many as 10,000 draws hold."""
    n = len(codes)
    if n * (n - 1) // 2 <= PAIRS:
        first, second = np.triu_indices(n, k=1)
    else:
        rng = np.random.default_rng(0)
        first = rng.integers(n, size=PAIRS)
        second = (first + rng.integers(1, n, size=PAIRS)) % n
    apart = codes[first] != codes[second]
    return first[apart], second[apart]


def _coordinates(space, name, unit_length):
    """Return `Coordinates` of an aspect, None if it has no distance."""
    rows = space.aspects[name]
    if space.offsets:
        says = partial(space.aspect_coordinates, name)
        return Coordinates(says, basis=np.eye(len(rows))) if rows.any() else None
    rows = rows if space.scale is None else rows / space.scale  # that act on scaled features
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    if not sizes[0] > 0:
        return None
    basis = directions[sizes > max(rows.shape) * np.finfo(np.float64).eps * sizes[0]]
    return Coordinates(space.coordinates, unit_length, basis)


def _scaled(parts, embeddings, pairs):
    """Return the aspect of `parts` with distances divided by their median over the pairs."""
    first, second = pairs
    difference = _mapped(parts, embeddings[first]) - _mapped(parts, embeddings[second])
    apart, spread = _in_units(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
    return Aspect(tuple(Coordinates(c.features, c.unit_length, c.basis / spread) for c in parts), apart)


def _in_units(distances):
    """Return distances (n,), ascending, in units of their median (1 where there is none), and the unit."""
    spread = (float(np.median(distances)) if len(distances) else 0.0) or 1.0
    return np.sort(distances) / spread, spread


def _mapped(parts, X):
    """Return the coordinates of all parts side by side, float64; a row's bits do not depend on other rows."""
    starts = range(0, max(len(X), 1), ROWS)
    return np.concatenate([np.hstack([part(X[i : i + ROWS]) for part in parts]) for i in starts])
