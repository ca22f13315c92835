"""The life of an index: changes against a plain model, locks, damage that is named, old schemas, Parquet."""

import json
import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import _store

X = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 9.0]], dtype=np.float32)
SPACE = EmbeddingSpace("3fa1", {"type": [[0.1, 1 / 3, 0.0]]}, [1.0, 0.1, 3.0])
TABLE = {
    "tumor_id": ["a", "b", "c"],
    "patient_id": ["p", "p", "q"],
    "label_type": ["glioma", None, "meningioma"],
    "n_visits": [1, 2, 3],
}


@pytest.fixture
def index():
    """Return an index of three rows."""
    return TumorIndex().fit(X, metadata=TABLE, space=SPACE)


@pytest.fixture
def saved(index, tmp_path):
    """Return the directory of a saved index."""
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_update_replaces_rows_in_their_places(index):
    """Embeddings and given columns change; absent columns and other rows stay, new columns are missing."""
    new = {"tumor_id": ["c", "a"], "patient_id": ["q", "r"], "dose_gy": [12.0, 13.0]}
    assert index.update([[9, 9, 9], [8, 8, 8]], metadata=new, space=SPACE) is index
    assert index.embeddings_.tolist() == [[8, 8, 8], [3, 4, 5], [9, 9, 9]]
    table = index.metadata_
    assert table["tumor_id"].tolist() == ["a", "b", "c"]
    assert table["patient_id"].tolist() == ["r", "p", "q"]
    assert table["label_type"].tolist() == ["glioma", None, "meningioma"]
    assert table["dose_gy"].tolist()[::2] == [13.0, 12.0]
    assert np.isnan(table["dose_gy"][1])
    assert table["n_visits"].dtype == np.int64
    assert index.search([[8, 8, 8]], 1)["tumor_id"].tolist() == ["a"]


def test_update_of_metadata_alone_leaves_embeddings(index):
    """A label is corrected without embedding anew; frames, dicts and lists of dicts will do."""
    index.update(metadata={"tumor_id": ["b"], "label_type": ["glioma"]})
    index.update(metadata=[{"tumor_id": "c", "label_type": None}])
    index.update(metadata=pd.DataFrame({"tumor_id": ["a"], "n_visits": [7]}))
    np.testing.assert_array_equal(index.embeddings_, X)
    assert index.metadata_["label_type"].tolist() == ["glioma", "glioma", None]
    assert index.metadata_["n_visits"].tolist() == [7, 2, 3]


def test_update_refuses_what_add_would(index):
    """Unknown ids, ids twice, another embedder and wrong lengths are errors, and nothing changes."""
    with pytest.raises(ValueError, match=r"must be held by the index\. Got unknown 'z'"):
        index.update(X[:2], metadata={"tumor_id": ["a", "z"]})
    with pytest.raises(ValueError, match="'a' twice"):
        index.update(X[:2], metadata={"tumor_id": ["a", "a"]})
    with pytest.raises(ValueError, match="must have the column 'tumor_id'"):
        index.update(metadata={"n_visits": [1]})
    with pytest.raises(ValueError, match="1 rows for 2 samples"):
        index.update(X[:2], metadata={"tumor_id": ["a"]})
    with pytest.raises(IndexMismatchError, match=r"'3fa1'.*'9c07'"):
        index.update(X[:1], metadata={"tumor_id": ["a"]}, space=EmbeddingSpace("9c07"))
    with pytest.raises(TypeError, match="'patient_id' of 'metadata' must be text"):
        index.update(metadata={"tumor_id": ["a"], "patient_id": [None]})
    np.testing.assert_array_equal(index.embeddings_, X)
    assert index.metadata_["patient_id"].tolist() == ["p", "p", "q"]


