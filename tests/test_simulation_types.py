"""Types of simulated tumors: where they sit, how large they are, and what they look like."""

from types import SimpleNamespace

import numpy as np
import pytest

from tumorsim import make_cohort
from tumorsim.anatomy import region_at
from tumorsim.simulation import _tumors
from tumorsim.simulation._anatomy import load_head
from tumorsim.simulation._appearance import _brightness
from tumorsim.simulation._simulate import find_lesion
from tumorsim.simulation._tumors import TYPES, _draw_radius, draw_lesion

N_DRAWN = 120


@pytest.fixture(scope="module")
def head():
    """Return the head of the template."""
    return load_head()


@pytest.fixture(scope="module")
def typical(head):
    """Draw lesions by type, each in a place of its own type."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tumors, "_FREE_PLACE", 0.0)
        return {
            name: [draw_lesion(name, np.random.default_rng(seed), head) for seed in range(N_DRAWN)]
            for name in TYPES
        }


def grid_of(lesion, head):
    """Return a scan-like grid of points round a lesion, in MNI space; finer round small ones."""
    spacing = max(1.0, lesion.radius / 7)
    half = np.ceil(lesion.reach / spacing) + 1
    steps = spacing * np.arange(-half, half + 1)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    points = (lesion.center + offsets.reshape(-1, 3)).astype(np.float32)
    return SimpleNamespace(
        points=points,
        distance=head.shell.sample(points)[0],
        voxel=np.arange(len(points)),
        shape=(len(steps),) * 3,
        spacing=np.full(3, spacing),
        n_per_voxel=1,
    )


def volumes(lesions, head):
    """Return the volume in ml of each lesion."""
    grids = [grid_of(lesion, head) for lesion in lesions]
    depths = [lesion.depth(g.points, g.distance) for lesion, g in zip(lesions, grids, strict=True)]
    return np.array(
        [(depth > 0).sum() * grid.spacing.prod() / 1000 for depth, grid in zip(depths, grids, strict=True)]
    )


def test_weights_of_types_sum_to_one():
    """Five types share all patients."""
    assert len(TYPES) == 5
    assert sum(kind.weight for kind in TYPES.values()) == pytest.approx(1)


def test_one_seed_draws_one_lesion(head):
    """A lesion depends on its seed only."""
    points = np.random.default_rng(0).uniform(-60, 60, (500, 3)).astype(np.float32)
    envelope = head.shell.sample(points)[0]
    for name in TYPES:
        a, b = (draw_lesion(name, np.random.default_rng(7), head).depth(points, envelope) for _ in range(2))
        np.testing.assert_array_equal(a, b)


def test_gliomas_favor_the_frontal_and_temporal_lobes(head):
    """Starting points follow the shares of Larjavaara 2007, less 7 % in the corpus callosum."""
    rng = np.random.default_rng(0)
    places = [TYPES["glioma"].place(rng, head) for _ in range(400)]
    kinds = np.array([place.kind for place in places])
    assert np.mean(kinds == "callosum") == pytest.approx(0.07, abs=0.04)  # 3 standard errors
    points = np.array([place.point for place in places])
    areas = region_at(points[kinds == "brain"])
    for area, share in (("frontal", 0.40), ("temporal", 0.29), ("parietal", 0.14), ("occipital", 0.03)):
        assert np.mean(areas == area) == pytest.approx(share, abs=0.08)  # 3 standard errors
    assert np.abs(points[kinds == "callosum"][:, 0]).max() < 10


def test_pituitary_adenomas_grow_out_of_the_sella(typical, head):
    """They hold a point of the sella, outside of the brain's envelope, and lie near the midline."""
    sella = np.array([[0, 3.5, -34]], np.float32)
    envelope = head.shell.sample(sella)[0]
    assert envelope[0] > 3
    inside = [lesion.depth(sella, envelope)[0] > 0 for lesion in typical["pituitary_adenoma"]]
    assert np.mean(inside) > 0.9
    centers = np.array([lesion.center for lesion in typical["pituitary_adenoma"]])
    assert np.abs(centers[:, 0]).max() < 4


def test_dural_tumors_touch_the_surface_of_any_head(head):
    """Meningiomas on the dura start at a point of the head's surface, also when that is another head's."""
    other = head._replace(surface=head.surface * 1.04, normals=head.normals)
    rng = np.random.default_rng(1)
    places = [TYPES["meningioma"].place(rng, other) for _ in range(60)]
    dural = [place for place in places if place.kind == "dura"]
    assert len(dural) > 20
    for place in dural:
        assert np.linalg.norm(other.surface - place.point, axis=1).min() == 0


