"""What headers of images say, and what damaged files hide: axes, units, orientation, checksums, limits."""

import gzip
import os
import struct
import sys
import time
import tracemalloc

import nibabel as nib
import nrrd
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_io import AFFINE, write_nrrd

from tumorsim import Case
from tumorsim.exceptions import GeometryError
from tumorsim.io import content_key, load_image, read_geometry, save_nifti, states_orientation, voxel_key


@pytest.fixture
def array():
    """Integers on a grid of unequal sides."""
    return np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7), dtype=np.int16)


def rewritten(path, **fields):
    """Change lines of an NRRD file's header; None takes a line out."""
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    lines = dict(line.split(": ", 1) for line in head.decode().split("\n") if ": " in line and line[0] != "#")
    lines |= {name.replace("_", " "): value for name, value in fields.items()}
    text = "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)
    path.write_bytes(b"NRRD0005\n" + text.encode() + b"\n" + voxels)


def with_axis(path, position, kind, size, array):
    """Write an NRRD file of four axes, one of which is none of space."""
    write_nrrd(path, array, AFFINE)
    header = nrrd.read_header(str(path))
    stored = np.stack([array] * size, axis=position)
    directions, kinds = header["space directions"].tolist(), ["domain"] * 3
    directions.insert(position, [np.nan] * 3)
    kinds.insert(position, kind)
    fields = {name: header[name] for name in ("space", "space origin")}
    nrrd.write(str(path), stored, fields | {"space directions": np.array(directions), "kinds": kinds})


@pytest.mark.parametrize("position", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["list", "vector", "none"])
def test_nrrd_axes_of_one_entry_outside_space_are_dropped(tmp_path, array, position, kind):
    """Image and mask with such an axis, wherever it stands, are the 3-D volumes that they are."""
    for name, values in (("image", array), ("mask", (array > 500).astype(np.uint8))):
        with_axis(tmp_path / f"{name}.nrrd", position, kind, 1, values)
        loaded, affine = load_image(tmp_path / f"{name}.nrrd")
        assert_array_equal(loaded, values)
        assert_allclose(affine, AFFINE, atol=1e-12)
    case = Case(tmp_path / "image.nrrd", tmp_path / "mask.nrrd", case_id="a", patient_id="p")
    assert_array_equal(case.load_mask(), array > 500)


@pytest.mark.parametrize("position", [0, 3])
def test_nrrd_of_several_layers_is_refused(tmp_path, array, position):
    """Overlapping segments are no one mask: the message says how many dimensions there are."""
    with_axis(tmp_path / "a.nrrd", position, "list", 2, array)
    with pytest.raises(GeometryError, match=r"a\.nrrd' must be a 3-D image\. Got 4 dimensions.*collapse"):
        load_image(tmp_path / "a.nrrd")


def test_nrrd_without_an_origin_is_refused(tmp_path, array):
    """Where the voxels lie is not guessed."""
    write_nrrd(tmp_path / "a.nrrd", array, AFFINE)
    rewritten(tmp_path / "a.nrrd", space_origin=None)
    with pytest.raises(GeometryError, match=r"a\.nrrd' must state.*Got no 'space origin'"):
        read_geometry(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("unit", "factor"), [("m", 1000), ("um", 0.001), ("µm", 0.001), ("cm", 10), ("mm", 1)]
)
def test_nrrd_units_become_mm(tmp_path, array, unit, factor):
    """An affine in other units is that in mm."""
    affine = AFFINE.copy()
    affine[:3] /= factor
    write_nrrd(tmp_path / "a.nrrd", array, affine)
    rewritten(tmp_path / "a.nrrd", space_units=f'"{unit}" "{unit}" "{unit}"')
    if unit == "µm":  # pynrrd drops what is not ASCII
        with pytest.raises(GeometryError, match="states its units as m"):
            read_geometry(tmp_path / "a.nrrd")
        return
    assert_allclose(read_geometry(tmp_path / "a.nrrd")[1], AFFINE, rtol=1e-12)


