"""`TumorEmbedder`: tumors in, one vector a tumor out; a thin scikit-learn estimator over the rooms below."""

import json
from dataclasses import fields

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from tumorsim._validation import check_fitted, check_real
from tumorsim.exceptions import WeightsError
from tumorsim.geometry import crop_slices
from tumorsim.inference import embed_boxes, mask_probability
from tumorsim.nn import Network, choose_device, to_device
from tumorsim.preprocessing import Preprocessing, VoxelCache
from tumorsim.records import Case, Cohort, check_tumors, group_by_case
from tumorsim.spaces import feature_scale
from tumorsim.training import (
    FINE_TUNING,
    PAPER,
    PatchSampler,
    Recipe,
    ahead,
    check_parameters,
    class_factors,
    describe_cases,
    describe_data,
    encode_labels,
    find_classes,
    head_weights,
    label_table,
    load_training_cases,
    run_seed,
    train,
)  # fmt: skip
from tumorsim.weights import (
    embedding_space,
    find_weights,
    head_aspects,
    load_model,
    load_registry,
    save_model,
    start_from_weights,
)  # fmt: skip

__all__ = ["TumorEmbedder"]


class TumorEmbedder(TransformerMixin, BaseEstimator):
    """Learn from all labels of a cohort at once, and turn each tumor into a vector.

    One 3-D CNN with several heads (tumor mask, and one a task) is trained on whatever labels there are;
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
    architecture : {"fast", "paper"}, default="fast"
        See `nn.Network`.
    n_channels : int, default=48
        Channels of the feature map, and numbers in an embedding.
    n_blocks : int, default=6
        ResBlocks in the backbone; a feature sees ``8 * n_blocks * spacing`` mm to each side.
    spacing : float or tuple of 3 float, default=2.0
        Millimetres per voxel of the network's grid.
    patch_size : int or tuple of 3 int, default=72
        Voxels of a training patch, a multiple of 4.
    batch_size : int, default=4
        Patches a step.
    max_epochs, batches_per_epoch : int, default=30, 100
    optimizer : {"adamw", "sgd"}, default="adamw"
        ``sgd`` uses Nesterov momentum 0.9.
    lr : float, default=0.003
    lr_schedule : {"cosine", "milestones"}, default="cosine"
        A warm-up over the first twentieth, then down to 0; or a division by 10 at `lr_milestones`.
    lr_milestones : tuple of int, default=(90, 105)
        Epochs; only for ``lr_schedule="milestones"``.
    weight_decay : float, default=1e-4
    gradient_clip : float, default=5.0
        Largest norm of the gradient.
    mask_dice : float, default=0.5
        Weight of the soft Dice loss beside the mask's cross-entropy, which alone is slow on small tumors.
    mask_balance : float, default=0.5
        A tumor voxel weighs ``share ** -mask_balance`` in the mask's cross-entropy, `share` being the tumor's
        part of the patch: 0 is plain cross-entropy, 1 gives tumor and surroundings the same say.
    contrastive : float, default=0.0
        Weight of one more term, the supervised-contrastive loss (Khosla et al., 2020) of a batch's embeddings
        by the labels of task ``type``, or of the first task where there is none. 0 leaves it out.
    augment : bool, default=True
        Mirror (the labels ``left`` and ``right`` swap), turn, stretch, thicken slices, crop the view, change
        contrast and noise.
    box_jitter : float, default=0.15
        Boxes are stretched in training by up to this share of their sides, and shifted by up to half of it.
    balance_classes : bool, default=True
        Weigh classes by the inverse square root of their frequency.
    balance_datasets : bool, default=False
        Give every data set (column ``dataset`` of a manifest) the same share of the patches, however many
        patients it has: for few scans of your own beside many others.
    initial_weights : str or Path, optional
        Model file, or name of shipped weights (``tumorsim weights list``), that training starts from: the
        backbone and the mask's head are taken over, and of other heads the classes that both know. Its
        architecture and spacing must be those asked for. `from_pretrained` sets it.
    freeze_backbone : bool, default=False
        Train heads only, so that embeddings stay what they were; for small cohorts. Needs `initial_weights`.
    precision : {"float32", "bfloat16"}, default="float32"
        Of convolutions in training. ``bfloat16`` is about twice as fast where the hardware has it (AVX-512
        BF16, AMX, recent GPUs) and slower elsewhere. Embeddings are always worked out in float32.
    device : str, default="auto"
        ``"auto"`` takes CUDA, else MPS, else the CPU.
    n_jobs : int, default=1
        Threads that prepare scans and patches ahead of the network.
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
    tasks_ : list of str
    classes_ : dict of list of str
        Task → class names in the order of the head's outputs.
    space_ : EmbeddingSpace
        What an index must know: fingerprint, each task's aspect, the plain distance.
    history_ : list of dict
        An entry an epoch: epoch, lr, loss, ``loss_<head>``, seconds.
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
        architecture="fast",
        n_channels=48,
        n_blocks=6,
        spacing=2.0,
        patch_size=72,
        batch_size=4,
        max_epochs=30,
        batches_per_epoch=100,
        optimizer="adamw",
        lr=0.003,
        lr_schedule="cosine",
        lr_milestones=(90, 105),
        weight_decay=1e-4,
        gradient_clip=5.0,
        mask_dice=0.5,
        mask_balance=0.5,
        contrastive=0.0,
        augment=True,
        box_jitter=0.15,
        balance_classes=True,
        balance_datasets=False,
        initial_weights=None,
        freeze_backbone=False,
        precision="float32",
        device="auto",
        n_jobs=1,
        cache_dir=None,
        checkpoint_dir=None,
        random_state=None,
        verbose=0,
    ):
        self.tasks = tasks
        self.task_weights = task_weights
        self.architecture = architecture
        self.n_channels = n_channels
        self.n_blocks = n_blocks
        self.spacing = spacing
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.batches_per_epoch = batches_per_epoch
        self.optimizer = optimizer
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.lr_milestones = lr_milestones
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.mask_dice = mask_dice
        self.mask_balance = mask_balance
        self.contrastive = contrastive
        self.augment = augment
        self.box_jitter = box_jitter
        self.balance_classes = balance_classes
        self.balance_datasets = balance_datasets
        self.initial_weights = initial_weights
        self.freeze_backbone = freeze_backbone
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.cache_dir = cache_dir
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def paper(cls, **overrides):
        """Return the recipe of arXiv:1810.09369, section 2; it needs a GPU.

        Where the text has lost a number (patch, spacing, blocks, loss weights) ours stands; see
        "Deviations from the paper" in the documentation.

        Examples
        --------
        >>> TumorEmbedder.paper().max_epochs
        120
        """
        return cls(**(PAPER | overrides))

    def fit(self, tumors, y=None, *, resume=False):
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
        values = check_parameters(self.get_params(deep=False))
        preprocessing = Preprocessing(self.spacing, values["patch_shape"])
        device = choose_device(self.device)
        seed = run_seed(self.random_state, checkpoint_dir=self.checkpoint_dir, resume=resume)
        tumors = check_tumors(tumors)
        if not tumors:
            raise ValueError("'tumors' must hold at least one tumor. Got none.")
        labels = label_table(tumors, y, self.tasks)
        classes = find_classes(labels)
        if not classes and not any(t.case.has_mask for t in tumors):
            raise ValueError("Tumors must carry a mask, or a label with at least two classes. Got neither.")
        if values["contrastive"] and not classes:
            raise ValueError("'contrastive' needs a label with at least two classes. Got none.")
        values["task_weights"] = head_weights(classes, self.task_weights)
        recipe = Recipe(**{field.name: values[field.name] for field in fields(Recipe)})
        codes = encode_labels(labels, classes)

        shape = {name: values[name] for name in ("architecture", "n_channels", "n_blocks")}
        with torch.random.fork_rng(devices=[]):  # leave the caller's random numbers alone
            torch.manual_seed(seed)
            network = Network({task: len(names) for task, names in classes.items()}, **shape)
        start = {}
        if self.initial_weights is not None:
            preprocessing, start = start_from_weights(
                network, self.initial_weights, classes, preprocessing, freeze=values["freeze_backbone"]
            )
        network = to_device(network, device)
        cases = load_training_cases(
            tumors, codes, preprocessing, cache=self._cache(), n_jobs=self.n_jobs, verbose=self.verbose
        )
        names = ("patch_shape", "batch_size", "augment", "box_jitter", "balance_datasets")
        sampling = {name: values[name] for name in names}
        sampler = PatchSampler(cases, classes, random_state=seed, **sampling)
        class_weights = None
        if self.balance_classes:
            class_weights = {
                task: torch.tensor(class_factors(codes[:, i], len(names)), dtype=torch.float32, device=device)
                for i, (task, names) in enumerate(classes.items())
            }
        described = [shape, preprocessing.to_dict(), classes, sampling, self.balance_classes, seed, start]
        described += describe_cases(cases)
        history, pooled = train(
            network, sampler, recipe, device, class_weights=class_weights, identity=json.dumps(described),
            checkpoint_dir=self.checkpoint_dir, resume=resume, verbose=self.verbose,
        )  # fmt: skip
        self.history_ = history
        scale = feature_scale(pooled, head_aspects(network), values["task_weights"])
        counts = {task: values["task_weights"][task] for task in classes}
        self._set_fitted(network, preprocessing, classes, scale, describe_data(tumors) | start, counts)
        return self

    def transform(self, tumors):
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
        volumes = ahead(
            lambda rows: self.preprocessing_.prepare_case(tumors[rows[0]].case, cache=cache),
            groups, n_jobs=self.n_jobs, description="embedding", verbose=self.verbose,
        )  # fmt: skip
        for rows, volume in zip(groups, volumes, strict=True):
            image, origin = self.preprocessing_.pad(volume.image)
            X[rows] = embed_boxes(network, image, volume.boxes([tumors[r].bbox for r in rows]) + origin)
        return X

    def predict_proba(self, tumors):
        """Return each head's probabilities.

        Returns
        -------
        dict of DataFrame
            Task → a row a tumor, a column a class.
        """
        pooled = torch.from_numpy(self._embed(tumors))
        with torch.inference_mode():
            logits = self._ready_network().classify(pooled.to(choose_device(self.device)))
        return {
            task: pd.DataFrame(values.softmax(dim=1).cpu().numpy(), columns=self.classes_[task])
            for task, values in logits.items()
        }

    def predict(self, tumors):
        """Return each head's most probable class: DataFrame, a row a tumor, a column a task."""
        tumors = check_tumors(tumors)
        best = {task: table.idxmax(axis=1) for task, table in self.predict_proba(tumors).items()}
        return pd.DataFrame(best, index=range(len(tumors)))

    def segment(self, case, *, threshold=0.5):
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

    def save(self, path):
        """Write a model file: safetensors with its configuration as JSON; nothing is pickled."""
        check_fitted(self, "network_")
        save_model(path, self.network_, self._config)

    @classmethod
    def load(cls, path, *, device="auto"):
        """Read a model file.

        Raises
        ------
        WeightsError
            If it is missing, damaged, or not what its fingerprint says.
        """
        network, config = load_model(path)
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        try:
            parameters = config["parameters"]
            parameters |= {k: tuple(v) for k, v in parameters.items() if isinstance(v, list)}
            embedder = cls(**parameters, device=device)
            embedder.history_ = config["history"]
            scale = np.asarray(config["scale"], dtype=np.float64)
            weights = config["weights"]
            return embedder._set_fitted(
                network, preprocessing, config["classes"], scale, config["training"], weights
            )
        except (KeyError, TypeError) as err:
            raise WeightsError(f"The configuration in '{path}' cannot be used: {err}.") from err

    @classmethod
    def from_pretrained(cls, name=None, *, device="auto", **parameters):
        """Return a fitted embedder with shipped weights, ready for `transform`, `segment` and fine-tuning.

        `fit` starts from these weights, with a recipe for fine-tuning: `lr` 0.001 for 8 epochs, the extent of
        tumors rather than finding them (`mask_dice` 1, `mask_balance` 0), data sets not balanced. What it
        leaves open is as the weights were trained. Only tasks that are labelled in your cohort keep a head.

        Parameters
        ----------
        name : str or Path, optional
            Name of shipped weights (``tumorsim weights list``) or a model file. The default is in the
            package, and needs no network.
        device : str, default="auto"
        **parameters
            Parameters of the estimator, for `fit`.

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
        return embedder.set_params(initial_weights=initial, **(FINE_TUNING | parameters))

    def get_feature_names_out(self, input_features=None):
        """Return names of the embedding's numbers, as scikit-learn's ``set_output`` needs them."""
        check_fitted(self, "network_")
        return np.array([f"embedding_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _set_fitted(self, network, preprocessing, classes, scale, training, weights):
        self.network_ = network.eval()
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
        skipped = (
            "device", "cache_dir", "checkpoint_dir", "random_state", "verbose", "n_jobs", "initial_weights",
            "freeze_backbone",
        )  # fmt: skip
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
            "parameters": {k: v for k, v in self.get_params(deep=False).items() if k not in skipped},
        }

    def _ready_network(self):
        """Return the network on its device, in evaluation mode."""
        return to_device(self.network_, choose_device(self.device)).eval()

    def _cache(self):
        """Return the voxel cache, or None without `cache_dir`."""
        return None if self.cache_dir is None else VoxelCache(self.cache_dir)
