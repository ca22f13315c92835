"""SEG and RTSTRUCT → masks: against the masks that they were drawn from, in every orientation."""

import dicoms
import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicoms import load_mask
from grids import ellipsoid_mask, reorder
from numpy.testing import assert_array_equal
from test_io_dicom import ORDERS, affine_of

from tumorsim.exceptions import DicomError
from tumorsim.geometry import to_ras, to_storage
from tumorsim.io.dicom import (
    Region,
    find_scan,
    find_scans,
    is_tumor,
    mask_of_contours,
    read_regions,
    save_seg,
)

SHAPE = (22, 19, 12)
BALL = ((10.3, 9.1, 5.2), (7.2, 6.1, 3.9))
HOLE = ((10.3, 9.1, 5.2), (3.4, 2.9, 1.8))


@pytest.fixture(params=[(o, q) for o in ORDERS for q in (False, True)], ids=lambda p: f"{p[0]}-{p[1]}")
def source(request, tmp_path):
    """Return a folder with a scan, its slices' paths, a hollow ball on its grid and the grid's affine."""
    order, oblique = request.param
    affine = affine_of(oblique=oblique)
    ball = ellipsoid_mask(SHAPE, [BALL]) - ellipsoid_mask(SHAPE, [HOLE])
    mask, stored_affine = reorder(ball, affine, order)
    paths = dicoms.write_series(tmp_path / "series", (mask * 100).astype(np.uint16), stored_affine)
    return tmp_path, paths, mask > 0, stored_affine


def dice(one, other):
    """Return the Dice coefficient of two bool masks."""
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def loaded_mask(folder, affine, **patterns):
    """Return a folder's mask, in the storage order of a grid's affine."""
    scan = find_scan(folder)
    return to_storage(to_ras(load_mask(scan, **patterns), scan.affine), affine)


@pytest.mark.parametrize("keyhole", [False, True])
def test_contours_become_the_mask_that_they_were_drawn_from(source, keyhole):
    """Outlines halfway between voxels, holes as contours of their own or keyholes: every voxel is right."""
    folder, paths, mask, affine = source
    contours = dicoms.contours_of(mask, affine, keyhole=keyhole)
    dicoms.write_rtstruct(folder / "rt", {"GTV": contours}, paths)
    loaded = loaded_mask(folder, affine) > 0
    assert dice(loaded, mask) >= 0.97
    assert_array_equal(loaded, mask)


def test_segments_come_back_voxel_for_voxel(source):
    """A SEG that highdicom wrote, of two segments, one of them on one slice."""
    folder, paths, mask, affine = source
    small = np.zeros_like(mask)
    small[0:3, 1:4, mask.shape[2] - 1] = True
    dicoms.write_seg(folder / "seg", [mask, small], paths, names=("Tumor 1", "Tumor 2"))
    assert_array_equal(loaded_mask(folder, affine), mask + 2 * small.astype(np.uint8))


def test_written_segs_come_back_and_refer_to_their_slices(source):
    """What save_seg writes is on the same voxels for highdicom and for us, slice by slice of the source."""
    folder, paths, mask, affine = source
    scan = find_scan(folder)
    save_seg(folder / "seg.dcm", to_storage(to_ras(mask, affine), scan.affine), scan, version="1.0")
    assert_array_equal(loaded_mask(folder, affine), mask.astype(np.uint8))
    seg = hd.seg.segread(folder / "seg.dcm")
    uids = [pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in paths]
    pixels = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert_array_equal(pixels.transpose(2, 1, 0), mask)


# Contours by hand

GRID = np.diag([1.0, 1.0, 3.0, 1.0])  # slices of 3 mm
PLATE = (20, 20, 8)


def square(z, low=4, high=10, *, axis=2):
    """Return a square contour in a plane across an axis at z mm."""
    flat = np.array([(low, low), (high, low), (high, high), (low, high)], float)
    return np.insert(flat, axis, z, axis=1)


