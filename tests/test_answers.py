"""Votes, summaries and words of an answer, by hand-made tables."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.answers import (
    describe_aspects,
    describe_closeness,
    describe_summary,
    describe_volume,
    describe_vote,
    describe_where,
    summarize,
    votes,
)
from tumorsim.calibration import (
    VoteCalibration,
    brier_score,
    calibrate_votes,
    expected_calibration_error,
)
from tumorsim.exceptions import IndexMismatchError

ARCHIVE = pd.DataFrame(
    {
        "patient_id": list("abcdefghij"),
        "label_type": ["m"] * 4 + ["g"] * 4 + [None] * 2,
        "label_side": ["left"] * 10,
        "label_grade": [None] * 10,
    }
)


def answer(types, *, patients=None, far=False, p_value=0.5, **columns):
    """Return the rows of one query with these types."""
    n = len(types)
    table = {"query": 0, "rank": range(1, n + 1), "distance": np.arange(n) + 1.0}
    table |= {"p_value": p_value, "no_close_match": far}
    table |= {"patient_id": list(patients or "pqrstuvw"[:n])}
    return pd.DataFrame(table | {"label_type": pd.Series(types, dtype=object)} | columns)


def test_votes_are_counts_with_patients_and_base_rate():
    """Four of five neighbors of four patients, against a base rate among labelled tumors only."""
    found = votes(answer(["m", "m", "g", "m", "m"], patients="pqrsp"), ARCHIVE, tasks=["type"])
    assert len(found) == 1
    row = found.iloc[0]
    assert row[["label", "n_votes", "n_labelled", "n_neighbors", "n_patients"]].tolist() == ["m", 4, 5, 5, 4]
    assert row["base_rate"] == 0.5 and row["counts"] == "m 4, g 1"
    assert row["abstains"] is None and np.isnan(row["probability"])
    assert (
        describe_vote(row)
        == "type: m, 4 of 5 neighbors, 4 patients; base rate among the tumors searched 50 %"
    )


def test_tasks_are_those_that_the_archive_has_labels_of():
    """A column without a label is no task; an unknown task is an error that lists the known ones."""
    found = votes(answer(["m", "m", "g"]), ARCHIVE)
    assert found["task"].tolist() == ["type", "side"]
    assert found["n_labelled"].tolist() == [3, 0]  # the neighbors lack the column
    assert describe_vote(found.iloc[1]) == "side: no vote, no neighbor has this label"
    with pytest.raises(ValueError, match=r"\(type, side\)\. Got 'age'"):
        votes(answer(["m"]), ARCHIVE, tasks=["age"])


@pytest.mark.parametrize(
    ("types", "far", "abstains"),
    [
        (["m", "m", "m", "g", "g"], False, None),
        (["m", "g", "m", "g"], False, "mixed"),
        (["m", "g", "s", "m", "x"], False, "mixed"),
        (["m", "m", None, None, None], False, "few labels"),
        (["m", "m", "m", None, None], False, None),
        ([None, None], False, "few labels"),
        (["m", "m"], False, None),
        (["m"] * 5, True, "far"),
    ],
)
def test_a_vote_is_abstained_from_when_mixed_far_or_unlabelled(types, far, abstains):
    """Below 60 %, on a tie, without a close match, and with fewer than three labels."""
    row = votes(answer(types, far=far), ARCHIVE, tasks=["type"], n_neighbors=len(types)).iloc[0]
    assert row["abstains"] == abstains
    if row["n_labelled"]:
        assert ("no vote" in describe_vote(row)) == (abstains is not None)


def test_what_a_filter_leaves_of_five_does_not_vote():
    """One of one is no vote in a search for five; in a search for one it is."""
    for asked, abstains in ((None, "few labels"), (5, "few labels"), (2, "few labels"), (1, None)):
        row = votes(answer(["m"]), ARCHIVE, tasks=["type"], n_neighbors=asked).iloc[0]
        assert row["abstains"] == abstains
    assert votes(answer(["m", "m"]), ARCHIVE, n_neighbors=5)["abstains"][0] == "few labels"


def test_one_neighbor_is_singular():
    """One neighbor of one patient, as people say it."""
    row = votes(answer(["m"]), ARCHIVE, tasks=["type"], n_neighbors=1).iloc[0]
    assert describe_vote(row).startswith("type: m, 1 of 1 neighbor, 1 patient;")


def test_conditions_in_words():
    """Values, lists, ranges and what is missing are told as they were given."""
    where = {"type": "glioma", "age": (">=", 40.0), "visit": ["1", "2"], "dose": ("!=", None)}
    assert describe_where(where) == "type = glioma, age >= 40, visit = 1 or 2, dose != not known"


def test_of_equal_counts_the_nearest_label_is_named():
    """A tie is never won, and its label is the nearest's."""
    row = votes(answer(["g", "m", "m", "g"]), ARCHIVE, tasks=["type"], min_share=0.5).iloc[0]
    assert row["label"] == "g" and row["abstains"] == "mixed"
    assert describe_vote(row) == "type: no vote (neighbors are mixed); g 2, m 2 of 4 neighbors, 4 patients"


