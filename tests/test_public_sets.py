"""Public data sets: trees of true names and tables are read as their documentation says."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trees
from typer.testing import CliRunner

from tumorsim import load_cohort, load_dataset
from tumorsim.cli import app
from tumorsim.exceptions import ManifestError
from tumorsim.geometry import to_ras
from tumorsim.public_sets import LAYOUTS, list_scans
from tumorsim.public_sets._slices import _shrink


def read(name, root, **options):
    """Return the cohort, its table and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cohort = load_dataset(name, root, **options)
    return cohort, cohort.table, " ".join(str(w.message) for w in caught)


def test_brats_mets_takes_the_core_and_corrected_labels(tmp_path):
    """Visits stay together, edema is no tumor, a corrected mask of another folder replaces its own."""
    base = tmp_path / "ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData"
    trees.brats(base, "MET", ["00086-000", "00086-001"])
    trees.nifti(tmp_path / "corrected-labels" / "BraTS-MET-00086-001-seg.nii.gz", trees.block(3))
    _, table, told = read("brats-mets", tmp_path)
    assert told == ""
    assert table["patient_id"].unique().tolist() == ["BraTS-MET-00086"]
    assert table.groupby("case_id").size().tolist() == [
        2,
        1,
    ]  # values 1 and 3, 2 is edema; the corrected has 3 only
    assert table["volume_mm3"].tolist() == [96.0] * 3  # 4 x 4 x 3 voxels of 2 mm3
    assert table["visit"].tolist() == ["000", "000", "001"]
    assert set(table["dataset"]) == {"brats-mets"} and set(table["license"]) == {"Synapse DUA"}
    assert set(table["label_type"]) == {"metastasis"} and set(table["mask_value"]) == {"1+3"}


def test_brats_mets_of_later_years(tmp_path):
    """The folders of 2024 and 2025: a resection cavity (4) is no tumor, a scan without T2 is read."""
    for part, case in ((1, "00100-000"), (2, "01000-000")):
        root = tmp_path / f"MICCAI-BraTS2024-MET-Challenge-TrainingData_{part}"
        trees.brats(root, "MET", [case], values=(3, 4, 2))
    (root / "BraTS-MET-01000-000" / "BraTS-MET-01000-000-t2w.nii.gz").unlink()
    _, table, told = read("auto", tmp_path)
    assert told == "" and set(table["dataset"]) == {"brats-mets"}
    assert table["case_id"].tolist() == ["BraTS-MET-00100-000", "BraTS-MET-01000-000"]
    assert table["volume_mm3"].tolist() == [96.0] * 2  # of value 3 alone


@pytest.mark.parametrize(
    ("name", "kind", "cases", "label"),
    [
        ("brats-men", "MEN", ["00004-000"], "meningioma"),
        ("brats-gli", "GLI", ["02405-100", "02405-101"], "glioma"),
    ],
)
def test_other_brats_sets(tmp_path, name, kind, cases, label):
    """Meningiomas and gliomas of BraTS are read alike, and a resection cavity (4) is no tumor."""
    trees.brats(tmp_path, kind, cases, values=(3, 2, 4), folder=f"BraTS-{kind}-Train")
    _, table, _ = read(name, tmp_path)
    assert table["case_id"].tolist() == [f"BraTS-{kind}-{case}" for case in cases]
    assert set(table["label_type"]) == {label} and table["patient_id"].nunique() == 1


def test_men_rt_takes_the_corrected_case(tmp_path):
    """The corrected case is taken from its own folder, the old one listed; the clinical table is joined."""
    trees.men_rt(tmp_path)
    cohort, table, told = read("brats-men-rt", tmp_path)
    assert table["case_id"].tolist() == ["BraTS-MEN-RT-0002-1", "BraTS-MEN-RT-0402-1"]
    assert np.array_equal(cohort[1].case.load_image(), trees.voxels(402))
    assert "is there twice" in told and "TrainingData" in told.partition("not '")[2]
    assert table["Sex"].tolist() == ["F", "F"] and table["WHO grade"].tolist() == [1, 1]
    assert table["patient_id"].tolist() == ["BraTS-MEN-RT-0002", "BraTS-MEN-RT-0402"]


