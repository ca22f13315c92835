"""`EmbeddingSpace`: what an index must know of the embedder that its rows come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tumorsim._validation import check_text

__all__ = ["EmbeddingSpace", "feature_scale"]


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """Fingerprint, aspects and feature scaling of an embedder, in NumPy only.

    Parameters
    ----------
    fingerprint : str
        Identifies tensors and preprocessing; embeddings of two fingerprints cannot be compared.
    aspects : mapping of str to array-like of shape (k, n_features), optional
        Name → rows that span the subspace which the head of that name reads, in unscaled features.
    scale : array-like of shape (n_features,), optional
        Positive factors that features are multiplied by before distances.

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
    """

    fingerprint: str
    aspects: Mapping[str, np.ndarray] = field(default_factory=dict)
    scale: np.ndarray | None = None

    def __post_init__(self):
        check_text(self.fingerprint, "fingerprint")
        if not isinstance(self.aspects, Mapping):
            raise TypeError(f"'aspects' must map names to arrays. Got {type(self.aspects).__name__}.")
        aspects = {
            check_text(k, "aspect name"): _frozen(v, f"aspect '{k}'", 2) for k, v in self.aspects.items()
        }
        scale = None if self.scale is None else _frozen(self.scale, "scale", 1)
        if scale is not None and (scale <= 0).any():
            raise ValueError(f"'scale' must be greater than 0 for every feature. Got {scale.min()}.")
        sizes = {f"aspect '{name}'": rows.shape[1] for name, rows in aspects.items()}
        sizes |= {} if scale is None else {"scale": len(scale)}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name}: {n}" for name, n in sizes.items())
            raise ValueError(f"Aspects and scale must agree on the number of features. Got {listed}.")
        object.__setattr__(self, "aspects", aspects)
        object.__setattr__(self, "scale", scale)

    @property
    def n_features(self):
        """Number of features, or None if neither scale nor an aspect tells it."""
        for array in (self.scale, *self.aspects.values()):
            if array is not None:
                return array.shape[-1]
        return None

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
        }

    @classmethod
    def from_dict(cls, content):
        """Return the space that `to_dict` wrote.

        Raises
        ------
        ValueError
            If `content` lacks a key or is malformed.
        """
        try:
            return cls(content["fingerprint"], content["aspects"], content["scale"])
        except (KeyError, TypeError) as err:
            raise ValueError(
                f"An embedding space needs fingerprint, aspects and scale. Got {content!r}."
            ) from err


def _frozen(values, name, ndim):
    """Return a read-only float64 copy with `ndim` axes and finite numbers."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"'{name}' must be an array of numbers. Got {values!r}.") from err
    if array.ndim != ndim or 0 in array.shape:
        raise ValueError(f"'{name}' must have {ndim} axes and no empty one. Got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"'{name}' must be finite.")
    array.setflags(write=False)
    return array


def feature_scale(pooled, aspects=None, weights=None):
    """Return what each feature is multiplied by before distances, (n_features,), from embeddings.

    A feature counts by how much the heads read of it: the distance is about that between the heads' outputs,
    each head's in units of its own spread. Divided by its spread alone, as where there are no heads, every
    feature would count alike, and what few of them carry, such as the side, would drown.

    Parameters
    ----------
    pooled : ndarray of shape (n, n_features)
        Embeddings.
    aspects : mapping of str to ndarray of shape (k, n_features), optional
        A head's weights a task, less their mean over classes.
    weights : mapping of str to float, optional
        How much a task counts; default 1.

    Returns
    -------
    scale : ndarray of shape (n_features,), dtype=float64
        Features that nearly no head reads keep a tenth of the median, nearly constant ones are not blown up.
    """
    pooled = pooled.astype(np.float64)
    spread = pooled.std(axis=0)
    power = np.zeros(pooled.shape[1])
    for task, rows in (aspects or {}).items():
        total = (pooled @ rows.T).var(axis=0).sum()
        if total > 0:
            power += (weights or {}).get(task, 1.0) * (rows**2).sum(axis=0) / total
    read = np.sqrt(power) * spread
    read = _at_least_a_tenth(read) if power.any() else np.ones_like(spread)
    return read / _at_least_a_tenth(spread)


def _at_least_a_tenth(values):
    """Return `values` (n,), none below a tenth of the median of the positive ones."""
    positive = values[values > 0]
    return np.maximum(values, 0.1 * np.median(positive)) if positive.size else np.ones_like(values)
