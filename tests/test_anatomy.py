"""Places in the brain: landmarks, label maps, registration of simulated scans, and cohorts filled in."""

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from grids import reorder
from numpy.testing import assert_allclose
from PIL import Image
from test_cli import run

from tumorsim import Case, Cohort, Tumor, load_cohort, make_cohort
from tumorsim.anatomy import (
    AreaMap,
    add_places,
    place_labels,
    places_to_file,
    region_at,
    register_to_mni,
)
from tumorsim.anatomy import _places as places_module
from tumorsim.anatomy import _register as register_module
from tumorsim.exceptions import GeometryError, ManifestError
from tumorsim.geometry import bbox_from_mask, ras_affine, to_ras
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.records.columns import PLACE_TASKS

MNI = ["mni_x_mm", "mni_y_mm", "mni_z_mm"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Return three simulated patients on files; their true places are in the further columns."""
    return make_cohort(3, random_state=8, spacing=4.0, output_dir=tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def bare(simulated):
    """Return the same tumors without labels of place and without their true places."""
    return Cohort(
        Tumor(t.case, t.bbox, tumor_id=t.tumor_id, mask_value=t.mask_value, labels={"type": t.labels["type"]})
        for t in simulated
    )


def errors(cohort, truth):
    """Return mm between the centroids found and the true ones, (n,)."""
    found, true = (np.array([[t.metadata[c] for c in MNI] for t in tumors]) for tumors in (cohort, truth))
    return np.linalg.norm(found - true, axis=1)


def test_labels_of_place_keep_to_the_vocabulary_s_limits():
    """Side is missing within 5 mm of the midline, front begins at -18 mm, upper at +10 mm."""
    assert place_labels([4.9, -18.1, 9.9])["hemisphere"] is None
    assert place_labels([-5.0, -18.0, 10.0]) == {
        "region": str(region_at([-5.0, -18.0, 10.0])),
        "hemisphere": "left",
        "front_rear": "front",
        "upper_lower": "upper",
    }
    assert place_labels([5.0, -18.1, 9.9])["hemisphere"] == "right"
    assert place_labels([5.0, -18.1, 9.9])["front_rear"] == "rear"
    assert place_labels([5.0, -18.1, 9.9])["upper_lower"] == "lower"


def test_own_label_map_decides_by_the_nearest_named_voxel(tmp_path):
    """Values without a name and points beyond the map take the nearest area that has one."""
    labels = np.zeros((7, 8, 9), np.int16)
    labels[1, 4, 4], labels[5, 4, 4], labels[5, 4, 5] = 3, 7, 99
    save_nifti(tmp_path / "areas.nii.gz", labels, np.diag([10.0, 10.0, 10.0, 1.0]))
    (tmp_path / "names.csv").write_text("value,region\n3,motor\n7,visual\n", encoding="utf-8")
    areas = AreaMap.load(tmp_path / "areas.nii.gz", tmp_path / "names.csv")
    assert areas([[10, 40, 40], [24, 40, 40], [50, 40, 50], [500, 0, 0]]).tolist() == [
        "motor", "motor", "visual", "visual",
    ]  # fmt: skip
    assert place_labels([-40, 0, 0], areas)["region"] == "motor"


def test_own_label_map_without_names_is_refused(tmp_path):
    """Neither a map without a named value nor a table without whole numbers will do."""
    with pytest.raises(GeometryError, match="Got the values 0, 2"):
        AreaMap(np.array([[[0, 2]]]), np.eye(4), {1: "motor"})
    (tmp_path / "names.csv").write_text("value,region\n1.5,motor\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="line 2: an area needs a whole number"):
        AreaMap.load(tmp_path / "areas.nii.gz", tmp_path / "names.csv")


@pytest.mark.slow
def test_registration_finds_the_places_of_simulated_tumors(simulated, bare):
    """Centroids are found to 12 mm (4 mm voxels, bent heads), sides without error, most areas."""
    found = add_places(bare)
    assert errors(found, simulated).max() < 12
    for tumor, true in zip(found, simulated, strict=True):
        assert tumor.metadata["place_method"] == "registration" and tumor.metadata["place_quality"] > 0.6
        assert tumor.metadata["place_spread_mm"] >= 0
        assert tumor.labels["type"] == true.labels["type"]
        sides = {tumor.labels["hemisphere"], true.labels["hemisphere"]}
        assert sides != {"left", "right"}
        shares = [float(part.split("=")[1]) for part in tumor.metadata["region_fractions"].split(";")]
        assert sum(shares) == pytest.approx(1, abs=0.03) and shares == sorted(shares, reverse=True)
    right = [a.labels["region"] == b.labels["region"] for a, b in zip(found, simulated, strict=True)]
    assert np.mean(right) >= 0.5


def test_air_beside_the_head_moves_nothing(simulated):
    """A field of view that reaches 200 mm further on one side leaves the head where it lay, within 3 mm."""
    case = simulated[0].case
    image, affine = case.load_image(), case.affine
    ras, ras_to_mm = to_ras(image, affine), ras_affine(image.shape, affine)[1]
    wider = np.pad(ras, ((0, 50), (0, 0), (0, 0)))  # voxels of 4 mm
    wanted, found = register_to_mni(image, affine), register_to_mni(wider, ras_to_mm)
    assert found.method == "registration"
    points = np.array([[-60, 0, 0, 1], [60, 0, 0, 1], [0, -90, 0, 1], [0, 60, 0, 1], [0, 0, 70, 1.0]]).T
    moved = (wanted.to_mni @ np.linalg.inv(found.to_mni) @ points - points)[:3]
    assert np.linalg.norm(moved, axis=0).max() < 3


def test_registration_does_not_depend_on_the_storage_order(simulated):
    """The same scan stored PIL lies where it lay."""
    case = simulated[0].case
    image, affine = case.load_image(), case.affine
    mask = case.load_mask() > 0
    stored, stored_affine = reorder(image, affine, "PIL")
    ignored = reorder(mask.astype(np.uint8), affine, "PIL")[0] > 0
    one = register_to_mni(image, affine, ignore=mask)
    other = register_to_mni(stored, stored_affine, ignore=ignored)
    assert one.method == "registration" and 0.6 < one.quality <= 1
    assert_allclose(other.to_mni, one.to_mni, atol=1e-3)


def test_mirrored_scan_has_its_tumor_on_the_other_side(simulated):
    """Left and right come from the affine: turn its x axis round, and x changes its sign."""
    case = next(t.case for t in simulated if t.labels["hemisphere"] is not None)
    image, mask = case.load_image(), case.load_mask() > 0
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    x = []
    for affine in (case.affine, mirror @ case.affine):
        to_mni = register_to_mni(image, affine, ignore=mask, method="header").to_mni @ affine
        x.append((np.argwhere(mask).mean(axis=0) @ to_mni[:3, :3].T + to_mni[:3, 3])[0])
    assert x[0] * x[1] < 0 and abs(x[0] + x[1]) < 12  # the template is symmetric, the grid of poses coarse


def test_scan_that_shows_no_brain_falls_back_to_the_header():
    """Where no pose explains the scan the method says 'header', and the quality is low."""
    noise = np.random.default_rng(0).random((30, 34, 32)).astype(np.float32)
    found = register_to_mni(noise, np.diag([6.0, 6.0, 6.0, 1.0]))
    assert found.method == "header" and found.quality < 0.5 and np.isnan(found.spread_mm)
    with pytest.raises(GeometryError, match="one intensity"):
        register_to_mni(np.ones((9, 9, 9)), np.eye(4))
    with pytest.raises(ValueError, match="'method' must be one of"):
        register_to_mni(noise, np.eye(4), method="ants")


def test_registration_takes_one_thread_of_blas(simulated, monkeypatch):
    """However many a process may use, small matrices are worked on by one, and the rest keeps its number."""
    from threadpoolctl import threadpool_info, threadpool_limits

    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    seen = []
    rank = register_module._rank_starts
    monkeypatch.setattr(register_module, "_rank_starts", lambda *a: (seen.append(threads()), rank(*a))[1])
    case = simulated.cases[0]
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        register_to_mni(case.load_image(), case.affine, method="header")
        assert threads() == before
    assert seen == [{1}]


def test_labels_that_are_there_stay_and_complete_scans_are_left_alone(bare, monkeypatch):
    """Only missing labels are filled, and a scan whose tumors have all of them is not even read."""
    given = dict.fromkeys(PLACE_TASKS, "mine")
    first, second = bare[0], next(t for t in bare if t.case is not bare[0].case)
    whole = Tumor(first.case, first.bbox, tumor_id="a", mask_value=first.mask_value, labels=given)
    labels = {"region": "convexity", "outcome": "stable"}
    half = Tumor(second.case, second.bbox, tumor_id="b", mask_value=second.mask_value, labels=labels)
    read = []
    load = Case.load_image
    monkeypatch.setattr(Case, "load_image", lambda case: (read.append(case.case_id), load(case))[1])
    a, b = add_places(Cohort([whole, half]), method="header", min_quality=0)
    assert read == [second.case.case_id]
    assert a.labels == given and "place_quality" not in a.metadata
    assert b.labels["region"] == "convexity" and b.labels["outcome"] == "stable"
    assert b.labels["front_rear"] in ("front", "rear") and b.metadata["place_method"] == "header"
    assert b.metadata["place_spread_mm"] is None  # of one pose there is no spread


def test_doubtful_places_give_coordinates_but_no_labels(bare):
    """Below `min_quality` labels stay missing, and a warning names the scans."""
    with pytest.warns(UserWarning, match=r"1 of 1 scans have a place of quality below 1 .*'sim-00001'"):
        (tumor, *_) = add_places(bare[:1], method="header", min_quality=1)
    assert all(tumor.labels[task] is None for task in PLACE_TASKS)
    assert np.isfinite([tumor.metadata[c] for c in MNI]).all()


def test_bad_scans_are_named_and_the_others_go_on(bare):
    """A constant image is reported with its reason."""
    case = Case((np.ones((20, 20, 20), np.float32), np.eye(4)), case_id="blank", patient_id="p")
    blank = Tumor(case, [(5, 5, 5), (9, 9, 9)], tumor_id="blank/1")
    with pytest.warns(UserWarning, match=r"(?s)1 of 2 scans have no place.*case 'blank'.*one intensity"):
        a, b = add_places(Cohort([blank, bare[0]]), method="header", min_quality=0)
    assert "place_quality" not in a.metadata and "place_quality" in b.metadata


def test_tumor_known_by_its_box_has_a_place(bare):
    """Without a mask the ellipsoid in the box stands for the tumor."""
    tumor = bare[0]
    case = Case(tumor.case.image, case_id="a", patient_id="p")
    boxed = Tumor(case, tumor.bbox, tumor_id="a/1")
    (found,) = add_places(Cohort([boxed]), method="header", min_quality=0)
    (masked,) = add_places(Cohort([tumor]), method="header", min_quality=0)
    assert errors([found], [masked])[0] < 10


def test_run_that_was_killed_goes_on(bare, tmp_path, monkeypatch):
    """What is done is taken from the partial folder, unless the mask changed or its picture is missing."""
    calls = []
    register = places_module.register_to_mni
    monkeypatch.setattr(
        places_module, "register_to_mni", lambda *a, **k: (calls.append(1), register(*a, **k))[1]
    )
    options = {"method": "header", "min_quality": 0, "partial_dir": tmp_path / "partial"}
    add_places(bare[:1], **options)
    whole = add_places(bare, **options)
    assert len(calls) == len(bare.cases)
    again = add_places(bare, **options)
    assert len(calls) == len(bare.cases) and [t.labels for t in again] == [t.labels for t in whole]
    add_places(bare[:1], **options, qc_dir=tmp_path / "qc")
    assert len(calls) == len(bare.cases) + 1


def test_picture_shows_scan_and_tumor(bare, tmp_path):
    """A picture a scan, with the tumor's red outline on it; odd case ids make no odd file names."""
    tumor = bare[0]
    case = Case(tumor.case.image, tumor.case.mask, case_id="ward 3/ä:7", patient_id="p")
    copy = Tumor(case, tumor.bbox, tumor_id="a", mask_value=tumor.mask_value)
    add_places(Cohort([copy]), method="header", min_quality=0, qc_dir=tmp_path)
    file = tmp_path / "ward_3_ä_7.png"
    assert [p.name for p in tmp_path.iterdir()] == [file.name] and "/" not in file.name
    pixels = np.asarray(Image.open(file)).astype(int)
    red = (pixels[..., 0] == 255) & (pixels[..., 1] == 96)
    assert red.sum() > 10 and pixels.std() > 20


def test_archive_gets_its_places_by_command(bare, tmp_path):
    """`tumorsim places` writes labels and columns, keeps the rest, and leaves nothing else."""
    save_manifest(bare[:1], tmp_path / "archive.csv")
    result = run("places", tmp_path / "archive.csv", "-o", tmp_path / "placed.csv", "--qc", tmp_path / "qc")
    assert "front_rear 1" in result.output
    assert {p.name for p in tmp_path.iterdir()} == {"archive.csv", "placed.csv", "qc"}
    before, after = (pd.read_csv(tmp_path / name, dtype=str) for name in ("archive.csv", "placed.csv"))
    kept = before.columns.drop(["image", "mask"])
    pd.testing.assert_frame_equal(after[kept], before[kept])
    assert {f"label_{task}" for task in PLACE_TASKS} < set(after) and {*MNI, "place_quality"} < set(after)
    assert load_cohort(tmp_path / "placed.csv")[0].labels["front_rear"] in ("front", "rear")


def test_command_takes_areas_of_one_s_own(bare, tmp_path):
    """--areas and --area-names belong together."""
    save_manifest(bare[:1], tmp_path / "archive.csv")
    save_nifti(tmp_path / "atlas.nii.gz", np.ones((3, 3, 3), np.uint8), np.diag([60.0, 60.0, 60.0, 1.0]))
    (tmp_path / "names.csv").write_text("value,region\n1,everywhere\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cohort = places_to_file(
            tmp_path / "archive.csv",
            tmp_path / "placed.csv",
            areas=AreaMap.load(tmp_path / "atlas.nii.gz", tmp_path / "names.csv"),
            method="header",
            min_quality=0,
        )
    assert cohort[0].labels["region"] == "everywhere"
    assert cohort[0].metadata["region_fractions"] == "everywhere=1.00"
    result = run(
        "places",
        tmp_path / "archive.csv",
        "-o",
        tmp_path / "b.csv",
        "--areas",
        tmp_path / "atlas.nii.gz",
        code=2,
    )
    assert "belong together" in result.output and not (tmp_path / "b.csv").exists()


@pytest.mark.slow
@pytest.mark.real
def test_real_scan_with_a_true_header_is_placed(real_data):
    """A thick-sliced whole head and a stripped brain register well; the sides are those of the affine."""
    folder = real_data / "real"
    files = {"brain1": ("brain1_image.nrrd", "brain1_label.nrrd")}
    files["brats13-1"] = ("brats13-1_t1c.nii.gz", "brats13-1_mask.nii.gz")
    for name, (image, mask) in files.items():
        case = Case(folder / image, folder / mask, case_id=name, patient_id=name)
        voxels = case.load_mask() > 0
        (tumor,) = add_places(Cohort([Tumor(case, bbox_from_mask(voxels), tumor_id=name)]))
        assert tumor.metadata["place_method"] == "registration" and tumor.metadata["place_quality"] > 0.6


def test_scan_of_unknown_orientation_gets_no_side(bare, tmp_path):
    """Where the file does not say which way its axes point, side stays missing, and what is given stays."""
    tumor = next(
        t for t in bare if add_places(Cohort([t]), method="header", min_quality=0)[0].labels["hemisphere"]
    )
    files = {}
    for kind in ("image", "mask"):
        image = nib.load(getattr(tumor.case, kind))
        image = nib.Nifti1Image(to_ras(np.asanyarray(image.dataobj), image.affine)[::-1], None, image.header)
        image.header.set_zooms([4.0, 4.0, 4.0])  # as the convention has it: x runs to the left
        image.set_sform(None, 0)
        files[kind] = tmp_path / f"{kind}.nii.gz"
        nib.save(image, files[kind])
    case = Case(files["image"], files["mask"], case_id="a", patient_id="p")
    box = bbox_from_mask(case.load_mask() == int(tumor.mask_value))
    for given in (None, "left"):
        lost = Tumor(case, box, tumor_id="a", mask_value=tumor.mask_value, labels={"hemisphere": given})
        (found,) = add_places(Cohort([lost]), method="header", min_quality=0)
        assert found.labels["hemisphere"] == given and found.labels["front_rear"] is not None
