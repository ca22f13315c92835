"""Commands on new scans, and on how good answers are: query, segment, match, evaluate."""

import json
from pathlib import Path

from typer import confirm

from tumorsim._validation import counted
from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, check_folder, check_output, say
from tumorsim.cli._parse import parse_aspects, parse_exclude, parse_numbers, parse_where, split_names

Box = tuple[int, int, int, int, int, int]


@app.command(
    epilog="\b\nExamples:\n"
    "  tumorsim query index new.nii.gz --mask mask.nii.gz\n"
    "  tumorsim query index new.nii.gz --box 90 60 40 120 95 70 --model model.safetensors \\\n"
    "      --where type=meningioma --where 'volume_mm3>=500' --report answer.html\n\n"
    "\b\nStraight from DICOM, with its RTSTRUCT or SEG where there is one:\n"
    "  tumorsim query index --dicom new_patient --key-file archive.key --exclude same_patient\n\n"
    "\b\nA table of scans, or a manifest; one sheet per scan, index.html leads to them:\n"
    "  tumorsim query index week.csv --report week\n\n"
    "\b\nBy how the lesions changed since an earlier scan:\n"
    "  tumorsim query index june.nii.gz --mask june_mask.nii.gz --before march.nii.gz \\\n"
    "      --mask-before march_mask.nii.gz --dates 2024-03-01,2024-06-03 --aspect course=1\n\n"
    "Without --mask and --box the model proposes the lesions. The report names the tumors and shows them "
    "up to 30 mm around; nothing is sent anywhere."
)
def query(
    index_dir: opt.argument(Path, "Folder of the index.", "INDEX"),
    scan: opt.argument(
        Path | None, "T1c image (NIfTI or NRRD), or a table of scans or tumors.", "SCAN"
    ) = None,
    model: opt.Model = None,
    mask: opt.path("Mask of the tumors, on the image's grid.") = None,
    box: opt.option(Box | None, "The tumor's box in voxels, half-open.", metavar="X0 Y0 Z0 X1 Y1 Z1") = None,
    patient_id: opt.text("The patient, for --exclude same_patient.") = None,
    case_id: opt.text("The scan's id, for --exclude same_case.") = None,
    n_neighbors: opt.option(int, "Neighbors per tumor.", "--n-neighbors", "-n", min=1) = 5,
    where: opt.texts("Condition, such as type=a,b or volume_mm3>=500.") = None,
    exclude: opt.text("Leave out same_patient, same_case, or ids: a,b.") = None,
    aspect: opt.Aspect = None,
    max_per_patient: opt.option(int, "Tumors of one patient in an answer.", min=1) = 1,
    alpha: opt.option(float, "No close match up to this p-value.", min=0, max=1) = 0.05,
    calibrate: opt.texts("Condition on what calibrates p-values.") = None,
    vote_calibration: opt.path("File of 'evaluate --calibrate-votes'.") = None,
    show: opt.text("Further columns, such as dose_gy,control_12m.") = None,
    report: opt.path("HTML answer sheet; of a table, a folder of them.") = None,
    as_json: opt.flag("Print the answer as JSON.", "--json") = False,
    overwrite: opt.Overwrite = False,
    full: opt.flag("Put whole heads, with their faces, into the report; asks first.", "--full") = False,
    output: opt.path("Write the answer as CSV.", "--output", "-o") = None,
    mask_value: opt.MaskValue = ">0",
    min_volume: opt.MinVolume = 14.0,
    merge_distance: opt.MergeDistance = 2.0,
    by_value: opt.ByValue = False,
    threshold: opt.Threshold = 0.5,
    max_lesions: opt.option(int, "Proposed lesions that are kept, largest first.", min=1) = 5,
    accept: opt.text("Proposed lesions that you have looked at and take for tumors, such as 1,3.") = None,
    keep_same: opt.flag(
        "Keep the query's own scan and patient, marked and never counted.", "--keep-same"
    ) = False,
    device: opt.Device = "auto",
    dicom: opt.PatientDicom = None,
    key_file: opt.path("Key that the archive was imported with.") = None,
    series: opt.SeriesPattern = None,
    roi: opt.Roi = None,
    exclude_roi: opt.ExcludeRoi = None,
    before: opt.path("Earlier scan of the patient, for --aspect course=1.") = None,
    mask_before: opt.path("Mask of the earlier scan.") = None,
    dates: opt.text("Both dates: 2024-03-01,2024-06-03.") = None,
):
    """Find the tumors of an archive that are most like a new one."""
    from tumorsim.index import TumorIndex
    from tumorsim.manifest import write_table
    from tumorsim.retrieval import answer_table, find_similar, is_table, load_embedder
    from tumorsim.weights import find_weights

    if index_dir.is_file():
        rule = f"INDEX must be the folder of an index. Got the file '{index_dir}'."
        raise ValueError(f"{rule} Write: tumorsim query INDEX SCAN.")
    source = _one_source(scan, dicom)
    many = is_table(source) and (report is None or report.suffix.lower() not in (".html", ".htm"))
    if many:
        check_folder(report, "index.html", "answers.json", overwrite=overwrite)
    check_output(output, None if many else report, overwrite=overwrite)
    if full:
        if report is None:
            raise ValueError("--full is for the report. Give --report too.")
        confirm(f"Whole heads show faces. Write them into '{report}'?", abort=True)
    index = TumorIndex.load(index_dir)
    conditions, calibration = (parse_where(texts, index.metadata_) for texts in (where, calibrate))
    options = {"aspects": parse_aspects(aspect), "exclude": parse_exclude(exclude)}
    options |= {"where": conditions, "max_per_patient": max_per_patient, "n_neighbors": n_neighbors}
    options |= {"alpha": alpha, "calibration": calibration, "vote_calibration": vote_calibration}
    options |= {"mask": mask, "box": box, "patient_id": patient_id, "case_id": case_id}
    options |= {"mask_value": mask_value, "min_volume_mm3": min_volume, "by_value": by_value}
    options |= {"merge_distance_mm": merge_distance, "threshold": threshold, "max_lesions": max_lesions}
    options |= {"series": series, "roi": roi, "exclude_roi": exclude_roi, "key_file": key_file}
    options |= {"before": before, "mask_before": mask_before, "dates": split_names(dates)}
    options |= {"show": split_names(show) or (), "keep_same": keep_same}
    options |= {} if accept is None else {"accept": parse_numbers(accept, "--accept")}
    model = find_weights(model, progress=True)
    embedder, names = load_embedder(model, device=device), {"archive_name": index_dir, "model_name": model}
    if many:
        answers, neighbors = answer_table(
            embedder, index, source, report, full=full, progress=True, **names, **options
        )
        texts = [answer["text"] for answer in answers if "text" in answer]
    else:
        answers = find_similar(embedder, index, source, **options)
        texts, neighbors = [answers], answers.to_frame()
    if as_json:
        say(json.dumps(answers if many else answers.to_dict(), indent=1, default=str))
    else:
        say("\n".join(map(str, texts)))
    if output is not None:
        write_table(output, neighbors)
        say(f"Wrote {output}.", err=as_json)
    if report is not None and many:
        say(f"Wrote {report}: one answer sheet per scan; open index.html.", err=as_json)
    elif report is not None:
        say(f"Wrote {answers.save_html(report, full=full, **names)}.", err=as_json)


