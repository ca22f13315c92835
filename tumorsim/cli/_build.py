"""Commands that build an archive: demo, manifest, check, places, fit, embed."""

from pathlib import Path

from typer import Exit

from tumorsim._validation import counted
from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, check_folder, check_output, say
from tumorsim.cli._parse import parse_columns, split_names
from tumorsim.records.columns import PLACE_TASKS


@app.command(epilog="\b\nExample:\n  tumorsim demo --out demo")
def demo(
    out: opt.option(Path, "Folder for figures, tables and answer.html.") = Path("tumorsim-demo"),
    n_patients: opt.option(int, "Simulated patients.", min=8) = 48,
    random_state: opt.Seed = 0,
    n_jobs: opt.option(int, "Processes that simulate.", min=1) = 2,
    overwrite: opt.Overwrite = False,
):
    """Walk the whole way once on simulated patients.

    Simulates, embeds with the shipped weights, indexes, queries and evaluates, and leaves figures, a table
    and answer.html; under 90 s on two cores.
    """
    from tumorsim.demo import run_demo

    check_folder(out, "answer.html", overwrite=overwrite)
    run_demo(out, n_patients=n_patients, random_state=random_state, n_jobs=n_jobs, echo=say)


@app.command(
    epilog="\b\nExample:\n  tumorsim manifest scans.csv -o archive.csv --mask-value 1+3\n\n"
    "scans.csv has one row per scan: patient_id, case_id, image, mask, and any label_<task> and further "
    "columns. Bad rows are all reported at once.\n\n"
    "\b\nFrom DICOM:\n  tumorsim manifest --dicom export -o archive.csv --key-file archive.key\n\n"
    "Scans, masks and a report of all series go into archive_files/. Patients get pseudonyms; the key "
    "file links them to PatientIDs, so keep it, and keep it apart.\n\n\b\n"
    "A public data set, as it was downloaded, or all that are found:\n"
    "  tumorsim manifest downloads --layout brats-men-rt -o meningiomas.csv\n"
    "  tumorsim manifest downloads --layout auto -o three_types.csv"
)
def manifest(
    scans: opt.argument(
        Path | None,
        "Table with one row per scan (CSV, Excel, Parquet); with --layout a folder.",
        "SCANS.csv|ROOT",
    ) = None,
    output: opt.path("Manifest to write: one row per tumor.", "--output", "-o") = None,
    layout: opt.text("Public data set below ROOT by name, or 'auto': all.") = None,
    columns: opt.text("Columns of other names: patient_id=MRN,label_type=Histology.") = None,
    mask_value: opt.text("Voxels that are tumor: 1, 1+3 or >0. Default: >0, or the layout's.") = None,
    min_volume: opt.MinVolume = 14.0,
    merge_distance: opt.MergeDistance = 2.0,
    by_value: opt.ByValue = False,
    skip_bad: opt.SkipBad = False,
    dicom: opt.path("Folder of mixed DICOM, instead of a table.") = None,
    key_file: opt.path("Key of the pseudonyms, made if needed. Default: <output>.key.") = None,
    keep_patient_ids: opt.flag("Write PatientID and study date as they are.", "--keep-patient-ids") = False,
    series: opt.SeriesPattern = None,
    roi: opt.Roi = None,
    exclude_roi: opt.ExcludeRoi = None,
    by_slice_location: opt.flag(
        "Place slices that all have one position by it.", "--by-slice-location"
    ) = False,
    dry_run: opt.flag("Show what --dicom holds; write nothing.", "--dry-run") = False,
    overwrite: opt.Overwrite = False,
):
    """Find the tumors in scans, DICOM or a public set, one per row.

    Cases of a public data set that cannot be used are left out and listed in <output>.errors.txt.
    """
    check_output(output, overwrite=overwrite)
    if (scans is None) == (dicom is None):
        raise ValueError("Give either a table of scans or --dicom with a folder.")
    if dry_run and dicom is None:
        raise ValueError("--dry-run shows what a folder of --dicom holds. Give --dicom too.")
    if output is None and not dry_run:
        raise ValueError("Give the manifest to write: -o archive.csv.")
    if layout is not None and dicom is not None:
        raise ValueError("--layout is for a public data set, --dicom for your own export. Give one.")
    if layout is not None and by_value:
        raise ValueError("--by-value is for tables of scans; a layout knows what its masks hold. Give one.")
    if columns is not None and (dicom is not None or layout is not None):
        raise ValueError("--columns is for tables of scans. Leave it out with --dicom and --layout.")
    from tumorsim.manifest import build_manifest, import_dicom, survey_dicom
    from tumorsim.public_sets import load_dataset

    options = {"min_volume_mm3": min_volume, "merge_distance_mm": merge_distance, "progress": True}
    lesions = {"mask_value": mask_value or ">0", "by_value": by_value}
    patterns = {"series": series, "include": roi, "exclude": exclude_roi}
    patterns["by_slice_location"] = by_slice_location
    if dry_run:
        say("\n".join(survey_dicom(dicom, **patterns)))
        return
    if dicom is not None:
        options |= patterns | lesions | {"key_file": key_file, "keep_patient_ids": keep_patient_ids}
        cohort, report = import_dicom(dicom, output, **options)
        for line in report:
            ids = line.get("case_id") or line.get("patient_id", "")
            what = " ".join(text for text in (line.get("modality"), ids) if text)
            where = line.get("file", line["where"])
            say(f"{line['status']:<9} {where} {what}: {line['reason'] or 'used'}")
    elif layout is not None:
        cohort = load_dataset(layout, scans, output=output, mask_value=mask_value, **options)
    else:
        options |= lesions | {"columns": parse_columns(columns), "skip_bad": skip_bad}
        cohort = build_manifest(scans, output, **options)
    say(cohort.summary().to_string())
    say(f"Wrote {output}: {_counts(cohort)}.")
    if dicom is not None:
        key = key_file or output.with_suffix(".key")
        say(f"The pseudonyms' key is in {key}. Keep it, and never hand it out with the archive.")


