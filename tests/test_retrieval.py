"""The whole way in one call, and the pieces that the command line joins."""

import numpy as np
import phantoms
import pytest
from archives import write_cohort

from tumorsim import Case, Cohort, TumorIndex, find_similar
from tumorsim.exceptions import CohortError, GeometryError, IndexMismatchError
from tumorsim.io import load_embeddings
from tumorsim.report import describe_model
from tumorsim.retrieval import embed_archive, embed_to_file, neighbor_tumors, query_tumors


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
    found = find_similar(embedder, index, archive[:2], n_neighbors=3, exclude="same_patient")
    expected = index.search(
        embedder.transform(archive[:2]),
        3,
        query_metadata=archive[:2].table,
        space=embedder.space_,
        exclude="same_patient",
    )
    assert found.equals(expected)
    assert not (found["patient_id"].to_numpy() == archive.patient_ids[found["query"]]).any()


def test_a_tumor_of_the_archive_finds_itself(embedder, index, archive):
    """Without exclusion the nearest is the tumor itself, at distance 0."""
    found = find_similar(embedder, index, list(archive), n_neighbors=1)
    assert found["tumor_id"].tolist() == archive.tumor_ids.tolist()
    np.testing.assert_allclose(found["distance"], 0, atol=1e-3)  # float32 sums in another order


def test_another_embedder_is_refused(index, archive):
    """An index of other embeddings is not searched."""
    other = phantoms.tiny(max_epochs=1, random_state=1).fit(archive)
    with pytest.raises(IndexMismatchError, match="different embedders"):
        find_similar(other, index, archive[:1])


def test_neighbors_become_tumors_again(embedder, index, archive):
    """Files, box, mask value and labels of a neighbor are those of the archive's tumor."""
    found = find_similar(embedder, index, archive[:2], n_neighbors=6)
    tumors = {tumor.tumor_id: tumor for tumor in neighbor_tumors(found)}
    assert set(tumors) == set(archive.tumor_ids)
    for tumor in archive:
        again = tumors[tumor.tumor_id]
        assert again.case.image == tumor.case.image and again.case.mask == tumor.case.mask
        assert (again.bbox == tumor.bbox).all() and again.labels == tumor.labels
        assert (again.load_mask() == tumor.load_mask()).all()


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
    tumors = query_tumors("s0_image.nii.gz", mask="s0_mask.nii.gz")
    _, columns = embed_archive(embedder, tumors)
    assert columns["image"] == [str(tmp_path.resolve() / "s0_image.nii.gz")]


def test_a_killed_run_goes_on(embedder, archive, tmp_path):
    """Scans that an earlier run has done are taken from its folder, not embedded anew."""
    folder = tmp_path / "partial"
    embed_archive(embedder, archive[:4], partial_dir=folder)
    kept = sorted(folder.iterdir())
    assert len(kept) == 4
    np.save(
        kept[0], np.full((1, embedder.n_features_out_), 7.0, np.float32)
    )  # a mark that cannot be computed
    X, _ = embed_archive(embedder, archive, partial_dir=folder)
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


def test_query_by_mask_box_and_proposal(embedder, archive):
    """A mask gives its lesions, a box gives one tumor, and otherwise the model's own mask is used."""
    case = archive[0].case
    by_mask = query_tumors(case.image, mask=case.mask, patient_id="p9")
    assert (by_mask[0].bbox == archive[0].bbox).all() and by_mask[0].patient_id == "p9"
    by_box = query_tumors(case.image, box=archive[0].bbox.ravel().tolist())
    assert by_box[0].patient_id == "unknown" and not by_box[0].case.has_mask
    assert by_box[0].tumor_id == "s0_image/1"
    everything = query_tumors(case.image, embedder=embedder, threshold=0)
    assert everything[0].bbox.tolist() == [[0, 0, 0], list(case.shape)] and everything[0].case.has_mask
    with pytest.raises(ValueError, match="proposes no lesion"):
        query_tumors(case.image, embedder=embedder, threshold=1)


def test_query_needs_one_source(embedder, archive):
    """Both mask and box, neither of them, and a box outside the image are refused."""
    case = archive[0].case
    with pytest.raises(ValueError, match="leave one out"):
        query_tumors(case.image, mask=case.mask, box=(0, 0, 0, 1, 1, 1))
    with pytest.raises(ValueError, match="a mask, a box, or an embedder"):
        query_tumors(case.image)
    with pytest.raises(GeometryError, match="inside the image"):
        query_tumors(case.image, box=(0, 0, 0, 500, 5, 5))


def test_model_is_described(embedder):
    """Fingerprint, file name and training data of an embedder are told."""
    facts = describe_model(embedder, "folder/model.safetensors")
    assert facts == {
        "Model": "model.safetensors",
        "Fingerprint": embedder.space_.fingerprint,
        "Trained on": "6 tumors of 6 patients (data: unnamed)",
    }
