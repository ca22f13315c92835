"""`Recipe`: how an embedder is built and trained, as one set of parameters."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from tumorsim._validation import check_choice, check_integer, check_real, check_spacing
from tumorsim.nn import ARCHITECTURES

RECIPES = tomllib.loads((files("tumorsim") / "data" / "recipes.toml").read_text(encoding="utf-8"))


@dataclass(kw_only=True, eq=False, repr=False)  # the signature that scikit-learn reads
class Recipe(BaseEstimator):
    """How a network is built and trained: shape, patches, optimizer, loss, augmentation.

    A `TumorEmbedder` takes one as its parameter ``recipe``, and ``recipe__weight_decay`` and so on then work
    in ``set_params`` and in a search. The defaults are the recipe called ``"default"``; `named` returns the
    others.

    Parameters
    ----------
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
        Patches per step, those of all processes of torchrun together.
    accumulate : int, default=1
        Parts of a batch that pass the network one after the other, which saves memory: the network is changed
        by the mean of their gradients. Batch norms see one part at a time.
    max_epochs, batches_per_epoch : int, default=30, 100
    optimizer : {"adamw", "sgd"}, default="adamw"
        ``sgd`` uses Nesterov momentum 0.9.
    lr : float, default=0.003
        Learning rate.
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
        part of the patch: 0 is plain cross-entropy, 1 gives tumor and surroundings equal weight.
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
    precision : {"float32", "mixed", "bfloat16"}, default="float32"
        Of convolutions in training. ``bfloat16`` is about twice as fast where the hardware has it (AVX-512
        BF16, AMX, recent GPUs) and slower elsewhere; ``mixed`` is ``bfloat16`` on CUDA devices that have it
        and ``float32`` elsewhere. Embeddings are always computed in float32.

    References
    ----------
    "Brain Tumor Image Retrieval via Multitask Learning", arXiv:1810.09369 (2018).

    Examples
    --------
    >>> Recipe(weight_decay=0.01)
    Recipe(weight_decay=0.01)
    >>> Recipe.named("paper").optimizer
    'sgd'
    """

    architecture: str = "fast"
    n_channels: int = 48
    n_blocks: int = 6
    spacing: float | tuple = 2.0
    patch_size: int | tuple = 72
    batch_size: int = 4
    accumulate: int = 1
    max_epochs: int = 30
    batches_per_epoch: int = 100
    optimizer: str = "adamw"
    lr: float = 0.003
    lr_schedule: str = "cosine"
    lr_milestones: tuple = (90, 105)
    weight_decay: float = 1e-4
    gradient_clip: float = 5.0
    mask_dice: float = 0.5
    mask_balance: float = 0.5
    contrastive: float = 0.0
    augment: bool = True
    box_jitter: float = 0.15
    balance_classes: bool = True
    balance_datasets: bool = False
    precision: str = "float32"

    @classmethod
    def named(cls, name: str, *, trained: dict | None = None) -> Self:
        """Return a recipe by its name.

        Parameters
        ----------
        name : {"default", "paper", "fine-tune"}
            ``default``: the default values. ``paper``: section 2 of arXiv:1810.09369; where the text has lost
            a number (patch, spacing, blocks, loss weights) ours stands. ``fine-tune``: as the initial weights
            were trained, but with `lr` 0.001 for 8 epochs, for the extent of tumors rather than for finding
            them (`mask_dice` 1, `mask_balance` 0), in float32, without `contrastive` and `balance_datasets`.
        trained : dict, optional
            Parameters that the initial weights were trained with; only ``fine-tune`` uses them.

        Raises
        ------
        ValueError
            If there is no recipe of this name.
        """
        check_choice(name, "recipe", RECIPES)
        return cls(**((trained or {}) if name == "fine-tune" else {}) | RECIPES[name])

    def check(self) -> "Recipe":
        """Return a copy with plain Python numbers.

        Raises
        ------
        TypeError, ValueError
            If a parameter is out of range.
        """
        values = self.get_params(deep=False)
        for name in "n_channels n_blocks batch_size accumulate max_epochs batches_per_epoch".split():
            values[name] = check_integer(values[name], name, minimum=1)
        check_choice(values["architecture"], "architecture", ARCHITECTURES)
        check_choice(values["optimizer"], "optimizer", ("adamw", "sgd"))
        check_choice(values["lr_schedule"], "lr_schedule", ("cosine", "milestones"))
        check_choice(values["precision"], "precision", ("float32", "mixed", "bfloat16"))
        for name in ("augment", "balance_classes", "balance_datasets"):
            values[name] = bool(check_choice(values[name], name, (True, False)))
        for name in ("lr", "gradient_clip"):
            values[name] = check_real(values[name], name, minimum=0, exclusive=True)
        for name in ("weight_decay", "mask_dice", "contrastive"):
            values[name] = check_real(values[name], name, minimum=0)
        values["mask_balance"] = check_real(values["mask_balance"], "mask_balance", minimum=0, maximum=1)
        values["box_jitter"] = check_real(values["box_jitter"], "box_jitter", minimum=0, maximum=0.9)
        values["spacing"] = tuple(float(s) for s in check_spacing(values["spacing"]))
        values["patch_size"] = _check_patch(values["patch_size"])
        if not isinstance(values["lr_milestones"], tuple | list):
            raise TypeError(f"'lr_milestones' must be a tuple of epochs. Got {values['lr_milestones']!r}.")
        epochs = [check_real(epoch, "lr_milestones", minimum=0) for epoch in values["lr_milestones"]]
        values["lr_milestones"] = tuple(epochs)
        return Recipe(**values)


def resolve_recipe(recipe, *, trained=None, overrides=None):
    """Return the checked `Recipe` that a name or an instance means, `trained` being that of `Recipe.named`.

    `overrides` are used instead of the recipe's parameters where they are not None. TypeError or ValueError:
    there is no such recipe, or a parameter is out of range.
    """
    if isinstance(recipe, str):
        recipe = Recipe.named(recipe, trained=trained)
    elif not isinstance(recipe, Recipe):
        raise TypeError(f"Parameter 'recipe' must be a name or a Recipe. Got {recipe!r}.")
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    return Recipe(**recipe.get_params(deep=False) | given).check()


def _check_patch(patch_size):
    """Return three sides of a patch in voxels."""
    patch = np.asarray(patch_size)
    whole = patch.shape in ((), (3,)) and patch.dtype.kind in "iu"
    if not whole or (patch < 8).any() or (patch % 4).any():
        rule = "Parameter 'patch_size' must be one or three whole numbers of voxels, multiples of 4"
        raise ValueError(f"{rule} and at least 8. Got {patch_size!r}.")
    return tuple(int(n) for n in np.broadcast_to(patch, 3))
