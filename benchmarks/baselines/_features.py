"""Baselines as scikit-learn estimators: tumors in, one row per tumor out, compared by `metric`."""

import hashlib

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from benchmarks._checks import check_choice, check_integer
from tumorsim.records import Cohort, check_tumors

__all__ = ["Baseline", "RandomVectors", "TumorFeatures"]


class Baseline(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What all baselines share; a subclass has `_fit` and `_transform`.

    Attributes
    ----------
    metric : str
        How rows are compared: ``"euclidean"`` or ``"hamming"`` (the share of columns that differ). It is a
        fact about the class, not a parameter.
    n_features_out_ : int
        Numbers per tumor; once fitted.
    """

    metric = "euclidean"

    def fit(self, tumors, y=None):
        """Learn from tumors.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor
        y : DataFrame, dict or array-like of shape (n_tumors,), optional
            In place of the tumors' labels, as in `TumorEmbedder.fit`; baselines that do not look at labels
            ignore it.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of its range, or there are no tumors.
        CohortError
            If headers show that scans cannot be used; all of them are listed.
        """
        self._learn(tumors, y)
        return self

    def transform(self, tumors):
        """Return the tumors' features.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor

        Returns
        -------
        X : ndarray of shape (n_tumors, n_features), dtype=float32
            Rows in the order given.

        Raises
        ------
        NotFittedError
            Before `fit`.
        CohortError
            If headers show that scans cannot be used; all of them are listed.
        """
        check_is_fitted(self, "n_features_out_", msg="This %(name)s is not fitted yet. Call 'fit' first.")
        tumors = _checked(tumors)
        if not tumors:
            return np.zeros((0, self.n_features_out_), dtype=np.float32)
        return _rows(self._transform(tumors))

    def fit_transform(self, tumors, y=None):
        """Fit, and return the features of the same tumors, measured once.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor
        y : DataFrame, dict or array-like of shape (n_tumors,), optional
            As in `fit`.

        Returns
        -------
        X : ndarray of shape (n_tumors, n_features), dtype=float32
        """
        tumors, X = self._learn(tumors, y)
        return _rows(self._transform(tumors) if X is None else X)

    def _learn(self, tumors, y):
        """Fit on checked tumors; return them, and their rows where fitting has worked them out."""
        tumors = _checked(tumors)
        if not tumors:
            raise ValueError("'tumors' must hold at least one tumor. Got none.")
        return tumors, self._fit(tumors, y)

    @property
    def _n_features_out(self):
        """How scikit-learn's mixin wants it called."""
        return self.n_features_out_


class RandomVectors(Baseline):
    """Numbers that know nothing of the tumor: what chance looks like under the same protocol.

    Parameters
    ----------
    n_features : int, default=32
    random_state : int, default=0
        A tumor's vector depends on it and on ``tumor_id``, and on nothing else.

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> cohort = make_cohort(2, random_state=0, spacing=4.0)
    >>> X = RandomVectors().fit_transform(cohort)
    >>> bool((RandomVectors().fit(cohort[:1]).transform(cohort[::-1]) == X[::-1]).all())
    True
    """

    def __init__(self, *, n_features=32, random_state=0):
        self.n_features = n_features
        self.random_state = random_state

    def _fit(self, tumors, y):
        n_features = check_integer(self.n_features, "n_features", minimum=1)
        check_integer(self.random_state, "random_state")
        self.n_features_out_ = n_features

    def _transform(self, tumors):
        return [self._vector(tumor.tumor_id) for tumor in tumors]

    def _vector(self, tumor_id):
        """Return a tumor's numbers, normally distributed, (n_features,)."""
        digest = hashlib.sha256(f"{self.random_state}|{tumor_id}".encode()).digest()
        return np.random.default_rng(list(digest)).standard_normal(self.n_features_out_)


class TumorFeatures(Baseline):
    """Figures of each tumor, brought to one scale and to their principal components.

    Parameters
    ----------
    measure : callable or tuple of callable
        Tumors → array (n_tumors, n_figures), such as `intensity_features`; figures of several stand side by
        side.
    standardize : bool, default=True
        Bring each figure to mean 0 and variance 1 over the tumors of `fit`.
    n_components : int or None, default=None
        Keep that many principal components, or all there are if they are fewer; None: figures as they are.

    Attributes
    ----------
    n_features_out_ : int

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> from benchmarks.baselines import intensity_features
    >>> cohort = make_cohort(3, random_state=0, spacing=4.0)
    >>> TumorFeatures(intensity_features, n_components=2).fit_transform(cohort).shape == (len(cohort), 2)
    True
    """

    def __init__(self, measure, *, standardize=True, n_components=None):
        self.measure = measure
        self.standardize = standardize
        self.n_components = n_components

    def _fit(self, tumors, y):
        check_choice(self.standardize, "standardize", (True, False))
        n_components = check_integer(self.n_components, "n_components", minimum=1, allow_none=True)
        for measure in self._measures():
            if not callable(measure):
                raise TypeError(
                    f"Parameter 'measure' must be a callable or a tuple of them. Got {measure!r}."
                )
        X = self._figures(tumors)
        steps = [StandardScaler()] if self.standardize else []
        if n_components is not None:
            steps.append(PCA(min(n_components, *X.shape), svd_solver="full"))
        self.steps_ = []
        for step in steps:
            X = step.fit(X).transform(X)  # as `_transform` will work it out, bit for bit
            self.steps_.append(step)
        self.n_features_out_ = X.shape[1]
        return X

    def _transform(self, tumors):
        X = self._figures(tumors)
        for step in self.steps_:
            X = step.transform(X)
        return X

    def _measures(self):
        """Return the measures as a tuple."""
        return self.measure if isinstance(self.measure, tuple) else (self.measure,)

    def _figures(self, tumors):
        """Return all figures side by side, (n_tumors, n_figures)."""
        return np.concatenate([np.asarray(measure(tumors)) for measure in self._measures()], axis=1)


def _checked(tumors):
    """Return a list of tumors whose headers have been looked at."""
    tumors = check_tumors(tumors)
    Cohort(tumors).check()
    return tumors


def _rows(X):
    """Return rows as float32."""
    return np.ascontiguousarray(X, dtype=np.float32)
