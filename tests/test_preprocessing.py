"""Preprocessing: grids, intensities and the voxel cache."""

import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import affine_of, ball, head, scan, stored_as
from test_io import limited_files

from tumorsim import Case
from tumorsim.exceptions import GeometryError
from tumorsim.geometry import bbox_from_mask
from tumorsim.preprocessing import MAX_VOXELS, Preprocessing, VoxelCache, normalize_intensity, resample
from tumorsim.preprocessing import _volume as volume_module

ORIENTATIONS = ("LAS", "PIR", "RAS", "IPL", "SLA")


def regrid(line, ratio):
    """Resample a line to voxels `ratio` times as long."""
    new = int(np.ceil(len(line) / ratio))
    return resample(line.reshape(-1, 1, 1), (1, 1, 1), (ratio, 1, 1), (new, 1, 1)).ravel()


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.3, 4), n=st.integers(20, 60))
def test_resample_keeps_a_ramp_in_place(ratio, n):
    """A linear ramp stays where it was: no shift of half a voxel at any ratio of spacings."""
    found = regrid(np.arange(n, dtype=np.float32), ratio)
    expected = (np.arange(len(found)) + 0.5) * ratio - 0.5  # grids share their first edge, not center
    inner = (expected > ratio) & (expected < n - 1 - ratio)
    # a triangle sampled at whole voxels is lopsided by up to 0.09 voxel at ratios between whole numbers
    assert_allclose(found[inner], expected[inner], atol=1e-4 if ratio <= 1 else 0.1)


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.3, 4), n=st.integers(1, 40))
def test_resample_keeps_a_constant(ratio, n):
    """Weights sum to one everywhere, at borders too."""
    assert_allclose(regrid(np.full(n, 7.5, np.float32), ratio), 7.5, rtol=1e-6)


@pytest.mark.parametrize("ratio", [2.0, 3.0, 4.0])
def test_resample_does_not_alias(ratio):
    """Stripes finer than the new grid become their mean, not broad stripes."""
    found = regrid((np.arange(48) % 2).astype(np.float32), ratio)
    assert_allclose(found[1:-1], 0.5, atol=0.06)  # picking voxels would give 0 or 1


def test_resample_from_an_offset():
    """A grid that starts elsewhere reads the ramp there; after whole steps voxels are the same."""
    ramp = np.arange(24, dtype=np.float32).reshape(24, 1, 1) * np.ones((1, 2, 3), np.float32)
    moved = resample(ramp, (1, 1, 1), (1, 1, 1), (5, 2, 3), offset=(2.25, 0, 0))
    assert_allclose(moved[:, 1, 2], 2.25 + np.arange(5), rtol=1e-6)
    whole = resample(ramp, (1, 1, 1), (3, 1, 1), (8, 2, 3))
    assert_allclose(resample(ramp, (1, 1, 1), (3, 1, 1), (5, 2, 3), offset=(6, 0, 0)), whole[2:7], rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.3, 0.77, 1.0, 2.6, 9.1])
def test_resample_in_blocks_equals_the_whole(ratio, monkeypatch):
    """Long axes are resampled a block at a time: the result is the same but for rounding."""
    line = np.random.default_rng(0).random(400, dtype=np.float32)
    found = regrid(line, ratio)
    monkeypatch.setattr(volume_module, "_ROWS", 10_000)
    assert_allclose(found, regrid(line, ratio), rtol=1e-5)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_resample_does_not_depend_on_the_order_in_memory(axes):
    """Whichever axis is innermost, and flipped or not, voxels are the same but for rounding."""
    array = np.random.default_rng(0).integers(0, 900, (17, 20, 13)).astype(np.int16)
    wanted = (1.0, 1.5, 0.7), (2.0, 1.1, 1.9), (9, 27, 5)
    stored = np.ascontiguousarray(array.transpose(axes)[::-1]).transpose(np.argsort(axes))
    stored = np.flip(stored, axes[0])
    assert np.array_equal(stored, array)
    assert_allclose(resample(stored, *wanted), resample(array, *wanted), rtol=1e-5)


