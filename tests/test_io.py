"""Files ↔ arrays: formats, geometry, and what is said of damaged files."""

import contextlib
import gzip
import itertools
import os
import sys

import nibabel as nib
import nrrd
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tumorsim.exceptions import GeometryError
from tumorsim.io import atomic_path, content_key, file_stems, load_image, read_geometry, save_nifti

AFFINE = np.array([[-1.0, 0, 0, 10], [0, 0, 2, -20], [0, 1.5, 0, 30], [0, 0, 0, 1]])


@pytest.fixture
def array():
    """Integers on a grid of unequal sides."""
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7), dtype=np.int16)


def write_nrrd(path, array, affine, space="left-posterior-superior"):
    """Write an NRRD file whose axes are those of an RAS+ affine."""
    sign = np.array([-1 if "left" in space else 1, -1 if "posterior" in space else 1, 1])
    directions = (affine[:3, :3] * sign[:, None]).T
    header = {"space": space, "space directions": directions, "space origin": affine[:3, 3] * sign}
    nrrd.write(str(path), array, header, index_order="F")


@contextlib.contextmanager
def limited_files(n_bytes):
    """Let no file of this process grow beyond a size, as on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_round_trip(tmp_path, array, suffix):
    """What is saved is read back: values, type, affine, unequal axes in their order."""
    path = tmp_path / f"scan{suffix}"
    save_nifti(path, array, AFFINE)
    loaded, affine = load_image(path)
    assert loaded.dtype == np.int16
    assert_array_equal(loaded, array)
    assert_array_equal(affine, AFFINE)  # small numbers: exact in float32
    shape, affine = read_geometry(str(path))
    assert shape == (5, 6, 7)
    assert_array_equal(affine, AFFINE)


@pytest.mark.parametrize(
    "space", ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior"]
)
def test_nrrd_equals_nifti(tmp_path, array, space):
    """The same scan as NRRD has the same voxels and the same RAS+ affine, whatever its space."""
    write_nrrd(tmp_path / "scan.nrrd", array, AFFINE, space)
    loaded, affine = load_image(tmp_path / "scan.nrrd")
    assert_array_equal(loaded, array)
    assert_allclose(affine, AFFINE, atol=1e-12)
    assert read_geometry(tmp_path / "scan.nrrd")[0] == (5, 6, 7)


def test_nrrd_without_space_is_refused(tmp_path, array):
    """Without a space left and right are unknown, so nothing is guessed."""
    nrrd.write(str(tmp_path / "scan.nrrd"), array, index_order="F")
    with pytest.raises(GeometryError, match="left and right are unknown"):
        read_geometry(tmp_path / "scan.nrrd")


def test_scaled_integers_become_float32(tmp_path, array):
    """A NIfTI slope and intercept are applied."""
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "scan.nii")
    loaded, _ = load_image(tmp_path / "scan.nii")
    assert loaded.dtype == np.float32
    slope, inter = (
        nib.load(tmp_path / "scan.nii").dataobj.slope,
        nib.load(tmp_path / "scan.nii").dataobj.inter,
    )
    raw = np.asanyarray(nib.load(tmp_path / "scan.nii").dataobj.get_unscaled())
    assert_allclose(loaded, raw * slope + inter, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "stored"),
    [(bool, np.uint8), (np.int64, np.int32), (np.uint64, np.int32), (np.float16, np.float32)],
)
def test_save_recasts_what_nifti_lacks(tmp_path, given, stored):
    """Types that NIfTI or its readers lack are written as near relatives, values unchanged."""
    array = (np.arange(60).reshape(3, 4, 5) % 2).astype(given)
    save_nifti(tmp_path / "a.nii", array, np.eye(4))
    loaded, _ = load_image(tmp_path / "a.nii")
    assert loaded.dtype == stored
    assert_array_equal(loaded, array)


def test_save_refuses_integers_that_do_not_fit(tmp_path):
    """A 64-bit number beyond 32 bits is an error, and no file is left."""
    with pytest.raises(GeometryError, match="32 bits"):
        save_nifti(tmp_path / "a.nii", np.full((2, 3, 4), 2**40), np.eye(4))
    assert list(tmp_path.iterdir()) == []


def test_trailing_axes_of_one_are_dropped(tmp_path, array):
    """A 4-D file with one volume is a 3-D image."""
    nib.save(nib.Nifti1Image(array[..., None], AFFINE), tmp_path / "a.nii")
    assert read_geometry(tmp_path / "a.nii")[0] == (5, 6, 7)
    assert_array_equal(load_image(tmp_path / "a.nii")[0], array)


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd"])
def test_4d_is_refused(tmp_path, array, suffix):
    """Several volumes in a file are an error that shows their shape."""
    volumes = np.stack([array, array], axis=-1)
    path = tmp_path / f"a.{suffix}"
    if suffix == "nrrd":
        nrrd.write(str(path), volumes, index_order="F")
    else:
        nib.save(nib.Nifti1Image(volumes, AFFINE), path)
    with pytest.raises(GeometryError, match=r"3-D image\. Got 4 dimensions of shape \(5, 6, 7, 2\)"):
        read_geometry(path)


def test_color_is_refused(tmp_path):
    """Voxels of three numbers each are no T1c scan."""
    colors = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colors, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="one number per voxel"):
        load_image(tmp_path / "a.nii")


def test_bad_affines_are_found_in_the_header(tmp_path, array):
    """Sheared axes and axes without length are reported with the file's name."""
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.3
    flat = AFFINE.copy()
    flat[:, 2] = 0
    for affine, message in ((sheared, "sheared"), (flat, "zero spacing")):
        image = nib.Nifti1Image(array, None)
        image.header.set_sform(affine, code=1)
        nib.save(nib.Nifti1Image(array, None, image.header), tmp_path / "a.nii")
        with pytest.raises(GeometryError, match=f"a.nii.*{message}"):
            read_geometry(tmp_path / "a.nii")


