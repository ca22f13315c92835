"""Points of embeddings, exact search, and the base of engines whose candidates are measured exactly."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCK_BYTES = 8 * 2**20  # of pairs that are measured at once
N_QUERIES, N_POINTS = 256, 8_192  # of one float32 product: 8 MB, which stays in a processor's cache
GROUPS = 16  # of the points of one product, whose minima bound the n-th smallest
MAPPED = 65_536  # rows mapped at once: bounds the float64 copies
COVARIANCE_ROWS = 50_000  # at most, that the whitening is estimated on
APPROXIMATE_FROM = 1_000  # rows below which candidates would only be slower than exact search
SELECTIVE = 0.2  # share of allowed rows below which exact search compares with all of them
TINY = 1e-30  # products below float32's range
TWOFOLD = 0.85  # of 1, what a ratio of volumes above two costs at once; the rest grows with the ratio


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Map embeddings (n, n_features) to points by features, unit length and projection, in that order."""

    features: Callable | None = None  # of float64 embeddings; None: themselves
    unit_length: bool = False
    basis: np.ndarray | None = None  # (n_coordinates, number of features)
    reads_table: bool = False  # whether `features` take the table of the rows as well

    def __call__(self, X, table=None, *, in_bulk=False):
        """Return float64 coordinates (n, n_coordinates); a row's bits do not depend on the other rows.

        `in_bulk` they are rounded by BLAS, which does so differently from block to block.
        """
        points = np.asarray(X, dtype=np.float64)
        if self.features is not None:
            points = self.features(points, table) if self.reads_table else self.features(points)
        if self.unit_length:
            points = points / np.abs(points).max(axis=1, keepdims=True)  # squares must not underflow
            points = points / np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
        if self.basis is None:
            return points
        return points @ self.basis.T if in_bulk else np.einsum("ij,kj->ik", points, self.basis)

    def distances(self, X, rows, queries, of_query):
        """Return float64 distances of pairs X[rows[i]], queries[of_query[i]], in blocks of bounded memory."""
        step = max(1, BLOCK_BYTES // (8 * max(X.shape[1], queries.shape[1])))
        return pair_distances(lambda part: self(X[part]), rows, queries, of_query, step)


def pair_distances(held, rows, queries, of_query, step):
    """Return distances (n_pairs,) of `held(rows)[i]` and queries[of_query[i]], `step` pairs at once."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = held(rows[part]) - queries[of_query[part]]
        found[part] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return found


def unlike_sizes(one, other):
    """Return how unlike volumes are, 0 to 1, from their base-2 logarithms as `log_sizes` returns them.

    It is 0.15 r² / (1 + r²), r being the number of doublings between them, and 0.85 more above one.
    """
    found = np.square(one - other)
    far = found > 1
    found += 1
    np.divide(TWOFOLD - 1, found, out=found)
    found += 1 - TWOFOLD
    found += found.dtype.type(TWOFOLD) * far
    return found


def log_sizes(logarithms):
    """Return natural logarithms as base-2 ones, rounded so that their differences are exact in float32."""
    return np.round(np.clip(logarithms / np.log(2), -63, 63) * 2**17) / 2**17


def whitening_basis(embeddings, features):
    """Return a basis (n_coordinates, n_coordinates) in which the archive's covariance is the unit matrix.

    `features` maps embeddings to the coordinates of plain distances; None leaves them as they are. The
    covariance is shrunk as Ledoit and Wolf do (J. Multivar. Anal. 88, 2004, Section 3). An archive whose
    embeddings are all equal keeps its distances.
    """
    from sklearn.covariance import ledoit_wolf

    n, X = len(embeddings), embeddings
    if n > COVARIANCE_ROWS:
        X = X[np.sort(np.random.default_rng(0).choice(n, COVARIANCE_ROWS, replace=False))]
    X = np.asarray(X, dtype=np.float64)
    X = X if features is None else features(X)
    width = X.shape[1]
    spread = X.std() if n > 1 else 0.0
    if not spread > 0:
        return np.eye(width)
    covariance, _ = ledoit_wolf((X - X.mean(axis=0)) / spread)  # of order 1, whatever the unit
    values, directions = np.linalg.eigh(covariance)
    if values[-1] <= 0:
        return np.eye(width)
    values = np.maximum(values, np.finfo(np.float64).eps * values[-1])
    return (directions / np.sqrt(values)).T / spread


@dataclass(frozen=True, eq=False)
class Frame:
    """Float32 points of an archive: coordinates minus its mean, within ±1, where float32 loses least."""

    coordinates: Coordinates
    center: np.ndarray  # (n_coordinates,)
    unit: float

    @classmethod
    def of(cls, embeddings, coordinates):
        """Return the frame of embeddings (n, n_features)."""
        blocks = [embeddings[i : i + MAPPED] for i in range(0, len(embeddings), MAPPED)]
        center = sum(coordinates(b, in_bulk=True).sum(axis=0) for b in blocks) / len(embeddings)
        largest = max(np.abs(coordinates(b, in_bulk=True) - center).max() for b in blocks)
        return cls(coordinates, center, float(largest) or 1.0)  # squares must neither overflow nor underflow

    def points(self, X):
        """Return features (n, n_features) as C-ordered float32 points (n, n_coordinates)."""
        points = np.empty((len(X), len(self.center)), dtype=np.float32)
        for i in range(0, len(X), MAPPED):
            some = self.coordinates(X[i : i + MAPPED], in_bulk=True)
            points[i : i + MAPPED] = (some - self.center) / self.unit
        return points


def padded(points, width):
    """Return points (n, n_coordinates) with zeros up to `width` coordinates."""
    return np.ascontiguousarray(np.pad(points, ((0, 0), (0, max(0, width - points.shape[1])))))


def empty(n_queries, n_neighbors):
    """Return distances and rows of no neighbors, each (n_queries, n_neighbors)."""
    shape = (n_queries, n_neighbors)
    return np.full(shape, np.inf), np.full(shape, -1, dtype=np.int64)


def fill(distances, found, of_query, row, exact):
    """Write the nearest of pairs (query, row, distance) into (n_queries, n_neighbors), ties by row."""
    order = np.lexsort((row, exact, of_query))
    of_query, row, exact = of_query[order], row[order], exact[order]
    rank = np.arange(len(row)) - np.searchsorted(of_query, of_query)
    keep = rank < distances.shape[1]
    distances[of_query[keep], rank[keep]] = exact[keep]
    found[of_query[keep], rank[keep]] = row[keep]


class ExactEngine:
    """Compare with every row, and lose no true neighbor to rounding.

    With q and x in the frame, b = (n_coordinates + 8) ε of float32 and g = |x|² - 2 q·x, the float32 product
    L of (x, (1 - b) |x|²) and (-2 q, 1) lies within b |q|² below and b |q|² + 2 b |x|² above g. Since
    |x|² ≤ 2 |q|² + 2 D for a squared distance D = g + |q|², the n-th smallest L bounds the n-th smallest D
    from above: (1 - 4 b) D ≤ L + (1 + 5 b) |q|². Every row whose L does not exceed that bound by the first
    inequality is a candidate, and float64 distances decide among them.

    With `sizes` (n,), which queries bring as their last column, `weight` times `unlike_sizes` is added to
    squared distances, and to L as well.
    """

    def __init__(self, embeddings, coordinates, sizes=None, weight=0.0):
        self.embeddings, self.coordinates = embeddings, coordinates
        self.sizes, self.weight = sizes, weight
        self.frame = Frame.of(embeddings, coordinates)
        n, width = len(embeddings), len(self.frame.center)
        self._bound = (width + 12) * float(np.finfo(np.float32).eps)
        self._points = np.empty((width + 1, n), dtype=np.float32)  # BLAS reads them fastest by coordinate
        for i in range(0, n, MAPPED):
            part = slice(i, i + MAPPED)
            points = self.frame.points(embeddings[part])
            norms = np.einsum("ij,ij->i", points, points, dtype=np.float64)
            self._points[:-1, part], self._points[-1, part] = points.T, (1 - self._bound) * norms - TINY

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows, each (n_queries, n_neighbors), by distance, then row number.

        Where fewer rows are selected, the rest has distance inf and row -1.
        """
        sizes = None if self.sizes is None else X[:, -1]
        queries = self.coordinates(X if sizes is None else X[:, :-1])
        distances, found = empty(len(queries), n_neighbors)
        rows = None if selection.allowed is None else np.flatnonzero(selection.allowed)
        wanted = n_neighbors + selection.most_excluded()
        for start in range(0, len(queries), N_QUERIES):
            part = slice(start, start + N_QUERIES)
            own = None if sizes is None else sizes[part]
            of_query, row = self._candidates(queries[part], own, rows, wanted)
            keep = selection.of(part).pairs_allowed(of_query, row)
            of_query, row = of_query[keep], row[keep]
            exact = self.coordinates.distances(self.embeddings, row, queries[part], of_query)
            if sizes is not None:
                exact = np.sqrt(exact**2 + self.weight * unlike_sizes(self.sizes[row], own[of_query]))
            fill(distances[part], found[part], of_query, row, exact)
        return distances, found

    def _candidates(self, queries, sizes, rows, wanted):
        """Return pairs (query of this block, row of the archive) that hold every true neighbor in `rows`."""
        if rows is not None and not len(rows):
            return rows, rows
        scaled = (queries - self.frame.center) / self.frame.unit
        square = np.einsum("ij,ij->i", scaled, scaled)
        left = np.ones((len(scaled), scaled.shape[1] + 1), dtype=np.float32)
        n = len(self.embeddings) if rows is None else len(rows)
        step, b = N_POINTS * max(1, N_QUERIES // len(scaled)), self._bound  # one query takes one product
        smallest = np.full((len(scaled), wanted), np.inf, dtype=np.float32)  # minima of groups, so far
        of_query, row, value = [], [], []
        # Queries that are absurdly far overflow: all rows are candidates then, and so is a NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            left[:, :-1] = -2 * scaled
            weight = np.float32(self.weight / self.frame.unit**2)
            for start in range(0, n, step):
                some = slice(start, start + step)
                points = self._points[:, some] if rows is None else self._points.take(rows[some], axis=1)
                product = left @ points
                if sizes is not None:
                    near = self.sizes[some if rows is None else rows[some]].astype(np.float32)
                    product += weight * unlike_sizes(near, sizes.astype(np.float32)[:, None])
                smallest = np.hstack([smallest, _group_minima(product, wanted)])
                smallest = np.partition(smallest, wanted - 1, axis=1)[:, :wanted]
                distance = (smallest.max(axis=1) + (1 + 5 * b) * square + 2 * TINY) / (1 - 4 * b)
                distance += b * weight  # to which the sizes' share is rounded
                limit = np.nextafter((distance - (1 - b) * square).astype(np.float32), np.float32(np.inf))
                flat = np.flatnonzero(~(product > limit[:, None]))
                query, column = np.divmod(flat, product.shape[1])
                of_query.append(query)
                row.append(column + start if rows is None else rows[column + start])
                value.append(product.ravel()[flat])
            of_query, row, value = np.concatenate(of_query), np.concatenate(row), np.concatenate(value)
            keep = ~(value > limit[of_query])  # the limit has fallen since the first points
        return of_query[keep], row[keep]


class PartialEngine:
    """Exact search among points with gaps: the aspects that both tumors have share the weight of all.

    `aspects` (n_coordinates,) tells the aspect of each coordinate, `weights` (n_aspects,) how much it counts.
    Rows, and queries, that lack the same aspects are searched together; pairs without a common one are no
    neighbors. `size_weight`, where it is not 0, is that of the last coordinate, as `ExactEngine` takes sizes.
    """

    def __init__(self, points, aspects, weights, size_weight=0.0):
        self._points, self._aspects, self._weights = points, aspects, np.asarray(weights, dtype=float)
        self.size_weight = size_weight
        self._rows = _by_gaps(points)
        self._engines = {}

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `ExactEngine` does, of points (n_queries, n_coordinates)."""
        distances, found = empty(len(X), n_neighbors)
        for missing, queries in _by_gaps(X):
            parts, own = [], selection.of(queries)
            for number, (gaps, rows) in enumerate(self._rows):
                keep = ~(missing | gaps)
                if keep.any():
                    near, row = self._engine(number, keep).nearest(
                        self._scaled(X[queries], keep), n_neighbors, own.among(rows)
                    )
                    parts.append((near, np.where(row >= 0, rows[row], -1)))
            if parts:
                near, row = (np.hstack(values) for values in zip(*parts, strict=True))
                order = np.lexsort((row, near))[:, :n_neighbors]
                distances[queries] = np.take_along_axis(near, order, axis=1)
                found[queries] = np.take_along_axis(row, order, axis=1)
        return distances, found

    def _share(self, keep):
        """Return how much more the aspects that are kept count, since they share the weight of all."""
        return self._weights.sum() / self._weights[np.unique(self._aspects[keep])].sum()

    def _scaled(self, points, keep):
        """Return the coordinates of the aspects that are kept, but for sizes by the root of their share."""
        factors = np.full(keep.sum(), np.sqrt(self._share(keep)))
        if self.size_weight and keep[-1]:
            factors[-1] = 1
        return points[:, keep] * factors

    def _engine(self, number, keep):
        """Return the engine of the rows of a group, of the coordinates that are kept, made at first use."""
        key = number, keep.tobytes()
        if key not in self._engines:
            points, sizes = self._scaled(self._points[self._rows[number][1]], keep), ()
            if self.size_weight and keep[-1]:
                points, sizes = points[:, :-1], (points[:, -1], self.size_weight * self._share(keep))
            self._engines[key] = ExactEngine(points, Coordinates(), *sizes)
        return self._engines[key]


def _by_gaps(points):
    """Return pairs of missing coordinates (n_coordinates,) and the rows of points that lack just these."""
    missing, group = np.isnan(points), np.zeros(len(points), dtype=np.int64)
    for column in missing[:, missing.any(axis=0)].T:  # sorting whole rows would take seconds
        group = np.unique(2 * group + column, return_inverse=True)[1]
    return [(missing[rows[0]], rows) for rows in map(np.flatnonzero, group == np.unique(group)[:, None])]


def _group_minima(product, wanted):
    """Return minima (n_queries, n_groups) of groups of columns, at least `wanted` where there are as many."""
    n_queries, n_points = product.shape
    width = n_points // GROUPS
    if width < 4 * wanted:
        return product
    return product[:, : width * GROUPS].reshape(n_queries, GROUPS, width).min(axis=1)


class CandidateEngine:
    """Base of approximate engines: more candidates than wanted are filtered, then measured exactly.

    Exact search serves small archives, filters that select few rows, large numbers of neighbors, and every
    query whose candidates do not suffice. Subclasses implement ``_build()`` and ``_query(built, points,
    n_candidates)``, which returns rows (n_queries, n_candidates), -1 where there are fewer.
    """

    approximate_from = APPROXIMATE_FROM
    oversampling = 1.5  # candidates for each wanted row
    widest = 200  # candidates per query above which exact search is used; recall falls beyond

    def __init__(self, embeddings, coordinates):
        self.embeddings, self.coordinates = embeddings, coordinates
        self._lock = threading.Lock()
        self._built = None

    @cached_property
    def exact(self):
        """The exact engine of the same rows, made at first use."""
        return ExactEngine(self.embeddings, self.coordinates)

    @cached_property
    def frame(self):
        """Float32 points of rows and queries."""
        return Frame.of(self.embeddings, self.coordinates)

    def nearest(self, X, n_neighbors, selection):
        """Return distances and rows as `ExactEngine` does."""
        n = len(self.embeddings)
        share = 1.0 if selection.allowed is None else selection.allowed.mean()
        wanted = (n_neighbors + selection.most_excluded()) / max(share, 1 / n)
        wanted = int(np.ceil(self.oversampling * wanted)) + 10
        if n < self.approximate_from or wanted > min(self.widest, n) or share < SELECTIVE:
            return self.exact.nearest(X, n_neighbors, selection)
        queries = self.coordinates(X)
        candidates = self._query(self._ready(), self.frame.points(X), wanted)
        of_query, place = np.nonzero(candidates >= 0)
        row = candidates[of_query, place].astype(np.int64)
        keep = selection.pairs_allowed(of_query, row)
        of_query, row = of_query[keep], row[keep]
        exact = self.coordinates.distances(self.embeddings, row, queries, of_query)
        distances, found = empty(len(queries), n_neighbors)
        fill(distances, found, of_query, row, exact)
        short = np.flatnonzero(found[:, -1] < 0)
        if len(short):
            distances[short], found[short] = self.exact.nearest(X[short], n_neighbors, selection.of(short))
        return distances, found

    def _ready(self):
        """Return what `_build` makes; the first thread builds, the others wait."""
        with self._lock:
            if self._built is None:
                self._built = self._build()
            return self._built