@app.command(
    epilog="\b\nExample:\n  tumorsim evaluate archive.npz -o knn.csv\n\n"
    "Every tumor is compared with those of all other patients. Where the model was trained on the same "
    "tumors the numbers flatter it; for new patients embed an archive that it has not seen."
)
def evaluate(
    source: opt.argument(Path, "Embeddings file or index.", "EMBEDDINGS.npz|INDEX"),
    n_neighbors: opt.option(str, "Numbers of neighbors, separated by commas.") = "1,3,5,10,20",
    queries: opt.path("Embeddings of held-out patients: the queries.") = None,
    calibrate_votes: opt.path("Write how often votes of --queries hold.") = None,
    aspect: opt.Aspect = None,
    output: opt.Table = None,
    overwrite: opt.Overwrite = False,
    random_state: opt.option(int, "Seed of the confidence intervals.") = 0,
):
    """Say how well neighbors tell labels and shape.

    Numbers come with chance and 95 % intervals by patient. A patient's own tumors never count. On tumors
    that the model was trained on they flatter: hold some out with 'fit --hold-out', give them as --queries.
    """
    from tumorsim.evaluation import format_knn_table
    from tumorsim.manifest import write_table
    from tumorsim.retrieval import evaluate_files

    check_output(output, calibrate_votes, overwrite=overwrite)
    options = {"n_neighbors": parse_numbers(n_neighbors, "--n-neighbors"), "aspects": parse_aspects(aspect)}
    options |= {"queries": queries, "calibrate": calibrate_votes is not None, "random_state": random_state}
    result, calibration, warning = evaluate_files(source, **options)
    say(format_knn_table(result))
    if warning is not None:
        say(warning)
    if output is not None:
        write_table(output, result)
        say(f"Wrote {output}.")
    if calibration is not None:
        calibration.save(calibrate_votes)
        report = calibration.report_.round(3).to_string(index=False)
        say(f"\nVotes of {n_neighbors} neighbors\n{report}\nWrote {calibrate_votes}.")


