"""The main job on simulated data, with the shipped weights: simulate, index, query, evaluate, and show."""

from pathlib import Path

import numpy as np

__all__ = ["run_demo"]


def run_demo(output_dir, *, n_patients=60, random_state=0, n_jobs=2, echo=print):
    """Walk the whole way once, on simulated scans, and leave figures and an answer sheet.

    Three quarters of the patients form the archive, and one quarter asks. The shipped weights were trained on
    other simulated patients, some of them in the same template.

    Parameters
    ----------
    output_dir : str or Path
        Receives ``scans/`` with ``manifest.csv``, ``index/``, ``knn.csv``, figures and ``answer.html``.
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
    from tumorsim.weights import find_weights

    output_dir = Path(output_dir)
    echo(f"1/4 Simulating {n_patients} patients (nothing here is a real person) …")
    cohort = make_cohort(
        n_patients,
        random_state=random_state,
        spacing=3.0,
        output_dir=output_dir / "scans",
        n_jobs=n_jobs,
        progress=True,
    )
    echo(cohort.summary().to_string())
    archive_rows, query_rows = split_patients(cohort.patient_ids, test_share=0.25, random_state=random_state)
    archive, queries = cohort[archive_rows], cohort[query_rows]

    embedder = TumorEmbedder.from_pretrained().set_params(n_jobs=n_jobs, verbose=1)
    echo(f"2/4 Embedding with shipped weights '{embedder.initial_weights}', and indexing {archive!r} …")
    X = embedder.transform(archive)
    index = TumorIndex().fit(X, metadata=archive.table, space=embedder.space_)
    index.save(output_dir / "index")

    echo(f"3/4 How good is retrieval? {queries!r} ask the archive.")
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

    echo("4/4 One tumor and its neighbors:")
    by_size = np.argsort(queries.table["volume_mm3"].to_numpy())
    chosen = queries[[int(by_size[3 * len(by_size) // 4])]]  # large enough to be seen well
    neighbors = find_similar(embedder, index, chosen, n_neighbors=5)
    query = chosen.table.iloc[0]
    shown = ["tumor_id", "label_type", "label_region", "label_hemisphere", "volume_mm3"]
    echo(query[shown].to_frame("query").T.to_string(index=False))
    echo(neighbors[["rank", "distance", *shown]].round(2).to_string(index=False))

    files = {name: output_dir / f"{name}.png" for name in ("cohort", "knn", "map", "neighbors")}
    by_id = {tumor.tumor_id: tumor for tumor in archive}
    found = [by_id[tumor_id] for tumor_id in neighbors["tumor_id"]]
    axes = {
        "cohort": plotting.plot_cohort(cohort),
        "knn": plotting.plot_knn_curve(result),
        "map": plotting.plot_map(embedder.space_.coordinates(X), archive.labels["type"]),
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
        index=index,
        query_X=query_X[[int(np.flatnonzero(queries.tumor_ids == chosen[0].tumor_id)[0])]],
        model_info=describe_model(embedder, find_weights()),
    )
    echo(f"Figures and the answer sheet are in {output_dir.resolve()}; open answer.html in a browser.")
    return files
