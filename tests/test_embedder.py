"""TumorEmbedder: scikit-learn's contract, and what it promises of embeddings."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import TINY, affine_of, cohort, scan, tiny
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from tumorsim import Case, Cohort, Tumor, TumorEmbedder
from tumorsim.exceptions import CohortError, GeometryError
from tumorsim.inference import mask_probability
from tumorsim.preprocessing import Preprocessing

QUICK = TINY | {"max_epochs": 1, "batches_per_epoch": 2}


@pytest.fixture(scope="module")
def tumors():
    """Six tumors on three scans."""
    return cohort(3, per_scan=2)


@pytest.fixture(scope="module")
def fitted(tumors):
    """Return an embedder trained for a moment; tests must not change it."""
    return tiny(lr=0.01).fit(tumors)


def same(found, expected, rtol=1e-6):
    """Compare embeddings relative to each row's norm."""
    distance = np.linalg.norm(found - expected, axis=1)
    assert (distance <= rtol * np.linalg.norm(expected, axis=1)).all(), distance


# -- embeddings


def test_transform_has_a_row_a_tumor(fitted, tumors):
    """Rows are float32 in the order given, and differ between tumors."""
    X = fitted.transform(tumors)
    assert X.shape == (6, 8) and X.dtype == np.float32 and np.isfinite(X).all()
    assert fitted.n_features_out_ == 8
    assert len(np.unique(X.round(4), axis=0)) == 6
    assert fitted.transform([]).shape == (0, 8)


def test_order_and_company_change_nothing(fitted, tumors):
    """A tumor's embedding is its own, whatever comes with it and in whatever order."""
    X = fitted.transform(tumors)
    order = np.random.default_rng(0).permutation(6)
    same(fitted.transform(tumors[order]), X[order])
    same(fitted.transform(list(tumors)[::-1]), X[::-1])
    for row in (0, 3, 5):
        same(fitted.transform(tumors[[row]]), X[[row]])


def test_threads_and_cache_change_nothing(tumors, fitted, tmp_path):
    """Workers and the voxel cache, cold or warm, give the same numbers."""
    X = fitted.transform(tumors)
    copied = pickle.loads(pickle.dumps(fitted)).set_params(n_jobs=3)
    assert_array_equal(copied.transform(tumors), X)
    copied.set_params(cache_dir=tmp_path)
    for _ in range(2):
        assert_array_equal(copied.transform(tumors), X)
    assert list(tmp_path.glob("*.npy"))
    cached = tiny(lr=0.01, cache_dir=tmp_path, n_jobs=2).fit(tumors)
    assert_array_equal(cached.transform(tumors), X)


@pytest.mark.parametrize("rotation", [0.0, 6.0])
def test_storage_order_changes_nothing(fitted, rotation):
    """One scan stored LAS, PIR or RAS, straight or oblique, has one embedding and one proposed mask."""
    lesions = [("meningioma", (12, 19, 17), (3, 4, 3)), ("metastasis", (27, 25, 12), (4, 3, 3))]
    options = {"shape": (41, 43, 35), "affine": affine_of((1.9, 2.1, 2.3), rotation)}
    plain = scan("s", lesions, **options)
    expected = fitted.transform(plain)
    volume = fitted.preprocessing_.prepare_case(plain[0].case)
    # a level that cuts through the brain, since a network this little trained finds all tumor or none
    level = float(np.median(mask_probability(fitted.network_, volume.image)[volume.image > 0.5]))
    mask = fitted.segment(plain[0].case, threshold=level)
    assert 0.05 < mask.mean() < 0.95
    assert mask.shape == plain[0].case.shape and mask.dtype == np.uint8
    for orientation in ("LAS", "PIR", "RAS", "SAR"):
        stored = scan("s", lesions, orientation=orientation, **options)
        same(fitted.transform(stored), expected, rtol=1e-3)  # float16 voxels
        found = fitted.segment(stored[0].case, threshold=level)
        assert found.shape == stored[0].case.shape
        back = _to_ras(found, stored[0].case.affine)
        assert (back != mask).mean() < 1e-3


