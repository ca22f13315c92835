"""DICOM series → arrays: voxel for voxel against the truth, and what is refused, by name and reason."""

import os
import tracemalloc
from pathlib import Path

import dicoms
import numpy as np
import pydicom
import pytest
from grids import reorder
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from tumorsim.exceptions import DicomError
from tumorsim.geometry import ras_affine, to_ras
from tumorsim.io.dicom import Series, find_scan, find_scans, t1c_objection
from tumorsim.io.dicom._volume import assemble

SHAPE = (36, 33, 6)
ORDERS = ("LPS", "RIA", "ASL", "PLI", "SRA", "IPR")  # each order of the axes once, signs mixed


def affine_of(*, oblique=False):
    """Return a RAS+ affine of unequal spacings, straight or turned about all axes."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.9, 1.1, 2.5])
    affine[:3, 3] = (-31, 17, 42)
    if oblique:
        affine[:3, :3] = Rotation.from_euler("xyz", (14, -9, 21), degrees=True).as_matrix() @ affine[:3, :3]
    return affine


@pytest.fixture
def truth():
    """Return a uint16 scan in RAS+ order that no flip or swap leaves as it is."""
    return np.random.default_rng(3).integers(0, 4000, SHAPE).astype(np.uint16)


def assert_same(scan, array, affine):
    """Raise unless a scan holds an array's voxels at the same places, axes in any order."""
    loaded = scan.load_image()
    assert_array_equal(to_ras(loaded, scan.affine), to_ras(array, affine))
    # positions are written with 6 decimals, directions with 10
    assert_allclose(ras_affine(scan.shape, scan.affine)[1], ras_affine(array.shape, affine)[1], atol=2e-5)
    return loaded


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_series_come_back_voxel_for_voxel(tmp_path, truth, order, oblique):
    """Classic and enhanced MR, in every order of the axes, straight and oblique, slices in random order."""
    array, affine = reorder(truth, affine_of(oblique=oblique), order)
    dicoms.write_series(tmp_path / "a", array, affine)
    dicoms.write_enhanced(tmp_path / "b" / "1.2.3", array, affine)
    scans, skipped, damaged = find_scans(tmp_path)
    assert len(scans) == 2 and not skipped and not damaged
    for scan in scans:
        assert assert_same(scan, array, affine).dtype == np.uint16


@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless"]
)
def test_compressed_series_come_back_voxel_for_voxel(tmp_path, truth, syntax):
    """The lossless transfer syntaxes of PACS decode to the same voxels."""
    paths = dicoms.write_series(tmp_path, truth, affine_of(), compress=syntax)
    assert pydicom.dcmread(paths[0]).file_meta.TransferSyntaxUID.is_compressed
    assert_same(find_scan(tmp_path), truth, affine_of())


def test_negative_pixels_stay_negative(tmp_path, truth):
    """Signed pixels keep sign and type."""
    array = truth.astype(np.int16) - 2000
    dicoms.write_series(tmp_path, array, affine_of())
    assert assert_same(find_scan(tmp_path), array, affine_of()).dtype == np.int16


def test_rescaling_is_applied_slice_by_slice(tmp_path, truth):
    """Each slice has its own slope and intercept, as some scanners write them."""

    def rescale(dataset, z):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + z, -3

    dicoms.write_series(tmp_path, truth, affine_of(), edit=rescale)
    scan = find_scan(tmp_path)
    loaded = to_ras(scan.load_image(), scan.affine)
    assert loaded.dtype == np.float32
    assert_allclose(loaded, truth * (0.5 + np.arange(SHAPE[2])) - 3, rtol=1e-6)


