"""What `query` says of neighbors that do not count: the same words in text, JSON and sheet."""

import json
import re

import pandas as pd
import pytest
from test_cli import ask


@pytest.fixture
def told(made_folder, tmp_path):
    """Return a function that queries with s1's scan and gives text, JSON, page without tags, and table."""

    def tell(*options):
        asked = ("--mask", made_folder / "s1_mask.nii.gz", *options)
        files = ("-o", tmp_path / "near.csv", "--report", tmp_path / "answer.html", "--overwrite")
        text = ask(made_folder, *asked, scan="s1_image.nii.gz").stdout
        found = ask(made_folder, *asked, *files, "--json", scan="s1_image.nii.gz")
        page = re.sub(
            r"<(script|style).*?</\1>|<[^>]+>", " ", (tmp_path / "answer.html").read_text(), flags=re.S
        )
        return text, json.loads(found.stdout), " ".join(page.split()), pd.read_csv(tmp_path / "near.csv")

    return tell


def test_the_same_patient_is_named_and_left_out(told):
    """With --patient-id another scan of the patient is named in text, JSON and sheet, and no neighbor."""
    where = "--where tumor_id=s0/1,s2/1,s3/1,s4/1"
    words = "Left out, same patient as the query: s0/1."
    text, answer, page, near = told("--patient-id patient-s0", where)
    assert f"\nNote: {words}" in text and words in answer["notes"] and words in page
    assert "s0/1 (same patient)" in page
    left = [(row["tumor_id"], row["reason"]) for row in answer["queries"][0]["left_out"]]
    assert left == [("s0/1", "same patient")]
    assert sorted(near["tumor_id"]) == ["s2/1", "s3/1", "s4/1"] and "of 3 neighbors, 3 patients" in text
    unknown = told(where)  # without the id nobody can know
    assert words not in "".join(map(str, unknown[:3])) and "s0/1" in unknown[3]["tumor_id"].tolist()


def test_a_kept_same_patient_is_marked_and_not_counted(told):
    """--keep-same shows it with a mark; votes are of the others."""
    text, answer, page, near = told(
        "--patient-id patient-s0 --keep-same --where tumor_id=s0/1,s2/1,s3/1,s4/1"
    )
    assert near.set_index("tumor_id")["same"].dropna().to_dict() == {"s0/1": "patient"}
    assert "marked, and never counted" in text and "⚠ Same patient: not counted" in page
    assert answer["queries"][0]["left_out"] == [] and "of 3 neighbors, 3 patients" in text


def test_a_filter_that_leaves_one_neighbor_says_so(told):
    """One tumor of five asked for is an example; nothing is voted on."""
    text, answer, page, near = told("--where tumor_id=s2/1")
    for words in (
        "Only tumors that meet the conditions (tumor_id = s2/1) were searched, 1 of 6: votes, base rates and "
        "how usual the query is refer to these.",
        "The conditions leave 1 neighbor of 5 asked for. One neighbor is an example, no vote.",
    ):
        assert f"Note: {words}" in text and words in answer["notes"] and words in page
    assert near["tumor_id"].tolist() == ["s2/1"]
    assert {vote["abstains"] for vote in answer["queries"][0]["votes"]} == {"one label"}


def test_a_filter_on_a_label_does_not_make_it_the_verdict(told):
    """Of --where type=metastasis no vote on the type follows, and nothing speaks of the whole archive."""
    text, answer, page, _ = told("--where type=metastasis -n 2")
    votes = {vote["task"]: vote["abstains"] for vote in answer["queries"][0]["votes"]}
    words = "no vote (all labelled tumors that were searched are metastasis)"
    assert votes["type"] == "one label" and f"type: {words}" in text and words in page
    assert "(type = metastasis) were searched, 3 of 6: votes" in text and "searched, 3 of 6: votes" in page
    assert "in this archive" not in text + page and "base rate 100 %" not in text + page


def test_a_filter_that_leaves_the_own_tumor_only_says_so(told):
    """The own tumor does not count: no other one meets the conditions, and none is an example."""
    for options in ("", "--exclude s1/1", "--keep-same"):
        text, answer, page, _ = told("--where tumor_id=s1/1", options)
        words = "No other tumor of the archive meets the conditions."
        assert answer["queries"][0]["closeness"]["text"] == words and words in text and words in page
        assert "leave 0 neighbors of 5 asked for." in text and "an example" not in text + page


def test_the_same_scan_and_an_archive_that_trained_the_model_are_told(told):
    """The own tumor is left out by default; where the model was trained on the archive, scores flatter."""
    text, answer, page, near = told()
    for words in ("Left out, same scan as the query: s1/1.", "6 of 6 tumors trained this model"):
        assert f"Note: {words}" in text and any(words in note for note in answer["notes"]) and words in page
    assert "s1/1 (same scan)" in page and "s1/1" not in near["tumor_id"].tolist()
