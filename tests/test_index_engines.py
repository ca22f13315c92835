"""One contract for every engine: the answers of exact search, filters and p-values among them."""

import os
import pickle
import socket
import threading
import time

import numpy as np
import pandas as pd
import pytest

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index._address import token_for
from tumorsim.index._engines import ENGINES
from tumorsim.index._exact import CandidateEngine
from tumorsim.index._milvus import Collection

N, WIDTH = 3_000, 16
SPACE = EmbeddingSpace("3fa1", {"type": np.eye(2, WIDTH)}, np.linspace(0.5, 2, WIDTH))
NEEDS = {"faiss": "faiss", "faiss-compact": "faiss", "milvus": "pymilvus"}
APPROXIMATE = [name for name in ENGINES if name != "exact"]


def make_archive(seed=0):
    """Return embeddings in clusters, queries among them, and their table."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, WIDTH))
    X = centers[rng.integers(40, size=N)] + 0.5 * rng.normal(size=(N, WIDTH))
    queries = centers[rng.integers(40, size=100)] + 0.5 * rng.normal(size=(100, WIDTH))
    table = pd.DataFrame(
        {
            "tumor_id": [f"t{i}" for i in range(N)],
            "patient_id": [f"p{i}" for i in rng.integers(900, size=N)],
            "label_type": rng.choice(np.array(["glioma", "meningioma", None], dtype=object), size=N),
            "u": rng.random(N),
        }
    )
    return X.astype(np.float32), queries.astype(np.float32), table


@pytest.fixture(scope="session")
def make_index(tmp_path_factory):
    """Return a function (engine, metric) → fitted index, each made once: pynndescent compiles long."""
    made = {}

    def make(engine, metric="euclidean"):
        if engine in NEEDS:
            pytest.importorskip(NEEDS[engine], reason=f"needs the extra {engine.split('-')[0]}")
        if (engine, metric) not in made:
            X, _, table = make_archive()
            where = {}
            if engine == "milvus":
                where = {"uri": str(tmp_path_factory.mktemp("milvus") / "archive.db"), "collection": "t1c"}
            index = TumorIndex(metric=metric, engine=engine, **where)
            made[engine, metric] = index.fit(X, metadata=table, space=SPACE)
        return made[engine, metric]

    return make


def check_same(index, exact, queries, *, recall, **options):
    """Compare two indices' answers to ten neighbors: recall, exact distances, order, and all columns.

    By the plain distance unless `options` say otherwise: engines serve no other.
    """
    options = {"aspects": "embedding"} | options
    of = {"patient_id": [f"p{i}" for i in range(len(queries))], "volume_mm3": [100.0] * len(queries)}
    answer = index.search(queries, 10, query_metadata=of, space=SPACE, **options)
    truth = exact.search(queries, 10, query_metadata=of, space=SPACE, **options)
    assert answer.columns.tolist() == truth.columns.tolist()
    assert answer["query"].tolist() == truth["query"].tolist()
    assert answer["rank"].tolist() == truth["rank"].tolist()
    shared = answer.merge(truth, on=["query", "tumor_id"])
    assert len(shared) >= recall * len(truth)
    for column in ("distance", "distance_type", "closer_than_type", "p_value", "no_close_match"):
        if column in truth:
            np.testing.assert_array_equal(shared[f"{column}_x"], shared[f"{column}_y"], err_msg=column)
    assert (answer.groupby("query")["distance"].diff().dropna() >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("engine", APPROXIMATE)
@pytest.mark.parametrize(
    ("options", "recall"),
    [
        ({}, 0.98),
        ({"max_per_patient": None}, 0.98),
        ({"max_per_patient": 2, "where": {"u": ("<", 0.6)}}, 0.98),
        ({"where": {"type": ["glioma", None]}, "exclude": "same_patient"}, 0.98),
        ({"exclude": ["t1", "t2"], "calibration": {"u": (">", 0.5)}, "alpha": 0.2}, 0.98),
        ({"alpha": None}, 0.98),
        ({"where": {"u": ("<", 0.01)}}, 1),
        ({"where": {"type": "glioma", "u": ("<", 0)}}, 1),
        ({"aspects": {"type": 1}}, 1),
        ({"aspects": None}, 1),
    ],
    ids=[
        "plain",
        "no limit",
        "half",
        "exclude",
        "calibration",
        "no alpha",
        "selective",
        "none",
        "aspects",
        "default",
    ],
)
def test_every_engine_answers_as_exact_search_does(make_index, engine, options, recall):
    """Recall@10 is at least 0.98, all else is exact; so is all with aspects and selective filters."""
    queries = make_archive()[1]
    check_same(make_index(engine), make_index("exact"), queries, recall=recall, **options)


@pytest.mark.slow
@pytest.mark.parametrize("engine", APPROXIMATE)
@pytest.mark.parametrize("metric", ["cosine", "whitened"])
def test_every_engine_knows_every_metric(make_index, engine, metric):
    """Candidates are near in the metric that is asked for."""
    queries = make_archive()[1]
    check_same(make_index(engine, metric), make_index("exact", metric), queries, recall=0.98)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_every_row_of_the_archive_without_itself(make_index, engine):
    """Without queries a row is not its own neighbor, also where candidates come from a graph."""
    distances, rows = make_index(engine).kneighbors(n_neighbors=5)
    assert (rows != np.arange(N)[:, None]).all()
    truth = make_index("exact").kneighbors(n_neighbors=5, return_distance=False)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(rows, truth, strict=True)]) / 5 >= 0.98
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_follows_changes(make_index, engine, tmp_path):
    """After add, update, remove, save, load and pickle the index answers as one of exact search does."""
    make_index(engine)  # skips where the engine is not installed
    X, queries, table = make_archive(1)
    where = {"uri": str(tmp_path / "archive.db"), "collection": "t1c"} if engine == "milvus" else {}
    index = TumorIndex(engine=engine, **where)
    exact = TumorIndex()
    for one in (index, exact):
        one.fit(X[:2000], metadata=table[:2000], space=SPACE)
        one.search(queries[:1], 1, aspects="embedding")  # builds what changes must not leave behind
        one.add(X[2000:], metadata=table[2000:], space=SPACE)
        one.remove(table["tumor_id"][:50].tolist())
        one.update(queries[:1], metadata={"tumor_id": ["t99"], "u": [0.25]}, space=SPACE)
    assert index.search(queries[:1], 1)["tumor_id"].tolist() == ["t99"]
    check_same(index, exact, queries, recall=0.98)
    index.save(tmp_path / "index")
    check_same(TumorIndex.load(tmp_path / "index"), exact, queries, recall=0.98)
    check_same(pickle.loads(pickle.dumps(index)), exact, queries, recall=0.98)
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_asked_by_several_threads(make_index, engine):
    """Four threads that ask a fresh index at once all get the same answer: one builds, the others wait."""
    index = pickle.loads(pickle.dumps(make_index(engine)))
    queries, answers = make_archive()[1], []

    def ask():
        answers.append(index.kneighbors(queries, 10)[1])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    for rows in answers:
        np.testing.assert_array_equal(rows, answers[0])


@pytest.mark.parametrize("engine", ["pynndescent", "faiss", "faiss-compact"])
def test_small_archives_are_searched_exactly(engine):
    """Below a thousand tumors nothing is built, and nothing needs to be installed."""
    index = TumorIndex(engine=engine).fit(np.eye(4))
    assert index.search(np.eye(4)[:1], 1)["tumor_id"].tolist() == ["0"]
    assert index._get_engine(index._archive)._built is None


def test_queries_without_enough_candidates_are_searched_exactly(make_index, monkeypatch):
    """Where all candidates but one are lost, the answer is still complete."""
    exact = make_index("exact")

    class Forgetful(CandidateEngine):
        def _build(self):
            return self.exact

        def _query(self, built, points, n_candidates):
            return np.where(np.arange(n_candidates) == 0, np.arange(len(points))[:, None], -1)

    monkeypatch.setitem(ENGINES, "pynndescent", Forgetful)
    X, queries, table = make_archive()
    index = TumorIndex(engine="pynndescent").fit(X, metadata=table, space=SPACE)
    check_same(index, exact, queries, recall=1)


@pytest.mark.slow
def test_compact_codes_take_at_most_16_bytes_a_tumor(make_index):
    """What faiss keeps of an archive in memory, serialized, is its codes and a table of their meaning."""
    faiss = pytest.importorskip("faiss", reason="needs the extra faiss")
    index = make_index("faiss-compact")
    built = index._get_engine(index._archive)._ready()
    size = faiss.serialize_index(built).nbytes
    table = 4 * 16 * built.d  # float32 means of 16 codes a coordinate
    assert size - table < 16 * N + 2_000


def test_parameters_of_milvus_go_together(tmp_path):
    """Milvus wants uri and collection; no other engine takes them."""
    with pytest.raises(TypeError, match="'uri' must be text"):
        TumorIndex(engine="milvus").fit(np.eye(2))
    with pytest.raises(TypeError, match="'collection' must be text"):
        TumorIndex(engine="milvus", uri=str(tmp_path / "archive.db")).fit(np.eye(2))
    with pytest.raises(ValueError, match=r"'uri' belongs to engine='milvus'\. Got engine='exact'"):
        TumorIndex(uri="archive.db").fit(np.eye(2))
    assert not list(tmp_path.iterdir())


def check_milvus(uri, directory, name="t1c"):
    """Walk an index's life in a Milvus: fit, refusal, connect, change, another client's change."""
    X, queries, table = make_archive()
    parameters = {"engine": "milvus", "uri": uri, "collection": name}
    index = TumorIndex(**parameters).fit(X, metadata=table, space=SPACE)
    check_same(index, TumorIndex().fit(X, metadata=table, space=SPACE), queries, recall=0.98)
    index.save(directory / "index")
    with pytest.raises(ValueError, match=r"exists: 3000 tumors of fingerprint '3fa1'.*overwrite=True"):
        TumorIndex(**parameters).fit(X)
    other = TumorIndex.connect(uri, name)
    assert other.space_ == SPACE
    assert other.metadata_["tumor_id"].tolist() == table["tumor_id"].tolist()
    pd.testing.assert_frame_equal(other.metadata_, index.metadata_)
    np.testing.assert_array_equal(other.embeddings_, X)
    plain = [one.search(queries, 5, aspects="embedding") for one in (other, index)]
    pd.testing.assert_frame_equal(*plain)
    with pytest.raises(IndexMismatchError, match=r"'3fa1', got '9c07'"):
        other.search(queries, space=EmbeddingSpace("9c07"))
    other.remove(["t5"]).update(queries[:1], metadata={"tumor_id": ["t7"]})
    again = TumorIndex.connect(uri, name)
    assert again.metadata_["tumor_id"].tolist() == other.metadata_["tumor_id"].tolist()
    assert again.search(queries[:1], 1)["tumor_id"].tolist() == ["t7"]
    with pytest.raises(IndexMismatchError, match="holds 2999 tumors, and the index 3000"):
        TumorIndex.load(directory / "index").search(queries, aspects="embedding")
    foreign = EmbeddingSpace("9c07")
    TumorIndex(**parameters).fit(X[:1000], metadata=table[:1000], space=foreign, overwrite=True)
    with pytest.raises(IndexMismatchError, match=r"has fingerprint '9c07', and the index '3fa1'"):
        TumorIndex.load(directory / "index").search(queries, aspects="embedding")
    with pytest.raises(IndexMismatchError, match=r"_none' at .* does not exist"):
        TumorIndex.connect(uri, f"{name}_none")


@pytest.mark.slow
def test_milvus_in_a_file(tmp_path):
    """Embedded, in this process."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    check_milvus(str(tmp_path / "archive.db"), tmp_path)


