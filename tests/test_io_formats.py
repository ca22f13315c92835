"""One scan in six formats: equal integer voxels give equal boxes, voxels and embeddings."""

import dicoms
import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import ball
from scipy.spatial.transform import Rotation
from test_io import write_nrrd

from tumorsim import Case, Tumor, TumorEmbedder
from tumorsim.geometry import ras_box
from tumorsim.io.dicom import find_scan
from tumorsim.preprocessing import Preprocessing

SHAPE = (36, 40, 30)
BOX = np.array([(10, 10, 10), (20, 20, 15)])  # every edge lies on the grid of 2 mm


def oblique_scan(seed):
    """Return integer voxels and an oblique affine of spacings whose edges meet the grid of 2 mm."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", rng.uniform(-25, 25, 3), degrees=True).as_matrix()
    affine[:3, :3] = turn * rng.choice([3.0, 2.8, 3.2, 2.6, 3.6], 3)
    affine[:3, 3] = rng.uniform(-90, -40, 3)
    middle = (np.array(SHAPE) - 1) / 2
    image = 900 * ball(SHAPE, middle, 0.45 * np.array(SHAPE)) + 60 * rng.random(SHAPE)
    image += 500 * ball(SHAPE, BOX.mean(axis=0) - 0.5, (5, 5, 2.5))
    return image.astype(np.int16), affine


def in_every_format(folder, array, affine):
    """Write a scan in six formats; return name → Tumor."""
    image = nib.Nifti1Image(array, affine)
    nib.save(image, folder / "sform.nii.gz")
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    nib.save(image, folder / "qform.nii.gz")
    nib.save(nib.Nifti2Image(array, affine), folder / "nifti2.nii")
    nib.save(nib.MGHImage(array, affine), folder / "scan.mgz")
    write_nrrd(folder / "scan.nrrd", array, affine)
    dicoms.write_series(folder / "dicom", array.astype(np.uint16), affine)
    found = find_scan(folder / "dicom")
    sources = {name: folder / name for name in ("sform.nii.gz", "qform.nii.gz", "nifti2.nii")}
    sources |= {"mgz": folder / "scan.mgz", "nrrd": folder / "scan.nrrd"}
    sources["dicom"] = (found.load_image(), found.affine)
    cases = {name: Case(source, case_id=name, patient_id="p") for name, source in sources.items()}
    storage = ras_box(BOX, array.shape, affine)
    return {name: Tumor(case, ras_box_back(storage, case), tumor_id=name) for name, case in cases.items()}


def ras_box_back(box, case):
    """Return the box of a case's own voxels from that of the RAS+ ordered array."""
    from tumorsim.geometry import ras_permutation

    permutation, flips = ras_permutation(case.affine)
    size = np.array(case.shape)[permutation]
    start, stop = np.where(flips, size - box[1], box[0]), np.where(flips, size - box[0], box[1])
    back = np.argsort(permutation)
    return np.stack([start[back], stop[back]])


def seeds(*now):
    """Return 20 seeds of which all but some are slow; a slack of 1e-6 voxel fails at 4, 6, 11, 16 and 19."""
    return [pytest.param(seed, marks=[] if seed in now else pytest.mark.slow) for seed in range(20)]


@pytest.mark.parametrize("seed", seeds(0, 4, 6))
def test_boxes_and_voxels_do_not_depend_on_the_format(tmp_path, seed):
    """On 20 oblique grids boxes on the network's grid are the same, and voxels to float16's rounding."""
    array, affine = oblique_scan(seed)
    preprocessing, expected = Preprocessing(2.0), None
    for name, tumor in in_every_format(tmp_path, array, affine).items():
        volume = preprocessing.prepare_case(tumor.case)
        found = volume.boxes([tumor.bbox])[0], volume.image
        expected = expected or found
        assert_array_equal(found[0], expected[0], err_msg=name)
        assert_allclose(found[1], expected[1], atol=0.01, err_msg=name)  # of values up to 10


@pytest.mark.parametrize("decimals", [2, 3])
def test_boxes_do_not_depend_on_the_decimals_of_dicom(tmp_path, decimals):
    """Positions with few decimals make spacings that are a little off: edges on the grid stay there."""

    def shorten(dataset, z):
        dataset.ImagePositionPatient = [f"{float(mm):.{decimals}f}" for mm in dataset.ImagePositionPatient]

    for seed in range(6):
        array, affine = oblique_scan(seed)
        dicoms.write_series(tmp_path / str(seed), array.astype(np.uint16), affine, edit=shorten)
        scan = find_scan(tmp_path / str(seed))
        storage = ras_box(BOX, array.shape, affine)
        found = []
        for source in ((array, affine), (scan.load_image(), scan.affine)):
            case = Case(source, case_id="a", patient_id="p")
            found.append(Preprocessing(2.0).prepare_case(case).boxes([ras_box_back(storage, case)])[0])
        assert_array_equal(found[0], found[1], err_msg=str(seed))


@pytest.mark.parametrize("seed", seeds(4))
def test_embeddings_do_not_depend_on_the_format(tmp_path, seed):
    """One scan as NIfTI (sform, qform only, NIfTI-2), MGZ, NRRD and DICOM embeds alike, to 1e-3."""
    tumors = in_every_format(tmp_path, *oblique_scan(seed))
    X = TumorEmbedder.from_pretrained(device="cpu", verbose=0).transform(list(tumors.values()))
    assert np.linalg.norm(X - X[0], axis=1).max() < 1e-3 * np.linalg.norm(X[0])
