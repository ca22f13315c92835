"""A head that is learned from embeddings and measured columns, and what an index and an answer make of it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tumorsim import Case, Cohort, EmbeddingSpace, Tumor, TumorEmbedder, TumorIndex, find_similar, make_cohort
from tumorsim.exceptions import WeightsError
from tumorsim.geometry import ENHANCEMENT
from tumorsim.index._exact import Coordinates, ExactEngine, log_sizes, unlike_sizes
from tumorsim.index._filters import Selection
from tumorsim.manifest import tumors_from_case
from tumorsim.retrieval import embed_archive, neighbor_tumors
from tumorsim.retrieval._measured import with_measures
from tumorsim.training import fit_measured_head

TYPES = ["glioma", "metastasis"]
MEASURED = ("volume_mm3", "sphericity", "elongation")


def cohort(n, seed, classes=TYPES):
    """Return features that say nothing, and a table whose volumes and numbers of tumors tell the type."""
    rng = np.random.default_rng(seed)
    label = rng.choice(classes, n)
    code = np.searchsorted(classes, label)
    table = pd.DataFrame(
        {
            "volume_mm3": np.exp(rng.normal(9 - 2 * code, 0.7)),
            "tumors_in_scan": 1 + code * rng.integers(0, 4, n),
            "sphericity": rng.uniform(0.5, 1, n),
            "label_type": label,
        }
    )
    return rng.normal(size=(n, 3)), table


def right(head, X, table, classes=TYPES):
    """Return the share of tumors whose most probable type is theirs."""
    return np.mean(np.array(classes)[head.probabilities(X, table).argmax(axis=1)] == table["label_type"])


@pytest.mark.parametrize("classes", [TYPES, ["adenoma", "glioma", "metastasis", "schwannoma"]])
def test_a_head_learns_what_columns_tell(classes):
    """Of two classes and of several; classes are told by their names, in whatever order they are given."""
    (X, table), (queries, about) = cohort(600, 0, classes), cohort(300, 1, classes)
    for given in (classes, classes[::-1]):
        head = fit_measured_head(X, table, table["label_type"], given)
        assert right(head, queries, about, given) > (0.9 if len(classes) == 2 else 0.7)
        alone = right(head, queries, about.drop(columns=["volume_mm3", "tumors_in_scan"]), given)
        assert alone < 1.6 / len(classes)


def test_tumors_without_a_label_or_a_measure_do_not_spoil_a_head():
    """Unknown labels are left out, a column without numbers is, and weights count."""
    X, table = cohort(400, 2)
    table["contrast"] = np.nan
    table.loc[:99, "volume_mm3"] = np.nan
    labels = table["label_type"].where(np.arange(400) % 3 > 0, None)
    head = fit_measured_head(X, table, labels, TYPES)
    assert set(head.columns) == {"volume_mm3", "sphericity", "tumors_in_scan"}
    assert right(head, *cohort(300, 3)) > 0.85
    swapped = np.where(table["label_type"] == "glioma", "metastasis", "glioma")
    both = pd.concat([table, table]), np.r_[table["label_type"], swapped]
    weights = np.repeat([1.0, 0.01], 400)
    head = fit_measured_head(np.vstack([X, X]), *both, TYPES, sample_weight=weights)
    assert right(head, *cohort(300, 3)) > 0.85


def test_each_class_needs_tumors():
    """A class that has none is named."""
    X, table = cohort(50, 4)
    with pytest.raises(ValueError, match=r"each class.*none of \['schwannoma'\]"):
        fit_measured_head(X, table, table["label_type"], [*TYPES, "schwannoma"])


def test_the_aspect_type_is_of_the_measured_head():
    """Neighbors by type are those of like measures; a query without a table is read by its features alone."""
    (X, table), (queries, about) = cohort(300, 5), cohort(40, 6)
    head = fit_measured_head(X, table, table["label_type"], TYPES)
    space = EmbeddingSpace("f", {"type": np.zeros((2, 3))}, offsets={"type": [0.0, 0.0]})
    assert TumorIndex().fit(X, metadata=table, space=space).aspects_ == ("size", "look")  # says nothing
    space = replace(space, aspects={"type": 1e-9 * np.ones((2, 3))}, measured={"type": head})
    index = TumorIndex().fit(X, metadata=table, space=space)
    found = index.search(queries, 5, query_metadata=about, aspects={"type": 1}, alpha=None)
    own = about["label_type"].to_numpy()[found["query"]]
    assert (found["label_type"] == own).mean() > 0.9
    one, other = (np.sqrt(head.probabilities(*part)) for part in ((queries, about), (X, table)))
    apart = np.linalg.norm(one[found["query"]] - other[found["tumor_id"].astype(int)], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(found["distance_type"], apart, atol=1e-7)  # embeddings are float32
    blind = index.search(queries, 5, aspects={"type": 1}, alpha=None)
    assert blind["distance"].notna().all() and blind["query"].nunique() == 40


def test_sizes_at_the_very_edge_of_twofold_are_found_exactly():
    """Ratios of 2 and just above fall on either side of the step, however many tumors there are."""
    rng = np.random.default_rng(7)
    points = rng.normal(size=(20_000, 2)).astype(np.float32).astype(float)
    sizes = log_sizes(np.log(1000.0) + np.log(2) * rng.choice([-1, 0, 1, 1 + 2**-17, -1 - 2**-17, 3], 20_000))
    queries = np.column_stack([points[:50] + 0.01, np.full(50, log_sizes(np.log(1000.0)))])
    engine = ExactEngine(points, Coordinates(), sizes, 0.7)
    distances, rows = engine.nearest(queries, 10, Selection(None, None, None))
    square = ((points[None] - queries[:, None, :2]) ** 2).sum(axis=2)
    square += 0.7 * unlike_sizes(sizes[None], queries[:, 2:])
    np.testing.assert_array_equal(rows, np.argsort(square, axis=1, kind="stable")[:, :10])
    np.testing.assert_allclose(distances, np.sqrt(np.sort(square, axis=1)[:, :10]), rtol=1e-9)


@pytest.mark.parametrize("name", ["t1c-v6", "t1c-v6-simulated"])
def test_shipped_weights_read_measures(name):
    """Both files have a head of the type over all measured columns."""
    space = TumorEmbedder.from_pretrained(name).space_
    assert set(space.measured["type"].columns) == {*ENHANCEMENT, *MEASURED, "tumors_in_scan"}


def test_an_answer_infers_by_the_measured_head(tmp_path):
    """The number of tumors is counted, unless a manifest tells it; a model file keeps the head."""
    scans = make_cohort(5, random_state=1, spacing=3.0)
    TumorEmbedder.from_pretrained().save(tmp_path / "model")
    embedder = TumorEmbedder.load(tmp_path / "model", device="cpu")
    X, columns = embed_archive(embedder, scans)
    table = pd.DataFrame(columns)
    assert table["tumors_in_scan"].tolist() == table.groupby("case_id")["case_id"].transform("size").tolist()
    index = TumorIndex().fit(X, metadata=table, space=embedder.space_)
    query = scans[np.flatnonzero(scans.patient_ids == scans.patient_ids[0])]
    answer = find_similar(embedder, index, query, n_neighbors=2)
    told = answer.inferred[(answer.inferred["task"] == "type") & (answer.inferred["query"] == 0)]
    near = answer.neighbors[answer.neighbors["query"] == 0]
    expected = embedder.space_.aspect_coordinates("type", X, table) ** 2
    names = [query[0].tumor_id, *near["tumor_id"]]
    for name, label, chance in zip(names, told["label"], told["probability"], strict=True):
        chances = expected[table.index[table["tumor_id"] == name][0]]
        assert label == embedder.classes_["type"][chances.argmax()]
        np.testing.assert_allclose(chance, chances.max(), atol=1e-6)
    query[0].metadata["tumors_in_scan"] = 6  # of which one was drawn
    many = find_similar(embedder, index, query, n_neighbors=2)
    assert many.queries.table["tumors_in_scan"][0] == 6
    assert not many.inferred["probability"].equals(answer.inferred["probability"])
    assert any("6 tumors in a scan count" in note for note in many.notes)
    query[0].metadata["tumors_in_scan"] = "many"  # is no number
    unknown = find_similar(embedder, index, query, n_neighbors=2)
    assert (
        unknown.queries.table["tumors_in_scan"][0] == "many" and unknown.inferred["probability"].notna().all()
    )
    near = neighbor_tumors(answer.neighbors)
    known = table.set_index("tumor_id")["tumors_in_scan"][near.tumor_ids].tolist()
    assert [tumor.metadata["tumors_in_scan"] for tumor in near] == known
    old = TumorIndex().fit(X, metadata=table, space=replace(embedder.space_, measured={}))
    plain = find_similar(embedder, old, query, n_neighbors=2)  # an index keeps the heads it was built with
    type_of = plain.inferred[plain.inferred["task"] == "type"]["probability"].to_numpy()
    first = table.index[table["tumor_id"] == query[0].tumor_id][0]
    assert type_of[0] == pytest.approx(
        (embedder.space_.aspect_coordinates("type", X[[first]]) ** 2).max(), abs=1e-6
    )
    assert not any("sign of metastases" in note for note in plain.notes)


def test_the_number_of_tumors_is_that_of_the_scan(tmp_path):
    """A part of a scan's tumors keeps it, a box does not know it, blank cells do not hide what rows tell."""
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[2:8, 2:8, 2:8] = mask[12:20, 12:20, 12:20] = mask[25:28, 25:28, 25:28] = 1
    case = Case(
        (np.random.default_rng(0).random(mask.shape) * 100, np.eye(4)),
        (mask, np.eye(4)),
        case_id="a",
        patient_id="a",
    )
    assert tumors_from_case(case).table["tumors_in_scan"].tolist() == [3, 3, 3]
    assert tumors_from_case(case, min_volume_mm3=400).table["tumors_in_scan"].tolist() == [3]
    found = tumors_from_case(case)
    measures = np.full((3, 10), np.nan)
    told = Cohort(
        Tumor(case, t.bbox, tumor_id=t.tumor_id, metadata={"tumors_in_scan": n})
        for t, n in zip(found, (None, 7, np.nan), strict=True)
    )
    assert with_measures(told, measures, complete=True).table["tumors_in_scan"].tolist() == [3, 7, 3]
    alone = with_measures(told[:1], measures[:1]).table
    assert "tumors_in_scan" not in alone or alone["tumors_in_scan"].isna().all()


