"""The whole way in one call, and the pieces that the command line joins."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import phantoms
import pytest
from archives import write_cohort

from tumorsim import Case, Cohort, Tumor, TumorIndex, find_similar
from tumorsim.exceptions import CohortError, GeometryError, IndexMismatchError
from tumorsim.io import load_embeddings
from tumorsim.manifest import save_manifest, tumors_from_case
from tumorsim.report import describe_model
from tumorsim.retrieval import embed_archive, embed_to_file, neighbor_tumors


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return six phantom tumors in files, one a scan."""
    folder = tmp_path_factory.mktemp("archive")
    return write_cohort(phantoms.cohort(6), folder)


@pytest.fixture(scope="module")
def embedder(archive):
    """Return an embedder that was trained for a second."""
    return phantoms.tiny(max_epochs=1).fit(archive)


@pytest.fixture(scope="module")
def index(embedder, archive):
    """Return the archive's index."""
    return TumorIndex().fit(embedder.transform(archive), metadata=archive.table, space=embedder.space_)


def test_find_similar_equals_the_long_way(embedder, index, archive):
    """It is transform and search with ids and space passed along."""
    found = find_similar(embedder, index, archive[:2], n_neighbors=3, exclude="same_patient").neighbors
    expected = index.search(
        embedder.transform(archive[:2]),
        3,
        query_metadata=archive[:2].table,
        space=embedder.space_,
        exclude="same_patient",
    )
    assert found.equals(expected[found.columns]) and set(found) == set(expected)
    assert found.columns[:5].tolist() == ["query", "rank", "distance", "label_type", "label_hemisphere"]
    assert not (found["patient_id"].to_numpy() == archive.patient_ids[found["query"]]).any()


def test_a_tumor_of_the_archive_finds_itself(embedder, index, archive):
    """Where its scan is kept the nearest is the tumor itself, at distance 0."""
    found = find_similar(embedder, index, list(archive), n_neighbors=1, keep_same=True).neighbors
    assert found["same"].eq("scan").all()
    assert found["tumor_id"].tolist() == archive.tumor_ids.tolist()
    np.testing.assert_allclose(found["distance"], 0, atol=1e-3)  # float32 sums in another order


def test_every_kind_of_query_gives_one_answer(embedder, index, archive, tmp_path):
    """A file, an image in memory, a case, a tumor, a manifest and its table find the same neighbors."""
    tumor = archive[0]
    save_manifest(archive[:1], tmp_path / "one.csv")
    files, mask = (tumor.case.image, tumor.case.mask), {"mask": tumor.case.mask}
    asked = [
        (files[0], mask),
        (nib.load(files[0]), {"mask": nib.load(files[1])}),
        (Case(*files, case_id="c", patient_id="p"), {}),
        (tumor, {}),
        ([tumor], {}),
        (tmp_path / "one.csv", {}),
        (archive[:1].table, {}),
    ]
    expected = find_similar(embedder, index, archive[:1])
    for query, options in asked:
        answer = find_similar(embedder, index, query, **options)
        assert answer.neighbors["tumor_id"].tolist() == expected.neighbors["tumor_id"].tolist()
        assert not answer.proposed
        assert (answer.queries[0].bbox == tumor.bbox).all()


