"""Shipped weights are made of trained models: their mean, and its entry in the registry."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from phantoms import TINY, cohort, tiny
from safetensors import safe_open

from benchmarks.shipping import average_models, describe_again, learn_type, register
from tumorsim import TumorEmbedder
from tumorsim.exceptions import WeightsError
from tumorsim.io import content_key, save_embeddings
from tumorsim.weights import load_model, load_registry, save_model, verify_weights

EMPTY = '{"default": null, "url": "http://127.0.0.1:9", "weights": {}}'


@pytest.fixture(scope="module")
def tumors():
    """Four tumors of two types on two sides."""
    return cohort(4)


@pytest.fixture(scope="module")
def model(tumors, tmp_path_factory):
    """Return the file of a model trained on them."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny(max_epochs=1).fit(tumors).save(path)
    return path


@pytest.fixture
def packaged(model, tmp_path):
    """Return the path of a registry with the model beside it, as in the wheel."""
    path = tmp_path / "package" / "registry.json"
    path.parent.mkdir()
    path.write_text(EMPTY)
    register(model, "t1c-v1", "1", license="CC0-1.0", description="For tests.", registry_path=path)
    return path


def start(model, **parameters):
    """Return the model, ready to go on."""
    own = {k: v for k, v in TINY.items() if k not in ("spacing", "n_channels", "n_blocks")}
    return TumorEmbedder.from_pretrained(model, **(own | parameters))


def test_register_enters_hash_size_and_default(model, packaged):
    """The copy is beside the registry, and the entry says what it is; a second one need not be default."""
    weights = load_registry(packaged).get()
    assert weights == load_registry(packaged).get("t1c-v1")
    assert (packaged.parent / weights.file).read_bytes() == model.read_bytes()
    assert (weights.sha256, weights.size) == (content_key(model), model.stat().st_size)
    options = {"license": "CC0-1.0", "description": "-", "registry_path": packaged}
    register(model, "other-v1", "1", default=False, **options)
    assert list(load_registry(packaged).weights) == ["t1c-v1", "other-v1"]
    assert load_registry(packaged).default == "t1c-v1"


def test_a_model_card_travels_in_the_file(model, packaged):
    """The card is in the metadata, and neither tensors nor fingerprint change."""
    options = {"license": "CC0-1.0", "description": "-", "registry_path": packaged}
    weights = register(model, "card-v1", "1", card="# What it is for", **options)
    path = packaged.parent / weights.file
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["model_card"] == "# What it is for"
    assert load_model(path)[1] == load_model(model)[1]
    assert verify_weights("card-v1", registry=load_registry(packaged))["name"] == "card-v1"