def test_most_are_more_than_half():
    """Where no label has more than half, all are counted; "most" is said of a majority only."""
    told = {
        ("g", "m", "g", "s_x", "m"): "g 2, m 2, s x 1 of 5 neighbors, 5 patients",
        ("g", "m", "s", "x"): "g 1, m 1, s 1, x 1 of 4 neighbors, 4 patients",
        ("g", None): "g 1 of 1 labelled neighbor (of 2), 1 patient",
        ("g", "g", "g", "m", "s"): "most are g, 3 of 5 neighbors, 5 patients; base rate among the tumors",
    }
    for types, words in told.items():
        row = votes(answer(list(types)), ARCHIVE, tasks=["type"], min_share=0.8).iloc[0]
        assert describe_vote(row).partition("; ")[2].startswith(words)


def test_the_only_label_that_was_searched_wins_no_vote():
    """Where a filter, or the archive, leaves one label of a task, its neighbors say nothing of it."""
    found = answer(["g", "g", "g"], label_side=["left"] * 3)
    filtered = votes(found, ARCHIVE[ARCHIVE["label_type"] == "g"], n_neighbors=3)
    assert filtered["abstains"].tolist() == ["one label", "one label"]
    told = "type: no vote (all labelled tumors that were searched are g)"
    assert describe_vote(filtered.iloc[0]) == told
    assert votes(found, ARCHIVE)["abstains"].tolist() == [None, "one label"]


def test_labelled_neighbors_are_told_from_all():
    """Where some lack the label the count says so."""
    row = votes(answer(["m", "m", "m", None]), ARCHIVE, tasks=["type"]).iloc[0]
    assert "3 of 3 labelled neighbors (of 4), 3 patients" in describe_vote(row)


def test_no_neighbors_no_votes():
    """An empty answer gives an empty table with all columns."""
    found = votes(answer(["m"])[:0], ARCHIVE)
    assert len(found) == 0 and "probability" in found
    assert len(summarize(answer(["m"])[:0], ["distance"])) == 0


def held_out(n, seed):
    """Return votes of n held-out tumors, right with the square of the first label's share, and the truth."""
    rng = np.random.default_rng(seed)
    n_votes = rng.integers(6, 11, size=n)
    right = rng.random(n) < (n_votes / 10) ** 2
    table = {"query": range(n), "task": "type", "label": "m", "n_votes": n_votes, "n_labelled": 10}
    return pd.DataFrame(table).assign(abstains=None), pd.DataFrame({"label_type": np.where(right, "m", "g")})


def test_calibration_learns_how_often_votes_are_right():
    """Shares that promise too much become probabilities; Brier and ECE fall, also on further patients."""
    calibration = VoteCalibration().fit(*held_out(600, 0))
    for report in (calibration.report_, calibration.evaluate(*held_out(2000, 1))):
        assert report["task"].tolist() == ["type"]
        assert report["brier_after"][0] < report["brier_before"][0]
        assert report["ece_after"][0] < 0.1 < report["ece_before"][0]  # the gap is 0.14, of sampling 0.04
    table, _ = held_out(50, 2)
    expected = (table["n_votes"] / 10) ** 2
    assert_allclose(calibration.predict(table), expected, atol=0.08)  # a logistic curve is no parabola
    row = votes(answer(["m"] * 5), ARCHIVE, tasks=["type"], calibration=calibration).iloc[0]
    assert 0.9 < row["probability"] <= 1
    assert f"right in {100 * row['probability']:.0f} % of such votes of held-out" in describe_vote(row)