def free_port():
    """Return a port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def milvus_server(tmp_path):
    """Return the address of a real Milvus: TUMORSIM_TEST_MILVUS, or one on loopback, stopped afterwards."""
    pytest.importorskip("pymilvus", reason="needs the extra milvus")
    if os.environ.get("TUMORSIM_TEST_MILVUS"):
        yield os.environ["TUMORSIM_TEST_MILVUS"]
        return
    milvus = pytest.importorskip("milvus", reason="needs the package milvus, which brings a server")
    server = milvus.MilvusServer()
    server.set_base_dir(str(tmp_path / "server"))
    server.listen_port = free_port()
    server.start()
    yield f"http://127.0.0.1:{server.listen_port}"
    server.stop()


@pytest.mark.slow
@pytest.mark.server
def test_milvus_over_the_wire(milvus_server, tmp_path):
    """The same code on a server of its own process, which fills and answers over the network."""
    from pymilvus import MilvusClient

    name = f"tumorsim_test_{time.time_ns()}"  # the server may hold collections of others
    try:
        check_milvus(milvus_server, tmp_path, name)
    finally:
        MilvusClient(milvus_server).drop_collection(name)


ODD_IDS = ["O'Brien/1", "z','b", "x'] or tumor_id != 'q' or tumor_id in ['zz", "q", "{ids}", 'a"\\b', "ü 😀"]


def test_no_id_acts_on_other_rows_of_a_collection(tmp_path, monkeypatch):
    """Ids with quotes and brackets are written, changed, found and removed, and no other row is."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    monkeypatch.setattr(CandidateEngine, "approximate_from", 1)  # so that few rows are looked up in Milvus
    X = np.eye(40, dtype=np.float32)
    ids = [*ODD_IDS, *(f"t{i}" for i in range(40 - len(ODD_IDS)))]
    uri = str(tmp_path / "a.db")
    index = TumorIndex(engine="milvus", uri=uri, collection="t1c").fit(X, metadata={"tumor_id": ids})
    index.search(X[:1], 1)
    assert TumorIndex.connect(uri, "t1c").metadata_["tumor_id"].tolist() == ids
    for row, tumor in enumerate(ODD_IDS):
        moved = X[row] * 3
        index.update([moved], metadata={"tumor_id": [tumor]})
        assert index.search([moved], 1, alpha=None)["tumor_id"].tolist() == [tumor]
        index.remove(tumor).add([X[row]], metadata={"tumor_id": [tumor]})
        assert index.search([X[row]], 1, alpha=None)["tumor_id"].tolist() == [tumor]
    index.remove(ODD_IDS)
    again = TumorIndex.connect(uri, "t1c")
    assert again.metadata_["tumor_id"].tolist() == ids[len(ODD_IDS) :]
    assert again.search(X[-1:], 1)["tumor_id"].tolist() == [ids[-1]]