def test_an_answer_says_all_of_it(embedder, index, archive, tmp_path):
    """Votes, closeness and summary are tables; text, page, CSV and JSON hold the same."""
    answer = find_similar(embedder, index, archive[:2], n_neighbors=4, show=["volume_mm3"])
    assert answer.votes[["query", "task"]].values.tolist() == [
        [0, "type"],
        [0, "hemisphere"],
        [1, "type"],
        [1, "hemisphere"],
    ]
    assert answer.closeness["text"].str.startswith("Too few patients").all() and len(answer.closeness) == 2
    assert answer.summary["column"].tolist() == ["volume_mm3"] * 2
    assert str(answer) == repr(answer) and "s0/1: 1.13 ml" in str(answer) and "of 4 neighbors" in str(answer)
    frame = pd.read_csv(answer.save_csv(tmp_path / "a.csv"))
    assert frame["query_tumor_id"].tolist() == ["s0/1"] * 4 + ["s1/1"] * 4
    told = json.loads(json.dumps(answer.to_dict()))
    assert [query["tumor_id"] for query in told["queries"]] == ["s0/1", "s1/1"]
    assert told["queries"][1]["left_out"][0]["tumor_id"] == "s1/1" and not told["proposed"]
    assert told["aspects"] == {"type": 1, "place": 1, "size": 1, "look": 0.05}
    assert {row["rank"] for row in told["queries"][0]["inferred"]} == {0, 1, 2, 3, 4}
    assert told["queries"][0]["closeness"]["p_value"] is None
    page = answer.save_html(tmp_path / "a.html", archive_name="ours").read_text()
    assert page.count("<image ") == 30 and "ours (6 tumors)" in page and embedder.fingerprint_[:12] in page
    assert embedder.fingerprint_ not in page


def test_an_answer_in_a_notebook_is_escaped(embedder, archive):
    """Markup in ids and labels is shown, never obeyed."""
    evil = "<script>alert(1)</script>"
    tumors = [
        Tumor(t.case, t.bbox, tumor_id=f"{evil}{i}", labels={"type": evil}) for i, t in enumerate(archive)
    ]
    index = TumorIndex().fit(embedder.transform(tumors), metadata=Cohort(tumors).table, space=embedder.space_)
    page = find_similar(embedder, index, tumors[0], where={"type": evil})._repr_html_()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10


def test_an_answer_in_a_notebook_shows_the_axial_row_and_the_aspects(embedder, index, archive):
    """Query and neighbors have a picture each, and neighbors a bar per aspect; it runs nothing."""
    answer = find_similar(embedder, index, archive[:1], n_neighbors=3)
    page = answer._repr_html_()
    assert page.count("<image ") == 4 and page.count('aria-label="axial plane of neighbor') == 3
    assert page.count('of random pairs"') == 3 * len([c for c in answer.neighbors if "closer_than_" in c])
    assert "http" not in page and "<style" not in page and len(page) < 300_000
    by_size = find_similar(embedder, index, archive[:1], n_neighbors=3, aspects={"size": 1})._repr_html_()
    assert "not used" not in page and by_size.count(">not used<") == 3 * 3  # type, place, look
    answer.proposed = True
    told = answer._repr_html_()
    assert "nobody drew it" in told and "neighbors, " not in told and 'stroke-dasharray="5 4"' in told


def test_a_label_that_is_missing_is_a_dash(embedder, archive):
    """In text and notebook what is not known is neither None nor NaN."""
    table = archive.table.assign(label_type=None, volume_mm3=np.nan)
    index = TumorIndex().fit(embedder.transform(archive), metadata=table, space=embedder.space_)
    answer = find_similar(embedder, index, archive[:1])
    assert " - " in str(answer)
    for text in (str(answer), answer._repr_html_()):
        assert not {"None", "NaN", "nan"} & set(text.replace("<", " ").replace(">", " ").split())