def test_resample_of_a_long_axis_takes_little_memory():
    """32 767 voxels in a row, as a header of 350 bytes can claim, need no matrix of 2 GB."""
    tracemalloc.start()
    image = np.arange(32767, dtype=np.float32).reshape(-1, 1, 1)
    found = Preprocessing(1.01).prepare(image, np.eye(4)).image
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6 and found.shape == (32443, 1, 1)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_resample_shrinks_first_what_shrinks_most(axes, monkeypatch):
    """Thick slices are refined last, however they lie in memory: what is on the way stays small."""
    array = np.random.default_rng(0).random((2, 60, 40), dtype=np.float32)
    array = np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))
    sizes, cat = [], torch.cat
    monkeypatch.setattr(torch, "cat", lambda *a, **k: sizes.append((r := cat(*a, **k)).numel()) or r)
    found = resample(array, (10, 0.1, 0.2), (0.5, 2, 1), (40, 3, 8))
    assert sizes == [2 * 3 * 40, 2 * 3 * 8, 40 * 3 * 8] and found.shape == (40, 3, 8)


def test_resample_leaves_its_input_alone_and_takes_read_only_arrays():
    """Neither a copy nor a warning is forced on the caller, and nothing is written into the input."""
    array = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    array.flags.writeable = False
    kept = array.copy()
    assert_array_equal(resample(array, (1, 1, 1), (1, 1, 1), array.shape), kept)
    resample(array, (1, 1, 1), (2, 2, 2), (3, 3, 4))
    Preprocessing(1.0).prepare(array, np.eye(4))
    assert_array_equal(array, kept)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(5, 16)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    orientation=st.sampled_from(ORIENTATIONS),
    corners=st.tuples(*[st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))] * 3),
)
def test_box_goes_where_the_voxels_go(shape, spacing, orientation, corners):
    """The mapped box holds every voxel that is mostly tumor, with at most a voxel of rim."""
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    mask = np.zeros(shape, np.uint8)
    where = [sorted(int(c * n) for c in pair) for pair, n in zip(corners, shape, strict=True)]
    mask[tuple(slice(a, b + 1) for a, b in where)] = 1
    affine = affine_of(spacing)
    (image, stored), (mask, _) = (stored_as(a, affine, orientation) for a in (image, mask))
    volume = Preprocessing(1.5).prepare(image, stored, mask == 1)
    (box,) = volume.boxes([bbox_from_mask(mask == 1)])
    outside = volume.mask.copy()
    outside[tuple(slice(a, b) for a, b in box.T)] = 0
    assert outside.max() <= 0.55 * 255  # an edge lies at one half; more comes of triangles on whole voxels
    found = bbox_from_mask(volume.mask > 0)
    rim = np.maximum(np.array(spacing) / 1.5, 1) + 1e-6  # the kernel's half width
    assert (box[0] - found[0] <= rim).all() and (found[1] - box[1] <= rim).all()
    assert (found[0] - box[0] <= 1).all() and (box[1] - found[1] <= 1).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.1, 3.0), (2.5, 2.0, 2.2)])
def test_mask_comes_back_onto_the_case(orientation, spacing):
    """A ball brought to the network's grid and back overlaps itself, in the file's own axes."""
    shape = tuple(int(n) for n in np.ceil(60 / np.array(spacing)))
    truth = ball(shape, np.array([30, 22, 36]) / spacing, 12 / np.array(spacing))
    affine = affine_of(spacing)
    image, stored = stored_as(head(shape), affine, orientation)
    mask, _ = stored_as(truth.astype(np.uint8), affine, orientation)
    volume = Preprocessing(2.0).prepare(image, stored, mask == 1)
    back = volume.to_source(volume.mask / 255.0) >= 0.5
    dice = 2 * (back & (mask == 1)).sum() / (back.sum() + mask.sum())
    assert back.shape == mask.shape
    assert dice > 0.93  # a shift by one voxel of 2 mm would give 0.87


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_prepared_voxels_do_not_depend_on_storage(orientation):
    """One scan gives the same voxels whatever the order of its axes in the file."""
    image = head((31, 33, 35))
    expected = Preprocessing(2.0).prepare(image, affine_of((1.9, 2.1, 2.3)))
    found = Preprocessing(2.0).prepare(*stored_as(image, affine_of((1.9, 2.1, 2.3)), orientation))
    assert_allclose(found.image, expected.image, atol=1e-3)  # float16
    assert found.image.dtype == np.float16


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.01, -3.0), (37.0, 1000.0), (5.0, -200.0)])
def test_intensity_does_not_depend_on_units(slope, offset):
    """Scanners' gain and offset drop out."""
    image = head(scalp=True)
    expected = normalize_intensity(image, (2, 2, 2))
    found = normalize_intensity((slope * image + offset).astype(np.float32), (2, 2, 2))
    assert_allclose(found, expected, atol=1e-3)  # float32 of an image far from 0