def test_rows_of_a_collection_keep_their_order_when_the_clock_jumps_back(tmp_path, monkeypatch):
    """What is added later is read later."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    uri = str(tmp_path / "a.db")
    index = TumorIndex(engine="milvus", uri=uri, collection="t").fit(
        np.eye(2), metadata={"tumor_id": ["a", "b"]}
    )
    monkeypatch.setattr(time, "time_ns", lambda: 7)
    index.add([[5.0, 5.0]], metadata={"tumor_id": ["c"]}).update([[6.0, 6.0]], metadata={"tumor_id": ["a"]})
    assert TumorIndex.connect(uri, "t").metadata_["tumor_id"].tolist() == ["a", "b", "c"]


def test_what_milvus_refuses_is_an_error_of_ours(tmp_path):
    """A file of something else, one that is not there, and a collection that is not there."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    (tmp_path / "text.db").write_text("text")
    with pytest.raises(ConnectionError, match=r"No Milvus answers at '.*text\.db'"):
        TumorIndex(engine="milvus", uri=str(tmp_path / "text.db"), collection="t1c").fit(np.eye(2))
    with pytest.raises(IndexMismatchError, match=r"The file of Collection 't1c' at .*b\.db' does not exist"):
        TumorIndex.connect(str(tmp_path / "b.db"), "t1c")
    assert not (tmp_path / "b.db").exists()
    held = Collection(str(tmp_path / "a.db"), "t1c", new=True)
    with pytest.raises(ConnectionError, match=r"Collection 't1c' at .*a\.db' could not do 'query': "):
        held.count()