def test_malformed_heads_in_a_model_file_are_named(tmp_path):
    """Whatever stands in place of a head is an error of the file, not of the program."""
    path = tmp_path / "model"
    TumorEmbedder.from_pretrained().save(path)
    with safe_open(path, framework="np") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    head = json.loads(metadata["config"])["measured"]["type"]
    for wrong in (
        {**head, "columns": []},
        {**head, "columns": None},
        {**head, "rows": [[1.0]]},
        3,
        {"rows": "a"},
    ):
        config = json.loads(metadata["config"]) | {"measured": {"type": wrong}}
        save_file(tensors, path, metadata=metadata | {"config": json.dumps(config)})
        with pytest.raises(WeightsError):
            TumorEmbedder.load(path)


def test_an_archive_of_few_types_does_not_speak_against_the_rest():
    """What marks tumors as real lowers a type that they are not collected of only where it is possible."""
    (X, table), (queries, about) = cohort(600, 7, ["a", "b", "c"]), cohort(200, 8, ["a", "b", "c"])
    real = table["label_type"] != "c"
    X[:, 0], queries[:, 0] = 0, 3  # another scanner
    joined = np.vstack([X, np.where([True, False, False], 3, X[real])])
    both = pd.concat([table, table[real]], ignore_index=True)
    possible = np.ones((len(both), 3), dtype=bool)
    possible[len(X) :, 2] = False
    told = {}
    for name, given in (("all", None), ("those held", possible)):
        head = fit_measured_head(joined, both, both["label_type"], ["a", "b", "c"], possible=given)
        told[name] = head.probabilities(queries, about)[:, 2].mean()
        assert right(head, queries, about, ["a", "b", "c"]) > 0.45
    assert told["those held"] > 0.25 and told["all"] < 0.22
