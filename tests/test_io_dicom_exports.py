"""DICOM as scanners and planning systems write it: what is odd costs only itself, and is told."""

import gzip
import shutil
import zlib
from pathlib import Path

import dicoms
import numpy as np
import phantoms
import pydicom
import pytest
from dicoms import load_mask
from grids import ellipsoid_mask, reorder
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from test_io_dicom import affine_of, assert_same, at
from test_io_dicom_masks import GRID, PLATE, square

from tumorsim import Tumor, TumorEmbedder
from tumorsim.exceptions import DicomError
from tumorsim.geometry import to_ras
from tumorsim.io import save_nifti
from tumorsim.io.dicom import (
    Region,
    draw_tumors,
    find_scan,
    find_scans,
    is_tumor,
    read_regions,
    save_seg,
)
from tumorsim.manifest import load_dicom_case
from tumorsim.records import Case

SHAPE = (36, 33, 24)
DATA = Path(__file__).parent / "data" / "dicom"


@pytest.fixture
def truth():
    """Return a uint16 scan that no flip or swap leaves as it is."""
    return np.random.default_rng(3).integers(0, 4000, SHAPE).astype(np.uint16)


def rewrite(path, edit, **options):
    """Change a written file by `edit(dataset)`."""
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path, **options)


# Files


@pytest.mark.parametrize("suffix", ["", ".dcm"])
@pytest.mark.parametrize("implicit", [False, True])
def test_files_may_begin_with_their_meta_group(tmp_path, truth, suffix, implicit):
    """Without preamble and prefix, group 0002 first: read, whatever their name and encoding are."""
    paths = dicoms.write_series(tmp_path / "mr", truth, affine_of(), suffix=suffix)
    dicoms.write_rtstruct(tmp_path / f"rt{suffix}", {"GTV": [box(affine_of())]}, paths)
    for path in (*paths, tmp_path / f"rt{suffix}"):
        if implicit:

            def edit(dataset):
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

            rewrite(path, edit, implicit_vr=True, little_endian=True)
        path.write_bytes(path.read_bytes()[132:])
        assert path.read_bytes()[:2] == b"\x02\x00"
    scans, skipped, damaged = find_scans(tmp_path)
    assert not skipped and not damaged
    assert_same(scans[0], truth, affine_of())
    assert load_mask(scans[0]).any()


def box(affine, low=(8, 8), high=(20, 22), z=6):
    """Return the corners of a rectangle of voxels as a contour in mm."""
    corners = [(low[0], low[1], z), (high[0], low[1], z), (high[0], high[1], z), (low[0], high[1], z)]
    return np.array(corners) @ affine[:3, :3].T + affine[:3, 3]


OTHERS = {  # name of a SOP class of pydicom → modality, elements
    "RTDoseStorage": ("RTDOSE", {"NumberOfFrames": 4, "Rows": 8, "Columns": 8}),
    "RTPlanStorage": ("RTPLAN", {}),
    "SecondaryCaptureImageStorage": ("OT", {"Rows": 8, "Columns": 8}),
    "MultiFrameGrayscaleByteSecondaryCaptureImageStorage": (
        "OT",
        {"NumberOfFrames": 2, "Rows": 8, "Columns": 8},
    ),
    "EncapsulatedPDFStorage": ("DOC", {}),
    "BasicTextSRStorage": ("SR", {}),
    "GrayscaleSoftcopyPresentationStateStorage": ("PR", {}),
    "SpatialRegistrationStorage": ("REG", {}),
    "CTImageStorage": ("CT", {"Rows": 8, "Columns": 8}),
    "PositronEmissionTomographyImageStorage": ("PT", {"Rows": 8, "Columns": 8}),
}


def write_other(path, sop_class, modality, **tags):
    """Write a file of another kind; returns its path."""
    uid = getattr(pydicom.uid, sop_class)
    options = {"patient_id": "p1", "study": "1.2.3", "series": generate_uid(), "description": "x"} | tags
    path.parent.mkdir(parents=True, exist_ok=True)
    dicoms.save(dicoms.base(uid, modality=modality, **options), path)
    return path


def test_other_objects_are_skipped_under_their_own_name(tmp_path, truth):
    """Doses, plans, screen saves, reports: each by its modality, none of them damaged."""
    dicoms.write_series(tmp_path / "mr", truth, affine_of())
    for name, (modality, tags) in OTHERS.items():
        write_other(tmp_path / name, name, modality, **tags)
    write_other(tmp_path / "mr" / "screen", "SecondaryCaptureImageStorage", "MR", Rows=8, Columns=8)
    scans, skipped, damaged = find_scans(tmp_path)
    assert_same(scans[0], truth, affine_of())
    assert not damaged and len(skipped) == len(OTHERS) + 1
    reasons = {Path(series.files[0]).name: reason for series, reason in skipped}
    assert reasons.pop("screen") == "Secondary Capture Image, no MR image"
    assert reasons == {name: f"modality {modality}, not MR" for name, (modality, _) in OTHERS.items()}


def test_a_capture_in_the_series_itself_costs_only_itself(tmp_path, truth):
    """A screen save under the series' own UID is skipped, and the scan is read."""
    uid = generate_uid()
    dicoms.write_series(tmp_path / "mr", truth, affine_of(), series=uid)
    write_other(tmp_path / "mr" / "A", "SecondaryCaptureImageStorage", "MR", series=uid, Rows=8, Columns=8)
    scans, skipped, damaged = find_scans(tmp_path)
    assert_same(scans[0], truth, affine_of())
    assert len(skipped) == 1 and not damaged


