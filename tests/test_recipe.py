"""Recipes: names, overrides, and the values that an embedder is fitted with."""

import inspect

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from phantoms import TINY, cohort, tiny
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from tumorsim import Recipe, TumorEmbedder
from tumorsim.training import resolve_recipe
from tumorsim.training._recipe import RECIPES

QUICK = TINY | {"max_epochs": 1, "batches_per_epoch": 1}


@pytest.fixture(scope="module")
def tumors():
    """Six tumors on three scans."""
    return cohort(3, per_scan=2)


def test_embedder_has_few_parameters():
    """At most 20, and each that a recipe also has is None, which means the recipe's value."""
    parameters = TumorEmbedder().get_params()
    assert len(inspect.signature(TumorEmbedder).parameters) == len(parameters) <= 20
    assert all(parameters[name] is None for name in set(parameters) & set(Recipe().get_params()))


def test_names_are_looked_up_in_fit(tumors):
    """Any name can be stored; an unknown one, and what is no recipe, are refused by `fit`."""
    assert TumorEmbedder(recipe="unheard of").recipe == "unheard of"
    with pytest.raises(ValueError, match="'recipe' must be one of 'default', 'paper', 'fine-tune'"):
        TumorEmbedder(recipe="unheard of").fit(tumors)
    with pytest.raises(TypeError, match="'recipe' must be a name or a Recipe"):
        TumorEmbedder(recipe={"lr": 0.1}).fit(tumors)
    with pytest.raises(ValueError, match="'fine-tune' needs 'initial_weights'"):
        TumorEmbedder(recipe="fine-tune").fit(tumors)


def test_overrides_win_over_the_recipe(tumors):
    """A parameter of the embedder replaces the recipe's; the recipe itself stays as it was."""
    recipe = Recipe(n_channels=16, n_blocks=1, weight_decay=0.5)
    embedder = TumorEmbedder(recipe=recipe, **QUICK).fit(tumors)
    assert embedder.n_features_out_ == embedder.recipe_.n_channels == TINY["n_channels"]
    assert embedder.recipe_.weight_decay == 0.5 and recipe.n_channels == 16
    assert embedder.recipe_.patch_size == (24, 24, 24)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_used(name):
    """Values of each recipe pass the checks, and a clone has the same."""
    recipe = Recipe.named(name)
    checked = resolve_recipe(name).get_params()
    assert checked == clone(recipe).check().get_params()
    assert {n: checked[n] for n in RECIPES[name] if n not in ("spacing", "patch_size")} == {
        n: v for n, v in RECIPES[name].items() if n not in ("spacing", "patch_size")
    }


def test_fine_tuning_by_name_is_that_of_from_pretrained(tumors, tmp_path):
    """The recipe "fine-tune" goes on from the values that the initial weights were trained with."""
    path = tmp_path / "model.safetensors"
    tiny(box_jitter=0.3, lr=0.02, max_epochs=1).fit(tumors).save(path)
    options = {"device": "cpu", "random_state": 0, "max_epochs": 1}
    named = TumorEmbedder(recipe="fine-tune", initial_weights=str(path), **options).fit(tumors)
    other = TumorEmbedder.from_pretrained(path, **options).fit(tumors)
    assert named.recipe_.get_params() == other.recipe_.get_params()
    assert (named.recipe_.box_jitter, named.recipe_.lr, named.recipe_.batch_size) == (0.3, 0.001, 2)
    assert_array_equal(named.transform(tumors), other.transform(tumors))


def test_grid_search_over_a_recipe(tumors):
    """Nested names reach a recipe that is given as an instance."""
    y = np.array([tumor.labels["type"] for tumor in tumors])
    embedder = TumorEmbedder(recipe=Recipe(), **QUICK)
    search = GridSearchCV(
        Pipeline([("embed", embedder), ("knn", KNeighborsClassifier(1))]),
        {"embed__recipe__weight_decay": [0.0, 0.1]}, cv=GroupKFold(2), error_score="raise",
    )  # fmt: skip
    search.fit(tumors, y, groups=tumors.patient_ids)
    best = search.best_params_["embed__recipe__weight_decay"]
    assert search.best_estimator_["embed"].recipe_.weight_decay == best
    assert embedder.recipe.weight_decay == Recipe().weight_decay


def test_a_loaded_embedder_trains_as_it_was_trained(tumors, tmp_path):
    """A model file holds the whole recipe: fitted again with the same seed, it is the same network."""
    first = tiny(contrastive=0.3, optimizer="sgd", lr=0.01, max_epochs=1).fit(tumors)
    first.save(tmp_path / "model.safetensors")
    again = TumorEmbedder.load(tmp_path / "model.safetensors", device="cpu").set_params(random_state=0)
    assert again.fit(tumors).fingerprint_ == first.fingerprint_


def test_initialize_trains_nothing(tumors):
    """Weights follow the seed alone, tumors settle the batch norms, heads do not count in distances."""
    first, again, other = (tiny(random_state=seed).initialize(tumors) for seed in (1, 1, 2))
    X = first.transform(tumors)
    assert (
        first.history_ == [] and first.tasks_ == ["type", "hemisphere"] and dict(first.space_.weights) == {}
    )
    assert_array_equal(X, again.transform(tumors))
    assert not np.allclose(X, other.transform(tumors))
    assert np.isfinite(X).all() and (X.std(axis=0) > 0).any()
    assert np.allclose(first.space_.coordinates(X), X * first.space_.scale)
    bare = tiny(random_state=1).initialize(cohort(3, per_scan=2, labels=False, with_mask=False))
    assert bare.tasks_ == []
    assert all(
        a.equal(b)
        for a, b in zip(first.network_.blocks.parameters(), bare.network_.blocks.parameters(), strict=True)
    )


def test_initialize_reads_the_first_eight_scans():
    """A large cohort costs no more than a small one, and gives the same network."""
    many = cohort(10)
    small, large = (tiny().initialize(tumors) for tumors in (many[:8], many))
    assert small.fingerprint_ == large.fingerprint_
