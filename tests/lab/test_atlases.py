"""Masks from similar tumors: atlases are laid box on box, and votes are those of a slow loop."""

import numpy as np
import pandas as pd
import pytest
from grids import ellipsoid_mask

from benchmarks import atlases
from tumorsim import Case, Cohort, Tumor
from tumorsim.geometry import bbox_from_mask
from tumorsim.metrics import dice

SHAPE = (30, 34, 28)


def tumor(center, radii, *, name="a", seed=0, affine=None, label="glioma", labels=None):
    """Return a bright ellipsoid in a noisy image."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    mask = ellipsoid_mask(SHAPE, [(center, radii)])
    image = np.random.default_rng(seed).normal(10, 1, SHAPE).astype(np.float32) + 20 * mask
    case = Case((image, affine), (mask, affine), case_id=name, patient_id=name)
    labels = {"type": label} if labels is None else labels
    return Tumor(case, bbox_from_mask(mask), tumor_id=f"{name}/1", labels=labels)


def crop(one):
    """Return what `cut` makes of a tumor."""
    return atlases.cut(one, one.case.load_image(), one.case.load_mask())


def truth(query):
    """Return the true voxels in the query's box."""
    return query[1][tuple(map(slice, *query[2]))] > 0.5


def test_the_tumor_itself_as_an_atlas_gives_its_mask():
    """Dice 1 by itself alone; the weighted vote finds it among two that are no use."""
    query = crop(tumor((14, 16, 13), (6, 4, 5)))
    others = [crop(tumor((14, 16, 13), (3, 8, 4), seed=s, name=f"o{s}")) for s in (1, 2)]
    masks, errors = atlases.candidates(query, [query])
    assert np.array_equal(atlases.vote(masks) >= 0.5, truth(query)) and errors.max() == 0
    masks = np.stack([*masks, *(np.zeros_like(masks[0]) for _ in others)])  # two say that nothing is tumor
    errors = np.concatenate([errors, atlases.candidates(query, others)[1]])
    assert not (atlases.vote(masks) >= 0.5).any()
    assert np.array_equal(atlases.weighted_vote(masks, errors) >= 0.5, truth(query))


@pytest.mark.parametrize("radii", [(4.45, 4.45, 4.45), (9.45, 7.45, 8.45), (5.45, 10.45, 4.45)])
def test_an_ellipsoid_becomes_another(radii):
    """Box on box, scale and shift turn one ellipsoid into the other up to voxels at its surface."""
    query = crop(tumor((14, 16, 13), (6.45, 5.45, 7.45)))
    masks, _ = atlases.candidates(query, [crop(tumor((13, 15, 14), radii, name="b"))])
    # surfaces, 6 voxels out, are up to 0.1 voxel off: 5 % of the volume
    assert dice(masks[0] >= 0.5, truth(query)) > 0.95
    assert dice(atlases.ellipsoid(truth(query).shape), truth(query)) > 0.97


def test_axes_are_matched_as_ras_not_as_stored():
    """An atlas stored with reversed and exchanged axes is the same atlas."""
    query = tumor((14, 16, 13), (6, 4, 5))
    image, mask = query.case.load_image(), query.case.load_mask()
    image[15:, :, :] += 3 * mask[15:]  # the right side is brighter
    order, affine = (2, 0, 1), query.case.affine
    turned = affine[:, [*order, 3]].copy()
    turned[:3, 3] += turned[:3, 1] * (SHAPE[0] - 1)
    turned[:, 1] *= -1
    stored = [np.ascontiguousarray(a.transpose(order)[:, ::-1]) for a in (image, mask)]
    cases = {"a": ((image, affine), (mask, affine)), "b": tuple((a, turned) for a in stored)}
    one, other = (
        crop(Tumor(Case(*files, case_id=n, patient_id=n), bbox_from_mask(files[1][0]), tumor_id=n))
        for n, files in cases.items()
    )
    for first, second in zip(one, other, strict=True):
        np.testing.assert_allclose(first, second)


def test_votes_are_those_of_a_loop():
    """Plain and weighted shares, voxel by voxel and atlas by atlas."""
    rng = np.random.default_rng(0)
    masks, errors = rng.random((4, 3, 2, 5)), rng.random((4, 3, 2, 5))
    for x in np.ndindex(3, 2, 5):
        plain = sum(masks[(k, *x)] for k in range(4)) / 4
        weights = [1 / (errors[(k, *x)] + atlases.FEWEST) ** atlases.POWER for k in range(4)]
        weighted = sum(w * masks[(k, *x)] for k, w in enumerate(weights)) / sum(weights)
        assert atlases.vote(masks)[x] == pytest.approx(plain)
        assert atlases.weighted_vote(masks, errors)[x] == pytest.approx(weighted)