@app.command(
    epilog="\b\nExamples:\n  tumorsim segment new.nii.gz -o mask.nii.gz\n"
    "  tumorsim segment --dicom new_patient --seg mask.dcm\n\n"
    "\b\nAn archive without masks (a run that was stopped goes on by the same command):\n"
    "  tumorsim segment scans.csv -o masks\n"
    "  # look at masks/review.html, correct masks, then\n"
    "  tumorsim manifest masks/scans.csv -o archive.csv"
)
def segment(
    scan: opt.argument(
        Path | None, "T1c image (NIfTI or NRRD), or a table of scans.", "SCAN|SCANS.csv"
    ) = None,
    output: opt.path("Mask to write (.nii.gz); of a table, a folder.", "--output", "-o") = None,
    model: opt.Model = None,
    threshold: opt.Threshold = 0.5,
    device: opt.Device = "auto",
    dicom: opt.PatientDicom = None,
    series: opt.SeriesPattern = None,
    seg: opt.path("DICOM SEG to write, of the series of --dicom.") = None,
    overwrite: opt.Overwrite = False,
):
    """Propose a tumor mask for a scan, or for each scan of a table.

    Look at it before you use it. A SEG holds the PatientID, and is meant to go back to where the series is.
    """
    from tumorsim.retrieval import is_table, load_embedder, segment_table, segment_to_file

    source = _one_source(scan, dicom)
    if is_table(source):
        if output is None or seg is not None or series is not None:
            raise ValueError("Of a table of scans give the folder to write (-o); no --seg and no --series.")
        check_folder(output)
        embedder, options = load_embedder(model, device=device), {"threshold": threshold, "progress": True}
        table = segment_table(embedder, source, output, overwrite=overwrite, **options)
        say(f"Wrote {output}: scans.csv has {len(table)} scans with a mask. Look at review.html first.")
        return
    check_output(output, seg, overwrite=overwrite)
    embedder = load_embedder(model, device=device)
    volume = segment_to_file(embedder, source, output, seg=seg, series=series, threshold=threshold)
    for path in (p for p in (output, seg) if p is not None):
        say(f"Wrote {path}: {volume:.2f} ml of tumor proposed.")