@pytest.mark.parametrize("bits", [1, 16])
def test_too_many_voxels_are_refused_before_they_are_read(tmp_path, bits):
    """Rows and columns that no memory holds are an error that names the file, whatever the pixels are."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_seg(tmp_path / "seg", [np.ones(PLATE, bool)], paths)
    for path in (tmp_path / "seg",) if bits == 1 else paths:
        rewrite(path, lambda dataset: setattr(dataset, "Rows", 65535) or setattr(dataset, "Columns", 65535))
    with pytest.raises(DicomError, match=r"at most 268435456 (voxels|pixels)\. Got .65535") as caught:
        read_regions(tmp_path / "seg", "seg") if bits == 1 else find_scan(tmp_path).load_image()
    file = str(caught.value.file)
    assert file in str(caught.value) and file not in caught.value.reason


def test_deflated_files_must_not_burst(tmp_path, monkeypatch):
    """A file of a few kB that inflates beyond the limit is refused before it is inflated."""
    from tumorsim.io.dicom import _open

    path = dicoms.write_series(tmp_path, np.ones((8, 8, 2), np.uint16), np.eye(4))[0]
    rewrite(path, lambda d: setattr(d.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    assert find_scan(tmp_path).load_image().shape == (8, 8, 2)
    content = path.read_bytes()
    length = 144 + pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    path.write_bytes(content[:length] + zlib.compress(bytes(2**24), wbits=-15))
    monkeypatch.setattr(_open, "MAX_VOXELS", 2**20)
    with pytest.raises(DicomError, match=r"deflated file must hold at most 2 MiB"):
        find_scan(tmp_path)


def test_packed_files_are_named(tmp_path):
    """Of what is zipped the first file is named: beside a scan in a note, alone in the error."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6)]}, paths)
    (tmp_path / "rt.dcm.gz").write_bytes(gzip.compress((tmp_path / "rt").read_bytes()))
    (tmp_path / "rt").unlink()
    save_nifti(tmp_path / "other.nii.gz", np.zeros(PLATE, np.uint8), GRID)
    reason = "packed (1 such file here): unpack what holds DICOM"
    assert find_scans(tmp_path)[2] == [("rt.dcm.gz", reason)]
    with pytest.warns(UserWarning, match=r"^'rt\.dcm\.gz' cannot be used: packed"):
        case, _ = load_dicom_case(tmp_path)
    assert not case.has_mask
    shutil.make_archive(tmp_path / "old", "zip", tmp_path / "mr")
    shutil.rmtree(tmp_path / "mr")
    with pytest.raises(DicomError, match=r"'old\.zip': packed \(2 such files here\): unpack"):
        find_scan(tmp_path)


def test_files_that_cannot_be_read_beside_a_scan_are_told(tmp_path):
    """What may have been its mask is no reason to go on without a word."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    for name in ("rt.dcm", "seg.dcm"):
        (tmp_path / name).write_bytes(paths[0].read_bytes()[:300])
    assert find_scan(tmp_path).notes[0].startswith("'rt.dcm', and 1 more file cannot be used: ")


def test_a_cut_rtstruct_is_never_a_smaller_mask(tmp_path):
    """Cut anywhere, it is refused or whole: contours that are missing for good are told from lost ones."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6), square(9)]}, paths)
    content, whole = (tmp_path / "rt").read_bytes(), load_mask(find_scan(tmp_path))
    contours = content.find(b"\x06\x30\x39\x00")
    scan = find_scan(tmp_path)
    for end in range(contours + 12, len(content), 7):
        (tmp_path / "rt").write_bytes(content[:end])
        try:
            mask = load_mask(scan)
        except DicomError:
            continue
        assert_array_equal(mask, whole)


# Slices