def test_nrrd_of_unknown_units_is_refused(tmp_path, array):
    """The unit is named."""
    write_nrrd(tmp_path / "a.nrrd", array, AFFINE)
    rewritten(tmp_path / "a.nrrd", space_units='"parsec" "mm" "mm"')
    with pytest.raises(GeometryError, match=r"a\.nrrd' must be in mm\. Got the units parsec, mm, mm"):
        read_geometry(tmp_path / "a.nrrd")


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("micron", 0.001), ("unknown", 1), ("mm", 1)])
def test_nifti_units_become_mm(tmp_path, array, unit, factor):
    """Meters and microns are converted; without a unit mm are meant."""
    affine = AFFINE.copy()
    affine[:3] /= factor
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii.gz")
    assert_allclose(load_image(tmp_path / "a.nii.gz")[1], AFFINE, rtol=1e-6)  # float32 in the header
    assert_allclose(Case(image, case_id="a", patient_id="p").affine, AFFINE, rtol=1e-6)


def test_units_that_make_absurd_voxels_are_named(tmp_path, array):
    """Millimetres that a header calls meters are refused with the unit, not read as a head of 5 km."""
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"a\.nii' states its units as m, m, m, so its voxels would have"):
        read_geometry(tmp_path / "a.nii")


def write_packed(folder, suffix, array):
    """Write an image whose voxels are compressed; return its file and that of the voxels."""
    path = folder / f"a{suffix}"
    if suffix == ".nrrd":
        write_nrrd(path, array, AFFINE)
    elif suffix == ".nhdr":
        write_nrrd(path, array, AFFINE)
        return path, folder / "a.raw.gz"
    elif suffix == ".mgz":
        nib.save(nib.MGHImage(array, AFFINE), path)
    elif suffix == ".img.gz":
        nib.save(nib.Nifti1Pair(array, AFFINE), path)
    else:
        save_nifti(path, array, AFFINE)
    return path, path


PACKED = (".nii.gz", ".nii.bz2", ".mgz", ".img.gz", ".nrrd", ".nhdr")


@pytest.mark.parametrize("reader", ["isal", "gzip"])
@pytest.mark.parametrize("suffix", PACKED)
def test_wrong_checksums_are_found(tmp_path, array, suffix, reader, monkeypatch):
    """One flipped bit in the checksum, a stream that lacks it, or bytes after it: the file is named."""
    if reader == "gzip":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    array = np.tile(array, (4, 4, 4))
    path, voxels = write_packed(tmp_path, suffix, array)
    assert_array_equal(load_image(path)[0], array)
    whole = voxels.read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 4  # gzip: the CRC ends four bytes before the file; bzip2: the CRC ends the file
    for damaged in (bytes(flipped), whole[:-4], whole + b"garbage")[: 2 if "bz2" in suffix else 3]:
        voxels.write_bytes(damaged)
        small = r"is neither .* or it is damaged"  # isal is at the end when the header is read
        with pytest.raises(
            GeometryError, match=rf"'.*a\{suffix}' (cannot be read.*copy the file anew|{small})"
        ):
            load_image(path)


def test_header_that_puts_voxels_at_byte_0_is_read_behind_it(tmp_path, array):
    """With vox_offset 0 the file's length says where voxels begin; where it does not fit, it is refused."""
    for kind, at, code in ((nib.Nifti1Image, 108, "f"), (nib.Nifti2Image, 168, "q")):
        nib.save(kind(array, AFFINE), tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        struct.pack_into(code, content, at, 0)
        (tmp_path / "a.nii").write_bytes(content)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
        for name in ("a.nii", "a.nii.gz"):
            assert_array_equal(load_image(tmp_path / name)[0], array)
        (tmp_path / "a.nii").write_bytes(content + bytes(9))
        with pytest.raises(GeometryError, match="vox_offset"):
            load_image(tmp_path / "a.nii")


def without_orientation(array, folder):
    """Write a file of each format that says nothing of its axes; return their paths."""
    image = nib.Nifti1Image(array, AFFINE)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, folder / "codes.nii.gz")
    nib.save(nib.AnalyzeImage(array, np.diag([2.0, 2, 2, 1])), folder / "analyze.hdr")
    nib.save(nib.MGHImage(array, AFFINE), folder / "mgh.mgz")
    content = bytearray(gzip.decompress((folder / "mgh.mgz").read_bytes()))
    content[28:30] = bytes(2)  # goodRASFlag
    (folder / "mgh.mgz").write_bytes(gzip.compress(content))
    return [folder / name for name in ("codes.nii.gz", "analyze.hdr", "analyze.img", "mgh.mgz")]