def _to_ras(array, affine):
    """Bring an array into RAS+ order by nibabel."""
    import nibabel as nib

    return nib.as_closest_canonical(nib.Nifti1Image(array, affine)).get_fdata().astype(np.uint8)


def test_a_scan_smaller_than_a_patch_is_filled_up_with_air(fitted):
    """What lies around a thin stack is what lay around it in training, and air that is there is the same."""
    thin = scan("thin", [("meningioma", (12, 16, 4), (3, 4, 2))], shape=(40, 44, 9))[0]
    image, mask = thin.case.load_image(), thin.case.load_mask()
    affine = thin.case.affine.copy()
    affine[:3, 3] -= affine[:3, 2] * 7  # 24 - 9 slices: 7 below, 8 above
    padded = [np.pad(a, [(0, 0), (0, 0), (7, 8)]) for a in (image, mask)]
    case = Case((padded[0], affine), (padded[1], affine), case_id="padded", patient_id="p")
    same_tumor = Tumor(case, thin.bbox + np.array([0, 0, 7]), tumor_id="padded/1", mask_value=1)
    same(fitted.transform([same_tumor]), fitted.transform([thin]), rtol=1e-3)
    assert fitted.segment(thin.case).shape == (40, 44, 9)
    whole = Preprocessing(2.0, 24).pad(np.ones((5, 30, 23)))
    assert whole[0].shape == (24, 30, 24) and whole[0].sum() == 5 * 30 * 23 and whole[1].tolist() == [9, 0, 0]


def test_header_rotation_changes_nothing(fitted):
    """An oblique header over the same voxels gives the same embedding: axes are reordered, never rotated."""
    lesions = [("meningioma", (12, 19, 17), (3, 4, 3))]
    same(
        fitted.transform(scan("s", lesions, affine=affine_of(2.0, 5.0))),
        fitted.transform(scan("s", lesions, affine=affine_of(2.0))),
        rtol=1e-5,
    )


def test_segment_finds_tumors():
    """After some training the proposed mask lies on the tumors, on the case's own grid."""
    tumors = cohort(4, orientation="LPS")
    options = {"architecture": "paper", "patch_size": 16, "augment": False}
    embedder = tiny(lr=0.02, max_epochs=3, batches_per_epoch=20, **options).fit(tumors)
    for tumor in tumors:
        found, truth = embedder.segment(tumor.case) > 0, tumor.case.load_mask() > 0
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.6
    with pytest.raises(TypeError, match="must be a Case"):
        embedder.segment(tumors[0])
    with pytest.raises(ValueError, match="'threshold'"):
        embedder.segment(tumors[0].case, threshold=2)


def test_predictions_are_a_table_a_task(fitted, tumors):
    """Probabilities have a column a class and sum to one; the answer is the most probable class."""
    probabilities, answers = fitted.predict_proba(tumors), fitted.predict(tumors)
    assert list(probabilities) == fitted.tasks_ == ["type", "hemisphere"]
    assert fitted.classes_ == {"type": ["meningioma", "metastasis"], "hemisphere": ["left", "right"]}
    for task, table in probabilities.items():
        assert list(table.columns) == fitted.classes_[task]
        assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
        assert list(answers[task]) == [table.columns[i] for i in table.to_numpy().argmax(axis=1)]
    X = torch.from_numpy(fitted.transform(tumors))
    logits = fitted.network_.classify(X)["type"].softmax(dim=1).detach().numpy()
    assert_allclose(probabilities["type"], logits, rtol=1e-5)


def test_space_describes_the_heads(fitted):
    """Aspects span what each head can tell apart; the scale is positive; the fingerprint is a SHA-256."""
    space = fitted.space_
    assert set(space.aspects) == {"type", "hemisphere"} and space.scale.shape == (8,)
    weight = fitted.network_.heads[0].weight.detach().numpy()
    difference = space.aspects["type"][0] - space.aspects["type"][1]
    assert_allclose(difference, weight[0] - weight[1], rtol=1e-5)
    assert_allclose(space.aspects["type"].sum(axis=0), 0, atol=1e-7)
    assert (space.scale > 0).all() and len(space.fingerprint) == 64


