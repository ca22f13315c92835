"""Label maps of real heads as anatomies: registration, side, what is drawn."""

import numpy as np
import pytest

from tumorsim import make_cohort
from tumorsim.exceptions import GeometryError
from tumorsim.io import save_nifti
from tumorsim.simulation._anatomy import CHANNELS, load_head, load_label_head, template_tissue
from tumorsim.simulation._appearance import draw_intensities
from tumorsim.simulation._scan import draw_scan
from tumorsim.simulation._simulate import TEMPLATE, _begin, _share_out
from tumorsim.simulation._tumors import TYPES

# The map below is the template itself, smaller, turned and moved: map's mm → MNI mm.
TURN = np.array([[1.08, 0.06, 0.0], [-0.07, 1.12, 0.08], [0.02, -0.07, 1.05]])
MOVE = np.array([6.0, -14.0, 9.0])


@pytest.fixture(scope="module")
def label_file(tmp_path_factory):
    """Return the file of a label map: the template's tissues by side, fluid round them, skull and scalp."""
    from scipy.ndimage import binary_closing, distance_transform_edt

    shape = (96, 112, 96)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])  # stored from right to left
    affine[:3, 3] = (95.0, -120.0, -90.0)
    voxels = np.indices(shape).reshape(3, -1).T
    mm = voxels @ affine[:3, :3].T + affine[:3, 3]
    mni = (mm @ TURN.T + MOVE).astype(np.float32)
    gray, white, brain = (m.reshape(shape) for m in template_tissue().sample(mni))
    left = mni[:, 0].reshape(shape) < 0
    labels = np.zeros(shape, np.int16)
    inside = binary_closing(brain > 0.5, iterations=3)
    away = distance_transform_edt(~inside) * 2  # mm
    for thickness, number in ((14, 511), (8, 515)):
        labels[away < thickness] = number
    labels[inside] = 24
    labels[gray > 0.5] = np.where(left, 3, 42)[gray > 0.5]
    labels[white > 0.5] = np.where(left, 2, 41)[white > 0.5]
    hind = (mni[:, 2] < -25).reshape(shape) & (mni[:, 1] < -45).reshape(shape)
    labels[hind & (gray > 0.5)] = np.where(left, 8, 47)[hind & (gray > 0.5)]
    labels[hind & (white > 0.5)] = np.where(left, 7, 46)[hind & (white > 0.5)]
    path = tmp_path_factory.mktemp("heads") / "head.nii.gz"
    save_nifti(path, labels, affine)
    return str(path)


def test_a_turned_template_lies_on_the_template_again(label_file):
    """Gray and white matter overlap with the template's, sides agree, sizes are those of the map."""
    head = load_label_head(label_file)
    points = np.random.default_rng(0).uniform((-65, -95, -40), (65, 65, 70), (20_000, 3)).astype(np.float32)
    found, expected = head.brain.sample(points), template_tissue().sample(points)
    assert np.corrcoef(found[1], expected[1])[0, 1] > 0.85
    assert np.corrcoef(found[0], expected[0])[0, 1] > 0.8
    plexus = head.extras.sample(np.array([[24, -39, 10], [-24, -39, 10], [0, 20, 40]], np.float32))
    assert (plexus[CHANNELS.index("choroid")] > 0.5).tolist() == [True, True, False]
    np.testing.assert_allclose(head.scale, np.linalg.norm(np.linalg.inv(TURN), axis=0) ** -1, rtol=0.06)
    midline = head.shell.sample(np.array([[-20, -20, 30], [20, -20, 30]], np.float32))[3]
    assert midline[0] < -10 and midline[1] > 10


def test_tumors_are_put_into_it(label_file, tmp_path):
    """A folder of label maps is taken, files are repeatable, and tumors are labeled by where they are."""
    a, b = (
        make_cohort(6, random_state=5, spacing=4.0, anatomies=where)
        for where in (label_file, [str(label_file)])
    )
    for x, y in zip(a.cases, b.cases, strict=True):
        np.testing.assert_array_equal(x.load_image(), y.load_image())
    for tumor, x in zip(a, a.table["x_mm"], strict=True):
        image = tumor.case.load_image()
        middle = np.argwhere(image > 0.1 * np.percentile(image, 99)).mean(axis=0)
        side, away = tumor.labels["hemisphere"], x - (tumor.case.affine @ [*middle, 1])[0]
        if side is not None and abs(away) > 15:  # mm; the field of view and a turned head shift the middle
            assert (away > 0) == (side == "right")
    template = make_cohort(2, random_state=5, spacing=4.0)
    assert (
        template.cases[0].shape != a.cases[0].shape
        or (template.cases[0].load_image() != a.cases[0].load_image()).any()
    )


