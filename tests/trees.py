"""Small trees of public data sets: names, folders and table columns of the real ones, a few voxels each."""

import json

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SHAPE = (20, 22, 14)
AFFINE = np.array(
    [[-1.0, 0, 0, 10], [0, 1, 0, -12], [0, 0, 2, -8], [0, 0, 0, 1]]
)  # LAS, so sides can go wrong


def voxels(seed, shape=SHAPE):
    """Return an image (nx, ny, nz) of positive whole numbers, another one for each seed."""
    return np.random.default_rng(seed).integers(20, 200, shape).astype(np.int16)


def block(*values, shape=SHAPE):
    """Return a mask with a cube of 4 x 4 x 3 voxels for each value, apart from each other along x."""
    mask = np.zeros(shape, np.uint8)
    for i, value in enumerate(values):
        mask[1 + 6 * i : 5 + 6 * i, 8:12, 5:8] = value
    return mask


def nifti(path, array, affine=AFFINE):
    """Write a NIfTI file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def pair(folder, image, mask, values=(1,), seed=0):
    """Write an image and, unless its name is empty, a mask."""
    nifti(folder / image, voxels(seed))
    if mask:
        nifti(folder / mask, block(*values))


def workbook(path, **sheets):
    """Write an Excel file; each sheet is a list of dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pd.ExcelWriter(path) as writer:
        for name, rows in sheets.items():
            pd.DataFrame(rows).to_excel(writer, sheet_name=name, index=False)


def brats(root, kind, cases, suffix="seg", values=(1, 2, 3), folder=""):
    """Write BraTS cases: ``BraTS-<kind>-<patient>-<visit>`` with all their modalities."""
    for number, case in enumerate(cases):
        name = f"BraTS-{kind}-{case}"
        for modality in ("t1n", "t2w", "t2f"):
            nifti(root / folder / name / f"{name}-{modality}.nii.gz", voxels(99))
        seed = sum(map(ord, name)) + number
        pair(root / folder / name, f"{name}-t1c.nii.gz", f"{name}-{suffix}.nii.gz", values, seed)


def men_rt(root, cases=("0002-1", "0402-1")):
    """Write BraTS-MEN-RT with its clinical table, and the corrected case 0402-1 as it comes: alone."""
    train = root / "BraTS2024-MEN-RT-TrainingData" / "BraTS-MEN-RT-Train-v2"
    for number, case in enumerate(cases):
        name = f"BraTS-MEN-RT-{case}"
        pair(train / name, f"{name}_t1c.nii.gz", f"{name}_gtv.nii.gz", (1,), 300 + number)
    name = "BraTS-MEN-RT-0402-1"
    pair(root / name / name, f"{name}_t1c.nii", f"{name}_gtv.nii", (1,), 402)
    table = [{"BraTS-MEN-RT ID": f"BraTS-MEN-RT-{case}", "Sex": "F", "WHO grade": "1"} for case in cases]
    workbook(root / "Meningioma radiotherapy supplementary clinical data v2.xlsx", Sheet1=table)


def ucsf(root):
    """Write UCSF-BMSR: two exams of a patient and one of another, the last without a mask (a test case)."""
    base = root / "UCSF_BrainMetastases_v1.3" / "UCSF_BrainMetastases_TRAIN"
    for seed, exam in enumerate(("100101A", "100101B", "100102A")):
        for modality in ("T1pre", "FLAIR", "subtraction", "T2Synth", "BraTS-seg"):
            nifti(base / exam / f"{exam}_{modality}.nii.gz", block(2))
        mask = f"{exam}_seg.nii.gz" if exam != "100102A" else ""
        pair(base / exam, f"{exam}_T1post.nii.gz", mask, (1, 1), 500 + seed)
    rows = [
        {"SubjectID": e, "CancerType": "Lung", "Scanner Strength (Tesla)": 1.5}
        for e in ("100101A", "100102A")
    ]
    workbook(root / "TableS1_UCSF_BrainMetastases_SubjectInfo.xlsx", RENAMED=rows)