def test_space_says_what_the_heads_say(fitted, tumors):
    """Probabilities are those of `predict_proba`; a head counts in the plain distance as in the loss."""
    X = fitted.transform(tumors)
    said = fitted.space_.aspect_coordinates("type", X) ** 2
    assert_allclose(said, fitted.predict_proba(tumors)["type"], rtol=1e-4)
    assert fitted.space_.weights == {"type": 1 / 3, "hemisphere": 1 / 3}  # two classes each
    looks = (X * fitted.space_.scale).var(axis=0).sum()
    assert 0.05 < looks < 1  # 0.3 of the weights' sum on training patches


# -- scikit-learn's contract


def test_init_only_stores_parameters():
    """Nothing is checked or worked out before `fit`; what comes in is what comes out."""
    odd = {name: object() for name in TumorEmbedder().get_params()}
    embedder = TumorEmbedder(**odd)
    assert all(embedder.get_params()[name] is value for name, value in odd.items())
    assert not [name for name in vars(embedder) if name.endswith("_")]


def test_clone_and_set_params():
    """A clone has the same parameters and nothing learned."""
    embedder = tiny(**QUICK | {"task_weights": {"mask": 2.0}, "lr_milestones": (3, 4)}).fit(cohort(3))
    copied = clone(embedder)
    wanted, found = (dict(e.get_params(), recipe=None) for e in (embedder, copied))
    assert found == wanted and found["recipe__lr_milestones"] == (3, 4)
    assert not hasattr(copied, "network_")
    assert embedder.set_params(n_channels=12, lr=0.5) is embedder
    assert (embedder.n_channels, embedder.lr) == (12, 0.5)
    with pytest.raises(ValueError, match="Invalid parameter 'channels'"):
        embedder.set_params(channels=3)


def test_refit_forgets(tumors):
    """Fitting again equals fitting anew, on other tumors and with other tasks."""
    embedder = TumorEmbedder(**QUICK).fit(cohort(2), {"other": ["a", "b"]})
    assert embedder.tasks_ == ["other"]
    refitted = embedder.fit(tumors)
    assert refitted is embedder and embedder.tasks_ == ["type", "hemisphere"]
    assert_array_equal(embedder.transform(tumors), TumorEmbedder(**QUICK).fit(tumors).transform(tumors))


def test_inputs_are_not_changed(tumors):
    """Neither tumors nor parameters are touched by fit, transform, predict and segment."""
    weights, milestones, spacing = {"mask": 3.0}, (1, 2), (2.0, 2.0, 2.0)
    before = pickle.dumps(list(tumors))
    embedder = tiny(**QUICK | {"task_weights": weights, "lr_milestones": milestones, "spacing": spacing})
    params = embedder.get_params()
    embedder.fit(tumors, resume=False).transform(tumors)
    embedder.predict(tumors)
    embedder.segment(tumors[0].case)
    assert weights == {"mask": 3.0}
    assert all(embedder.get_params()[name] is params[name] for name in params)
    for tumor, kept in zip(tumors, pickle.loads(before), strict=True):
        assert_array_equal(tumor.bbox, kept.bbox)
        assert_array_equal(tumor.case.image[0], kept.case.image[0])
        assert_array_equal(tumor.case.mask[0], kept.case.mask[0])
        assert tumor.labels == kept.labels


def test_not_fitted(tumors, tmp_path):
    """Everything that needs training says so."""
    embedder = TumorEmbedder()
    for call in (
        lambda: embedder.transform(tumors),
        lambda: embedder.predict(tumors),
        lambda: embedder.predict_proba(tumors),
        lambda: embedder.segment(tumors[0].case),
        lambda: embedder.save(tmp_path / "m"),
        lambda: embedder.get_feature_names_out(),
    ):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            call()
    assert not list(tmp_path.iterdir())