def made_index(directory, uri):
    """Save an index whose manifest names an address, as a stranger could have written it."""
    index = TumorIndex().fit(np.eye(3), metadata={"tumor_id": ["a", "b", "c"]})
    index.set_params(engine="milvus", uri=uri, collection="t1c").save(directory)
    return directory


@pytest.mark.parametrize(
    "uri", ["http://elsewhere:19530", "https://elsewhere", "tcp://elsewhere", "//elsewhere/x.db"]
)
def test_a_folder_chooses_no_server(tmp_path, monkeypatch, uri):
    """A server in a manifest is refused, unless an argument or the environment names it."""
    folder = made_index(tmp_path / "index", uri)
    monkeypatch.setenv("TUMORSIM_MILVUS_TOKEN", "secret")
    for env in ("", "https://mine:19530"):
        monkeypatch.setenv("TUMORSIM_MILVUS_URI", env)
        words = "'uri' must be a file" if uri.startswith("//") else "may not choose where to connect"
        with pytest.raises(IndexMismatchError, match=words) as caught:
            TumorIndex.load(folder)
        assert "secret" not in str(caught.value)
        with pytest.raises(IndexMismatchError), TumorIndex.edit(folder):
            pass
    assert TumorIndex.load(folder, uri="https://mine").uri == "https://mine"
    if not uri.startswith("//"):
        monkeypatch.setenv("TUMORSIM_MILVUS_URI", uri)
        assert TumorIndex.load(folder).uri == uri


