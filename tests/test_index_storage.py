"""Index directories: round trips, damage, killed writers, writers and readers at once."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import _store

X = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 9.0]])
SPACE = EmbeddingSpace("3fa1", {"type": [[0.1, 1 / 3, 0.0]]}, [1.0, 0.1, 3.0])


def make_index():
    """Return an index of three rows with text that looks like something else."""
    table = {
        "tumor_id": ["007", "NA", "null"],
        "patient_id": ["1e5", "p", "q"],
        "label_type": ["None", None, "größer\n\u2028als"],
    }
    return TumorIndex(metric="cosine").fit(X, metadata=table, space=SPACE)


@pytest.fixture
def saved(tmp_path):
    """Return the directory of a saved index."""
    make_index().save(tmp_path / "index")
    return tmp_path / "index"


def files(directory):
    """Return the names of an index's data files and manifest."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name != _store.LOCK)


def test_a_saved_index_is_loaded_as_it_was(saved):
    """Parameters, space, embeddings and metadata are equal, and so are answers."""
    index, again = make_index(), TumorIndex.load(saved)
    assert again.get_params() == index.get_params()
    assert again.space_ == SPACE
    assert again.n_features_in_ == 3
    assert again.n_samples_fit_ == 3
    np.testing.assert_array_equal(again.embeddings_, X.astype(np.float32))
    pd.testing.assert_frame_equal(again.metadata_, index.metadata_, check_exact=True)
    assert again.metadata_["label_type"][1] is None
    options = {"n_neighbors": 3, "space": SPACE}
    pd.testing.assert_frame_equal(again.search(X, **options), index.search(X, **options), check_exact=True)


def test_embeddings_are_mapped_and_unpickled_never(saved):
    """Loaded rows are a read-only map of the file, which holds no pickle."""
    index = TumorIndex.load(saved)
    assert isinstance(index.embeddings_, np.memmap)
    assert not index.embeddings_.flags.writeable
    assert np.load(saved / "embeddings-1.npy", allow_pickle=False).dtype == np.float32
    assert files(saved) == ["embeddings-1.npy", "manifest.json", "metadata-1.npz"]


def test_the_manifest_says_what_the_index_is(saved):
    """Schema version, metric, engine, size, fingerprint, scale, aspects, checksums and generation."""
    manifest = json.loads((saved / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == "tumorsim-index"
    assert [manifest[k] for k in ("schema_version", "generation", "size", "n_features")] == [2, 1, 3, 3]
    assert [manifest[k] for k in ("metric", "engine")] == ["cosine", "exact"]
    assert manifest["space"] == SPACE.to_dict()
    assert {len(entry["sha256"]) for entry in manifest["files"].values()} == {64}


def test_an_index_that_was_saved_before_loads_as_it_was(tmp_path):
    """Files of schema version 2 give the same rows and distances, and are written again under their names."""
    old = Path(__file__).parent / "data" / "index-v2"
    directory = tmp_path / "index"
    shutil.copytree(old, directory)
    assert TumorIndex.verify(directory)["generation"] == 1
    index = TumorIndex.load(directory)
    np.testing.assert_array_equal(index.embeddings_, X.astype(np.float32))
    expected = pd.DataFrame(
        {
            "tumor_id": ["007", "NA", "null"],
            "patient_id": ["1e5", "p", "q"],
            "label_type": pd.Series(["None", None, "größer\n\u2028als"], dtype=object),
            "volume_mm3": [1.5, np.nan, np.inf],
            "grade": pd.array([1, None, 3], dtype="Int64"),
            "operated": [True, False, True],
        }
    ).astype({"tumor_id": object, "patient_id": object})
    pd.testing.assert_frame_equal(index.metadata_, expected, check_exact=True)
    assert (index.metric, index.engine, index.space_.fingerprint) == ("cosine", "exact", "3fa1")
    answer = index.search(X[:1] + 1, 3, alpha=None)
    assert answer["tumor_id"].tolist() == ["NA", "007", "null"]
    # as searched when it was saved; other processors may round the last bits of exp differently
    distances = [0.005706926771412825, 0.00884923697001415, 0.011287645357708402]
    np.testing.assert_allclose(answer["distance"], distances, rtol=1e-9)
    of_type = np.array([0.5634095257711644, 0.3056680563478613, 1.561671083901892])  # over the pairs' median
    of_type *= 0.05004078554520608 / of_type[0]  # Hellinger's own
    np.testing.assert_allclose(answer["distance_type"], of_type, rtol=1e-9)

    index.save(tmp_path / "again")
    assert files(tmp_path / "again") == files(old)
    before, after = (json.loads((d / "manifest.json").read_text()) for d in (old, tmp_path / "again"))
    assert after.keys() == before.keys()
    for name in ("embeddings", "metadata"):
        assert after["files"][name]["name"] == before["files"][name]["name"]
    with np.load(old / "metadata-1.npz") as first, np.load(tmp_path / "again" / "metadata-1.npz") as second:
        assert first.files == second.files
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name])