def test_files_that_state_no_orientation_are_known(tmp_path, array):
    """Codes of 0, Analyze and MGH without a transform state none; what nibabel is told to write does."""
    for path in without_orientation(array, tmp_path):
        assert not states_orientation(path), path
        assert not Case(path, case_id="a", patient_id="p").states_orientation
    image = nib.load(tmp_path / "codes.nii.gz")
    image.set_sform(image.affine, 1)  # as the remedy in messages says
    image.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "told.nii.gz")
    assert_array_equal(
        read_geometry(tmp_path / "told.nii.gz")[1], read_geometry(tmp_path / "codes.nii.gz")[1]
    )
    nib.save(nib.MGHImage(array, AFFINE), tmp_path / "told.mgz")
    write_nrrd(tmp_path / "told.nrrd", array, AFFINE)
    assert all(states_orientation(tmp_path / f"told.{suffix}") for suffix in ("nii.gz", "mgz", "nrrd"))


TURNED = np.array(
    [[np.cos(0.6), -np.sin(0.6), 0, 9], [np.sin(0.6), np.cos(0.6), 0, 4], [0, 0, 1, 2], [0, 0, 0, 1]]
)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("change", "codes", "agree"),
    [
        (np.eye(4), (1, 1), True),
        (TURNED @ np.diag([1.2, 1.1, 1.1, 1]), (4, 1), True),  # a head that was turned and scaled to MNI
        (np.diag([-1.0, 1, 1, 1]), (1, 1), False),
        (np.diag([1.0, 1, -1, 1]), (2, 1), False),
        (np.diag([-1.0, -1, 1, 1]), (1, 1), False),  # turned by half: no mirror, and left is right
        (np.eye(4)[[1, 2, 0, 3]], (1, 1), False),
        (np.diag([-1.0, 1, 1, 1]), (1, 0), True),
        (np.diag([-1.0, 1, 1, 1]), (0, 1), True),
    ],
)
def test_forms_that_contradict_each_other_state_no_orientation(tmp_path, array, kind, change, codes, agree):
    """Where sform and qform differ by a mirror or a turn, the sform is used, and sides are a guess."""
    image = kind(array, AFFINE)
    image.set_sform(change @ AFFINE, codes[0])
    image.set_qform(AFFINE, codes[1])
    nib.save(image, tmp_path / "a.nii.gz")
    assert states_orientation(tmp_path / "a.nii.gz") == states_orientation(image) == agree
    used = change @ AFFINE if codes[0] else AFFINE
    assert_allclose(read_geometry(tmp_path / "a.nii.gz")[1], used, atol=1e-5)
    image = nib.load(tmp_path / "a.nii.gz")
    image.set_sform(image.affine, 1)  # as the remedy in messages says
    image.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "told.nii.gz")
    assert states_orientation(tmp_path / "told.nii.gz")


def test_a_qform_that_is_none_contradicts_nothing(tmp_path, array):
    """Quaternions longer than 1 are no rotation: the sform alone counts, as before."""
    image = nib.Nifti1Image(array, AFFINE)
    image.set_sform(AFFINE, 1)
    image.header["qform_code"], image.header["quatern_b"], image.header["quatern_c"] = 1, 0.9, 0.9
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header["quatern_c"] == np.float32(0.9)
    assert states_orientation(tmp_path / "a.nii.gz")


