"""Model files: what is saved comes back, and what is damaged is refused."""

import json
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from phantoms import cohort, stored_as, tiny
from safetensors import safe_open
from safetensors.torch import save_file

from tumorsim import Case, Tumor, TumorEmbedder
from tumorsim.exceptions import WeightsError
from tumorsim.manifest import build_manifest
from tumorsim.weights import fingerprint


@pytest.fixture(scope="module")
def tumors():
    """Four tumors."""
    return cohort(4)


@pytest.fixture(scope="module")
def fitted(tumors):
    """Return an embedder, trained for a moment."""
    return tiny(max_epochs=1, tasks=("type", "hemisphere")).fit(tumors)


@pytest.fixture
def file(fitted, tmp_path):
    """Return the path of a saved model."""
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    return path


def contents(path):
    """Return tensors and configuration of a model file."""
    with safe_open(path, framework="pt") as opened:
        return {k: opened.get_tensor(k).clone() for k in opened.keys()}, opened.metadata()


def test_saved_model_is_the_same_model(fitted, tumors, file):
    """Embeddings, answers, space, classes and history come back as they were."""
    loaded = TumorEmbedder.load(file, device="cpu")
    assert_array_equal(loaded.transform(tumors), fitted.transform(tumors))
    assert loaded.predict(tumors).equals(fitted.predict(tumors))
    assert loaded.space_ == fitted.space_
    for name in ("tasks_", "classes_", "history_", "training_", "fingerprint_", "n_features_out_"):
        assert getattr(loaded, name) == getattr(fitted, name), name
    assert_array_equal(loaded.segment(tumors[0].case), fitted.segment(tumors[0].case))


def test_saved_model_keeps_its_recipe(fitted, file):
    """Parameters that shape the result are restored; folders and threads of this run are not."""
    loaded = TumorEmbedder.load(file, device="cpu")
    assert loaded.recipe.get_params() == loaded.recipe_.get_params() == fitted.recipe_.get_params()
    assert (loaded.tasks, loaded.task_weights) == (fitted.tasks, fitted.task_weights)
    assert loaded.random_state is None


def test_saving_twice_gives_the_same_model(fitted, tumors, file, tmp_path):
    """Load and save is a round trip: tensors and configuration are the same."""
    TumorEmbedder.load(file, device="cpu").save(tmp_path / "again.safetensors")
    (first, one), (second, other) = contents(file), contents(tmp_path / "again.safetensors")
    assert json.loads(one["config"]) == json.loads(other["config"])
    assert all(first[name].equal(second[name]) for name in first | second)


def test_model_file_says_what_it_holds(fitted, file):
    """Its metadata is JSON with preprocessing, classes, architecture, aspects and the training record."""
    config = json.loads(contents(file)[1]["config"])
    assert config["preprocessing"]["spacing"] == [2.0, 2.0, 2.0]
    assert config["classes"] == {"type": ["meningioma", "metastasis"], "hemisphere": ["left", "right"]}
    assert config["architecture"] == {"architecture": "fast", "n_channels": 8, "n_blocks": 1}
    assert np.shape(config["aspects"]["type"]) == (2, 8)
    assert config["training"]["n_tumors"] == 4 and config["training"]["n_patients"] == 4


def test_model_saves_after_its_parameters_were_set_anew(fitted, tumors, tmp_path):
    """The file describes the network that was trained, not what `set_params` asks of the next."""
    before = fitted.transform(tumors)
    fitted.set_params(n_channels=16, recipe__architecture="paper")
    fitted.save(tmp_path / "m.safetensors")
    fitted.set_params(n_channels=8, recipe__architecture="fast")
    assert_array_equal(TumorEmbedder.load(tmp_path / "m.safetensors", device="cpu").transform(tumors), before)


def test_missing_file(tmp_path):
    """A path with nothing there is named."""
    with pytest.raises(WeightsError, match=r"gone\.safetensors' does not exist"):
        TumorEmbedder.load(tmp_path / "gone.safetensors")


def test_folder_is_no_model(tmp_path):
    """A folder is refused like any other wrong file."""
    with pytest.raises(WeightsError, match=r"damaged or not a model"):
        TumorEmbedder.load(tmp_path)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_file(file, share):
    """A download cut short anywhere is noticed."""
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="damaged or not a model"):
        TumorEmbedder.load(file)


