"""
Train the shipped weights again
===============================

    python -m examples.train_pretrained --heads HEADS --stacks STACKS/scans.csv --out RUN

``HEADS`` holds label maps of real heads (those of SynthSeg: FreeSurfer numbers, and skull, scalp and face);
the last four, in order of their names, are kept for testing. ``STACKS/scans.csv`` is a scan table of real
labelled scans; ours are the 93 stacks made from figshare 1512427 (CC BY 4.0). The steps, each of which is
skipped where its result is in ``RUN`` and goes on where it was killed:

1. simulate patients in the other heads and in the MNI152 template,
2. train on them alone, or on from the weights ``--start``: ``simulated.safetensors``; where the truth is
   known to the millimetre, more tasks teach finer place (bands of MNI coordinates) and whether it is a ring,
3. drop those tasks and go on with real stacks in half of each batch, three times: beside all simulated
   patients; beside all, but with the types of 400 only, since simulated types overlap; beside as many as
   there are stacks. The weights of the three are averaged: ``pretrained.safetensors``, and once more for
   each of five folds without a fifth of the stacks, by contiguous blocks of case numbers
   (``fold-0.safetensors`` …), which `python -m benchmarks.pretrained` scores.

On one core with bfloat16 convolutions an epoch takes about two minutes: two hours and a half for step 2, an
hour and a half for step 3, and as much for each fold. `docs/lab.md` has the commands of a whole run.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.protocol import block_folds
from benchmarks.shipping import average_models, register
from tumorsim import Case, Cohort, Recipe, Tumor, TumorEmbedder, load_cohort, make_cohort
from tumorsim.manifest import build_manifest

N_FOLDS = 5
N_TEST_HEADS = 4
CHUNK = 100  # patients; a killed simulation goes on with the next
TASKS = ("type", "region", "hemisphere", "front_rear", "upper_lower")
WEIGHTS = {"type": 2.0, "hemisphere": 1.0}  # what the plain distance shows least
LAST_STAGES = {  # name → simulated patients, how many of them with their types, recipe
    "all": (1600, 1600, {"max_epochs": 18, "recipe__balance_datasets": True}),
    "types-of-400": (1600, 400, {"max_epochs": 12, "recipe__balance_datasets": True}),
    "few": (93, 93, {"max_epochs": 15}),
}
FINER = dict.fromkeys(("lateral", "rostral", "high", "ring"), 0.5)  # tasks of step 2 only, and their weights
SHAPE = {
    "elongation": (0.65, 0.75, 0.83, 0.9),
    "sphericity": (0.86, 0.92, 0.96, 0.99),
}  # edges of their bands
ABOUT_SIMULATED = {
    "license": "Apache-2.0",
    "description": "Simulated tumors only: to go on from with folds of real stacks, or with your scans.",
}
ABOUT = {
    "license": "CC-BY-4.0",
    "description": "Five tumor types and their places on T1c; from simulated tumors and 93 real stacks.",
}


def main():
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--stacks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n-patients", type=int, default=1600)
    parser.add_argument("--max-epochs", type=int, default=75, help="of 100 batches, on simulated patients")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--random-state", type=int, default=0)
    parser.add_argument("--n-jobs", type=int, default=2, help="processes that simulate, threads that read")
    parser.add_argument(
        "--until", default="folds", choices=("simulate", "pretrain", "ship", "folds"), help="stop after it"
    )
    parser.add_argument("--start", help="weights to train on from in step 2, such as t1c-v6-simulated")
    parser.add_argument("--pasted", type=Path, help="manifest of `benchmarks.pasting`, used in step 3")
    parser.add_argument(
        "--shape-tasks", action="store_true", help="in step 2, learn bands of `SHAPE` as well"
    )
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)))
    parser.add_argument("--register", metavar="NAME", help="make the result a part of this clone's package")
    args = parser.parse_args()

    simulated = simulate(args)
    if args.until == "simulate":
        return
    base = pretrain(args, simulated)
    if args.until == "pretrain":
        return
    stacks = real_stacks(args)
    result = go_on(args, base, stacks, simulated, args.out / "pretrained.safetensors")
    if args.register:
        card = (Path(__file__).parents[1] / "docs/model_card.md").read_text(encoding="utf-8")
        version = args.register.rpartition("-v")[2]
        register(base, f"{args.register}-simulated", version, **ABOUT_SIMULATED, card=card, default=False)
        register(result, args.register, version, **ABOUT, card=card)
    if args.until == "ship":
        return
    held_out = list(folds(stacks))
    for fold in args.folds:
        rest = stacks[np.setdiff1d(np.arange(len(stacks)), held_out[fold])]
        go_on(args, base, rest, simulated, args.out / f"fold-{fold}.safetensors")


def training_heads(folder):
    """Return the anatomies to train on: all heads but the last four, and the template."""
    return [*sorted(folder.glob("*.nii.gz"))[:-N_TEST_HEADS], "mni152"]


def simulate(args):
    """Return the simulated patients, chunk by chunk."""
    cohorts = []
    for chunk in range(-(-args.n_patients // CHUNK)):
        folder = args.out / "simulated" / f"{chunk:03d}"
        if not (folder / "manifest.csv").exists():
            seed = 10_000 * (args.random_state + 1) + chunk
            options = {"output_dir": folder, "n_jobs": args.n_jobs, "progress": True}
            make_cohort(CHUNK, random_state=seed, anatomies=training_heads(args.heads), **options)
        edges = SHAPE if args.shape_tasks else {}
        cohorts.append(renamed(load_cohort(folder / "manifest.csv"), f"{chunk:03d}", edges))
    return Cohort(tumor for cohort in cohorts for tumor in cohort)


def renamed(cohort, prefix, edges):
    """Return a cohort whose patients are told from those of other chunks, with the labels of `bands`."""
    cases = {
        case.case_id: Case(
            case.image,
            case.mask,
            case_id=f"{prefix}-{case.case_id}",
            patient_id=f"{prefix}-{case.patient_id}",
        )
        for case in cohort.cases
    }
    return Cohort(
        Tumor(
            cases[t.case.case_id], t.bbox, tumor_id=f"{prefix}-{t.tumor_id}",
            labels=t.labels | bands(t, edges), mask_value=t.mask_value, metadata=t.metadata,
        )
        for t in cohort
    )  # fmt: skip


def bands(tumor, edges):
    """Return labels of place in bands along each MNI axis, of the ring, and of shape between `edges`."""
    x, y, z = (float(tumor.metadata[f"mni_{axis}_mm"]) for axis in "xyz")
    place = {"lateral": (abs(x), 12, 0, 4), "rostral": (y, 20, -5, 2), "high": (z, 15, -4, 4)}  # mm a band
    labels = {name: str(int(np.clip(mm // size, low, high))) for name, (mm, size, low, high) in place.items()}
    if labels["lateral"] != "0":  # a side: the mirror swaps it
        labels["lateral"] = f"{'left' if x < 0 else 'right'} {labels['lateral']}"
    if edges:
        measured = tumor.measure()
        labels |= {name: str(np.searchsorted(values, measured[name])) for name, values in edges.items()}
    return labels | {"ring": str(tumor.metadata["ring"])}


def weights_of_step_2(args):
    """Return the weights of the tasks that simulated patients teach."""
    return WEIGHTS | FINER | dict.fromkeys(SHAPE if args.shape_tasks else (), 0.5)


def pretrain(args, simulated):
    """Train on simulated patients alone; returns the model file."""
    path = args.out / "simulated.safetensors"
    if not path.exists():
        options = dict(
            task_weights=weights_of_step_2(args), max_epochs=args.max_epochs, n_jobs=args.n_jobs,
            cache_dir=args.out / "cache", checkpoint_dir=args.out / "pretrain",
            random_state=args.random_state, verbose=1,
        )  # fmt: skip
        if args.start:
            as_before = {"recipe__mask_dice": 0.5, "recipe__mask_balance": 0.5}
            embedder = TumorEmbedder.from_pretrained(args.start, **options, **as_before)
            embedder.set_params(recipe__precision=args.precision)
        else:
            embedder = TumorEmbedder(recipe=Recipe(precision=args.precision), **options)
        embedder.fit(simulated, resume=True).save(path)
    return path


def real_stacks(args):
    """Return the real stacks in order of their case numbers."""
    stacks = build_manifest(args.stacks, args.out / "stacks.csv")
    return stacks[np.argsort(stacks.table["case_id"].to_numpy(dtype=str), kind="stable")]


def folds(stacks):
    """Yield the rows of each fold's held-out stacks: contiguous blocks of case numbers within each type."""
    fold_of = block_folds(stacks.labels["type"], N_FOLDS)
    for fold in range(N_FOLDS):
        yield np.flatnonzero(fold_of == fold)