text = st.none() | st.text(max_size=8) | st.sampled_from(["007", "NA", "nan", "null", "True", "1e5", " "])
scalars = text | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_metadata_round_trip_whatever_they_hold(data, tmp_path_factory):
    """Dtypes, missing values, infinities and text that looks like numbers survive exactly."""
    n = data.draw(st.integers(1, 4))

    def column(values, dtype):
        return pd.Series(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    table = pd.DataFrame(
        {
            "text": column(text, object),
            "mixed": column(scalars, object),
            "number": column(st.floats(), "float64"),
            "small": column(st.floats(width=32), "float32"),
            "whole": column(st.integers(-100, 100), "int8"),
            "flag": column(st.booleans(), "bool"),
            "count": column(st.none() | st.integers(-(2**60), 2**60), "Int64"),
            "maybe": column(st.none() | st.booleans(), "boolean"),
            "nothing": column(st.none(), object),
        }
    )
    index = TumorIndex().fit(np.eye(n), metadata=table)
    directory = tmp_path_factory.mktemp("round") / "index"
    index.save(directory)
    again = TumorIndex.load(directory).metadata_
    pd.testing.assert_frame_equal(again, index.metadata_, check_exact=True)
    for name in ("text", "mixed"):
        kinds = [type(value) for value in index.metadata_[name]]
        assert [type(value) for value in again[name]] == kinds


def test_saving_again_replaces_the_generation(saved):
    """What is loaded, changed and saved is the next generation, and the old files go."""
    index = TumorIndex.load(saved)
    index.add([[1.0, 1.0, 1.0]], metadata={"tumor_id": ["new"], "patient_id": ["r"]}).save(saved)
    assert files(saved) == ["embeddings-2.npy", "manifest.json", "metadata-2.npz"]
    assert TumorIndex.load(saved).metadata_["tumor_id"].tolist() == ["007", "NA", "null", "new"]
    index.remove("NA").save(saved)
    assert TumorIndex.load(saved).n_samples_fit_ == 3
    make_index().save(saved)
    assert TumorIndex.load(saved).metadata_["tumor_id"].tolist() == ["007", "NA", "null"]


def test_feature_names_survive(tmp_path):
    """An index that was fitted on a table with names expects them again after loading."""
    frame = pd.DataFrame(X, columns=["f0", "f1", "f2"])
    TumorIndex().fit(frame).save(tmp_path / "index")
    index = TumorIndex.load(tmp_path / "index")
    assert len(index.search(frame, 1)) == 3
    with pytest.raises(ValueError, match="feature names should match"):
        index.search(frame.rename(columns={"f0": "other"}), 1)


def test_a_change_that_another_made_meanwhile_is_not_overwritten(saved):
    """Of two that loaded the same generation, the second to save is told to load again."""
    first, second = TumorIndex.load(saved), TumorIndex.load(saved)
    first.remove("NA").save(saved)
    second.remove("007")
    with pytest.raises(IndexMismatchError, match="is at generation 2, and generation 1 was loaded"):
        second.save(saved)
    assert TumorIndex.load(saved).metadata_["tumor_id"].tolist() == ["007", "null"]


def test_other_peoples_directories_are_refused(tmp_path):
    """A folder with files of its own, a foreign manifest and a file are left alone."""
    index = make_index()
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("sea")
    with pytest.raises(
        IndexMismatchError, match=r"not empty and holds no tumorsim index: it contains 'photo\.jpg'"
    ):
        index.save(tmp_path / "holiday")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "app"}')
    with pytest.raises(IndexMismatchError, match="is no manifest of a tumorsim index"):
        index.save(tmp_path / "app")
    (tmp_path / "file").write_text("text")
    with pytest.raises(IndexMismatchError, match="is a file"):
        index.save(tmp_path / "file")
    assert [entry.name for entry in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
    assert [entry.name for entry in (tmp_path / "app").iterdir()] == ["manifest.json"]
    (tmp_path / "empty").mkdir()
    index.save(tmp_path / "empty")
    assert TumorIndex.load(tmp_path / "empty").n_samples_fit_ == 3


def flip_last_byte(path):
    """Damage one byte of a file."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (
            lambda d: flip_last_byte(d / "embeddings-1.npy"),
            IndexMismatchError,
            "embeddings-1.npy does not match",
        ),
        (
            lambda d: flip_last_byte(d / "metadata-1.npz"),
            IndexMismatchError,
            "metadata-1.npz does not match",
        ),
        (lambda d: (d / "embeddings-1.npy").unlink(), IndexMismatchError, "embeddings-1.npy is missing"),
        (lambda d: (d / "manifest.json").unlink(), IndexMismatchError, "holds no tumorsim index"),
        (lambda d: (d / "manifest.json").write_text("{"), IndexMismatchError, "is no manifest"),
        (lambda d: (d / "manifest.json").write_text("[]"), IndexMismatchError, "is no manifest"),
        (
            lambda d: edit(d, schema_version=99),
            IndexMismatchError,
            "schema version 99; this tumorsim reads 2",
        ),
        (lambda d: edit(d, files=None), IndexMismatchError, "lacks files"),
        (
            lambda d: edit(d, metric="cosinus"),
            IndexMismatchError,
            "is damaged: manifest.json does not match its SHA-256",
        ),
        (lambda d: cut(d / "embeddings-1.npy"), IndexMismatchError, "has 160 bytes instead of 164"),
    ],
)
def test_damage_is_found_and_named(saved, damage, error, match):
    """A flipped bit, a missing file, and a manifest from elsewhere are errors that say what is wrong."""
    damage(saved)
    with pytest.raises(error, match=match):
        TumorIndex.load(saved)


def cut(path):
    """Lose the last number of a file."""
    path.write_bytes(path.read_bytes()[:-4])


def edit(directory, **changes):
    """Change keys of a manifest; None removes one."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in manifest.items() if changes.get(key, ...) is not None}
    (directory / "manifest.json").write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize("shape", [(2**33,), (2**62,), (2**70,)])
def test_metadata_that_claim_more_than_there_is_are_damage(saved, monkeypatch, shape):
    """A member's header is no reason to take memory: what is not in the file cannot be read."""
    with zipfile.ZipFile(saved / "metadata-1.npz", "w") as packed, packed.open("header.npy", "w") as file:
        claim = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, claim)
        file.write(b"{}")
    monkeypatch.setattr(_store.Store, "_file_damage", lambda *about: None)  # as if only measured
    with pytest.raises(IndexMismatchError, match=r"metadata-1\.npz cannot be read"):
        TumorIndex.load(saved)