def test_differences_are_means_over_patches():
    """The mean squared difference of each patch, by a slow loop."""
    rng, radius = np.random.default_rng(0), np.array([2, 1, 0])
    one, other = rng.random((2, 8, 6, 3))
    found = atlases.differences(one, other, radius)
    assert found.shape == (4, 4, 3)
    for x, y, z in np.ndindex(found.shape):
        patch = (slice(x, x + 5), slice(y, y + 3), slice(z, z + 1))
        assert found[x, y, z] == pytest.approx(((one[patch] - other[patch]) ** 2).mean())


def test_a_search_brings_back_an_atlas_that_lies_a_voxel_off():
    """Its box is a voxel too far; without the search the mask is, too."""
    query = crop(tumor((14, 16, 13), (6, 4, 5)))
    off = (query[0], query[1], query[2] + 1, query[3])
    missed = atlases.candidates(query, [off])[0][0] >= 0.5
    found = atlases.candidates(query, [off], search=1)[0][0] >= 0.5
    assert dice(missed, truth(query)) < 0.95 and np.array_equal(found, truth(query))


def test_the_most_probable_voxels_are_taken():
    """As many as asked for; of equals the first."""
    found = atlases.most_probable(np.array([[0.1, 0.9], [0.5, 0.5]]), 2)
    assert found.tolist() == [[False, True], [True, False]]


def test_only_boxes_are_known_when_neighbors_are_chosen():
    """Another mask in the same box changes no volume and no figure."""
    one = tumor((14, 16, 13), (6, 4, 5))
    (known,) = atlases.boxed([one])
    assert known.load_mask().all() and known.load_mask().shape == tuple(one.bbox[1] - one.bbox[0])


def test_atlases_are_other_patients_of_other_folds():
    """Neither the query, nor its fold, nor its patient; a patient in two folds is an error."""
    made = [
        tumor((14, 16, 13), (4 + i % 3, 4, 4), name=f"p{i}", seed=i, label=["glioma", "metastasis"][i % 2])
        for i in range(12)
    ]
    cohort, fold_of = Cohort(made), np.arange(12) % 3
    points = np.arange(12.0)[:, None]
    figures = {t.tumor_id: np.array([float(i)]) for i, t in enumerate(made)}
    rows, chosen = atlases.nearest(points, figures, cohort, fold_of, 1, 3)
    assert rows.tolist() == [1, 4, 7, 10] and set(chosen) == {"embedding", "forest", "random"}
    assert sorted(chosen["embedding"][1].tolist()) in ([2, 3, 5], [3, 5, 6])
    assert all((fold_of[found] != 1).all() for found in chosen.values())
    again = Tumor(made[0].case, made[0].bbox, tumor_id="again", labels={"type": "glioma"})
    with pytest.raises(ValueError, match="share a patient"):
        atlases.nearest(points, figures, Cohort([*made[:11], again]), np.array([1, *[0] * 11]), 1, 3)


def test_the_table_compares_tumor_by_tumor():
    """Medians, and mean differences to the mask head and the ellipsoid, by band of volume."""
    rows = []
    for i, ml in enumerate((0.1, 0.15, 9.0)):
        about = {"tumor_id": f"t{i}", "patient_id": f"p{i}", "type": "glioma" if ml > 1 else "metastasis"}
        values = {atlases.HEAD: 0.5, "ellipsoid": 0.4, "vote": 0.6 + 0.1 * i}
        for method, value in values.items():
            where = {"atlases": "embedding", "k": 1} if method == "vote" else {"atlases": None, "k": None}
            rows.append(about | {"ml": ml, "method": method, "dice": value} | where)
    found = atlases.report(pd.DataFrame(rows)).set_index(["tumors", "method"])
    small = found.loc[("up to 0.2 ml", "vote")]
    assert (small["n"], small["median"]) == (2, pytest.approx(0.65))
    assert small["over mask head"] == pytest.approx(0.15) and small["over ellipsoid"] == pytest.approx(0.25)
    assert small["over mask head, low"] == pytest.approx(0.1)
    assert found.loc[("gliomas", "vote"), "median"] == pytest.approx(0.8)
    assert ("0.2 to 1 ml", "vote") not in found.index