def go_on(args, base, stacks, simulated, path):
    """Train on, from `base`, on real stacks in half of each batch; returns the file of the runs' mean."""
    if not path.exists():
        runs = [last_stage(args, base, stacks, simulated, path, name) for name in LAST_STAGES]
        average_models(runs, path)
    return path


def last_stage(args, base, stacks, simulated, path, name):
    """Train one of the runs that are averaged; returns its file.

    Tumor voxels are no longer weighed up: that finds tumors, and this learns how large they are. Where types
    are left out, places and masks still teach.
    """
    n_patients, n_typed, recipe = LAST_STAGES[name]
    path = path.with_name(f"{path.stem}-{name}.safetensors")
    if path.exists():
        return path
    patients = np.random.default_rng(args.random_state).permutation(np.unique(simulated.patient_ids))
    mixed = stacks + simulated[np.flatnonzero(np.isin(simulated.patient_ids, patients[:n_patients]))]
    if args.pasted:  # of the stacks that may be seen
        pasted = load_cohort(args.pasted)
        mixed += pasted[np.flatnonzero(pasted.table["source"].isin(stacks.table["case_id"]))]
    labels = mixed.labels
    labels.loc[np.isin(mixed.patient_ids, patients[n_typed:]), "type"] = None
    embedder = TumorEmbedder.from_pretrained(
        base, tasks=TASKS, task_weights=WEIGHTS, recipe__precision=args.precision, n_jobs=args.n_jobs,
        cache_dir=args.out / "cache", checkpoint_dir=args.out / path.stem,
        random_state=args.random_state, verbose=1, **recipe,
    )  # fmt: skip
    embedder.fit(mixed, labels, resume=True).save(path)
    return path


if __name__ == "__main__":
    main()