def test_edit_saves_what_was_changed_unless_it_fails(saved):
    """A block that ends well is one generation; one that raises leaves the index as it was."""
    with TumorIndex.edit(saved) as index:
        index.remove("a").add(X[:1], metadata={"tumor_id": ["d"], "patient_id": ["s"]}, space=SPACE)
    assert TumorIndex.load(saved).metadata_["tumor_id"].tolist() == ["b", "c", "d"]
    with pytest.raises(ZeroDivisionError), TumorIndex.edit(saved) as index:
        index.remove("b")
        raise ZeroDivisionError
    assert TumorIndex.verify(saved)["generation"] == 2
    with pytest.raises(FileNotFoundError, match="does not exist"), TumorIndex.edit(saved / "none"):
        pass
    assert not (saved / "none").exists()


def test_threads_that_edit_wait_for_each_other(saved):
    """Twenty tumors that four threads add one by one are all there."""

    def work(name):
        for i in range(5):
            with TumorIndex.edit(saved) as index:
                index.add(X[:1], metadata={"tumor_id": [f"{name}{i}"], "patient_id": [name]})

    threads = [threading.Thread(target=work, args=(name,)) for name in "wxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = set(TumorIndex.load(saved).metadata_["tumor_id"])
    assert ids == {"a", "b", "c", *(f"{name}{i}" for name in "wxyz" for i in range(5))}


def test_an_editor_that_holds_the_lock_is_named(saved, monkeypatch):
    """A second editor and a second save are told that the lock is held; reading goes on."""
    monkeypatch.setattr(_store, "LOCK_SECONDS", 0.05)
    with TumorIndex.edit(saved):
        with pytest.raises(TimeoutError, match=r"its lock 'write\.lock' has been held"):
            TumorIndex.load(saved).save(saved)
        with pytest.raises(TimeoutError, match="try again"), TumorIndex.edit(saved):
            pass
        assert TumorIndex.load(saved).n_samples_fit_ == 3


def test_verify_reads_everything_and_names_all_damage(saved, monkeypatch):
    """Files too large to be checked at every load are checked by verify, which lists them all."""
    manifest = TumorIndex.verify(saved)
    assert [manifest[key] for key in ("size", "generation", "schema_version")] == [3, 1, 2]
    for name in ("embeddings-1.npy", "metadata-1.npz"):
        content = bytearray((saved / name).read_bytes())
        content[-1] ^= 1
        (saved / name).write_bytes(bytes(content))
    monkeypatch.setattr(_store, "CHECKED_BYTES", 16)
    TumorIndex.load(saved)
    with pytest.raises(IndexMismatchError, match=r"embeddings-1\.npy does not.*; metadata-1\.npz does not"):
        TumorIndex.verify(saved)
    monkeypatch.undo()
    with pytest.raises(IndexMismatchError, match=r"embeddings-1\.npy does not"):
        TumorIndex.load(saved)
    (saved / "metadata-1.npz").unlink()
    with pytest.raises(IndexMismatchError, match=r"metadata-1\.npz is missing"):
        TumorIndex.verify(saved)


def test_verify_looks_at_what_files_hold(tmp_path):
    """Checksums that fit files with values that no index can hold are not enough."""
    table = pd.DataFrame({"tumor_id": ["a", "a"]}, dtype=object)
    bad = np.array([[np.nan], [1.0]], dtype=np.float32)
    store = _store.Store(tmp_path / "index")
    with store.lock():
        store.write(bad, table, {"size": 2, "n_features": 3})
    with pytest.raises(IndexMismatchError, match=r"\(2, 1\), and .*\(2, 3\); .*not finite; .*not unique"):
        TumorIndex.verify(tmp_path / "index")


@pytest.mark.parametrize(("version", "remedy"), [(1, "Build it again in a new"), (3, "Update tumorsim")])
def test_an_index_of_another_schema_version_is_refused(saved, version, remedy):
    """Only the schema of this version is read; the message says what to do."""
    path = saved / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    for read in (TumorIndex.load, TumorIndex.verify):
        with pytest.raises(IndexMismatchError, match=f"schema version {version}; .* reads 2. {remedy}"):
            read(saved)


def test_parquet_round_trip_keeps_rows_dtypes_and_space(tmp_path):
    """Text, numbers, nullable and mixed columns, metric and space are as they were, and so are answers."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    table = pd.DataFrame(TABLE)
    table["grade"] = pd.array([1, None, 3], dtype="Int64")
    table["flag"] = pd.array([True, None, False], dtype="boolean")
    table["small"] = np.array([1.5, np.nan, 2.5], dtype=np.float32)
    table["mixed"] = pd.Series([1, "1", True], dtype=object)
    table["huge"] = pd.Series([2**70, None, 5], dtype=object)
    index = TumorIndex(metric="cosine").fit(X, metadata=table, space=SPACE)
    index.to_parquet(tmp_path / "index.parquet")
    again = TumorIndex.from_parquet(tmp_path / "index.parquet")
    pd.testing.assert_frame_equal(again.metadata_, index.metadata_, check_exact=True)
    assert [type(v) for v in again.metadata_["mixed"]] == [int, str, bool]
    np.testing.assert_array_equal(again.embeddings_, X)
    assert again.get_params() == index.get_params()
    pd.testing.assert_frame_equal(again.search(X, 3, space=SPACE), index.search(X, 3, space=SPACE))


def test_parquet_is_read_by_and_from_other_tools(index, tmp_path):
    """Pandas reads the columns and lists of numbers, and what pandas writes becomes an index."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    index.to_parquet(tmp_path / "index.parquet")
    frame = pd.read_parquet(tmp_path / "index.parquet")
    assert frame["tumor_id"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(np.stack(frame["embedding"]), X)
    foreign = pd.DataFrame({"tumor_id": ["x", "y"], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    foreign.to_parquet(tmp_path / "foreign.parquet")
    read = TumorIndex.from_parquet(tmp_path / "foreign.parquet")
    assert read.search([[3.0, 4.0]], 1)["tumor_id"].tolist() == ["y"]
    assert read.space_ is None


def test_parquet_that_is_none_is_refused(index, tmp_path):
    """A missing file, another format, a table without embeddings and uneven lists are named."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TumorIndex.from_parquet(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(IndexMismatchError, match="is no Parquet file"):
        TumorIndex.from_parquet(tmp_path / "text.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(IndexMismatchError, match="has no column 'embedding'"):
        TumorIndex.from_parquet(tmp_path / "other.parquet")
    pd.DataFrame({"embedding": [[1.0], [1.0, 2.0]]}).to_parquet(tmp_path / "uneven.parquet")
    with pytest.raises(IndexMismatchError, match="a list of equally many numbers"):
        TumorIndex.from_parquet(tmp_path / "uneven.parquet")
    with pytest.raises(ValueError, match="'embedding' of the metadata is reserved"):
        TumorIndex().fit(X, metadata={"embedding": [1, 2, 3]}).to_parquet(tmp_path / "no.parquet")
    assert not (tmp_path / "no.parquet").exists()


def test_a_manifest_with_another_engine_is_refused(saved):
    """An engine that this version does not know is damage, not a crash at the first search."""
    path = saved / "manifest.json"
    manifest = json.loads(path.read_text()) | {"engine": "annoy"}
    manifest["sha256"] = _store._manifest_key(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexMismatchError, match="is damaged: Parameter 'engine' must be one of"):
        TumorIndex.load(saved)


vectors = st.tuples(*[st.integers(-3, 3)] * 2)


class LivingIndex(RuleBasedStateMachine):
    """Add, remove, update, save and search, against a dict that brute force is run on."""

    directory = None  # set by the test

    @initialize(vector=vectors)
    def begin(self, vector):
        """Fit an index of one tumor."""
        self.n = 1
        self.model = {"t0": (vector, "p0", 0)}
        table = {"tumor_id": ["t0"], "patient_id": ["p0"], "value": [0]}
        self.index = TumorIndex().fit([vector], metadata=table, space=EmbeddingSpace("f"))

    @rule(rows=st.lists(st.tuples(vectors, st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=4))
    def add(self, rows):
        """Append tumors, and be refused the same ones once more."""
        ids = [f"t{self.n + i}" for i in range(len(rows))]
        self.n += len(rows)
        table = {
            "tumor_id": ids,
            "patient_id": [f"p{patient}" for _, patient, _ in rows],
            "value": [value for *_, value in rows],
        }
        embeddings = [vector for vector, *_ in rows]
        self.index.add(embeddings, metadata=table)
        self.model |= {
            id_: (vector, f"p{patient}", value)
            for id_, (vector, patient, value) in zip(ids, rows, strict=True)
        }
        with pytest.raises(ValueError, match="which the index holds"):
            self.index.add(embeddings, metadata=table)

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data())
    def remove(self, data):
        """Drop some, but not all."""
        ids = data.draw(
            st.sets(st.sampled_from(sorted(self.model)), min_size=1, max_size=len(self.model) - 1)
        )
        self.index.remove(sorted(ids))
        for id_ in ids:
            del self.model[id_]

    @rule(data=st.data(), vector=vectors, value=st.integers(0, 9), both=st.booleans())
    def update(self, data, vector, value, both):
        """Change one tumor's value, with or without its embedding."""
        id_ = data.draw(st.sampled_from(sorted(self.model)))
        old, patient, _ = self.model[id_]
        self.index.update([vector] if both else None, metadata={"tumor_id": [id_], "value": [value]})
        self.model[id_] = (vector if both else old, patient, value)

    @rule()
    def save_and_load(self):
        """Go through the directory."""
        self.index.save(self.directory)
        self.index = TumorIndex.load(self.directory)

    @rule(
        query=vectors,
        k=st.integers(1, 6),
        least=st.none() | st.integers(0, 9),
        limit=st.none() | st.integers(1, 2),
        patient=st.none() | st.integers(0, 3),
    )
    def search(self, query, k, least, limit, patient):
        """Answers are those of a loop over the model."""
        expected, n_of = [], {}
        distance = {id_: np.hypot(*np.subtract(v[0], query)) for id_, v in self.model.items()}
        for id_ in sorted(self.model, key=distance.get):  # sorted is stable: ties in the order of rows
            _, own, value = self.model[id_]
            if (least is not None and value < least) or own == f"p{patient}":
                continue
            if n_of.get(own, 0) == limit or len(expected) == k:
                continue
            n_of[own] = n_of.get(own, 0) + 1
            expected.append(id_)
        answer = self.index.search(
            [query],
            k,
            where=None if least is None else {"value": (">=", least)},
            exclude=None if patient is None else "same_patient",
            query_metadata=None if patient is None else {"patient_id": [f"p{patient}"]},
            max_per_patient=limit,
        )
        assert answer["tumor_id"].tolist() == expected
        np.testing.assert_allclose(answer["distance"], [distance[id_] for id_ in expected])

    @invariant()
    def holds_the_model(self):
        """Ids, embeddings and values are those of the model, in its order."""
        if hasattr(self, "model"):
            assert self.index.metadata_["tumor_id"].tolist() == list(self.model)
            assert self.index.metadata_["value"].tolist() == [v[2] for v in self.model.values()]
            assert self.index.embeddings_.tolist() == [list(v[0]) for v in self.model.values()]


def test_any_sequence_of_changes_equals_a_plain_model(tmp_path):
    """Hypothesis finds no order of add, remove, update, save, load and search that a dict would not give."""
    from hypothesis.stateful import run_state_machine_as_test

    LivingIndex.directory = tmp_path / "index"
    run_state_machine_as_test(
        LivingIndex, settings=settings(max_examples=25, stateful_step_count=15, deadline=None)
    )