def test_an_image_is_no_mask_of_itself(tmp_path, array):
    """Neither the same file, nor a link to it, nor a copy of its voxels is taken for a mask."""
    save_nifti(tmp_path / "a.nii.gz", array, AFFINE)
    save_nifti(tmp_path / "copy.nii.gz", array, AFFINE)
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "a.nii.gz")
    for name, problem in (
        ("a", "is its image"),
        ("link", "is its image"),
        ("copy", "has the voxels of its image"),
    ):
        case = Case(tmp_path / "a.nii.gz", tmp_path / f"{name}.nii.gz", case_id="c1", patient_id="p")
        with pytest.raises(ValueError, match=f"mask of case 'c1' {problem}"):
            case.load_mask()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_of_no_size_are_refused(tmp_path, array, suffix):
    """A slice distance of 0 is unknown where only the qform tells it; a full sform does not need it."""
    image = nib.Nifti1Image(array, AFFINE)
    for sform, refused in ((0, True), (1, False)):
        image.set_sform(AFFINE, sform)
        image.set_qform(AFFINE, 1)
        image.to_filename(tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[76 + 12 : 76 + 16] = bytes(4)  # pixdim[3]
        path = tmp_path / f"b{suffix}"
        path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
        if refused:
            with pytest.raises(GeometryError, match=r"b\.nii.*voxel sizes \(pixdim\) hold a 0"):
                read_geometry(path)
        else:
            np.testing.assert_array_equal(load_image(path)[0], array)


def test_another_image_is_no_mask(tmp_path):
    """Another series on the same grid, whose whole numbers are intensities, is refused by name."""
    rng = np.random.default_rng(0)
    for name in ("t1c", "t2"):
        save_nifti(
            tmp_path / f"{name}.nii.gz", rng.integers(0, 4000, (20, 21, 22)).astype(np.int16), np.eye(4)
        )
    case = Case(tmp_path / "t1c.nii.gz", tmp_path / "t2.nii.gz", case_id="c1", patient_id="p")
    with pytest.raises(
        ValueError, match=r"mask of case 'c1' has more than 1000 values, as an image.*t2\.nii"
    ):
        case.load_mask()


def test_voxels_are_limited_by_the_header(tmp_path, array, monkeypatch):
    """More voxels than allowed are refused before they are read; the limit can be raised."""
    for name in ("a.nii", "a.nii.gz"):
        save_nifti(tmp_path / name, array, AFFINE)
    write_nrrd(tmp_path / "a.nrrd", array, AFFINE)
    monkeypatch.setenv("TUMORSIM_MAX_VOXELS", "209")
    for name in ("a.nii", "a.nii.gz", "a.nrrd"):
        for function in (read_geometry, load_image):
            with pytest.raises(
                GeometryError, match=r"at most 209 voxels\. Got 5 x 6 x 7.*TUMORSIM_MAX_VOXELS"
            ):
                function(tmp_path / name)
    monkeypatch.setenv("TUMORSIM_MAX_VOXELS", "210")
    assert load_image(tmp_path / "a.nii")[0].size == 210
    monkeypatch.setenv("TUMORSIM_MAX_VOXELS", "many")
    with pytest.raises(GeometryError, match="must be a whole number"):
        load_image(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "mgz", "nrrd"])
def test_headers_that_claim_more_than_there_is_take_no_memory(tmp_path, array, suffix):
    """A file of 1 kB that claims 100 million voxels is refused, and nothing of that size is held."""
    path = tmp_path / f"a.{suffix}"
    if suffix == "nrrd":
        write_nrrd(path, array, AFFINE)
        rewritten(path, sizes="500 500 400")
    else:
        pack, at = (gzip.compress, 42) if suffix != "nii" else (bytes, 42)
        image = nib.MGHImage(array, AFFINE) if suffix == "mgz" else nib.Nifti1Image(array, AFFINE)
        content = bytearray(image.to_bytes())
        struct.pack_into(*(">3i", content, 4) if suffix == "mgz" else ("<3h", content, at), 500, 500, 400)
        path.write_bytes(pack(bytes(content)))
    assert_refused_in_little_memory(path)


def test_streams_that_unpack_to_more_than_their_header_says_take_no_memory(tmp_path, array):
    """100 MB of zeros behind the voxels are refused and not held."""
    with gzip.open(tmp_path / "a.nii.gz", "wb", 1) as file:
        file.write(nib.Nifti1Image(array, AFFINE).to_bytes())
        for _ in range(100):
            file.write(bytes(2**20))
    assert_refused_in_little_memory(tmp_path / "a.nii.gz")


