"""A folder of DICOM → converted scans, pseudonyms, and a manifest of their tumors."""

import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tumorsim._validation import check_pattern, counted
from tumorsim.exceptions import DicomError, ManifestError
from tumorsim.geometry import crop_slices, select_mask
from tumorsim.io import save_nifti
from tumorsim.io.dicom import draw_tumors, find_scan, find_scans, is_tumor, modality_of, read_regions
from tumorsim.manifest._build import save_manifest
from tumorsim.manifest._formats import write_table
from tumorsim.manifest._lesions import tumors_from_case
from tumorsim.manifest._pseudonyms import Pseudonyms, known_id
from tumorsim.records import Case, Cohort
from tumorsim.records.columns import id_variants

_NOBODY = "PatientID is empty or names nobody, as NA and ANONYMOUS do"
_REPORT = ("status", "patient_id", "case_id", "visit", "modality", "n_files", "reason")


def import_dicom(
    folder, output, *, key_file=None, keep_patient_ids=False, series=None, include=None, exclude=None,
    by_slice_location=False, progress=False, **lesions,
):  # fmt: skip
    """Turn a folder of mixed DICOM into a manifest of tumors, without the patients' names, scan by scan.

    Parameters
    ----------
    folder : str or Path
        A PACS export: any number of patients, studies and series, in files of any name.
    output : str or Path
        The manifest to write, CSV or Parquet by its suffix. Beside it, in ``<stem>_files/``: each T1c scan
        and its mask as NIfTI; ``scans.csv``, the scan table of all of them; ``series.csv``, the report.
    key_file : str or Path, optional
        Key of the pseudonyms, made where there is none. Default: ``<stem>.key`` beside the manifest. With the
        same key a patient imported again keeps the pseudonym.
    keep_patient_ids : bool, default=False
        Write PatientID and study date as they are. Names, birth dates and the like are left out in any case.
    series : str, optional
        Pattern that says which MR series are T1c, instead of the rule of `io.dicom.t1c_objection`.
    include, exclude : str, optional
        Patterns of the names of regions that are tumors, and that are not; see `io.dicom.is_tumor`.
    by_slice_location : bool, default=False
        Place slices by SliceLocation where an anonymizer gave all of a series one position.
    progress : bool, default=False
        Show progress bars.
    **lesions
        ``mask_value``, ``min_volume_mm3``, ``merge_distance_mm``, ``by_value`` as in `tumors_from_case`. A
        mask has one value per region.

    Returns
    -------
    cohort : Cohort
        What `load_cohort` returns for the manifest. Segments of a SEG that are tracked have the further
        columns ``tracking_uid`` and ``tracking_id``: keyed hashes, or with `keep_patient_ids` as they are.
    report : list of dict
        One per series or damaged file: ``status`` ('tumors', 'no tumors', 'mask', 'skipped', 'damaged'), ids,
        ``visit`` (study date, moved by a secret number of days of the patient's), ``modality``, ``n_files``,
        ``reason``; and ``where`` (for damaged pixels also ``file``), paths, which may name patients and are
        therefore not in ``series.csv``.

    Raises
    ------
    FileNotFoundError, DicomError
        If there is no folder, or no DICOM in it.
    ManifestError
        If no scan has a tumor, with the reasons; what was converted stays.
    """
    for name, pattern in (("series", series), ("include", include), ("exclude", exclude)):
        if pattern is not None:
            check_pattern(pattern, name)
    output = Path(output)
    reading = {"by_slice_location": by_slice_location, "progress": progress}
    scans, skipped, damaged = find_scans(folder, series, **reading)
    names = Pseudonyms.of_file(key_file or output.with_suffix(".key"))
    variants = id_variants(sorted({known_id(scan.series.patient) for scan in scans}))
    if variants:  # without the ids, which may be names
        which = "PatientIDs that differ only in letter case or leading zeros are taken for different patients"
        what = f"{counted(len(variants), 'patient')} may have several ids: {which}."
        warnings.warn(f"{what} Write one id, if they are one.", stacklevel=2)
    hidden = (lambda kind, value: value) if keep_patient_ids else names.tracking
    files = output.with_name(f"{output.stem}_files")
    files.mkdir(0o700, parents=True, exist_ok=True)  # faces and dates: for the owner alone

    def about(one):
        known, date = known_id(one.patient), one.about["StudyDate"]
        ids = {"patient_id": known, "visit": date}
        if not keep_patient_ids:
            ids = {"patient_id": known and names.patient(known), "visit": known and names.visit(known, date)}
        where = os.path.relpath(os.path.dirname(one.files[0]), folder)
        return ids | {"modality": modality_of(one), "n_files": len(one.files), "where": where}

    report, tumors, table = [], [], []
    masks = {id(one): (one, "no tumors of it could be used") for scan in scans for one in scan.masks}
    for scan in tqdm(scans, "converting", disable=None if progress else True, leave=False):
        line = about(scan.series) | {"status": "skipped", "reason": ""}
        report.append(line)
        line["case_id"] = names.case(scan.series.patient, scan.series.uid)
        try:
            if not line["patient_id"]:
                raise DicomError(f"{_NOBODY}, so it is unknown whose scan it is. Write ids into the files.")
            row = {name: line[name] for name in ("patient_id", "case_id", "visit")}
            row["image"] = _save(files / f"{line['case_id']}_t1c.nii.gz", scan.load_image(), scan.affine)
            table.append(row)
            line["status"] = "no tumors"
            found, notes = _tumors_of(scan, row, files, include, exclude, lesions, hidden)
            line |= {"status": "tumors", "reason": "; ".join([counted(len(found), "tumor"), *notes])}
            tumors += found
            masks |= {id(one): (one, "") for one in scan.masks}
        except ValueError as err:
            line["reason"] = getattr(err, "reason", str(err))
            if getattr(err, "file", None):
                line["file"] = os.path.relpath(err.file, folder)
    for one, reason in [*masks.values(), *skipped]:
        report.append(about(one) | {"status": "skipped" if reason else "mask", "reason": reason})
    report += [{"status": "damaged", "n_files": 1, "reason": r, "where": where} for where, r in damaged]
    _write_tables(files, table, report)
    if not tumors:
        reasons = {}
        for line in report:
            what = f"{line.get('modality', 'file')}: {line['reason']}"
            reasons.setdefault(what, []).append(line.get("file", line["where"]))
        more = {what: f" and {len(where) - 1} more" if where[1:] else "" for what, where in reasons.items()}
        listed = "".join(f"\n  {where[0]}{more[what]} {what}" for what, where in reasons.items())
        raise ManifestError(
            f"No tumor was found in '{folder}': {counted(len(table), 'T1c scan')} could be read, none with a "
            f"usable SEG or RTSTRUCT. '{files / 'scans.csv'}' lists the scans: fill in masks of your own, "
            f"and give it to 'tumorsim manifest'. Reasons, as in '{files / 'series.csv'}':{listed}"
        )
    cohort = Cohort(tumors)
    _write_private(output, lambda: save_manifest(cohort, output))
    return cohort, report