def test_outlines_through_voxel_centers_lose_no_border():
    """Centers on an edge are inside, of an outline and of a hole's, also where two decimals moved them."""
    mask = mask_of_contours([square(6.0) + 0.004, square(6.0, 6, 8)], PLATE, GRID)
    expected = np.zeros(PLATE, bool)
    expected[4:11, 4:11, 2] = True
    expected[7, 7, 2] = False
    assert_array_equal(mask, expected)


def test_two_lesions_of_a_region_leave_the_slices_between_empty():
    """A plane stands for one slice where planes are far apart."""
    assert np.flatnonzero(mask_of_contours([square(3), square(18)], PLATE, GRID).any((0, 1))).tolist() == [
        1,
        6,
    ]


def test_planes_finer_and_coarser_than_slices_fill_the_lesion():
    """Planes of 1 mm fill each slice once; a contour on every second slice fills those between."""
    fine = mask_of_contours([square(z) for z in np.arange(3, 13, 1.0)], PLATE, GRID)
    assert np.flatnonzero(fine.any((0, 1))).tolist() == [1, 2, 3, 4]
    coarse = mask_of_contours([square(z) for z in (3, 9, 15)], PLATE, GRID)
    assert {2, 3, 4} <= set(np.flatnonzero(coarse.any((0, 1))).tolist())


def test_a_contour_drawn_twice_counts_once():
    """Copies do not cancel each other."""
    assert mask_of_contours([square(6), square(6)], PLATE, GRID).sum() == 49


def test_contours_across_the_slices_fill_the_ball():
    """Planes need not be slices: a ball drawn in axial planes of 1 mm, on an oblique coronal grid."""
    affine = affine_of(oblique=True)
    affine[:3, :3] = affine[:3, [0, 2, 1]] * (1, 1, -1)
    middle = affine[:3, :3] @ (14, 12, 15) + affine[:3, 3]
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contours = []
    for z in np.arange(-9.5, 10):
        circle = np.sqrt(100 - z**2) * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        contours.append(circle + middle + (0, 0, z))
    shape = (30, 25, 32)
    places = np.stack(np.indices(shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    truth = np.linalg.norm(places - middle, axis=-1) <= 10
    assert dice(mask_of_contours(contours, shape, affine), truth) >= 0.97


@pytest.mark.parametrize(
    ("contours", "message"),
    [
        ([square(6)[:2]], "at least three points"),
        ([square(6) + np.array([[0, 0, 0], [0, 0, 2], [0, 0, 0], [0, 0, 2]])], "must be planar"),
        ([square(6), square(6, axis=0)], "must be planar, and their planes parallel"),
        ([square(30)], "reach out of the scan"),
        ([square(6) - 7], "reach out of the scan"),
    ],
)
def test_contours_that_make_no_mask_are_refused(contours, message):
    """Too few points, bent outlines, crossed planes, other places: each with its reason."""
    with pytest.raises(DicomError, match=message):
        mask_of_contours(contours, PLATE, GRID)


def test_no_contours_make_an_empty_mask():
    """A region without contours has no voxel."""
    assert not mask_of_contours([], PLATE, GRID).any()


# Which region is a tumor, and of which series


@pytest.mark.parametrize(
    "name",
    [
        *(
            "GTV",
            "gtv1",
            "GTV_T1c",
            "TV",
            "tv",
            "AN",
            "Met03",
            "Mets_left",
            "Tumor Mass",
            "tumour 2",
            "Target",
        ),
        *(
            "Lesion4",
            "VS-right",
            "Men",
            "Met 8mm",
            "Met 1+2",
            "Meningioma",
            "acoustic neuroma",
            "brain metastasis",
            "Brainstem glioma",
        ),
    ],
)
def test_names_of_tumors_are_known(name):
    """How planners call tumors, in the data sets that are public and beyond."""
    assert is_tumor(Region(name, "", None))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Cochlea",
            "cochlea_L",
            "Brainstem",
            "Chiasm",
            "Optic nerve L",
            "Skull",
            "PTV",
            "PTV_GTV1",
            "CTV 2",
        ),
        *(
            "Brain-GTV",
            "Ring GTV",
            "Edema",
            "Tumor bed",
            "GTV+2mm",
            "GTV + 0,3 cm",
            "Tumorbett",
            "Tumor-Bett",
            "Tumorödem",
            "Tumorhöhle",
            "Resection cavity",
            "12Gy",
            "Eye_R",
            "pituitary",
            "",
        ),
    ],
)
def test_organs_and_margins_are_no_tumors(name):
    """Organs at risk, volumes with margins, helpers of planning."""
    assert not is_tumor(Region(name, "", None))


