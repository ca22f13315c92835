"""Engines of `TumorIndex` side by side with faiss used directly: time, recall, memory and bytes.

    OMP_NUM_THREADS=1 python -m benchmarks.index --sizes 10000,100000,1000000 --out index.csv
    OMP_NUM_THREADS=1 python -m benchmarks.index --sizes 100000 --in-turn --clock cpu

Vectors are resampled from embeddings of simulated patients by the shipped weights (made at the first run, and
kept in ``--embeddings``): each is a random mixture of one embedding and three of its ten nearest, plus noise
of 0.3 of the distance to the nearest, so that the archive keeps the clusters and the low dimension of real
ones. Every engine runs in a process of its own, one after the other. Columns:

- build_s: fit and the first answer, with what is compiled for it,
- single_ms, batch_s: median of 50 single queries, best of 3 batches of 1,000; ten neighbors each,
  `kneighbors` of tumorsim, `search` of faiss,
- recall, filtered: share of the exact ten that are found; filtered calls `search` with a condition that half
  of the tumors meet, and one tumor a patient,
- search_s: 1,000 queries by `search` with that filter,
- mb: memory that the process takes more than before, once it has answered; vectors of the archive are mapped
  from a file, and only count where a page of them has been read,
- disk_bytes, open_s: bytes a tumor in the saved index, seven columns of metadata among them, and the time to
  open it; for Milvus, bytes of its file.

``--in-turn`` asks faiss flat, `kneighbors` and `search` (with and without p-values, and by the four aspects)
by turns in one process: the first query, one query (median and least of 60), and 1,000 (least of 3).

Filtered, disk and open are tumorsim's only. ``--clock cpu`` counts processor time instead, which is fair
on one thread of a machine that does other things too; Milvus, whose work is done elsewhere, is always timed
by the clock on the wall. Rows that begin with "faiss:" are faiss without tumorsim.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from tumorsim import EmbeddingSpace

BASELINES = ("faiss:flat", "faiss:hnsw")
ENGINES = ("exact", "faiss", "faiss-compact", "pynndescent", "milvus")
LARGEST = {"pynndescent": 100_000, "milvus": 10_000}  # beyond, they take too long on two cores
N_QUERIES, K = 1_000, 10


def main():
    """Make vectors, measure every engine at every size, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--engines", default=",".join((*BASELINES, *ENGINES)))
    parser.add_argument("--embeddings", type=Path, default=Path("benchmark-embeddings.npz"))
    parser.add_argument("--n-patients", type=int, default=60)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--in-turn", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    if not args.embeddings.exists():
        embed(args.embeddings, args.n_patients)
    held = np.load(args.embeddings)
    rows = []
    for size in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), held["X"], str(held["space"]), size)
            if args.in_turn:
                rows += [{"n": size, **row} for row in in_process(in_turn, Path(folder), clock)]
                continue
            for engine in args.engines.split(","):
                if size > LARGEST.get(engine, size):
                    continue
                rows.append({"n": size, "engine": engine, **in_process(measure, engine, folder, clock)})
                print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    print(table.round(4).to_string(index=False))
    if args.out is not None:
        table.to_csv(args.out, index=False)


def embed(path, n_patients):
    """Write embeddings of simulated patients by the shipped weights, and their space."""
    from tumorsim import TumorEmbedder, make_cohort

    embedder = TumorEmbedder.from_pretrained()
    with tempfile.TemporaryDirectory() as folder:
        cohort = make_cohort(n_patients, random_state=9, spacing=3.0, output_dir=folder, n_jobs=2)
        X = embedder.transform(cohort)
    np.savez(path, X=X, space=json.dumps(embedder.space_.to_dict()))
    print(f"Wrote {path}: {X.shape[0]} embeddings of {X.shape[1]} numbers.")


