"""Lesions of two dates → DICOM SEGs: one TrackingUID per lesion, at every date, that names nobody."""

import dicoms
import highdicom as hd
import numpy as np
import pydicom
import pytest
from grids import ellipsoid_mask
from test_cli import run

from tumorsim import matching
from tumorsim.manifest import Pseudonyms, import_dicom, load_cohort, save_segs

SHAPE, AFFINE = (28, 30, 14), np.diag([1.0, 1.0, 2.0, 1.0])
LEFT, RIGHT, NEW = ((7, 9, 6), (4, 4, 3)), ((20, 10, 7), (4, 4, 3)), ((14, 22, 7), (3, 3, 2))
VISITS = {"20240101": (LEFT, RIGHT), "20240401": (NEW, RIGHT, LEFT)}


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Return a folder of two patients at two dates, three lesions, whose scans lie on each other."""
    monkeypatch.setattr(matching, "register_dates", lambda before, after, **known: (np.eye(4), 0.9))
    for patient in ("4711", "0815"):
        for date, lesions in VISITS.items():
            folder = tmp_path / "in" / patient / date
            mask = ellipsoid_mask(SHAPE, lesions) > 0
            image = (50 + 100 * mask + np.indices(SHAPE)[0]).astype(np.uint16)
            options = {"identity": dicoms.IDENTITY, "patient_id": patient, "date": date}
            paths = dicoms.write_series(folder / "mr", image, AFFINE, **options)
            dicoms.write_seg(folder / "seg", [mask], paths)
    return tmp_path / "in"


def segments(path, sources):
    """Return TrackingUID → (TrackingID, mask (x, y, z)) of a SEG on its source files by slice."""
    seg = hd.seg.segread(path)
    uids = [pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in sources]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    masks = pixels.transpose(3, 2, 1, 0) > 0
    told = [seg.get_segment_description(number) for number in seg.segment_numbers]
    return {s.tracking_uid: (s.tracking_id, masks[s.segment_number - 1]) for s in told}


def test_a_lesion_keeps_its_tracking_uid(export, tmp_path):
    """Manifest, match and SEGs by commands: ids agree over dates, differ between lesions and patients."""
    archive, matched, segs = tmp_path / "a.csv", tmp_path / "matched.csv", tmp_path / "segs"
    key = ("--key-file", tmp_path / "k.key")
    run("manifest --dicom", export, "-o", archive, *key)
    asked = ("match", archive, "-o", matched, "--dicom", export, *key, "--seg", segs)
    assert "Wrote 4 DICOM SEGs into" in run(*asked).output
    cohort, names, found = load_cohort(matched), Pseudonyms.of_file(tmp_path / "k.key"), {}
    assert cohort.table["growth_mm3_per_month"].notna().sum() == 4  # visits of an import are dates
    for sources in export.glob("*/*/mr"):
        files = sorted(sources.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))
        header = pydicom.dcmread(files[0])
        name = names.case(header.PatientID, header.SeriesInstanceUID)
        told = segments(segs / f"{name}.dcm", files)
        for lesion in VISITS[header.StudyDate]:
            drawn = ellipsoid_mask(SHAPE, [lesion]) > 0
            (uid,) = (uid for uid, (_, mask) in told.items() if (mask == drawn).all())
            found.setdefault((header.PatientID, lesion), set()).add((uid, told[uid][0]))
        assert len(told) == len(VISITS[header.StudyDate])
    assert [len(ids) for ids in found.values()] == [1] * 6
    uids = {uid for ids in found.values() for uid, _ in ids}
    assert len(uids) == 6 and {name for ids in found.values() for _, name in ids} == {"L1", "L2", "L3"}
    assert all(pydicom.uid.UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)
    content = b"".join(path.read_bytes() for path in segs.iterdir())
    assert not [secret for secret in dicoms.SECRETS if secret.encode() in content]
    matched.unlink()
    assert "exists already" in run(*asked, code=2).stderr and not matched.exists()


def test_written_segs_are_read_again(export, tmp_path):
    """An import of the series with their new SEGs has the tracking ids as columns, one per lesion."""
    key = tmp_path / "k.key"
    import_dicom(export, tmp_path / "a.csv", key_file=key)
    cohort = matching.match_manifest(tmp_path / "a.csv")[1]
    paths = save_segs(cohort, export, tmp_path / "segs", key_file=key)
    for old in export.glob("*/*/seg"):
        old.unlink()
    for path in paths:
        path.rename(export / path.name)
    again, _ = import_dicom(export, tmp_path / "b.csv", key_file=key, keep_patient_ids=True)
    assert len(again) == len(cohort) == 10
    one = again.table.groupby(["patient_id", "tracking_uid"])["case_id"].nunique()
    assert sorted(one) == [1, 1, 2, 2, 2, 2]
    assert set(again.table["tracking_uid"]) == {
        Pseudonyms.of_file(key).tracking_uid(tumor.metadata["lesion_id"]) for tumor in cohort
    }


def test_what_cannot_be_tracked_is_told(export, tmp_path):
    """Tumors without lesion ids, another key's folder, a mask on another grid, options without the rest."""
    key = tmp_path / "k.key"
    cohort, _ = import_dicom(export, tmp_path / "a.csv", key_file=key)
    with pytest.raises(ValueError, match=r"needs a 'lesion_id'; '.+' has none\. Match the archive's dates"):
        save_segs(cohort, export, tmp_path / "segs", key_file=key)
    _, matched = matching.match_manifest(tmp_path / "a.csv")
    Pseudonyms.of_file(tmp_path / "other.key")
    with pytest.raises(ValueError, match=r"No T1c scan in .* is in the archive"):
        save_segs(matched, export, tmp_path / "segs", key_file=tmp_path / "other.key")
    with pytest.raises(FileNotFoundError, match="Give the one that the archive was made with"):
        save_segs(matched, export, tmp_path / "segs", key_file=tmp_path / "gone.key")
    assert not (tmp_path / "segs").exists()
    asked = ("match", tmp_path / "a.csv", "--seg", tmp_path / "segs")
    assert "Give --dicom, --key-file and --seg" in run(*asked, code=2).stderr


def test_a_tracking_uid_depends_on_key_and_lesion():
    """The same key and lesion give the same UUID, of a form that DICOM allows; nothing else does."""
    one, other = Pseudonyms(b"0" * 16), Pseudonyms(b"1" * 16)
    uid = one.tracking_uid("P1/L1")
    assert uid == one.tracking_uid("P1/L1") and len(uid) <= 44
    assert len({uid, one.tracking_uid("P1/L2"), one.tracking_uid("P2/L1"), other.tracking_uid("P1/L1")}) == 4