def test_pretreat_is_joined_with_its_table(tmp_path):
    """Its cases bear BraTS names; the sheet `Data` is joined by BraTS_MET_ID."""
    trees.brats(tmp_path / "Pretreat-MetsToBrain-Masks", "MET", ["00086-000", "00090-000"])
    rows = [{"BraTS_MET_ID": "BraTS-MET-00090-000", "Death": 1, "case": "x"}]
    trees.workbook(tmp_path / "Pretreat-MetsToBrain-Masks_clin_20230918.xlsx", Data=rows)
    _, table, _ = read("pretreat-metstobrain", tmp_path)
    by_case = table.groupby("case_id")["Death"].first()
    assert by_case["BraTS-MET-00090-000"] == 1 and np.isnan(by_case["BraTS-MET-00086-000"])


def test_ucsf(tmp_path):
    """The binary mask counts, exams of a patient stay together, one without a mask is listed, not fatal."""
    trees.ucsf(tmp_path)
    _, table, told = read("ucsf-bmsr", tmp_path)
    assert table["case_id"].tolist() == ["UCSF-100101A"] * 2 + ["UCSF-100101B"] * 2
    assert set(table["patient_id"]) == {"UCSF-100101"}
    assert table["CancerType"].fillna("").tolist() == ["Lung", "Lung", "", ""]
    assert "1 of 3" in told and "'UCSF-100102A' has no mask" in told
    scans = list_scans("ucsf-bmsr", tmp_path)
    assert scans["problem"].ne("").tolist() == [False, False, True]


def test_gamma_knife_lesions_have_areas_of_their_own(tmp_path):
    """Each NRRD file is a lesion; its row is found though names differ in case and date; dose is none."""
    trees.gamma_knife(tmp_path)
    cohort, table, _ = read("brain-tr-gammaknife", tmp_path, output=tmp_path / "gk.csv")
    table = table.set_index("lesion_file")
    assert len(table) == 2
    occipital, atrium = table.loc["GK.103_1_L_RtOccipital11302018.nrrd"], table.loc["GK.103_1_LR atrium.nrrd"]
    assert occipital["label_region"] == "occipital" and atrium["label_region"] is None
    assert occipital["Lesion Location"] == "Rt Occipital" and atrium["Lesion #"] == 2
    assert atrium["volume_mm3"] == 96  # the small one keeps the voxels that it shares
    assert occipital["volume_mm3"] == (8 * 8 * 6 - 2 * 2 * 3) * 2
    assert set(table["Primary Diagnosis"]) == {"NSCLC"} and set(table["patient_id"]) == {"GK.103"}
    assert set(table["label_type"]) == {"metastasis"} and set(table["Fractions"]) == {1}
    again = load_cohort(tmp_path / "gk.csv")
    assert again.labels["region"].tolist() == cohort.labels["region"].tolist()
    assert [t.mask_value for t in again] == ["1", "2"] and len(again.cases) == 1


def test_sets_that_are_converted_need_a_place(tmp_path):
    """Without an output there is nowhere to write, and the message says what to give."""
    trees.gamma_knife(tmp_path)
    with pytest.raises(ValueError, match="Give load_dataset an 'output'"):
        load_dataset("brain-tr-gammaknife", tmp_path)
    assert list_scans("brain-tr-gammaknife", tmp_path)["case_id"].tolist() == ["GK.103_1"]