def test_proposed_lesions_have_no_vote_until_they_are_accepted(embedder, index, archive, monkeypatch):
    """Sorted by the mean probability inside, with that number; accepted by number they are as drawn ones."""
    image, probability = archive[0].case.image, np.zeros(archive[0].case.shape, dtype=np.float32)
    assert embedder.segment(archive[0].case, threshold=None).dtype == np.float32
    probability[2:10, 2:10, 2:10], probability[14:18, 14:18, 14:18] = 0.6, 0.9  # the smaller is surer
    probability[14, 14, 14] = 0.5
    monkeypatch.setattr(embedder, "segment", lambda case, threshold: probability)
    asked = {"alpha": 0.5}
    answer = find_similar(embedder, index, image, **asked)
    assert answer.proposed and "(proposed by the model), confidence 0." in str(answer)
    table = answer.queries.table
    assert table["confidence"].tolist() == pytest.approx([(63 * 0.9 + 0.5) / 64, 0.6], abs=1e-6)
    assert table["tumor_id"].tolist() == ["s0_image/1", "s0_image/2"]
    assert answer.queries[0].bbox[0].tolist() == [14, 14, 14]
    assert not len(answer.votes) and answer.closeness["p_value"].isna().all()
    assert answer.closeness["text"].str.startswith("No verdict: the model proposed").all()
    assert len(answer.neighbors) and "p_value" not in answer.neighbors
    accepted = find_similar(embedder, index, image, accept=[2], **asked)
    assert accepted.queries.tumor_ids.tolist() == ["s0_image/2"] and not accepted.proposed
    assert len(accepted.votes) and not accepted.closeness["text"].str.startswith("No verdict").any()
    assert "accepted by a person" in accepted.settings["Query tumors"]
    with pytest.raises(ValueError, match="must number proposals from 1 to"):
        find_similar(embedder, index, image, accept=[9], **asked)
    with pytest.raises(ValueError, match="'accept' takes lesions that the model proposes"):
        find_similar(embedder, index, image, mask=archive[0].case.mask, accept=[1])


def test_the_same_scan_is_left_out_and_named(embedder, index, archive, tmp_path):
    """By its ids, by a copy of its file, or by its embedding; kept, it is marked and does not count."""
    tumor, folder = archive[0], tmp_path / "copy.nii.gz"
    shutil.copy(tumor.case.image, folder)
    for query, mask in ((tumor, None), (str(folder), tumor.case.mask)):
        answer = find_similar(embedder, index, query, mask=mask)
        assert "s0/1" not in answer.neighbors["tumor_id"].tolist() and len(answer.neighbors) == 5
        assert answer.left_out[["query", "tumor_id", "reason"]].values.tolist() == [[0, "s0/1", "same scan"]]
        assert answer.notes == ["Left out, same scan as the query: s0/1."]
        assert str(answer).startswith("Note: Left out, same scan as the query: s0/1.")
        assert "Left out, same scan" in answer._repr_html_() and answer.to_dict()["notes"] == answer.notes
        kept = find_similar(embedder, index, query, mask=mask, keep_same=True)
        assert kept.neighbors["same"].tolist() == ["scan", None, None, None, None]
        assert kept.votes["n_neighbors"].eq(4).all() and not len(kept.left_out)
        assert "marked, and never counted" in kept.notes[0]
    box = np.add(tumor.bbox, [[0], [1]]).ravel()  # another embedding of the same file
    array, affine = tumor.case.load_image(), tumor.case.affine
    turned = nib.Nifti1Image(array, affine).as_reoriented(np.array([[0, -1], [1, 1], [2, 1]]))
    turned_box = [array.shape[0] - box[3], *box[1:3], array.shape[0] - box[0], *box[4:]]
    queries = [(nib.Nifti1Image(array, affine), box), (turned, turned_box), (str(folder), box)]
    for name, (image, own_box) in zip(("unpacked.nii", "turned.nii.gz"), tuple(queries), strict=False):
        nib.save(image, tmp_path / name)
        queries.append((str(tmp_path / name), own_box))
    for query, own_box in queries:
        left_out = find_similar(embedder, index, query, box=own_box).left_out
        assert left_out["tumor_id"].tolist() == ["s0/1"]


