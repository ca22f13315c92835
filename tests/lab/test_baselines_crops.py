"""Crops of known ellipsoids, and frozen embedders of other people."""

import numpy as np
import phantoms
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from benchmarks.baselines import FrozenEmbedder, crop_features, tumor_crops
from tumorsim import Case, Tumor
from tumorsim.geometry import bbox_from_mask

BALLS = [("meningioma", (12, 20, 17), (5, 7, 4)), ("meningioma", (28, 22, 16), (4, 4, 6))]


def even_scan(spacing):
    """Return two ellipsoids of 3 in an even brain of 1, in units of its median, with air around it."""
    image, mask = np.zeros((44, 44, 40), np.float32), np.zeros((44, 44, 40), np.uint8)
    image[3:-3, 3:-3, 3:-3] = 100
    for number, (_, center, radii) in enumerate(BALLS, start=1):
        mask[phantoms.ball(mask.shape, center, radii)] = number
    image[mask > 0] = 300
    affine = phantoms.affine_of(spacing)
    case = Case((image, affine), (mask, affine), case_id="even", patient_id="p")
    return [
        Tumor(case, bbox_from_mask(mask == n), tumor_id=f"even/{n}", mask_value=n)
        for n in range(1, len(BALLS) + 1)
    ]


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.0, 1.5, 3.0)])
def test_box_fills_the_crop(spacing):
    """Without margin an ellipsoid takes as much of the crop as of its box; else less, by the margin."""
    tumors = even_scan(spacing)
    tight = tumor_crops(tumors, shape=(20, 24, 16), margin_mm=0)
    assert tight.shape == (2, 1, 20, 24, 16) and tight.dtype == np.float32
    true = [tumor.load_mask().mean() for tumor in tumors]  # of the box's voxels
    assert_allclose((tight.mean(axis=(1, 2, 3, 4)) - 1) / 2, true, atol=0.03)  # faces are blurred by outside
    wide = tumor_crops(tumors, shape=(20, 24, 16), margin_mm=6)
    sides = [(t.bbox[1] - t.bbox[0]) * spacing for t in tumors]
    expected = [share * np.prod(s / (s + 12)) for share, s in zip(true, sides, strict=True)]
    assert_allclose((wide.mean(axis=(1, 2, 3, 4)) - 1) / 2, expected, atol=0.005)


def test_fixed_voxels_keep_size_and_center():
    """With `spacing`, the ellipsoid has its true volume, and its center is that of the crop."""
    tumors = even_scan((2.0, 1.5, 3.0))
    crops = tumor_crops(tumors, shape=(32, 30, 28), spacing=(1.0, 1.5, 2.0))
    share = (crops[:, 0] - 1) / 2
    volumes = [tumor.measure()["volume_mm3"] for tumor in tumors]
    assert_allclose(share.sum(axis=(1, 2, 3)) * 3.0, volumes, rtol=0.01)  # linear resampling keeps sums
    for part in share:
        center = [(grid * part).sum() / part.sum() for grid in np.indices(part.shape)]
        assert_allclose(center, np.array([31, 29, 27]) / 2, atol=0.02)


@pytest.mark.parametrize("options", [{"margin_mm": 5.0}, {"spacing": 1.7}])
def test_storage_axes_change_nothing(options):
    """The same scan stored along other axes gives the same crops."""
    affine = phantoms.affine_of((2.0, 1.5, 3.0))
    plain = tumor_crops(phantoms.scan("a", BALLS, affine=affine), shape=(9, 8, 7), **options)
    turned = phantoms.scan("a", BALLS, affine=affine, orientation="PIL")
    assert_allclose(tumor_crops(turned, shape=(9, 8, 7), **options), plain, atol=1e-5)
    flat = crop_features(turned, shape=(9, 8, 7), **options)
    assert_allclose(flat, plain.reshape(2, -1), atol=1e-5)