def test_vestibular_schwannomas_from_dicom_and_contours(tmp_path):
    """Image and mask equal the truth voxel for voxel; cochlea is no tumor, 'Men' is a meningioma."""
    trees.vestibular(tmp_path)
    cohort, table, told = read("vestibular-schwannoma-seg", tmp_path, output=tmp_path / "out" / "vs.csv")
    kinds = table.groupby("case_id")["label_type"].apply(sorted)
    assert kinds["VS-SEG-001"] == ["schwannoma"] and kinds["VS-SEG-063"] == ["meningioma"]
    assert kinds["VS-SEG-002"] == ["meningioma", "schwannoma"]
    assert "'VS-SEG-070'" in told and "DirectoryNamesMappingModality.csv" in told
    case = cohort[0].case
    truth = np.zeros(trees.SHAPE, bool)
    truth[4:10, 6:11, 4:7] = True
    truth[6:8, 8, 5] = False  # a contour inside a contour is a hole
    assert np.array_equal(to_ras(case.load_image(), case.affine), to_ras(trees.voxels(1), trees.AFFINE))
    assert np.array_equal(to_ras(case.load_mask(), case.affine) > 0, to_ras(truth, trees.AFFINE))
    assert (tmp_path / "out" / "vs_files").is_dir()
    assert "'VS-SEG-070'" in (tmp_path / "out" / "vs.csv.errors.txt").read_text()


def test_vestibular_schwannomas_as_nifti(tmp_path):
    """KCL's conversion needs no output; the T2 pair is not taken; patient 63 is a meningioma."""
    trees.vestibular_nifti(tmp_path / "data")
    _, table, told = read("vestibular-schwannoma-seg", tmp_path)
    assert table["case_id"].tolist() == ["VS-SEG-001", "VS-SEG-063"] and told == ""
    assert table["label_type"].tolist() == ["schwannoma", "meningioma"]


def test_converted_files_are_reused(tmp_path):
    """A second run converts nothing anew, and does not take the converted files for cases."""
    trees.vestibular(tmp_path)
    first, _, _ = read("auto", tmp_path, output=tmp_path / "vs.csv")
    made = sorted((tmp_path / "vs_files").rglob("*.nii.gz"))
    times = [path.stat().st_mtime_ns for path in made]
    second, _, _ = read("auto", tmp_path, output=tmp_path / "vs.csv")
    assert [path.stat().st_mtime_ns for path in made] == times
    assert second.tumor_ids.tolist() == first.tumor_ids.tolist()


def test_mc_rc_masks_are_brought_to_their_series(tmp_path):
    """A mask in other axes lies where it belongs; T2 is left aside; a series that is not there is listed."""
    trees.mc_rc(tmp_path)
    cohort, table, told = read("vs-mc-rc", tmp_path, output=tmp_path / "vs.csv")
    assert table["case_id"].tolist() == ["VS-MC-RC-007_1995-03-02"]
    assert table["visit"].tolist() == ["1995-03-02"] and table["patient_id"].tolist() == ["VS-MC-RC-007"]
    case = cohort[0].case
    assert np.array_equal(to_ras(case.load_mask(), case.affine), to_ras(trees.block(1), trees.AFFINE))
    assert "VS-MC-RC-008" in told and "is not below the root" in told


def test_mc_rc2(tmp_path):
    """Flat names are read; the scan before contrast is not taken."""
    for modality, values in (("T1", (1,)), ("T1C", (1,)), ("T2", (1,))):
        trees.nifti(tmp_path / f"VS_MC_RC2_123_1992-08-07_{modality}.nii.gz", trees.voxels(len(modality)))
        trees.nifti(tmp_path / "VS_MC_RC2_123_1992-08-07_T1C_seg.nii.gz", trees.block(*values))
    cohort, table, _ = read("vs-mc-rc2", tmp_path)
    assert table["patient_id"].tolist() == ["VS_MC_RC2_123"] and table["visit"].tolist() == ["1992-08-07"]
    assert np.array_equal(cohort[0].case.load_image(), trees.voxels(3))