@app.command(
    epilog="\b\nExamples:\n  tumorsim check archive.csv\n"
    "  tumorsim check archive.csv --json > findings.json\n\n"
    "\b\nExit code: 0 nothing found, or notes only; 1 warnings; 2 errors, or no archive to read."
)
def check(
    archive: opt.Archive,
    output: opt.Table = None,
    overwrite: opt.Overwrite = False,
    as_json: opt.flag("Print the findings as JSON.", "--json") = False,
    min_volume: opt.MinVolume = 14.0,
    max_volume: opt.option(float, "Report larger lesions.", "--max-volume-mm3") = 200_000.0,
):
    """Look through an archive for data that would spoil training.

    One table, with severity and remedy: unreadable files, grids that differ, the same voxels twice, lost
    headers, sides that contradict the affine, constant images, tiny and huge lesions, label spellings.
    """
    from tumorsim.checks import check_archive, exit_code
    from tumorsim.manifest import write_table

    check_output(output, overwrite=overwrite)
    limits = {"min_volume_mm3": min_volume, "max_volume_mm3": max_volume}
    findings = check_archive(archive, **limits, progress=True)
    if output is not None:
        write_table(output, findings)
    if as_json:
        say(findings.to_json(orient="records", force_ascii=False, indent=2))
    elif len(findings):
        say(findings.to_string(index=False, justify="left", max_colwidth=None))
        counts = findings["severity"].value_counts()
        say("Found " + ", ".join(counted(n, name) for name, n in counts.items()) + ".")
    else:
        say(f"Found nothing wrong in {archive}.")
    raise Exit(exit_code(findings))


