"""Aspects of similarity: what one head says of a tumor, or a measured size, each in its own unit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from tumorsim._validation import check_real
from tumorsim.answers import PLACE
from tumorsim.index._exact import Coordinates, log_sizes, pair_distances, unlike_sizes
from tumorsim.index._tables import TO_MEASURE, kind_of, kind_of_dtype

PAIRS = 10_000  # random pairs of the archive that an aspect's spread is measured on
SIZE_COLUMN = "volume_mm3"
COURSE = ("volume_ratio_per_month", "diameter_mm_per_month")  # columns of tumorsim.matching
AREA = 0.1  # of place, what the area counts where a side counts 1
LOOK = 0.05  # weight where all others weigh 1, from simulated validation patients (docs/results.md)
ROWS = 16_384  # mapped at once: bounds the float64 copies


@dataclass(frozen=True, eq=False)
class Aspect:
    """One aspect of an archive: points whose distances it is, or sizes."""

    parts: tuple  # of Coordinates; of a measured aspect pairs of a column and what divides its numbers
    pairs: np.ndarray  # (n_pairs,) distances of random pairs of different patients, ascending
    is_size: bool = False  # whether points are `log_sizes`, compared by `unlike_sizes`

    @property
    def measured(self):
        """Whether the aspect comes from columns, not from features."""
        return isinstance(self.parts[0], tuple)

    @property
    def columns(self):
        """Names of the columns of a measured aspect."""
        return [column for column, _ in self.parts]

    def points(self, X, table):
        """Return float64 points (n, n_coordinates), NaN where a measure is missing."""
        if self.is_size:
            return log_sizes(measure(table, SIZE_COLUMN, len(X)))[:, None]
        if self.measured:
            points = np.column_stack([measure(table, name, len(X)) / unit for name, unit in self.parts])
            return np.where(np.isnan(points).any(axis=1, keepdims=True), np.nan, points)
        return _mapped(self.parts, X, table)

    def between(self, rows, embeddings, table, of_query, queries, query_table):
        """Return distances (n_pairs,) of pairs of a row of the archive and a query, NaN where unknown."""
        reads = self.measured or any(part.reads_table for part in self.parts)

        def held(part):
            return self.points(embeddings[part], table.iloc[part] if reads else None)

        points = self.points(queries, query_table)
        if self.is_size:
            return np.sqrt(unlike_sizes(held(rows)[:, 0], points[of_query, 0]))
        return pair_distances(held, rows, points, of_query, ROWS)

    def closer_than(self, distances):
        """Return the share of random pairs that are farther apart than `distances`, NaN where unknown."""
        if not len(self.pairs):
            return np.full(len(distances), np.nan)
        share = 1 - np.searchsorted(self.pairs, distances, side="right") / len(self.pairs)
        return np.where(np.isnan(distances), np.nan, share)


def make_aspects(embeddings, table, space, unit_length, codes):
    """Return name → `Aspect` of an archive, `codes` (n_rows,) being its patients.

    They are those of the space that have a distance; ``place``, the sum of its tasks that tell it; ``size``,
    how unlike volumes are (`unlike_sizes`); ``look``, what features carry beyond the heads; and ``course``,
    changes per month, where they are known. A task of one of these names comes first.
    """
    pairs, aspects = random_pairs(codes), {}
    named = () if space is None else space.aspects
    for name in named:
        coordinates = _coordinates(space, name, unit_length)
        if coordinates is not None:
            aspects[name] = _scaled([coordinates], embeddings, table, pairs, space)
    place = [part for name in PLACE if name in aspects for part in aspects[name].parts]
    if place and "place" not in named:
        if len(place) > 1 and "region" in aspects:  # the last of them, as PLACE has it
            place[-1] = replace(place[-1], basis=np.sqrt(AREA) * place[-1].basis)
        aspects["place"] = _scaled(place, embeddings, table, pairs, space)
    if SIZE_COLUMN in table and "size" not in named:
        sizes = log_sizes(measure(table, SIZE_COLUMN, len(table)))
        apart = np.sqrt(unlike_sizes(*sizes[np.stack(pairs)]))
        aspects["size"] = Aspect(((SIZE_COLUMN, 1.0),), np.sort(apart[~np.isnan(apart)]), is_size=True)
    look = None if space is None else _look(space, embeddings.shape[1])
    if look is not None and "look" not in named:
        aspects["look"] = _scaled([look], embeddings, table, pairs)
    if all(is_measure(table, name) for name in COURSE) and "course" not in named:
        aspects["course"] = measured_aspect(table, COURSE, pairs)
    return aspects


def standard_aspects(known):
    """Return the names of the `known` aspects that are always shown: type, place, size, look.

    Where there is no type, all tasks that are not of place stand for it.
    """
    tasks = [name for name in known if name not in (*PLACE, "place", "size", "look", "course")]
    tasks = ["type"] if "type" in tasks else tasks
    return [*tasks, *(name for name in ("place", "size", "look") if name in known)]


def measured_aspect(table, columns, pairs):
    """Return the aspect of columns of numbers, each divided by its median difference over the pairs."""
    apart, units = np.zeros(len(pairs[0])), []
    for column in columns:
        values = measure(table, column, len(table))
        difference = np.abs(values[pairs[0]] - values[pairs[1]])
        units.append(_in_units(difference[~np.isnan(difference)])[1])
        apart += (difference / units[-1]) ** 2
    apart, spread = _in_units(np.sqrt(apart[~np.isnan(apart)]))
    return Aspect(tuple((name, unit * spread) for name, unit in zip(columns, units, strict=True)), apart)


def is_measure(table, column):
    """Tell whether a column of a table holds numbers, and at least one."""
    held = table[column].dropna() if column in table else ()
    if not len(held):
        return False
    kinds = map(kind_of, held) if held.dtype == object else [kind_of_dtype(held.dtype)]
    return set(kinds) == {"numbers"}


def check_weights(aspects, archive):
    """Return weights of aspects of an `Archive` as a dict name → float; empty: the plain distance."""
    if aspects is None and archive.metric == "euclidean" and archive.space is not None:
        names = standard_aspects(archive.aspects)
        return {} if names == ["look"] else {name: LOOK if name == "look" else 1.0 for name in names}
    if aspects is None or (isinstance(aspects, str) and aspects == "embedding"):
        return {}
    if not isinstance(aspects, Mapping) or not aspects:
        rule = "Parameter 'aspects' must map aspect names to weights, for instance {'type': 1}"
        raise TypeError(f"{rule}, or be 'embedding'. Got {aspects!r}.")
    space, known = archive.space, archive.aspects
    for name in aspects:
        if name not in known and not is_measure(archive.metadata, name):
            if space is not None and name in space.aspects:
                raise ValueError(f"Aspect {name!r} reads nothing of the features and has no distance.")
            listed = f"aspects are {', '.join(known) or 'none'}, and columns of numbers"
            if space is None:
                listed += "; those of an embedder come with fit(…, space=embedder.space_)"
            rule = f"'aspects' must name aspects of the index. Got {name!r}; {listed}."
            raise ValueError(rule + TO_MEASURE.get(name, ""))
    weights = {a: check_real(w, f"aspects[{a!r}]", minimum=0, maximum=1e6) for a, w in aspects.items()}
    if max(weights.values()) < 1e-6:  # points are float32
        raise ValueError("At least one weight of 'aspects' must be greater than 0, and at least 1e-6.")
    return weights


def weighted_points(aspects, weights, X, table):
    """Return points (n, n_coordinates) of aspects, and how `PartialEngine` takes them.

    Squared distances are weighted sums of those of the aspects; what is missing is NaN. Size comes last,
    unweighted, beside a coordinate that is 0 for all that have a size.
    """
    names = [name for name, weight in weights.items() if weight > 0]
    names.sort(key=lambda name: aspects[name].is_size)
    parts = [aspects[name].points(X, table) for name in names]
    size = weights[names[-1]] if aspects[names[-1]].is_size else 0.0
    scaled = [np.sqrt(weights[name]) * part for name, part in zip(names, parts, strict=True)]
    scaled = [*scaled[:-1], 0 * parts[-1], parts[-1]] if size else scaled
    widths = [part.shape[1] + aspects[name].is_size for name, part in zip(names, parts, strict=True)]
    which = np.repeat(np.arange(len(parts)), widths)
    return np.hstack(scaled), which, [weights[name] for name in names], size


def measure(table, column, n_rows):
    """Return the numbers of a column, of volumes their logarithms; NaN where there is none."""
    if table is None or column not in table:
        return np.full(n_rows, np.nan)
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if column == SIZE_COLUMN:
        return np.log(np.where((values > 0) & np.isfinite(values), values, np.nan))
    return np.where(np.isfinite(values), values, np.nan)


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
        says, reads = partial(space.aspect_coordinates, name), name in space.measured
        basis = np.sqrt(0.5) * np.eye(len(rows))  # so that certain and different are 1 apart
        return Coordinates(says, basis=basis, reads_table=reads) if rows.any() else None
    basis = _directions(rows if space.scale is None else rows / space.scale)[0]
    return Coordinates(space.coordinates, unit_length, basis) if len(basis) else None


def _look(space, n_features):
    """Return `Coordinates` of the scaled features where no head reads them, None if nothing is left."""
    scale = np.ones(n_features) if space.scale is None else space.scale
    rows = [rows / scale for rows in space.aspects.values()]  # that act on scaled features
    beyond = _directions(np.vstack(rows))[1] if rows else np.eye(n_features)
    return Coordinates(basis=beyond * scale) if len(beyond) else None


def _directions(rows):
    """Return orthonormal bases of the space that rows (k, n) span, and of its complement."""
    _, sizes, directions = np.linalg.svd(rows)
    rank = int((sizes > max(rows.shape) * np.finfo(np.float64).eps * sizes[0]).sum())
    return directions[:rank], directions[rank:]


def _scaled(parts, embeddings, table, pairs, space=None):
    """Return the aspect of `parts`, distances over their median, but Hellinger's of heads with offsets."""
    first, second = (_mapped(parts, embeddings[rows], table.iloc[rows]) for rows in pairs)
    apart = np.sqrt(((first - second) ** 2).sum(axis=1))
    apart, spread = (np.sort(apart), 1.0) if space is not None and space.offsets else _in_units(apart)
    return Aspect(tuple(replace(part, basis=part.basis / spread) for part in parts), apart)


def _in_units(distances):
    """Return distances (n,), ascending, in units of their median (1 where there is none), and the unit."""
    spread = float(np.median(distances) or np.mean(distances)) if len(distances) else 0.0
    spread = spread or 1.0
    return np.sort(distances) / spread, spread


def _mapped(parts, X, table):
    """Return the coordinates of all parts side by side, float64; a row's bits do not depend on other rows."""
    table = pd.DataFrame(index=range(len(X))) if table is None else table
    blocks = [slice(i, i + ROWS) for i in range(0, max(len(X), 1), ROWS)]
    return np.concatenate([np.hstack([part(X[b], table.iloc[b]) for part in parts]) for b in blocks])