@pytest.mark.parametrize("patient_id", ["patient-s0", "Patient-S0", "patient s0", "patient\u2013s00"])
def test_the_same_patient_is_left_out_and_named(embedder, index, archive, patient_id):
    """Another scan of the query's patient, however its id is written: named, never counted where kept."""
    image, mask = archive[1].case.image, archive[1].case.mask
    asked = {"mask": mask, "patient_id": patient_id, "where": {"tumor_id": ["s0/1", "s2/1", "s3/1"]}}
    answer = find_similar(embedder, index, image, **asked)
    assert answer.left_out["reason"].tolist() == ["same patient"]
    assert "Left out, same patient as the query: s0/1." in answer.notes
    assert sorted(answer.neighbors["tumor_id"]) == ["s2/1", "s3/1"]
    for options in ({"keep_same": True}, {"exclude": "same_case", "case_id": "other"}):
        kept = find_similar(embedder, index, image, **asked, **options)
        assert kept.neighbors.set_index("tumor_id")["same"].to_dict()["s0/1"] == "patient"
        assert kept.votes["n_neighbors"].eq(2).all()
    alone = find_similar(embedder, index, image, mask=mask, where={"tumor_id": "s2/1"})
    assert alone.notes == [
        "Only tumors that meet the conditions (tumor_id = s2/1) were searched, 1 of 6: votes, base rates and "
        "how usual the query is refer to these.",
        "The conditions leave 1 neighbor of 5 asked for. One neighbor is an example, no vote.",
    ]


def test_what_the_network_infers_stands_apart_from_labels(embedder, index, archive):
    """It is predict and its probability, of query and neighbors; a label that differs is pointed out."""
    answer = find_similar(embedder, index, archive[:2], n_neighbors=3)
    inferred = answer.inferred[answer.inferred["task"] == "type"]
    expected, shares = embedder.predict(archive), embedder.predict_proba(archive)["type"]
    ids = dict(zip(archive.tumor_ids, range(len(archive)), strict=True))
    names = answer.neighbors.set_index(["query", "rank"])["tumor_id"]
    for row in inferred.to_dict("records"):
        at = row["query"] if row["rank"] == 0 else ids[names[row["query"], row["rank"]]]
        assert row["label"] == expected["type"][at]
        assert row["probability"] == pytest.approx(shares.loc[at].max(), abs=1e-4)
    labels = zip(answer.neighbors["tumor_id"], answer.neighbors["label_type"], strict=True)
    wrong = [tumor_id for tumor_id, label in labels if label != expected["type"][ids[tumor_id]]]
    assert str(answer).count("the network infers") == len(wrong)


def test_the_same_case_is_left_out_where_its_id_is_known(embedder, index, archive):
    """A file does not tell its case: that is an error, and with the id the scan's own tumors are left out."""
    image, mask = archive[0].case.image, archive[0].case.mask
    for exclude in ("same_case", "same_patient"):
        name = exclude.removeprefix("same_")
        with pytest.raises(ValueError, match=f"needs the query's {name}. Give {name}_id"):
            find_similar(embedder, index, image, mask=mask, exclude=exclude)
        given = {f"{name}_id": "s0" if name == "case" else "patient-s0"}
        found = find_similar(embedder, index, image, mask=mask, exclude=exclude, **given).neighbors
        assert len(found) == 5 and "s0/1" not in found["tumor_id"].tolist()
    table = archive.table.assign(case_id="s0")  # ids of scans that are unique within a patient only
    several = TumorIndex().fit(embedder.transform(archive), metadata=table, space=embedder.space_)
    asked = {"mask": mask, "exclude": "same_case", "case_id": "s0"}
    with pytest.raises(ValueError, match="case 's0' is of several patients"):
        find_similar(embedder, several, image, **asked)
    assert len(find_similar(embedder, several, image, patient_id="patient-s0", **asked).neighbors) == 5


def test_what_a_filter_leaves_of_five_does_not_vote(embedder, index, archive):
    """One tumor that meets the condition is shown, and its label is no vote."""
    answer = find_similar(embedder, index, archive[:1], where={"tumor_id": "s2/1"})
    assert len(answer.neighbors) == 1 and answer.votes["abstains"].eq("one label").all()
    alone = find_similar(embedder, index, archive[:1], n_neighbors=1, where={"tumor_id": "s2/1"})
    assert alone.votes["abstains"].eq("one label").all()
    assert alone.settings["Where"] == "tumor_id = s2/1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"show": ["dose"]}, "'show' must name columns of the index"),
        ({"aspects": {"shape": 1}}, "'aspects' must name aspects of the index"),
        ({"exclude": ["s0/1", "s9/1"]}, "same_case, or tumor ids of the index. Got 's9/1'"),
        ({"exclude": []}, "tumor ids of the index"),
        ({"exclude": "same_patent"}, "'exclude' must be"),
        ({"n_neighbors": 0}, "'n_neighbors' must be at least 1"),
        ({"where": {"dose": 1}}, "'where' must name columns"),
        ({"mask": "m.nii.gz", "box": (0, 0, 0, 1, 1, 1)}, "leave one out"),
        ({"key_file": "archive.key"}, "belong to a folder of DICOM"),
        ({"vote_calibration": "votes.json", "max_per_patient": 2}, "calibrated without conditions"),
    ],
)
def test_mistakes_are_found_before_voxels_are_read(embedder, index, options, message):
    """The file that the query names does not even exist."""
    with pytest.raises(ValueError, match=message):
        find_similar(embedder, index, "gone.nii.gz", **options)