def test_a_directory_that_does_not_exist_is_not_found(tmp_path):
    """FileNotFoundError, with how to build one."""
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Build it with 'tumorsim index build'"):
        TumorIndex.load(tmp_path / "nowhere")


def test_a_second_writer_is_told_that_the_lock_is_held(saved, monkeypatch):
    """While another writer holds the lock nothing is written, and the message names it."""
    monkeypatch.setattr(_store, "LOCK_SECONDS", 0.05)
    index = TumorIndex.load(saved).remove("NA")
    with (
        filelock.FileLock(saved / _store.LOCK),
        pytest.raises(TimeoutError, match=r"written by another process: its lock 'write\.lock'"),
    ):
        index.save(saved)
    assert TumorIndex.load(saved).n_samples_fit_ == 3
    index.save(saved)
    assert TumorIndex.load(saved).n_samples_fit_ == 2


def test_readers_beside_a_writer_see_whole_generations(tmp_path):
    """While 40 generations are written, every load gets embeddings and metadata of one of them."""
    directory = tmp_path / "index"
    index = TumorIndex()

    def write(generation):
        index.fit(np.full((50, 4), generation), metadata={"generation": [generation] * 50}).save(directory)

    write(0)
    pairs, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            loaded = TumorIndex.load(directory)
            generations = loaded.metadata_["generation"].unique().tolist()
            pairs.append((np.unique(loaded.embeddings_).tolist(), generations))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for generation in range(1, 41):
        write(generation)
    stop.set()
    for reader in readers:
        reader.join()
    assert len(pairs) > 5
    for embeddings, metadata in pairs:
        assert embeddings == metadata
        assert len(metadata) == 1


