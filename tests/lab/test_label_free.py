"""Label-free tests of an embedder: perturbations, controls, transplants and mirrors of known effect."""

import numpy as np
import pandas as pd
import phantoms
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.label_free import (
    PERTURBATIONS,
    enhancement_pattern,
    evaluate_mirror,
    evaluate_other_date,
    evaluate_pattern,
    evaluate_rescan,
    evaluate_stability,
    evaluate_transplant,
    head_center,
    mirrored_box,
    mirrored_content,
    perturb,
    transplant,
    untrained_copy,
)
from benchmarks.label_free._controls import HeadEdges
from benchmarks.label_free._dates import _chance, own_ranks
from benchmarks.label_free._stability import _weighted_median
from tumorsim import Case, Cohort, Tumor, make_cohort
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import bbox_from_mask, crop_slices, to_ras
from tumorsim.metrics import neighbor_overlap_at_k


class Measures:
    """An embedder by hand: numbers of each tumor, from a function."""

    def __init__(self, measure):
        self.measure = measure

    def transform(self, tumors):
        """Return one row per tumor."""
        return np.array([np.atleast_1d(self.measure(tumor)) for tumor in tumors], dtype=np.float32)


class Sides(Measures):
    """An embedder by hand that also predicts a side and a type."""

    def predict(self, tumors):
        """Return the side of the box, and always one type."""
        import pandas as pd

        center = [t.case.affine[0] @ [*(t.bbox.mean(axis=0) - 0.5), 1] for t in tumors]
        sides = [
            "right" if x > head_center(t.case)[0] else "left" for x, t in zip(center, tumors, strict=True)
        ]
        return pd.DataFrame({"hemisphere": sides, "type": "glioma"})


def place(tumor):
    """Return the centroid in mm."""
    return [tumor.measure()[name] for name in ("x_mm", "y_mm", "z_mm")]


def affine_point(case, voxel):
    """Return a voxel's place in mm."""
    return case.affine[:3, :3] @ voxel + case.affine[:3, 3]


@pytest.fixture(scope="module")
def simulated():
    """Return simulated patients with skulls, thick slices and odd storage axes, and phantoms beside them."""
    return make_cohort(4, random_state=1, spacing=4.0) + phantoms.cohort(10)


@pytest.fixture(scope="module")
def embedder(simulated):
    """Return a network that has learned nothing."""
    empty = phantoms.tiny(spacing=4.0, tasks=["type", "hemisphere"], random_state=3)
    return empty.initialize(simulated)


@pytest.fixture(scope="module")
def dates():
    """Return six patients, the first three with two dates: the same ring or ball at two times."""
    tumors = []
    for i in range(6):
        kind = ("meningioma", "metastasis")[i % 2]
        lesion = (kind, (12 + i, 16 + 2 * i, 17), (3 + i % 3, 4, 3))
        for date in range(2 if i < 3 else 1):
            tumors += phantoms.scan(f"p{i}-{date}", [lesion], patient_id=f"p{i}", seed=i)
    return Cohort(tumors)


def test_other_storage_axes_change_nothing(simulated, embedder):
    """All neighbors stay, even of an untrained network, and the distance is nil."""
    result = evaluate_stability(embedder, simulated, ["axes"], n_neighbors=10, min_diameter_mm=0)
    row = result.iloc[0]
    assert (row["overlap"], row["p5"], row["ci_low"], row["ci_high"]) == (1, 1, 1, 1)
    assert row["relative_distance"] < 1e-3
    assert row["n_tumors"] == len(simulated)
    stored = perturb(simulated, "axes", random_state=0)
    for before, after in zip(simulated, stored, strict=True):
        assert not np.allclose(before.case.affine, after.case.affine)
        a, b = before.measure(), after.measure()
        assert b == pytest.approx(a, rel=1e-6, abs=1e-6)