def localizer(dataset):
    """Turn a slice into a coronal localizer."""
    dataset.ImageOrientationPatient, dataset.ImageType = (
        [1, 0, 0, 0, 0, -1],
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    dataset.SOPInstanceUID = generate_uid()


def bigger(dataset):
    """Turn a slice into one of other rows and columns."""
    dataset.Rows, dataset.Columns, dataset.SOPInstanceUID = 8, 8, generate_uid()
    dataset.PixelData = bytes(128)


@pytest.mark.parametrize(
    "edit", [localizer, bigger, lambda d: [localizer(d), setattr(d, "FrameOfReferenceUID", "1.2")]]
)
@pytest.mark.parametrize("name", ["A", "Z"])
def test_one_odd_image_costs_only_itself(tmp_path, truth, name, edit):
    """A localizer among the slices, first or last by name, is left out and told."""
    paths = dicoms.write_series(tmp_path, truth, affine_of())
    shutil.copy(paths[4], tmp_path / name)
    rewrite(tmp_path / name, edit)
    scans, skipped, damaged = find_scans(tmp_path)
    assert not skipped and not damaged
    assert scans[0].notes == ["1 of 25 images left out: orientation or size differs"]
    assert_same(scans[0], truth, affine_of())


@pytest.mark.parametrize("lacking", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_images_that_have_no_place_cost_only_themselves(tmp_path, truth, lacking):
    """Beside a complete stack they are left out and told; where a slice of the stack is missing, none is."""
    paths = dicoms.write_series(tmp_path, truth, affine_of())
    shutil.copy(paths[0], tmp_path / "A")
    rewrite(tmp_path / "A", lambda d: [delattr(d, lacking), setattr(d, "SOPInstanceUID", generate_uid())])
    scans, skipped, damaged = find_scans(tmp_path)
    reason = f"1 of its 25 files cannot be used: {lacking} is missing."
    assert not skipped and damaged == [("A", f"{lacking} is missing.")] and scans[0].notes == [reason]
    assert_same(scans[0], truth, affine_of())
    paths[9].unlink()
    scans, skipped, _ = find_scans(tmp_path)
    assert not scans and skipped[0][1] == reason.replace("25", "24")


def test_many_localizers_cost_only_themselves(tmp_path, truth):
    """Five coronal images among the slices are left out and told; as many as half the slices are refused."""
    paths = dicoms.write_series(tmp_path, truth, affine_of())
    for i in range(12):
        shutil.copy(paths[4], tmp_path / f"localizer{i}")
        rewrite(tmp_path / f"localizer{i}", localizer)
        if i == 4:
            scan = find_scan(tmp_path)
            assert scan.notes == ["5 of 29 images left out: orientation or size differs"]
            assert_same(scan, truth, affine_of())
    with pytest.raises(DicomError, match="Mixed geometry"):
        find_scan(tmp_path)


def test_an_image_exported_twice_is_one(tmp_path, truth):
    """The same SOPInstanceUID and voxels, one slice or all, also compressed; other voxels are refused."""
    paths = dicoms.write_series(tmp_path / "mr", truth, affine_of())
    shutil.copy(paths[4], tmp_path / "again")
    scan = find_scan(tmp_path)
    assert scan.notes == ["1 image of 25 was there twice"]
    assert_same(scan, truth, affine_of())
    (tmp_path / "again").unlink()
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(tmp_path / f"packed{path.name}")
    assert_same(find_scan(tmp_path), truth, affine_of())
    rewrite(tmp_path / f"packed{paths[4].name}", lambda d: d.decompress(generate_instance_uid=False))
    rewrite(tmp_path / f"packed{paths[4].name}", lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))))
    with pytest.raises(DicomError, match="Duplicates: 1 slice lies where another does"):
        find_scan(tmp_path)


def test_a_mask_exported_twice_counts_once(tmp_path):
    """A second copy of an RTSTRUCT adds no tumor."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6)]}, paths)
    shutil.copy(tmp_path / "rt", tmp_path / "rt copy")
    mask, regions, notes = draw_tumors(find_scan(tmp_path))
    assert mask.max() == len(regions) == 1 and notes == ["a RTSTRUCT that is there twice counts once"]


@pytest.mark.parametrize("order", ["LPS", "PIR", "RSP"])
def test_equal_positions_are_an_anonymizers_fault(tmp_path, truth, order):
    """Said so where SliceLocation and InstanceNumber are regular; told to, SliceLocation places slices."""
    array, affine = reorder(truth, affine_of(), order)
    paths = dicoms.write_series(tmp_path, array, affine)
    first = pydicom.dcmread(paths[0]).ImagePositionPatient
    for z, path in enumerate(paths):

        def edit(dataset, z=z, first=first):
            across = np.cross(*np.reshape(dataset.ImageOrientationPatient, (2, 3)))
            place = np.dot(np.abs(np.round(across)), dataset.ImagePositionPatient)
            dataset.SliceLocation, dataset.InstanceNumber = f"{place:.4f}", z + 1
            dataset.ImagePositionPatient = first

        rewrite(path, edit)
    with pytest.raises(
        DicomError, match=r"All \d+ slices have the same ImagePositionPatient.*anonymizer.*--by-slice"
    ):
        find_scan(tmp_path)
    scans, _, _ = find_scans(tmp_path, by_slice_location=True)
    assert_same(scans[0], array, affine)
    assert "SliceLocation" in scans[0].notes[0]
    rewrite(paths[3], lambda d: setattr(d, "SliceLocation", "7"))
    with pytest.raises(DicomError, match="Duplicates"):
        find_scan(tmp_path)


# Padding


def head_with_corners():
    """Return a phantom's tumor, its scan as int16 and the corners of the slices, bool."""
    tumor = phantoms.cohort(1)[0]
    image = tumor.case.load_image().round().astype(np.int16)
    x, y = np.indices(image.shape[:2])
    outside = x + y < 0.45 * min(image.shape[:2])
    return tumor, image, outside[:, :, None] & np.ones(image.shape, bool)