def test_the_planners_type_and_patterns_decide():
    """GTV makes any name a tumor, ORGAN none; patterns go before both, exclusion before all."""
    assert is_tumor(Region("left 1", "GTV", None)) and not is_tumor(Region("Target", "ORGAN", None))
    assert is_tumor(Region("Cochlea", "ORGAN", None), include="coch")
    assert not is_tumor(Region("GTV", "", None), include="^lesion")
    assert not is_tumor(Region("GTV old", "GTV", None), exclude="OLD")
    with pytest.raises(ValueError, match="regular expression"):
        is_tumor(Region("GTV", "", None), include="(")


@pytest.fixture
def plain(tmp_path):
    """Return a folder with a scan of PLATE's grid and its slices' paths."""
    return tmp_path, dicoms.write_series(tmp_path / "series", np.ones(PLATE, np.uint16), GRID)


def test_of_overlapping_regions_the_smaller_keeps_its_voxels(plain):
    """Values count regions in the order of their numbers, organs left out."""
    folder, paths = plain
    regions = {"GTV small": [square(6, 5.5, 7.5)], "Cochlea": [square(6)], "GTV": [square(6)]}
    dicoms.write_rtstruct(folder / "rt", regions, paths)
    values, counts = np.unique(load_mask(find_scan(folder)), return_counts=True)
    assert values.tolist() == [0, 1, 2] and counts.tolist()[1:] == [4, 45]


def test_masks_of_several_files_are_joined(plain):
    """A SEG and an RTSTRUCT on one series give the lesions of both."""
    folder, paths = plain
    dicoms.write_rtstruct(folder / "rt", {"Met 1": [square(6)]}, paths)
    other = np.zeros(PLATE, bool)
    other[14:17, 14:17, 5] = True
    dicoms.write_seg(folder / "seg", [other], paths)
    mask = load_mask(find_scan(folder))
    assert (mask > 0).sum() == 49 + 9 and len(np.unique(mask)) == 3


def test_contours_without_series_belong_by_their_coordinates(plain):
    """A frame of reference that one T1c scan of the patient has will do; a series of elsewhere will not."""
    folder, paths = plain
    dicoms.write_rtstruct(folder / "rt", {"GTV": [square(6)]}, paths, reference=False)
    assert load_mask(find_scan(folder)).sum() == 49
    other = dicoms.write_series(folder / "t2", np.ones(PLATE, np.uint16), GRID, description="T2")
    dicoms.write_rtstruct(folder / "rt2", {"GTV": [square(6)]}, other)
    scans, skipped, _ = find_scans(folder)
    assert len(scans[0].masks) == 1
    assert "the series that it was drawn on is no T1c scan of this folder" in [r for _, r in skipped]


def test_regions_of_no_tumor_are_no_mask(plain):
    """Organs at risk alone leave the scan without a mask."""
    folder, paths = plain
    dicoms.write_rtstruct(folder / "rt", {"Cochlea": [square(6)]}, paths)
    assert load_mask(find_scan(folder)) is None


def edited_seg(plain, edit):
    """Return the folder of a SEG after `edit(dataset)`, and the mask that it was made of."""
    folder, paths = plain
    mask = np.zeros(PLATE, bool)
    mask[4:9, 3:12, 2:5] = True
    dicoms.write_seg(folder / "seg", [mask], paths)
    dataset = pydicom.dcmread(folder / "seg")
    edit(dataset)
    dataset.save_as(folder / "seg")
    return folder, mask


