"""What the next weights have to reach, and real tumors pasted into simulated heads."""

import numpy as np
import pandas as pd
import phantoms
import pytest
from scipy.ndimage import binary_dilation

from benchmarks import pasting, targets
from examples.train_pretrained import SHAPE, renamed, weights_of_step_2
from tumorsim import Case, Cohort, Tumor, load_cohort
from tumorsim.geometry import bbox_from_mask
from tumorsim.simulation import draw_scan, load_head


def stack(axis, patient_id="p"):
    """Return a tumor in a stack of 6 slices along `axis`, of which slices 1 to 4 show it, on thick voxels."""
    rng = np.random.default_rng(0)
    image = rng.normal(100, 3, (40, 44, 6)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[15:25, 20:31, 1:5] = 1
    image[mask > 0] += 60
    affine = np.diag([2.0, 2.0, 6.0, 1.0])
    order = np.roll(np.arange(3), axis - 2)
    turned = affine.copy()
    turned[:3, :3] = affine[:3, :3][:, order]
    image, mask = image.transpose(order), mask.transpose(order)
    case = Case((image, turned), (mask, turned), case_id=f"{patient_id}-c", patient_id=patient_id)
    return Tumor(case, bbox_from_mask(mask), tumor_id="t/1", labels={"type": "glioma"}, mask_value=">0")


@pytest.mark.parametrize("axis", range(3))
def test_slices_of_a_stack_are_tumors_of_its_patient(axis):
    """One tumor per slice that shows it, whichever axis is thick in storage, where the slice was."""
    tumor = stack(axis)
    parts = list(targets.pieces(tumor))
    assert len(parts) == 4
    assert {part.case.patient_id for part in parts} == {"p"} and len({p.tumor_id for p in parts}) == 4
    centers = []
    for part in parts:
        assert part.case.load_mask().sum() == 10 * 11
        centers.append((part.case.affine @ [*np.argwhere(part.case.load_mask()).mean(axis=0), 1])[:3])
    steps = np.diff(centers, axis=0)
    np.testing.assert_allclose(np.abs(steps).max(axis=1), 6.0)
    assert (np.abs(steps) < 1e-9).sum() == 6


def test_precision_and_average_precision_follow_the_gallery(monkeypatch):
    """A patient's own slice counts only where the gallery says so; a fold's tumors are not its gallery."""
    monkeypatch.setattr(targets, "N_NEAREST", 2)
    X = np.array([[0.0], [0.1], [1.0], [2.0], [3.0]])
    types = np.array(["a", "a", "b", "a", "b"])
    patients = np.array(["p", "p", "q", "r", "s"])
    asked = np.array([True, False, True, False, False])
    own = targets.ranked(X, types, patients, asked, "all others, same patient too")
    assert own["map"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 4])  # a b a b; a a a b
    assert own["p10"].tolist() == [0.5, 0.0]  # of two neighbors
    others = targets.ranked(X, types, patients, asked, "all other patients")
    assert others["map"].tolist() == pytest.approx([1 / 2, 1 / 4])  # b a b; a a a b, at 0.9, 1, 1, 2
    folds = targets.ranked(X, types, patients, asked, "other folds")
    assert folds["map"].iloc[1] == pytest.approx(1 / 3)  # a a b
    line = targets.summary(pd.DataFrame({"patient": ["p", "q"], "map": [1.0, 0.0], "p10": [1.0, 1.0]}))
    assert (line["map"], line["map_low"], line["map_high"], line["p10_low"]) == (0.5, 0.0, 1.0, 1.0)


def test_recall_counts_tumors_and_dice_counts_scans():
    """A tumor is found from a tenth of its voxels on; quartiles are those of scans."""
    tumors = pd.DataFrame({"case_id": ["a", "a", "b"], "found": [0.09, 0.1, 1.0], "dice": [0.4, 0.4, 0.8]})
    row = targets.mask_row("all", tumors, None)
    assert row["found"] == pytest.approx(2 / 3) and row["voxels"] == pytest.approx(1.19 / 3)
    assert (row["scans"], row["50 %"], row["dice 25 %"]) == (2, pytest.approx(0.6), pytest.approx(0.5))


def test_heads_without_a_tumor_are_drawn_anew_and_again(tmp_path, monkeypatch):
    """The same head number gives the same image; whole and stripped ones are both among them."""
    monkeypatch.setattr(targets, "N_TEST_HEADS", 1)  # and the folder has none: the template alone
    args = type("Args", (), {"heads": tmp_path})
    first, again = ([case for case in targets.empty_heads(args, 6)] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.load_image(), other.load_image())
    assert {case.case_id.split("-")[0] for case in first} == {"whole", "stripped"}