@pytest.fixture(scope="module")
def stripped(simulated):
    """Return tumors of whole heads and a phantom, and the same with the skull taken off, which takes long."""
    whole = [tumor for tumor in simulated if tumor.metadata.get("whole_head")][:3]
    some = Cohort([*whole, simulated[-1]])
    return some, perturb(some, "stripped", random_state=0)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_masks_and_boxes_follow(simulated, kind, request):
    """The lesion stays where it was, in mm, its volume about what it was, and its box holds it."""
    if kind == "stripped":
        pairs = request.getfixturevalue("stripped")
    else:
        pairs = simulated, perturb(simulated, kind, random_state=0)
    for before, after in zip(*pairs, strict=True):
        after.check()
        assert (after.tumor_id, after.patient_id, after.labels) == (
            before.tumor_id,
            before.patient_id,
            before.labels,
        )
        a, b = before.measure(), after.measure()
        moved = np.linalg.norm([a[name] - b[name] for name in ("x_mm", "y_mm", "z_mm")])
        if kind.startswith("box"):
            side = (before.bbox[1] - before.bbox[0]) * before.case.spacing
            new_side = (after.bbox[1] - after.bbox[0]) * after.case.spacing
            change = {"box_larger": 0.2, "box_smaller": -0.2, "box_shifted": 0.0}[kind]
            # both ends are rounded to voxels
            assert (np.abs(new_side - (1 + change) * side) <= before.case.spacing + 1e-6).all()
        else:
            # half a voxel's diagonal: a voxel of the new grid takes the value at its center
            assert moved < 0.5 * np.linalg.norm(np.maximum(before.case.spacing, after.case.spacing)) + 1e-6


def test_a_perturbed_grid_is_the_one_asked_for(simulated):
    """Spacings, extents, shifts and fields of view are those that the kinds name."""
    whole = [tumor.case for tumor in simulated]
    for kind, spacing in (("1mm", (1, 1, 1)), ("2mm", (2, 2, 2)), ("thick", (1, 1, 5))):
        after = perturb(simulated[:1], kind)[0].case
        assert_allclose(after.spacing, spacing)
        extent = np.sort(np.array(whole[0].shape) * whole[0].spacing)
        assert_allclose(np.sort(np.array(after.shape) * after.spacing), extent, atol=5)  # whole voxels
    for before, kind in ((whole[0], "field_of_view"), (whole[0], "field_of_view_40")):
        after = perturb(simulated[:1], kind)[0]
        assert np.prod(after.case.shape) <= np.prod(before.shape)
        assert after.load_mask().sum() == simulated[0].load_mask().sum()
    case = Case(
        (np.indices((5, 6, 30))[2].astype(np.float32), np.diag([1, 1, 2.0, 1])), case_id="a", patient_id="p"
    )
    tumor = Tumor(case, [(1, 1, 4), (3, 3, 6)], tumor_id="t")
    cropped = perturb([tumor], "field_of_view")[0]
    assert cropped.case.shape == (5, 6, 30 - 4 - 10)  # 20 mm above; below the tumor begins at 8 mm
    assert cropped.case.load_image()[0, 0, 0] == 4 and cropped.bbox[0, 2] == 0
    shifted = perturb([tumor], "shifted_slices", random_state=0)[0]
    step = (shifted.case.affine[2, 3] - case.affine[2, 3]) / 2
    assert abs(step) == 1.5
    assert_allclose(shifted.case.load_image()[2, 2, 2:-2], np.arange(2, 28) + step)


def test_noise_is_three_percent_of_the_brain(simulated):
    """The difference has that standard deviation in tissue and is nil in empty air."""
    tumor = phantoms.cohort(1)[0]
    before, after = tumor.case.load_image(), perturb([tumor], "noise", random_state=0)[0].case.load_image()
    brain = before > 50
    assert np.std((after - before)[brain]) == pytest.approx(0.03 * np.median(before[brain]), rel=0.05)
    assert (after == before)[before == 0].all()


