"""Many searches and additions at once, from threads and processes, against brute force."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tumorsim import TumorIndex

WIDTH, PATIENTS, ROWS = 6, 40, 5  # rows of one addition


def batch(number):
    """Return embeddings and table of one addition, both told by its number; whole numbers tie often."""
    rng = np.random.default_rng(number)
    table = {"tumor_id": [f"{number}-{i}" for i in range(ROWS)], "batch": [number] * ROWS}
    table["patient_id"] = [f"p{i}" for i in rng.integers(PATIENTS, size=ROWS)]
    return rng.integers(-4, 5, size=(ROWS, WIDTH)).astype(np.float32), table


def brute_force(X, patients, query, n_neighbors, limit):
    """Return rows of the nearest, ties by row, at most `limit` of a patient."""
    taken, n_of = [], {}
    for row in np.argsort(((X.astype(float) - query) ** 2).sum(axis=1), kind="stable"):
        if n_of.get(patients[row], 0) < limit:
            n_of[patients[row]] = n_of.get(patients[row], 0) + 1
            taken.append(int(row))
    return taken[:n_neighbors]


def ask(index, rng):
    """Search with one query; return the answer's tumors and what brute force must be given."""
    query = rng.integers(-4, 5, size=WIDTH).astype(np.float32)
    k, limit = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    answer = index.search(query[None], k, max_per_patient=limit, alpha=None)
    return answer["tumor_id"].tolist(), (query, k, limit)


def read(directory, seed, n_queries):
    """Load and search again and again; every answer is that of brute force on the rows that were loaded."""
    rng, seen = np.random.default_rng(seed), set()
    for start in range(0, n_queries, 50):
        index = TumorIndex.load(directory)
        X, table = np.array(index.embeddings_), index.metadata_
        ids, patients = table["tumor_id"].tolist(), table["patient_id"].tolist()
        assert (table.groupby("batch")["tumor_id"].count() == ROWS).all()
        for number in set(table["batch"]) - seen:
            np.testing.assert_array_equal(X[table["batch"] == number], batch(number)[0])
        seen |= set(table["batch"])
        for _ in range(min(50, n_queries - start)):
            found, question = ask(index, rng)
            assert found == [ids[row] for row in brute_force(X, patients, *question)]
    return n_queries


def add(directory, numbers):
    """Add batches to a saved index one by one; another writer may hold the lock for long."""
    for number in numbers:
        X, table = batch(number)
        for _ in range(10):
            try:
                with TumorIndex.edit(directory) as index:
                    index.add(X, metadata=table)
                break
            except TimeoutError:
                continue
    return len(numbers)


def work(directory, seed, n_queries, first, last):
    """Read and add in two threads of this process, and print how much was done."""
    done = {}
    tasks = {"read": (read, directory, seed, n_queries), "add": (add, directory, range(first, last))}

    def run(name, call, *args):
        done[name] = call(*args)

    threads = [threading.Thread(target=run, args=(name, *task)) for name, task in tasks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(done))


_LONG = pytest.mark.skipif("TUMORSIM_LONG" not in os.environ, reason="set TUMORSIM_LONG=1 for the long run")
AMOUNTS = [
    pytest.param(200, 8, id="short"),
    pytest.param(100_000, 500, id="long", marks=[pytest.mark.slow, _LONG]),
]


@pytest.mark.parametrize(("n_queries", "n_adds"), AMOUNTS)
def test_processes_that_add_and_search_see_whole_additions(tmp_path, n_queries, n_adds):
    """No addition is lost, halved or doubled, and no answer differs from brute force."""
    directory, n = tmp_path / "index", 2
    X, table = batch(0)
    TumorIndex().fit(X, metadata=table).save(directory)
    edges = np.linspace(1, n_adds + 1, n + 1).astype(int)
    words = [(i, n_queries // n, edges[i], edges[i + 1]) for i in range(n)]
    commands = [[sys.executable, __file__, str(directory), *map(str, word)] for word in words]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for i, run in enumerate(runs):
        printed, _ = run.communicate()
        assert json.loads(printed) == {"read": n_queries // n, "add": edges[i + 1] - edges[i]}
    index = TumorIndex.load(directory)
    assert sorted(index.metadata_["batch"]) == sorted(ROWS * list(range(n_adds + 1)))
    TumorIndex.verify(directory)


@pytest.mark.parametrize(("n_queries", "n_adds"), AMOUNTS)
def test_threads_search_one_index_while_it_grows(n_queries, n_adds):
    """Every answer is that of brute force on the rows before or after an addition, never of a mixture."""
    parts = [batch(number) for number in range(n_adds + 1)]
    X = np.concatenate([part for part, _ in parts])
    ids = [tumor for _, table in parts for tumor in table["tumor_id"]]
    patients = [patient for _, table in parts for patient in table["patient_id"]]
    index = TumorIndex().fit(parts[0][0], metadata=parts[0][1])
    wrong, left = [], [n_queries // 3] * 3

    def search(who):
        rng = np.random.default_rng(who)
        while left[who] > 0 and not wrong:
            left[who] -= 1
            before = index.n_samples_fit_
            found, question = ask(index, rng)
            sizes = range(before, len(index.embeddings_) + ROWS + 1, ROWS)
            possible = ([ids[row] for row in brute_force(X[:n], patients[:n], *question)] for n in sizes)
            if found not in possible:
                wrong.append((who, question, found))

    threads = [threading.Thread(target=search, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for X_new, table in parts[1:]:
        index.add(X_new, metadata=table)
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert not wrong
    assert left == [0, 0, 0]
    assert index.metadata_["tumor_id"].tolist() == ids


if __name__ == "__main__":
    work(sys.argv[1], *map(int, sys.argv[2:]))