def load_dicom_case(
    folder, *, series=None, include=None, exclude=None, key_file=None, patient_id=None, with_mask=True
):
    """Read the T1c scan of a new patient from a folder of DICOM, with its SEG or RTSTRUCT.

    Parameters
    ----------
    folder : str or Path
        With one T1c series; of several, the one that a SEG or RTSTRUCT was drawn on.
    series, include, exclude : str, optional
        As in `import_dicom`.
    key_file : str or Path, optional
        The key that the archive was imported with: patient and case then have the ids that they have there.
        Default: patient ``"unknown"``, case ``"query"``.
    patient_id : str, optional
        Goes before the key's pseudonym.
    with_mask : bool, default=True
        Whether to read masks.

    Returns
    -------
    case : Case
        In memory; without a mask where there is none, or no region of it is a tumor.
    scan : io.dicom.Scan
        The source, for `io.dicom.save_seg`.

    Raises
    ------
    FileNotFoundError, DicomError
        If there is not one such series, or files are damaged.
    """
    scan = find_scan(folder, series)
    ids = {"patient_id": patient_id or "unknown", "case_id": "query"}
    if key_file is not None:
        names = Pseudonyms.of_file(key_file, create=False)
        if not patient_id and not known_id(scan.series.patient):
            raise DicomError(f"{_NOBODY}, so the key makes no pseudonym of it. Give a patient id.")
        ids["patient_id"] = patient_id or names.patient(scan.series.patient)
        ids["case_id"] = names.case(scan.series.patient, scan.series.uid)
    mask, _, notes = draw_tumors(scan, include, exclude) if with_mask else (None, [], scan.notes)
    if with_mask and mask is None and scan.masks:
        notes.append(_no_tumors(scan))
    if notes:
        warnings.warn("; ".join(notes), stacklevel=2)
    mask = None if mask is None else (mask, scan.affine)
    return Case((scan.load_image(), scan.affine), mask, **ids), scan