def test_old_files_without_preamble_are_read(tmp_path, truth):
    """Files that begin with group 0008, as before part 10 of the standard, are DICOM as well."""
    for path in dicoms.write_series(tmp_path, truth, affine_of()):
        dataset = pydicom.dcmread(path)
        bare = pydicom.Dataset()
        bare.update(dataset)
        bare.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    assert_same(find_scan(tmp_path), truth, affine_of())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipes_are_not_waited_for(tmp_path):
    """A pipe beside the scans is passed over: reading it would never end."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DicomError, match="holds no DICOM file"):
        find_scans(tmp_path)


def test_other_files_are_passed_over(tmp_path, truth):
    """A DICOMDIR, a viewer and a text say nothing; hidden among subfolders the series is found."""
    dicoms.write_series(tmp_path / "a" / "b", truth, affine_of())
    (tmp_path / "autorun.exe").write_bytes(b"MZ" + bytes(500))
    (tmp_path / "README").write_text("Viewer on this disc")
    (tmp_path / "empty").touch()
    listing = pydicom.dcmread(next((tmp_path / "a" / "b").iterdir()))
    listing.file_meta.MediaStorageSOPClassUID = listing.SOPClassUID = "1.2.840.10008.1.3.10"
    listing.save_as(tmp_path / "DICOMDIR")
    scans, skipped, damaged = find_scans(tmp_path)
    assert len(scans) == 1 and not skipped and not damaged


# What is no volume


def move(z, shift):
    """Return an edit that moves slice z by mm along the patient's axes."""

    def edit(dataset, i):
        if i == z:
            position = np.array(dataset.ImagePositionPatient, float) + shift
            dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]

    return edit


def at(z, **tags):
    """Return an edit that sets elements of slice z."""

    def edit(dataset, i):
        if i == z:
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

    return edit


def tilt(dataset, z):
    """Shift each slice a little further along a column, as a tilted gantry does."""
    position = np.array(dataset.ImagePositionPatient, float) + np.array([0, 0.5 * z, 0])
    dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (move(3, (0, 0, 2.5)), r"Duplicates: 1 slice lies where another"),
        (move(3, (0, 0, 1)), r"Slice gap: uneven distances"),
        (move(5, (0, 0, 2.5)), r"Slice gap: 1 missing. Slices lie 2.50 mm apart, and at 1 place up to 5.00"),
        (move(3, (4, 0, 0)), r"Mixed geometry: a slice lies 4.00 mm from its place"),
        (tilt, r"Gantry tilt: the slices are stacked at 11.31 degrees"),
        (at(2, PixelSpacing=[0.5, 0.5]), r"Mixed geometry: .* pixel spacing"),
        (at(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), r"Mixed geometry: .* orientation"),
        (at(2, FrameOfReferenceUID="1.2.3.4"), r"Mixed geometry: .* frame of reference"),
        (
            at(0, PixelSpacing=[0, 0]),
            r"1 of its 6 files cannot be used: PixelSpacing must be greater than 0 mm",
        ),
        (at(4, ImagePositionPatient=None), r"ImagePositionPatient is missing"),
        (at(4, ImagePositionPatient=[1, 2]), r"ImagePositionPatient must be 3 finite numbers"),
        (at(4, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), r"must be two perpendicular directions"),
        (at(4, PatientID="somebody else"), r"PatientID differs"),
    ],
)
def test_what_is_no_volume_is_refused_by_reason(tmp_path, truth, edit, reason):
    """The series is left out with its reason, and another one in the folder is read."""
    dicoms.write_series(tmp_path / "bad", truth, affine_of(), edit=edit)
    dicoms.write_series(tmp_path / "good", truth, affine_of())
    scans, skipped, _ = find_scans(tmp_path)
    assert [Path(s.series.files[0]).parent.name for s in scans] == ["good"]
    assert_same(scans[0], truth, affine_of())
    with pytest.raises(DicomError, match=reason):
        raise DicomError(skipped[0][1])


def test_missing_slices_and_single_ones_are_refused(tmp_path, truth):
    """A stack without two of its slices has a gap; one slice is no volume; another size is mixed geometry."""
    paths = dicoms.write_series(tmp_path / "gap", truth, affine_of())
    paths[3].unlink()
    paths[4].unlink()
    dicoms.write_series(tmp_path / "one", truth[:, :, :1], affine_of())
    same = {"series": pydicom.uid.generate_uid(), "space": pydicom.uid.generate_uid()}
    dicoms.write_series(tmp_path / "two", truth, affine_of(), **same)
    dicoms.write_series(tmp_path / "more", truth[:8], affine_of(), **same)
    reasons = " ".join(sorted(reason for _, reason in find_scans(tmp_path)[1]))
    assert "Slice gap: 2 missing" in reasons and "at least two slices. Got 1" in reasons
    assert "differ in rows and columns" in reasons


