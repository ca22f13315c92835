"""Course as similarity: what `match` writes of two dates is an aspect, and answers show volumes over time."""

import datetime
import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from grids import ellipsoid_mask
from phantoms import head
from test_cli import run
from visits import make_visits

from tumorsim import Cohort, TumorEmbedder, TumorIndex, find_similar, matching
from tumorsim.io import save_nifti
from tumorsim.manifest import save_manifest

pytestmark = pytest.mark.filterwarnings("default")  # commands print warnings
RADII = {"grows": (4, 7), "grows-too": (4.2, 7.2), "stays": (6, 6), "shrinks": (8, 5), "new": (5, 8.5)}


@pytest.fixture(scope="module")
def matched(made_folder, tmp_path_factory):
    """Return a folder with an index of four patients at two dates, and the matched manifest of a fifth."""
    path = tmp_path_factory.mktemp("course")
    rows = []
    for patient, radii in RADII.items():
        for date, radius in zip(("2024-01-01", "2024-05-01"), radii, strict=True):
            name = f"{patient}-{date}"
            mask = ellipsoid_mask((40, 44, 36), [((20, 24, 18), (radius,) * 3)])
            image = head() + 100 * mask
            for kind, array in (("image", image.astype(np.float32)), ("mask", mask)):
                save_nifti(path / f"{name}_{kind}.nii.gz", array, np.eye(4))
            rows.append([patient, name, f"{name}_image.nii.gz", f"{name}_mask.nii.gz", date])
    table = pd.DataFrame(rows, columns=["patient_id", "case_id", "image", "mask", "date"])
    own = table["patient_id"] == "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "register_dates", lambda before, after: (np.eye(4), 0.9))
        for kind, part in (("archive", table[~own]), ("query", table[own])):
            part.to_csv(path / f"{kind}-scans.csv", index=False)
            run("manifest", path / f"{kind}-scans.csv", "-o", path / f"{kind}-all.csv")
            run("match", path / f"{kind}-all.csv", "-o", path / f"{kind}.csv")
    model = ("--model", made_folder / "model.safetensors", "--device cpu")
    run("embed", path / "archive.csv", *model, "-o", path / "archive.npz")
    run("index build", path / "archive.npz", "-o", path / "index")
    return path


def test_a_query_of_two_dates_finds_who_developed_alike(matched, made_folder, tmp_path):
    """By course the two that grew come first; text, JSON and sheet show their volumes over time."""
    asked = ("query", matched / "index", matched / "query.csv", "--aspect course=1 --device cpu")
    asked += ("--model", made_folder / "model.safetensors")
    text = run(*asked).stdout
    assert "volume over time: 2024-01-01: 0.2" in text and "distance_course" in text
    told = json.loads(run(*asked, "--report", tmp_path / "r", "-o", tmp_path / "near.csv", "--json").stdout)
    near = pd.read_csv(tmp_path / "near.csv")
    found = near["patient_id"].tolist()
    assert set(found[:2]) == {"grows", "grows-too"} and found[2:] == ["stays", "shrinks"]
    assert near["case_id"].str.endswith("2024-05-01").all()  # a first date has no course
    (answer,) = (one for one in told if "queries" in one)
    course = pd.DataFrame(answer["queries"][0]["courses"])
    assert course["time"].tolist() == ["2024-01-01", "2024-05-01"] * 4
    volumes = [ellipsoid_mask((40, 44, 36), [((20, 24, 18), (r,) * 3)]).sum() for r in RADII[found[0]]]
    assert course[course["rank"] == 1]["volume_mm3"].tolist() == volumes
    (problem,) = (one["problem"] for one in told if "problem" in one)
    assert "needs" in problem and "course" in problem
    (sheet,) = (tmp_path / "r" / "sheets").iterdir()
    page = sheet.read_text(encoding="utf-8")
    assert page.count("<polyline ") == 4 and "Volume over time" in page and "since the date before" in page


@pytest.fixture
def asked(matched, made_folder, monkeypatch):
    """Return a query of a new scan with its earlier one, in words of the command line."""
    monkeypatch.setattr(matching, "register_dates", lambda before, after: (np.eye(4), 0.9))
    scans = [matched / f"new-{date}" for date in ("2024-01-01", "2024-05-01")]
    words = ["query", matched / "index", f"{scans[1]}_image.nii.gz", "--mask", f"{scans[1]}_mask.nii.gz"]
    words += ["--before", f"{scans[0]}_image.nii.gz", "--mask-before", f"{scans[0]}_mask.nii.gz"]
    words += ["--dates", "2024-01-01,2024-05-01", "--aspect", "course=1"]
    return [*map(str, words), "--model", str(made_folder / "model.safetensors"), "--device", "cpu"]


