"""Networks of the same backbone that learned nothing, or one thing."""

from sklearn.base import clone

from benchmarks._checks import check_integer, check_text
from benchmarks.baselines._features import Baseline
from benchmarks.label_free import untrained_copy
from tumorsim.embedder import TumorEmbedder
from tumorsim.training import Recipe

__all__ = ["UntrainedEmbedder", "siamese", "single_task"]


class UntrainedEmbedder(Baseline):
    """A `TumorEmbedder`'s network at random weights: what architecture and boxes give without learning.

    Parameters
    ----------
    embedder : TumorEmbedder, optional
        Whose architecture, channels, blocks and spacing are taken. Default: ``TumorEmbedder()``.
    random_state : int, default=0
        Seed of the weights.

    Attributes
    ----------
    embedder_ : TumorEmbedder
        See `evaluation.untrained_copy`: batch norms are settled on scans of `fit`, nothing else is learned.
    n_features_out_ : int

    Notes
    -----
    Features are brought to ``embedder_.space_.coordinates``, as `TumorIndex` does for a trained network, so
    that rows can be compared as they are.

    Examples
    --------
    >>> from tumorsim import make_cohort
    >>> cohort = make_cohort(2, random_state=0, spacing=4.0)
    >>> small = TumorEmbedder(spacing=4.0, patch_size=32, n_channels=8, n_blocks=1)
    >>> UntrainedEmbedder(small).fit_transform(cohort).shape == (len(cohort), 8)
    True
    """

    def __init__(self, embedder=None, *, random_state=0):
        self.embedder = embedder
        self.random_state = random_state

    def _fit(self, tumors, y):
        seed = check_integer(self.random_state, "random_state")
        embedder = TumorEmbedder() if self.embedder is None else clone(self.embedder)
        self.embedder_ = untrained_copy(embedder, tumors, random_state=seed)
        self.n_features_out_ = self.embedder_.n_features_out_

    def _transform(self, tumors):
        return self.embedder_.space_.coordinates(self.embedder_.transform(tumors))


def single_task(task, **overrides):
    """Return an embedder of the default recipe that learns one label, or only the tumor mask.

    Parameters
    ----------
    task : str
        A label, or ``"mask"``.
    **overrides
        Parameters of `TumorEmbedder`.

    Returns
    -------
    TumorEmbedder
        Not fitted. For a label, the mask's head has weight 0, so that it moves nothing; for the mask, there
        are no tasks.

    References
    ----------
    Retrieval by a classifier's features: reference [12] of arXiv:1810.09369, and its table 3.

    Examples
    --------
    >>> single_task("type", n_channels=16).task_weights
    {'mask': 0.0}
    """
    task = check_text(task, "task")
    own = {"tasks": ()} if task == "mask" else {"tasks": (task,), "task_weights": {"mask": 0.0}}
    return TumorEmbedder(recipe=Recipe(), **own).set_params(**overrides)


def siamese(task="type", **overrides):
    """Return an embedder that learns by comparing tumors only: alike where a label is, else unlike.

    No head has a say in the loss; all of it is the supervised-contrastive loss of a batch's embeddings.

    Parameters
    ----------
    task : str, default="type"
        Label that says which tumors are alike.
    **overrides
        Parameters of `TumorEmbedder`. The default has batches of 8, 50 an epoch: as many patches as the
        default recipe sees, in twice as large batches, since pairs are found within a batch.

    Returns
    -------
    TumorEmbedder
        Not fitted.

    Notes
    -----
    The loss sees directions, not lengths: compare such embeddings with ``metric="cosine"`` as well.

    References
    ----------
    A Siamese network is reference [11] of arXiv:1810.09369; the loss is that of P. Khosla et al., "Supervised
    Contrastive Learning", NeurIPS 2020.

    Examples
    --------
    >>> embedder = siamese(max_epochs=2)
    >>> embedder.recipe.contrastive, embedder.task_weights
    (1.0, {'mask': 0.0, 'type': 0.0})
    """
    task = check_text(task, "task")
    own = {"tasks": (task,), "task_weights": {"mask": 0.0, task: 0.0}}
    own |= {"batch_size": 8, "batches_per_epoch": 50}
    return TumorEmbedder(recipe=Recipe(contrastive=1.0), **own).set_params(**overrides)