@pytest.mark.parametrize("scalp", [False, True])
@pytest.mark.parametrize("neck", [0, 40])
def test_brain_is_one_in_heads_and_stripped_brains(scalp, neck):
    """The brain's median is near 1 with or without scalp fat or a neck, and air is 0."""
    image = head((44, 50, 44), scalp=scalp)
    brain = ball(image.shape, (np.array(image.shape) - 1) / 2, 0.38 * np.array(image.shape))
    below = np.zeros((44, 50, neck), np.float32)
    below[14:30, 16:34] = 60
    found = normalize_intensity(np.concatenate([below, image], axis=2), (4, 4, 4))[:, :, neck:]
    assert_allclose(np.median(found[brain]), 1, atol=0.05)
    assert found[0, 0, 0] == 0


def test_bright_enhancement_is_compressed_not_clipped():
    """Above ten times the brain intensities still grow, and float16 holds them."""
    image = head()
    image[20, 20, 15], image[20, 20, 16] = 1e4, 1e6
    found = Preprocessing(2.0).prepare(image, affine_of()).image.astype(np.float32)
    assert 10 < found[20, 20, 15] < found[20, 20, 16] < 30


@pytest.mark.parametrize("value", [0, 1, 1000.1, -3.7])
@pytest.mark.parametrize("spacing", [1.0, 1.5, 2.0])
def test_image_of_one_intensity_is_refused(value, spacing):
    """A constant image is an error at any spacing, in spite of rounding in the resampling."""
    with pytest.raises(GeometryError, match="one intensity only"):
        Preprocessing(spacing).prepare(np.full((8, 9, 10), value, np.float32), np.eye(4))


def test_one_bright_voxel_is_an_image():
    """Percentiles alone would call an almost empty image constant."""
    image = np.zeros((12, 12, 12), np.float32)
    image[4, 5, 6] = 5
    assert Preprocessing(1.0).prepare(image, np.eye(4)).image.argmax() == np.ravel_multi_index(
        (4, 5, 6), (12,) * 3
    )


def test_absurd_header_is_refused_before_it_fills_memory():
    """A header in the wrong unit is named with the field of view that it states."""
    with pytest.raises(GeometryError, match=r"too many.*field of view of \[8000.0"):
        Preprocessing(2.0).prepare(np.zeros((8, 9, 10), np.float32), np.diag((1000, 1000, 1000, 1)))
    assert MAX_VOXELS >= 400**3


def test_preprocessing_restores_from_json():
    """What a model file holds restores the same preprocessing; another version is refused."""
    wanted = Preprocessing((1, 2, 3))
    assert Preprocessing.from_dict(wanted.to_dict()) == wanted
    with pytest.raises(ValueError, match="version must be"):
        Preprocessing.from_dict(wanted.to_dict() | {"version": 99})
    with pytest.raises(ValueError, match="spacing"):
        Preprocessing((1, 0, 2))


def case_and_mask(seed=0):
    """Return a phantom case and its bool mask."""
    (tumor,) = scan(f"c{seed}", [("meningioma", (14, 18, 17), (4, 4, 4))], seed=seed)
    return tumor.case, tumor.case.load_mask() > 0


def refuse():
    """Fail where a hit of the cache should have spared the work."""
    raise AssertionError("the cache should have had it")


