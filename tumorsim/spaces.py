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


def feature_scale(pooled):
    """Return one over each feature's spread, (n_features,), of embeddings (n, n_features).

    Nearly constant features are not blown up: a tenth of the median spread is the least that counts.
    """
    spread = pooled.astype(np.float64).std(axis=0)
    positive = spread[spread > 0]
    floor = 0.1 * np.median(positive) if positive.size else 1.0
    return 1 / np.maximum(spread, floor)