def test_missing_file_is_named():
    """A file that is not there is a FileNotFoundError with its path."""
    for function in (read_geometry, load_image):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.nii.*does not exist"):
            function("nowhere.nii")


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd"])
def test_truncated_file_is_an_error(tmp_path, suffix):
    """A file cut off by a full disk or a broken copy names itself, in every format."""
    array = np.random.default_rng(0).integers(-1000, 1000, (40, 41, 42), dtype=np.int16)
    path = tmp_path / f"a.{suffix}"
    if suffix == "nrrd":
        write_nrrd(path, array, AFFINE)
    else:
        save_nifti(path, array, AFFINE)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(GeometryError, match=rf"voxels of '.*a\.{suffix}' cannot be read"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "txt"])
def test_file_that_is_no_image_is_an_error(tmp_path, suffix):
    """Text under an image's name is refused, not half read."""
    path = tmp_path / f"a.{suffix}"
    text = b"this is no image at all, but a letter to the reader" * 20
    path.write_bytes(gzip.compress(text) if suffix == "nii.gz" else text)
    with pytest.raises(GeometryError, match=r"a\..* (damaged|not a readable)"):
        read_geometry(path)


def test_big_endian_files_are_read(tmp_path, array):
    """Byte order is the file's business; values stay."""
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(array, AFFINE, header), tmp_path / "a.nii")
    assert np.asanyarray(nib.load(tmp_path / "a.nii").dataobj).dtype == np.dtype(">i2")
    loaded, _ = load_image(tmp_path / "a.nii")
    assert_array_equal(loaded, array)
    assert loaded.dtype.isnative  # torch takes no other


def test_atomic_path_keeps_the_old_file_on_error(tmp_path):
    """An error while writing leaves the old file whole and no temporary one."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def interrupted(path, at):
    """Replace a file, and press Ctrl-C at instruction number `at`; return whether there are as many."""

    def write():
        with atomic_path(path) as temporary:
            temporary.write_text("new")

    codes, count = {atomic_path.__wrapped__.__code__, write.__code__}, itertools.count(1)

    def trace(frame, event, _):
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(count) == at:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        write()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file opened, not yet named
def test_atomic_path_interrupted_at_any_instruction_leaves_no_scraps(tmp_path):
    """Ctrl-C between any two instructions leaves the old file or the new one, and nothing beside it."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    read = []
    for at in itertools.count(1):
        stopped = interrupted(target, at)
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"], at
        read.append(target.read_text())
        if not stopped:
            break
    assert len(read) > 100 and read == sorted(read, reverse=True) and set(read) == {"old", "new"}