def test_wrong_file(file, tmp_path):
    """Text, and safetensors of something else, are refused."""
    file.write_text("patient_id,case_id\n")
    with pytest.raises(WeightsError, match="damaged or not a model"):
        TumorEmbedder.load(file)
    save_file({"a": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match="must be a tumorsim model"):
        TumorEmbedder.load(file)


def test_tampered_tensor(file):
    """One changed number among the weights does not match the fingerprint."""
    tensors, metadata = contents(file)
    tensors["blocks.0.conv1.weight"][3, 2, 1, 0, 0] += 1e-6
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(WeightsError, match="does not match its fingerprint"):
        TumorEmbedder.load(file)


def test_tampered_preprocessing(file):
    """Another spacing would give other embeddings under the same name, and is noticed."""
    tensors, metadata = contents(file)
    config = json.loads(metadata["config"])
    config["preprocessing"]["spacing"] = [2.0, 2.0, 2.5]
    save_file(tensors, file, metadata=metadata | {"config": json.dumps(config)})
    with pytest.raises(WeightsError, match="does not match its fingerprint"):
        TumorEmbedder.load(file)


@pytest.mark.parametrize(
    "key", ["classes", "architecture", "preprocessing", "fingerprint", "scale", "weights", "parameters"]
)
def test_incomplete_configuration(file, key):
    """A file without something that is needed says what."""
    tensors, metadata = contents(file)
    config = json.loads(metadata["config"])
    del config[key]
    save_file(tensors, file, metadata=metadata | {"config": json.dumps(config)})
    with pytest.raises(WeightsError, match=key):
        TumorEmbedder.load(file)


@pytest.mark.parametrize("shape", [[2.0, 2.0, 2.0], [65536, 8, 8], [1024, 1024, 1024], [-8, -8, 8], "888"])
def test_scans_are_filled_up_to_no_shape_that_makes_no_sense(file, shape):
    """A model that would blow up every scan is refused when it is loaded, however well it is signed."""
    tensors, metadata = contents(file)
    config = json.loads(metadata["config"])
    config["preprocessing"]["least_shape"] = shape
    config["fingerprint"] = fingerprint(tensors, config["preprocessing"])
    save_file(tensors, file, metadata=metadata | {"config": json.dumps(config)})
    with pytest.raises(WeightsError, match=r"in '.*model\.safetensors' cannot be used: .*least_shape"):
        TumorEmbedder.load(file)


@pytest.mark.parametrize("config", ["", "[]", "{", '{"classes": 3}'])
def test_garbled_configuration(file, config):
    """Whatever is wrong with the configuration, the file is named."""
    tensors, metadata = contents(file)
    save_file(tensors, file, metadata=metadata | {"config": config})
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        TumorEmbedder.load(file)


def test_reader_never_sees_half_a_file(fitted, file):
    """While a model is saved again and again, every load succeeds, and no scraps are left."""
    writer = threading.Thread(target=lambda: [fitted.save(file) for _ in range(30)])
    writer.start()
    loads = 0
    while writer.is_alive():
        assert TumorEmbedder.load(file, device="cpu").fingerprint_ == fitted.fingerprint_
        loads += 1
    writer.join()
    assert loads > 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_failed_save_leaves_the_old_file(fitted, file):
    """A configuration that cannot be written does not cost the file that was there."""
    content = file.read_bytes()
    history = fitted.history_
    fitted.history_ = {("no", "json"): 1}
    with pytest.raises(TypeError):
        fitted.save(file)
    fitted.history_ = history
    assert file.read_bytes() == content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_numpy_parameters_can_be_saved(tumors, tmp_path):
    """Parameters from a grid of NumPy numbers and paths do not break the file."""
    embedder = tiny(
        n_channels=np.int64(8), lr=np.float32(0.01), spacing=np.array([2.0, 2.0, 2.0]), max_epochs=1,
        patch_size=np.array([16, 16, 16]), task_weights={"type": np.float64(2)}, cache_dir=tmp_path / "cache",
    ).fit(tumors)  # fmt: skip
    embedder.save(tmp_path / "m.safetensors")
    loaded = TumorEmbedder.load(str(tmp_path / "m.safetensors"), device="cpu")
    assert_array_equal(loaded.transform(tumors), embedder.transform(tumors))
    assert loaded.recipe.n_channels == 8 and loaded.recipe.patch_size == (16, 16, 16)


def test_float16_model_embeds_nearly_the_same(fitted, tumors, tmp_path):
    """Rounded kernels change embeddings by less than a percent, but are another model."""
    path = tmp_path / "half.safetensors"
    fitted.save(path, dtype="float16")
    loaded = TumorEmbedder.load(path, device="cpu")
    X, half = fitted.transform(tumors), loaded.transform(tumors)
    # float16 has 11 bits, 5e-4; a few layers add up to some of these
    assert np.linalg.norm(half - X) < 5e-3 * np.linalg.norm(X)
    assert loaded.fingerprint_ != fitted.fingerprint_
    assert loaded.fingerprint_ == json.loads(contents(path)[1]["config"])["fingerprint"]


def test_model_file_knows_the_scans_that_trained_it(fitted, tumors, file, tmp_path):
    """Scans of training are found again after a load, in any format and axis order; others are not."""
    loaded = TumorEmbedder.load(file, device="cpu")
    (salt, hashes), *others = loaded.training_["scans"].items()
    assert len(hashes) == 4 and not others and set(map(len, hashes)) == {16}
    other = tumors[3].case
    array, affine = stored_as(*tumors[0].case.image, "PIL")
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "same.nii.gz")
    changed = other.load_image().copy()
    changed[20, 20, 20] += 1
    again = [
        Tumor(Case(image, case_id=name, patient_id="p"), [(9, 9, 9), (12, 12, 12)], tumor_id=name)
        for name, image in (("same", tmp_path / "same.nii.gz"), ("changed", (changed, other.affine)))
    ]
    assert loaded.trained_on([*tumors, *again]).tolist() == [True] * 4 + [True, False]
    tiny(max_epochs=1).fit(tumors).save(file)
    assert salt not in TumorEmbedder.load(file).training_["scans"]  # another run, another salt


