"""`TumorEmbedder`: tumors in, one vector per tumor out; a thin scikit-learn estimator."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from tumorsim import training, weights
from tumorsim._validation import check_choice, check_fitted, check_integer, printable
from tumorsim.exceptions import WeightsError
from tumorsim.inference import classify, embed_tumors, segment_case
from tumorsim.nn import agreed, choose_device, joined_processes, to_device
from tumorsim.preprocessing import MAX_VOXELS, Preprocessing, VoxelCache
from tumorsim.records import Case, Cohort, Tumor, check_tumors
from tumorsim.spaces import feature_scale
from tumorsim.training import Recipe

__all__ = ["TumorEmbedder"]

LONGEST_SIDE = 1024  # voxels to which a model may fill up a scan
SETTLING_SCANS = 8  # read by `initialize`
OVERRIDES = "n_channels n_blocks spacing patch_size batch_size max_epochs batches_per_epoch lr".split()


@dataclass(kw_only=True, eq=False, repr=False)  # the signature that scikit-learn reads
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
    n_channels, n_blocks, spacing, patch_size, batch_size, max_epochs, batches_per_epoch, lr : optional
        Used instead of the recipe's value; see `Recipe`.
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

    tasks: Sequence[str] | None = None
    task_weights: dict[str, float] | None = None
    recipe: str | Recipe = "default"
    n_channels: int | None = None
    n_blocks: int | None = None
    spacing: float | tuple | None = None
    patch_size: int | tuple | None = None
    batch_size: int | None = None
    max_epochs: int | None = None
    batches_per_epoch: int | None = None
    lr: float | None = None
    initial_weights: str | Path | None = None
    freeze_backbone: bool = False
    device: str = "auto"
    n_jobs: int = 1
    cache_dir: str | Path | None = None
    checkpoint_dir: str | Path | None = None
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0

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
        """Train on the tumors' labels and masks, in all processes of torchrun, where it started them.

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
            and processes the result is that of an uninterrupted run, bit for bit.

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
            If the loss is not finite, or the checkpoint is damaged, of another run, cannot be written, or is
            being written by another process.
        """
        device = choose_device(self.device)
        with joined_processes(device):
            seed = training.run_seed(self.random_state, checkpoint_dir=self.checkpoint_dir, resume=resume)
            seed = agreed(seed, device)
            model = self._initial_model()
            plan = self._plan(tumors, y, seed, model)
            plan.check_learnable()
            factors = training.head_weights(plan.classes, self.task_weights)
            preprocessing, start = plan.preprocessing, {}
            if model is not None:
                preprocessing = plan.start_from(
                    model.network_, model.classes_, model.preprocessing_, freeze=self.freeze_backbone
                )
                start = {"initial_weights": model.fingerprint_, "freeze_backbone": self.freeze_backbone}
            network = to_device(plan.network, device)
            with training.only_run(self.checkpoint_dir):
                cases = plan.load_cases(preprocessing, **self._reading())
                history, pooled = training.train(
                    network, cases, plan.classes, plan.recipe, device, seed=seed, task_weights=factors,
                    start=start | preprocessing.to_dict(), n_jobs=self.n_jobs,
                    checkpoint_dir=self.checkpoint_dir, resume=resume, verbose=self.verbose,
                )  # fmt: skip
        scale = feature_scale(pooled, weights.head_aspects(network), factors)
        counts = {task: factors[task] for task in plan.classes}
        return self._set_fitted(
            network, plan.recipe, preprocessing, plan.classes, scale, counts, history,
            training.describe_data(plan.tumors, model and model.training_) | start, {},
        )  # fmt: skip

    def initialize(self, tumors: Cohort | Sequence[Tumor], y=None) -> TumorEmbedder:
        """Build the network as `fit` does, but train nothing: what architecture and boxes give by themselves.

        Its weights are drawn at random. Only the statistics of its batch norms and its feature scaling are
        those of patches around the tumors, without which the network would be broken rather than untrained:
        10 batches of 2 patches of 128 mm, not augmented. `initial_weights` are not read. An integer
        `random_state` is the seed itself.

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
        """
        seed = training.run_seed(self.random_state)
        if isinstance(self.random_state, numbers.Integral):
            seed = int(self.random_state)
        plan = self._plan(tumors, y, seed, self._initial_model() if self.recipe == "fine-tune" else None)
        device = choose_device(self.device)
        network = to_device(plan.network, device)
        cases = plan.load_cases(plan.preprocessing, n_scans=SETTLING_SCANS, **self._reading())
        scale = feature_scale(training.settle_batch_norms(network, cases, device, seed=seed))
        return self._set_fitted(
            network, plan.recipe, plan.preprocessing, plan.classes, scale, {}, [], {"untrained": seed}, {}
        )

    def _initial_model(self):
        """Return the embedder of the initial weights, or None where there are none."""
        if self.initial_weights is None:
            return None
        return self.load(weights.find_weights(self.initial_weights, progress=True))

    def _plan(self, tumors, y, seed, model):
        """Check all parameters and return what `fit` and `initialize` begin with."""
        check_integer(self.n_jobs, "n_jobs", minimum=1)
        check_choice(self.freeze_backbone, "freeze_backbone", (True, False))
        if self.freeze_backbone and self.initial_weights is None:
            raise ValueError("'freeze_backbone' needs 'initial_weights': else nothing is ever learned.")
        if model is None and self.recipe == "fine-tune":
            raise ValueError("recipe='fine-tune' needs 'initial_weights', whose own recipe it goes on from.")
        trained = None if model is None else model.recipe.get_params()
        overrides = {name: getattr(self, name) for name in OVERRIDES}
        recipe = training.resolve_recipe(self.recipe, trained=trained, overrides=overrides)
        return training.plan_training(tumors, y, recipe, tasks=self.tasks, seed=seed)

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
        tumors = check_tumors(tumors)
        return embed_tumors(self._ready_network(), self.preprocessing_, tumors, **self._reading())

    def predict_proba(self, tumors: Cohort | Sequence[Tumor]) -> dict[str, pd.DataFrame]:
        """Return each head's probabilities.

        Returns
        -------
        dict of DataFrame
            Task → one row per tumor, one column per class.
        """
        found = classify(self._ready_network(), self._embed(tumors)).items()
        return {task: pd.DataFrame(values, columns=self.classes_[task]) for task, values in found}

    def predict(self, tumors: Cohort | Sequence[Tumor]) -> pd.DataFrame:
        """Return each head's most probable class: one row per tumor, one column per task."""
        tumors = check_tumors(tumors)
        best = {task: table.idxmax(axis=1) for task, table in self.predict_proba(tumors).items()}
        return pd.DataFrame(best, index=range(len(tumors)))

    def trained_on(self, tumors: Cohort | Sequence[Tumor]) -> np.ndarray | None:
        """Tell which tumors lie in scans that this model or its `initial_weights` were trained on.

        Voxels are compared, by salted hashes in the model file. Simulated patients do not count.

        Returns
        -------
        ndarray of shape (n_tumors,), dtype=bool, or None
            None where the model file has no hashes.
        """
        check_fitted(self, "network_")
        return training.find_trained(self.training_, check_tumors(tumors))

    def segment(self, case: Case, *, threshold: float | None = 0.5) -> np.ndarray:
        """Propose a tumor mask for a scan.

        Parameters
        ----------
        case : Case
        threshold : float or None, default=0.5
            Probability from which a voxel is tumor.

        Returns
        -------
        mask : ndarray of shape `case.shape`, dtype=uint8
            1 is tumor, on the case's own grid; of `threshold` None the probabilities, float32.
        """
        options = {"threshold": threshold, "cache": self._reading()["cache"]}
        return segment_case(self._ready_network(), self.preprocessing_, case, **options)

    def save(self, path: str | Path, *, dtype: str | None = None) -> None:
        """Write a model file: safetensors with its configuration as JSON; nothing is pickled.

        Parameters
        ----------
        path : str or Path
        dtype : {"float16"}, optional
            Round kernels to this type, which halves the file and makes another model of it.
        """
        check_fitted(self, "network_")
        config = {
            "architecture": self.network_.config,
            "preprocessing": self.preprocessing_.to_dict(),
            "classes": self.classes_,
            "aspects": dict(self.space_.aspects),
            "scale": self.space_.scale,
            "weights": dict(self.space_.weights),
            "measured": self.space_.to_dict()["measured"],
            "fingerprint": self.fingerprint_,
            "history": self.history_,
            "training": self.training_,
            "parameters": self.recipe_.get_params()
            | {"tasks": self.tasks, "task_weights": self.task_weights},
        }
        weights.save_model(path, self.network_, config, dtype)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> TumorEmbedder:
        """Read a model file.

        Raises
        ------
        WeightsError
            If it is missing, damaged, or not what its fingerprint says.
        """
        network, config = weights.load_model(path)
        try:
            preprocessing = Preprocessing.from_dict(config["preprocessing"])
            sides = [check_integer(n, "least_shape", minimum=1) for n in preprocessing.least_shape]
            if max(sides) > LONGEST_SIDE or math.prod(sides) > MAX_VOXELS:
                raise ValueError(f"'least_shape' cannot be {sides}")
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in config["parameters"].items()}
            own = {name: values.pop(name) for name in ("tasks", "task_weights") if name in values}
            embedder = cls(recipe=Recipe(**values), device=device, **own)
            scale = np.asarray(config["scale"], dtype=np.float64)
            return embedder._set_fitted(
                network, embedder.recipe.check(), preprocessing, config["classes"], scale,
                config["weights"], config["history"], config["training"], config.get("measured", {}),
            )  # fmt: skip
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as err:
            raise WeightsError(f"The configuration in '{path}' cannot be used: {printable(err)}.") from err

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
        embedder = cls.load(weights.find_weights(name, progress=True), device=device)
        initial = weights.load_registry().default if name is None else str(name)
        recipe = Recipe.named("fine-tune", trained=embedder.recipe.get_params())
        embedder.set_params(initial_weights=initial, recipe=recipe, tasks=None, task_weights=None)
        return embedder.set_params(**parameters)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return names of the embedding's numbers, as scikit-learn's ``set_output`` needs them."""
        check_fitted(self, "network_")
        return np.array([f"embedding_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _set_fitted(self, network, recipe, preprocessing, classes, scale, counts, history, record, heads):
        self.network_ = network.eval()
        self.recipe_ = recipe
        self.preprocessing_ = preprocessing
        self.tasks_ = list(classes)
        self.classes_ = {task: list(names) for task, names in classes.items()}
        self.n_features_out_ = network.config["n_channels"]
        self.space_ = weights.embedding_space(network, preprocessing, scale, counts, heads)
        self.fingerprint_ = self.space_.fingerprint
        self.history_ = history
        self.training_ = record
        return self

    def _ready_network(self):
        """Return the network on its device, in evaluation mode, or say that nothing is fitted yet."""
        check_fitted(self, "network_")
        return to_device(self.network_, choose_device(self.device)).eval()

    def _reading(self):
        """Return how scans are read, as keyword arguments."""
        cache = None if self.cache_dir is None else VoxelCache(self.cache_dir)
        return {"cache": cache, "n_jobs": self.n_jobs, "verbose": self.verbose}