def gamma_knife(root):
    """Write Brain-TR-GammaKnife: a course with two lesions that overlap, a dose, names as mixed as theirs."""
    folder = root / "Brain-TR-GammaKnife-processed" / "GK.103_1"
    folder.mkdir(parents=True)
    header = {"space": "left-posterior-superior", "space directions": np.diag([1.0, 1.0, 2.0])}
    header["space origin"] = np.zeros(3)
    large, small = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    large[2:10, 2:10, 3:9] = 1
    small[8:12, 8:12, 5:8] = 1
    for name, array in {
        "GK.103_1_MR_t1": voxels(103),
        "GK.103_1_dose": voxels(104),
        "GK.103_1_L_RtOccipital11302018": large,
        "GK.103_1_LR atrium": small,
    }.items():
        nrrd.write(str(folder / f"{name}.nrrd"), array, header)
    lesion = {"unique_pt_id": 103, "Treatment Course": 1, "mri_type": "stable", "Fractions": 1}
    lesion |= {"duration_tx_to_imag (months)": 3}
    workbook(
        root / "Brain-TR-GammaKnife-Clinical-Information.xlsx",
        lesion_level=[
            lesion
            | {
                "Lesion #": 1,
                "Lesion Location": "Rt Occipital",
                "Lesion Name in NRRD files": "gk.103_1_L_Rtoccipital",
            },
            lesion
            | {
                "Lesion #": 2,
                "Lesion Location": "R atrium",
                "Lesion Name in NRRD files": "GK.103_1_LR Atrium",
            },
            lesion | {"unique_pt_id": 104, "Lesion Name in NRRD files": "GK.104_1_LR Atrium"},
        ],
        course_level=[
            {
                "unique_pt_id": 103,
                "Course #": 1,
                "Diagnosis (Only want Mets)": "brain mets",
                "Primary Diagnosis": "NSCLC",
            }
            | {"Age at Diagnosis": 61, "Gender": "F"}
        ],
    )


def dicom_series(folder, image, affine, uid=None):
    """Write an image (nx, ny, nz) as a DICOM series, a file a slice, names in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid = uid or generate_uid()
    for k in range(image.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.Modality, one.PatientID = uid, "MR", "x"
        one.Rows, one.Columns = image.shape[1], image.shape[0]
        one.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        one.SliceThickness = float(spacing[2])
        one.ImageOrientationPatient = [
            *map(float, lps[:3, 0] / spacing[0]),
            *map(float, lps[:3, 1] / spacing[1]),
        ]
        one.ImagePositionPatient = [*map(float, lps[:3] @ [0, 0, k, 1])]
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.PixelData = np.ascontiguousarray(image[:, :, k].T.astype("<i2")).tobytes()
        pydicom.dcmwrite(folder / f"1-{(k * 5) % image.shape[2]:02d}.dcm", one, enforce_file_format=True)


def square(affine, low, high, k):
    """Return the outline, in LPS mm, of voxels `low` to `high` (not included) on slice k."""
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    points = np.array([[x - 0.5, y - 0.5, k, 1] for x, y in corners]) @ affine.T
    return (points[:, :3] * (-1, -1, 1)).tolist()


def vestibular(root):
    """Write Vestibular-Schwannoma-SEG: DICOM and contours of four patients, one of them without images."""
    rows = []
    for number in (1, 2, 63, 70):
        patient, study, series = f"VS-SEG-{number:03d}", f"1.3.6.1.{number}", f"1.3.6.1.4.1.{number}"
        rows += [
            {"Classic Directory Name": f"{patient}/{study}/{series}", "Modality": "T1 image"},
            {"Classic Directory Name": f"{patient}/{study}/{series}.2", "Modality": "T2 image"},
        ]
        if number == 70:
            continue
        base = root / "Vestibular-Schwannoma-SEG" / patient / study / "NA-NA-77442"
        dicom_series(base / series, voxels(number), AFFINE)
        dicom_series(base / f"{series}.2", voxels(1000 + number), AFFINE)
    for row in rows:
        row["Descriptive Directory Name"] = (
            f"{row['Classic Directory Name'].split('/')[0]}/01-01-1994-NA/{row['Modality']}"
        )
    pd.DataFrame(rows).to_csv(root / "DirectoryNamesMappingModality.csv", index=False)
    tumor = [square(AFFINE, (4, 6), (10, 11), k) for k in (4, 5, 6)]
    other = [square(AFFINE, (13, 14), (17, 19), k) for k in (8, 9)]
    structures = {
        1: {"TV": [*tumor, square(AFFINE, (6, 8), (8, 9), 5)], "Cochlea": other, "Test": other},
        2: {"AN": tumor, "Men": other, "Brainstem": other},
        63: {"Men": tumor, "vol 2y": other, "cochlea": other},
        70: {"tv": tumor},
    }
    for number, contours in structures.items():
        folder = root / "contours" / f"vs_gk_{number}_t1"
        folder.mkdir(parents=True)
        listed = [{"structure_name": name, "LPS_contour_points": points} for name, points in contours.items()]
        (folder / "contours.json").write_text(json.dumps(listed))
        (folder.parent / f"vs_gk_{number}_t2").mkdir()
        (folder.parent / f"vs_gk_{number}_t2" / "contours.json").write_text(json.dumps(listed))


def vestibular_nifti(root):
    """Write Vestibular-Schwannoma-SEG as KCL's script converts it."""
    for number in (1, 63):
        pair(root / f"vs_gk_{number}", "vs_gk_t1_refT1.nii.gz", "vs_gk_seg_refT1.nii.gz", (1,), number)
        pair(root / f"vs_gk_{number}", "vs_gk_t2_refT2.nii.gz", "vs_gk_seg_refT2.nii.gz", (1,), 50 + number)