@app.command(
    epilog="\b\nExample:\n"
    "  tumorsim fit archive.csv -o model.safetensors --checkpoint-dir run --resume\n"
    "  tumorsim fit archive.csv -o model.safetensors --initial-weights default --tasks outcome\n\n"
    "With --checkpoint-dir a run that was stopped goes on by the same command with --resume.\n\n"
    "\b\nOn several GPUs, or cores of several machines:\n"
    "  torchrun --nproc-per-node=2 -m tumorsim fit archive.csv -o model.safetensors --cache-dir cache"
)
def fit(
    archive: opt.Archive,
    output: opt.option(Path, "Model file to write (safetensors).", "--output", "-o"),
    tasks: opt.text("Labels to learn, such as type,region. Default: all.") = None,
    paper: opt.flag("The paper's recipe; it needs a GPU.", "--paper") = False,
    max_epochs: opt.option(int | None, None, min=1) = None,
    batches_per_epoch: opt.option(int | None, None, min=1) = None,
    batch_size: opt.option(int | None, "Patches per step, of all processes.", min=1) = None,
    accumulate: opt.option(int | None, "Parts of a batch, one after the other: less memory.", min=1) = None,
    spacing: opt.option(float | None, "Millimetres per voxel of the network's grid.") = None,
    patch_size: opt.option(int | None, "Voxels on a patch's edge, a multiple of 4.") = None,
    n_channels: opt.option(int | None, "Numbers in an embedding.", min=1) = None,
    n_blocks: opt.option(int | None, "ResBlocks in the backbone.", min=1) = None,
    lr: opt.option(float | None, "Learning rate.") = None,
    precision: opt.text("float32; bfloat16, fast on some hardware; mixed: bfloat16 on GPUs.") = None,
    initial_weights: opt.text(
        "Begin with a model file, or with shipped weights: 'default', or a name."
    ) = None,
    freeze_backbone: opt.flag(
        "Train heads only, for small archives; embeddings stay.", "--freeze-backbone"
    ) = False,
    device: opt.Device = "auto",
    n_jobs: opt.Jobs = 2,
    cache_dir: opt.path("Keep prepared scans here for the next run.") = None,
    checkpoint_dir: opt.path("Write the state of training here.") = None,
    resume: opt.flag("Go on from the checkpoint.", "--resume") = False,
    random_state: opt.Seed = 0,
    hold_out: opt.option(float | None, "Share of patients to hold out, such as 0.2.") = None,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
):
    """Train an embedder on an archive's masks and labels.

    Options that are not given keep the recipe's values. With --hold-out the patients that were trained on and
    those that were not are written as manifests beside the model.
    """
    from tumorsim.nn import process_rank

    first = process_rank() == 0  # of the processes that torchrun started, the one that writes
    check_output(output, overwrite=overwrite)
    if hold_out is not None and first:
        tables = (output.with_name(f"{output.stem}-{side}.csv") for side in ("trained", "held-out"))
        check_output(*tables, overwrite=overwrite or resume)
    given = {"tasks": split_names(tasks), "max_epochs": max_epochs, "batches_per_epoch": batches_per_epoch}
    given |= {"batch_size": batch_size, "spacing": spacing, "patch_size": patch_size, "lr": lr}
    given |= {"n_channels": n_channels, "n_blocks": n_blocks, "freeze_backbone": freeze_backbone or None}
    given |= {"recipe__precision": precision, "recipe__accumulate": accumulate}
    given |= {"cache_dir": cache_dir, "checkpoint_dir": checkpoint_dir}
    given = {name: value for name, value in given.items() if value is not None}
    if paper and initial_weights is not None:
        raise ValueError("--paper begins with nothing, --initial-weights does not. Give one of them.")
    from tumorsim import Recipe, TumorEmbedder, load_cohort
    from tumorsim.evaluation import hold_out_patients

    cohort = load_cohort(archive, skip_bad=skip_bad)
    if hold_out is not None:
        cohort, kept = hold_out_patients(cohort, output, test_share=hold_out, random_state=random_state)
        if first:
            say(f"Wrote {output.stem}-trained.csv and {output.stem}-held-out.csv, which has {kept!r}.")
    if initial_weights is not None:
        embedder = TumorEmbedder.from_pretrained(None if initial_weights == "default" else initial_weights)
    else:
        embedder = TumorEmbedder(recipe=Recipe.named("paper" if paper else "default"))
    embedder.set_params(**given, device=device, n_jobs=n_jobs, random_state=random_state, verbose=1)
    embedder.fit(cohort, resume=resume)
    if not first:
        return
    embedder.save(output)
    first, last = embedder.history_[0], embedder.history_[-1]
    for name in (n for n in last if n.startswith("loss")):
        head = name.removeprefix("loss_") if name != "loss" else "all"
        say(f"  loss of {head:<16} {first.get(name, float('nan')):8.3f} → {last[name]:.3f}")
    say(f"Wrote {output}: fingerprint {embedder.space_.fingerprint[:16]}, trained on {cohort!r}.")