@app.command(
    epilog="\b\nExamples:\n  tumorsim match march.nii.gz june.nii.gz --mask-before march_mask.nii.gz \\\n"
    "      --mask-after june_mask.nii.gz --dates 2024-03-01,2024-06-03 --report match.html\n"
    "  tumorsim match archive.csv -o matched.csv\n\n"
    "\b\nOf an import, with a SEG per scan whose TrackingUIDs are the same at every date:\n"
    "  tumorsim match archive.csv -o matched.csv --dicom EXPORT --key-file archive.key --seg segs\n\n"
    "A manifest needs a column date (2024-05-31) or visit (1, 2, …); -o then writes it with lesion_id, "
    "status and changes per month."
)
def match(
    before: opt.argument(Path, "Earlier T1c scan, or a manifest.", "BEFORE|MANIFEST.csv"),
    after: opt.argument(Path | None, "Later T1c scan.", "[AFTER]") = None,
    mask_before: opt.path("Mask of the earlier scan.") = None,
    mask_after: opt.path("Mask of the later scan.") = None,
    dates: opt.text("Both dates: 2024-03-01,2024-06-03.") = None,
    mask_value: opt.MaskValue = ">0",
    min_volume: opt.MinVolume = 14.0,
    merge_distance: opt.MergeDistance = 2.0,
    by_value: opt.ByValue = False,
    output: opt.path("Write the table as CSV; of a manifest, the manifest.", "--output", "-o") = None,
    report: opt.path("Page of pictures side by side, of two scans.") = None,
    dicom: opt.path("DICOM that the manifest was imported from, for --seg.") = None,
    key_file: opt.path("Key that it was imported with, for --seg.") = None,
    seg: opt.path("Folder of DICOM SEGs to write: one TrackingUID per lesion, at every date.") = None,
    as_json: opt.flag("Print the table as JSON.", "--json") = False,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
):
    """Match the lesions of two dates, and say how they changed."""
    from tumorsim.manifest import Pseudonyms, save_segs, write_table
    from tumorsim.matching import match_dates, match_manifest
    from tumorsim.records import Case

    check_output(output, report, overwrite=overwrite)
    sources = dicom, key_file, seg
    if any(sources) and (after is not None or not all(sources)):
        raise ValueError("DICOM SEGs are written of a manifest. Give --dicom, --key-file and --seg with it.")
    if after is None:
        limits = mask_value, min_volume, merge_distance, by_value
        if (mask_before, mask_after, dates, report, *limits) != (*[None] * 4, ">0", 14.0, 2.0, False):
            what = "Masks and how lesions are found in them, --dates and --report"
            raise ValueError(f"{what} are for two scans: tumorsim match BEFORE AFTER.")
        if seg is not None:
            Pseudonyms.of_file(key_file, create=False)  # complains before the match, not after it
            check_folder(seg, *(path.name for path in seg.glob("*.dcm")), overwrite=overwrite)
        table, cohort = match_manifest(before, output, skip_bad=skip_bad, progress=not as_json)
        if seg is not None:
            written = save_segs(cohort, dicom, seg, key_file=key_file)
            say(f"Wrote {counted(len(written), 'DICOM SEG')} into {seg}.", err=as_json)
    else:
        lesions = {"mask_value": mask_value, "min_volume_mm3": min_volume, "by_value": by_value}
        lesions |= {"merge_distance_mm": merge_distance, "dates": split_names(dates)}
        scans = {"before": (before, mask_before), "after": (after, mask_after)}
        cases = [Case(*files, case_id=name, patient_id="patient") for name, files in scans.items()]
        table = match_dates(*cases, **lesions)
        if output is not None:
            write_table(output, table)
        if report is not None:
            from tumorsim.report import save_match

            save_match(report, *cases, table)
    if as_json:
        say(table.to_json(orient="records", force_ascii=False, indent=1))
    else:
        shown = table.iloc[:, : 9 if after else 12].round(1)
        say(shown.to_string(index=False) if len(shown) else "No lesion at either date.")
    for path in (p for p in (output, report) if p is not None):
        say(f"Wrote {path}.", err=as_json)


def _one_source(scan, dicom):
    """Return the scan or the folder of DICOM, whichever was given."""
    if (scan is None) == (dicom is None):
        raise ValueError("Give either a scan or --dicom with a folder.")
    if dicom is not None and not dicom.is_dir():
        raise FileNotFoundError(f"--dicom: folder '{dicom}' does not exist.")
    return scan or dicom