READERS_AND_WRITER = """
import json, os, sys, time
import numpy as np
from tumorsim import TumorIndex

directory, seconds = sys.argv[1], float(sys.argv[2])
index = TumorIndex()

def write(generation):
    metadata = {"generation": [generation] * 3000, "text": [f"g{generation}"] * 3000}
    index.fit(np.full((3000, 16), generation), metadata=metadata).save(directory)

write(0)
end, children = time.monotonic() + seconds, []
for _ in range(4):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        n_read, bad, seen = 0, 0, set()
        while time.monotonic() < end:
            loaded = TumorIndex.load(directory)
            values = {*np.unique(loaded.embeddings_), *loaded.metadata_["generation"]}
            values |= {float(text[1:]) for text in loaded.metadata_["text"].unique()}
            n_read, bad, seen = n_read + 1, bad + (len(values) != 1), seen | values
        os.write(writer, json.dumps([n_read, bad, len(seen)]).encode())
        os._exit(0)
    os.close(writer)
    children.append((child, reader))
generation = 0
while time.monotonic() < end:
    generation += 1
    write(generation)
answers = []
for child, reader in children:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answers.append([code, *json.loads(os.read(reader, 4096) or b"[0, 0, 0]")])
print(json.dumps({"written": generation, "readers": answers}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="readers are forked processes")
def test_four_reading_processes_beside_a_writer_see_whole_generations(tmp_path):
    """For 3 s, or TUMORSIM_TEST_SECONDS, no load fails or sees rows of two generations."""
    seconds = os.environ.get("TUMORSIM_TEST_SECONDS", "3")
    command = [sys.executable, "-W", "ignore", "-c", READERS_AND_WRITER, str(tmp_path / "index"), seconds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)  # for the record of long runs, with pytest -s
    assert result["written"] > 2
    for code, n_read, bad, n_generations in result["readers"]:
        assert (code, bad) == (0, 0)
        assert n_read >= n_generations > 1


KILLED_WRITERS = """
import json, os, random, signal, sys, time
from pathlib import Path
import numpy as np
from tumorsim import TumorIndex

root = Path(sys.argv[1])

def write(directory, generation, rows):
    metadata = {"generation": [generation] * rows}
    TumorIndex().fit(np.full((rows, 8), generation), metadata=metadata).save(directory)