def test_calibration_keeps_tasks_apart(tmp_path):
    """Each task has its own curve, and one of too few votes has none; a file brings all of it back."""
    table, truth = held_out(400, 3)
    side = table.assign(task="side", label="left")
    few = table[:10].assign(task="grade")
    truth = truth.assign(label_side="left", label_grade="m")
    calibration = VoteCalibration().fit(pd.concat([table, side, few]), truth)
    assert sorted(calibration.curves_) == ["side", "type"]
    assert_allclose(calibration.predict(side[:3]), 401 / 402)
    assert np.isnan(calibration.predict(few)).all()
    calibration.save(tmp_path / "votes.json")
    restored = VoteCalibration.load(tmp_path / "votes.json")
    assert_allclose(restored.predict(table), calibration.predict(table))
    pd.testing.assert_frame_equal(restored.report_, calibration.report_)


def test_calibration_of_an_index_is_for_that_index(tmp_path):
    """It learns from searches of held-out patients, and is refused where embedder or neighbors differ."""
    rng = np.random.default_rng(0)
    types = rng.integers(2, size=240)
    X = np.column_stack([4 * types + rng.normal(size=240), rng.normal(size=240)])
    ids = [str(i) for i in range(240)]
    table = pd.DataFrame({"patient_id": ids, "tumor_id": ids, "label_type": np.where(types, "m", "g")})
    index = TumorIndex().fit(X[:120], metadata=table[:120], space=EmbeddingSpace("f"))
    calibration = calibrate_votes(index, X[120:], table[120:], n_neighbors=5)
    assert calibration.curves_["type"][0] > 0  # more votes are more often right
    calibration.check(index, 5)
    with pytest.raises(IndexMismatchError, match=r"n_neighbors is 5, got 7\. Calibrate again"):
        calibration.check(index, 7)
    other = TumorIndex().fit(X, metadata=table, space=EmbeddingSpace("other"))
    with pytest.raises(IndexMismatchError, match="fingerprint is f, got other"):
        calibration.check(other, 5)
    with pytest.raises(ValueError, match=r"Got 120 that it holds, among them '0'"):
        calibrate_votes(index, X[:120], table[:120])
    sized = TumorIndex().fit(X[:120], metadata=table[:120].assign(volume_mm3=np.arange(1, 121)))
    by_size = {"n_neighbors": 5, "aspects": {"size": 1}}
    made = calibrate_votes(sized, X[120:], table[120:].assign(volume_mm3=np.arange(1, 121)), **by_size)
    made.check(sized, **by_size)
    del made.made_for_["unit of distances"]  # as files had it when each aspect was over its median
    with pytest.raises(
        IndexMismatchError, match=r"unit of distances is medians, got Hellinger's\. Calibrate again"
    ):
        made.check(sized, **by_size)


@pytest.mark.parametrize(
    "text",
    [
        '{"format": "x"}', "[1]", "[" * 100_000,
        *(f'{{"format": "tumorsim vote calibration 1", "curves": {curves}, "made_for": {{}}, "report": []}}'
          for curves in ('[1]', '{}', '{"type": [NaN, 0]}', '{"type": [1]}')),
    ],
    ids=["other format", "list", "nested", "curves in a list", "no curve", "not a number", "half a curve"],
)  # fmt: skip
def test_damaged_calibrations_are_refused(tmp_path, text):
    """Whatever is not what `save` writes is named with the file."""
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(ValueError, match=r"no\.json' must be a vote calibration"):
        VoteCalibration.load(tmp_path / "no.json")