def test_a_scan_with_its_earlier_one_is_a_query_by_course(matched, asked, tmp_path):
    """It finds what the matched manifest of both finds, and its own volumes are shown beside the others'."""
    told = json.loads(
        run(*asked, "-o", tmp_path / "near.csv", "--report", tmp_path / "a.html", "--json").stdout
    )
    near = pd.read_csv(tmp_path / "near.csv")
    assert set(near["patient_id"][:2]) == {"grows", "grows-too"}
    (query,), known = told["queries"], pd.read_csv(matched / "query.csv").set_index("case_id")
    for name in ("volume_ratio_per_month", "diameter_mm_per_month", "growth_percent", "status"):
        assert query[name] == known.loc["new-2024-05-01", name]
    assert query["date"] == "2024-05-01"
    own = [(row["time"], row["volume_mm3"]) for row in query["courses"] if row["rank"] == 0]
    assert own == list(zip(("2024-01-01", "2024-05-01"), known["volume_mm3"], strict=True))
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<polyline ") == 5 and "Earlier scan" in page
    assert "\nVolume over time: 2024-01-01: 0.5" in run(*asked).stdout


def test_lesions_that_are_new_do_not_spoil_a_query_by_course(matched, made_folder, tmp_path, monkeypatch):
    """Beside the lesion that both dates show, a new one has no neighbors by course, and a note says so."""
    monkeypatch.setattr(matching, "register_dates", lambda before, after: (np.eye(4), 0.9))
    first, second = (nib.load(matched / f"new-{d}_mask.nii.gz") for d in ("2024-01-01", "2024-05-01"))
    both = np.asarray(second.dataobj) | ellipsoid_mask((40, 44, 36), [((8, 8, 8), (3, 3, 3))])
    embedder = TumorEmbedder.load(made_folder / "model.safetensors", device="cpu")
    index = TumorIndex.load(matched / "index")
    scan = {"query": matched / "new-2024-05-01_image.nii.gz", "mask": (both, np.eye(4))}
    scan |= {"before": matched / "new-2024-01-01_image.nii.gz", "mask_before": first}
    scan |= {"dates": (datetime.date(2024, 1, 1), "2024-05-01")}
    answer = find_similar(embedder, index, aspects={"course": 1}, **scan)
    assert len(answer.queries) == 1 and answer.queries[0].metadata["status"] == "same"
    assert any("new-2024-05-01_image/2" in note for note in answer.notes)
    both = find_similar(embedder, index, aspects={"course": 1, "size": 1}, **scan)
    assert both.queries.table["status"].tolist() == ["same", "new"] and not any(
        "course" in n for n in both.notes
    )
    assert both.courses.query("rank == 0")["query"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"--dates": None}, "'before' needs 'dates'.*Got None"),
        ({"--dates": "2024-01-01"}, "needs 'dates', the earlier first.*Got ..2024-01-01"),
        ({"--dates": "2024-05-01,2024-01-01"}, "later scan must have the later date"),
        ({"--dates": "May,June"}, "must be written as 2024-05-31. Got 'May'"),
        ({"--mask": None}, "'new-2024-05-01_image' has none: give 'mask'"),
        ({"--mask-before": None}, "'new-2024-01-01_image' has none: give 'mask_before'"),
        ({"--before": None}, "'before' is an earlier scan, beside a new one.*Got none"),
        ({"--before": "query.csv"}, "Got tumors or a table.*tumorsim match"),
        ({"scan": "query.csv", "--mask": None}, "'before' belongs to one scan"),
    ],
)
def test_an_earlier_scan_comes_with_masks_and_dates(matched, asked, changed, error):
    """What is missing or too much is named, with its remedy."""
    for option, value in changed.items():
        place = 2 if option == "scan" else asked.index(option)
        new = [] if value is None else [value if option == "--dates" else str(matched / value)]
        asked[place : place + (1 if option == "scan" else 2)] = (
            [option, *new][option == "scan" :] if new else []
        )
    assert re.search(error, " ".join(run(*asked, code=2).stderr.split()))


def test_course_needs_two_dates(matched, made_folder):
    """A scan without an earlier one has no course: an error that says what is missing."""
    scan = matched / "new-2024-05-01_image.nii.gz"
    asked = ("query", matched / "index", scan, "--aspect course=1 --device cpu --box 12 16 10 28 32 26")
    result = run(*asked, "--model", made_folder / "model.safetensors", code=2)
    assert "Aspect 'course' needs a number in column 'volume_ratio_per_month'" in result.stderr


@pytest.mark.slow
def test_simulated_courses_are_those_of_the_truth(tmp_path):
    """Of simulated second visits, the nearest course is the one whose true volume changed most alike."""
    visits = make_visits(3, random_state=11, spacing=3.0, output_dir=tmp_path)
    save_manifest(Cohort(visits), tmp_path / "a.csv")
    _, cohort = matching.match_manifest(tmp_path / "a.csv")
    table = cohort.table
    later = table[table["volume_ratio_per_month"].notna() & (table["status"] == "same")]
    before = table[table["visit"] == 1].set_index("lesion_id")
    days = pd.to_datetime(later["date"]) - pd.to_datetime(before.loc[later["lesion_id"], "date"]).to_numpy()
    true = np.log(later["true_volume_mm3"] / before.loc[later["lesion_id"], "true_volume_mm3"].to_numpy())
    true = true / (days.dt.days / (365.25 / 12))
    assert len(later) > 3 and np.corrcoef(true, later["volume_ratio_per_month"])[0, 1] > 0.9
    index = TumorIndex().fit(np.zeros((len(later), 1)), metadata=later)
    near = index.search(
        np.zeros((len(later), 1)), 2, query_metadata=later, aspects={"course": 1}, max_per_patient=None
    )
    assert (near[near["rank"] == 1]["distance_course"] == 0).all()
