"""Fixtures that several rooms use: seeds, real scans, cases with ellipsoid tumors on unequal grids."""

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from grids import ellipsoid_mask, reorder
from hypothesis import settings

from tumorsim import Case
from tumorsim.io import save_nifti

# a change is judged by the same examples as the last, and a busy machine is no failure
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)  # pytest --hypothesis-profile=search
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Seed every global generator, torch's only where a test has loaded it, and hold torch to one thread.

    On networks this small threads wait for each other longer than they work. Compiling pynndescent resets
    the number, and sums on another number of threads differ in their last bits.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002, libraries draw from the global generator
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def interruptible():
    """Let SIGINT be an exception, which it is not in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def real_data():
    """Folder of real scans; the test is skipped where there is none."""
    folder = os.environ.get("TUMORSIM_TEST_DATA")
    if not folder:
        pytest.skip("TUMORSIM_TEST_DATA is not set: no real scans to read")
    if not Path(folder).is_dir():
        pytest.fail(f"TUMORSIM_TEST_DATA is not a folder: {folder}")
    return Path(folder)


@pytest.fixture
def make_case():
    """Return a function that builds a Case in memory.

    The scan is made on a RAS+ grid (`shape`, `ellipsoids` as (center, radii) in its voxels), bright where
    the tumor is; then it is stored along the axes that `orientation` names.
    """

    def make(
        case_id="scan",
        patient_id="patient",
        *,
        shape=(20, 24, 28),
        spacing=(1.0, 1.5, 2.0),
        origin=(-10.0, -15.0, -20.0),
        orientation="RAS",
        rotation_deg=0.0,
        ellipsoids=(((9, 12, 14), (4, 5, 6)),),
        values=None,
        with_mask=True,
    ):
        mask = ellipsoid_mask(shape, ellipsoids, values)
        ramp = sum(g * weight for g, weight in zip(np.indices(shape), (0.3, 0.2, 0.1), strict=True))
        image = (50 + ramp + 100 * (mask > 0)).astype(np.float32)
        turn = np.radians(rotation_deg)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        affine = np.eye(4)
        affine[:3, :3] = rotation * spacing
        affine[:3, 3] = origin
        stored = reorder(image, affine, orientation)
        stored_mask = reorder(mask, affine, orientation) if with_mask else None
        return Case(stored, stored_mask, case_id=case_id, patient_id=patient_id)

    return make


@pytest.fixture
def write_case():
    """Return a function that writes a Case as NIfTI into a folder and returns the Case of these files."""

    def write(case, folder):
        files = {}
        for kind in ("image", "mask"):
            source = getattr(case, kind)
            if source is not None:
                files[kind] = Path(folder) / f"{case.case_id}_{kind}.nii.gz"
                save_nifti(files[kind], *source)
        return Case(files["image"], files.get("mask"), case_id=case.case_id, patient_id=case.patient_id)

    return write


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory):
    """Return a folder with a scan table, its archive, a model, embeddings and an index, made by commands.

    Tests write elsewhere.
    """
    import phantoms
    from archives import TRAINING, write_cohort, write_scan_table
    from test_cli import run

    path = tmp_path_factory.mktemp("cli")
    cohort = write_cohort(phantoms.cohort(6), path)
    write_scan_table(cohort, path / "scans.csv")
    run("manifest", path / "scans.csv", "-o", path / "archive.csv")
    run("fit", path / "archive.csv", "-o", path / "model.safetensors", TRAINING, "--device cpu")
    run("embed", path / "archive.csv", "--model", path / "model.safetensors", "-o", path / "archive.npz")
    run("index build", path / "archive.npz", "-o", path / "index")
    return path