@pytest.mark.parametrize(
    ("value", "limit", "sign", "implicit"),
    [
        (-2000, None, True, False),
        (-2000, -1900, True, True),
        (63536, None, True, False),
        (-2000, None, False, False),
        (-2000, -1900, False, False),
        (63536, 63636, True, False),
        (4000, 3990, False, True),
    ],
)
def test_padding_is_background(tmp_path, value, limit, sign, implicit):
    """What is declared as padding, of the pixels' sign or not, is air: embeddings hardly move."""
    tumor, image, corner = head_with_corners()
    image = image if sign else image.astype(np.uint16)
    stored = image.copy()
    stored[corner] = np.uint16(value % 2**16).astype(stored.dtype)
    if limit is not None:
        odd = corner & (np.arange(image.shape[2]) % 2 > 0)
        stored[odd] = np.uint16(limit % 2**16).astype(stored.dtype)
    tags = {"PixelRepresentation": int(sign)}

    def edit(dataset, z):
        vr = "SS" if value < 0 else "US"
        dataset.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", vr, limit)

    paths = dicoms.write_series(tmp_path, stored, tumor.case.affine, edit=edit, **tags)
    if implicit:
        for path in paths:
            meta = {"implicit_vr": True, "little_endian": True}
            rewrite(path, lambda d: setattr(d.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian), **meta)
    scan = find_scan(tmp_path)
    loaded = scan.load_image()
    inside = to_ras(~corner, tumor.case.affine)
    assert_array_equal(to_ras(loaded, scan.affine)[inside], to_ras(image, tumor.case.affine)[inside])
    embedder = TumorEmbedder.from_pretrained()
    cases = [Case((array, affine), case_id=str(i), patient_id="p") for i, (array, affine) in
             enumerate([(image, tumor.case.affine), (loaded, scan.affine)])]  # fmt: skip
    boxes = [to_box(tumor, case) for case in cases]
    plain, padded = embedder.transform(
        [Tumor(c, b, tumor_id=c.case_id) for c, b in zip(cases, boxes, strict=True)]
    )
    assert np.linalg.norm(plain - padded) < 0.02 * np.linalg.norm(plain)


def test_padding_that_some_slices_declare_is_padding_in_all(tmp_path):
    """One slice in four states it: the scan is that of a series where all do; a slice's own value counts."""
    tumor, image, corner = head_with_corners()
    stored, own = np.where(corner, -2000, image).astype(np.int16), image.shape[2] // 2
    stored[:, :, own][corner[:, :, own]] = -3000
    for name, every in (("all", 1), ("some", 4)):

        def edit(dataset, z, every=every):
            if z % every == 0 or z == own:
                dataset.PixelPaddingValue = -3000 if z == own else -2000

        dicoms.write_series(tmp_path / name, stored, tumor.case.affine, edit=edit)
    scans = [find_scan(tmp_path / name) for name in ("all", "some")]
    assert_array_equal(*(scan.load_image() for scan in scans))
    inside = to_ras(~corner, tumor.case.affine)
    loaded = to_ras(scans[1].load_image(), scans[1].affine)
    assert_array_equal(loaded[inside], to_ras(image, tumor.case.affine)[inside])
    assert loaded.min() > -2000


def to_box(tumor, case):
    """Return a tumor's box in the voxels of another case of the same scan."""
    corners = tumor.bbox - 0.5
    mm = corners @ tumor.case.affine[:3, :3].T + tumor.case.affine[:3, 3]
    voxels = (mm - case.affine[:3, 3]) @ np.linalg.inv(case.affine[:3, :3]).T + 0.5
    return np.sort(np.round(voxels), axis=0).astype(int)


def test_padding_of_a_stripped_brain_stays_zero(tmp_path):
    """Where nothing but brain is left, 0 declared as padding is 0 and not the darkest of the brain."""
    brain = ellipsoid_mask(SHAPE, [((18, 16, 12), (12, 11, 8))])
    image = (brain * np.random.default_rng(0).integers(400, 600, SHAPE)).astype(np.uint16)
    dicoms.write_series(tmp_path, image, affine_of(), PixelPaddingValue=0)
    assert_same(find_scan(tmp_path), image, affine_of())


# Which series a mask belongs to


@pytest.fixture
def two(tmp_path):
    """Return a folder with two T1c scans of one frame of reference, and the slices' paths of both."""
    same = {"space": generate_uid(), "study": generate_uid()}
    paths = []
    for name in ("thin", "thick"):
        image = np.ones(PLATE, np.uint16)
        paths.append(dicoms.write_series(tmp_path / name, image, GRID, description=f"T1 post {name}", **same))
    return tmp_path, *paths


def test_slices_say_which_of_two_series_is_meant(two):
    """Without a reference to a series, ContourImageSequence decides."""
    folder, _, thick = two
    dicoms.write_rtstruct(folder / "rt", {"GTV": [square(6)]}, thick, reference=False)

    def edit(dataset):
        image = pydicom.Dataset()
        image.ReferencedSOPInstanceUID = pydicom.dcmread(thick[2]).SOPInstanceUID
        dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]

    rewrite(folder / "rt", edit)
    scan = find_scan(folder)
    assert scan.series.about["SeriesDescription"] == "T1 post thick" and load_mask(scan).sum() == 49


def test_what_is_ambiguous_is_told_with_the_option_that_decides(two):
    """Two scans share the frame of reference and no slice is named: --series decides."""
    folder, thin, _ = two
    dicoms.write_rtstruct(folder / "rt", {"GTV": [square(6)]}, thin, reference=False)
    scans, skipped, _ = find_scans(folder)
    assert not any(scan.masks for scan in scans)
    assert "2 T1 scans share its frame of reference" in skipped[0][1] and "--series" in skipped[0][1]
    assert load_mask(find_scan(folder, "thin")).sum() == 49


