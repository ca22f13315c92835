"""Tables of scans: propose a mask for each, or answer for each; what cannot be used is set aside."""

import json
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from tumorsim import manifest
from tumorsim._validation import counted
from tumorsim.exceptions import ManifestError
from tumorsim.io import content_key, file_stems, partial_file, remove_partial, save_nifti, write_text
from tumorsim.records import Case, Cohort, group_by_case
from tumorsim.report import describe_model, draw_proposal, draw_tumor, save_overview, save_review
from tumorsim.retrieval._find import check_request, find_similar

_OF_ONE_SCAN = "mask box patient_id case_id series roi exclude_roi key_file accept before dates".split()
_N_DRAWN = 6  # proposed lesions of a scan


def segment_table(embedder, scans, folder, *, threshold=0.5, overwrite=False, progress=False) -> pd.DataFrame:
    """Propose a mask for each scan of a table that names none; a run that was killed goes on.

    Parameters
    ----------
    embedder : TumorEmbedder
        Fitted.
    scans : path
        Table with one row per scan, see `manifest.build_manifest`. Masks that it names stay.
    folder : path
        Receives a mask per scan, ``scans.csv``, the table with these masks, ``review.html``, pictures of
        all of them, and ``errors.txt``, scans that could not be used; also ``scans.csv.partial/``, until all
        is done.
    threshold : float, default=0.5
        Probability from which a voxel is proposed as tumor.
    overwrite : bool, default=False
        Replace masks and table of an earlier run.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    DataFrame
        What ``scans.csv`` holds: scans with a lesion, and ``mask_source``, empty for masks of the table.

    Raises
    ------
    FileExistsError
        If the table or a mask is there already; not with `overwrite`.
    FileNotFoundError, ManifestError
        If the table cannot be read, or no scan of it can be used.
    """
    folder, table = Path(folder), manifest.read_table(scans)
    cases, partial, jobs = _cases_of(table), folder / "scans.csv.partial", []
    for (row, case), stem in zip(cases, file_stems(case.case_id for _, case in cases), strict=True):
        if case.has_mask:
            continue
        try:
            how = [embedder.space_.fingerprint, threshold, content_key(case.image), stem]
        except (OSError, ValueError) as err:
            table.problems.add(row, err, table)
            continue
        jobs.append((row, case, folder / f"{stem}.nii.gz", partial_file(partial, how, ".json")))
    taken = [file for _, _, file, kept in jobs if file.exists() and not kept.is_file()]
    taken += [file for file in (folder / "scans.csv",) if file.exists()]
    if taken and not overwrite:
        what = f"'{taken[-1]}' exists already; somebody may have corrected it."
        raise FileExistsError(f"{what} Give another folder, or overwrite it (--overwrite).")
    cards = {}
    bar = tqdm(jobs, "proposing", unit="scan", disable=None if progress else True)
    for row, case, file, kept in bar:
        if not (kept.is_file() and file.is_file()):
            try:
                mask, card = _propose(embedder, case, threshold)
            except (OSError, ValueError) as err:
                table.problems.add(row, err, table)
                continue
            file.unlink(missing_ok=True)  # a card beside an older mask would pass for its own
            write_text(kept, json.dumps(card | {"mask": file.name}))  # first: a mask without it is one's own
            save_nifti(file, mask, case.affine)
        cards[row.line] = json.loads(kept.read_text(encoding="utf-8"))
    table.problems.finish(folder / "errors.txt", n_rows=len(table.rows), skip_bad=True, always_list=True)
    facts = describe_model(embedder) | {"Scans": str(scans), "Threshold": f"{threshold:g}"}
    save_review(folder / "review.html", list(cards.values()), _set_aside(table), facts=facts)
    frame = _with_masks(table, cases, cards, folder)
    manifest.write_table(folder / "scans.csv", frame)
    remove_partial(partial, ".json")
    return frame