def test_meningiomas_and_metastases_come_to_the_posterior_fossa_as_well(typical):
    """The cerebellopontine angle is not the schwannoma's alone, nor the cerebellum any type's."""
    areas = region_at([lesion.center for lesion in typical["meningioma"]])
    assert (areas == "cerebellopontine_angle").sum() >= 3
    areas = region_at([lesion.center for lesion in typical["metastasis"]])
    assert np.mean(areas == "cerebellum") == pytest.approx(0.14, abs=0.1)


@pytest.mark.parametrize(
    ("name", "median", "largest"),
    [
        ("metastasis", (0.15, 0.7), 75),
        ("meningioma", (4, 16), 130),
        ("schwannoma", (0.8, 3), 40),
        ("glioma", (22, 60), 180),
        ("pituitary_adenoma", (3, 11), 45),
    ],
)
def test_volumes_are_those_of_the_type(typical, head, name, median, largest):
    """Medians in ml, before a scan refuses those that it cuts, and the largest are what is treated."""
    found = volumes(typical[name][:60], head)
    assert median[0] < np.median(found) < median[1]
    assert found.max() < largest
    assert (found > 0.014).mean() > 0.9


@pytest.mark.slow
def test_sizes_of_types_overlap(typical, head):
    """A tenth of the metastases exceeds 15 ml, and of gliomas and meningiomas a tenth and more is small."""
    ml = {name: volumes(typical[name], head) for name in ("metastasis", "glioma", "meningioma")}
    assert np.mean(ml["metastasis"] > 15) == pytest.approx(0.10, abs=0.06)  # 2 standard errors
    assert 30 < ml["metastasis"].max() < 75
    assert np.mean(ml["glioma"] < 9) == pytest.approx(0.22, abs=0.08)
    assert 0.3 < ml["glioma"].min() < 1.5
    assert np.mean(ml["meningioma"] < 2) == pytest.approx(0.2, abs=0.1)
    radii = [_draw_radius(np.random.default_rng(seed), "meningioma") for seed in range(2000)]
    assert 0.3 < 4 / 3 * np.pi * np.min(radii) ** 3 / 1000 < 0.35  # ml of a ball


def test_rings_of_metastases_and_gliomas_overlap_in_every_figure(typical):
    """Border, shape, rim and edema differ between the types on average, but no figure tells all."""
    rings = {
        name: [lesion for lesion in typical[name] if lesion.rim > 0 and not lesion.cavity]
        for name in ("metastasis", "glioma")
    }
    for figure in (
        lambda lesion: lesion.border,
        lambda lesion: lesion.bumps,
        lambda lesion: lesion.ragged,
        lambda lesion: np.linalg.norm(np.log(np.linalg.eigvalsh(lesion.axes.T @ lesion.axes))),
        lambda lesion: -lesion.edema / lesion.radius,
    ):
        found = {name: np.array([figure(lesion) for lesion in lesions]) for name, lesions in rings.items()}
        above = found["glioma"][:, None] - found["metastasis"]
        share = np.mean(above > 0) + 0.5 * np.mean(above == 0)  # area under the curve
        assert 0.6 < share < 0.99
        assert found["metastasis"].max() > found["glioma"].min()


def test_metastases_of_the_brainstem_are_small(typical):
    """Where a large one would fill the whole brainstem none is drawn."""
    places = [TYPES["metastasis"].place(np.random.default_rng(seed), load_head()) for seed in range(300)]
    stem = [place for place in places if place.kind == "brainstem"]
    assert len(stem) == pytest.approx(15, abs=11)  # 5 %, 3 standard errors
    built = [TYPES["metastasis"].build(np.random.default_rng(i), p) for i, p in enumerate(stem * 20)]
    assert max(lesion.radius for lesion in built) <= 11


@pytest.mark.parametrize("name", TYPES)
def test_reach_holds_the_whole_tumor(typical, head, name):
    """Beyond `reach` along any axis nothing of the tumor is left, lobes and bumps included."""
    for lesion in typical[name][:25]:
        grid = grid_of(lesion, head)
        depth = lesion.depth(grid.points, grid.distance)
        away = np.abs(grid.points - np.float32(lesion.center)).max(axis=1)
        assert (away[depth > 0] < lesion.reach).all()