def resample(real, n, rng):
    """Return float32 vectors (n, n_features) like `real` ones (m, n_features), m > 10."""
    square = ((real[:, None].astype(float) - real[None]) ** 2).sum(axis=2)
    near = np.argsort(square, axis=1)[:, 1:11]
    nearest = np.sqrt(square[np.arange(len(real)), near[:, 0]] / real.shape[1])
    vectors = np.empty((n, real.shape[1]), dtype=np.float32)
    for start in range(0, n, 100_000):
        part = vectors[start : start + 100_000]
        first = rng.integers(len(real), size=len(part))
        others = near[first[:, None], rng.integers(near.shape[1], size=(len(part), 3))]
        weights = rng.dirichlet(np.ones(4), size=len(part))
        part[:] = weights[:, :1] * real[first]
        for i in range(3):
            part += weights[:, i + 1 : i + 2] * real[others[:, i]]
        part += 0.3 * nearest[first, None] * rng.normal(size=part.shape)
    return vectors


def prepare(folder, real, space, n):
    """Write vectors, queries, space and metadata for the processes that measure."""
    rng = np.random.default_rng(0)
    both = resample(real, n + N_QUERIES, rng)
    np.save(folder / "X.npy", both[:n])
    np.save(folder / "queries.npy", both[n:])
    (folder / "space.json").write_text(space)
    patients = rng.integers(max(1, n // 3), size=n)
    pd.DataFrame(
        {
            "tumor_id": [f"t{i:07d}" for i in range(n)],
            "patient_id": [f"p{i:07d}" for i in patients],
            "case_id": [f"p{i:07d}-2021" for i in patients],
            "label_type": rng.choice(["glioma", "meningioma", "metastasis"], size=n),
            "volume_mm3": rng.lognormal(8, 1, size=n),
            "z_mm": rng.normal(size=n),
            "u": rng.random(n),
        }
    ).to_pickle(folder / "table.pkl")


def in_process(function, *arguments):
    """Return what a function finds in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def in_turn(folder, clock):
    """Return a row for each way of asking: the first query, one query and 1,000, all ways by turns."""
    from tumorsim import TumorIndex

    X, queries = np.load(folder / "X.npy"), np.load(folder / "queries.npy")
    space = EmbeddingSpace.from_dict(json.loads((folder / "space.json").read_text()))
    by_faiss, _ = faiss_directly("flat", X, space, clock)
    table = pd.read_pickle(folder / "table.pkl")
    plain, aspects = (TumorIndex().fit(X, metadata=table, space=space) for _ in range(2))
    volumes = np.random.default_rng(1).lognormal(8, 1, size=N_QUERIES)

    def by_aspects(Q):
        return aspects.search(Q, K, query_metadata={"volume_mm3": volumes[: len(Q)]})

    ways = {
        "faiss flat": by_faiss,
        "kneighbors": lambda Q: plain.kneighbors(Q, K),
        "search, no p-values": lambda Q: plain.search(Q, K, aspects="embedding", alpha=None),
        "search": lambda Q: plain.search(Q, K, aspects="embedding"),
        "search by aspects": by_aspects,
    }
    first = {name: timed(way, queries[:1], clock) for name, way in ways.items()}
    single, batch = ({name: [] for name in ways} for _ in range(2))
    for i in range(60):
        for name, way in ways.items():
            single[name].append(timed(way, queries[i : i + 1], clock))
    for _ in range(3):
        for name, way in ways.items():
            batch[name].append(timed(way, queries, clock))
    return [
        {
            "way": name,
            "first_s": first[name],
            "single_ms": 1e3 * np.median(single[name]),
            "least_ms": 1e3 * min(single[name]),
            "batch_ms": 1e3 * min(batch[name]),
            "batch_spread": max(batch[name]) / min(batch[name]),
        }
        for name in ways
    ]


def timed(way, queries, clock):
    """Return the seconds that a way of asking takes."""
    start = clock()
    way(queries)
    return clock() - start


def measure(engine, folder, clock):
    """Return the columns of one row."""
    if engine == "milvus":
        clock = time.perf_counter
    folder = Path(folder)
    X, queries = np.load(folder / "X.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    space = EmbeddingSpace.from_dict(json.loads((folder / "space.json").read_text()))
    if engine.startswith("faiss:"):
        search, row = faiss_directly(engine.split(":")[1], X, space, clock)
    else:
        search, row = by_tumorsim(engine, X, queries, space, folder, clock)
    times = []
    for i in range(50):
        start = clock()
        search(queries[i : i + 1])
        times.append(clock() - start)
    row["single_ms"] = 1e3 * float(np.median(times))
    times = []
    for _ in range(3):
        start = clock()
        found = search(queries)
        times.append(clock() - start)
    row["batch_s"] = min(times)
    truth = folder / "truth.npy"
    if not truth.exists():
        np.save(truth, exact_rows(X, queries, space))
    row["recall"] = share_of(found, np.load(truth))
    return row


def faiss_directly(kind, X, space, clock):
    """Return a function that searches rows by faiss, and the columns of building it."""
    import faiss

    before, start = resident_mb(), clock()
    points = np.vstack(
        [space.coordinates(X[i : i + 20_000]).astype(np.float32) for i in range(0, len(X), 20_000)]
    )
    width = points.shape[1]
    index = faiss.IndexFlatL2(width) if kind == "flat" else faiss.IndexHNSWFlat(width, 32)
    if kind == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 100
    index.add(points)
    index.search(points[:1], K)
    row = {"build_s": clock() - start, "mb": resident_mb() - before}
    return lambda Q: index.search(space.coordinates(Q).astype(np.float32), K)[1], row


def by_tumorsim(engine, X, queries, space, folder, clock):
    """Return a function that searches rows by an index, and the columns that are tumorsim's own."""
    from tumorsim import TumorIndex

    table = pd.read_pickle(folder / "table.pkl")
    where = {"uri": str(folder / "archive.db"), "collection": "b"} if engine == "milvus" else {}
    before, start = resident_mb(), clock()
    index = TumorIndex(engine=engine, **where).fit(X, metadata=table, space=space)
    index.kneighbors(queries[:1], K)
    row = {"build_s": clock() - start}
    options = {"where": {"u": ("<", 0.5)}, "alpha": None, "aspects": "embedding"}
    start = clock()
    answer = index.search(queries, K, **options)
    row |= {"search_s": clock() - start, "mb": resident_mb() - before}
    filtered = folder / "filtered.npy"
    rows = answer["tumor_id"].str[1:].astype(int).to_numpy().reshape(N_QUERIES, K)
    if engine == "exact":
        np.save(filtered, rows)
    if filtered.exists():
        row["filtered"] = share_of(rows, np.load(filtered))
    index.save(folder / engine)
    size = bytes_of(folder / ("archive.db" if engine == "milvus" else engine))
    start = clock()
    TumorIndex.load(folder / engine)
    row |= {"open_s": clock() - start, "disk_bytes": size / len(X)}
    return lambda Q: index.kneighbors(Q, K, return_distance=False), row


def exact_rows(X, queries, space):
    """Return the nearest rows by float64 products, block by block."""
    center = space.coordinates(X[:10_000]).mean(axis=0)
    wanted = space.coordinates(queries) - center
    nearest = np.full((len(queries), K), np.inf)
    rows = np.zeros((len(queries), K), dtype=np.int64)
    for start in range(0, len(X), 20_000):
        points = space.coordinates(X[start : start + 20_000]) - center
        square = (points**2).sum(axis=1) - 2 * wanted @ points.T
        some = np.argpartition(square, K, axis=1)[:, :K]
        both = np.hstack([nearest, np.take_along_axis(square, some, axis=1)])
        both_rows = np.hstack([rows, some + start])
        best = np.argsort(both, axis=1, kind="stable")[:, :K]
        nearest = np.take_along_axis(both, best, axis=1)
        rows = np.take_along_axis(both_rows, best, axis=1)
    return rows


def share_of(found, truth):
    """Return the share of true neighbors that are found."""
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))


def resident_mb():
    """Return the memory that the process takes now, NaN where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return float("nan")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def bytes_of(path):
    """Return the bytes of a file or a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


if __name__ == "__main__":
    main()