def test_a_t1_that_states_no_contrast_is_taken_for_its_mask(tmp_path):
    """An RTSTRUCT on the T2 of its coordinates makes it a scan, with a note; "pre" and other T1 stay out."""
    same = {"space": generate_uid(), "study": generate_uid()}
    image = np.ones(PLATE, np.uint16)
    dicoms.write_series(tmp_path / "t1", image, GRID, description="t1_mpr_tra_iso", **same)
    dicoms.write_series(tmp_path / "pre", image, GRID, description="T1 pre", **same)
    dicoms.write_series(tmp_path / "other", image, GRID, description="t1_mpr_sag_iso", study=same["study"])
    t2 = dicoms.write_series(tmp_path / "t2", image, GRID, description="t2_space", **same)
    dicoms.write_rtstruct(tmp_path / "rt", {"target": [square(6)]}, t2)
    scans, skipped, _ = find_scans(tmp_path)
    assert [scan.series.about["SeriesDescription"] for scan in scans] == ["t1_mpr_tra_iso"]
    assert scans[0].notes == ["contrast was not stated; taken for its SEG or RTSTRUCT"]
    assert draw_tumors(scans[0])[2][1:] == [
        "its RTSTRUCT was drawn on another series of the same coordinates",
        "region 1: drawn one voxel thick, since the file tells no slice distance",
    ]
    assert sorted(Path(series.files[0]).parent.name for series, _ in skipped) == ["other", "pre", "t2"]


def test_a_frame_of_reference_may_stand_with_the_regions_alone(tmp_path):
    """Without ReferencedFrameOfReferenceSequence, that of the structures decides."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6)]}, paths, reference=False)
    rewrite(tmp_path / "rt", lambda dataset: delattr(dataset, "ReferencedFrameOfReferenceSequence"))
    assert load_mask(find_scan(tmp_path)).sum() == 49


@pytest.mark.parametrize("sequence", ["*ci3d1rs", "*tfi3d1"])
def test_balanced_sequences_are_no_t1(tmp_path, sequence):
    """A CISS or TrueFISP of a technical name has short times as a T1 has; its sequence gives it away."""
    times = {"EchoTime": "2.8", "RepetitionTime": "5.6"}
    same = {"space": generate_uid(), "study": generate_uid()}
    image = np.ones(PLATE, np.uint16)
    dicoms.write_series(tmp_path / "t1", image, GRID, description="sT1W_3D_FFE", **same)
    names = {"description": "stereo thin", "SequenceName": sequence}
    other = dicoms.write_series(tmp_path / "other", image, GRID, **names, **times, **same)
    dicoms.write_rtstruct(tmp_path / "rt", {"target": [square(6)]}, other)
    scans, skipped, _ = find_scans(tmp_path)
    assert [scan.series.about["SeriesDescription"] for scan in scans] == ["sT1W_3D_FFE"]
    assert [reason for _, reason in skipped] == ["not T1, by its name"]


def test_a_seg_of_another_grid_is_resampled(tmp_path):
    """A SEG drawn on a finer, shifted T2 of the same coordinates covers the same ball on the T1."""
    same = {"space": generate_uid(), "study": generate_uid()}
    fine = np.diag([0.8, 0.8, 1.5, 1])
    fine[:3, 3] = (-1.3, 0.4, 0.7)
    places = np.moveaxis(np.indices((30, 28, 16)), 0, -1) @ fine[:3, :3].T + fine[:3, 3]
    ball = np.linalg.norm(places - (9, 10, 12), axis=-1) < 6
    dicoms.write_series(tmp_path / "t1", np.ones(PLATE, np.uint16), GRID, **same)
    t2 = dicoms.write_series(tmp_path / "t2", ball.astype(np.uint16), fine, description="T2", **same)
    dicoms.write_seg(tmp_path / "seg", [ball], t2)
    scan = find_scan(tmp_path)
    places = np.moveaxis(np.indices(scan.shape), 0, -1) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    truth, mask = np.linalg.norm(places - (9, 10, 12), axis=-1) < 6, load_mask(scan) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_slices_of_another_series_keep_their_thickness(tmp_path, kind):
    """A ball outlined on thick slices of a T2 is one lesion of its volume on a T1 of thin ones, no disks."""
    same = {"space": generate_uid(), "study": generate_uid()}
    thin, thick = np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 5, 1])
    places = np.moveaxis(np.indices((40, 40, 8)), 0, -1) * np.array([1, 1, 5.0])
    ball = np.linalg.norm(places - (20, 20, 17.5), axis=-1) < 12
    dicoms.write_series(tmp_path / "t1", np.ones((40, 40, 40), np.uint16), thin, description="t1_mpr", **same)
    t2 = dicoms.write_series(tmp_path / "t2", ball.astype(np.uint16), thick, description="T2", **same)
    if kind == "seg":
        dicoms.write_seg(tmp_path / "mask", [ball], t2)
    else:
        dicoms.write_rtstruct(tmp_path / "mask", {"GTV": dicoms.contours_of(ball, thick)}, t2)
    mask = load_mask(find_scan(tmp_path)) > 0
    assert mask.sum() == pytest.approx(ball.sum() * 5, rel=0.02)
    assert np.flatnonzero(mask.any(axis=(0, 1))).size == np.ptp(np.flatnonzero(mask.any(axis=(0, 1)))) + 1


def test_the_series_that_is_named_goes_before_shared_coordinates(tmp_path):
    """An RTSTRUCT that names a T1 of unstated contrast is its, whatever T1c share its frame of reference."""
    same = {"space": generate_uid(), "study": generate_uid()}
    image = np.ones(PLATE, np.uint16)
    plan = dicoms.write_series(tmp_path / "plan", image, GRID, description="t1_mpr_stx", **same)
    for name in ("a", "b"):
        dicoms.write_series(tmp_path / name, image, GRID, description="T1 post gd", **same)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6)]}, plan)
    scans, _, _ = find_scans(tmp_path)
    assert [scan.series.about["SeriesDescription"] for scan in scans if scan.masks] == ["t1_mpr_stx"]


def test_the_reason_of_a_t1_that_states_no_contrast_names_its_geometry(tmp_path):
    """Slices at one position are told beside the missing contrast."""
    paths = dicoms.write_series(tmp_path / "t1", np.ones(PLATE, np.uint16), GRID, description="t1_mpr")
    for path in paths:
        rewrite(path, lambda dataset: setattr(dataset, "ImagePositionPatient", [0, 0, 0]))
    _, skipped, _ = find_scans(tmp_path)
    assert "without contrast" in skipped[0][1] and "slices lie where another does" in skipped[0][1]


# Regions


def test_regions_that_no_rule_knows_are_told(tmp_path):
    """German and French names are tumors; a name without any word for one is left out, which is told."""
    for name in ("Meningeom", "Läsion 1", "Herd 2", "Tumeur", "GBM", "Méningiome"):
        assert is_tumor(Region(name, "", None)), name
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    regions = {"GTV": [square(6)], "Punkt 7": [square(4)], "Cochlea": [square(5)]}
    dicoms.write_rtstruct(tmp_path / "rt", regions, paths)
    _, drawn, notes = draw_tumors(find_scan(tmp_path))
    assert [region.name for region in drawn] == ["GTV"]
    assert notes == ["1 region left out whose name says nothing of a tumor (see --roi)"]


def test_margins_and_beds_of_tumors_are_told(tmp_path):
    """A margin around a GTV and a bed are no tumors, and a note has their numbers; a pattern takes them."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    regions = {"GTV": [square(6)], "GTV+2mm": [square(9)], "Tumorbett": [square(12)], "Cochlea": [square(15)]}
    dicoms.write_rtstruct(tmp_path / "rt", regions, paths)
    _, drawn, notes = draw_tumors(find_scan(tmp_path))
    assert [region.name for region in drawn] == ["GTV"]
    assert notes == [f"region {n} left out: a tumor's margin, bed or such (see --roi)" for n in (2, 3)]
    mask, _, notes = draw_tumors(find_scan(tmp_path), include="bett")
    assert (mask > 0).sum() == 49 and notes == []


