"""Patches: what is drawn holds its tumor, and labels follow what is done to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import SHAPE, ball, head
from scipy import ndimage

from tumorsim.geometry import bbox_from_mask
from tumorsim.preprocessing import Preprocessing
from tumorsim.training._patches import (
    PatchSampler,
    TrainingCase,
    _cut,
    _mirror_table,
    _place,
    _random_turn,
    _thick_slices,
    _turned,
)

CLASSES = {"side": ["left", "right"], "size": ["large", "small"]}
LEFT, RIGHT, LARGE, SMALL = 0, 1, 0, 1


def case_with(lesions, labels, *, case_id="a", patient_id=None, shape=SHAPE, with_mask=True, spacing=2.0):
    """Return a TrainingCase with ellipsoids (center, radii) on the network's own grid."""
    image, masks = head(shape), [ball(shape, center, radii) for center, radii in lesions]
    for mask in masks:
        image[mask] = 250
    affine = np.diag([*np.broadcast_to(spacing, 3), 1])
    volume = Preprocessing(spacing).prepare(image, affine, np.any(masks, axis=0) if with_mask else None)
    boxes = np.array([bbox_from_mask(mask) for mask in masks])
    return TrainingCase(volume, boxes, np.array(labels), case_id, patient_id or case_id)


@pytest.fixture
def two_sides():
    """Return a case with a large tumor on the left and a small one on the right."""
    lesions = [((13, 20, 15), (5, 6, 5)), ((27, 25, 20), (3, 3, 3))]
    return case_with(lesions, [(LEFT, LARGE), (RIGHT, SMALL)])


def sampler(cases, *, patch=32, batch_size=4, augment=True, box_jitter=0.0, random_state=0):
    """Return a sampler with small patches."""
    return PatchSampler(
        cases, CLASSES, patch_shape=np.broadcast_to(patch, 3), batch_size=batch_size, augment=augment,
        box_jitter=box_jitter, random_state=random_state,
    )  # fmt: skip


def whole_boxes(mask, threshold=0.5):
    """Return the boxes (m, 2, 3) of the components of a float mask (x, y, z)."""
    parts = ndimage.find_objects(ndimage.label(mask > threshold)[0])
    return np.array([[[s.start for s in part], [s.stop for s in part]] for part in parts])


@pytest.mark.parametrize("augment", [False, True])
def test_every_patch_holds_its_whole_tumor(augment):
    """The chosen tumor's volume in the patch is all of it, wherever the patch lies."""
    case = case_with([((13, 20, 15), (5, 6, 4))], [(LEFT, LARGE)])
    volume = (case.volume.mask / 255.0).sum()
    corners = set()
    for number in range(12):
        batch = sampler([case], augment=augment, patch=16).batch(number)
        assert batch.image.shape == batch.mask.shape == (4, 1, 16, 16, 16)
        sums = batch.mask.sum(dim=(1, 2, 3, 4)).numpy()
        # stretching by up to 10 % an axis changes the volume; a plain patch has exactly that of the scan
        assert_allclose(sums, volume, rtol=0.36 if augment else 1e-6)
        corners |= {tuple(box[0]) for box in batch.boxes}
    assert len(corners) > 12  # and it does lie in many places


def test_tumor_larger_than_the_patch_is_kept():
    """Of a tumor that does not fit, the patch shows as much as fits, with a box inside the patch."""
    case = case_with([((20, 22, 18), (12, 6, 12))], [(LEFT, LARGE)])
    for augment in (False, True):
        for number in range(6):
            batch = sampler([case], patch=16, augment=augment).batch(number)
            assert_array_equal(batch.index, np.arange(4))
            assert (batch.boxes >= 0).all() and (batch.boxes <= 16).all()
            assert (batch.boxes[:, 1] - batch.boxes[:, 0])[:, [0, 2]].min() >= 15
            assert batch.mask.mean() > 0.25


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(-9, 30),
    side=st.floats(0.5, 25),
    shift=st.floats(0, 1),
    before=st.floats(0, 20),
    after=st.floats(0, 20),
    seed=st.integers(0, 999),
)
def test_place_holds_the_box_and_stays_in_view(start, side, shift, before, after, seed):
    """A patch of 16 voxels holds boxes of up to 15, lies inside those of 17, and leaves no larger scan."""
    box = np.array([[start + shift] * 3, [start + shift + side] * 3])
    view = box + np.array([[-before] * 3, [after] * 3])
    corner = _place(box, view, np.array([16, 16, 16]), np.random.default_rng(seed))
    assert_array_equal(corner, np.round(corner))
    if side <= 15:
        assert (corner <= box[0]).all() and (corner + 16 >= box[1]).all()
    if side >= 17:
        assert (corner >= box[0] - 1).all() and (corner + 16 <= box[1] + 1).all()
    if (view[1] - view[0] >= 18).all():
        assert (corner >= view[0] - 1).all() and (corner + 16 <= view[1] + 1).all()
    if (view[1] - view[0] <= 14).all():
        assert (corner <= view[0] + 1).all() and (corner + 16 >= view[1] - 1).all()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 2.0, 4.0)])
