"""Commands of an index's life: build, add, update, remove, info, verify, export, import."""

import warnings
from pathlib import Path

import typer

from tumorsim.cli import _options as opt
from tumorsim.cli._app import app, check_output, say
from tumorsim.cli._options import Device, Jobs, Model, Overwrite
from tumorsim.cli._parse import parse_where
from tumorsim.io import remove_partial
from tumorsim.records.columns import id_variants, label_columns

IndexDir = opt.argument(Path, "Folder of the index.", "INDEX")
Source = opt.argument(Path, "Embeddings file or manifest.", "EMBEDDINGS.npz|ARCHIVE.csv")

index_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build, change or check an index.")
app.add_typer(index_app, name="index")


@index_app.command(
    "build",
    epilog="\b\nExamples:\n  tumorsim index build archive.npz -o index\n"
    "  tumorsim index build archive.npz -o index --engine milvus --uri archive.db --collection t1c",
)
def index_build(
    source: Source,
    output: opt.option(Path, "Folder of the index.", "--output", "-o"),
    model: Model = None,
    metric: opt.option(str, "euclidean, cosine or whitened.") = "euclidean",
    engine: opt.option(
        str, "exact; pynndescent, faiss, faiss-compact or milvus for very large archives."
    ) = "exact",
    uri: opt.text("Of the Milvus: a file, or http://host:19530.") = None,
    collection: opt.text("Name in the Milvus.") = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    n_jobs: Jobs = 2,
):
    """Make an index of an archive's embeddings.

    With --overwrite an index or a Milvus collection of that name is replaced.
    """
    _check_index(output, overwrite)
    from tumorsim.index import TumorIndex
    from tumorsim.retrieval import read_embeddings

    options = {"model": model, "device": device, "n_jobs": n_jobs, "partial_dir": f"{output}.partial"}
    X, table, space = read_embeddings(source, **options)
    index = TumorIndex(metric=metric, engine=engine, uri=uri, collection=collection)
    index.fit(X, metadata=table, space=space, overwrite=overwrite).save(output)
    remove_partial(f"{output}.partial", ".npy")
    say(f"Wrote {output}: {index.n_samples_fit_} tumors, {index.n_features_in_} numbers each.")


@index_app.command(
    "add",
    epilog="\b\nExample:\n  tumorsim embed week.csv -o week.npz && tumorsim index add index week.npz\n\n"
    "Queries that run meanwhile answer from the old index or from the new one.",
)
def add(index: IndexDir, source: Source, model: Model = None, device: Device = "auto", n_jobs: Jobs = 2):
    """Append tumors to an index of the same model."""
    _change(index, source, model, device, n_jobs, "add")


@index_app.command("update", epilog="\b\nExample:\n  tumorsim index update index corrected.npz")
def update(index: IndexDir, source: Source, model: Model = None, device: Device = "auto", n_jobs: Jobs = 2):
    """Replace embeddings and columns of tumors by those of equal ids."""
    _change(index, source, model, device, n_jobs, "update")


@index_app.command(
    "remove",
    epilog="\b\nExamples:\n  tumorsim index remove index p012-2021/1 p012-2021/2\n"
    "  tumorsim index remove index --where patient_id=p012",
)
def index_remove(
    index_dir: IndexDir,
    tumor_ids: opt.argument(list[str] | None, "Ids of tumors.", "[TUMOR_ID]...") = None,
    where: opt.texts("Condition on what to remove: patient_id=p012.") = None,
):
    """Drop tumors from an index, by id or by condition."""
    from tumorsim.index import TumorIndex, where_mask

    if not tumor_ids and not where:
        raise ValueError("Nothing to remove. Give tumor ids, or --where.")
    with TumorIndex.edit(index_dir) as index:
        ids = list(tumor_ids or ())
        if where:
            table = index.metadata_
            ids += table["tumor_id"][where_mask(table, parse_where(where, table))].tolist()
        if not ids:
            raise ValueError(f"No tumor of {index_dir} meets {' and '.join(where)}. Nothing is removed.")
        before = index.n_samples_fit_
        index.remove(ids)
    left = index.n_samples_fit_
    say(f"{index_dir} now holds {left} tumors; {before - left} are gone.")