def spoil(how):
    """Return an edit of the last contour of the first ROI."""

    def edit(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[-1]
        if how == "missing":
            del contour.ContourData
        elif how == "line":
            contour.ContourData = [1, 1, 9, 2, 2, 9, 3, 3, 9]
        else:
            contour.ContourData = contour.ContourData[: 3 * how] if how else None
            contour.NumberOfContourPoints = how

    return edit


@pytest.mark.parametrize("how", [0, 1, 2, "missing", "line"])
@pytest.mark.parametrize("name", ["GTV 1", "Cochlea"])
def test_contours_that_fail_cost_only_themselves(tmp_path, how, name):
    """Points, lines, empty and missing data are left out, and told of a tumor; of an organ it is nothing."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    regions = {name: [square(6), square(6, 12, 14)], "Met": [square(9)]}
    dicoms.write_rtstruct(tmp_path / "rt", regions, paths)
    rewrite(tmp_path / "rt", spoil(how))
    mask, _, notes = draw_tumors(find_scan(tmp_path))
    assert (mask > 0).sum() == (98 if name == "GTV 1" else 49)
    assert notes == (["region 1: 1 of 2 contours left out, without area"] if name == "GTV 1" else [])


@pytest.mark.parametrize(
    ("spoilt", "fault"),
    [
        (lambda contour: setattr(contour, "ContourData", contour.ContourData[:-1]), "damaged"),
        (lambda contour: delattr(contour, "ContourData"), "without area"),
        (
            lambda contour: setattr(contour, "ContourData", contour.ContourData[:-3]),
            "NumberOfContourPoints differs",
        ),
    ],
)
def test_a_gap_that_a_lost_contour_leaves_is_told(tmp_path, spoilt, fault):
    """The contour of a middle slice is damaged: its slice is named, since one lesion becomes two."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(z) for z in (3, 6, 9, 12, 15)]}, paths)
    rewrite(tmp_path / "rt", lambda dataset: spoilt(dataset.ROIContourSequence[0].ContourSequence[2]))
    mask, _, notes = draw_tumors(find_scan(tmp_path))
    filled = np.flatnonzero((mask > 0).any(axis=(0, 1)))
    gap = set(range(filled[0], filled[-1])).difference(filled).pop()
    assert len(filled) == 4 and notes == [
        f"region 1: 1 of 5 contours left out, {fault}, so its mask has a gap: slice {gap + 1} of {PLATE[2]}"
    ]


def test_a_region_whose_contours_were_all_cut_is_told(tmp_path):
    """Numbers of points that differ from NumberOfContourPoints make no smaller mask, but an error."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    dicoms.write_rtstruct(tmp_path / "rt", {"GTV": [square(6)]}, paths)
    rewrite(tmp_path / "rt", lambda d: setattr(first_contour(d), "NumberOfContourPoints", 5))
    with pytest.raises(DicomError, match="has 1 contour of it: NumberOfContourPoints differs"):
        draw_tumors(find_scan(tmp_path))
    rewrite(tmp_path / "rt", lambda d: delattr(first_contour(d), "NumberOfContourPoints"))
    assert load_mask(find_scan(tmp_path)).sum() == 49


def first_contour(dataset):
    """Return the first contour of the first ROI."""
    return dataset.ROIContourSequence[0].ContourSequence[0]


@pytest.mark.parametrize("lacking", ["ROIContourSequence", "item", "ContourSequence"])
def test_a_tumor_without_contours_is_told(tmp_path, lacking):
    """Beside another tumor it costs only itself; alone, the reason names the sequence and not the name."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    for name in ("GTV", "Met"):
        dicoms.write_rtstruct(tmp_path / "rt", {"GTV 1": [square(6)], name: [square(9)]}, paths)

    def edit(dataset):
        if lacking == "ContourSequence":
            del dataset.ROIContourSequence[1].ContourSequence
        else:
            del dataset.ROIContourSequence[1]

    rewrite(tmp_path / "rt", edit)
    mask, _, notes = draw_tumors(find_scan(tmp_path))
    assert (mask > 0).sum() == 49 and notes == ["region 2 left out: ROIContourSequence has 0 contours of it."]
    if lacking == "ROIContourSequence":
        rewrite(tmp_path / "rt", lambda dataset: delattr(dataset, "ROIContourSequence"))
    else:
        rewrite(tmp_path / "rt", lambda dataset: dataset.ROIContourSequence[0].ContourSequence.clear())
    with pytest.raises(DicomError, match="ROIContourSequence has 0 contours of it"):
        draw_tumors(find_scan(tmp_path))


@pytest.mark.parametrize("dates", ["StructureSet", "InstanceCreation", None])
def test_of_two_revisions_the_newest_counts(tmp_path, dates):
    """The same ROIs drawn anew are no second lesion, and what is left out is told; a new ROI is kept."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    for name, time, regions in (
        ("z", "093000", {"GTV": [square(6)], "Skull": [square(2)]}),
        ("b", "1015", {"GTV": [square(6), square(9)], "Met": [square(15)], "Skull": [square(2)]}),
    ):
        tags = {f"{dates}Date": "20240502", f"{dates}Time": time} if dates else {}
        dicoms.write_rtstruct(tmp_path / name, regions, paths, **tags)
    dicoms.write_rtstruct(tmp_path / "empty", {"GTV": []}, paths, InstanceCreationDate="20240601")
    rewrite(tmp_path / "empty", lambda dataset: delattr(dataset, "ROIContourSequence"))
    mask, drawn, notes = draw_tumors(find_scan(tmp_path))
    assert sorted(region.name for region in drawn) == ["GTV", "Met"]
    assert (mask > 0).sum() == (49 * 3 if dates else 49 * 2)
    why = "newer" if dates else "of the same date"
    assert f"region 1 left out: another file, {why}, has it" in notes


@pytest.mark.parametrize("dates", [("Content",), ("InstanceCreation", "Content"), ("number",), ()])
def test_of_two_revisions_of_a_seg_the_newest_counts(tmp_path, dates):
    """By date, else number, else name; a segment that only the older one has, or that lies apart, is kept."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    cubes = [np.zeros(PLATE, bool) for _ in range(4)]
    for cube, start, stop in zip(cubes, (2, 2, 9, 15), (5, 7, 12, 18), strict=True):
        cube[start:stop, start:stop, 2:5] = True
    small, large, met, apart = cubes
    for name, masks, names, second in (
        ("z", [small, met], ("GTV", "Met"), 9),
        ("b", [large], ("GTV",), 10),
        ("c", [apart], ("GTV",), 8),
    ):
        dicoms.write_seg(tmp_path / name, masks, paths, names=names)

        def edit(dataset, second=second):
            for keyword in ("Content", "InstanceCreation"):
                dataset.update({f"{keyword}Date": "20240502", f"{keyword}Time": "101500"})
            for keyword in set(dates) - {"number"}:
                dataset[f"{keyword}Time"].value = f"1015{second:02}.5"
            dataset.InstanceNumber = second if "number" in dates else 1

        rewrite(tmp_path / name, edit)
    mask, drawn, notes = draw_tumors(find_scan(tmp_path))
    assert sorted(region.name for region in drawn) == ["GTV Mass", "GTV Mass", "Met Mass"]
    assert (mask > 0).sum() == sum(cube.sum() for cube in (large if dates else small, met, apart))
    why = "newer" if set(dates) - {"number"} else "of the same date"
    assert notes == [f"region 1 left out: another file, {why}, has it"]


def test_structure_sets_of_one_lesion_each_are_all_read(tmp_path):
    """Two RTSTRUCTs whose GTVs lie apart are two lesions, not two revisions of one."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    for name, z in (("a", 6), ("b", 15)):
        dicoms.write_rtstruct(tmp_path / name, {"GTV": [square(z)]}, paths, StructureSetTime=f"{z:02}0000")
    mask, drawn, notes = draw_tumors(find_scan(tmp_path))
    assert len(drawn) == 2 and (mask > 0).sum() == 49 * 2 and not notes


def test_a_region_that_fails_costs_only_itself(tmp_path):
    """One that reaches out of the scan is told, the other one drawn; a bad number or organ is nothing."""
    paths = dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID)
    regions = {"GTV": [square(60)], "Met": [square(9)], "Skull": [square(6)], "Vol2016": [square(3)]}
    dicoms.write_rtstruct(tmp_path / "rt", regions, paths)

    def edit(dataset):
        dataset.ROIContourSequence[2].ContourSequence[0]["ContourData"]._value = None
        del dataset.StructureSetROISequence[2].ROINumber
        del dataset.ROIContourSequence[3].ReferencedROINumber

    rewrite(tmp_path / "rt", edit)
    mask, regions, notes = draw_tumors(find_scan(tmp_path))
    assert (mask > 0).sum() == 49 and [region.name for region in regions] == ["Met"]
    assert len(notes) == 2 and "region 1 left out: The contours reach out of the scan" in notes[0]
    assert notes[1].startswith("2 regions left out whose name says nothing of a tumor")
    with pytest.raises(DicomError, match="reach out of the scan"):
        load_mask(find_scan(tmp_path), include="GTV")


def test_a_whole_head_is_drawn_in_little_memory(tmp_path):
    """A skull on a fine grid takes a few bytes per voxel."""
    import tracemalloc

    from tumorsim.io.dicom import mask_of_contours

    shape = (200, 200, 80)
    contours = [square(z, 3, 190) for z in range(80)]
    tracemalloc.start()
    mask = mask_of_contours(contours, shape, np.eye(4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.sum() == 188 * 188 * 80 and peak < 50 * mask.size


# Other programs' files, and what goes into ours


def written_elsewhere():
    """Return masks and affine that the files in `data/dicom` were made of."""
    affine = np.diag([0.9, 0.9, 2.5, 1.0])  # rt-utils mixes up spacings that differ within a slice
    affine[:3, 3] = (-31, 17, 42)
    masks = [((10.3, 9.1, 5.2), (7.2, 6.1, 3.9)), ((3, 3, 9), (2.2, 2.4, 1.6))]
    masks = [ellipsoid_mask((22, 19, 12), [one]) for one in masks]
    return [reorder(mask, affine, "LPS")[0] > 0 for mask in masks], reorder(masks[0], affine, "LPS")[1]


@pytest.mark.parametrize("name", ["rt-utils", "dcmqi"])
def test_files_of_other_programs_are_read_voxel_for_voxel(tmp_path, name):
    """An RTSTRUCT of rt-utils and a SEG of dcmqi, with its tracking identifiers."""
    masks, affine = written_elsewhere()
    root = "1.2.826.0.1.3680043.8.498.7"
    uids = {"study": f"{root}1", "series": f"{root}2", "space": f"{root}3"}
    dicoms.write_series(tmp_path / "mr", masks[0] * np.uint16(100), affine, **uids)
    shutil.copy(DATA / f"{name}.dcm", tmp_path)
    scan = find_scan(tmp_path)
    mask, regions, notes = draw_tumors(scan)
    assert_allclose(scan.affine, affine, atol=2e-5)
    assert_array_equal(mask, masks[0] + 2 * masks[1].astype(np.uint8))
    assert not notes
    if name == "dcmqi":
        tracked = [("1.2.826.0.1.3680043.8.498.81", "Lesion 1"), ("1.2.826.0.1.3680043.8.498.82", "Lesion 2")]
        assert [region.tracking for region in regions] == tracked


def test_no_text_of_the_source_is_in_a_written_seg(tmp_path):
    """Whatever the source says in any text element that geometry does not need stays there."""
    secret = "SMITH"
    tags = {"PositionReferenceIndicator": secret, "ProtocolName": secret, "DeviceSerialNumber": secret}
    tags |= {
        "FrameComments": secret,
        "ImageComments": secret,
        "ContrastBolusAgent": secret,
        "BodyPartExamined": secret,
    }
    dicoms.write_series(tmp_path / "mr", np.ones(PLATE, np.uint16), GRID, edit=at(0, **tags), **tags)
    enhanced = tmp_path / "enhanced" / "file"
    dicoms.write_enhanced(enhanced, np.ones(PLATE, np.uint16), GRID, **tags)

    def comment(dataset):
        for group in dataset.PerFrameFunctionalGroupsSequence:
            content = pydicom.Dataset()
            content.FrameComments, content.PositionReferenceIndicator = secret, secret
            group.FrameContentSequence = [content]
            group.PlanePositionSequence[0].ImageComments = secret

    rewrite(enhanced, comment)
    for source in (tmp_path / "mr", enhanced.parent):
        scan = find_scan(source)
        save_seg(tmp_path / "seg.dcm", np.ones(scan.shape, bool), scan, version="1.0")
        assert secret.encode() not in (tmp_path / "seg.dcm").read_bytes()
        assert find_scan(source).shape == scan.shape


def test_what_a_seg_takes_over_is_checked(tmp_path):
    """A PatientID with control characters, dates that are none: refused or left empty."""
    paths = dicoms.write_series(tmp_path, np.ones(PLATE, np.uint16), GRID)
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content.replace(b"20240501", b"SMITH-JO"))
    save_seg(tmp_path / "seg.dcm", np.ones(PLATE, bool), find_scan(tmp_path), version="1.0")
    assert b"SMITH" not in (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "seg.dcm").unlink()
    for path in paths:
        rewrite(path, lambda d: setattr(d, "PatientID", "p1\x1b[31m"))
    with pytest.raises(DicomError, match="PatientID must be plain text"):
        save_seg(tmp_path / "seg.dcm", np.ones(PLATE, bool), find_scan(tmp_path), version="1.0")
    assert not (tmp_path / "seg.dcm").exists()
