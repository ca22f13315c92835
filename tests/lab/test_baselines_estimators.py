"""Baselines as estimators: one contract for all, chance, scaling and components, regional morphometry."""

import numpy as np
import phantoms
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from test_baselines import needs_mirp

from benchmarks.baselines import BASELINES, RandomVectors, TumorFeatures, morphometry_features
from benchmarks.baselines._morphometry import AREAS, _brain_points, _scan_means
from tumorsim import Case, Tumor
from tumorsim.anatomy import load_template, region_at
from tumorsim.geometry import bbox_from_mask
from tumorsim.preprocessing import normalize_intensity, resample

WIDTHS = {
    "random": 32, "volume_place": 4, "intensity": 4, "radiomics": 4, "crop_pca": 4, "morphometry": 4,
    "forest_codes": 128, "forest_radiomics": 128, "untrained": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def tumors():
    """Return four tumors in two scans, of two types and two sides."""
    return phantoms.cohort(2, per_scan=2)


def made(name):
    """Return a baseline as tables use it, but a small network."""
    estimator = BASELINES[name](random_state=3)
    if name == "untrained":
        return estimator.set_params(embedder=phantoms.tiny())
    return estimator.set_params(min_samples_leaf=1) if "forest" in name else estimator


def test_every_baseline_is_listed():
    """The table's baselines are these."""
    assert list(BASELINES) == [
        "random", "volume_place", "intensity", "radiomics", "crop_pca", "morphometry", "forest_codes",
        "forest_radiomics", "untrained",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[needs_mirp, pytest.mark.slow] if "radiomics" in name else [])
        for name in WIDTHS
    ],
)
def test_contract(name, tumors):
    """Clone, not fitted, shapes, order of rows, empty input, and scikit-learn's neighbors."""
    estimator = made(name)
    parameters = estimator.get_params(deep=False)
    assert estimator.metric == ("hamming" if "forest" in name else "euclidean")
    with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit' first"):
        estimator.transform(tumors)
    with pytest.raises(ValueError, match="at least one tumor"):
        estimator.fit([])
    with pytest.raises(TypeError, match="must be a Cohort or a sequence of Tumor"):
        estimator.fit([1.0])

    X = estimator.fit_transform(tumors)
    assert X.shape == (4, WIDTHS[name]) and X.dtype == np.float32
    assert np.isfinite(X).all()
    assert len(np.unique(X, axis=0)) > 1
    assert all(estimator.get_params(deep=False)[key] is value for key, value in parameters.items())
    assert estimator.transform([]).shape == (0, WIDTHS[name])
    assert len(estimator.get_feature_names_out()) == WIDTHS[name]

    again = clone(estimator)
    with pytest.raises(NotFittedError):
        again.transform(tumors)
    assert again.fit(tumors) is again
    scale = np.abs(X).max()
    order = [3, 0, 2]
    assert_allclose(again.transform(tumors[order]), X[order], atol=1e-5 * scale)  # sums of other lengths
    nearest = NearestNeighbors(n_neighbors=1, metric=estimator.metric).fit(X)
    assert_allclose(nearest.kneighbors(X)[0], 0, atol=1e-3 * scale)


def test_random_vectors_depend_on_id_and_seed_only(tumors):
    """A tumor's vector is the same in any company, and another for another seed; vectors are independent."""
    X = RandomVectors(n_features=1000).fit_transform(tumors)
    alone = RandomVectors(n_features=1000).fit(tumors[3:]).transform([tumors[2]])
    assert_array_equal(alone[0], X[2])
    other = RandomVectors(n_features=1000, random_state=1).fit_transform(tumors)
    correlation = np.corrcoef(np.concatenate([X, other]))
    assert np.abs(correlation - np.eye(8)).max() < 0.15  # 1 / sqrt(1000) is 0.03
    assert_allclose([X.mean(), X.std()], [0, 1], atol=0.05)


def test_figures_are_standardized_and_rotated(tumors):
    """Each figure has mean 0 and variance 1; components keep distances; the first has the most variance."""
    sizes, rng = np.array([1.0, 100.0, 1e4]), np.random.default_rng(0)
    table = dict(zip(tumors.tumor_ids, sizes * rng.normal(size=(4, 3)) + 5, strict=True))

    def measure(tumors):
        return np.array([table[tumor.tumor_id] for tumor in tumors])

    expected = measure(tumors)
    plain = TumorFeatures(measure, standardize=False).fit_transform(tumors)
    assert_allclose(plain, expected, rtol=1e-6)
    expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    scaled = TumorFeatures(measure).fit_transform(tumors)
    assert_allclose(scaled, expected, atol=1e-5)
    rotated = TumorFeatures(measure, n_components=32).fit_transform(tumors)
    distances = [np.linalg.norm(X[:, None] - X[None], axis=2) for X in (rotated, scaled)]
    assert_allclose(*distances, atol=1e-5)
    values = np.linalg.svd(expected)[1]
    first = TumorFeatures(measure, n_components=1).fit_transform(tumors)
    assert_allclose(np.linalg.norm(first), values[0], rtol=1e-5)
    both = TumorFeatures((measure, measure), standardize=False).fit_transform(tumors)
    assert_array_equal(both, np.concatenate([plain, plain], axis=1))


