"""Records in notebooks: a picture, ids and counts; never a face, never a traceback."""

import re

import numpy as np
import phantoms
import pytest

from tumorsim import Case, Cohort, Tumor
from tumorsim.records import read_surroundings


@pytest.fixture(scope="module")
def tumor():
    """Return a phantom tumor."""
    return phantoms.scan("s", [("meningioma", (20, 22, 17), (3, 4, 5))])[0]


def test_tumor_shows_three_planes_and_its_labels(tumor):
    """Pictures have outlines and names for screen readers; labels are text."""
    html = tumor._repr_html_()
    assert html.count("<svg") == html.count("<path") == 3
    assert "coronal plane of tumor s/1" in html and "type: meningioma" in html


def test_case_shows_its_axial_plane_only(tumor):
    """Coronal and sagittal planes of a head would show a face."""
    html = tumor.case._repr_html_()
    assert html.count("<svg") == 1 and "axial plane" in html and "coronal" not in html
    assert "40 × 44 × 36 voxels of 2 × 2 × 2 mm" in html and "with mask" in html


def test_cohort_shows_counts_and_few_tumors():
    """Labels are counted for all, and pictures drawn for the first four."""
    html = phantoms.cohort(6)._repr_html_()
    assert html.count("<svg") == 4
    assert "6 tumors, 6 scans, 6 patients" in html and "meningioma 3" in html


def test_unreadable_scans_are_said_not_raised(tumor, tmp_path):
    """A notebook still shows ids where a file has gone."""
    gone = Case(tmp_path / "gone.nii.gz", case_id="gone", patient_id="p")
    lost = Tumor(gone, tumor.bbox, tumor_id="gone/1")
    for record in (gone, lost, Cohort([lost])):
        html = record._repr_html_()
        assert "gone" in html and "<svg" not in html


def test_text_is_escaped(tumor):
    """Ids and labels from a manifest are shown, never obeyed."""
    evil = "<img src=x onerror=alert(1)>"
    case = Case(tumor.case.image, tumor.case.mask, case_id=evil, patient_id=evil)
    record = Tumor(case, tumor.bbox, tumor_id=evil, labels={"type": evil}, mask_value=1)
    for html in (record._repr_html_(), case._repr_html_(), Cohort([record])._repr_html_()):
        assert "<img" not in html and "&lt;img" in html


def test_embedder_shows_scikit_learns_diagram():
    """`TumorEmbedder` shows itself as estimators do."""
    assert "sk-estimator" in phantoms.tiny()._repr_html_()


def test_surroundings_end_at_the_margin(tumor):
    """What is kept is the box and its margin, of the mask the same; an infinite margin keeps all."""
    near = read_surroundings(tumor, 6.0)
    np.testing.assert_array_equal(near.image.shape, tumor.bbox[1] - tumor.bbox[0] + 6)
    assert near.lesion.sum() == tumor.load_mask().sum() and near.lesion[tuple(near.through.astype(int))]
    assert read_surroundings(tumor, np.inf).image.shape == phantoms.SHAPE


@pytest.mark.parametrize("orientation", ["LAS", "PIR"])
def test_thumbnails_do_not_depend_on_storage(orientation):
    """The same scan stored along other axes gives the same picture of a case."""
    lesion = [("meningioma", (12, 26, 15), (3, 4, 5))]
    pictures = [
        re.findall(r"base64,([^\"]+)", phantoms.scan("a", lesion, orientation=o)[0].case._repr_html_())
        for o in ("RAS", orientation)
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 1