def test_rounded_positions_are_no_gap(tmp_path, truth):
    """Positions with two decimals, as some exports have them, still make a volume."""

    def rounded(dataset, z):
        dataset.ImagePositionPatient = [f"{float(v):.2f}" for v in dataset.ImagePositionPatient]

    dicoms.write_series(tmp_path, truth, affine_of(oblique=True), edit=rounded)
    assert_array_equal(find_scan(tmp_path).load_image().shape, truth.shape)


# Damaged files


def test_text_in_place_of_numbers_is_named(tmp_path, truth):
    """A bad header names the element, and quotes nothing of it."""
    path = dicoms.write_series(tmp_path, truth, affine_of())[2]
    path.write_bytes(path.read_bytes().replace(b"1.100000\\0.900000", b"Wilhelmi\\0.900000"))
    scans, skipped, damaged = find_scans(tmp_path)
    assert not scans and damaged == [(path.name, "PixelSpacing cannot be read as 2 numbers.")]
    assert skipped[0][1] == f"1 of its 6 files cannot be used: {damaged[0][1]}"


@pytest.mark.parametrize("keep", [140, 300, 700])
def test_truncated_headers_are_named(tmp_path, truth, keep):
    """A file cut in its header is reported by its path, and the other series are read."""
    dicoms.write_series(tmp_path / "good", truth, affine_of())
    path = dicoms.write_series(tmp_path / "bad", truth[:, :, :2], affine_of())[0]
    path.write_bytes(path.read_bytes()[:keep])
    scans, skipped, damaged = find_scans(tmp_path)
    assert len(scans) == 1 and len(skipped) == 1
    assert [where for where, _ in damaged] == [f"bad/{path.name}"]


@pytest.mark.parametrize("syntax", [None, "RLELossless", "JPEGLosslessProcess14_1", "JPEG2000Lossless"])
@pytest.mark.parametrize("damage", ["cut", "junk"])
def test_unreadable_pixels_are_a_named_error(tmp_path, truth, syntax, damage):
    """Truncated and overwritten pixels are never handed out as an image."""
    path = dicoms.write_series(tmp_path, truth, affine_of(), compress=syntax)[3]
    content = path.read_bytes()
    if damage == "junk" and syntax is None:
        pytest.skip("any bytes are valid uncompressed pixels")
    start = content.find(b"\xe0\x7f\x10\x00") + (12 if syntax is None else 28)
    path.write_bytes(content[:-60] if damage == "cut" else content[:start] + bytes(len(content) - start))
    with pytest.raises(DicomError, match=r"A slice's pixels cannot be read"):
        find_scan(tmp_path).load_image()