def test_pickle(fitted, tumors):
    """A pickled embedder is the same embedder."""
    copied = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copied.transform(tumors), fitted.transform(tumors))
    assert copied.space_ == fitted.space_ and copied.history_ == fitted.history_


@pytest.mark.parametrize("wrong", [None, 3, np.zeros((4, 5)), ["a", "b"], pd.DataFrame({"a": [1]})])
def test_wrong_types(fitted, wrong):
    """Whatever is not tumors is refused by type, before anything is trained."""
    for call in (TumorEmbedder(**QUICK).fit, fitted.transform, fitted.predict):
        with pytest.raises(TypeError, match="'tumors' must be a Cohort or a sequence of Tumor"):
            call(wrong)


def test_single_tumor_must_be_wrapped(fitted, tumors):
    """One tumor is an easy mistake with an own remedy; no tumors cannot be trained on."""
    with pytest.raises(TypeError, match="wrap it in a list"):
        fitted.transform(tumors[0])
    with pytest.raises(ValueError, match="at least one tumor"):
        tiny().fit([])


def test_set_output_names_the_features(fitted, tumors):
    """`set_output` gives a DataFrame with a column a feature, and predictions still work."""
    copied = pickle.loads(pickle.dumps(fitted)).set_output(transform="pandas")
    table = copied.transform(tumors)
    assert list(table.columns) == list(copied.get_feature_names_out()) == [f"embedding_{i}" for i in range(8)]
    assert_array_equal(table.to_numpy(), fitted.transform(tumors))
    assert copied.predict(tumors).equals(fitted.predict(tumors))


def pipeline(**overrides):
    """Return embedder and nearest-neighbor classifier in one."""
    return Pipeline([("embed", TumorEmbedder(**QUICK | overrides)), ("knn", KNeighborsClassifier(1))])


def test_pipeline_passes_y_along(tumors):
    """In a pipeline a 1-D y goes to the classifier; tumors with labels train on their own."""
    y = np.array([tumor.labels["type"] for tumor in tumors])
    fitted_pipeline = pipeline().fit(tumors, y)
    assert fitted_pipeline["embed"].tasks_ == ["type", "hemisphere"]
    assert_array_equal(fitted_pipeline.predict(tumors), y)  # one neighbor: itself


def test_cross_validation_by_patient(tumors):
    """scikit-learn splits a cohort by patient and scores a pipeline on it."""
    y = np.array([tumor.labels["type"] for tumor in tumors])
    scores = cross_val_score(
        pipeline(), tumors, y, groups=tumors.patient_ids, cv=GroupKFold(3), error_score="raise"
    )
    assert scores.shape == (3,) and ((scores >= 0) & (scores <= 1)).all()


def test_grid_search_over_a_cohort(tumors):
    """GridSearchCV tries parameters of the embedder, NumPy numbers among them."""
    y = np.array([tumor.labels["type"] for tumor in tumors])
    search = GridSearchCV(
        pipeline(), {"embed__n_channels": np.array([4, 8])}, cv=GroupKFold(3), error_score="raise"
    )
    search.fit(tumors, y, groups=tumors.patient_ids)
    assert search.best_estimator_["embed"].n_features_out_ == search.best_params_["embed__n_channels"]


# -- labels


def test_table_or_dict_replaces_labels(tumors):
    """A DataFrame and a dict of the same values train the same; None and NaN are missing."""
    values = {"grade": ["1", "2", None, "1", "2", "1"], "visit": [1, 2, 1, np.nan, 2, 1]}
    one = TumorEmbedder(**QUICK).fit(tumors, values)
    other = TumorEmbedder(**QUICK).fit(tumors, pd.DataFrame(values, index=list("uvwxyz")))
    assert one.tasks_ == ["grade", "visit"] and one.classes_["grade"] == ["1", "2"]
    assert one.fingerprint_ == other.fingerprint_
    numbered = pd.DataFrame({0: values["grade"], 1: values["visit"]})
    assert TumorEmbedder(**QUICK).fit(tumors, numbered).tasks_ == ["0", "1"]
    with pytest.raises(ValueError, match=r"one row per tumor \(6\)\. Got 2"):
        TumorEmbedder(**QUICK).fit(tumors, {"grade": ["1", "2"]})


