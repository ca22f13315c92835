"""The whole way over real scans: NIfTI and NRRD, whole heads and a stripped brain, thick slices and thin."""

import numpy as np
import pandas as pd
import phantoms
import pytest
from numpy.testing import assert_allclose

from tumorsim import Case, Tumor, TumorIndex, find_similar
from tumorsim.geometry import bbox_from_mask
from tumorsim.manifest import build_manifest

pytestmark = pytest.mark.real

CASES = ("brain1", "btp-03-pre", "btp-03-post", "brats13-1")


@pytest.fixture(scope="module")
def embedder():
    """Return an embedder that has hardly learned anything; what is tested does not need more."""
    return phantoms.tiny(spacing=3.0).fit(phantoms.cohort(4))


def test_real_scans_find_themselves(real_data, embedder, tmp_path):
    """Real scans become lesions, vectors and an index, in which each lesion is its own nearest neighbor."""
    scans = pd.read_csv(real_data / "real" / "scans.csv", dtype=str)
    scans = scans[scans["case_id"].isin(CASES)]
    for column in ("image", "mask"):
        scans[column] = [str(real_data / "real" / name) for name in scans[column]]
    scans.to_csv(tmp_path / "scans.csv", index=False)
    cohort = build_manifest(
        tmp_path / "scans.csv", tmp_path / "archive.csv", min_volume_mm3=100.0, merge_distance_mm=10.0
    )
    assert {tumor.case.case_id for tumor in cohort} == set(CASES)
    X = embedder.transform(cohort)
    assert np.isfinite(X).all()
    index = TumorIndex().fit(X, metadata=cohort.table, space=embedder.space_)
    found = find_similar(embedder, index, cohort, n_neighbors=1, keep_same=True).neighbors
    assert found["tumor_id"].tolist() == cohort.tumor_ids.tolist()
    assert found["distance"].max() < 1e-6


@pytest.mark.parametrize("orientation", ["LAS", "PIR"])
def test_real_scan_stored_otherwise_has_the_same_embedding(real_data, embedder, orientation):
    """A real scan with thick slices, stored along other axes, moves its embedding by less than 1e-3."""
    folder = real_data / "real"
    case = Case(
        folder / "btp-03-pre_t1c.nii.gz", folder / "btp-03-pre_mask.nii.gz", case_id="a", patient_id="p"
    )
    image, mask = case.load_image(), case.load_mask()
    stored = {
        "as it is": Case((image, case.affine), (mask, case.affine), case_id="a", patient_id="p"),
        "otherwise": Case(
            phantoms.stored_as(image, case.affine, orientation),
            phantoms.stored_as(mask, case.affine, orientation),
            case_id="b",
            patient_id="p",
        ),
    }
    tumors = [Tumor(c, bbox_from_mask(c.load_mask() > 0), tumor_id=name) for name, c in stored.items()]
    a, b = embedder.transform(tumors)
    assert_allclose(b, a, atol=1e-3 * np.linalg.norm(a))