def test_crossmoda_numbers_its_years_differently(tmp_path):
    """Value 2 is cochlea until 2022, and the tumor outside the canal in 2023."""
    trees.pair(tmp_path / "source_training", "crossmoda_1_ceT1.nii.gz", "crossmoda_1_Label.nii.gz", (1, 2), 1)
    for seed, name in enumerate(("crossmoda2023_etz_7", "crossmoda2023_ukm_8", "crossmoda2023_ldn_9"), 2):
        folder = tmp_path / "TrainingSource"
        trees.pair(folder, f"{name}_ceT1.nii.gz", f"{name}_Label.nii.gz", (1, 2, 3), seed)
    trees.nifti(tmp_path / "target_training" / "crossmoda_106_hrT2.nii.gz", trees.voxels(9))  # no T1c
    _, table, _ = read("crossmoda", tmp_path)
    assert table.groupby("case_id").size().to_dict() == {
        "crossmoda2023_etz_7": 2,
        "crossmoda2023_ldn_9": 2,
        "crossmoda2023_ukm_8": 2,
        "crossmoda_1": 1,
    }


def test_brainmetshare_new_and_old(tmp_path):
    """Both releases are read: named sequences, and numbered ones where 0 is the scan after contrast."""
    new = tmp_path / "brainmetshare-3" / "train" / "Mets_005"
    trees.pair(new, "bravo.nii.gz", "seg.nii.gz", (1,), 5)
    for seed, name in enumerate(("t1_gd", "t1_pre", "flair"), 6):
        trees.nifti(new / f"{name}.nii.gz", trees.voxels(seed))
    old = tmp_path / "mets_stanford_releaseMask_train" / "017"
    for number in range(4):
        trees.nifti(old / str(number) / "volume.nii.gz", trees.voxels(20 + number))
    trees.nifti(old / "seg" / "volume.nii.gz", trees.block(1))
    cohort, table, _ = read("brainmetshare", tmp_path)
    assert table["case_id"].tolist() == ["BrainMetShare-017", "BrainMetShare-Mets_005"]
    assert np.array_equal(cohort[0].case.load_image(), trees.voxels(20))


def test_nyumets(tmp_path):
    """The scan that the lesions were drawn on is taken, no other; StudyID joins the table."""
    study = tmp_path / "imaging" / "patientId" / "41" / "studyId" / "907"
    trees.pair(study, "RTSTRUCT_MRI.nii.gz", "RTSTRUCT_segmentation.nii.gz", (1,), 41)
    trees.nifti(study / "CT1.nii.gz", trees.voxels(1))
    trees.nifti(study.parent / "908" / "CT1.nii.gz", trees.voxels(2))
    rows = [
        {"PatientID": 41, "StudyID": s, "ExpertAdjusted": True, "RelativeTimepoint": s - 907}
        | {"T1": False, "CT1": True, "T2": False, "FLAIR": False, "RTSTRUCT_MRI": s == 907}
        for s in (907, 908)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "nyumets_metadata.csv", index=False)
    split = [{"StudyID": s, "train": s == 907, "val": s == 908, "test": False} for s in (907, 908)]
    pd.DataFrame(split).to_csv(tmp_path / "nyumets_split.csv", index=False)
    _, table, _ = read("nyumets", tmp_path)
    assert table["case_id"].tolist() == ["NYUMets-41-907"] and table["RelativeTimepoint"].tolist() == [0]
    row = table.iloc[0]
    told = {name: str(row[name]) for name in ("RTSTRUCT_MRI", "train", "T2", "val")}  # columns are text
    assert told == {"RTSTRUCT_MRI": "True", "train": "True", "T2": "False", "val": "False"}