def test_ids_and_masks_belong_to_scans(embedder, index, archive):
    """Tumors have their own; given beside them they are refused."""
    for options in ({"mask": "m.nii.gz"}, {"box": (0, 0, 0, 1, 1, 1)}, {"patient_id": "p"}, {"case_id": "c"}):
        with pytest.raises(ValueError, match="belongs to a scan"):
            find_similar(embedder, index, archive[0], **options)
    for name in ("series", "roi", "exclude_roi", "key_file"):
        with pytest.raises(ValueError, match=f"'{name}' belongs to a scan"):
            find_similar(embedder, index, archive[0], **{name: "x"})
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\).*Got \(0, 0, 0, 1, 1\)"):
        find_similar(embedder, index, archive[0].case, box=(0, 0, 0, 1, 1))


def test_another_embedder_is_refused(index, archive):
    """An index of other embeddings is not searched."""
    other = phantoms.tiny(max_epochs=1, random_state=1).fit(archive)
    with pytest.raises(IndexMismatchError, match="different embedders"):
        find_similar(other, index, archive[:1])


def test_neighbors_become_tumors_again(embedder, index, archive):
    """Files, box, mask value and labels of a neighbor are those of the archive's tumor."""
    found = find_similar(embedder, index, archive[:2], n_neighbors=6).neighbors
    tumors = {tumor.tumor_id: tumor for tumor in neighbor_tumors(found)}
    assert set(tumors) == set(archive.tumor_ids)
    for tumor in archive:
        again = tumors[tumor.tumor_id]
        assert again.case.image == tumor.case.image and again.case.mask == tumor.case.mask
        assert (again.bbox == tumor.bbox).all() and again.labels == tumor.labels
        assert (again.load_mask() == tumor.load_mask()).all()


def test_neighbors_without_boxes_are_no_tumors(embedder, index, archive):
    """Rows that were added without files and boxes are found, and have no picture."""
    more = TumorIndex().fit(index.embeddings_, metadata=index.metadata_, space=index.space_)
    ids = ("patient_id", "case_id", "tumor_id")
    more.add(index.embeddings_[:1] + 0.01, metadata={n: ["new"] for n in ids}, space=index.space_)
    neighbors = more.search(index.embeddings_[:1], 7, max_per_patient=None)
    assert "new" in neighbors["tumor_id"].tolist()
    assert sorted(neighbor_tumors(neighbors).tumor_ids) == sorted(archive.tumor_ids)


def test_neighbors_without_files_are_no_tumors(embedder):
    """An index whose metadata names no images gives none."""
    index = TumorIndex().fit(np.eye(3), metadata={"tumor_id": ["a", "b", "c"]})
    assert len(neighbor_tumors(index.search(np.eye(3), 2))) == 0