def test_register_refuses_what_cannot_be_shipped(model, packaged, tmp_path):
    """Names that are no file names, damaged files and large ones change nothing."""
    before = packaged.read_text()
    options = {"license": "-", "description": "-", "registry_path": packaged}
    with pytest.raises(ValueError, match=r"must match .* Got '\.\./x'"):
        register(model, "../x", "1", **options)
    (tmp_path / "bad").write_bytes(model.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        register(tmp_path / "bad", "bad-v1", "1", **options)
    network, config = load_model(model)
    save_model(tmp_path / "large", network, config | {"note": "x" * 6_000_000})
    with pytest.raises(ValueError, match="dtype='float16'"):
        register(tmp_path / "large", "large-v1", "1", **options)
    assert packaged.read_text() == before


@pytest.fixture(scope="module")
def siblings(tumors, model, tmp_path_factory):
    """Return files of two models that went on from one; the second knows one type more."""
    folder = tmp_path_factory.mktemp("siblings")
    types = list(tumors.labels["type"])
    for name, labels in {"few": types, "more": ["glioma", *types[1:]]}.items():
        start(model, lr=0.01).fit(tumors, {"type": labels}).save(folder / name)
    return [folder / "few", folder / "more"]


def test_average_is_the_mean_network(siblings, tumors, tmp_path):
    """Backbones are averaged tensor by tensor, and rows of heads by the names of their classes."""
    path = tmp_path / "mean.safetensors"
    average_models(siblings, path)
    (few, _), (more, _), (mean, config) = load_model(siblings[0]), load_model(siblings[1]), load_model(path)
    assert config["classes"]["type"] == ["glioma", "meningioma", "metastasis"]
    for name, tensor in mean.state_dict().items():
        if tensor.is_floating_point() and not name.startswith("heads."):
            expected = (few.state_dict()[name] + more.state_dict()[name]) / 2
            assert_allclose(tensor, expected, rtol=1e-5, atol=1e-7, err_msg=name)
    rows = [head.weight.detach().numpy() for head in (few.heads[0], more.heads[0], mean.heads[0])]
    apart = (rows[0][1] - rows[0][0] + rows[1][2] - rows[1][1]) / 2
    assert_allclose(rows[2][2] - rows[2][1], apart, atol=1e-6)
    glioma = rows[1][0] - rows[1][1:].mean(axis=0)  # who knows no glioma is not asked
    assert_allclose(rows[2][0], glioma, atol=1e-6)
    embedder = TumorEmbedder.load(path, device="cpu")
    assert embedder.space_.weights == TumorEmbedder.load(siblings[0]).space_.weights
    assert np.isfinite(embedder.space_.coordinates(embedder.transform(tumors))).all()
    assert len(embedder.training_["averaged"]) == 2
    scales = [load_model(sibling)[1]["scale"] for sibling in siblings]
    assert_allclose(config["scale"], np.mean(scales, axis=0))
    average_models([siblings[1], siblings[1]], path)
    assert_allclose(
        TumorEmbedder.load(path, device="cpu").transform(tumors),
        TumorEmbedder.load(siblings[1], device="cpu").transform(tumors),
        rtol=1e-5,
        atol=1e-6,
    )


def test_strangers_are_not_averaged(siblings, model, tumors, tmp_path):
    """One model is no mean, and models of other starts or tasks are refused, by name."""
    path = tmp_path / "mean.safetensors"
    with pytest.raises(ValueError, match="two or more"):
        average_models(siblings[:1], path)
    with pytest.raises(WeightsError, match="trained without initial weights"):
        average_models([siblings[0], model], path)
    other = tmp_path / "other.safetensors"
    start(siblings[0]).fit(tumors, {"type": list(tumors.labels["type"])}).save(other)
    with pytest.raises(WeightsError, match="same initial_weights"):
        average_models([siblings[0], other], path)
    start(model).fit(tumors).save(other)  # side and type
    with pytest.raises(WeightsError, match="same tasks"):
        average_models([siblings[0], other], path)
    start(model, patch_size=32).fit(tumors, {"type": list(tumors.labels["type"])}).save(other)
    with pytest.raises(WeightsError, match="same preprocessing"):
        average_models([siblings[0], other], path)
    assert not path.exists()


def test_tasks_in_another_order_are_averaged(model, tumors, tmp_path):
    """Heads are found by their names."""
    files = [tmp_path / "a", tmp_path / "b"]
    for file, tasks in zip(files, (["hemisphere", "type"], ["type", "hemisphere"]), strict=True):
        start(model, tasks=tasks, lr=0.01).fit(tumors).save(file)
    average_models(files, tmp_path / "mean")
    (a, _), (b, _), (mean, config) = (load_model(file) for file in (*files, tmp_path / "mean"))
    assert list(config["classes"]) == ["hemisphere", "type"]
    rows = [network.heads[i].weight.detach() for network, i in ((a, 1), (b, 0), (mean, 1))]
    apart = [row[0] - row[1] for row in rows]
    assert_allclose(apart[2], (apart[0] + apart[1]) / 2, atol=1e-6)


def test_training_scans_are_written_into_registered_weights(model, tumors, packaged):
    """Hashes and card are new, the registry has the new SHA-256; tensors and fingerprint are the same."""
    before = load_registry(packaged).get()
    fingerprint, tensors = load_model(model)[1]["fingerprint"], load_model(model)[0].state_dict()
    cases = [tumor.case for tumor in tumors[:2]]
    after = describe_again("t1c-v1", cases, card="# New", registry_path=packaged)
    registry = load_registry(packaged)
    assert registry.get() == after and registry.default == "t1c-v1"
    assert after.sha256 != before.sha256 and after.license == before.license
    path = packaged.parent / after.file
    assert verify_weights("t1c-v1", registry=registry)["fingerprint"] == fingerprint
    assert all(tensor.equal(tensors[name]) for name, tensor in load_model(path)[0].state_dict().items())
    embedder = TumorEmbedder.load(path, device="cpu")
    assert embedder.trained_on(tumors).tolist() == [True, True, False, False]
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["model_card"] == "# New"
    describe_again("t1c-v1", [], registry_path=packaged)
    assert not TumorEmbedder.load(path, device="cpu").trained_on(tumors).any()


def test_a_mean_knows_the_scans_of_all_its_parts(siblings, tumors, tmp_path):
    """Hashes of the averaged models are put together; where one has none, the mean has none."""
    average_models(siblings, tmp_path / "mean")
    mean = TumorEmbedder.load(tmp_path / "mean", device="cpu")
    assert mean.trained_on(tumors).all() and len(mean.training_["scans"]) == 3  # the start's and two runs'
    silent = TumorEmbedder.load(siblings[0], device="cpu")
    del silent.training_["scans"]
    silent.save(tmp_path / "silent")
    average_models([tmp_path / "silent", siblings[1]], tmp_path / "mean")
    assert TumorEmbedder.load(tmp_path / "mean", device="cpu").trained_on(tumors) is None


def test_a_measured_head_is_written_into_registered_weights(model, tumors, packaged, tmp_path):
    """It is learned from files of embeddings, real tumors counting more; a mean of models has none."""
    embedder = TumorEmbedder.load(model, device="cpu")
    classes, rng, files = embedder.classes_["type"], np.random.default_rng(0), []
    for name, n in (("simulated", 200), ("real", 40)):
        label = rng.integers(len(classes), size=n)
        if name == "real":
            label[:] = 0
        table = pd.DataFrame({"volume_mm3": np.exp(5 + 2 * label + rng.normal(size=n))})
        table = table.assign(
            label_type=np.array(classes)[label], **dict.fromkeys(("patient_id", "case_id"), "p")
        )
        table["tumor_id"] = [f"{name}-{i}" for i in range(n)]
        X = rng.normal(size=(n, embedder.n_features_out_)).astype(np.float32)
        files.append(tmp_path / f"{name}.npz")
        save_embeddings(files[-1], X, table, embedder.space_.to_dict())
    heads = {
        real: learn_type("t1c-v1", files[:1], files[1:] if real else (), registry_path=packaged)
        for real in (False, True)
    }
    apart = [heads[True].columns["volume_mm3"][0], heads[False].columns["volume_mm3"][0]]
    assert apart[0][1] < apart[1][1]  # the real ones, all of the first class, are small
    describe_again("t1c-v1", measured={"type": heads[True]}, registry_path=packaged)
    path = packaged.parent / load_registry(packaged).get().file
    space = TumorEmbedder.load(path, device="cpu").space_
    assert space.fingerprint == embedder.fingerprint_ and embedder.space_.measured == {}
    nothing = np.zeros((2, embedder.n_features_out_))
    big, small = space.aspect_coordinates("type", nothing, {"volume_mm3": [1e5, 50]}) ** 2
    assert small[0] > 0.8 > 0.2 > big[0]
    assert TumorEmbedder.load(path, device="cpu").trained_on(tumors).all()  # hashes are left as they were
    other = dict(embedder.space_.to_dict(), fingerprint="of another")
    save_embeddings(files[0], X, table, other)
    with pytest.raises(ValueError, match="must be of 't1c-v1'"):
        learn_type("t1c-v1", files[:1], registry_path=packaged)