def test_cropped_segs_find_their_place(plain):
    """Frames cut to the lesion, as some programs write them, are placed by their position."""

    def crop(dataset):
        frames = dataset.pixel_array[:, 2:15, 3:11]
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.SegmentationType = 7, "FRACTIONAL"
        dataset.MaximumFractionalValue, dataset.SegmentationFractionalType = 200, "PROBABILITY"
        dataset.PixelData = np.ascontiguousarray(frames * np.uint8(150)).tobytes()
        dataset.Rows, dataset.Columns = frames.shape[1:]
        for group in dataset.PerFrameFunctionalGroupsSequence:
            position = group.PlanePositionSequence[0]
            x, y, z = map(float, position.ImagePositionPatient)
            position.ImagePositionPatient = [x - 3, y - 2, z]  # in LPS the grid's axes run backwards

    folder, mask = edited_seg(plain, crop)
    assert_array_equal(load_mask(find_scan(folder)), mask)


def test_label_maps_are_read(plain):
    """The newer kind of SEG: a pixel is the number of its segment."""

    def to_labelmap(dataset):
        frames = dataset.pixel_array
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
        dataset.SegmentationType, dataset.HighBit = "LABELMAP", 7
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.PixelData = frames.astype(np.uint8).tobytes()
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.pop("SegmentIdentificationSequence", None)

    folder, mask = edited_seg(plain, to_labelmap)
    assert_array_equal(load_mask(find_scan(folder)), mask)


@pytest.mark.parametrize(
    ("shift", "message"), [(0.4, "does not lie on the voxels"), (300, "reaches out of its reference")]
)
def test_segs_on_another_grid_are_refused(plain, shift, message):
    """Voxels between those of the scan, or outside it."""

    def move(dataset):
        for group in dataset.PerFrameFunctionalGroupsSequence:
            position = group.PlanePositionSequence[0]
            x, y, z = map(float, position.ImagePositionPatient)
            position.ImagePositionPatient = [x + shift, y, z]

    folder, _ = edited_seg(plain, move)
    with pytest.raises(DicomError, match=message):
        load_mask(find_scan(folder))


def test_damaged_masks_are_a_named_error(plain):
    """A truncated SEG or RTSTRUCT is never a smaller mask."""
    folder, _ = edited_seg(plain, lambda dataset: None)
    path = folder / "seg"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DicomError, match="damaged or truncated"):
        read_regions(path, "seg")


# Written SEGs


def test_written_segs_name_no_patient(tmp_path):
    """Name, birth date, address, accession number and private tags of the source are in no byte of it."""
    paths = dicoms.write_series(
        tmp_path / "series", np.ones(PLATE, np.uint16), GRID, identity=dicoms.IDENTITY, patient_id="4711"
    )
    assert any(secret.encode() in paths[0].read_bytes() for secret in dicoms.SECRETS)
    save_seg(tmp_path / "seg.dcm", np.ones(PLATE, bool), find_scan(tmp_path), version="1.0")
    content = (tmp_path / "seg.dcm").read_bytes()
    assert not [secret for secret in dicoms.SECRETS if secret.encode() in content]
    source, seg = pydicom.dcmread(paths[0]), pydicom.dcmread(tmp_path / "seg.dcm")
    for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == source[keyword].value
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_segs_of_enhanced_series_come_back(tmp_path):
    """Frames in any order in one file keep their masks."""
    image = np.random.default_rng(0).integers(0, 99, PLATE).astype(np.uint16)
    dicoms.write_enhanced(tmp_path / "enhanced", image, GRID)
    scan = find_scan(tmp_path)
    mask = to_storage(to_ras(image, GRID), scan.affine) > 60
    save_seg(tmp_path / "seg.dcm", mask, scan, version="1.0")
    assert_array_equal(load_mask(find_scan(tmp_path)), mask)


def test_empty_masks_are_no_seg(plain):
    """Nothing is written where nothing is proposed."""
    folder, _ = plain
    with pytest.raises(DicomError, match="at least one voxel"):
        save_seg(folder / "seg.dcm", np.zeros(PLATE, bool), find_scan(folder), version="1.0")
    assert not (folder / "seg.dcm").exists()