def test_beyond_the_scan_is_air():
    """Where the scan ends, voxels are 0; whole voxels of the same size are the scan's own."""
    image = np.full((12, 14, 16), 100, np.float32)
    image[:4, :4, :4] = 0  # air, which sets the scale
    image[9:12, 5:9, 6:10] = 300
    case = Case((image, np.eye(4)), case_id="edge", patient_id="p")
    tumor = Tumor(case, [(9, 5, 6), (12, 9, 10)], tumor_id="edge/1")
    crop = tumor_crops([tumor], shape=(11, 10, 10), spacing=1.0)[0, 0]  # voxels 5 … 16, 2 … 12, 3 … 13
    expected = np.zeros((11, 10, 10))
    expected[:7] = image[5:12, 2:12, 3:13] / 100
    assert_allclose(crop, expected, atol=1e-6)


def flat_mean(crops):
    """Return three numbers a crop."""
    assert crops.ndim == 5 and crops.shape[1] == 1 and crops.dtype == np.float32
    return np.percentile(crops, (10, 50, 90), axis=(1, 2, 3, 4)).T


def test_frozen_embedder_gives_what_the_callable_gives():
    """Rows are those of the callable on the crops, whatever the batches; a torch module is as good."""
    tumors = phantoms.cohort(3, per_scan=2)
    grid = {"shape": (8, 9, 10), "margin_mm": 4.0}
    expected = flat_mean(tumor_crops(tumors, **grid))
    order = [5, 0, 3, 1, 4, 2]  # scans interleaved
    for batch_size in (1, 4, 100):
        embedder = FrozenEmbedder(flat_mean, batch_size=batch_size, **grid).fit(tumors[:1])
        assert embedder.n_features_out_ == 3
        assert_allclose(embedder.transform(tumors[order]), expected[order], rtol=1e-6)

    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(720, 5))
    X = FrozenEmbedder(lambda crops: layer(torch.from_numpy(crops)), **grid).fit_transform(tumors)
    weight, bias = (p.detach().numpy() for p in layer[1].parameters())
    assert_allclose(X, tumor_crops(tumors, **grid).reshape(6, -1) @ weight.T + bias, atol=1e-4)


def test_frozen_transformer_is_neither_fitted_nor_cloned():
    """A transformer is used as it is: `fit` and `clone` leave it alone; one that is not fitted raises."""
    tumors = phantoms.cohort(4)
    crops = tumor_crops(tumors, shape=8)
    rows = FunctionTransformer(lambda crops: crops.reshape(len(crops), -1))
    pca = make_pipeline(rows, PCA(2, svd_solver="full")).fit(crops[:3])
    embedder = clone(FrozenEmbedder(pca, shape=8))
    assert embedder.embed is pca
    with pytest.raises(NotFittedError, match="FrozenEmbedder is not fitted"):
        embedder.transform(tumors)
    before = pca[-1].components_.copy()
    assert_allclose(embedder.fit_transform(tumors), pca.transform(crops), atol=1e-4)
    assert_array_equal(pca[-1].components_, before)
    with pytest.raises(NotFittedError, match="Pipeline instance is not fitted"):
        FrozenEmbedder(make_pipeline(rows, PCA(2)), shape=8).fit(tumors)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"embed": 3}, TypeError, "'embed' must be a callable or have a method 'transform'. Got int"),
        ({"embed": lambda crops: crops}, ValueError, r"must return an array of shape \(1, n_features\)"),
        ({"embed": lambda crops: [[np.nan]]}, ValueError, "finite numbers"),
        ({"shape": (4, 4)}, ValueError, "'shape' must be one or three numbers"),
        ({"shape": 0}, ValueError, "'shape' must be at least 1"),
        ({"margin_mm": -1}, ValueError, "'margin_mm' must be at least 0"),
        ({"spacing": 0}, ValueError, "'spacing' must be greater than 0"),
        ({"batch_size": 0}, ValueError, "'batch_size' must be at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(parameters, error, message):
    """A wrong parameter, or an embedder that returns something else, is refused in `fit`."""
    with pytest.raises(error, match=message):
        FrozenEmbedder(**({"embed": flat_mean, "shape": 4} | parameters)).fit(phantoms.scan("a", BALLS))


def test_width_must_not_change():
    """An embedder that returns another number of features later is refused."""
    widths = iter([3, 4])
    embedder = FrozenEmbedder(lambda crops: np.ones((len(crops), next(widths))), shape=4)
    tumors = phantoms.scan("a", BALLS)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)\. Got \(2, 4\)"):
        embedder.fit(tumors).transform(tumors)