def test_files_named_as_dicom_must_be_dicom(tmp_path, truth):
    """Bytes under the name of a DICOM file are a bad header; folders without DICOM are an error."""
    with pytest.raises(DicomError, match="holds no DICOM file"):
        find_scans(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        find_scans(tmp_path / "gone")
    dicoms.write_series(tmp_path, truth, affine_of())
    (tmp_path / "x.dcm").write_bytes(b"no DICOM" * 50)
    _, _, damaged = find_scans(tmp_path)
    assert damaged == [("x.dcm", "The header is damaged: it is named as DICOM and has no preamble.")]


def test_reading_needs_little_more_than_the_volume():
    """Slices go straight into the array, so that the peak of memory is that of one scan."""
    import tempfile

    array = np.zeros((256, 256, 48), np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        dicoms.write_series(folder, array, affine_of())
        scan = find_scan(folder)
        tracemalloc.start()
        scan.load_image()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1.3 * array.nbytes


# Which series is T1c


@pytest.mark.parametrize(
    ("taken", "description", "more"),
    [
        (True, "AX T1 post Gd", {}),
        (True, "t1_mprage_sag_KM", {}),
        (True, "T1+C 3D BRAVO", {}),
        (True, "AX T1C", {}),
        (True, "T1 FLAIR POST", {}),
        (True, "3D SPGR", {"ContrastBolusAgent": "Gadovist"}),
        (True, "Ax stealth", {"ContrastBolusAgent": "7 ml Dotarem", "EchoTime": "3", "RepetitionTime": "8"}),
        (True, "SE axial GD", {"EchoTime": "12", "RepetitionTime": "600"}),
        (False, "T1 pre", {"ContrastBolusAgent": "Gadovist"}),
        (False, "AX T1 W/O CONTRAST", {}),
        (False, "AX T1", {}),
        (False, "AX T1", {"ContrastBolusAgent": "NONE"}),
        (False, "AX T2 post", {"ContrastBolusAgent": "Gadovist"}),
        (False, "FLAIR post Gd", {"EchoTime": "90", "RepetitionTime": "9000", "InversionTime": "2500"}),
        (False, "T1 post subtraction", {}),
        (False, "3-plane loc", {"ContrastBolusAgent": "Gadovist", "EchoTime": "3", "RepetitionTime": "8"}),
        (False, "DSC perfusion Gd", {"EchoTime": "3", "RepetitionTime": "8"}),
        (False, "AX T1 post Gd", {"ImageType": "DERIVED\\SECONDARY\\MIP"}),
        (False, "AX T1 post Gd", {"Modality": "CT"}),
        (False, "AX T1 post Gd", {"BurnedInAnnotation": "YES"}),
        (False, "AX T1 post Gd", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": "3"}),
    ],
)
def test_t1c_is_told_from_tags(taken, description, more):
    """Names, agent and timing tell contrast-enhanced T1 from what else a study holds."""
    series = make_series(SeriesDescription=description, **more)
    assert (t1c_objection(series) is None) is taken


def make_series(**about):
    """Return a series of an MR whose tags are empty but for those given."""
    keys = (
        *("AcquisitionContrast", "BurnedInAnnotation", "ContrastBolusAgent", "EchoTime", "ImageType"),
        *("InversionTime", "PhotometricInterpretation", "ProtocolName", "RepetitionTime"),
        *("SamplesPerPixel", "SequenceName", "SeriesDescription"),
    )
    return Series("image", dict.fromkeys(keys, "") | {"Modality": "MR", "SeriesInstanceUID": "1.2.3"} | about)


def test_a_pattern_overrides_the_rule():
    """What a pattern finds is taken, and nothing else; CT never is."""
    plain = make_series(SeriesDescription="Navigation, thin")
    assert t1c_objection(plain, "NAVIGATION") is None and t1c_objection(plain, r"1\.2\.3$") is None
    assert "pattern" in t1c_objection(make_series(SeriesDescription="T1 post"), "navigation")
    assert "modality CT" in t1c_objection(make_series(Modality="CT"), ".")
    with pytest.raises(ValueError, match="must be a regular expression"):
        t1c_objection(plain, "(")


def test_reasons_quote_no_text():
    """A modality or description that is no code of the standard is not repeated."""
    assert "Wilhelmina" not in t1c_objection(
        make_series(Modality="WILHELMINA", SeriesDescription="Wilhelmina")
    )


def test_find_scan_wants_one(tmp_path, truth):
    """Two series are told apart by their own folder or a pattern; none is an error with the reasons."""
    dicoms.write_series(tmp_path / "a", truth, affine_of(), description="T1 post thin")
    dicoms.write_series(tmp_path / "b", truth, affine_of(), description="T1 post thick")
    with pytest.raises(DicomError, match=r"one contrast-enhanced T1 series. Got 2 .*36 x 33 x 6"):
        find_scan(tmp_path)
    assert find_scan(tmp_path, "thick").series.about["SeriesDescription"] == "T1 post thick"
    assert find_scan(tmp_path / "a").shape == SHAPE
    with pytest.raises(DicomError, match="does not match the pattern"):
        find_scan(tmp_path, "nothing like that")


def test_stack_wants_slices():
    """No slices are no volume."""
    with pytest.raises(DicomError, match=r"at least two slices\. Got 0"):
        assemble([])