def state(directory):
    index = TumorIndex.load(directory)
    values = {*np.unique(index.embeddings_).tolist(), *index.metadata_["generation"]}
    return values.pop() if len(values) == 1 else "mixed"

def dying(function, countdown):
    def call(*arguments, **options):
        countdown[0] -= 1
        if countdown[0] < 0:
            os._exit(9)
        return function(*arguments, **options)
    return call

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

answers = []
for step in range(100):  # dies before the first, second, ... call that touches the directory
    directory = root / f"step{step}"
    write(directory, 1, 5)
    def work():
        countdown = [step]
        for name in ("open", "replace", "unlink", "fsync", "chmod"):
            setattr(os, name, dying(getattr(os, name), countdown))
        write(directory, 2, 7)
    status = os.waitpid(in_child(work), 0)[1]
    answers.append([os.waitstatus_to_exitcode(status), state(directory)])
    write(directory, 3, 4)  # the next writer goes on, and cleans up
    left = sorted(e.name for e in directory.iterdir() if e.name != "write.lock")
    answers[-1] += [state(directory), len(left)]
    if answers[-1][0] == 0:
        break

first = root / "first"  # a first write that dies leaves a directory that can be written
def work():
    os.replace = dying(os.replace, [1])
    write(first, 1, 5)
os.waitpid(in_child(work), 0)
write(first, 2, 5)

def row(n):
    return {"tumor_id": [f"t{n}"], "n": [n]}

def operate(index, n):
    if n % 4 == 2:
        index.remove(f"t{n - 2}")
    elif n % 4 == 3:
        index.update(np.full((1, 8), -n), metadata=row(n - 2))
    else:
        index.add(np.full((1, 8), n), metadata=row(n))

def expected(n_operations):
    model = {f"base{i}": 0.5 for i in range(2000)}
    for n in range(n_operations):
        if n % 4 == 2:
            del model[f"t{n - 2}"]
        elif n % 4 == 3:
            model[f"t{n - 2}"] = float(-n)
        else:
            model[f"t{n}"] = float(n)
    return list(model.items())

def found(directory):
    index = TumorIndex.load(directory)
    values = index.embeddings_
    assert (values == values[:, :1]).all()
    return list(zip(index.metadata_["tumor_id"], values[:, 0].tolist()))

rng, kills, done = random.Random(0), [], 0
directory = root / "random"
base = {"tumor_id": [f"base{i}" for i in range(2000)], "n": [0] * 2000}
TumorIndex().fit(np.full((2000, 8), 0.5), metadata=base).save(directory)
for trial in range(50):
    reader, writer = os.pipe()
    def work():
        for n in range(done, done + 1000):
            with TumorIndex.edit(directory) as index:
                operate(index, n)
            os.write(writer, b".")  # from here on the change must not be lost
    child = in_child(work)
    os.close(writer)
    os.read(reader, 1)
    time.sleep(rng.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = done + 1
    while more := os.read(reader, 4096):
        told += len(more)
    os.close(reader)
    TumorIndex.verify(directory)
    now = found(directory)
    whole = [n for n in (told, told + 1) if now == expected(n)]
    kills.append(len(whole))
    done = whole[0] if whole else told
print(json.dumps({"steps": answers, "first": state(first), "kills": kills, "done": done}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are killed in forked processes")
def test_a_killed_writer_leaves_the_old_index_or_the_new_one(tmp_path):
    """Killed before each call that touches the directory, and at 50 random moments, nothing is mixed or lost.

    Every change that the writer was told to be saved is there, and at most the next one.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_WRITERS, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    codes, after, repaired, n_files = zip(*result["steps"], strict=True)
    assert len(codes) > 8
    assert codes == (9,) * (len(codes) - 1) + (0,)
    assert list(after) == sorted(after)  # the old one up to some step, then the new one
    assert set(after) == {1, 2}
    assert set(repaired) == {3}
    assert set(n_files) == {3}
    assert result["first"] == 2
    assert result["kills"] == [1] * 50
    assert result["done"] >= 50