def answer_table(
    embedder, index, scans: str | PathLike, folder: str | PathLike | None = None, *, full: bool = False,
    archive_name: str | None = None, model_name: str | PathLike | None = None, progress: bool = False,
    **options,
) -> tuple[list[dict], pd.DataFrame]:  # fmt: skip
    """Find the tumors of an archive that are most like those of each scan of a table.

    Parameters
    ----------
    embedder, index, **options
        As in `find_similar`.
    scans : path
        A table with one row per scan (where it names no mask, lesions are proposed) or a manifest.
    folder : path, optional
        Receives ``index.html``, which leads to an answer sheet per scan in ``sheets/``, and ``answers.json``.
    full, archive_name, model_name
        As in `Answer.save_html`.
    progress : bool, default=False
        Show a progress bar.

    Returns
    -------
    answers : list of dict
        One per scan: ids, ``image``, ``sheet`` (name of its file), ``text`` and what `Answer.to_dict` has; or
        ``problem``, where a scan cannot be used.
    neighbors : DataFrame
        `Answer.to_frame` of all answers; ``query`` counts over all of them.

    Raises
    ------
    FileNotFoundError, ManifestError
        If the table cannot be read, or no scan of it can be used.
    ValueError
        If an option of one scan is given.
    """
    given = [name for name in _OF_ONE_SCAN if options.get(name) is not None]
    if given:
        raise ValueError(f"Parameter '{given[0]}' belongs to one scan. Got it beside a table; leave it out.")
    check_request(embedder, index, **options)
    table, queries = _queries_of(scans, options)
    names = {"archive_name": archive_name, "model_name": model_name}
    stems = file_stems(case_id for _, case_id, _ in queries)
    answers, frames, rows, n_queries = [], [], [], 0
    bar = tqdm(queries, "querying", unit="scan", disable=None if progress else True)
    for (row, case_id, query), stem in zip(bar, stems, strict=True):
        try:
            answer = find_similar(embedder, index, query() if callable(query) else query, **options)
        except (OSError, ValueError) as err:
            table.problems.add(row, err, table)
            continue
        case, content, sheet = answer.queries[0].case, answer.to_dict(), f"sheets/{stem}.html"
        answers.append({"case_id": case_id, "patient_id": case.patient_id, "image": case.image} | content)
        answers[-1]["text"] = str(answer)
        frame = answer.to_frame()
        frames.append(frame.assign(query=frame["query"] + n_queries))
        n_queries += len(answer.queries)
        if folder is not None:
            answers[-1]["sheet"] = sheet
            answer.save_html(Path(folder) / sheet, full=full, **names)
            for number, tumor in enumerate(answer.queries, 1):
                row = {"sheet": sheet, "number": number, "query": content["queries"][number - 1]}
                rows.append(row | {"picture": draw_tumor(tumor), "proposed": answer.proposed})
    errors = None if folder is None else Path(folder) / "errors.txt"
    table.problems.finish(errors, n_rows=len(table.rows), skip_bad=True, always_list=folder is not None)
    answers += [{"row": name, "problem": problem} for name, problem in _set_aside(table)]
    if folder is not None:
        text = json.dumps(answers, ensure_ascii=False, indent=1, default=str)
        write_text(Path(folder) / "answers.json", text)
        size = counted(index.n_samples_fit_, "tumor")
        facts = describe_model(embedder, model_name) | {"Scans": str(scans)}
        facts |= {"Archive": f"{archive_name} ({size})" if archive_name else size} | answers[0]["settings"]
        save_overview(Path(folder) / "index.html", rows, _set_aside(table), facts=facts)
    return answers, pd.concat(frames, ignore_index=True)


def _cases_of(table):
    """Return row and Case of each scan of a table; rows that name none are among its problems."""
    if "tumor_id" in table.columns:
        raise ManifestError(f"'{table.path}' has a column 'tumor_id': it is no scan table but a manifest.")
    table.require(("patient_id", "case_id", "image"))
    cases, lines = [], {}
    for row in table.rows:
        try:
            if row.line not in table.problems.reasons:
                cases.append((row, manifest.case_of_row(table, row, lines, needs_mask=False)))
        except (OSError, TypeError, ValueError) as err:
            table.problems.add(row, err, table)
    return cases


def _propose(embedder, case, threshold):
    """Return a proposed mask (nx, ny, nz), and ids, volumes of lesions and pictures for the page."""
    mask = embedder.segment(case, threshold=threshold)
    proposed = Case(case.image, (mask, case.affine), case_id=case.case_id, patient_id=case.patient_id)
    tumors = manifest.tumors_from_case(proposed) if mask.any() else Cohort([])
    volumes = tumors.table["volume_mm3"].to_numpy() if len(tumors) else np.zeros(0)
    order = np.argsort(-volumes, kind="stable")
    card = {"case_id": case.case_id, "patient_id": case.patient_id, "image": Path(case.image).name}
    pictures = draw_proposal(proposed, mask, tumors[order[:_N_DRAWN]])
    return mask, card | {"volumes_mm3": volumes[order].tolist(), "pictures": pictures}


def _with_masks(table, cases, cards, folder):
    """Return the table's scans that have a lesion, with their masks, paths relative to the folder."""
    rows = []
    for row, case in cases:
        card = cards.get(row.line)
        if case.has_mask or (card is not None and card["volumes_mm3"]):
            mask = manifest.relative_path(case.mask, folder) if card is None else card["mask"]
            cells = row.cells | {"image": manifest.relative_path(case.image, folder), "mask": mask}
            rows.append(cells | {"mask_source": "" if card is None else "proposed by the model"})
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*table.columns, "mask", "mask_source"])))


def _queries_of(scans, options):
    """Return the table and, of each scan, row, case_id and query (or a function that makes it of a mask)."""
    table = manifest.read_table(scans)
    if "tumor_id" in table.columns:
        by_line = {row.line: row for row in table.rows}
        cohort, table.problems, lines = manifest.read_manifest(scans)
        groups = group_by_case(cohort)
        return table, [(by_line[lines[i[0]]], cohort[i[0]].case.case_id, cohort[i]) for i in groups]
    names = ("min_volume_mm3", "merge_distance_mm", "by_value")
    lesions = {name: options[name] for name in names if name in options}

    def query(row, case):
        value = row.get("mask_value") or options.get("mask_value", ">0")
        known = lesions | {"mask_value": value, "labels": table.labels(row)}
        return (lambda: manifest.tumors_from_case(case, **known)) if case.has_mask else case

    return table, [(row, case.case_id, query(row, case)) for row, case in _cases_of(table)]


def _set_aside(table):
    """Return case_id or line, and reason, of rows that could not be used."""
    problems = table.problems
    names = {line: row.get("case_id") or f"line {line}" for line, row in sorted(problems.rows.items())}
    return [(name, problems.reasons[line]) for line, name in names.items()]
