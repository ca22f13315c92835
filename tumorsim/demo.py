"""The main job on simulated data: simulate, fit, index, query, evaluate, and show."""

from pathlib import Path

import numpy as np

__all__ = ["run_demo"]


def run_demo(output_dir, *, n_patients=60, random_state=0, n_jobs=2, echo=print):
    """Walk the whole way once, on simulated scans, and leave figures and an answer sheet.

    Patients are split in three quarters that train and form the archive, and one quarter that asks.

    Parameters
    ----------
    output_dir : str or Path
        Receives ``archive.csv`` with its scans, ``model.safetensors``, ``index/``, ``knn.csv``, figures
        and ``answer.html``.
    n_patients : int, default=60
    random_state : int, default=0
    n_jobs : int, default=2
        Processes that simulate, threads that prepare.
    echo : callable, default=print
        Receives lines of text.

    Returns
    -------
    dict of Path
        What was written.
    """
    from tumorsim import TumorEmbedder, TumorIndex, evaluate_knn, find_similar, make_cohort, plotting
    from tumorsim.evaluation import format_knn_table, split_patients
    from tumorsim.io import atomic_path
    from tumorsim.report import describe_model, save_report

    output_dir = Path(output_dir)
    echo(f"1/5 Simulating {n_patients} patients (nothing here is a real person) …")
    cohort = make_cohort(
        n_patients,
        random_state=random_state,
        spacing=3.0,
        output_dir=output_dir / "scans",
        n_jobs=n_jobs,
        progress=True,
    )
    echo(cohort.summary().to_string())
    train_rows, test_rows = split_patients(cohort.patient_ids, test_share=0.25, random_state=random_state)
    archive, queries = cohort[train_rows], cohort[test_rows]

    echo(f"2/5 Training on {archive!r} …")
    embedder = TumorEmbedder(
        spacing=3.0, patch_size=64, n_blocks=4, max_epochs=8, batches_per_epoch=40, lr=0.005, device="cpu",
        n_jobs=n_jobs, random_state=random_state, verbose=1,
    ).fit(archive)  # fmt: skip
    first, last = embedder.history_[0], embedder.history_[-1]
    for name in (n for n in last if n.startswith("loss_")):
        echo(f"    {name[5:]:<14} loss {first[name]:.3f} → {last[name]:.3f}")
    embedder.save(output_dir / "model.safetensors")

    echo("3/5 Indexing the archive …")
    X = embedder.transform(archive)
    index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
    index.save(output_dir / "index")

    echo(f"4/5 How good is retrieval? {queries!r} ask the archive; they were never trained on.")
    query_X = embedder.transform(queries)
    result = evaluate_knn(
        X,
        archive.table,
        query_X=query_X,
        query_table=queries.table,
        space=embedder.space_,
        random_state=random_state,
    )
    result.to_csv(output_dir / "knn.csv", index=False)
    echo(format_knn_table(result))

    echo("5/5 One tumor and its neighbors:")
    by_size = np.argsort(queries.table["volume_mm3"].to_numpy())
    chosen = queries[[int(by_size[3 * len(by_size) // 4])]]  # large enough to be seen well
    neighbors = find_similar(embedder, index, chosen, n_neighbors=5)
    query = chosen.table.iloc[0]
    shown = ["tumor_id", "label_type", "label_region", "label_hemisphere", "volume_mm3"]
    echo(query[shown].to_frame("query").T.to_string(index=False))
    echo(neighbors[["rank", "distance", *shown]].round(2).to_string(index=False))

    files = {name: output_dir / f"{name}.png" for name in ("cohort", "history", "knn", "map", "neighbors")}
    by_id = {tumor.tumor_id: tumor for tumor in archive}
    found = [by_id[tumor_id] for tumor_id in neighbors["tumor_id"]]
    axes = {
        "cohort": plotting.plot_cohort(cohort),
        "history": plotting.plot_history(embedder.history_),
        "knn": plotting.plot_knn_curve(result),
        "map": plotting.plot_map(X * embedder.space_.scale, archive.labels["type"]),
        "neighbors": plotting.plot_neighbors(chosen[0], found, neighbors["distance"].to_numpy()),
    }
    for name, drawn in axes.items():
        with atomic_path(files[name]) as temporary:
            np.ravel(drawn)[0].figure.savefig(temporary, dpi=110)
    files["answer"] = save_report(
        output_dir / "answer.html",
        query=chosen,
        neighbors=neighbors,
        archive=archive,
        archive_name="simulated patients",
        model_info=describe_model(embedder, output_dir / "model.safetensors"),
    )
    echo(f"Figures and the answer sheet are in {output_dir.resolve()}; open answer.html in a browser.")
    return files
