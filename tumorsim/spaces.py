"""`EmbeddingSpace`: what an index must know of the embedder that its rows come from."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields

import numpy as np

from tumorsim._validation import check_real, check_text, printable

__all__ = ["EmbeddingSpace", "MeasuredHead", "feature_scale", "read_measure"]

LOOKS = 0.3  # variance of the scaled features, in units of the heads' weights
LOGARITHMS = ("volume_mm3", "tumors_in_scan")  # columns that are read as their logarithms


@dataclass(frozen=True, eq=False)
class MeasuredHead:
    """A linear head that reads features and measured columns side by side (late fusion).

    Parameters
    ----------
    rows : array-like of shape (k, n_features)
        A row a class, of unscaled features.
    offsets : array-like of shape (k,)
        A number a class.
    columns : mapping of str to pair
        Column → its limits, (3,): the least value, the one that says nothing, and the largest; and what one
        more than the middle adds to each class, and its square, (2, k). Of ``volume_mm3`` and
        ``tumors_in_scan`` the natural logarithm is read. Values beyond the limits count as the limits, and
        what is missing adds nothing.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the numbers of classes differ.

    Examples
    --------
    >>> ratio = (0, 1, 2), [[1.0, -1.0], [0.0, 0.0]]
    >>> head = MeasuredHead([[1.0], [-1.0]], [0, 0], {"contrast": ratio})
    >>> head.probabilities([[0.0], [0.0]], {"contrast": [7.5, None]}).round(3).tolist()
    [[0.881, 0.119], [0.5, 0.5]]
    """

    rows: np.ndarray
    offsets: np.ndarray
    columns: Mapping[str, tuple]

    def __post_init__(self):
        rows, offsets = _frozen(self.rows, "rows", 2), _frozen(self.offsets, "offsets", 1)
        columns = {}
        for name, (limits, slopes) in self.columns.items():
            columns[check_text(name, "column")] = _frozen(limits, "limits", 1), _frozen(slopes, "slopes", 2)
        held = {(len(a), *slopes.shape, (np.diff(a) >= 0).all()) for a, slopes in columns.values()}
        if len(rows) != len(offsets) or held - {(3, 2, len(rows), True)}:
            raise ValueError("'rows', 'offsets', slopes must have a number a class, limits three that rise.")
        for name, value in {"rows": rows, "offsets": offsets, "columns": columns}.items():
            object.__setattr__(self, name, value)

    def terms(self, table):
        """Return of each column of a table how far values are from the middle, and the squares, (n, 2 m)."""
        terms = []
        for name, (limits, _) in self.columns.items():
            values = read_measure(table, name) if name in table else np.array([np.nan])
            values = np.where(np.isnan(values), 0, np.clip(values, limits[0], limits[2]) - limits[1])
            terms += [values, values**2]
        return np.stack(np.broadcast_arrays(*terms), axis=1) if terms else np.zeros((1, 0))

    def probabilities(self, X, table, others=None):
        """Return class probabilities (n, k) of X and table; of `others` where it knows under 3 columns."""
        terms = self.terms(table)
        slopes = np.concatenate([np.zeros((0, len(self.rows))), *(held[1] for held in self.columns.values())])
        found = _chances(X, self.rows, self.offsets, np.einsum("ij,jk->ik", terms, slopes))
        enough = np.count_nonzero(terms[:, ::2], axis=1) >= min(3, len(self.columns))
        return found if others is None else np.where(enough[:, None], found, others)

    def to_dict(self):
        """Return the content as a dict that JSON can hold without loss."""
        columns = {name: [one.tolist() for one in held] for name, held in self.columns.items()}
        return {"rows": self.rows.tolist(), "offsets": self.offsets.tolist(), "columns": columns}


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """Fingerprint, aspects and plain distance of an embedder, in NumPy only.

    With `offsets`, an aspect is what a head says: the distance of two tumors is that of Hellinger between
    their class probabilities, up to a constant. The squared plain distance is then the sum of the squared
    ones of the aspects, as `weights` count them, and of the scaled features. Without `offsets`, an aspect is
    the subspace that the head reads, and the plain distance that of the scaled features alone.

    Parameters
    ----------
    fingerprint : str
        Identifies tensors and preprocessing; embeddings of two fingerprints cannot be compared.
    aspects : mapping of str to array-like of shape (k, n_features), optional
        Name → rows that span the subspace which the head of that name reads, in unscaled features.
    scale : array-like of shape (n_features,), optional
        Positive factors that features are multiplied by before distances.
    offsets : mapping of str to array-like of shape (k,), optional
        The head's bias for each of its rows; of all aspects or of none.
    weights : mapping of str to float, optional
        How much an aspect counts in the plain distance; default 0. Needs `offsets`.
    measured : mapping of str to MeasuredHead or its ``to_dict``, optional
        Aspect → the head that is read in its place where a table of measures is at hand. Needs `offsets`.

    Attributes
    ----------
    n_features : int or None
        Number of features, if `scale` or an aspect tells it.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed, or the numbers of features differ.

    Examples
    --------
    >>> space = EmbeddingSpace("3fa1", {"type": [[1.0, -1.0, 0.0]]}, scale=[1.0, 2.0, 0.5])
    >>> space.n_features, EmbeddingSpace.from_dict(space.to_dict()) == space
    (3, True)
    >>> space.coordinates([[1, 1, 1]]).tolist()
    [[1.0, 2.0, 0.5]]
    """

    fingerprint: str
    aspects: Mapping[str, np.ndarray] = field(default_factory=dict)
    scale: np.ndarray | None = None
    offsets: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, MeasuredHead] = field(default_factory=dict)

    def __post_init__(self):
        check_text(self.fingerprint, "fingerprint")
        for name in ("aspects", "offsets", "weights", "measured"):
            if not isinstance(getattr(self, name), Mapping):
                got = type(getattr(self, name)).__name__
                raise TypeError(f"'{name}' must map names to arrays or numbers. Got {got}.")
        held = self.aspects.items()
        aspects = {check_text(k, "aspect name"): _frozen(v, f"aspect '{k}'", 2) for k, v in held}
        scale = None if self.scale is None else _frozen(self.scale, "scale", 1)
        if scale is not None and (scale <= 0).any():
            raise ValueError(f"'scale' must be greater than 0 for every feature. Got {scale.min()}.")
        sizes = {f"aspect '{name}'": rows.shape[1] for name, rows in aspects.items()}
        sizes |= {} if scale is None else {"scale": len(scale)}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {n}" for name, n in sizes.items())
            raise ValueError(f"Aspects and scale must agree on the number of features. Got {listed}.")
        offsets = {k: _frozen(v, f"offsets of '{k}'", 1) for k, v in self.offsets.items()}
        sizes = {name: len(v) for name, v in offsets.items()}
        if offsets and sizes != {name: len(rows) for name, rows in aspects.items()}:
            raise ValueError(f"'offsets' must have a number for each row of each aspect. Got {sizes}.")
        weights = {k: check_real(v, f"weights of '{k}'", minimum=0) for k, v in self.weights.items()}
        if not set(weights) <= set(offsets):
            raise ValueError(f"'weights' must name aspects with offsets. Got {sorted(weights)}.")
        held = self.measured.items()
        measured = {k: v if isinstance(v, MeasuredHead) else MeasuredHead(**v) for k, v in held}
        for name, head in measured.items():
            shape = aspects[name].shape if name in offsets else None
            if head.rows.shape != shape:
                rule = "'measured' must name aspects with offsets, of as many classes and features"
                raise ValueError(f"{rule}. Got '{printable(name)}' of {head.rows.shape}, and {shape}.")
        checked = {"aspects": aspects, "scale": scale, "offsets": offsets, "weights": weights}
        checked["measured"] = measured
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def n_features(self):
        """Number of features, or None if neither scale nor an aspect tells it."""
        arrays = (self.scale, *self.aspects.values())
        return next((array.shape[-1] for array in arrays if array is not None), None)

    def coordinates(self, X):
        """Return where plain distances are Euclidean, (n, n_coordinates), from embeddings (n, n_features)."""
        X = np.asarray(X, dtype=np.float64)
        points = [X if self.scale is None else X * self.scale]
        points += [np.sqrt(w) * self.aspect_coordinates(name, X) for name, w in self.weights.items() if w > 0]
        return points[0] if len(points) == 1 else np.hstack(points)

    def aspect_coordinates(self, name, X, table=None):
        """Return square roots of class probabilities (n, k) by the head of an aspect with offsets.

        With `table`, columns of the n tumors, it is the measured head where the aspect has one, but not for
        tumors without a mask, of which it knows fewer than three columns: the features alone say more.
        """
        chances = _chances(X, self.aspects[name], self.offsets[name])
        if table is not None and name in self.measured:
            chances = self.measured[name].probabilities(X, table, chances)
        return np.sqrt(chances)

    def __eq__(self, other):
        """Tell whether two spaces have the same content."""
        if not isinstance(other, EmbeddingSpace):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self):
        return hash(self.fingerprint)

    def to_dict(self):
        """Return the content as a dict that JSON can hold without loss."""
        return {
            "fingerprint": self.fingerprint,
            "aspects": {name: rows.tolist() for name, rows in self.aspects.items()},
            "scale": None if self.scale is None else self.scale.tolist(),
            "offsets": {name: offsets.tolist() for name, offsets in self.offsets.items()},
            "weights": dict(self.weights),
            "measured": {name: head.to_dict() for name, head in self.measured.items()},
        }

    @classmethod
    def from_dict(cls, content):
        """Return the space that `to_dict` wrote, or raise ValueError if `content` is not of its form."""
        try:
            known = {field.name: content[field.name] for field in fields(cls) if field.name != "measured"}
            return cls(**known, measured=content.get("measured", {}))  # which older files do not have
        except (AttributeError, KeyError, TypeError) as err:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"An embedding space needs {names}. Got {printable(repr(content))}.") from err


def _chances(X, rows, offsets, further=0.0):
    """Return class probabilities (n, k) of a linear head, to whose logits `further` ones are added."""
    logits = np.einsum("ij,kj->ik", np.asarray(X, dtype=np.float64), rows) + offsets + further
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def read_measure(table, name):
    """Return a column's numbers (n,), of `LOGARITHMS` their logarithms, NaN where there is none."""
    values = np.full(len(table[name]), np.nan)
    try:
        values[:] = table[name]
    except (OverflowError, TypeError, ValueError):  # a cell is no number
        for i, cell in enumerate(table[name]):
            with suppress(OverflowError, TypeError, ValueError):
                values[i] = cell
    values = np.log(np.where(values > 0, values, np.nan)) if name in LOGARITHMS else values
    return np.where(np.isfinite(values), values, np.nan)