def test_calibration_refuses_what_it_cannot_learn_from():
    """Nineteen votes are too few, abstentions do not count, and a share is no probability before fit."""
    with pytest.raises(ValueError, match=r"at least 20 votes of held-out patients.*Got 19"):
        VoteCalibration().fit(*held_out(19, 0))
    table, truth = held_out(30, 0)
    with pytest.raises(ValueError, match="Got 0"):
        VoteCalibration().fit(table.assign(abstains="mixed"), truth)
    with pytest.raises(NotFittedError):
        VoteCalibration().predict(table)
    always = VoteCalibration().fit(table, truth.assign(label_type="m"))
    assert_allclose(always.predict(table), 31 / 32)


def test_scores_of_probabilities_by_hand():
    """Brier is a mean square; calibration error a mean gap over bins."""
    assert brier_score([0.5, 1.0], [1, 1]) == 0.125
    assert_allclose(expected_calibration_error([0.8, 0.8, 0.8, 0.8, 1.0], [1, 1, 1, 1, 1]), 0.16)


def test_summaries_are_of_what_is_known():
    """Numbers give n, median and range, text and booleans counts, and what is missing is told."""
    found = answer(
        ["m", "g", "m"],
        dose_gy=[12.0, np.nan, 18.0],
        control=["stable", "stable", None],
        operated=[True, False, True],
        nothing=pd.Series([None] * 3, dtype=object),
    )
    table = summarize(found, ["dose_gy", "control", "operated", "nothing"])
    assert table["n"].tolist() == [2, 2, 3, 0] and table["n_missing"].tolist() == [1, 1, 0, 3]
    assert table.loc[0, ["median", "minimum", "maximum"]].tolist() == [15, 12, 18]
    assert table["counts"].tolist() == [None, "stable 2", "True 2, False 1", None]
    assert [describe_summary(row) for _, row in table.iterrows()] == [
        "dose_gy: median 15, range 12 to 18 (n = 2, 1 not known)",
        "control: stable 2 (n = 2, 1 not known)",
        "operated: True 2, False 1 (n = 3)",
        "nothing: not known of any neighbor",
    ]
    with pytest.raises(ValueError, match="Got 'grade'"):
        summarize(found, ["grade"])


def test_closeness_in_words():
    """The share of tumors with a more distant nearest neighbor, and what follows from a small one."""
    assert describe_closeness(answer(["m"])[:0]) == "No tumor of the archive meets the conditions."
    alone = "No other tumor of the archive meets the conditions."
    assert describe_closeness(answer(["m"])[:0], left_out=True) == alone
    assert describe_closeness(answer(["m"], same="scan")) == alone
    assert "Too few patients" in describe_closeness(answer(["m"], p_value=np.nan))
    assert "not asked for" in describe_closeness(answer(["m"]).drop(columns="p_value"))
    assert describe_closeness(answer(["m"], p_value=0.0201, far=True)).startswith(
        "No close match: 2 % of the tumors searched have a"
    )
    assert "least unlike, not like cases" in describe_closeness(answer(["m"], p_value=0.0201, far=True))
    rather, usual = (describe_closeness(answer(["m"], p_value=p)) for p in (0.1, 1.0))
    assert rather.startswith("Rather unusual among the tumors searched: 10 % of them have")
    assert usual.startswith("Usual among the tumors searched: 100 % of them have")


def test_the_volume_of_a_box_is_about():
    """That of a mask has three digits; that of the ellipsoid in a box two, and says where it is from."""
    volumes = ((6351.0, "box"), (127_400.0, "box"), (6351.0, "mask"), (127_400.0, None))
    told = [describe_volume({"volume_mm3": v, "measured_from": source}) for v, source in volumes]
    assert told == ["about 6.4 ml, from the box", "about 130 ml, from the box", "6.35 ml", "127 ml"]


def test_aspects_in_words():
    """Each aspect has its share of random pairs; parts of place are left out beside it."""
    shares = {"place": 0.96, "region": 0.2, "size": 0.8, "type": 0.49, "side_of_day": np.nan}
    row = {f"closer_than_{name}": share for name, share in shares.items()}
    assert describe_aspects(row) == "place 96 %, size 80 %, type 49 %"
    assert describe_aspects({"closer_than_front_rear": 0.9}) == "front rear 90 %"
    assert describe_aspects({"distance": 1.0}) == ""