def test_decathlon_takes_one_channel(tmp_path):
    """The channel that dataset.json calls t1gd is written alone; edema, 1 here, is no tumor; no test case."""
    trees.decathlon(tmp_path)
    cohort, table, told = read("msd-task01", tmp_path, output=tmp_path / "msd.csv")
    assert (
        table.groupby("case_id").size().to_dict() == {"MSD-BRATS_001": 2, "MSD-BRATS_002": 2} and told == ""
    )
    assert np.array_equal(cohort[0].case.load_image(), trees.voxels(12))
    assert set(table["mask_value"]) == {"2+3"}


def test_slices_become_stacks(tmp_path):
    """Neighbors of a patient that look alike are one stack; another picture or patient begins a new one."""
    trees.cheng(tmp_path)
    (tmp_path / "brainTumorDataPublic_767-1532" / "7.mat").write_bytes(b"broken")
    cohort, table, told = read("cheng", tmp_path, output=tmp_path / "cheng.csv")
    assert table["case_id"].tolist() == ["cheng-0001-0003", "cheng-0004-0005", "cheng-0006-0006"]
    assert table["patient_id"].tolist() == ["cheng-100360"] * 2 + ["cheng-MR-7"]
    assert table["label_type"].tolist() == ["meningioma", "meningioma", "pituitary_adenoma"]
    assert "slice 'brainTumorDataPublic_767-1532/7.mat'" in told
    case = cohort[0].case
    assert case.shape == (128, 128, 3) and case.spacing.round(2).tolist() == [1.96, 1.96, 7.0]
    assert cohort[0].bbox.tolist() == [[50, 30, 0], [70, 40, 3]]  # columns are x, rows are y
    assert np.diag(case.affine)[:2].round(3).tolist() == [
        -1.96,
        -1.96,
    ]  # the image's left is the patient's right


def test_a_slice_that_claims_too_much_is_refused_unread(tmp_path):
    """A file of a few kB whose image claims 4 GB is listed and takes no memory, and so is a broken one."""
    import h5py

    trees.cheng(tmp_path)
    folder = tmp_path / "brainTumorDataPublic_1-766"
    with h5py.File(folder / "2.mat", "r+") as file:
        del file["cjdata"]["image"]
        file["cjdata"].create_dataset("image", (2**16, 2**16), "u1", chunks=(2**10, 2**10))
    with h5py.File(folder / "4.mat", "r+") as file:
        del file["cjdata"]["PID"]
        file["cjdata"].create_group("PID")
    _, table, told = read("cheng", tmp_path, output=tmp_path / "cheng.csv")
    assert {"cheng-0001-0001", "cheng-0003-0003"} < set(table["case_id"]) and "2 of 6" in told
    listed = (tmp_path / "cheng.csv.errors.txt").read_text()
    assert "2.mat': it is no slice of this set (it claims more than 16777216 values)" in listed


def test_shrinking_keeps_the_mean():
    """An image that does not divide into 64 blocks keeps blockwise means."""
    assert _shrink(np.ones((100, 70))).tolist() == np.ones((64, 64)).tolist()
    assert _shrink(np.arange(128.0)[:, None] * np.ones(64))[1].tolist() == [2.5] * 64


@pytest.fixture
def three_types(tmp_path):
    """Return a folder with the three sets of the paper's types, each as it is downloaded."""
    root = tmp_path / "downloads"
    trees.gamma_knife(root / "a")
    trees.men_rt(root / "b" / "c")
    trees.vestibular(root / "d")
    return root