def test_taking_the_skull_off_leaves_brain_and_tumors(stripped):
    """What stays keeps its intensity; of a whole head much goes, of its tumors and white matter nothing."""
    pairs = [pair for pair in zip(*stripped, strict=True) if pair[0].metadata.get("whole_head")]
    assert pairs
    for before, after in pairs:
        old, new = (np.asarray(to_ras(t.case.load_image(), t.case.affine)) for t in (before, after))
        mask = to_ras(before.case.load_mask(), before.case.affine) > 0
        gone = new != old
        assert not gone[mask].any()
        tissue = old > np.percentile(old, 60)
        assert 0.2 < gone[tissue].mean() < 0.8
        assert (new[gone] == old.min()).all()


def test_perturbation_depends_on_seed_and_scan_not_on_company(simulated):
    """A part of the cohort is perturbed as it is within the whole."""
    whole = perturb(simulated, "box_shifted", random_state=5)
    part = perturb(simulated[2:4], "box_shifted", random_state=5)
    assert_array_equal(part[0].bbox, whole[2].bbox)
    assert any(
        (a.bbox != b.bbox).any()
        for a, b in zip(whole, perturb(simulated, "box_shifted", random_state=6), strict=True)
    )
    with pytest.raises(ValueError, match="'kind' must be one of 'axes'"):
        perturb(simulated, "upside_down")


def test_overlap_is_that_of_the_neighbors_by_hand(simulated):
    """For an embedder of the box's size alone, larger boxes give the overlap that a plain loop finds."""
    size = Measures(lambda tumor: np.log(np.prod((tumor.bbox[1] - tumor.bbox[0]) * tumor.case.spacing)))
    row = evaluate_stability(size, simulated, "box_larger", n_neighbors=3, min_diameter_mm=0).iloc[0]
    X = size.transform(simulated).astype(float)
    Y = size.transform(perturb(simulated, "box_larger", random_state=0)).astype(float)
    overlaps = []
    for i, patient in enumerate(simulated.patient_ids):
        others = np.flatnonzero(simulated.patient_ids != patient)
        near, far = (
            others[np.argsort(np.abs(X[others, 0] - x[0]), kind="stable")][None] for x in (X[i], Y[i])
        )
        overlaps.append(neighbor_overlap_at_k(near, far, 3))
    assert row["overlap"] == pytest.approx(np.median(overlaps))
    assert (row["p25"], row["n_neighbors"]) == (pytest.approx(np.percentile(overlaps, 25)), 3)
    assert 0 < row["chance"] < 1
    few = np.sort(simulated.table["diameter_mm"])[-2]  # the skull is taken off each query, which takes long
    rescans = evaluate_rescan(size, simulated, min_diameter_mm=few)
    assert rescans["n_neighbors"].eq(5).all() and rescans["n_tumors"].eq(2).all()
    with pytest.raises(ValueError, match=r"tumor of at least 500\.0 mm"):
        evaluate_stability(size, simulated, "axes", min_diameter_mm=500)


def test_weighted_medians_are_those_of_repeated_values():
    """A weight is a repetition."""
    rng = np.random.default_rng(0)
    values, weights = rng.integers(5, size=9).astype(float), rng.integers(0, 4, size=(50, 9)).astype(float)
    expected = [np.median(np.repeat(values, w.astype(int))) for w in weights]
    assert_allclose(_weighted_median(values, weights), expected)


@pytest.mark.parametrize("orientation", ["RAS", "PIL"])
def test_mirrored_twice_is_the_same_box(orientation):
    """A mirrored box has the same size, lies as far on the other side, and comes back."""
    for tumor in phantoms.cohort(4, orientation=orientation):
        once = mirrored_box(tumor)
        assert_array_equal(once.bbox[1] - once.bbox[0], tumor.bbox[1] - tumor.bbox[0])
        place, other = (affine_point(tumor.case, t.bbox.mean(axis=0) - 0.5) for t in (tumor, once))
        middle = head_center(tumor.case)[0]
        assert other[0] - middle == pytest.approx(middle - place[0], abs=1.0 + 1e-6)  # half a voxel
        assert_allclose(other[1:], place[1:])
        assert_array_equal(mirrored_box(once).bbox, tumor.bbox)
        assert not once.load_mask().any() and once.labels == {}