def test_one_dimensional_y_is_a_task_only_where_there_are_no_labels(tumors):
    """It becomes task ``target`` of bare tumors, and is ignored otherwise."""
    bare = cohort(3, per_scan=2, labels=False)
    y = [0, 1, 0, 1, None, 1]
    assert TumorEmbedder(**QUICK).fit(bare, y).classes_ == {"target": ["0", "1"]}
    one, other = (TumorEmbedder(**QUICK).fit(tumors, target) for target in (y, None))
    assert one.fingerprint_ == other.fingerprint_


def test_tasks_choose_labels(tumors):
    """`tasks` keeps some of the labels; one that is not there is named."""
    assert TumorEmbedder(**QUICK | {"tasks": ["hemisphere"]}).fit(tumors).tasks_ == ["hemisphere"]
    with pytest.raises(ValueError, match=r"'tasks' must be labels of the tumors: type, hemisphere\. Got"):
        TumorEmbedder(**QUICK | {"tasks": ["grade"]}).fit(tumors)


def test_task_of_one_class_is_left_out_with_a_warning(tumors):
    """What cannot be learned is said and skipped; the other tasks train."""
    labels = {"constant": ["a"] * 6, "empty": [None] * 6, "type": ["a", "b"] * 3}
    with pytest.warns(UserWarning) as caught:
        embedder = TumorEmbedder(**QUICK).fit(tumors, labels)
    assert embedder.tasks_ == ["type"]
    assert [str(w.message).split(" is left out")[0] for w in caught] == ["Task 'constant'", "Task 'empty'"]
    assert all(w.filename == __file__ for w in caught)  # it points at the caller


@pytest.mark.parametrize("name", ["mask", "embedding", "total"])
def test_names_of_other_things_are_no_tasks(tumors, name):
    """A label column called like a head of another kind is refused, not mixed up with it."""
    with pytest.raises(ValueError, match=f"Got '{name}'"):
        TumorEmbedder(**QUICK).fit(tumors, {name: ["a", "b"] * 3})


def test_masks_alone_are_enough():
    """Without labels the mask's head trains; transform and predict still have a row a tumor."""
    bare = cohort(2, labels=False)
    embedder = TumorEmbedder(**QUICK).fit(bare)
    assert embedder.tasks_ == [] and set(embedder.space_.aspects) == set()
    assert embedder.transform(bare).shape == (2, 8)
    assert embedder.predict(bare).shape == (2, 0) and embedder.predict_proba(bare) == {}
    assert list(embedder.history_[0])[2:4] == ["loss", "loss_mask"]


def test_labels_alone_are_enough():
    """Without masks the tasks' heads train, on boxes given by hand."""
    embedder = TumorEmbedder(**QUICK).fit(cohort(4, with_mask=False))
    assert "loss_mask" not in embedder.history_[0] and "loss_type" in embedder.history_[0]


def test_nothing_to_learn_is_an_error():
    """Neither labels nor masks: there is nothing to train on."""
    with pytest.raises(ValueError, match="must carry a mask, or a label"):
        TumorEmbedder(**QUICK).fit(cohort(2, with_mask=False, labels=False))


# -- errors


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_channels", 0), ("n_channels", 8.0), ("n_blocks", -1), ("batch_size", "2"), ("max_epochs", True),
        ("batches_per_epoch", 0), ("n_jobs", 0), ("architecture", "huge"), ("optimizer", "lion"),
        ("lr_schedule", "none"), ("lr", 0), ("lr", float("nan")), ("gradient_clip", -1),
        ("weight_decay", -0.1), ("mask_dice", "x"), ("mask_balance", 1.1), ("box_jitter", 1.5),
        ("spacing", 0), ("spacing", (1, 2)), ("patch_size", 30), ("patch_size", 32.0),
        ("patch_size", (32, 32)), ("patch_size", 4),
        ("lr_milestones", 3), ("lr_milestones", ("a",)), ("device", "abacus"), ("random_state", "x"),
        ("random_state", -1), ("tasks", "type"), ("task_weights", [1]), ("task_weights", {"grade": 1}),
        ("task_weights", {"type": -1}), ("augment", "yes"), ("balance_classes", None),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(tumors, name, value):
    """A parameter out of range is refused with its name, before any scan is read."""
    with pytest.raises((ValueError, TypeError), match=f"'?{name}"):
        tiny(**QUICK | {name: value}).fit(tumors)