@pytest.mark.filterwarnings("default")  # the command prints what it left out
def test_one_command_rebuilds_the_three_types(three_types, tmp_path):
    """`--layout auto` recognizes three sets at any depth and writes one archive that loads again."""
    output = tmp_path / "three.csv"
    words = ["manifest", str(three_types), "--layout", "auto", "-o", str(output)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    table = load_cohort(output).table
    counts = table.groupby(["dataset", "label_type"]).size().to_dict()
    assert counts == {
        ("brain-tr-gammaknife", "metastasis"): 2,
        ("brats-men-rt", "meningioma"): 2,
        ("vestibular-schwannoma-seg", "meningioma"): 2,
        ("vestibular-schwannoma-seg", "schwannoma"): 2,
    }
    assert "Went on without 2 of 8 scans" in result.output
    listed = (tmp_path / "three.csv.errors.txt").read_text()
    assert "VS-SEG-070" in listed and "is there twice" in listed
    assert {"visit", "license", "patient_id"} <= set(table.columns)


def test_an_exam_in_two_sets_is_taken_once(tmp_path):
    """BraTS-METS and Pretreat share ids: the freely licensed copy is kept, the other listed."""
    trees.brats(tmp_path / "Pretreat-MetsToBrain-Masks", "MET", ["00086-000"])
    trees.brats(
        tmp_path / "ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData", "MET", ["00086-000", "00086-001"]
    )
    _, table, told = read("auto", tmp_path)
    taken = table.drop_duplicates("case_id").set_index("case_id")["dataset"].to_dict()
    assert taken == {"BraTS-MET-00086-000": "pretreat-metstobrain", "BraTS-MET-00086-001": "brats-mets"}
    assert table["patient_id"].nunique() == 1 and "is taken from 'pretreat-metstobrain'" in told


def test_exams_under_other_ids_are_resolved_by_a_table_or_left_out(tmp_path):
    """UCSF exams that BraTS reuses are dropped where a table names both, and all of them where none does."""
    trees.ucsf(tmp_path)
    trees.brats(tmp_path / "ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData", "MET", ["00500-000"])
    _, table, told = read("auto", tmp_path)
    assert set(table["dataset"]) == {"brats-mets"} and "no table below the root says which" in told
    mapping = [{"SubjectID": "100101A", "BraTS_MET_ID": "BraTS-MET-00500-000"}]
    trees.workbook(tmp_path / "BraTS2023_MET_Mapping.xlsx", Sheet1=mapping)
    _, table, told = read("auto", tmp_path)
    assert set(table["case_id"]) == {"BraTS-MET-00500-000", "UCSF-100101B"}
    assert set(table["patient_id"]) == {"BraTS-MET-00500"}
    assert "is case 'BraTS-MET-00500-000' of 'brats-mets'" in told


def test_london_cases_of_crossmoda_give_way(tmp_path):
    """Beside Vestibular-Schwannoma-SEG only Tilburg's cases of crossMoDA are read."""
    trees.vestibular_nifti(tmp_path)
    for seed, name in enumerate(("crossmoda_12", "crossmoda2022_ldn_3", "crossmoda2022_etz_3")):
        trees.pair(tmp_path / "cm", f"{name}_ceT1.nii.gz", f"{name}_Label.nii.gz", (1,), 70 + seed)
    _, table, _ = read("auto", tmp_path)
    assert table.loc[table["dataset"] == "crossmoda", "case_id"].tolist() == ["crossmoda2022_etz_3"]
    problems = list_scans("auto", tmp_path).set_index("case_id")["problem"]
    assert problems.ne("").sum() == 2 and "under another id" in problems["crossmoda_12"]


def test_what_overlaps_is_not_converted(tmp_path):
    """Task01 beside BraTS-GLI is left out before its files are cut."""
    trees.decathlon(tmp_path)
    trees.brats(tmp_path, "GLI", ["02405-100"])
    _, table, told = read("auto", tmp_path, output=tmp_path / "gliomas.csv")
    assert set(table["dataset"]) == {"brats-gli"} and "2 of 3 scans" in told
    assert not (tmp_path / "gliomas_files").exists()


def test_damaged_cases_are_listed_not_fatal(tmp_path):
    """A truncated mask, an empty one, one of another grid: each is named with its reason, the rest read."""
    cases = [f"0000{n}-000" for n in range(4)]
    trees.brats(tmp_path, "MEN", cases)
    bad = [tmp_path / f"BraTS-MEN-{case}" / f"BraTS-MEN-{case}-seg.nii.gz" for case in cases]
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    trees.nifti(bad[2], trees.block())
    trees.nifti(bad[3], trees.block(1)[1:])
    _, table, told = read("brats-men", tmp_path, output=tmp_path / "men.csv")
    assert set(table["case_id"]) == {"BraTS-MEN-00000-000"} and "3 of 4" in told
    listed = (tmp_path / "men.csv.errors.txt").read_text().splitlines()
    assert len(listed) == 3 and "no voxel of value 1+3" in listed[1] and "different shapes" in listed[2]


def test_damaged_files_of_converted_sets_are_listed(tmp_path):
    """Contours without points, a task that is a list, a broken 4-D file: listed with their cases."""
    trees.vestibular(tmp_path)
    (tmp_path / "contours" / "vs_gk_2_t1" / "contours.json").write_text(
        '[{"structure_name": "TV\\u001b[2J"}]'
    )
    trees.decathlon(tmp_path)
    broken = tmp_path / "Task01_BrainTumour" / "imagesTr" / "BRATS_001.nii.gz"
    packed = bytearray(broken.read_bytes())
    packed[-9] ^= 0xFF  # voxels of the last channel, which nobody needs: only the checksum tells
    broken.write_bytes(packed)
    _, table, _ = read("auto", tmp_path, output=tmp_path / "a.csv")
    assert set(table["case_id"]) == {"VS-SEG-001", "VS-SEG-063", "MSD-BRATS_002"}
    listed = (tmp_path / "a.csv.errors.txt").read_text()
    assert "VS-SEG-002': damaged files: KeyError" in listed and "MSD-BRATS_001': damaged files" in listed
    (broken.parent.parent / "dataset.json").write_text('{"modality": [1]}')
    with pytest.raises(ManifestError, match="damaged files: AttributeError"):
        read("msd-task01", tmp_path, output=tmp_path / "b.csv")


def test_mistakes_are_told(tmp_path):
    """No folder, no such layout, no case, no usable case: one clear line each, and exit code 2."""
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_dataset("auto", tmp_path / "none")
    with pytest.raises(ValueError, match="must be one of 'auto', 'pretreat-metstobrain'"):
        load_dataset("brats", tmp_path)
    with pytest.raises(ValueError, match="No case of 'brats-men' lies below"):
        load_dataset("brats-men", tmp_path)
    trees.pair(tmp_path / "a", "BraTS-MEN-00001-000-t1c.nii.gz", "", seed=1)
    with pytest.raises(ManifestError, match="has no mask"):
        load_dataset("brats-men", tmp_path)
    result = CliRunner().invoke(
        app, ["manifest", str(tmp_path), "--layout", "brats", "-o", str(tmp_path / "a.csv")]
    )
    assert result.exit_code == 2 and "must be one of" in result.output
    assert not (tmp_path / "a.csv").exists()


def test_every_layout_has_a_test():
    """No layout comes into the table without a tree that is read above."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in LAYOUTS if f'"{name}"' not in source] == []


def test_examples_are_real_tumors_of_three_types():
    """The package holds 12 whole scans with masks, attributed, that the weights of the demo never saw."""
    cohort = load_dataset("examples")
    assert len(cohort) == len(set(cohort.patient_ids)) == 12
    assert (cohort.table["license"] == "CC BY 4.0").all()
    assert cohort.table["source"].str.contains("figshare.1512427").all()
    for tumor in cohort:
        assert tumor.load_mask().any() and tumor.case.shape[2] >= 5
    from tumorsim import TumorEmbedder

    assert not TumorEmbedder.from_pretrained("t1c-v6-simulated").trained_on(cohort).any()
    assert TumorEmbedder.from_pretrained("t1c-v6").trained_on(cohort).all()
    with pytest.raises(ValueError, match="'brats-men' is not in the package"):
        load_dataset("brats-men")