def test_embedding_file_holds_the_cohort(embedder, archive, tmp_path, monkeypatch):
    """Vectors are those of transform, the table is the cohort's with absolute paths; nothing else stays."""
    monkeypatch.chdir(tmp_path)
    embed_to_file(embedder, archive, "a.npz")
    X, columns, space = load_embeddings("a.npz")
    np.testing.assert_allclose(X, embedder.transform(archive), rtol=1e-5, atol=1e-6)
    assert columns["tumor_id"] == archive.tumor_ids.tolist()
    assert space == embedder.space_.to_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_relative_paths_become_absolute(embedder, tmp_path, monkeypatch):
    """An archive read by relative paths can be drawn from any other folder later."""
    write_cohort(phantoms.cohort(1), tmp_path)
    monkeypatch.chdir(tmp_path)
    tumors = tumors_from_case(Case("s0_image.nii.gz", "s0_mask.nii.gz", case_id="s0", patient_id="p"))
    _, columns = embed_archive(embedder, tumors)
    assert columns["image"] == [str(tmp_path.resolve() / "s0_image.nii.gz")]


def test_a_killed_run_goes_on(embedder, archive, tmp_path):
    """Scans that an earlier run has done are taken from its folder, not embedded anew."""
    folder = tmp_path / "partial"
    embed_archive(embedder, archive[:4], partial_dir=folder)
    kept = sorted(folder.iterdir())
    assert len(kept) == 4
    marked = np.load(kept[0])
    marked[:, : embedder.n_features_out_ + 1] = [7.0] * embedder.n_features_out_ + [0]
    np.save(kept[0], marked)  # what cannot be computed: sevens, of a tumor that trained nothing
    X, columns = embed_archive(embedder, archive, partial_dir=folder)
    assert sum(columns["in_training"]) == len(archive) - 1
    assert (X == 7.0).all(axis=1).sum() == 1 and len(list(folder.iterdir())) == 6
    other = phantoms.tiny(max_epochs=1, random_state=1).fit(archive)
    assert not (embed_archive(other, archive, partial_dir=folder)[0] == 7.0).any()


def test_bad_scans_are_listed_before_work_starts(embedder, archive, tmp_path):
    """All scans that cannot be used are named at once, and nothing is written."""
    gone = [
        type(t)(Case(tmp_path / f"gone{i}.nii.gz", case_id=f"g{i}", patient_id="p"), t.bbox, tumor_id=f"g{i}")
        for i, t in enumerate(archive[:2])
    ]
    with pytest.raises(CohortError, match=r"(?s)2 of 8 scans.*gone0.*gone1"):
        embed_to_file(embedder, Cohort([*archive, *gone]), tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_query_by_mask_box_and_proposal(embedder, index, archive):
    """A mask gives its lesions, a box gives one tumor, and otherwise the model's own mask is used."""
    case = archive[0].case

    def queries(**options):
        return find_similar(embedder, index, case.image, **options).queries

    by_mask = queries(mask=case.mask, patient_id="p9")
    assert (by_mask[0].bbox == archive[0].bbox).all() and by_mask[0].patient_id == "p9"
    by_box = queries(box=archive[0].bbox.ravel().tolist())
    assert by_box[0].patient_id == "unknown" and not by_box[0].case.has_mask
    assert by_box[0].tumor_id == "s0_image/1"
    everything = queries(threshold=0)
    assert everything[0].bbox.tolist() == [[0, 0, 0], list(case.shape)] and everything[0].case.has_mask
    with pytest.raises(ValueError, match="proposes no lesion"):
        queries(threshold=1)
    with pytest.raises(GeometryError, match="inside the image"):
        queries(box=(0, 0, 0, 500, 5, 5))


def test_query_of_unknown_orientation_is_told(embedder, index, archive, tmp_path):
    """A scan whose file does not say which way its axes point is answered for, with a warning."""
    image = nib.load(archive[0].case.image)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "lost.nii.gz")
    with pytest.warns(
        UserWarning, match="case 'lost' states no orientation, or two .*, so left and right are a"
    ):
        find_similar(embedder, index, tmp_path / "lost.nii.gz", box=archive[0].bbox)


def test_model_is_described(embedder):
    """Fingerprint, file name and training data of an embedder are told."""
    facts = describe_model(embedder, "folder/model.safetensors")
    assert facts == {
        "Model": "model",
        "Fingerprint": embedder.space_.fingerprint[:12],
        "Trained on": "6 tumors of 6 patients (data: unnamed)",
    }