def test_bad_anatomies_are_named(tmp_path):
    """Nothing there, an empty folder, no cortex: each says so."""
    with pytest.raises(ValueError, match=r"must name files of label maps, folders .*'mni152'. Got 'nowhere'"):
        make_cohort(1, anatomies="nowhere")
    with pytest.raises(ValueError, match="folders that hold NIfTI or NRRD files"):
        make_cohort(1, anatomies=tmp_path)
    save_nifti(tmp_path / "flat.nii.gz", np.full((8, 8, 8), 2, np.int16), np.eye(4))
    with pytest.raises(GeometryError, match="must hold FreeSurfer's label 3"):
        make_cohort(1, anatomies=tmp_path)


@pytest.mark.parametrize(("n_heads", "n_jobs"), [(1, 1), (1, 4), (5, 1), (5, 2), (2, 4)])
def test_processes_keep_one_head_at_a_time(n_heads, n_jobs):
    """Each patient is in one part; with several processes the parts of several heads hold one head each."""
    heads, n_patients = tuple(f"head_{k}.nii.gz" for k in range(n_heads)), 40
    parts = _share_out(0, n_patients, tuple(TYPES), heads, n_jobs)
    assert sorted(i for part in parts for i in part) == list(range(n_patients))
    held = [{_begin(0, i, tuple(TYPES), heads)[-1] for i in part} for part in parts]
    assert all(len(some) == 1 for some in held)
    if n_heads > 1 and n_jobs > 1:
        assert 2 * n_jobs <= len(parts) + n_heads <= 2 * n_jobs + 2 * n_heads


@pytest.mark.slow
def test_cohorts_of_several_heads_do_not_depend_on_jobs(label_file):
    """Scans and their order are the same in one process and in two, which each keep one head at a time."""
    options = {"random_state": 2, "spacing": 4.0, "anatomies": [label_file, TEMPLATE]}
    one, two = (make_cohort(4, n_jobs=n_jobs, **options) for n_jobs in (1, 2))
    assert {t.metadata["anatomy"] for t in one} == {"head", "mni152"}
    assert [(t.tumor_id, t.labels, t.metadata) for t in one] == [
        (t.tumor_id, t.labels, t.metadata) for t in two
    ]
    for expected, found in zip(one.cases, two.cases, strict=True):
        np.testing.assert_array_equal(expected.load_image(), found.load_image())


@pytest.mark.real
@pytest.mark.slow
def test_many_heads_and_processes_keep_their_workers(real_data, tmp_path):
    """Joblib takes heads that follow the smaller template for a memory leak, and replaces workers.

    Its warning, an error here, would end the thread that hands out the jobs, and nothing would go on.
    """
    make_cohort(2, n_jobs=2, random_state=1, spacing=8.0, types=["glioma"])
    heads = sorted((real_data / "heads").glob("*.nii.gz"))[:8]
    if len(heads) < 8:
        pytest.skip("no label maps of heads in TUMORSIM_TEST_DATA")
    cohort = make_cohort(
        16, n_jobs=2, random_state=1, spacing=4.0, types=["glioma"], anatomies=heads, output_dir=tmp_path
    )
    assert len(cohort.cases) == 16


@pytest.mark.slow
@pytest.mark.real
def test_real_heads_hold_tumors(real_data):
    """Heads of people: tissues where the template has them, and scans with a skull or without."""
    file = real_data / "heads/head_13.nii.gz"
    if not file.exists():
        pytest.skip("no label maps of heads in TUMORSIM_TEST_DATA")
    head = load_label_head(str(file))
    grid = np.stack(np.meshgrid(*[np.arange(-60, 61, 6.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    found, expected = head.brain.sample(grid), template_tissue().sample(grid)
    assert np.corrcoef(found[:2].sum(0), expected[:2].sum(0))[0, 1] > 0.6
    assert ((0.9 < head.scale) & (head.scale < 1.3)).all()
    cohort = make_cohort(4, random_state=0, spacing=4.0, anatomies=file)
    assert len(cohort.cases) == 4 and set(cohort.labels["front_rear"]) <= {"front", "rear"}


def test_choroid_plexus_enhances_in_the_ventricles():
    """It is brighter than the fluid around it, and leaves the brain beside the ventricles as it is."""
    rng = np.random.default_rng(2)
    scan = draw_scan(rng, 2.0, load_head())
    signal = draw_intensities(rng, scan, [], [])
    plexus = scan.head.extras.sample(scan.points)[CHANNELS.index("choroid")]
    gray, white, brain = scan.head.brain.sample(scan.points)
    fluid = (brain > 0.9) & (gray + white < 0.15) & (scan.distance < -20)
    inside, beside = signal[fluid & (plexus > 0.9)], signal[fluid & (plexus < 0.01)]
    assert len(inside) > 30
    assert np.median(inside) > 1.5 * np.median(beside)
    solid = signal[(gray + white > 0.9) & (plexus > 0.9) & (scan.distance < -20)]
    assert np.median(solid) < np.median(inside)
