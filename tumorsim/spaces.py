"""`EmbeddingSpace`: what an index must know of the embedder that its rows come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from tumorsim._validation import check_real, check_text, printable

__all__ = ["EmbeddingSpace", "feature_scale"]

LOOKS = 0.3  # variance of the scaled features, in units of the heads' weights


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

    def __post_init__(self):
        check_text(self.fingerprint, "fingerprint")
        for name in ("aspects", "offsets", "weights"):
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
        checked = {"aspects": aspects, "scale": scale, "offsets": offsets, "weights": weights}
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

    def aspect_coordinates(self, name, X):
        """Return square roots of class probabilities (n, k) by the head of an aspect with offsets."""
        logits = np.einsum("ij,kj->ik", np.asarray(X, dtype=np.float64), self.aspects[name])
        logits += self.offsets[name]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.sqrt(shares / shares.sum(axis=1, keepdims=True))

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
        }

    @classmethod
    def from_dict(cls, content):
        """Return the space that `to_dict` wrote, or raise ValueError if `content` is not of its form."""
        try:
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (KeyError, TypeError) as err:
            names = ", ".join(field.name for field in fields(cls))
            raise ValueError(f"An embedding space needs {names}. Got {printable(repr(content))}.") from err


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
