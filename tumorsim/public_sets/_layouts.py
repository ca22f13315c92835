"""Public data sets: where each keeps its scans and masks, what its masks mean, which tables describe it."""

from dataclasses import dataclass

__all__ = ["LAYOUTS", "Layout"]

_BRATS = (r"(?P<case>(?P<patient>BraTS-{}-\d{{5}})-(?P<visit>\d{{3}}))-t1c\.nii(\.gz)?",)


@dataclass(frozen=True)
class Layout:
    """One public data set.

    Names are regular expressions or templates over the groups ``case``, ``patient`` and ``visit`` that
    `images` find. All paths are below the root that the user gives, with ``/``; letter case does not count.
    """

    title: str
    images: tuple  # regular expressions of T1c files, matched at a path's end, from the start of a name
    masks: tuple = ()  # templates relative to the image's folder, without suffix; the first there is counts
    overlay: str = ""  # template of folder and name of a mask that replaces it, in any place
    type: str = ""  # label_type of every tumor
    mask_value: str = ">0"
    license: str = ""
    patient_id: str = "{patient}"
    case_id: str = "{case}"
    within: str = ""  # regular expression that the path must hold for 'auto' to take it for this set
    special: tuple = ()  # (regular expression of case ids, cells that differ there)
    tables: tuple = ()  # names of tables, with * and ?; a row is joined by the case, else the patient
    key: str = ""  # column of these tables that holds the id; without one, that whose values are ids
    key_id: str = ""  # template of the id in `key`, where it is not case_id or patient_id
    overlaps: tuple = ()  # (layout, regular expression of case ids here): patients of it under other ids
    reader: str = ""  # function of `_readers` that makes the rows, where files must be converted