def assert_refused_in_little_memory(path):
    """Raise unless an image is refused within 30 MB."""
    tracemalloc.start()
    with pytest.raises(GeometryError, match=rf"voxels of '.*{path.name}' cannot be read|damaged"):
        load_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_detached_voxels_lie_below_the_header(tmp_path, array):
    """Paths and links that lead elsewhere, and pipes, are refused; a folder below is fine."""
    inside = tmp_path / "scans"
    inside.mkdir()
    path, voxels = write_packed(inside, ".nhdr", array)
    (inside / "deep").mkdir()
    voxels.rename(inside / "deep" / "a.raw.gz")
    rewritten(path, data_file="deep/a.raw.gz")
    assert_array_equal(load_image(path)[0], array)
    (inside / "deep" / "a.raw.gz").rename(tmp_path / "secret")
    (inside / "link").symlink_to(tmp_path / "secret")
    names = [str(tmp_path / "secret"), "../secret", "link", "missing", "deep", "/dev/zero"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(inside / "pipe")
        names.append("pipe")
    for name in names:
        rewritten(path, data_file=name)
        for function in (load_image, content_key):
            with pytest.raises(GeometryError, match="regular file below its folder"):
                function(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_pipes_are_no_images(tmp_path, array):
    """A pipe in the place of an image, or of a pair's voxels, is an error at once."""
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(FileNotFoundError, match="no regular file"):
        load_image(tmp_path / "a.nii")
    nib.save(nib.Nifti1Pair(array, AFFINE), tmp_path / "b.img")
    (tmp_path / "b.img").unlink()
    os.mkfifo(tmp_path / "b.img")
    with pytest.raises(GeometryError, match="no regular file"):
        load_image(tmp_path / "b.hdr")


def test_content_key_follows_the_voxels_of_two_files(tmp_path, array):
    """Where header and voxels are two files, a change of either is another content."""
    path, voxels = write_packed(tmp_path, ".nhdr", array)
    nib.save(nib.Nifti1Pair(array, AFFINE), tmp_path / "pair.img")
    for header, changed in ((path, voxels), (tmp_path / "pair.hdr", tmp_path / "pair.img")):
        before = content_key(header)
        content = bytearray(changed.read_bytes())
        content[-1] ^= 1
        changed.write_bytes(content)
        assert content_key(header) != before


def test_valid_files_are_not_called_damaged(tmp_path):
    """Bzip2 packs zeros a millionfold, and some programs end an NRRD with a line feed."""
    nib.save(nib.Nifti1Image(np.zeros((128, 128, 64), np.uint8), np.eye(4)), tmp_path / "m.nii.bz2")
    assert load_image(tmp_path / "m.nii.bz2")[0].shape == (128, 128, 64)
    text = "NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: 2 2 2\nencoding: raw\n"
    text += "space origin: (0,0,0)\n"
    text += "space directions: (1,0,0) (0,1,0) (0,0,1)\n\n"
    (tmp_path / "m.nrrd").write_bytes(text.encode() + bytes(range(8)) + b"\n")
    assert load_image(tmp_path / "m.nrrd")[0].ravel(order="F").tolist() == list(range(8))


def test_content_key_follows_the_voxels_of_upper_case_pairs(tmp_path):
    """X.HDR has its voxels in X.IMG."""
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "x.hdr")
    for name in ("hdr", "img"):
        (tmp_path / f"x.{name}").rename(tmp_path / f"X.{name.upper()}")
    first = content_key(tmp_path / "X.HDR")
    (tmp_path / "X.IMG").write_bytes(b"\1" * 120)
    assert content_key(tmp_path / "X.HDR") != first


@pytest.mark.parametrize("orientation", ["LAS", "PIR", "SRA"])
def test_voxel_key_is_that_of_the_voxels_in_ras_order(tmp_path, array, orientation):
    """NIfTI and NRRD, integers and floats, and every order of axes share it; other voxels do not."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    expected = voxel_key(array, affine)
    image = nib.Nifti1Image(array, affine)
    codes = nib.orientations.axcodes2ornt(orientation)
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), codes))
    save_nifti(tmp_path / "a.nii.gz", np.asarray(image.dataobj).astype(np.float64), image.affine)
    write_nrrd(tmp_path / "a.nrrd", array, affine)
    for name in ("a.nii.gz", "a.nrrd"):
        case = Case(tmp_path / name, case_id="a", patient_id="a")
        assert case.voxel_key == expected, name
    other = array.copy()
    other[2, 3, 4] += 1
    assert voxel_key(other, affine) != expected != voxel_key(array, np.diag([-2.0, 3.0, 4.0, 1.0]))


def test_voxel_key_of_a_large_scan_is_quick():
    """A scan of 1 mm takes under 0.05 s of CPU, in any order of axes; shapes are told apart."""
    image = np.random.default_rng(0).integers(0, 2000, (256, 256, 180), dtype=np.int16)
    turned = np.eye(4)[[2, 0, 1, 3]] * [[1], [-1], [1], [1]]
    keys, seconds = [], []
    for array, affine in ((image, np.eye(4)), (image[:, ::-1].transpose(1, 2, 0), turned)):
        started = time.thread_time()
        keys.append(voxel_key(array, affine))
        seconds.append(time.thread_time() - started)
    assert keys[0] == keys[1] != voxel_key(image[:-1], np.eye(4))
    assert min(seconds) < 0.05