def test_a_mirrored_box_stays_in_the_image(simulated):
    """Where the other side is not imaged, the box is shifted inside, not cut."""
    for tumor in simulated:
        mirrored_box(tumor).check()
    case = Case((np.indices((20, 9, 9))[1].astype(np.float32), np.eye(4)), case_id="a", patient_id="p")
    other = mirrored_box(Tumor(case, [(0, 1, 1), (6, 4, 5)], tumor_id="t"), center=(1, 4, 4))
    assert other.bbox.tolist() == [[0, 1, 1], [6, 4, 5]]


def test_the_head_center_is_that_of_the_ellipsoid():
    """The center of a phantom's head is known to a tenth of a millimetre, whatever the storage axes."""
    for orientation in ("RAS", "PIL"):
        tumor = phantoms.scan("a", [("meningioma", (12, 16, 17), (3, 4, 3))], orientation=orientation)[0]
        expected = phantoms.affine_of() @ [*((np.array(phantoms.SHAPE) - 1) / 2), 1]
        assert_allclose(head_center(tumor.case), expected[:3], atol=0.1)


def test_mirrored_content_swaps_sides_and_comes_back(simulated):
    """Twice mirrored, image, mask and boxes are those before; once, sides swap and volumes stay."""
    once = mirrored_content(simulated[:3])
    for a, b, c in zip(simulated[:3], once, mirrored_content(once), strict=True):
        swap = {"left": "right", "right": "left", None: None}
        assert b.labels["hemisphere"] == swap[a.labels["hemisphere"]]
        assert b.measure()["volume_mm3"] == pytest.approx(a.measure()["volume_mm3"])
        assert c.measure() == pytest.approx(a.measure(), abs=1e-6)


def test_the_mirror_test_shows_whether_sides_are_known():
    """Predicted sides of all tumors flip; a place without side does not move, and volumes stay."""
    cohort = phantoms.cohort(6)
    table = evaluate_mirror(Sides(lambda t: np.log(t.measure()["volume_mm3"])), cohort).set_index("measure")
    assert table.loc["sides_flipped", "value"] == 1
    assert table.loc["types_unchanged", "value"] == 1
    assert table.loc["neighbor_types_unchanged", "value"] == 1
    assert table.loc["log_volume_change", "value"] == 0
    assert table.loc["relative_distance", "value"] < 1e-6
    moved = evaluate_mirror(Measures(place), cohort).set_index("measure")
    assert moved.loc["relative_distance", "value"] > 0.1
    assert "sides_flipped" not in moved.index


def test_ranks_and_chance_by_hand():
    """The nearest own date counts, ties count against, and chance is the mean of 1 / rank."""
    distances = np.array([[0, 3, 1, 3], [3, 0, 5, 2], [1, 5, 0, 9], [3, 2, 9, 0]], dtype=float)
    patients = np.array(["a", "a", "b", "c"])
    assert own_ranks(distances, patients, [0, 1]).tolist() == [3, 2]
    assert _chance(4, 1) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert _chance(3, 2) == pytest.approx(2 / 3 + 1 / 3 / 2)


