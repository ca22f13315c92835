"""Forest neighborhoods: two tumors are alike that fall into the same leaves."""

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier

from benchmarks._checks import check_integer
from benchmarks.baselines._features import Baseline, TumorFeatures
from benchmarks.baselines._measures import intensity_features, volume_place_features
from tumorsim.training import label_table

__all__ = ["ForestCodes"]


class ForestCodes(Baseline):
    """The leaves that a tumor falls into, in forests trained on labels.

    One forest is grown per task, over the tumors of `fit` that have its label; classes count alike. A tumor's
    code are the numbers of its leaves. The Hamming distance of two codes is the share of trees in which they
    lie in different leaves.

    Parameters
    ----------
    estimator : transformer, optional
        Tumors → features: a baseline, or a `TumorEmbedder`. A copy is fitted first; one that is fitted
        already is left as it is inside `sklearn.frozen.FrozenEstimator`. Default: size, place and intensity
        figures.
    tasks : sequence of str, optional
        Labels to grow forests on. Default: all that the tumors carry with at least two classes.
    n_trees : int, default=64
        Trees per task.
    min_samples_leaf : int, default=5
        Tumors a leaf: with one a leaf, hardly two tumors would ever meet.
    random_state : int, default=0

    Attributes
    ----------
    estimator_ : transformer
    forests_ : dict of ExtraTreesClassifier
        By task.
    n_features_out_ : int

    Notes
    -----
    The tumors of `fit` shaped the leaves that they lie in: their distances to each other are too good. Only
    those of other patients' tumors to them say anything.

    References
    ----------
    E. Konukoglu et al., "Neighbourhood approximation using randomized forests", Medical Image Analysis 17,
    2013. P. Geurts et al., "Extremely randomized trees", Machine Learning 63, 2006.

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> from benchmarks.baselines import RandomVectors
    >>> cohort = make_cohort(4, random_state=0, spacing=4.0)
    >>> forest = ForestCodes(RandomVectors(), tasks=["hemisphere"], n_trees=7, min_samples_leaf=1)
    >>> forest.fit_transform(cohort).shape == (len(cohort), 7), forest.metric
    (True, 'hamming')
    """

    metric = "hamming"

    def __init__(self, estimator=None, *, tasks=None, n_trees=64, min_samples_leaf=5, random_state=0):
        self.estimator = estimator
        self.tasks = tasks
        self.n_trees = n_trees
        self.min_samples_leaf = min_samples_leaf
        self.random_state = random_state

    def _fit(self, tumors, y):
        n_trees = check_integer(self.n_trees, "n_trees", minimum=1)
        min_samples_leaf = check_integer(self.min_samples_leaf, "min_samples_leaf", minimum=1)
        random_state = check_integer(self.random_state, "random_state")
        labels = label_table(tumors, y, self.tasks)
        labels = labels[[task for task in labels if labels[task].nunique() > 1]]
        if not len(labels.columns):
            raise ValueError("A forest needs a label with at least two classes. Got none; look at 'tasks'.")
        plain = TumorFeatures((volume_place_features, intensity_features), standardize=False)
        self.estimator_ = clone(plain if self.estimator is None else self.estimator)
        if hasattr(self.estimator_, "fit_transform"):
            features = self.estimator_.fit_transform(tumors, y)
        else:  # frozen: there is nothing to fit
            features = self.estimator_.transform(tumors)
        features = np.asarray(features)
        self.forests_ = {}
        for task in labels:
            known = labels[task].notna().to_numpy()
            forest = ExtraTreesClassifier(
                n_trees,
                min_samples_leaf=min_samples_leaf,
                class_weight="balanced",
                random_state=random_state,
            )
            self.forests_[task] = forest.fit(features[known], labels.loc[known, task].to_numpy(str))
        self.n_features_out_ = n_trees * len(self.forests_)
        return self._codes(features)

    def _transform(self, tumors):
        return self._codes(np.asarray(self.estimator_.transform(tumors)))

    def _codes(self, features):
        """Return leaves of features (n, n_features); numbers up to 2**24 are exact in float32."""
        return np.concatenate([forest.apply(features) for forest in self.forests_.values()], axis=1)