def mc_rc(root):
    """Write VS-MC-RC: masks as NIfTI in other axes than the DICOM series, the table that links them."""
    base = root / "VS-MC-RC-Segmentations_with_pathname_spreadsheet-Release2023"
    masks = base / "VS-MC-RC segmentations 2023"
    uid = "1.3.6.1.4.1.14519.5.2.1.2222"
    mask = block(1)
    turned = nib.Nifti1Image(mask, AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, 1]]))
    nifti(
        masks / "VS-MC-RC-007" / "1995-03-02" / "VS-MC-RC-007_1995-03-02_T1C.nii.gz",
        turned.get_fdata().astype(np.uint8),
        turned.affine,
    )
    nifti(masks / "VS-MC-RC-007" / "1995-03-02" / "VS-MC-RC-007_1995-03-02_T2.nii.gz", mask)
    nifti(masks / "VS-MC-RC-008" / "1996-01-02" / "VS-MC-RC-008_1996-01-02_T1C.nii.gz", mask)
    rows = [
        {"SegmentationPath": f"VS-MC-RC-{n}/{day}/VS-MC-RC-{n}_{day}_{m}.nii.gz", "series_instance_uid": u}
        for n, day, m, u in (
            ("007", "1995-03-02", "T1C", uid),
            ("007", "1995-03-02", "T2", f"{uid}.9"),
            ("008", "1996-01-02", "T1C", f"{uid}.1"),
        )
    ]
    pd.DataFrame(rows).to_csv(base / "VS-MC-RC_segmentation-info_2023.csv", index=False)
    dicom_series(root / "manifest" / "VS-MC-RC-007" / "1995" / "3.000000-T1-4412", voxels(7), AFFINE, uid)


def decathlon(root):
    """Write the Decathlon's Task01: 4-D images of four channels, labels beside them, the Mac's litter."""
    task = root / "Task01_BrainTumour"
    for number in (1, 2):
        channels = np.stack([voxels(10 * number + c) for c in range(4)], axis=-1)
        nifti(task / "imagesTr" / f"BRATS_00{number}.nii.gz", channels)
        nifti(task / "labelsTr" / f"BRATS_00{number}.nii.gz", block(1, 2, 3))
        (task / "imagesTr" / f"._BRATS_00{number}.nii.gz").write_bytes(b"\0")
    nifti(task / "imagesTs" / "BRATS_003.nii.gz", np.stack([voxels(c) for c in range(4)], axis=-1))
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    (task / "dataset.json").write_text(json.dumps({"modality": modality}))


def cheng(root):
    """Write Cheng's slices: patient 100360 with 1-3 alike and 4-5 of another plane, MR-7 with 6; cvind."""
    rng = np.random.default_rng(0)
    patterns = [rng.random((16, 16)) for _ in range(3)]
    for number, (patient, pattern, kind) in enumerate(
        [("100360", 0, 1)] * 3 + [("100360", 1, 1)] * 2 + [("MR-7", 2, 3)], start=1
    ):
        folder = root / ("brainTumorDataPublic_1-766" if number < 5 else "brainTumorDataPublic_767-1532")
        folder.mkdir(parents=True, exist_ok=True)
        image = np.kron(patterns[pattern], np.ones((8, 8))) * 900 + number
        mask = np.zeros((128, 128), np.uint8)
        mask[30:40, 50:70] = 1  # rows 30-39, columns 50-69
        with h5py.File(folder / f"{number}.mat", "w") as file:
            data = file.create_group("cjdata")
            data["image"], data["tumorMask"] = image.T.astype(np.int16), mask.T
            data["label"] = np.array([[float(kind)]])
            data["PID"] = np.array([[ord(c)] for c in patient], np.uint16)
            data["tumorBorder"] = np.zeros((1, 8))
    with h5py.File(root / "cvind.mat", "w") as file:
        file["cvind"] = np.ones((1, 6))