def test_simulated_patients_are_no_training_scans(tumors):
    """What was simulated is in no archive, so only the real scans of a mixture are hashed."""
    mixed = [
        Tumor(t.case, t.bbox, tumor_id=t.tumor_id, labels=t.labels, mask_value=t.mask_value, metadata=m)
        for t, m in zip(tumors, [{"dataset": "simulated"}, {"dataset": "own"}] * 2, strict=True)
    ]
    embedder = tiny(max_epochs=1).fit(mixed)
    assert embedder.trained_on(tumors).tolist() == [False, True, False, True]


def test_fine_tuning_adds_to_the_training_scans(fitted, tumors, file):
    """The new scans count as well as those of the initial weights; a model without hashes says nothing."""
    more = cohort(8)[4:]
    own = {"patch_size": 24, "batch_size": 2, "max_epochs": 1, "batches_per_epoch": 2, "lr": 0.01}
    gone_on = TumorEmbedder.from_pretrained(file, device="cpu", **own).fit(more)
    assert len(gone_on.training_["scans"]) == 2
    assert gone_on.trained_on([*tumors, *more]).all() and not fitted.trained_on(more).any()
    silent = TumorEmbedder.load(file, device="cpu")
    del silent.training_["scans"]
    assert silent.trained_on(tumors) is None
    silent.save(file)
    after = TumorEmbedder.from_pretrained(file, device="cpu", **own).fit(more)
    assert after.trained_on(more) is None


@pytest.mark.parametrize("scans", [[], {"a": "b"}, 3])
def test_malformed_training_scans_are_refused(file, scans):
    """Hashes are a dict of lists."""
    tensors, metadata = contents(file)
    config = json.loads(metadata["config"])
    config["training"]["scans"] = scans
    save_file(tensors, file, metadata=metadata | {"config": json.dumps(config)})
    with pytest.raises(WeightsError, match="damaged"):
        TumorEmbedder.load(file)


@pytest.mark.slow
@pytest.mark.real
def test_shipped_weights_know_the_real_stacks(real_data, tmp_path):
    """The default weights were trained on all 93 stacks, those before them on none; nor on other scans."""
    stacks = build_manifest(real_data / "stacks" / "scans.csv", tmp_path / "stacks.csv")
    others = Case(real_data / "real" / "brain1_image.nrrd", case_id="a", patient_id="a")
    others = [Tumor(others, [(9, 9, 9), (12, 12, 12)], tumor_id="a")]
    embedder = TumorEmbedder.from_pretrained()
    assert embedder.trained_on(stacks).all() and not embedder.trained_on(others).any()
    assert not TumorEmbedder.from_pretrained("t1c-v6-simulated").trained_on(stacks).any()