def test_other_dates_are_found_by_what_they_share(dates):
    """Embeddings of the patient rank the other date first, as the controls do; constant ones rank it last."""
    known = Measures(lambda tumor: int(tumor.patient_id[1:]))
    table = evaluate_other_date(known, dates, n_untrained=0).set_index("method")
    assert list(table.index) == ["tumor box", "mirrored box", "centroid only", "head correlation"]
    assert (table["n_queries"].eq(6) & table["n_gallery"].eq(8)).all()
    ranks = table[[c for c in table if c.startswith("rank ")]]
    assert list(ranks) == [f"rank p{i}-{d}" for i in range(3) for d in range(2)]
    assert (ranks == 1).all(axis=None)  # the same head, the same place
    assert table.loc["tumor box", "tumor_minus_mirror"] == 0
    for chosen in (["mirrored box"], ["centroid only", "head correlation"], []):
        part = evaluate_other_date(known, dates, controls=chosen, n_untrained=0).set_index("method")
        assert list(part.index) == ["tumor box", *chosen]
        pd.testing.assert_frame_equal(part, table.loc[part.index, part.columns])
    with pytest.raises(ValueError, match="'controls' must be one of"):
        evaluate_other_date(known, dates, controls=["luck"], n_untrained=0)
    blind = evaluate_other_date(Measures(lambda tumor: 0), dates, controls=False)
    assert blind[list(ranks)].eq(8).all(axis=None)
    with pytest.raises(ValueError, match="scans of two dates"):
        evaluate_other_date(known, dates[6:], controls=False)
    with pytest.raises(TypeError, match="set n_untrained=0"):
        evaluate_other_date(known, dates)


def test_untrained_copies_differ_in_weights_only(embedder, dates):
    """Shape, spacing and classes stay, weights differ by seed, embeddings are finite and vary."""
    first, again, other = (untrained_copy(embedder, dates, random_state=seed) for seed in (1, 1, 2))
    X, Y, Z = (copy.transform(dates) for copy in (first, again, other))
    assert_array_equal(X, Y)
    assert not np.allclose(X, Z)
    assert (
        X.shape == (len(dates), embedder.n_features_out_) and np.isfinite(X).all() and X.std(axis=0).max() > 0
    )
    assert first.network_.config == embedder.network_.config and not first.network_.training
    table = evaluate_other_date(embedder, dates, n_untrained=2).set_index("method")
    assert list(table.index)[-3:] == ["untrained 1", "untrained 2", "untrained, mean"]
    assert table["tumor_minus_mirror"].notna().sum() == 4
    assert table.loc["untrained, mean", "mean_reciprocal_rank"] == pytest.approx(
        table.loc[["untrained 1", "untrained 2"], "mean_reciprocal_rank"].mean()
    )


def test_head_correlation_does_not_see_the_tumor():
    """The same head with tumors elsewhere correlates fully, on another grid nearly, another head does not."""
    scans = [
        phantoms.scan("a", [("meningioma", (12, 16, 17), (3, 4, 3))], seed=0),
        phantoms.scan("b", [("meningioma", (27, 26, 17), (4, 4, 4))], seed=0, orientation="PIR"),
        phantoms.scan("c", [("meningioma", (12, 16, 17), (3, 4, 3))], seed=1),
    ]
    cohort = Cohort(tumor for scan in scans for tumor in scan)
    heads = HeadEdges(cohort, np.array([head_center(tumor.case) for tumor in cohort]))
    assert heads.correlation(0, 1) > 0.999  # float16 and interpolation
    assert heads.correlation(0, 2) < 0.99  # the outline, most of the edges, is the same


@pytest.mark.parametrize("spacing", [1.5, (1.0, 1.0, 5.0)])
def test_a_transplant_has_the_volume_and_site_asked_for(spacing):
    """Volume to a voxel, centroid to half a voxel, from thin to thick slices, turned and mirrored storage."""
    tumor = phantoms.scan("a", [("metastasis", (14, 20, 17), (4, 5, 4))], orientation="PIL")[0]
    shape = tuple(np.round(80 / np.broadcast_to(spacing, 3)).astype(int))
    affine = phantoms.affine_of(spacing, rotation_deg=10)
    host = Case(
        phantoms.stored_as(3 * phantoms.head(shape, seed=5), affine, "LSA"), case_id="host", patient_id="h"
    )
    center = affine @ [*(np.array(shape) * (0.4, 0.5, 0.55)), 1]
    pasted = transplant(tumor, host, center[:3], 2000.0)
    measures, voxel = pasted.measure(), np.prod(np.broadcast_to(spacing, 3))
    assert measures["volume_mm3"] == pytest.approx(2000, abs=0.5 * voxel + 1e-6)
    site = np.linalg.inv(affine[:3, :3]) @ ([measures[n] for n in ("x_mm", "y_mm", "z_mm")] - center[:3])
    assert (np.abs(site) < 0.5).all()
    assert (pasted.case.case_id, pasted.patient_id, pasted.labels) == (
        "a in host",
        "patient-a",
        {"type": "metastasis"},
    )
    # the bright shell is 2.6 times the brain in its own head, so it is in the host
    bright = np.percentile(pasted.case.load_image()[crop_slices(pasted.bbox)][pasted.load_mask()], 95)
    assert bright / 300 == pytest.approx(2.6, rel=0.1)
    far = perturb([pasted], "axes", random_state=1)[0].case.load_image()
    assert np.median(far[far > 150]) == pytest.approx(300, rel=0.05)