def test_new_tumors_are_scaled_as_those_of_fit(tumors):
    """The scaling is that of the tumors of `fit`, not of the queries."""

    def measure(tumors):
        return np.array([[float(tumor.tumor_id[1])] for tumor in tumors])  # number of the scan

    fitted = TumorFeatures(measure).fit(tumors)  # scans 0, 0, 1, 1: mean 0.5, deviation 0.5
    assert_allclose(fitted.transform([tumors[2]]), [[1.0]])
    fitted = TumorFeatures(measure).fit(tumors[:3])  # 0, 0, 1: mean 1/3, deviation √2/3
    assert_allclose(fitted.transform([tumors[3]]), [[2 / np.sqrt(2)]], rtol=1e-6)


def test_baselines_stand_in_pipelines(tumors):
    """A baseline and a classifier make a pipeline; tables come out on request."""
    from sklearn.neighbors import KNeighborsClassifier

    y = tumors.labels["hemisphere"]
    model = make_pipeline(BASELINES["volume_place"](0), KNeighborsClassifier(1)).fit(tumors, y)
    assert model.score(tumors, y) == 1
    table = BASELINES["volume_place"](0).set_output(transform="pandas").fit_transform(tumors)
    assert list(table.columns) == [f"tumorfeatures{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "'n_components' must be at least 1"),
        ({"standardize": "yes"}, ValueError, "'standardize' must be one of"),
        ({"measure": "volume"}, TypeError, "'measure' must be a callable or a tuple"),
    ],
)
def test_parameters_are_checked_in_fit(parameters, error, message, tumors):
    """A wrong parameter is named when fitting, not before."""
    estimator = BASELINES["volume_place"](0).set_params(**parameters)
    with pytest.raises(error, match=message):
        estimator.fit(tumors)


@pytest.fixture(scope="module")
def template():
    """Return a tumor, a bright ball in the MNI template at 4 mm, and the affine."""
    arrays, affine = load_template()
    t1 = resample(arrays[0], (1, 1, 1), (4, 4, 4), (50, 59, 48))
    moved = affine.copy()
    moved[:3, :3] *= 4
    moved[:3, 3] += 1.5
    center = np.array([42.0, 6.0, 6.0])
    voxel = np.linalg.solve(moved, [*center, 1])[:3]
    mask = phantoms.ball(t1.shape, voxel, (4, 4, 4)).astype(np.uint8)  # enough voxels to count shares
    image = 100 * t1 / np.median(t1[t1 > 0.1 * t1.max()])
    image[mask > 0] = 250
    case = Case((image.astype(np.float32), moved), (mask, moved), case_id="mni", patient_id="p")
    return Tumor(case, bbox_from_mask(mask > 0), tumor_id="mni/1"), moved


def columns(row):
    """Return the parts of a row of morphometry by name."""
    n = len(AREAS)
    parts = np.split(row[1:], [n, 2 * n])
    return row[0], *(dict(zip(AREAS, part, strict=True)) for part in parts)


def test_morphometry_of_the_template_by_hand(template):
    """On the template shares are those of the voxels' landmarks; the tumor is bright in its own area only."""
    tumor, affine = template
    log_diameter, share, bright, whole = columns(morphometry_features([tumor], method="registration")[0])
    voxels = tumor.bbox[0] + np.argwhere(tumor.load_mask())
    assert_allclose(log_diameter, np.log2((6 / np.pi * len(voxels) * 64) ** (1 / 3)))
    names = region_at(voxels @ affine[:3, :3].T + affine[:3, 3])
    for area in AREAS:
        assert_allclose(share[area], (names == area).mean(), atol=0.03)  # registration errs by 0.5 mm
    assert sum(value > 0.1 for value in share.values()) >= 2  # the ball reaches into several areas
    values = normalize_intensity(tumor.case.load_image(), (4, 4, 4))[tumor.case.load_mask() > 0]
    for area in AREAS:
        assert_allclose(bright[area], values.mean() if share[area] else 1, rtol=1e-6)
    assert all(0.4 < value < 1.6 for value in whole.values())
    assert set(AREAS) == set(region_at(np.random.default_rng(0).uniform(-60, 60, (5000, 3))))


def test_areas_that_are_not_seen_are_neutral(template):
    """An area's mean is over its points in the scan: of a stack from 24 mm up, the cerebellum's is 1."""
    affine, cut = template[1], 24
    z = affine[2, 3] + 4 * np.arange(48.0)
    heights = np.broadcast_to(z, (50, 59, 48))  # every voxel holds its own height in mm
    whole = dict(zip(AREAS, _scan_means(heights, affine), strict=True))
    points, areas = _brain_points()
    for area in AREAS:
        assert_allclose(whole[area], points[areas == area, 2].mean(), atol=2)  # nearest voxels of 4 mm
    moved = affine.copy()
    moved[2, 3] = z[cut]
    half = dict(zip(AREAS, _scan_means(heights[:, :, cut:], moved), strict=True))
    upper = (areas == "frontal") & (points[:, 2] >= z[cut] - 2)
    assert_allclose(half["frontal"], points[upper, 2].mean(), atol=2)
    assert half["cerebellum"] == half["brainstem"] == 1