def test_cache_hit_equals_what_was_prepared(tmp_path):
    """A hit returns the same voxels, and an image stays a hit without its mask."""
    case, mask = case_and_mask()
    preprocessing, cache = Preprocessing(2.0), VoxelCache(tmp_path / "new")
    plain = preprocessing.prepare_case(case, mask=mask)
    preprocessing.prepare_case(case, mask=mask, cache=cache)
    hit = cache.get(preprocessing, case, mask, refuse)
    assert_array_equal(hit.image, plain.image)
    assert_array_equal(hit.mask, plain.mask)
    assert (hit.image.dtype, hit.mask.dtype) == (np.float16, np.uint8)
    box = bbox_from_mask(mask)
    assert_array_equal(hit.boxes([box]), plain.boxes([box]))
    assert cache.get(preprocessing, case, None, refuse).mask is None


def test_cache_key_follows_content_and_preprocessing(tmp_path):
    """Other voxels, affine, mask or spacing miss; the same content in another place hits."""
    case, mask = case_and_mask()
    array, affine = case.image
    cache, preprocessing = VoxelCache(tmp_path), Preprocessing(2.0)
    preprocessing.prepare_case(case, mask=mask, cache=cache)
    cache.get(preprocessing, Case((array.copy(), affine), case_id="x", patient_id="y"), mask.copy(), refuse)
    other = array.copy()
    other[3, 3, 3] += 1
    shifted = affine.copy()
    shifted[0, 0] *= 1.1
    for changed in ((other, affine), (array, shifted)):
        with pytest.raises(AssertionError, match="cache should"):
            cache.get(preprocessing, Case(changed, case_id="x", patient_id="y"), mask, refuse)
    with pytest.raises(AssertionError, match="cache should"):
        cache.get(Preprocessing(2.1), case, mask, refuse)
    with pytest.raises(AssertionError, match="cache should"):
        cache.get(preprocessing, case, ~mask, refuse)


def test_cache_removes_the_oldest_first(tmp_path):
    """Beyond its size the cache drops what was used longest ago, and keeps what it just wrote."""
    preprocessing = Preprocessing(2.0)
    cases = [case_and_mask(seed)[0] for seed in range(3)]
    one = preprocessing.prepare_case(cases[0]).image.nbytes + 128  # header of .npy
    cache = VoxelCache(tmp_path, max_bytes=int(2.5 * one))
    for age, case in zip((30, 20), cases[:2], strict=True):
        before = set(tmp_path.iterdir())
        preprocessing.prepare_case(case, cache=cache)
        (file,) = set(tmp_path.iterdir()) - before
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    cache.get(preprocessing, cases[0], None, refuse)  # now the second is the oldest
    preprocessing.prepare_case(cases[2], cache=cache)
    assert len(list(tmp_path.iterdir())) == 2
    for case in (cases[0], cases[2]):
        cache.get(preprocessing, case, None, refuse)
    tight = VoxelCache(tmp_path, max_bytes=0)
    assert tight.get(preprocessing, cases[1], None, lambda: preprocessing.prepare_case(cases[1])).image.any()


def numbered(i):
    """Return a small case whose voxels differ from those of others."""
    image = np.random.default_rng(i).random((8, 9, 10))
    return Case((image, np.eye(4)), case_id=str(i), patient_id="p")


def test_cache_looks_at_its_folder_once_while_it_is_small(tmp_path, monkeypatch):
    """Work per scan does not grow with the number of files; new cache objects know what the last one saw."""
    listed, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: listed.append(path) or glob(path, pattern))
    for i in range(20):
        Preprocessing(2.0).prepare_case(numbered(i), cache=VoxelCache(tmp_path))
    assert len(list(tmp_path.iterdir())) == 20
    assert listed.count(tmp_path) == 1