def survey_dicom(folder, *, series=None, include=None, exclude=None, by_slice_location=False):
    """Yield a line on what `import_dicom` would do with each series or damaged file; write nothing.

    Descriptions, paths and names of regions are the files' own, and may name patients: for the screen.
    """
    scans, skipped, damaged = find_scans(folder, series, by_slice_location=by_slice_location)
    verdicts = []
    for scan in scans:
        notes = f" ({'; '.join(scan.notes)})" if scan.notes else ""
        shape = " x ".join(map(str, scan.shape))
        verdicts.append((scan.series, f"T1c, {shape}, masks: {len(scan.masks)}{notes}"))
    for one in {id(one): one for scan in scans for one in scan.masks}.values():
        try:
            regions = [r for path in one.files for r in read_regions(path, one.kind)]
        except DicomError as err:
            skipped.append((one, err.reason))
            continue
        names = [f"{r.name!r}{'' if is_tumor(r, include, exclude) else ' (no tumor)'}" for r in regions]
        verdicts.append((one, f"mask: {', '.join(names) or 'no region'}"))
    for one, verdict in [*verdicts, *((one, f"skipped: {reason}") for one, reason in skipped)]:
        where = os.path.relpath(os.path.dirname(one.files[0]), folder)
        name = one.about["SeriesDescription"] or one.about["ProtocolName"]
        yield f"{where} [{one.about['Modality']} {name!r}, {counted(len(one.files), 'file')}] {verdict}"
    for where, reason in damaged:
        yield f"{where} damaged: {reason}"


def _tumors_of(scan, row, files, include, exclude, lesions, hidden):
    """Return the tumors (Cohort) of a converted scan and notes; name the written mask in the scan's `row`."""
    mask, regions, notes = draw_tumors(scan, include, exclude)
    if mask is None:
        raise DicomError("; ".join([_no_tumors(scan), *notes]))
    path = _save(files / f"{row['case_id']}_mask.nii.gz", mask, scan.affine)
    case = Case(row["image"], path, case_id=row["case_id"], patient_id=row["patient_id"])
    found = tumors_from_case(case, metadata={"visit": row["visit"]}, **lesions)
    row["mask"] = path
    if any(any(region.tracking) for region in regions):
        for tumor in found:
            inside = mask[crop_slices(tumor.bbox)]
            counts = np.bincount(inside[select_mask(inside, tumor.mask_value)], minlength=len(regions) + 1)
            # Regions merged into one lesion lie in its box whole; neighbors only reach into it
            own = [i for i, n in enumerate(counts) if n and (n == counts.max() or n == (mask == i).sum())]
            for at, name in enumerate(("tracking_uid", "tracking_id")):
                texts = [regions[i - 1].tracking[at] for i in own]
                tumor.metadata[name] = "; ".join(hidden(name, one) for one in texts if one) or None
    return found, notes


def _no_tumors(scan):
    """Say why a scan has no tumors."""
    if not scan.masks:
        return "no SEG or RTSTRUCT was drawn on it"
    return (
        "no region of its SEG or RTSTRUCT is a tumor by its name; name tumors with a pattern (--roi), "
        "and see the names with --dry-run"
    )


def _save(path, array, affine):
    """Write NIfTI that only its owner can read and return its path as text."""
    _write_private(path, lambda: save_nifti(path, array, affine))
    return str(path)


def _write_private(path, write):
    """Write a file; where it is new, only its owner can read it."""
    known = path.exists()
    write()
    if not known:
        path.chmod(0o600)


def _write_tables(files, table, report):
    """Write the scan table and the report of series; neither holds a path or text of the DICOM."""
    import pandas as pd

    scans = pd.DataFrame(table, columns=["patient_id", "case_id", "visit", "image", "mask"])
    for column in ("image", "mask"):
        scans[column] = [Path(p).name if isinstance(p, str) else None for p in scans[column]]
    for name, frame in (("scans.csv", scans), ("series.csv", pd.DataFrame(report, columns=_REPORT))):
        _write_private(files / name, partial(write_table, files / name, frame))
