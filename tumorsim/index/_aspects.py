"""Aspects of similarity: what one head reads of the features, on a scale that all aspects share."""

from collections.abc import Mapping

import numpy as np

from tumorsim._validation import check_real
from tumorsim.index._engines import Coordinates

__all__ = ["aspect_coordinates", "check_weights", "combined_coordinates"]

PAIRS = 10_000  # random pairs of the archive that an aspect's spread is measured on


def check_weights(aspects, space):
    """Return aspect weights as a dict name → float.

    Raises
    ------
    TypeError, ValueError
        If an aspect is unknown, a weight is negative, or all are 0.
    """
    if not isinstance(aspects, Mapping) or not aspects:
        rule = "Parameter 'aspects' must map aspect names to weights, for instance {'type': 1}."
        raise TypeError(f"{rule} Got {aspects!r}.")
    known = {} if space is None else space.aspects
    for name in aspects:
        if name not in known:
            listed = (
                f"aspects are {', '.join(known)}" if known else "it has none: fit it with a space that has"
            )
            raise ValueError(f"'aspects' must name aspects of the index's space. Got {name!r}; {listed}.")
    weights = {name: check_real(w, f"aspects[{name!r}]", minimum=0) for name, w in aspects.items()}
    if not any(weights.values()):
        raise ValueError("At least one weight of 'aspects' must be greater than 0.")
    return weights


def aspect_coordinates(embeddings, rows, scale, unit_length):
    """Return the `Coordinates` of one aspect, in units of its median distance between tumors of the archive.

    `rows` (k, n_features) act on unscaled features, so on scaled ones they are rows / scale.
    """
    rows = rows if scale is None else rows / scale
    _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
    basis = directions[sizes > max(rows.shape) * np.finfo(np.float64).eps * sizes[0]]
    if not sizes[0] > 0:
        raise ValueError("An aspect whose rows are all 0 reads nothing of the features and has no distance.")
    spread = _median_distance(embeddings, Coordinates(scale, unit_length, basis))
    return Coordinates(scale, unit_length, basis / spread)


def combined_coordinates(aspects, weights):
    """Return `Coordinates` whose squared distance is the weighted sum of those of the aspects."""
    first = next(iter(aspects.values()))
    basis = np.vstack([np.sqrt(weights[name]) * c.basis for name, c in aspects.items() if weights[name] > 0])
    return Coordinates(first.scale, first.unit_length, basis)


def _median_distance(embeddings, coordinates):
    """Return the median distance of pairs of different rows, 1 where it is 0."""
    n = len(embeddings)
    if n * (n - 1) // 2 <= PAIRS:
        first, second = np.triu_indices(n, k=1)
    else:
        rng = np.random.default_rng(0)
        first = rng.integers(n, size=PAIRS)
        second = (first + rng.integers(1, n, size=PAIRS)) % n
    if len(first) == 0:
        return 1.0
    difference = coordinates(embeddings[first]) - coordinates(embeddings[second])
    return float(np.median(np.sqrt(np.einsum("ij,ij->i", difference, difference)))) or 1.0
