"""Starting from weights that are there: fine-tuning, frozen backbones, precision."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import TINY, cohort, tiny
from sklearn.base import clone

from tumorsim import TumorEmbedder
from tumorsim.exceptions import TrainingError, WeightsError


@pytest.fixture(scope="module")
def tumors():
    """Four tumors of two types on two sides."""
    return cohort(4)


@pytest.fixture(scope="module")
def model(tumors, tmp_path_factory):
    """Return the file of a model trained on them, and its embeddings of them."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    embedder = tiny().fit(tumors)
    embedder.save(path)
    return str(path), embedder.transform(tumors)


def outcome():
    """Return labels of a task that the model does not know."""
    return {"outcome": ["stable", "stable", "grown", "grown"]}


def start(model, **parameters):
    """Return the model, ready to go on."""
    own = {k: v for k, v in TINY.items() if k not in ("spacing", "n_channels", "n_blocks")}
    return TumorEmbedder.from_pretrained(model[0], **(own | parameters))


def test_weights_embed_as_they_did(tumors, model):
    """A pretrained embedder needs no fit, and its parameters say where it came from."""
    embedder = start(model)
    assert_array_equal(embedder.transform(tumors), model[1])
    assert embedder.initial_weights == model[0] and clone(embedder).initial_weights == model[0]


def test_recipe_is_for_fine_tuning_however_the_weights_were_trained(tumors, tmp_path):
    """What a run happened to be trained with is no default of those who go on from it."""
    own = {"balance_datasets": True, "mask_dice": 0.2, "mask_balance": 0.9, "contrastive": 0.5, "lr": 0.02}
    tiny(tasks=["type"], task_weights={"type": 3}, precision="bfloat16", **own).fit(tumors).save(
        tmp_path / "m.safetensors"
    )
    embedder = TumorEmbedder.from_pretrained(tmp_path / "m.safetensors")
    found = embedder.recipe.get_params() | {
        name: getattr(embedder, name) for name in ("tasks", "task_weights")
    }
    expected = {
        "max_epochs": 8, "lr": 0.001, "mask_dice": 1.0, "mask_balance": 0.0, "balance_datasets": False,
        "tasks": None, "task_weights": None, "contrastive": 0.0, "precision": "float32",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["spacing"] == (TINY["spacing"],) * 3 and found["n_channels"] == TINY["n_channels"]


def test_frozen_backbone_keeps_embeddings_and_learns_a_new_task(tumors, model):
    """Heads of other tasks are built and trained, and embeddings stay bit for bit."""
    recipe = {"max_epochs": 8, "batches_per_epoch": 10, "lr": 0.1}
    recipe |= {"recipe__augment": False, "recipe__box_jitter": 0.0}
    embedder = start(model, freeze_backbone=True, **recipe).fit(tumors, outcome())
    assert_array_equal(embedder.transform(tumors), model[1])
    assert embedder.tasks_ == ["outcome"] and embedder.classes_["outcome"] == ["grown", "stable"]
    losses = [entry["loss_outcome"] for entry in embedder.history_]
    assert losses[-1] < losses[0] / 2


def test_fine_tuning_starts_where_the_weights_are(tumors, model):
    """The first loss is below a fresh network's, embeddings move, and the record names the start."""
    gone_on = start(model, lr=0.001).fit(tumors)
    fresh = tiny(lr=0.001, mask_dice=1.0, mask_balance=0.0).fit(tumors)
    assert gone_on.history_[0]["loss"] < fresh.history_[0]["loss"]
    assert not np.allclose(gone_on.transform(tumors), model[1])
    assert gone_on.training_["initial_weights"] == TumorEmbedder.load(model[0]).fingerprint_
    assert "initial_weights" not in fresh.training_


def test_fine_tuned_model_is_saved_without_the_place_of_its_start(tumors, model, tmp_path):
    """A saved model needs neither the file that it began with nor its folder."""
    start(model, freeze_backbone=True, max_epochs=1).fit(tumors).save(tmp_path / "tuned.safetensors")
    loaded = TumorEmbedder.load(tmp_path / "tuned.safetensors")
    assert loaded.initial_weights is None and loaded.freeze_backbone is False
    assert model[0].encode() not in (tmp_path / "tuned.safetensors").read_bytes()
    assert_array_equal(loaded.transform(tumors), model[1])


def test_what_does_not_fit_is_refused(tumors, model, monkeypatch):
    """Another architecture or spacing, a frozen nothing, an unknown name."""
    with pytest.raises(
        ValueError, match=r"Got n_channels 8 instead of 12\. TumorEmbedder.*leave out n_channels"
    ):
        tiny(initial_weights=model[0], n_channels=12).fit(tumors)
    with pytest.raises(ValueError, match=r"Got spacing .* instead of \(3\.0, 3\.0, 3\.0\)"):
        tiny(initial_weights=model[0], spacing=3.0).fit(tumors)
    monkeypatch.setattr("tumorsim.training._plan.load_training_cases", None)  # no voxel is read for that
    with pytest.raises(ValueError, match="must have the architecture and spacing asked for"):
        tiny(initial_weights=model[0], n_blocks=2).fit(tumors)
    with pytest.raises(ValueError, match="'freeze_backbone' needs 'initial_weights'"):
        tiny(freeze_backbone=True).fit(tumors)
    with pytest.raises(WeightsError, match="nowhere"):
        tiny(initial_weights="nowhere").fit(tumors)


def test_a_checkpoint_belongs_to_its_start(tumors, model, tmp_path):
    """A run that began elsewhere does not go on from this one's checkpoint."""
    tiny(checkpoint_dir=tmp_path, max_epochs=1).fit(tumors)
    with pytest.raises(TrainingError, match="same tumors and parameters"):
        tiny(checkpoint_dir=tmp_path, max_epochs=1, initial_weights=model[0]).fit(tumors, resume=True)


def test_bfloat16_training_learns_and_embeds_in_float32(tumors):
    """Losses fall as in float32, to its digits, and embeddings keep theirs."""
    low, full = (tiny(precision=name, max_epochs=4, lr=0.01).fit(tumors) for name in ("bfloat16", "float32"))
    assert low.history_[-1]["loss"] < low.history_[0]["loss"]
    assert_allclose(low.history_[0]["loss"], full.history_[0]["loss"], rtol=0.05)
    assert low.transform(tumors).dtype == np.float32
    assert all(p.dtype == full.network_.heads[0].weight.dtype for p in low.network_.parameters())
    with pytest.raises(ValueError, match="precision"):
        tiny(precision="float8").fit(tumors)
