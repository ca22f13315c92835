"""`TumorEmbedder`: tumors in, one vector per tumor out; a thin scikit-learn estimator."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from tumorsim._validation import check_choice, check_fitted, check_integer, check_real
from tumorsim.exceptions import WeightsError
from tumorsim.geometry import crop_slices
from tumorsim.inference import embed_boxes, mask_probability
from tumorsim.nn import Network, choose_device, to_device
from tumorsim.preprocessing import Preprocessing, VoxelCache
from tumorsim.records import Case, Cohort, Tumor, check_tumors, group_by_case
from tumorsim.spaces import feature_scale
from tumorsim.training import (
    Recipe,
    describe_data,
    encode_labels,
    find_classes,
    head_weights,
    label_table,
    load_training_cases,
    prefetch_scans,
    run_seed,
    settle_batch_norms,
    train,
)
from tumorsim.weights import (
    embedding_space,
    find_weights,
    head_aspects,
    load_model,
    load_registry,
    save_model,
    start_from_weights,
)

__all__ = ["TumorEmbedder"]

SETTLING_SCANS = 8  # read by `initialize`
# parameters that override the recipe's of the same name
OVERRIDES = (
    "n_channels",
    "n_blocks",
    "spacing",
    "patch_size",
    "batch_size",
    "max_epochs",
    "batches_per_epoch",
    "lr",
)


class TumorEmbedder(TransformerMixin, BaseEstimator):
    """Learn from all labels of a cohort at once, and turn each tumor into a vector.

    One 3-D CNN with several heads (tumor mask, and one per task) is trained on whatever labels there are;
    a missing label drops its term of the loss. A tumor's embedding is the maximum of each channel of the
    backbone's feature map over the tumor's bounding box.

    The sample is the tumor: `fit` and `transform` take a `Cohort` or a list of `Tumor`, so scikit-learn's
    splitters, pipelines and searches work; give them ``groups=cohort.patient_ids``.

    Parameters
    ----------
    tasks : sequence of str, optional
        Labels to learn. Default: all that the tumors carry with at least two classes.
    task_weights : dict of float, optional
        A head's factor in the loss, ``mask`` among them; 0 removes a head from the loss. Default: mask
        6, tasks of two classes 1/3, other tasks 1, which brings their gradients to one order.
    recipe : {"default", "paper", "fine-tune"} or Recipe, default="default"
        How the network is built and trained. A name is looked up in `fit` (see `Recipe.named`);
        ``"fine-tune"`` needs `initial_weights`. With a `Recipe`, nested names such as
        ``recipe__weight_decay`` work in ``set_params`` and in a search.
    n_channels, n_blocks, spacing, patch_size : optional
        Shape of network and patches; see `Recipe`. Here and in the next line, None takes the recipe's value,
        and anything else is used instead of it.
    batch_size, max_epochs, batches_per_epoch, lr : optional
        Length and rate of training; see `Recipe`. None takes the recipe's value.
    initial_weights : str or Path, optional
        Model file, or name of shipped weights (``tumorsim weights list``), that training starts from: the
        backbone and the mask's head are taken over, and of other heads the classes that both know. Its
        architecture and spacing must be those asked for. `from_pretrained` sets it.
    freeze_backbone : bool, default=False
        Train heads only, so that embeddings stay what they were; for small cohorts. Needs `initial_weights`.
    device : str, default="auto"
        ``"auto"`` takes CUDA, else MPS, else the CPU.
    n_jobs : int, default=1
        Threads that prefetch scans and patches for the network.
    cache_dir : str or Path, optional
        Keep prepared scans here, so that the next run need not prepare them again and memory stays free.
    checkpoint_dir : str or Path, optional
        Write the state of training here after every epoch, for ``fit(resume=True)``.
    random_state : int, RandomState instance or None, default=None
        Fixes the result on one machine and number of threads.
    verbose : int, default=0
        1 shows progress bars with the time left and each head's loss.

    Attributes
    ----------
    network_ : nn.Network
    recipe_ : Recipe
        That of the fit: names looked up, overrides applied.
    tasks_ : list of str
    classes_ : dict of list of str
        Task → class names in the order of the head's outputs.
    space_ : EmbeddingSpace
        What an index must know: fingerprint, each task's aspect, the plain distance.
    history_ : list of dict
        One entry per epoch: epoch, lr, loss, ``loss_<head>``, seconds. Empty after `initialize`.
    n_features_out_ : int

    References
    ----------
    "Brain Tumor Image Retrieval via Multitask Learning", arXiv:1810.09369 (2018).

    Examples
    --------
    >>> from tumorsim import TumorEmbedder, make_cohort
    >>> cohort = make_cohort(3, random_state=0, spacing=4.0)
    >>> small = {"spacing": 4.0, "patch_size": 32, "n_channels": 8, "n_blocks": 1}
    >>> embedder = TumorEmbedder(tasks=["type"], max_epochs=1, batches_per_epoch=2, **small)
    >>> embedder.fit_transform(cohort).shape == (len(cohort), 8)
    True
    """

    def __init__(
        self,
        *,
        tasks=None,
        task_weights=None,
        recipe="default",
        n_channels=None,
        n_blocks=None,
        spacing=None,
        patch_size=None,
        batch_size=None,
        max_epochs=None,
        batches_per_epoch=None,
        lr=None,
        initial_weights=None,
        freeze_backbone=False,
        device="auto",
        n_jobs=1,
        cache_dir=None,
        checkpoint_dir=None,
        random_state=None,
        verbose=0,
    ):
        self.tasks = tasks
        self.task_weights = task_weights
        self.recipe = recipe
        self.n_channels = n_channels
        self.n_blocks = n_blocks
        self.spacing = spacing
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.batches_per_epoch = batches_per_epoch
        self.lr = lr
        self.initial_weights = initial_weights
        self.freeze_backbone = freeze_backbone
        self.device = device
        self.n_jobs = n_jobs
        self.cache_dir = cache_dir
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def paper(cls, **parameters) -> TumorEmbedder:
        """Return an embedder with the recipe of arXiv:1810.09369, section 2; it needs a GPU.

        Parameters
        ----------
        **parameters
            Of the estimator; ``recipe__augment=True`` and so on change the recipe.

        Examples
        --------
        >>> TumorEmbedder.paper(n_channels=16).recipe.max_epochs
        120
        """
        return cls(recipe=Recipe.named("paper")).set_params(**parameters)

    def fit(self, tumors: Cohort | Sequence[Tumor], y=None, *, resume: bool = False) -> TumorEmbedder:
        """Train on the tumors' labels and masks.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor
        y : DataFrame, dict or array-like of shape (n_tumors,), optional
            A table or dict (task → values) replaces the tumors' labels; None and NaN are missing. A 1-D
            array, as a pipeline passes it, is ignored where the tumors carry labels, and becomes task
            ``target`` where they do not.
        resume : bool, default=False
            Go on from the checkpoint in `checkpoint_dir`; where there is none, begin. The seed is that of the
            interrupted run unless `random_state` is an integer. On the same machine and number of threads
            the result is that of an uninterrupted run, bit for bit.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range, or there is nothing to learn.
        CohortError
            If scans cannot be used; all of them are listed, before training starts.
        TrainingError
            If the loss is not finite, or the checkpoint belongs to another run.
        """
        seed = run_seed(self.random_state, checkpoint_dir=self.checkpoint_dir, resume=resume)
        plan = self._plan(tumors, y, seed)
        if not plan.classes and not any(tumor.case.has_mask for tumor in plan.tumors):
            raise ValueError("Tumors must carry a mask, or a label with at least two classes. Got neither.")
        if plan.recipe.contrastive and not plan.classes:
            raise ValueError("'contrastive' needs a label with at least two classes. Got none.")
        weights = head_weights(plan.classes, self.task_weights)
        preprocessing, start = plan.preprocessing, {}
        if self.initial_weights is not None:
            preprocessing, start = start_from_weights(
                plan.network, self.initial_weights, plan.classes, preprocessing, freeze=self.freeze_backbone
            )
        network = to_device(plan.network, plan.device)
        cases = self._load(plan.tumors, plan.codes, preprocessing)
        history, pooled = train(
            network, cases, plan.classes, plan.recipe, plan.device, seed=seed, task_weights=weights,
            start=start | preprocessing.to_dict(), n_jobs=self.n_jobs, checkpoint_dir=self.checkpoint_dir,
            resume=resume, verbose=self.verbose,
        )  # fmt: skip
        self.history_ = history
        scale = feature_scale(pooled, head_aspects(network), weights)
        counts = {task: weights[task] for task in plan.classes}
        record = describe_data(plan.tumors) | start
        return self._set_fitted(network, plan.recipe, preprocessing, plan.classes, scale, record, counts)

    def initialize(self, tumors: Cohort | Sequence[Tumor], y=None) -> TumorEmbedder:
        """Build the network as `fit` does, but train nothing: what architecture and boxes give by themselves.

        Its weights are drawn at random. Only the statistics of its batch norms and its feature scaling are
        those of patches around the tumors, without which the network would be broken rather than untrained:
        10 batches of 2 patches of 128 mm, not augmented. `initial_weights` are not read.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor
            The patches come from the first 8 scans, around the first tumor of each.
        y : DataFrame, dict or array-like of shape (n_tumors,), optional
            As in `fit`. Labels only say which heads the network has; none counts in `space_`.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range.
        CohortError
            If scans cannot be used.

        Notes
        -----
        An integer `random_state` is the seed itself.
        """
        seed = run_seed(self.random_state)
        if isinstance(self.random_state, numbers.Integral):
            seed = int(self.random_state)
        plan = self._plan(tumors, y, seed)
        network = to_device(plan.network, plan.device)
        first = [rows[0] for rows in group_by_case(plan.tumors)[:SETTLING_SCANS]]
        cases = self._load([plan.tumors[row] for row in first], plan.codes[first], plan.preprocessing)
        scale = feature_scale(settle_batch_norms(network, cases, plan.device, seed=seed))
        self.history_ = []
        record = {"untrained": seed}
        return self._set_fitted(network, plan.recipe, plan.preprocessing, plan.classes, scale, record, {})

    def _plan(self, tumors, y, seed):
        """Return what `fit` and `initialize` begin with, everything checked, as a `_Plan`."""
        recipe = self._check_parameters()
        preprocessing = Preprocessing(recipe.spacing, recipe.patch_size)
        device = choose_device(self.device)
        tumors = check_tumors(tumors)
        if not tumors:
            raise ValueError("'tumors' must hold at least one tumor. Got none.")
        labels = label_table(tumors, y, self.tasks)
        classes = find_classes(labels)
        shape = {name: getattr(recipe, name) for name in ("architecture", "n_channels", "n_blocks")}
        with torch.random.fork_rng(devices=[]):  # leave the caller's random numbers alone
            torch.manual_seed(seed)
            network = Network({task: len(names) for task, names in classes.items()}, **shape)
        codes = encode_labels(labels, classes)
        return _Plan(tumors, recipe, classes, codes, preprocessing, device, network)

    def _check_parameters(self):
        """Return the recipe to use, after a check of all parameters."""
        check_integer(self.n_jobs, "n_jobs", minimum=1)
        check_choice(self.freeze_backbone, "freeze_backbone", (True, False))
        if self.freeze_backbone and self.initial_weights is None:
            raise ValueError("'freeze_backbone' needs 'initial_weights': else nothing is ever learned.")
        if isinstance(self.tasks, str):
            raise TypeError(f"Parameter 'tasks' must be a sequence of names. Got {self.tasks!r}.")
        if not isinstance(self.task_weights, dict | None):
            raise TypeError(f"Parameter 'task_weights' must be a dict or None. Got {self.task_weights!r}.")
        recipe = self.recipe
        if isinstance(recipe, str):
            trained = None
            if recipe == "fine-tune":
                if self.initial_weights is None:
                    raise ValueError(
                        "recipe='fine-tune' needs 'initial_weights': it goes on from their recipe."
                    )
                _, config = load_model(find_weights(self.initial_weights, progress=True))
                trained = _parameters(config)[0]
            recipe = Recipe.named(recipe, trained=trained)
        elif not isinstance(recipe, Recipe):
            raise TypeError(f"Parameter 'recipe' must be a name or a Recipe. Got {recipe!r}.")
        overrides = {name: getattr(self, name) for name in OVERRIDES if getattr(self, name) is not None}
        return Recipe(**recipe.get_params(deep=False) | overrides).check()

    def _load(self, tumors, codes, preprocessing):
        """Return the tumors' scans as training cases."""
        return load_training_cases(
            tumors, codes, preprocessing, cache=self._cache(), n_jobs=self.n_jobs, verbose=self.verbose
        )

    def transform(self, tumors: Cohort | Sequence[Tumor]) -> np.ndarray:
        """Return the tumors' embeddings.

        Parameters
        ----------
        tumors : Cohort or sequence of Tumor
            Each scan is read once, whatever the order.

        Returns
        -------
        X : ndarray of shape (n_tumors, n_channels), dtype=float32
            Rows in the order given.

        Raises
        ------
        NotFittedError
            Before `fit` or `load`.
        CohortError
            If headers show that scans cannot be used; all of them are listed.
        GeometryError
            If the voxels of a scan cannot be used.
        """
        return self._embed(tumors)

    def _embed(self, tumors):
        """Return embeddings as an array, whatever `set_output` says of `transform`."""
        check_fitted(self, "network_")
        tumors = check_tumors(tumors)
        Cohort(tumors).check()
        network = self._ready_network()
        X = np.zeros((len(tumors), self.n_features_out_), dtype=np.float32)
        cache = self._cache()
        groups = group_by_case(tumors)
        volumes = prefetch_scans(
            lambda rows: self.preprocessing_.prepare_case(tumors[rows[0]].case, cache=cache),
            groups, n_jobs=self.n_jobs, description="embedding", verbose=self.verbose,
        )  # fmt: skip
        for rows, volume in zip(groups, volumes, strict=True):
            image, origin = self.preprocessing_.pad(volume.image)
            X[rows] = embed_boxes(network, image, volume.boxes([tumors[r].bbox for r in rows]) + origin)
        return X

    def predict_proba(self, tumors: Cohort | Sequence[Tumor]) -> dict[str, pd.DataFrame]:
        """Return each head's probabilities.

        Returns
        -------
        dict of DataFrame
            Task → one row per tumor, one column per class.
        """
        pooled = torch.from_numpy(self._embed(tumors))
        with torch.inference_mode():
            logits = self._ready_network().classify(pooled.to(choose_device(self.device)))
        return {
            task: pd.DataFrame(values.softmax(dim=1).cpu().numpy(), columns=self.classes_[task])
            for task, values in logits.items()
        }

    def predict(self, tumors: Cohort | Sequence[Tumor]) -> pd.DataFrame:
        """Return each head's most probable class: one row per tumor, one column per task."""
        tumors = check_tumors(tumors)
        best = {task: table.idxmax(axis=1) for task, table in self.predict_proba(tumors).items()}
        return pd.DataFrame(best, index=range(len(tumors)))

    def segment(self, case: Case, *, threshold: float = 0.5) -> np.ndarray:
        """Propose a tumor mask for a scan.

        Parameters
        ----------
        case : Case
        threshold : float, default=0.5
            Probability from which a voxel is tumor.

        Returns
        -------
        mask : ndarray of shape `case.shape`, dtype=uint8
            1 is tumor, on the case's own grid.
        """
        check_fitted(self, "network_")
        if not isinstance(case, Case):
            raise TypeError(f"'case' must be a Case. Got {type(case).__name__}.")
        check_real(threshold, "threshold", minimum=0, maximum=1)
        network = self._ready_network()
        volume = self.preprocessing_.prepare_case(case, cache=self._cache())
        image, origin = self.preprocessing_.pad(volume.image)
        inside = crop_slices(np.stack([origin, origin + volume.image.shape]))
        probability = mask_probability(network, image)[inside]
        return (volume.to_source(probability) >= threshold).astype(np.uint8)

    def save(self, path: str | Path) -> None:
        """Write a model file: safetensors with its configuration as JSON; nothing is pickled."""
        check_fitted(self, "network_")
        save_model(path, self.network_, self._config)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> TumorEmbedder:
        """Read a model file.

        Raises
        ------
        WeightsError
            If it is missing, damaged, or not what its fingerprint says.
        """
        network, config = load_model(path)
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        try:
            recipe, own = _parameters(config)
            embedder = cls(recipe=Recipe(**recipe), device=device, **own)
            embedder.history_ = config["history"]
            return embedder._set_fitted(
                network, embedder.recipe.check(), preprocessing, config["classes"],
                np.asarray(config["scale"], dtype=np.float64), config["training"], config["weights"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as err:
            raise WeightsError(f"The configuration in '{path}' cannot be used: {err}.") from err

    @classmethod
    def from_pretrained(
        cls, name: str | Path | None = None, *, device: str = "auto", **parameters
    ) -> TumorEmbedder:
        """Return a fitted embedder with shipped weights, ready for `transform`, `segment` and fine-tuning.

        `fit` starts from these weights with the recipe ``"fine-tune"`` (see `Recipe.named`). Only tasks that
        are labelled in your cohort keep a head.

        Parameters
        ----------
        name : str or Path, optional
            Name of shipped weights (``tumorsim weights list``) or a model file. The default is in the
            package, and needs no network.
        device : str, default="auto"
        **parameters
            Of the estimator, for `fit`; ``recipe__weight_decay=0.01`` and so on change the recipe.

        Raises
        ------
        WeightsError
            If the weights are not here and cannot be fetched.

        Examples
        --------
        >>> embedder = TumorEmbedder.from_pretrained()
        >>> embedder.n_features_out_, embedder.classes_["hemisphere"]
        (48, ['left', 'right'])
        """
        embedder = cls.load(find_weights(name, progress=True), device=device)
        initial = load_registry().default if name is None else str(name)
        recipe = Recipe.named("fine-tune", trained=embedder.recipe.get_params())
        embedder.set_params(initial_weights=initial, recipe=recipe, tasks=None, task_weights=None)
        return embedder.set_params(**parameters)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return names of the embedding's numbers, as scikit-learn's ``set_output`` needs them."""
        check_fitted(self, "network_")
        return np.array([f"embedding_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _set_fitted(self, network, recipe, preprocessing, classes, scale, training, weights):
        self.network_ = network.eval()
        self.recipe_ = recipe
        self.preprocessing_ = preprocessing
        self.tasks_ = list(classes)
        self.classes_ = {task: list(names) for task, names in classes.items()}
        self.n_features_out_ = network.heads[0].in_features if classes else len(scale)
        self.space_ = embedding_space(network, preprocessing, scale, weights)
        self.fingerprint_ = self.space_.fingerprint
        self.training_ = training
        return self

    @property
    def _config(self):
        """What a model file holds beside tensors."""
        return {
            "architecture": self.network_.config,
            "preprocessing": self.preprocessing_.to_dict(),
            "classes": self.classes_,
            "aspects": dict(self.space_.aspects),
            "scale": self.space_.scale,
            "weights": dict(self.space_.weights),
            "fingerprint": self.fingerprint_,
            "history": self.history_,
            "training": self.training_,
            "parameters": self.recipe_.get_params()
            | {"tasks": self.tasks, "task_weights": self.task_weights},
        }

    def _ready_network(self):
        """Return the network on its device, in evaluation mode."""
        return to_device(self.network_, choose_device(self.device)).eval()

    def _cache(self):
        """Return the voxel cache, or None without `cache_dir`."""
        return None if self.cache_dir is None else VoxelCache(self.cache_dir)


@dataclass(frozen=True)
class _Plan:
    """What `fit` and `initialize` begin with; `codes` are class numbers (n_tumors, n_tasks)."""

    tumors: list
    recipe: Recipe
    classes: dict
    codes: np.ndarray
    preprocessing: Preprocessing
    device: torch.device
    network: Network


def _parameters(config):
    """Return the parameters in a model file's configuration: those of its recipe, and the embedder's own."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config["parameters"].items()}
    own = {name: values.pop(name) for name in ("tasks", "task_weights") if name in values}
    return values, own