def test_cut_samples_where_it_says(two_sides, mirror, spacing):
    """A turned patch equals SciPy's linear interpolation at turn @ (corner + i + 1/2) - 1/2."""
    image = two_sides.volume.image.astype(np.float32)
    rng = np.random.default_rng(7)
    seen = set()
    while len(seen) < 2:  # turned, and not
        turn, mirrored = _random_turn(rng, spacing)
        turned = not np.array_equal(np.abs(turn), np.eye(3))
        if mirrored != mirror or turned in seen:
            continue
        seen.add(turned)
        for corner in ([-3, 5, 2], [-30, -4, 20], [30, 30, 30]):
            corner = np.array(corner, float)
            offset = turn @ (corner + 0.5) - 0.5
            expected = ndimage.affine_transform(
                image, turn, offset, (20, 16, 24), order=1, mode="grid-constant"
            )
            found = _cut((image, image), turn, corner, (20, 16, 24))
            assert_allclose(found[0], expected, atol=2e-4)  # float32 coordinates
            assert_array_equal(found[0], found[1])


def test_turns_are_rotations_in_millimetres():
    """On voxels that are no cubes, a turn keeps angles in mm, up to the stretch along the patch's axes."""
    spacing = np.array([1.0, 2.0, 4.0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn, mirror = _random_turn(rng, spacing)
        in_mm = turn * spacing[:, None] / spacing[None]
        gram = in_mm.T @ in_mm
        assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
        assert ((np.diag(gram) > 0.8) & (np.diag(gram) < 1.22)).all()
        assert (np.linalg.det(turn) < 0) == mirror


def test_turned_box_is_that_of_the_ellipsoid():
    """An ellipsoid's box, turned, is the box of the turned ellipsoid."""
    mask = ball(SHAPE, (19, 21, 17), (8, 5, 3))
    for seed in range(5):
        turn, _ = _random_turn(np.random.default_rng(seed), (2.0, 2.0, 2.0))
        (box,) = _turned(bbox_from_mask(mask)[None], turn)
        corner = np.floor(box.mean(axis=0)) - 16
        patch = _cut((mask.astype(np.float32),), turn, corner, (32, 32, 32))[0]
        assert_allclose(box - corner, bbox_from_mask(patch.numpy() > 0.5), atol=1.0)  # voxels


def test_boxes_follow_the_augmentation(two_sides):
    """Each box lies within two voxels of the augmented mask's own."""
    compared = 0
    for number in range(15):
        batch = sampler([two_sides], patch=48).batch(number)
        for element in range(4):
            boxes = batch.boxes[batch.index == element]
            found = whole_boxes(batch.mask[element, 0].numpy())
            for box in boxes:
                distance = np.abs(found - box).max(axis=(1, 2))
                assert distance.min() <= 2, (box, found)
                compared += 1
    assert compared >= 60


def test_mirror_swaps_sides_and_nothing_else(two_sides):
    """Mirrored or not, what is called left lies left (low x), and size stays with its tumor."""
    combinations = set()
    for number in range(20):
        batch = sampler([two_sides], patch=40).batch(number)
        for element in range(4):
            rows = np.flatnonzero(batch.index == element)
            if len(rows) < 2:
                continue
            side, size = batch.labels[rows].T.numpy()
            x = batch.boxes[rows][:, :, 0].mean(axis=1)
            assert x[side == LEFT] < x[side == RIGHT]
            volume = [
                (batch.mask[element, 0][tuple(slice(*s) for s in b.T)]).sum() for b in batch.boxes[rows]
            ]
            assert volume[int(np.argmax(size == LARGE))] > 2 * volume[int(np.argmax(size == SMALL))]
            combinations.add((int(side[size == LARGE][0]), LARGE))
    assert combinations == {(LEFT, LARGE), (RIGHT, LARGE)}  # both mirrored and plain patches were seen


@pytest.mark.parametrize("n_datasets", [1, 2, 3])
def test_data_sets_take_turns(n_datasets):
    """A data set has its share of the patches, however many patients it has; else patients have theirs."""
    cases = [
        replace(case_with([((13, 20, 15), (4, 4, 4))], [(LEFT, SMALL)], case_id=f"{d}-{i}"), dataset=str(d))
        for d in range(n_datasets)
        for i in range(1 if d else 9)
    ]
    for balance in (False, True):
        drawn = PatchSampler(
            cases, CLASSES, patch_shape=(16,) * 3, batch_size=4, augment=False, box_jitter=0.0,
            random_state=0, balance_datasets=balance,
        )  # fmt: skip
        ids = [i for number in range(15) for i in drawn.batch(number).case_ids]
        counts = [sum(i.startswith(f"{d}-") for i in ids) for d in range(n_datasets)]
        if balance:
            assert counts == [60 / n_datasets] * n_datasets
        else:
            assert counts[0] >= 60 * 0.7 and sum(counts) == 60
        assert len({i for i in ids if i.startswith("0-")}) > 5


def test_mirror_leaves_missing_labels_missing():
    """A tumor of unknown side has none in the mirror either."""
    case = case_with([((13, 20, 15), (4, 4, 4))], [(-1, SMALL)])
    for number in range(4):
        assert_array_equal(sampler([case]).batch(number).labels, [(-1, SMALL)] * 4)


def test_side_without_its_opposite_is_missing_in_the_mirror():
    """Where no tumor of the cohort is called right, a mirrored left one has no class."""
    case = case_with([((13, 20, 15), (4, 4, 4))], [(0,)])
    drawn = PatchSampler(
        [case], {"side": ["left", "middle"]}, patch_shape=(32,) * 3, batch_size=16, augment=True,
        box_jitter=0.0, random_state=0,
    )  # fmt: skip
    assert set(drawn.batch(0).labels[:, 0].tolist()) == {0, -1}


def test_sides_within_longer_names_are_mirrored_too():
    """Left and right are swapped as words, whatever stands beside them, and not as parts of a word."""
    names = ["Left frontal", "bright", "frontal-right_2", "left frontal", "right frontal", "Right frontal"]
    assert_array_equal(_mirror_table(names), [5, 1, -1, 4, 3, 0])
    assert _mirror_table(["bright", "cleft"]) is None


def test_without_augmentation_patches_are_cut_outs(two_sides):
    """Boxes keep their sides, labels their sides, and the voxels are the scan's own."""
    sides = two_sides.boxes[:, 1] - two_sides.boxes[:, 0]
    for number in range(5):
        batch = sampler([two_sides], augment=False).batch(number)
        for element in range(4):
            rows = np.flatnonzero(batch.index == element)
            for row in rows:
                tumor = int(batch.labels[row, 0])
                assert_array_equal(batch.boxes[row, 1] - batch.boxes[row, 0], sides[tumor])
                here = tuple(slice(*s) for s in batch.boxes[row].T)
                there = tuple(slice(*s) for s in two_sides.boxes[tumor].T)
                assert_array_equal(
                    batch.image[element, 0][here], two_sides.volume.image[there].astype(np.float32)
                )


def test_tumor_cut_by_the_patch_is_not_a_sample(two_sides):
    """A second tumor counts only where it is whole; the mask shows it in any case."""
    counts = set()
    for number in range(10):
        batch = sampler([two_sides], patch=26, augment=False).batch(number)
        for element in range(4):
            n = int((batch.index == element).sum())
            counts.add(n)
            for box in batch.boxes[batch.index == element]:
                assert box.min() >= 0 and box.max() <= 26
    assert counts == {1, 2}


def test_jitter_moves_sides_within_its_bounds(two_sides):
    """Sides change by at most the share, plus rounding; without jitter they do not."""
    sides = two_sides.boxes[:, 1] - two_sides.boxes[:, 0]
    found = []
    for number in range(10):
        batch = sampler([two_sides], patch=48, augment=False, box_jitter=0.3).batch(number)
        tumor = batch.labels[:, 0].numpy()
        side = batch.boxes[:, 1] - batch.boxes[:, 0]
        assert (np.abs(side - sides[tumor]) <= 0.3 * sides[tumor] + 2).all()
        found.append((side - sides[tumor]).ravel())
    assert np.concatenate(found).std() > 0.5


def test_batch_depends_on_seed_and_number_only(two_sides):
    """The same batch comes again in any order; another number or seed gives another one."""
    first = sampler([two_sides], box_jitter=0.2)
    wanted = [first.batch(n) for n in range(3)]
    second = sampler([two_sides], box_jitter=0.2)
    for number in (2, 0, 1):
        again = second.batch(number)
        for name in ("image", "mask", "labels"):
            assert torch.equal(getattr(again, name), getattr(wanted[number], name))
        assert_array_equal(again.boxes, wanted[number].boxes)
    assert not torch.equal(wanted[0].image, wanted[1].image)
    other = sampler([two_sides], box_jitter=0.2, random_state=1).batch(0)
    assert not torch.equal(wanted[0].image, other.image)


def test_patients_are_drawn_alike():
    """A patient with one tumor is drawn as often as one with nine on three scans."""
    many = [
        case_with(
            [((12, 20, 15), (2, 2, 2)), ((20, 20, 15), (2, 2, 2)), ((28, 20, 15), (2, 2, 2))],
            [(0, 0)] * 3, case_id=f"many{i}", patient_id="many",
        )
        for i in range(3)
    ]  # fmt: skip
    one = case_with([((13, 20, 15), (2, 2, 2))], [(0, 0)], case_id="one")
    drawn = sampler([*many, one], patch=8, augment=False, batch_size=10)
    ids = [case_id for number in range(40) for case_id in drawn.batch(number).case_ids]
    assert abs(ids.count("one") - 200) < 40  # 4 standard deviations of 400 fair coins
    assert min(ids.count(f"many{i}") for i in range(3)) > 35


def test_unknown_mask_is_zeros_and_said_to_be_unknown(two_sides):
    """A scan without a mask has no truth for the mask's head."""
    bare = case_with([((13, 20, 15), (4, 4, 4))], [(0, 0)], case_id="bare", with_mask=False)
    batch = sampler([two_sides, bare], batch_size=8).batch(0)
    for known, mask, case_id in zip(batch.mask_known, batch.mask, batch.case_ids, strict=True):
        assert bool(known) == (case_id == "a")
        assert bool(mask.any()) == (case_id == "a")


@pytest.mark.parametrize("thickness", [2, 3, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_stay_in_place(thickness, axis):
    """Thick slices blur along one axis and shift nothing."""
    image = torch.from_numpy(ball((33, 34, 35), (16, 15, 18), (6, 5, 7)).astype(np.float32))
    centers = []
    for seed in range(thickness * 3):
        blurred = _thick_slices(image, thickness, axis, seed % thickness)
        assert blurred.shape == image.shape
        centers.append(ndimage.center_of_mass(blurred.numpy()))
    assert_allclose(np.mean(centers, axis=0), (16, 15, 18), atol=0.15)  # voxels
    assert_allclose(centers, np.broadcast_to((16, 15, 18), (len(centers), 3)), atol=0.6)


def test_cropped_view_blanks_image_and_mask_alike():
    """Where the view is cropped, nothing is called tumor that cannot be seen."""
    case = case_with([((13, 20, 9), (4, 4, 3)), ((20, 24, 28), (3, 3, 3))], [(0, 0)] * 2)
    blanked = 0
    for number in range(30):
        batch = sampler([case], patch=24).batch(number)
        air = (batch.image == 0).all(dim=2, keepdim=True).all(dim=3, keepdim=True).expand_as(batch.image)
        assert not (batch.mask[air] > 0).any()
        blanked += int(air.any())
    assert blanked > 5