def test_most_gliomas_are_one_piece(typical, head):
    """Their irregular border seldom breaks a piece off, so that few draws are wasted."""
    lesions = typical["glioma"][:30]
    assert np.mean([find_lesion(grid_of(lesion, head), lesion) is not None for lesion in lesions]) > 0.7


def test_gliomas_keep_inside_the_brain_and_to_their_side(typical, head):
    """They stop under the brain's surface, and at the falx unless they start in the corpus callosum."""
    for lesion in typical["glioma"][:25]:
        grid = grid_of(lesion, head)
        inside = lesion.depth(grid.points, grid.distance) > 0
        assert grid.distance[inside].max() <= 0
        if lesion.falx:
            assert (lesion.falx * grid.points[inside, 0]).min() >= 0


def test_gliomas_that_hardly_enhance_show_by_their_mass(typical):
    """They are dark or as bright as the brain, have no rim, and displace the brain."""
    plain = [lesion for lesion in typical["glioma"] if lesion.level <= 1]
    levels = np.array([lesion.level for lesion in plain])
    assert levels.min() < 0.7 and levels.max() > 0.9
    assert all(lesion.rim == 0 and lesion.halo == 0 and lesion.push >= 0.3 for lesion in plain)
    assert np.mean([lesion.patchy > 0 for lesion in plain]) < 0.65


def test_looks_of_gliomas_are_shared_out(typical):
    """A third hardly enhance, a sixth have a cavity, most of the others a rim."""
    lesions = typical["glioma"]
    assert np.mean([lesion.level <= 1 for lesion in lesions]) == pytest.approx(0.33, abs=0.13)
    assert np.mean([lesion.cavity for lesion in lesions]) == pytest.approx(0.18, abs=0.1)
    assert all(lesion.rim > 0 and lesion.inside < 0.2 for lesion in lesions if lesion.cavity)
    others = [lesion for lesion in lesions if lesion.level > 1 and not lesion.cavity]
    assert np.mean([lesion.rim > 0 for lesion in others]) > 0.6


def test_three_in_ten_tumors_forget_place_but_not_texture(head):
    """Free draws move a type elsewhere; the glioma stays ragged and the meningioma sharp."""
    rng = np.random.default_rng(3)
    kept = {name: [draw_lesion(name, rng, head) for _ in range(100)] for name in TYPES}
    areas = {name: region_at([lesion.center for lesion in kept[name]]) for name in TYPES}
    for name in TYPES:
        assert np.isin(areas[name], ["frontal", "temporal", "parietal", "occipital"]).any()
        if name != "pituitary_adenoma":
            assert any(lesion.beyond > 10 for lesion in kept[name])  # in the sella
    assert min(lesion.ragged for lesion in kept["glioma"]) > 0
    assert max(lesion.ragged for lesion in kept["meningioma"]) == 0


def test_brightness_follows_the_contrast_of_the_scan():
    """Enhancement is relative to white matter and stays above it; what does not enhance ignores it."""
    weak, usual, strong = (SimpleNamespace(faintest=1.2, enhancing=e) for e in (1.3, 1.7, 2.2))
    assert _brightness(usual, 1.5) == pytest.approx(1.5)
    assert 1.08 <= _brightness(weak, 1.5) < _brightness(usual, 1.5) < _brightness(strong, 1.5)
    assert _brightness(weak, 0.8) == _brightness(strong, 0.8) == pytest.approx(0.8)
    assert _brightness(weak, 1.02) == pytest.approx(1.08)


@pytest.mark.parametrize("name", TYPES)
def test_every_type_can_be_simulated(name):
    """One patient of each type has tumors of that type, each with a mask."""
    cohort = make_cohort(1, random_state=0, spacing=5.0, types=[name])
    assert set(cohort.labels["type"]) == {name}
    cohort.check(voxels=True)


def test_a_head_without_a_site_gets_meningiomas_elsewhere():
    """Where no point of the surface meets a site's rule, another site is drawn."""
    head = load_head()
    flat = head._replace(surface=head.surface[head.surface[:, 2] > 20])
    flat = flat._replace(normals=flat.surface / np.linalg.norm(flat.surface, axis=1, keepdims=True))
    rng = np.random.default_rng(0)
    assert all(np.isfinite(draw_lesion("meningioma", rng, flat).center).all() for _ in range(60))