LAYOUTS = {
    "pretreat-metstobrain": Layout(
        "Pretreat-MetsToBrain-Masks",
        images=(_BRATS[0].format("MET"),),
        masks=("{case}-seg",),
        type="metastasis",
        mask_value="1+3",
        license="CC BY 4.0 (verify)",
        within=r"Pretreat-MetsToBrain-Masks",
        tables=("Pretreat-MetsToBrain-Masks_clin*.xlsx",),
    ),
    "brats-mets": Layout(
        "BraTS-METS 2023-2025",
        images=(_BRATS[0].format("MET"),),
        masks=("{case}-seg",),
        overlay="corrected-labels/{case}-seg",
        type="metastasis",
        mask_value="1+3",
        license="Synapse DUA",
    ),
    "brats-men": Layout(
        "BraTS-MEN 2023",
        images=(_BRATS[0].format("MEN"),),
        masks=("{case}-seg",),
        type="meningioma",
        mask_value="1+3",
        license="Synapse DUA",
    ),
    "brats-men-rt": Layout(
        "BraTS-MEN-RT 2024",
        images=(r"(?P<case>(?P<patient>BraTS-MEN-RT-\d{4})-(?P<visit>\d+))_t1c\.nii(\.gz)?",),
        masks=("{case}_gtv",),
        type="meningioma",
        license="CC BY-NC 4.0",
        tables=("*eningioma*radiotherapy*clinical*.xlsx", "*MEN-RT*clinical*.xlsx"),
    ),
    "brats-gli": Layout(
        "BraTS-GLI 2024",
        images=(_BRATS[0].format("GLI"),),
        masks=("{case}-seg",),
        type="glioma",
        mask_value="1+3",
        license="CC BY-NC",
    ),
    "ucsf-bmsr": Layout(
        "UCSF-BMSR",
        images=(r"(?P<case>(?P<patient>\d{6})(?P<visit>[A-Z]))_T1post\.nii(\.gz)?",),
        masks=("{case}_seg",),
        type="metastasis",
        license="UCSF non-commercial DUA",
        patient_id="UCSF-{patient}",
        case_id="UCSF-{case}",
        tables=("TableS1_UCSF_BrainMetastases_SubjectInfo*.xlsx",),
        key="SubjectID",
        key_id="{case}",
        overlaps=(("brats-mets", r"UCSF-"), ("pretreat-metstobrain", r"UCSF-")),
    ),
    "brain-tr-gammaknife": Layout(
        "Brain-TR-GammaKnife",
        images=(r"(?P<case>(?P<patient>GK\.\d+)_(?P<visit>\d+))_MR_t1\.nrrd",),
        type="metastasis",
        license="CC BY 4.0 (verify)",
        tables=("*.xlsx",),
        reader="read_gamma_knife",
    ),
    "vestibular-schwannoma-seg": Layout(
        "Vestibular-Schwannoma-SEG",
        images=(
            r"vs_gk_(?P<case>(?P<patient>\d+))/vs_gk_t1_refT1\.nii(\.gz)?",
            r"vs_gk_(?P<case>(?P<patient>\d+))_t1/contours\.json",
        ),
        masks=("vs_gk_seg_refT1",),
        type="schwannoma",
        license="CC BY 4.0",
        patient_id="VS-SEG-{patient:0>3}",
        case_id="VS-SEG-{case:0>3}",
        special=((r"VS-SEG-063", {"label_type": "meningioma"}),),
        reader="read_vestibular_schwannoma",
    ),
    "vs-mc-rc": Layout(
        "Vestibular-Schwannoma-MC-RC",
        images=(
            r"VS-MC-RC segmentations[^/]*/(?P<patient>[^/]+)/(?P<visit>[^/]+)/"
            r"(?P<case>[^/]+)_(ce)?T1[^/_]*\.nii(\.gz)?",
        ),
        type="schwannoma",
        license="CC BY 4.0",
        case_id="{patient}_{visit}",
        tables=("*segmentation-info*.csv",),
        reader="read_series_masks",
    ),
    "vs-mc-rc2": Layout(
        "Vestibular-Schwannoma-MC-RC2",
        images=(r"(?P<case>(?P<patient>VS_MC_RC2_\d+)_(?P<visit>\d{4}-\d\d-\d\d))_T1C\.nii(\.gz)?",),
        masks=("{case}_T1C_seg",),
        type="schwannoma",
        license="not verified",
    ),
    "crossmoda": Layout(
        "crossMoDA",
        images=(r"(?P<case>(?P<patient>crossmoda(20\d\d)?(_(ldn|etz|ukm))?_\d+))_ceT1\.nii(\.gz)?",),
        masks=("{case}_Label",),
        type="schwannoma",
        mask_value="1",
        license="CC BY-NC-SA 4.0",
        special=((r"crossmoda2023", {"mask_value": "1+2"}),),  # inside and outside the canal; 3 is cochlea
        overlaps=(("vestibular-schwannoma-seg", r"crossmoda(20\d\d_ldn)?_\d"),),
    ),
    "brainmetshare": Layout(
        "BrainMetShare",
        images=(
            r"(?P<case>(?P<patient>Mets_\w+))/bravo\.nii(\.gz)?",
            r"mets_stanford_release[^/]*/(?P<case>(?P<patient>[^/]+))/0/volume\.nii(\.gz)?",
        ),
        masks=("seg", "../seg/volume"),
        type="metastasis",
        license="Stanford DUA (verify)",
        patient_id="BrainMetShare-{patient}",
        case_id="BrainMetShare-{case}",
    ),
    "nyumets": Layout(
        "NYUMets-Brain",
        images=(r"patientId/(?P<patient>[^/]+)/studyId/(?P<visit>(?P<case>[^/]+))/RTSTRUCT_MRI\.nii(\.gz)?",),
        masks=("RTSTRUCT_segmentation",),
        type="metastasis",
        license="not verified",
        patient_id="NYUMets-{patient}",
        case_id="NYUMets-{patient}-{case}",
        tables=("*.csv",),
        key="StudyID",
        key_id="{visit}",
    ),
    "msd-task01": Layout(
        "Medical Segmentation Decathlon, Task01 BrainTumour",
        images=(r"imagesTr/(?P<case>(?P<patient>BRATS_\d{3}))\.nii(\.gz)?",),
        masks=("../labelsTr/{case}",),
        type="glioma",
        mask_value="2+3",  # 1 is edema here
        license="CC BY-SA 4.0",
        patient_id="MSD-{patient}",
        case_id="MSD-{case}",
        overlaps=(("brats-gli", r"MSD-"),),
        reader="read_decathlon",
    ),
    "cheng": Layout(
        "Cheng brain tumor slices (figshare 1512427)",
        images=(r"(?P<case>(?P<patient>\d+))\.mat",),
        within=r"brainTumorDataPublic",
        license="CC BY 4.0",
        reader="read_slices",
    ),
}