def _frozen(values, name, ndim):
    """Return a read-only float64 copy with `ndim` axes and finite numbers."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as err:
        raise ValueError(f"'{name}' must be an array of numbers. Got {printable(repr(values))}.") from err
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"'{name}' must have {ndim} axes and no empty one. Got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"'{name}' must be finite.")
    array.setflags(write=False)
    return array


def feature_scale(pooled, aspects=None, weights=None):
    """Return what each feature is multiplied by before distances, (n_features,), from embeddings.

    A feature counts by how much the heads read of it, each head in units of its own spread, else by its own
    spread. Where heads count, the whole has a variance of 0.3 times the sum of their weights, which tells
    tumors apart of which the heads say the same.

    Parameters
    ----------
    pooled : ndarray of shape (n, n_features)
        Embeddings.
    aspects : mapping of str to ndarray of shape (k, n_features), optional
        Weights of each task's head, less their mean over classes.
    weights : mapping of str to float, optional
        How much a task counts; default 1.
    """
    pooled = pooled.astype(np.float64)
    spread = pooled.std(axis=0)
    power = np.zeros(pooled.shape[1])
    for task, rows in (aspects or {}).items():
        total = (pooled @ rows.T).var(axis=0).sum()
        if total > 0:
            power += (weights or {}).get(task, 1.0) * (rows**2).sum(axis=0) / total
    read = np.sqrt(power) * spread
    if not power.any():
        return 1 / _at_least_a_tenth(spread)
    scale = _at_least_a_tenth(read) / _at_least_a_tenth(spread)
    total = sum((weights or {}).get(task, 1.0) for task in aspects)
    return scale * np.sqrt(LOOKS * total / (pooled * scale).var(axis=0).sum())


def _at_least_a_tenth(values):
    """Return `values` (n,), none below a tenth of the median of the positive ones."""
    positive = values[values > 0]
    return np.maximum(values, 0.1 * np.median(positive)) if positive.size else np.ones_like(values)