def bad_cohort():
    """Return tumors of four scans, three of them of no use, each in its own way."""
    good = scan("good", [("meningioma", (12, 19, 17), (3, 4, 3))])
    (nan,) = scan("hole", [("metastasis", (27, 19, 17), (3, 4, 3))])
    nan.case.image[0][5, 5, 5] = np.nan
    (other,) = scan("grid", [("meningioma", (12, 19, 17), (3, 4, 3))])
    case = Case(other.case.image, (other.case.mask[0], affine_of(2.1)), case_id="grid", patient_id="g")
    (inside,) = scan("box", [("metastasis", (27, 19, 17), (3, 4, 3))])
    return Cohort(
        [
            *good, nan, Tumor(case, other.bbox, tumor_id="grid/1", labels=other.labels),
            Tumor(inside.case, [(30, 30, 30), (41, 40, 36)], tumor_id="box/1", labels=inside.labels),
        ]
    )  # fmt: skip


def test_all_bad_scans_are_reported_together():
    """One error lists every scan that cannot be used and why, before training starts."""
    with pytest.raises(CohortError) as caught:
        tiny(n_jobs=2).fit(bad_cohort())
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 4 scans cannot be used:"
    expected = (
        r"case 'hole' .*1 NaN or infinite",
        r"case 'grid' .*different grids",
        r"case 'box' .*must lie inside",
    )
    for line, pattern in zip(lines[1:], expected, strict=True):
        assert re.search(pattern, line), line


def test_mask_value_that_selects_nothing_is_reported(tumors):
    """A tumor whose mask value is not in its box is named before training."""
    (tumor,) = scan("s", [("meningioma", (12, 19, 17), (3, 4, 3))])
    wrong = Tumor(tumor.case, tumor.bbox, tumor_id="s/9", labels=tumor.labels, mask_value=7)
    with pytest.raises(CohortError, match=r"value 7 in the box of tumor 's/9'"):
        tiny().fit([*tumors, wrong])


def test_transform_finds_bad_headers_before_it_reads(fitted):
    """Headers are checked all at once; bad voxels are named with their case."""
    with pytest.raises(CohortError, match="2 of 4 scans cannot be used"):
        fitted.transform(bad_cohort())
    with pytest.raises(GeometryError, match="case 'hole' must be finite"):
        fitted.transform(bad_cohort()[:2])


def test_image_of_one_intensity_is_reported(tumors):
    """An empty scan cannot be trained on, and is named."""
    case = Case((np.full((30, 30, 30), 7.0), np.eye(4)), case_id="flat", patient_id="p")
    flat = Tumor(case, [(3, 3, 3), (9, 9, 9)], tumor_id="flat/1", labels={"type": "meningioma"})
    with pytest.raises(CohortError, match=r"case 'flat' \(in memory\): .*one intensity only"):
        tiny().fit([*tumors, flat])


def test_read_only_arrays_make_no_warning(fitted):
    """Arrays that a caller has locked can be embedded, in any type."""
    (tumor,) = scan("s", [("meningioma", (12, 19, 17), (3, 4, 3))])
    expected = fitted.transform([tumor])
    for kind in (np.float32, np.float64, np.int16):
        array = np.asfortranarray(tumor.case.image[0].astype(kind))
        array.flags.writeable = False
        case = Case((array, tumor.case.affine), case_id="s", patient_id="p")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = fitted.transform([Tumor(case, tumor.bbox, tumor_id="s/1")])
        same(found, expected, rtol=1e-6 if kind != np.int16 else 0.05)  # int16 rounds the intensities