def test_a_transplant_that_does_not_fit_is_refused(dates):
    """A site outside the host's image is an error that names both; a tumor without a mask cannot go."""
    with pytest.raises(GeometryError, match=r"'p0-0/1' must lie inside the image of host 'p5-0'"):
        transplant(dates[0], dates[8].case, (500, 0, 0), 1000.0)
    bare = phantoms.scan("a", [("meningioma", (12, 16, 17), (3, 4, 3))], with_mask=False)[0]
    with pytest.raises(ValueError, match="must have a mask to be transplanted"):
        transplant(bare, dates[0].case, (0, 0, 0), 1000.0)


def test_transplanted_dates_are_found_by_the_tumor_alone(dates, embedder):
    """Embeddings of the patient rank the other date first in every host; those of place do not."""
    hosts = [dates[7].case, dates[8].case]
    known = Measures(lambda tumor: int(tumor.patient_id[1:]))
    table = evaluate_transplant(
        known, dates[:7], hosts, offset_mm=(12, 0, 0), volume_mm3=500.0, n_untrained=0
    )
    assert table.loc[table["method"] == "tumor box", "mean_reciprocal_rank"].eq(1).all()
    assert (table["query_host"] == table["gallery_host"]).tolist() == [True] * 6 + [False] * 6
    box = Measures(lambda tumor: np.log(tumor.bbox[1] - tumor.bbox[0]))
    boxes = evaluate_transplant(
        box, dates[:7], hosts[:1], offset_mm=(12, 0, 0), volume_mm3=500.0, n_untrained=0
    ).set_index("method")["mean_reciprocal_rank"]
    assert boxes["equal box"] == 1 / 6  # all tie, which counts against
    assert boxes["tumor box"] == boxes["box sides"]
    where = Measures(lambda tumor: np.round(place(tumor)))
    same = evaluate_transplant(
        where, dates[:7], hosts[:1], offset_mm=(12, 0, 0), volume_mm3=500.0, n_untrained=0
    )
    assert same["mean_reciprocal_rank"].iloc[0] < 0.5  # place no longer identifies the patient
    few = evaluate_transplant(
        embedder, dates[:7], hosts[:1], offset_mm=(12, 0, 0), volume_mm3=500.0, n_untrained=1
    )
    assert few["method"].tolist() == [
        "tumor box",
        "equal box",
        "box sides",
        "untrained 1",
        "untrained, mean",
        "untrained, equal box 1",
        "untrained, equal box, mean",
    ]