def test_a_pasted_tumor_keeps_its_look_and_gets_a_true_place():
    """It is bright where its mask says, of about its scaled volume, and its side is that of its centroid."""
    lesion = pasting.cut_out(stack(2))
    assert lesion.ml == pytest.approx(20 * 22 * 24 / 1000, rel=0.25)  # corners are rounded off
    assert lesion.image[lesion.depth > 1.5].mean() > 1.3 * np.median(lesion.image[lesion.depth < -3])
    found, number = [], 0
    while len(found) < 3:
        rng = np.random.default_rng(number)
        number += 1
        pasted = pasting.paste(rng, lesion, draw_scan(rng, 3.0, load_head()))
        if pasted is not None:
            found.append(pasted)
    for image, scan, mask, center, _ in found:
        ml = mask.sum() * scan.spacing.prod() / 1000
        assert lesion.ml / 4 < ml < lesion.ml * 4
        index = np.flatnonzero(np.isin(scan.voxel, np.flatnonzero(mask.ravel())))
        np.testing.assert_allclose(scan.points[index].mean(axis=0), center, atol=scan.spacing.max())
        near = binary_dilation(mask, iterations=2) & ~binary_dilation(mask) & (image > 0)
        assert np.median(image[mask]) > 1.1 * np.median(image[near])


def test_pasted_patients_read_back_with_labels_and_source(tmp_path):
    """Files, mask, type, place and the stack they are from are in the manifest."""
    rng = np.random.default_rng(1)
    lesion = pasting.cut_out(stack(2, "cheng-0001"))
    found = None
    while found is None:
        found = pasting.paste(rng, lesion, draw_scan(rng, 3.0, load_head()))
    pasting.save_manifest(
        Cohort([pasting.written(tmp_path, "pasted-00001", *found)]), tmp_path / "manifest.csv"
    )
    cohort = load_cohort(tmp_path / "manifest.csv")
    assert cohort.table["source"].tolist() == ["cheng-0001-c"] and cohort[0].labels["type"] == "glioma"
    assert cohort[0].labels["region"] is not None
    cohort.check(voxels=True)


def test_own_head_chooses_between_two_types(tmp_path):
    """The network's choice is between glioma and metastasis, whatever else it thinks of."""

    class Head:
        def predict_proba(self, cohort):
            n = len(cohort)
            return {
                "type": pd.DataFrame({"glioma": np.linspace(0.1, 0.4, n), "metastasis": 0.25, "other": 0.5})
            }

    cohort = phantoms.cohort(4)
    tumors = [
        Tumor(t.case, t.bbox, tumor_id=t.tumor_id, labels={"type": name}, mask_value=t.mask_value)
        for t, name in zip(cohort, ("metastasis", "glioma", "metastasis", "glioma"), strict=True)
    ]
    row = targets.own_head("x", Head(), Cohort(tumors))
    assert row["balanced_accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize("edges", [{}, SHAPE])
def test_shape_is_a_task_where_it_is_asked_for(edges):
    """Bands of elongation and sphericity follow the mask; without edges the labels are those of before."""
    notes = {"mni_x_mm": -30.0, "mni_y_mm": 0.0, "mni_z_mm": 10.0, "ring": False}
    tumors = [
        Tumor(t.case, t.bbox, tumor_id=t.tumor_id, labels={}, mask_value=t.mask_value, metadata=notes)
        for t in phantoms.cohort(4)
    ]
    for tumor, found in zip(tumors, renamed(Cohort(tumors), "000", edges), strict=True):
        assert set(found.labels) == {"lateral", "rostral", "high", "ring", *edges}
        assert found.labels["lateral"] == "left 2" and found.case.case_id == f"000-{tumor.case.case_id}"
        for name, values in edges.items():
            assert found.labels[name] == str(sum(tumor.measure()[name] > value for value in values))
    weights = weights_of_step_2(type("Args", (), {"shape_tasks": bool(edges)}))
    assert set(SHAPE) <= set(weights) if edges else not set(SHAPE) & set(weights)


def test_exact_figures_tell_types_that_differ_in_one():
    """Balls and flat tumors at one place: place and volume tell nothing, shape tells all."""
    cohort = phantoms.cohort(6)
    figures = targets.known(
        Cohort(
            Tumor(
                t.case, t.bbox, tumor_id=t.tumor_id, labels=t.labels, mask_value=t.mask_value,
                metadata={"mni_x_mm": -20.0, "mni_y_mm": 1.0, "mni_z_mm": 2.0, "ring": i % 2 == 0},
            )
            for i, t in enumerate(cohort)
        )
    )  # fmt: skip
    assert figures["place"].tolist() == [[20, 1, 2]] * 6
    assert figures["ring"].ravel().tolist() == [1, 0, 1, 0, 1, 0]
    assert figures["number"].ravel().tolist() == [0] * 6  # one tumor in each scan
    assert figures["shape"].shape == (6, 2) and figures["brightness"].shape == (6, 5)
    types = np.array(["a", "b"] * 20)
    X = np.where(types == "a", 0.0, 1.0)[:, None]
    for linear in (True, False):
        assert targets.learned(X, X, types, linear=linear).tolist() == types.tolist()