@app.command(
    epilog="\b\nExamples:\n  tumorsim embed archive.csv -o archive.npz\n"
    "  tumorsim embed archive.csv --model model.safetensors -o archive.npz\n"
    "  tumorsim embed archive.csv -o archive.npz --workers 8 --skip-bad\n\n"
    "A run that was stopped goes on by the same command."
)
def embed(
    archive: opt.Archive,
    output: opt.option(Path, "Embeddings file to write (npz).", "--output", "-o"),
    model: opt.Model = None,
    device: opt.Device = "auto",
    n_jobs: opt.Jobs = 2,
    workers: opt.option(int | None, "Processes that embed. Default: this one.", min=1) = None,
    dask: opt.text("Dask scheduler that embeds, such as tcp://host:8786.") = None,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
):
    """Turn each tumor of an archive into a vector.

    A file of the same model is replaced where no tumor of it gets lost; others with --overwrite only.
    With --skip-bad scans that cannot be read are listed in <output>.errors.txt.
    """
    from tumorsim.manifest import load_cohort
    from tumorsim.retrieval import embed_to_file, load_embedder

    check_output(output, overwrite=True)
    if workers is not None and dask is not None:
        raise ValueError("--workers are processes of this machine, --dask those of a cluster. Give one.")
    cohort = load_cohort(archive if dask is None else archive.resolve(), skip_bad=skip_bad)
    embedder = load_embedder(model, device=device, n_jobs=n_jobs)
    options = {"skip_bad": skip_bad, "workers": workers, "dask": dask}
    X = embed_to_file(embedder, cohort, output, overwrite=overwrite, progress=True, **options)
    say(f"Wrote {output}: {counted(len(X), 'tumor')}, {X.shape[1]} numbers each.")


@app.command(
    epilog="\b\nExamples:\n  tumorsim places archive.csv -o placed.csv --qc pictures\n"
    "  tumorsim places archive.csv -o placed.csv --areas atlas.nii.gz --area-names atlas.csv\n\n"
    "A run that was stopped goes on by the same command."
)
def places(
    archive: opt.Archive,
    output: opt.option(Path, "Manifest to write.", "--output", "-o"),
    qc: opt.path("Folder for one picture per scan: look at them.") = None,
    areas: opt.path("Label map in MNI space. Default: 11 areas.") = None,
    area_names: opt.path("Names of its values: CSV with value, region.") = None,
    min_quality: opt.option(float, "Registrations of lower quality give no labels.") = 0.5,
    n_jobs: opt.option(int, "Processes; -1 is all cores.") = 1,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
):
    """Fill in where in the brain tumors lie: side, halves and area.

    Side, front or rear, upper or lower, and area, of tumors that lack them. Scans are registered to the
    MNI152 template. Labels that are there stay.
    """
    if (areas is None) != (area_names is None):
        raise ValueError("--areas and --area-names belong together. Give both, or neither.")
    from tumorsim.anatomy import AreaMap, places_to_file

    check_output(output, overwrite=overwrite)
    check_folder(qc)
    own = None if areas is None else AreaMap.load(areas, area_names)
    options = {"min_quality": min_quality, "n_jobs": n_jobs, "skip_bad": skip_bad, "progress": True}
    cohort = places_to_file(archive, output, areas=own, qc_dir=qc, **options)
    counts = cohort.labels[list(PLACE_TASKS)].notna().sum()
    filled = ", ".join(f"{task} {n}" for task, n in counts.items())
    say(f"Wrote {output}: {_counts(cohort)}; with a label: {filled}.")


def _counts(cohort):
    """Return numbers of tumors and scans in words."""
    return f"{counted(len(cohort), 'tumor')} in {counted(len(cohort.cases), 'scan')}"