def test_a_token_goes_to_its_server_alone(monkeypatch):
    """By https or on loopback, to the server of TUMORSIM_MILVUS_URI; never to a file."""
    monkeypatch.setenv("TUMORSIM_MILVUS_TOKEN", "secret")
    with pytest.raises(ValueError, match=r"belongs to one server\. Set TUMORSIM_MILVUS_URI"):
        token_for("https://host")
    assert token_for("archive.db") == ""
    monkeypatch.setenv("TUMORSIM_MILVUS_URI", "https://host:443/base")
    assert token_for("https://HOST") == "secret"
    assert [
        token_for(u) for u in ("https://host:444", "https://other", "http://host", "https://host.evil")
    ] == [""] * 4
    for plain in ("http://host:19530", "tcp://host"):
        monkeypatch.setenv("TUMORSIM_MILVUS_URI", plain)
        with pytest.raises(ValueError, match=r"is only sent by https\. Got"):
            token_for(plain)
    for near in ("http://localhost:19530", "http://127.0.0.2:1", "http://[::1]:1"):
        monkeypatch.setenv("TUMORSIM_MILVUS_URI", near)
        assert token_for(near) == "secret"
    for bad in ("https://user:pw@host", "ftp://host", "https://", "host:19530", "http://host:x"):
        with pytest.raises(ValueError, match="'uri' must be a file") as caught:
            token_for(bad)
        assert "pw" not in str(caught.value)


def test_the_token_reaches_no_other_server(tmp_path, monkeypatch):
    """A server that listens hears nothing of an index that names it."""
    pytest.importorskip("pymilvus", reason="needs the extra milvus")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.2)
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("TUMORSIM_MILVUS_TOKEN", "secret")
        monkeypatch.setenv("TUMORSIM_MILVUS_URI", "http://localhost:1")
        with pytest.raises(IndexMismatchError, match="may not choose where to connect"):
            TumorIndex.load(made_index(tmp_path / "index", uri)).kneighbors()
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_server_that_is_not_there_is_named():
    """One clear error, after as long as the client tries."""
    pytest.importorskip("pymilvus", reason="needs the extra milvus")
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectionError, match=f"No Milvus answers at '{uri}'"):
        TumorIndex(engine="milvus", uri=uri, collection="t1c").fit(np.eye(2))


@pytest.mark.parametrize("engine", sorted(NEEDS))
def test_an_engine_that_is_not_installed_says_how_to_install_it(engine, monkeypatch, tmp_path):
    """ImportError names the extra."""
    monkeypatch.setitem(__import__("sys").modules, NEEDS[engine], None)
    where = {"uri": str(tmp_path / "a.db"), "collection": "t1c"} if engine == "milvus" else {}
    X, queries, table = make_archive()
    with pytest.raises(ImportError, match=rf"pip install '\.\[{engine.split('-')[0]}\]'"):
        TumorIndex(engine=engine, **where).fit(X, metadata=table).search(queries)


def test_a_saved_index_finds_its_file_from_any_folder(make_index, tmp_path, monkeypatch):
    """The manifest holds the absolute path of an embedded Milvus, and an address as it is."""
    index = pickle.loads(pickle.dumps(make_index("milvus")))
    monkeypatch.chdir(tmp_path)
    index.set_params(uri="archive.db").save("index")
    assert TumorIndex.load("index").uri == str(tmp_path / "archive.db")
    index.set_params(uri="http://host:19530").save("index")
    monkeypatch.setenv("TUMORSIM_MILVUS_URI", "http://host:19530")
    assert TumorIndex.load("index").uri == "http://host:19530"


def test_a_row_that_milvus_refuses_costs_no_collection(tmp_path):
    """Rows are checked before the collection that they replace is dropped."""
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    where = {"engine": "milvus", "uri": str(tmp_path / "a.db"), "collection": "t"}
    TumorIndex(**where).fit([[0.0, 1.0], [1.0, 0.0]], metadata={"tumor_id": ["a", "b"]})
    with pytest.raises(ValueError, match=r"(?i)characters|long|bytes"):
        TumorIndex(**where).fit(
            [[0.0, 1.0]], metadata={"tumor_id": ["c"], "note": ["x" * 70_000]}, overwrite=True
        )
    assert TumorIndex.connect(where["uri"], "t").metadata_["tumor_id"].tolist() == ["a", "b"]