def test_cache_notices_what_other_processes_write(tmp_path):
    """A folder that others fill is looked at again before it is much beyond its size."""
    preprocessing, limit = Preprocessing(2.0), 40_000
    size = preprocessing.prepare_case(numbered(0)).image.nbytes + 128  # header of .npy
    preprocessing.prepare_case(numbered(0), cache=VoxelCache(tmp_path, max_bytes=limit))
    written = tmp_path / f"{'0' * 40}-image.npy"
    written.write_bytes(bytes(2 * limit))
    for i in range(1, 2 + limit // 20 // size):
        preprocessing.prepare_case(numbered(i), cache=VoxelCache(tmp_path, max_bytes=limit))
    assert not written.exists()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= limit


def test_damaged_cache_file_is_made_anew(tmp_path):
    """A file cut short by a full disk or a crash counts as missing."""
    case, _ = case_and_mask()
    preprocessing, cache = Preprocessing(2.0), VoxelCache(tmp_path)
    expected = preprocessing.prepare_case(case, cache=cache).image.copy()
    (file,) = tmp_path.iterdir()
    for content in (file.read_bytes()[:500], b"", b"no array"):
        file.write_bytes(content)
        assert_array_equal(preprocessing.prepare_case(case, cache=cache).image, expected)


def test_cache_maps_only_what_it_can_have_made(tmp_path):
    """A file of another shape, type, order or length counts as missing, and so does Python in its header."""
    case, _ = case_and_mask()
    preprocessing, cache = Preprocessing(2.0), VoxelCache(tmp_path)
    expected = preprocessing.prepare_case(case, cache=cache).image.copy()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for array in (
        expected[:-1],
        expected.astype(np.float32),
        np.asfortranarray(expected),
        expected.view(np.int16),
    ):
        np.save(file, array)
        assert_array_equal(preprocessing.prepare_case(case, cache=cache).image, expected)
    for content in (
        whole + b"x",
        whole[:10] + b"{" * 118 + whole[128:],
        whole[:10] + b"(" * 118 + whole[128:],
    ):
        file.write_bytes(content)
        assert_array_equal(preprocessing.prepare_case(case, cache=cache).image, expected)
    assert file.read_bytes() == whole


def test_cache_deletes_only_what_it_made(tmp_path):
    """Files of others in its folder stay, however small its limit; a temporary file of a killed run goes."""
    others = [
        tmp_path / name
        for name in ("results.npy", ".hidden.npy", f"{'0' * 40}-picture.npy", f"{'0' * 39}-mask.npy")
    ]
    left = tmp_path / f".{'0' * 40}-1a2b3c4d.npy"
    for file in (*others, left):
        file.write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    for i in range(3):
        Preprocessing(2.0).prepare_case(numbered(i), cache=VoxelCache(tmp_path, max_bytes=10))
    assert all(file.exists() for file in others) and not left.exists()


def test_cache_without_room_slows_a_run_and_stops_none(tmp_path):
    """A full disk, and a folder that cannot be made, are told in a warning; the voxels are the same."""
    case, mask = case_and_mask()
    preprocessing = Preprocessing(2.0)
    expected = preprocessing.prepare_case(case, mask=mask)
    (tmp_path / "file").write_text("no folder")
    for folder, n_bytes in ((tmp_path / "cache", 1000), (tmp_path / "file", 10**9)):
        cache = VoxelCache(folder)
        with (
            limited_files(n_bytes),
            pytest.warns(UserWarning, match="not kept in the voxel cache.*Make room"),
        ):
            found = preprocessing.prepare_case(case, mask=mask, cache=cache)
        assert_array_equal(found.image, expected.image)
        assert_array_equal(found.mask, expected.mask)
    assert not any((tmp_path / "cache").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files through /proc")
def test_cached_scans_hold_no_open_files(tmp_path):
    """A cohort of any size fits into the limit of open files (256 on macOS)."""
    case, mask = case_and_mask()
    cache = VoxelCache(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    volumes = [Preprocessing(2.0).prepare_case(case, mask=mask, cache=cache) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert volumes[0].image.any()


RACE = """
import sys
import numpy as np
from tumorsim import Case
from tumorsim.preprocessing import Preprocessing, VoxelCache
preprocessing, cache = Preprocessing(2.0), VoxelCache(sys.argv[1], max_bytes=4000)
rng = np.random.default_rng(0)
cases = [Case((rng.random((16, 18, 20)), np.eye(4)), case_id=str(i), patient_id="p") for i in range(4)]
plain = [preprocessing.prepare_case(c).image for c in cases]
mask = np.ones((16, 18, 20), bool)
for i in range(100):
    volume = preprocessing.prepare_case(cases[i % 4], mask=mask, cache=cache)
    assert np.array_equal(volume.image, plain[i % 4]) and volume.mask.min() == 255
"""


@pytest.mark.slow
def test_two_processes_share_a_cache(tmp_path):
    """Two processes that write and remove the same files all the time always read whole ones."""
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