@index_app.command("info", epilog="\b\nExample:\n  tumorsim index info index")
def index_info(index_dir: IndexDir):
    """Say what an index holds."""
    from tumorsim.index import TumorIndex

    index = TumorIndex.load(index_dir)
    table = index.metadata_
    facts, ids = {"tumors": index.n_samples_fit_}, {"patients": "patient_id", "cases": "case_id"}
    facts |= {name: table[column].nunique() for name, column in ids.items() if column in table}
    facts |= {"numbers each": index.n_features_in_, "metric": index.metric, "engine": index.engine}
    if index.engine == "milvus":
        facts |= {"collection": f"{index.collection} at {index.uri}"}
    if index.space_ is not None:
        facts["fingerprint"] = index.space_.fingerprint
        facts["aspects"] = ", ".join(index.aspects_) or "none"
    for column, task in label_columns(table).items():
        counts = table[column].value_counts().items()
        facts[task] = ", ".join(f"{value} {n}" for value, n in counts) or "none"
    facts["columns"] = ", ".join(table.columns)
    for name, value in facts.items():
        say(f"{name + ':':<14} {value}")


@index_app.command("verify", epilog="\b\nExample:\n  tumorsim index verify index")
def index_verify(index_dir: IndexDir):
    """Check an index's files by checksum, and say what is damaged."""
    from tumorsim.index import TumorIndex

    manifest = TumorIndex.verify(index_dir)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    version = f"generation {manifest['generation']}, schema version {manifest['schema_version']}"
    say(f"{index_dir} is whole: {manifest['size']} tumors in {size} bytes, {version}.")


@index_app.command("export", epilog="\b\nExample:\n  tumorsim index export index -o archive.parquet")
def index_export(
    index_dir: IndexDir,
    output: opt.option(Path, "Parquet file to write.", "--output", "-o"),
    overwrite: Overwrite = False,
):
    """Write an index as a Parquet table for other tools."""
    from tumorsim.index import TumorIndex

    check_output(output, overwrite=overwrite)
    index = TumorIndex.load(index_dir)
    index.to_parquet(output)
    say(f"Wrote {output}: {index.n_samples_fit_} tumors, {index.n_features_in_} numbers each.")


@index_app.command("import", epilog="\b\nExample:\n  tumorsim index import archive.parquet -o index")
def index_import(
    source: opt.argument(Path, "Parquet file with one row per tumor.", "ARCHIVE.parquet"),
    output: opt.option(Path, "Folder of the index.", "--output", "-o"),
    overwrite: Overwrite = False,
):
    """Make an index of a Parquet table with a column 'embedding'."""
    _check_index(output, overwrite)
    from tumorsim.index import TumorIndex

    index = TumorIndex.from_parquet(source)
    index.save(output)
    say(f"Wrote {output}: {index.n_samples_fit_} tumors, {index.n_features_in_} numbers each.")


def _check_index(folder, overwrite):
    """Raise early where an index would be lost."""
    if (folder / "manifest.json").exists() and not overwrite:
        what = f"Index '{folder}' exists already."
        raise FileExistsError(f"{what} Add to it with 'tumorsim index add', or replace it with --overwrite.")


def _change(index_dir, source, model, device, n_jobs, how):
    """Embed, then add or update under the index's lock, which embedding for hours would hold for hours."""
    from tumorsim.index import TumorIndex
    from tumorsim.retrieval import read_embeddings

    TumorIndex.load(index_dir)  # complains before the embedding, not after it
    options = {"model": model, "device": device, "n_jobs": n_jobs, "partial_dir": f"{index_dir}.partial"}
    X, table, space = read_embeddings(source, **options)
    with TumorIndex.edit(index_dir) as index:
        held = set(index.metadata_.get("patient_id", ()))
        getattr(index, how)(X, metadata=table, space=space)
    for ids in id_variants(index.metadata_.get("patient_id", ())):
        if not held.issuperset(ids):
            warnings.warn(f"patient_id {' and '.join(ids)} may be one patient.", stacklevel=2)
    remove_partial(f"{index_dir}.partial", ".npy")
    what = "new" if how == "add" else "replaced"
    say(f"{index_dir} now holds {index.n_samples_fit_} tumors, {len(X)} of them {what}.")
