"""Lesions of an archive → DICOM SEGs whose tracking ids say which lesion is which at every date."""

from pathlib import Path

import numpy as np

import tumorsim
from tumorsim.exceptions import DicomError
from tumorsim.geometry import crop_slices
from tumorsim.io.dicom import find_scans, save_seg
from tumorsim.manifest._pseudonyms import Pseudonyms
from tumorsim.records.columns import is_blank


def save_segs(cohort, folder, output, *, key_file):
    """Write a DICOM SEG for each scan of an archive that was imported from DICOM, a segment per lesion.

    Parameters
    ----------
    cohort : Cohort
        Of `import_dicom`, its tumors with ``lesion_id``, as `tumorsim.matching.match_manifest` gives them.
    folder : str or Path
        The DICOM that the archive was imported from.
    output : str or Path
        Folder of the SEGs, ``<case_id>.dcm``.
    key_file : str or Path
        Key of the import. It also makes a TrackingUID of a lesion's id, which is the same at every date and
        tells nothing of the patient to who lacks the key. TrackingID is the lesion's number, such as L2.

    Returns
    -------
    paths : list of Path
        One per scan of the folder that the archive holds.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no key, a tumor has no ``lesion_id``, or no scan of the folder is in the archive.
    DicomError
        If a mask is not on its scan's grid.
    """
    names, cases = Pseudonyms.of_file(key_file, create=False), {}
    for tumor in cohort:
        if is_blank(tumor.metadata.get("lesion_id")):
            rule = f"Every tumor needs a 'lesion_id'; '{tumor.tumor_id}' has none."
            raise ValueError(f"{rule} Match the archive's dates first: tumorsim match.")
        cases.setdefault(tumor.case.case_id, []).append(tumor)
    scans, paths = find_scans(folder)[0], []
    by_case = {names.case(scan.series.patient, scan.series.uid): scan for scan in scans}
    for case_id in (name for name in cases if name in by_case):
        ids, mask = _lesion_mask(cases[case_id], by_case[case_id])
        own = f"{cases[case_id][0].patient_id}/"  # two patients may have a lesion of one name
        tracking = [(names.tracking_uid(own + one.removeprefix(own)), one.rpartition("/")[2]) for one in ids]
        paths.append(Path(output) / f"{case_id}.dcm")
        save_seg(paths[-1], mask, by_case[case_id], version=tumorsim.__version__, tracking=tracking)
    if not paths:
        rule = f"No T1c scan in '{folder}' is in the archive."
        raise ValueError(f"{rule} Give the folder that it was imported from, and the key of the import.")
    return paths


def _lesion_mask(tumors, scan):
    """Return the ids of a scan's lesions, and their mask (nx, ny, nz), 1 being the first."""
    case = tumors[0].case
    drawn = case.load_mask()
    if drawn.shape != tuple(scan.shape) or not np.allclose(case.affine, scan.affine, atol=1e-3):
        raise DicomError(f"The mask of '{case.case_id}' does not lie on the grid of its DICOM series.")
    ids = list(dict.fromkeys(str(tumor.metadata["lesion_id"]) for tumor in tumors))
    mask = np.zeros(drawn.shape, np.uint16)
    for tumor in tumors:
        inside = mask[crop_slices(tumor.bbox)]
        inside[tumor.select(drawn)] = 1 + ids.index(str(tumor.metadata["lesion_id"]))
    return ids, mask
