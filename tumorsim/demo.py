"""The main job on real and simulated scans: simulate, index, query, evaluate, and show."""

from pathlib import Path

import numpy as np

from tumorsim import TumorEmbedder, TumorIndex, evaluate_knn, find_similar, load_dataset, make_cohort
from tumorsim.evaluation import format_knn_table, split_patients
from tumorsim.io import atomic_path
from tumorsim.manifest import save_manifest
from tumorsim.plotting import plot_cohort, plot_knn_curve, plot_map, plot_neighbors
from tumorsim.retrieval import embed_archive, neighbor_tumors

__all__ = ["QUERY", "WEIGHTS", "run_demo"]

WEIGHTS = "t1c-v6-simulated"  # saw no real scan, so that no example flatters
QUERY = "cheng-1304"  # a pituitary adenoma


def run_demo(output_dir, *, n_patients=48, random_state=0, n_jobs=2, echo=print):
    """Walk the whole way once, on real scans beside simulated ones, and leave figures and an answer sheet.

    The archive are the 12 real example scans and three quarters of the simulated patients. The other quarter
    tells how good retrieval is; one of the real scans is the query that is shown, and does not find itself.

    Parameters
    ----------
    output_dir : str or Path
        Receives ``scans/`` with ``manifest.csv``, ``index/``, ``knn.csv``, figures and ``answer.html``.
    n_patients : int, default=48
        Simulated ones.
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
    output_dir = Path(output_dir)
    real = load_dataset("examples")
    echo(f"1/4 Simulating {n_patients} patients, beside {len(real)} real scans (J. Cheng, CC BY 4.0) …")
    options = {"random_state": random_state, "n_jobs": n_jobs, "progress": True}
    simulated = make_cohort(n_patients, spacing=3.0, output_dir=output_dir / "scans", **options)
    rows, query_rows = split_patients(simulated.patient_ids, test_share=0.25, random_state=random_state)
    archive, queries = real + simulated[rows], simulated[query_rows]
    cohort = archive + queries
    save_manifest(cohort, output_dir / "scans" / "manifest.csv")
    echo(cohort.summary().to_string())

    embedder = TumorEmbedder.from_pretrained(WEIGHTS).set_params(n_jobs=n_jobs, verbose=1)
    echo(f"2/4 Embedding with weights '{WEIGHTS}', which saw no real scan, and indexing {archive!r} …")
    X, columns = embed_archive(embedder, archive)
    index = TumorIndex().fit(X, metadata=columns, space=embedder.space_)
    index.save(output_dir / "index")

    echo(f"3/4 How good is retrieval? The archive is queried with {queries!r} of simulated patients.")
    asked = {"query_X": embedder.transform(queries), "query_table": queries.table}
    result = evaluate_knn(X, archive.table, space=embedder.space_, random_state=random_state, **asked)
    result.to_csv(output_dir / "knn.csv", index=False)
    echo(format_knn_table(result))

    echo("4/4 One real tumor and its neighbors among all others:")
    query = real[np.flatnonzero(real.patient_ids == QUERY)]
    answer = find_similar(embedder, index, query, n_neighbors=5, exclude="same_patient")
    echo(str(answer))

    files = _draw(output_dir, cohort, result, answer)
    names = {"archive_name": "real example scans and simulated patients", "model_name": WEIGHTS}
    files["answer"] = answer.save_html(output_dir / "answer.html", **names)
    echo(f"Figures and the answer sheet are in {output_dir.resolve()}; open answer.html in a browser.")
    return files


def _draw(folder, cohort, result, answer):
    """Write figures of the cohort, of its evaluation and of one answer; return name → file."""
    index, neighbors = answer.index, answer.neighbors
    points, types = index.coordinates(aspects=answer.aspects or "embedding"), index.metadata_["label_type"]
    distances = neighbors["distance"].to_numpy()
    drawn = {
        "cohort": plot_cohort(cohort),
        "knn": plot_knn_curve(result),
        "map": plot_map(points, types.rename("type")),
        "neighbors": plot_neighbors(answer.queries[0], neighbor_tumors(neighbors), distances),
    }
    files = {name: folder / f"{name}.png" for name in drawn}
    for name, axes in drawn.items():
        with atomic_path(files[name]) as temporary:
            np.ravel(axes)[0].figure.savefig(temporary, dpi=110)
    return files