def test_rings_and_balls_have_known_patterns():
    """A ring has its bright voxels outside, a ball half of them; contrast is that to the other side."""
    ball, ring = (
        phantoms.scan("a", [(kind, (12, 20, 17), (5, 5, 5))])[0] for kind in ("meningioma", "metastasis")
    )
    solid, rim = enhancement_pattern(ball), enhancement_pattern(ring)
    assert solid["bright_rim"] == pytest.approx(0.5)
    assert rim["bright_rim"] > 0.52
    assert solid["rim_contrast"] == pytest.approx(0, abs=1e-3)
    assert rim["rim_contrast"] > 0.2
    assert solid["contrast"] == pytest.approx(1.6, abs=0.2)  # 260 against 100 of the brain, with its waves
    assert solid["sphericity"] == pytest.approx(ball.measure()["sphericity"], rel=0.02)  # closing rounds it
    case = ring.case
    shell = ring.load_mask() & (case.load_image()[crop_slices(ring.bbox)] > 200)
    mask = np.zeros(case.shape, np.uint8)
    mask[crop_slices(ring.bbox)] = shell
    hollow = Tumor(
        Case(case.image, (mask, case.affine), case_id="h", patient_id="h"), ring.bbox, tumor_id="h"
    )
    assert enhancement_pattern(hollow) == pytest.approx(rim)  # a mask of the rim gives the same
    stored = perturb([ring], "axes", random_state=0)[0]
    assert enhancement_pattern(stored) == pytest.approx(rim)


def test_pattern_distance_is_found_where_it_is():
    """An embedder of the pattern itself correlates with it given size and place; one of noise does not."""
    cohort = phantoms.cohort(12)
    seen = evaluate_pattern(
        Measures(lambda t: list(enhancement_pattern(t).values())[:3]),
        cohort,
        n_untrained=0,
        n_permutations=99,
    ).iloc[0]
    rng = np.random.default_rng(0)
    blind = evaluate_pattern(
        Measures(lambda t: rng.normal(size=2)), cohort, n_untrained=0, n_permutations=99
    ).iloc[0]
    assert seen["partial_correlation"] > 0.5 and seen["p_value"] == 0.01
    assert blind["p_value"] > 0.05
    assert seen["n_patients"] == 12


def test_stacks_of_few_slices_pass_every_perturbation():
    """A tumor in all three slices of a stack survives each kind."""
    rng = np.random.default_rng(0)
    image, mask = rng.normal(100, 5, (24, 24, 3)).astype(np.float32), np.zeros((24, 24, 3), np.uint8)
    mask[8:14, 9:13] = 2
    affine = np.diag([2.0, 2.0, 7.0, 1.0])
    case = Case((image, affine), (mask, affine), case_id="a", patient_id="p")
    tumor = Tumor(case, bbox_from_mask(mask > 0), tumor_id="t", mask_value=2)
    for kind in PERTURBATIONS:
        after = perturb([tumor], kind, random_state=0)[0]
        after.check()
        assert after.measure()["volume_mm3"] > 0


def test_every_name_of_the_room_resolves():
    """`__all__` names functions with docstrings, and the tuple of perturbations."""
    from tumorsim import evaluation

    for name in evaluation.__all__:
        assert getattr(evaluation, name).__doc__, name
    assert not hasattr(evaluation, "evaluate_everything")


@pytest.mark.real
def test_a_real_tumor_of_thick_slices_goes_into_another_real_head(real_data):
    """Volume and site are as requested, and the head elsewhere is untouched."""
    folder = real_data / "real"
    source = Case(
        folder / "btp-03-pre_t1c.nii.gz", folder / "btp-03-pre_mask.nii.gz", case_id="a", patient_id="p"
    )
    host = Case(folder / "brain1_image.nrrd", folder / "brain1_label.nrrd", case_id="b", patient_id="q")
    tumor = Tumor(source, bbox_from_mask(source.load_mask() > 0), tumor_id="t")
    site = head_center(host) + np.array([-30, 0, 20])
    pasted = transplant(tumor, host, site, 8000.0)
    assert pasted.measure()["volume_mm3"] == pytest.approx(8000, abs=0.5 * host.spacing.prod() + 1e-3)
    assert (np.abs(place(pasted) - site) < np.sort(host.spacing)[[0, 0, 2]] / 2 + 0.5).all()
    box = np.stack([np.zeros(3), host.shape]).astype(int)
    before = perturb([Tumor(host, box, tumor_id="h")], "field_of_view")[0].case.load_image()
    after = pasted.case.load_image()
    assert before.shape == after.shape
    assert 0.001 < np.mean(before != after) < 0.02