def test_atomic_path_keeps_the_suffix_and_makes_folders(tmp_path):
    """Writers that choose a format by suffix see the right one; missing folders are made."""
    target = tmp_path / "new" / "scan.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert target.read_bytes() == b"x"


@pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes of POSIX")
def test_only_regular_files_are_replaced(tmp_path):
    """A link, a pipe, a device and a folder stay what they are, and a link's target keeps its content."""
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for path in (*(tmp_path / name for name in ("link", "dangling", "folder", "pipe")), "/dev/null"):
        with pytest.raises(OSError, match="Only a regular file is replaced"), atomic_path(path) as temporary:
            temporary.write_text("new")
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "target").read_text() == "kept"
    assert (
        (tmp_path / "link").is_symlink() and (tmp_path / "pipe").is_fifo() and not os.path.isfile("/dev/null")
    )


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_files_keep_their_mode_and_the_umask_is_left_alone(tmp_path, monkeypatch):
    """A replaced file keeps its permissions, even narrow or wide ones; a new one gets those of the umask."""
    umask = os.umask(0o027)
    monkeypatch.setattr(os, "umask", None)  # whoever calls it fails
    try:
        for name, mode in (("new", None), ("narrow", 0o600), ("wide", 0o664), ("fixed", 0o444)):
            if mode is not None:
                (tmp_path / name).write_text("old")
                (tmp_path / name).chmod(mode)
            with atomic_path(tmp_path / name) as temporary:
                assert not temporary.stat().st_mode & 0o077 & ~(mode or 0o640)
                temporary.write_text("new")
            assert (tmp_path / name).read_text() == "new"
            assert (tmp_path / name).stat().st_mode & 0o777 == (mode or 0o640)
        with atomic_path(tmp_path / "private", mode=0o600) as temporary:
            temporary.write_text("new")
        assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600
    finally:
        monkeypatch.undo()
        os.umask(umask)


def test_full_disk_is_named_and_the_old_file_stays(tmp_path):
    """Where no more can be written, the message names the file and what is free, and nothing is left over."""
    target = tmp_path / "a.npy"
    target.write_text("old")
    with (
        limited_files(100_000),
        pytest.raises(OSError, match=r"a\.npy' could not be written whole.*MB are free"),
    ):
        with atomic_path(target) as temporary, open(temporary, "wb") as file:
            np.save(file, np.zeros(100_000))
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_content_key_follows_the_content(tmp_path):
    """A file that changes its size has another key; one left alone keeps it."""
    path = tmp_path / "a"
    path.write_text("one")
    before = content_key(path)
    assert content_key(str(path)) == before
    path.write_text("three")
    assert content_key(path) != before


@pytest.mark.real
def test_real_nrrd_has_its_true_header(real_data):
    """The PyRadiomics scans have thick axial slices, and masks on the same grid."""
    shape, affine = read_geometry(real_data / "real" / "brain1_image.nrrd")
    mask_shape, mask_affine = read_geometry(real_data / "real" / "brain1_label.nrrd")
    assert shape == mask_shape
    assert_allclose(affine, mask_affine)
    assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (0.78, 0.78, 6.5), atol=0.01)


def test_no_two_ids_share_a_file(tmp_path):
    """Signs, case, composed letters and length make no two names equal; each is one of a file system."""
    ids = ["a/1", "a_1", "P1", "p1", "p1", "../x", ".x", "ä", "a\u0308", "c" * 300, "c" * 301, "\u4e2d" * 90]
    stems = file_stems(ids)
    for stem in stems:
        (tmp_path / f"{stem}.nii.gz").touch()
    assert len({stem.casefold() for stem in stems}) == len(ids) == len(list(tmp_path.iterdir()))
    assert not [stem for stem in stems if stem.startswith(".") or "/" in stem]


def test_a_file_that_another_process_made_meanwhile_opens_no_mode(tmp_path):
    """Permissions are those of the file that was there at the start, or what the umask leaves."""
    old = os.umask(0o077)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            (tmp_path / "a").write_text("of another")
            temporary.write_text("ours")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
