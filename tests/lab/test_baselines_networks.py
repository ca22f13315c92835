"""Networks that learned nothing, one task, or by comparison only."""

import json

import numpy as np
import phantoms
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.baselines import UntrainedEmbedder, siamese, single_task
from benchmarks.label_free import untrained_copy
from tumorsim import Recipe, TumorEmbedder
from tumorsim.training._loop import _step

SMALL = {name: value for name, value in phantoms.TINY.items() if name != "batch_size"}


def unit(X):
    """Return rows of length 1."""
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def test_untrained_embedder_is_an_untrained_copy():
    """Features are those of `untrained_copy`, scaled; another seed gives others."""
    cohort = phantoms.cohort(4)
    baseline = UntrainedEmbedder(phantoms.tiny(), random_state=2)
    X = baseline.fit_transform(cohort)
    copy = untrained_copy(phantoms.tiny().fit(cohort), cohort, random_state=2)
    assert_array_equal(baseline.embedder_.transform(cohort), copy.transform(cohort))
    assert_allclose(X, copy.transform(cohort) * copy.space_.scale, rtol=1e-6)
    assert not np.allclose(UntrainedEmbedder(phantoms.tiny(), random_state=3).fit_transform(cohort), X)
    fitted = UntrainedEmbedder(phantoms.tiny().fit(cohort), random_state=2).fit_transform(cohort)
    assert_array_equal(fitted, X)
    with pytest.raises(ValueError, match="'n_channels' must be at least 1"):
        UntrainedEmbedder(phantoms.tiny(n_channels=0)).fit(cohort)


def test_head_of_weight_0_gets_no_gradient(monkeypatch):
    """One step of a Siamese network: the gradient of every head is 0, that of the backbone is not."""
    cohort = phantoms.cohort(4)
    seen = []

    def step(network, *args, **kwargs):
        values = _step(network, *args, **kwargs)
        seen.append({name: float(p.grad.abs().max()) for name, p in network.named_parameters()})
        return values

    monkeypatch.setattr("tumorsim.training._loop._step", step)
    siamese(**SMALL | {"max_epochs": 1, "batches_per_epoch": 1}).fit(cohort)
    (gradients,) = seen
    for name, largest in gradients.items():
        assert (largest == 0) == name.startswith(("heads.", "mask_head.")), name


def test_siamese_brings_tumors_of_a_type_together():
    """Training by comparison alone parts two types by direction: each tumor is nearer to all of its own."""
    cohort = phantoms.cohort(4)
    recipe = SMALL | {"patch_size": 16, "recipe__augment": False, "lr": 0.02, "max_epochs": 4}
    embedder = siamese(**recipe | {"batches_per_epoch": 10})
    assert embedder.batch_size == 8
    embedder.fit(cohort)
    first, last = embedder.history_[0], embedder.history_[-1]
    assert last["loss"] == pytest.approx(last["loss_contrastive"])
    assert last["loss_contrastive"] < first["loss_contrastive"] - 0.3  # of 3 alike, log 3 is least
    cosine = unit(embedder.transform(cohort)) @ unit(embedder.transform(cohort)).T
    kinds = cohort.labels["type"].to_numpy()
    alike = kinds[:, None] == kinds[None]
    assert cosine[alike & ~np.eye(4, dtype=bool)].min() > cosine[~alike].max()


def test_contrastive_term_is_one_more_head():
    """Beside other heads its weight times its value is part of the loss."""
    embedder = phantoms.tiny(contrastive=0.5, batch_size=4, max_epochs=1).fit(phantoms.cohort(4))
    (entry,) = embedder.history_
    assert entry["loss_contrastive"] > 0
    heads = 6 * entry["loss_mask"] + (entry["loss_type"] + entry["loss_hemisphere"]) / 3
    assert entry["loss"] == pytest.approx(heads + 0.5 * entry["loss_contrastive"], rel=0.02)


def test_contrastive_needs_labels():
    """Without a label of two classes there is nothing to compare; a negative weight is refused."""
    with pytest.raises(ValueError, match="'contrastive' needs a label with at least two classes"):
        phantoms.tiny(contrastive=1.0).fit(phantoms.cohort(2, labels=False))
    with pytest.raises(ValueError, match="'contrastive' must be at least 0"):
        phantoms.tiny(contrastive=-1.0).fit(phantoms.cohort(2))


def test_model_files_without_the_parameter_load(tmp_path):
    """A file from before `contrastive` loads with 0 and the same fingerprint."""
    cohort = phantoms.cohort(2)
    embedder = phantoms.tiny(max_epochs=1, contrastive=2.0, tasks=["type"]).fit(cohort)
    embedder.save(tmp_path / "new.safetensors")
    assert TumorEmbedder.load(tmp_path / "new.safetensors").recipe.contrastive == 2.0
    assert (
        TumorEmbedder.from_pretrained(tmp_path / "new.safetensors").recipe.contrastive == 0.0
    )  # to fine-tune
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    del config["parameters"]["contrastive"]
    save_file(tensors, tmp_path / "old.safetensors", metadata=metadata | {"config": json.dumps(config)})
    old = TumorEmbedder.load(tmp_path / "old.safetensors")
    assert old.recipe.contrastive == 0.0
    assert old.fingerprint_ == embedder.fingerprint_


def test_single_task_learns_one_head():
    """For a label the mask moves nothing; for the mask there are no tasks, even where tumors have labels."""
    cohort = phantoms.cohort(4)
    label = single_task("type", **phantoms.TINY | {"max_epochs": 1}).fit(cohort)
    assert label.tasks_ == ["type"]
    assert "loss_contrastive" not in label.history_[0]
    assert label.history_[0]["loss"] == pytest.approx(label.history_[0]["loss_type"] / 3)
    mask = single_task("mask", **phantoms.TINY | {"max_epochs": 1}).fit(cohort)
    assert mask.tasks_ == []
    assert mask.transform(cohort).shape == (4, 8)
    assert mask.history_[0]["loss"] == pytest.approx(6 * mask.history_[0]["loss_mask"])


@pytest.mark.parametrize("factory", [siamese, single_task])
def test_factories_keep_backbone_and_budget(factory):
    """Backbone, recipe and number of patches are those of the default; overrides win."""
    embedder, default = factory("type"), TumorEmbedder()
    same = set(default.get_params()) - {
        "tasks", "task_weights", "recipe", "batch_size", "batches_per_epoch",
    }  # fmt: skip
    assert {n: getattr(embedder, n) for n in same} == {n: getattr(default, n) for n in same}
    own, default = embedder.recipe.get_params(), Recipe()
    assert own == default.get_params() | {"contrastive": own["contrastive"]}
    patches = (embedder.batch_size or own["batch_size"]) * (
        embedder.batches_per_epoch or own["batches_per_epoch"]
    )
    assert patches == default.batch_size * default.batches_per_epoch
    assert factory("type", batch_size=2, n_channels=16).get_params()["batch_size"] == 2
    with pytest.raises(TypeError, match="'task' must be text"):
        factory(3)
