"""Commands that ask: query, evaluate, segment."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tumorsim.cli._app import check_output, split_names
from tumorsim.cli._build import ByValue, Device, MaskValue, MergeDistance, MinVolume, Model, load_model
from tumorsim.cli._dicom import ExcludeRoi, Roi, SeriesPattern
from tumorsim.cli._parse import parse_aspects, parse_where

__all__ = ["register"]

Box = tuple[int, int, int, int, int, int]
Threshold = Annotated[float, Option(min=0, max=1, help="Probability from which a proposed voxel is tumor.")]


def register(app):
    """Add the commands to the root."""
    app.command(
        epilog="\b\nExamples:\n"
        "  tumorsim query index new.nii.gz --mask mask.nii.gz\n"
        "  tumorsim query index new.nii.gz --box 90 60 40 120 95 70 --model model.safetensors \\\n"
        "      --where type=meningioma --where 'volume_mm3>=500' --report answer.html\n\n"
        "\b\nStraight from DICOM, with its RTSTRUCT or SEG where there is one:\n"
        "  tumorsim query index --dicom new_patient --key-file archive.key --exclude same_patient\n\n"
        "Without --mask and --box the model proposes the lesions. The report names the tumors and shows them "
        "up to 30 mm around; nothing is sent anywhere."
    )(query)
    app.command(
        epilog="\b\nExample:\n  tumorsim evaluate archive.npz -o knn.csv\n\n"
        "Every tumor is compared with those of all other patients. Where the model was trained on the same "
        "tumors the numbers flatter it; for new patients embed an archive that it has not seen."
    )(evaluate)
    app.command(
        epilog="\b\nExamples:\n  tumorsim segment new.nii.gz -o mask.nii.gz\n"
        "  tumorsim segment --dicom new_patient --seg mask.dcm"
    )(segment)


def query(
    index_dir: Annotated[Path, Argument(help="Folder of the index.", metavar="INDEX")],
    scan: Annotated[Path | None, Argument(help="T1c image (NIfTI or NRRD).", metavar="[SCAN]")] = None,
    model: Model = None,
    mask: Annotated[Path | None, Option(help="Mask of the tumors, on the image's grid.")] = None,
    box: Annotated[
        Box | None, Option(metavar="X0 Y0 Z0 X1 Y1 Z1", help="The tumor's box in voxels, half-open.")
    ] = None,
    patient_id: Annotated[str | None, Option(help="The patient, for --exclude same_patient.")] = None,
    n_neighbors: Annotated[int, Option("--n-neighbors", "-n", min=1, help="Neighbors a tumor.")] = 5,
    where: Annotated[
        list[str] | None, Option(help="Condition on the archive, such as type=a,b or volume_mm3>=500.")
    ] = None,
    exclude: Annotated[
        str | None, Option(help="Leave out same_patient, same_case, or tumor ids, separated by commas.")
    ] = None,
    aspect: Annotated[
        list[str] | None, Option(help="Search by aspects, with weights, such as type=1 or size=0.5.")
    ] = None,
    max_per_patient: Annotated[int, Option(min=1, help="Tumors of one patient in an answer.")] = 1,
    alpha: Annotated[
        float, Option(min=0, max=1, help="A p-value of at most this is called no close match.")
    ] = 0.05,
    calibrate: Annotated[
        list[str] | None,
        Option(help="Which tumors calibrate p-values: a condition, such as held_out=true."),
    ] = None,
    vote_calibration: Annotated[
        Path | None,
        Option(help="What 'tumorsim evaluate --calibrate-votes' wrote: votes get a probability."),
    ] = None,
    show: Annotated[
        str | None, Option(help="Further columns, such as dose_gy,control_12m; also summarized.")
    ] = None,
    report: Annotated[Path | None, Option(help="Write an HTML answer sheet.")] = None,
    full: Annotated[
        bool, Option("--full", help="Put whole heads, with their faces, into the report; asks first.")
    ] = False,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the answer as CSV.")] = None,
    mask_value: MaskValue = ">0",
    min_volume: MinVolume = 14.0,
    merge_distance: MergeDistance = 2.0,
    by_value: ByValue = False,
    threshold: Threshold = 0.5,
    max_lesions: Annotated[int, Option(min=1, help="Proposed lesions that are asked for.")] = 5,
    device: Device = "auto",
    dicom: Annotated[Path | None, Option(help="Folder of the patient's DICOM, instead of SCAN.")] = None,
    key_file: Annotated[
        Path | None, Option(help="Key that the archive was imported with: names the patient as it does.")
    ] = None,
    series: SeriesPattern = None,
    roi: Roi = None,
    exclude_roi: ExcludeRoi = None,
):
    """Find the tumors of an archive that are most like a new one."""
    from tumorsim.answers import (
        describe_closeness,
        describe_summary,
        describe_vote,
        summarize,
        votes,
    )
    from tumorsim.calibration import VoteCalibration
    from tumorsim.index import TumorIndex, where_mask
    from tumorsim.manifest import load_dicom_case
    from tumorsim.retrieval import neighbor_tumors, query_tumors
    from tumorsim.weights import find_weights

    for path in (report, output):
        if path is not None:
            check_output(path)
    if (scan is None) == (dicom is None):
        raise ValueError("Give either a scan or --dicom with a folder.")
    if full:
        if report is None:
            raise ValueError("--full is for the report. Give --report too.")
        typer.confirm(f"Whole heads show faces. Write them into '{report}'?", abort=True)
    known = patient_id is not None or (dicom is not None and key_file is not None)
    if exclude in ("same_patient", "same_case") and not known:
        raise ValueError(
            f"--exclude {exclude} needs the query's patient. Give --patient-id, or with --dicom --key-file."
        )
    index = TumorIndex.load(index_dir)
    conditions, aspects, columns = (
        parse_where(where, index.metadata_),
        parse_aspects(aspect),
        split_names(show),
    )
    unknown = [name for name in columns or () if name not in index.metadata_]
    if unknown:
        raise ValueError(
            f"--show names columns of the index: {', '.join(index.metadata_)}. Got '{unknown[0]}'."
        )
    left_out = _left_out(exclude, index.metadata_)
    calibration = None
    if vote_calibration is not None:
        if conditions or aspects or max_per_patient != 1:
            raise ValueError(
                "Votes are calibrated for plain answers. Leave out --vote-calibration, or --where, --aspect "
                "and --max-per-patient."
            )
        calibration = VoteCalibration.load(vote_calibration)
        calibration.check(index, n_neighbors)
    if dicom is not None:
        scan, _ = load_dicom_case(
            dicom,
            series=series,
            include=roi,
            exclude=exclude_roi,
            key_file=key_file,
            patient_id=patient_id,
            with_mask=mask is None and box is None,
        )
    given = mask is not None or box is not None or (dicom is not None and scan.has_mask)
    model = find_weights(model, progress=True)
    embedder = load_model(model, device)
    tumors = query_tumors(
        scan,
        mask=mask,
        box=box,
        embedder=embedder,
        patient_id=patient_id,
        threshold=threshold,
        max_lesions=max_lesions,
        mask_value=mask_value,
        min_volume_mm3=min_volume,
        merge_distance_mm=merge_distance,
        by_value=by_value,
    )
    X = embedder.transform(tumors)
    neighbors = index.search(
        X,
        n_neighbors,
        query_metadata=tumors.table,
        space=embedder.space_,
        where=conditions,
        exclude=left_out,
        aspects=aspects,
        max_per_patient=max_per_patient,
        alpha=alpha,
        calibration=parse_where(calibrate, index.metadata_),
    )
    base = index.metadata_[where_mask(index.metadata_, conditions or {})]
    counted = votes(neighbors, base, calibration=calibration)
    summary = summarize(neighbors, columns or ())
    proposed = "" if given else " (proposed by the model)"
    for i, tumor in enumerate(tumors):
        typer.echo(f"{tumor.tumor_id}: {tumors.table['volume_mm3'][i] / 1000:.2f} ml{proposed}")
        found = neighbors[neighbors["query"] == i]
        typer.echo(describe_closeness(found))
        if len(found):
            typer.echo(_as_text(found, columns or (), aspects or ()))
        for _, vote in counted[counted["query"] == i].iterrows():
            typer.echo(describe_vote(vote))
        for _, line in summary[summary["query"] == i].iterrows():
            typer.echo(describe_summary(line))
    if output is not None:
        from tumorsim.io import atomic_path

        named = neighbors.copy()
        named.insert(1, "query_tumor_id", [tumors[i].tumor_id for i in neighbors["query"]])
        with atomic_path(output) as temporary:
            named.to_csv(temporary, index=False)
        typer.echo(f"Wrote {output}.")
    if report is not None:
        from tumorsim.report import describe_model, save_report

        settings = {"Neighbors asked for": n_neighbors, "Most of one patient": max_per_patient}
        settings |= {"Where": ", ".join(where)} if where else {}
        settings |= {"Left out": exclude} if exclude else {}
        settings |= {"Aspects": ", ".join(aspect)} if aspect else {}
        if proposed:
            settings["Query tumors"] = "proposed by the model, not drawn by a person"
        save_report(
            report,
            query=tumors,
            neighbors=neighbors,
            archive=neighbor_tumors(neighbors),
            archive_name=f"{index_dir} ({index.n_samples_fit_} tumors)",
            model_info=describe_model(embedder, model),
            settings=settings,
            show=columns or (),
            votes=counted,
            summary=summary,
            index=index,
            query_X=X,
            full=full,
        )
        typer.echo(f"Wrote {report}.")


def evaluate(
    source: Annotated[Path, Argument(help="Embeddings file or index.", metavar="EMBEDDINGS.npz|INDEX")],
    n_neighbors: Annotated[str, Option(help="Numbers of neighbors, separated by commas.")] = "1,3,5,10,20",
    queries: Annotated[
        Path | None,
        Option(help="Embeddings of held-out patients, who ask. Default: every tumor asks."),
    ] = None,
    calibrate_votes: Annotated[
        Path | None,
        Option(help="Learn from --queries how often votes of --n-neighbors (one number) are right; a file."),
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Write the table as CSV.")] = None,
    random_state: Annotated[int, Option(help="Seed of the confidence intervals.")] = 0,
):
    """Say how well neighbors tell labels and shape.

    Numbers come with chance and 95 % intervals by patient. A patient's own tumors never count. On tumors
    that the model was trained on they flatter: hold some out with 'fit --hold-out', give them as --queries.
    """
    from tumorsim.cli._build import read_source
    from tumorsim.evaluation import evaluate_knn, format_knn_table
    from tumorsim.exceptions import IndexMismatchError
    from tumorsim.index import TumorIndex

    for path in (output, calibrate_votes):
        if path is not None:
            check_output(path)
    try:
        ks = [int(k) for k in split_names(n_neighbors) or ()]
    except ValueError as err:
        raise ValueError(f"--n-neighbors takes whole numbers such as 1,5,10. Got {n_neighbors!r}.") from err
    if calibrate_votes is not None and (queries is None or len(ks) != 1):
        raise ValueError(
            "--calibrate-votes needs --queries, embeddings of held-out patients, and one number of "
            "neighbors, such as --n-neighbors 5."
        )
    metric = "euclidean"
    if source.is_dir():
        index = TumorIndex.load(source)
        X, table, space, metric = index.embeddings_, index.metadata_, index.space_, index.metric
    else:
        X, table, space = read_source(source, None, "cpu", 1, None)
    asked = {}
    if queries is not None:
        query_X, query_table, query_space = read_source(queries, None, "cpu", 1, None)
        if space is not None and query_space.fingerprint != space.fingerprint:
            raise IndexMismatchError(
                f"'{source}' and '{queries}' must come from one model. Got fingerprints "
                f"{space.fingerprint[:12]}… and {query_space.fingerprint[:12]}…. Embed both with one model."
            )
        asked = {"query_X": query_X, "query_table": query_table}
    result = evaluate_knn(
        X, table, n_neighbors=ks, random_state=random_state, metric=metric, space=space, **asked
    )
    typer.echo(format_knn_table(result))
    if output is not None:
        from tumorsim.io import atomic_path

        with atomic_path(output) as temporary:
            result.to_csv(temporary, index=False)
        typer.echo(f"Wrote {output}.")
    if calibrate_votes is not None:
        from tumorsim.calibration import calibrate_votes as learn

        if not source.is_dir():
            index = TumorIndex().fit(X, metadata=table, space=space)
        calibration = learn(index, query_X, query_table, n_neighbors=ks[0], space=query_space)
        calibration.save(calibrate_votes)
        typer.echo(f"\nVotes of {ks[0]} neighbors\n{calibration.report_.round(3).to_string(index=False)}")
        typer.echo(f"Wrote {calibrate_votes}.")


def segment(
    scan: Annotated[Path | None, Argument(help="T1c image (NIfTI or NRRD).", metavar="[SCAN]")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Mask to write (.nii.gz).")] = None,
    model: Model = None,
    threshold: Threshold = 0.5,
    device: Device = "auto",
    dicom: Annotated[Path | None, Option(help="Folder of the patient's DICOM, instead of SCAN.")] = None,
    series: SeriesPattern = None,
    seg: Annotated[
        Path | None, Option(help="DICOM SEG to write, which refers to the series of --dicom.")
    ] = None,
):
    """Propose a tumor mask for a scan, on the scan's own grid.

    Look at it before you use it. A SEG holds the PatientID, and is meant to go back to where the series is.
    """
    import numpy as np

    import tumorsim
    from tumorsim.io import save_nifti
    from tumorsim.io.dicom import save_seg
    from tumorsim.manifest import load_dicom_case
    from tumorsim.records import Case

    if (scan is None) == (dicom is None):
        raise ValueError("Give either a scan or --dicom with a folder.")
    if (output is None and seg is None) or (seg is not None and dicom is None):
        raise ValueError("Give a file to write: -o for NIfTI, or --seg for a DICOM SEG of --dicom.")
    for path in (output, seg):
        if path is not None:
            check_output(path)
    if output is not None and not output.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(
            f"The mask is written as NIfTI: its name must end in .nii or .nii.gz. Got '{output}'."
        )
    if dicom is not None:
        case, source = load_dicom_case(dicom, series=series, with_mask=False)
    else:
        case, source = Case(scan, case_id=scan.name, patient_id="unknown"), None
    mask = load_model(model, device).segment(case, threshold=threshold)
    volume = np.count_nonzero(mask) * case.spacing.prod() / 1000
    if output is not None:
        save_nifti(output, mask, case.affine)
        typer.echo(f"Wrote {output}: {volume:.2f} ml of tumor proposed.")
    if seg is not None:
        save_seg(seg, mask, source, version=tumorsim.__version__)
        typer.echo(f"Wrote {seg}: {volume:.2f} ml of tumor proposed.")


def _left_out(exclude, metadata):
    """Return --exclude as `exclude` of a search: same_patient, same_case, or ids that the index holds."""
    if exclude in (None, "same_patient", "same_case"):
        return exclude
    ids = split_names(exclude)
    unknown = set(ids or ()) - set(metadata["tumor_id"])
    if unknown or not ids:
        raise ValueError(
            "--exclude takes same_patient, same_case, or tumor ids of the index. "
            f"Got '{sorted(unknown)[0] if unknown else exclude}'."
        )
    return ids


def _as_text(neighbors, columns, aspects):
    """Return one query's neighbors as a table of text, with words on aspects."""
    from tumorsim.answers import describe_agreement

    shown = ["rank", "distance", *(f"distance_{name}" for name in aspects), "tumor_id", "patient_id"]
    shown += [name for name in neighbors if name.startswith("label_")] + ["volume_mm3", *columns]
    table = neighbors[[name for name in dict.fromkeys(shown) if name in neighbors]].round(3)
    words = [describe_agreement(neighbor) for neighbor in neighbors.to_dict("records")]
    if any(words):
        table = table.assign(aspects=words)
    return table.to_string(index=False, na_rep="-")
