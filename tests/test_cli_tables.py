"""Commands on tables of scans: proposed masks to review, a sheet for each query, and what is in the way."""

import errno
import json
import os
import re
import signal
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_cli import run

from tumorsim.io import load_image, save_nifti

pytestmark = pytest.mark.filterwarnings("default")  # commands print warnings


class _Page(HTMLParser):
    """Collect what a page links to, and its text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.links += [unquote(dict(attrs)["href"]).partition("#")[0]] if tag == "a" else []

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def week(made_folder, tmp_path):
    """Return a table of four scans: with a mask, without one, of odd ids, and one that is gone."""
    table = pd.read_csv(made_folder / "scans.csv").head(4)
    for column in ("image", "mask"):
        table[column] = [str(made_folder / os.path.basename(cell)) for cell in table[column]]
    table.loc[1, "mask"] = None
    table.loc[2, "case_id"] = "S0"  # beside s0: one file where case does not count
    table.loc[3, "image"] = "gone.nii.gz"
    table.to_csv(tmp_path / "week.csv", index=False)
    return tmp_path / "week.csv"


def model_of(folder):
    return ("--model", folder / "model.safetensors", "--device cpu")


def test_a_table_of_scans_gets_a_sheet_each(made_folder, week, tmp_path):
    """Sheets, overview and JSON agree with the query of one scan; what cannot be used is set aside."""
    out, shared = tmp_path / "out", (*model_of(made_folder), "-n 2 --threshold 0")
    result = run("query", made_folder / "index", week, *shared, "--report", out, "-o", tmp_path / "near.csv")
    assert "Went on without 1 of 4 rows" in result.stderr and "gone.nii.gz" in result.stderr
    page, answers = _Page(out / "index.html"), json.loads((out / "answers.json").read_text())
    sheets = [answer["sheet"] for answer in answers if "sheet" in answer]
    assert list(dict.fromkeys(page.links)) == sheets and len({name.lower() for name in sheets}) == 3
    for answer in answers[:3]:
        sheet = (out / answer["sheet"]).read_text()
        assert all(query["tumor_id"] in sheet for query in answer["queries"])
    assert [answer["proposed"] for answer in answers[:3]] == [False, True, False]
    assert "1 set aside" in page.text and "'gone.nii.gz' does not exist" in page.text
    assert "gone.nii.gz" in answers[3]["problem"] and "gone.nii.gz" in (out / "errors.txt").read_text()
    mask = ("--mask", made_folder / "s0_mask.nii.gz")
    one = run(
        "query", made_folder / "index", made_folder / "s0_image.nii.gz", *mask, *shared, "--json"
    ).stdout
    first = json.loads(one)["queries"][0]
    assert first["neighbors"] == answers[0]["queries"][0]["neighbors"]
    near = pd.read_csv(tmp_path / "near.csv")
    assert near["query"].nunique() == sum(len(answer["queries"]) for answer in answers[:3])
    assert near["query_tumor_id"][0] == "s0/1" and first["neighbors"][0]["tumor_id"] == near["tumor_id"][0]
    again = run("query", made_folder / "index", week, *shared, "--report", out, code=2)
    assert "index.html' exists already" in again.stderr
    many = run("query", made_folder / "index", week, *shared, mask[0], mask[1], code=2)
    assert "'mask' belongs to one scan" in many.stderr
    asked = run("query", made_folder / "index", week, *shared, "--show dose", code=2)
    assert asked.stderr.startswith("Error: Parameter 'show'")


def test_an_archive_without_masks_gets_them(made_folder, week, tmp_path):
    """Masks lie on the scans' grids, the page shows all, and the table goes the way of any scan table."""
    table = pd.read_csv(week).drop(columns="mask")
    table.to_csv(week, index=False)
    out = tmp_path / "masks"
    result = run("segment", week, "-o", out, *model_of(made_folder), "--threshold 0")
    assert "3 scans with a mask" in result.output and "Went on without 1 of 4 rows" in result.stderr
    scans = pd.read_csv(out / "scans.csv")
    assert scans["case_id"].tolist() == ["s0", "s1", "S0"] and scans["visit"].eq("2024-05").all()
    assert scans["mask"].str.lower().nunique() == 3 and set(scans["mask_source"]) == {"proposed by the model"}
    for image, mask in zip(scans["image"], scans["mask"], strict=True):
        (whole, affine), (proposed, on) = load_image(out / image), load_image(out / mask)
        assert whole.shape == proposed.shape and set(np.unique(proposed)) == {1}
        np.testing.assert_allclose(on, affine, atol=1e-5)
    page = _Page(out / "review.html")
    assert "Proposed masks of 3 scans" in page.text and "1 set aside" in page.text
    assert (out / "review.html").read_text().count("<image ") == 3 * 4 and "http" not in page.text
    assert not list(out.glob("*.partial"))
    assert "3 scans" in run("manifest", out / "scans.csv", "-o", tmp_path / "archive.csv").output
    assert "exists already" in run("segment", week, "-o", out, *model_of(made_folder), code=2).stderr


def test_scans_without_a_proposal_are_shown_but_not_listed(made_folder, week, tmp_path):
    """Where the model finds nothing the page says so; masks of the table stay its own."""
    result = run("segment", week, "-o", tmp_path / "m", *model_of(made_folder), "--threshold 1")
    scans = pd.read_csv(tmp_path / "m" / "scans.csv")
    assert scans["case_id"].tolist() == ["s0", "S0"] and scans["mask_source"].isna().all()
    assert "No tumor proposed" in _Page(tmp_path / "m" / "review.html").text and "2 scans" in result.output


def test_an_interrupted_archive_goes_on(made_folder, week, tmp_path, monkeypatch, interruptible):
    """SIGINT ends with 130 and how to go on; the same command then does what is left, and only that."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = pd.read_csv(week).head(1)
    rows = pd.concat([rows.assign(case_id=f"c{i}") for i in range(8)])
    rows.drop(columns="mask").to_csv(folder / "scans.csv", index=False)
    words = ("segment", folder / "scans.csv", "-o", tmp_path / "m", *model_of(made_folder), "--threshold 0")

    def replace(source, target, original=os.replace):
        original(source, target)
        if Path(target).name == "c1.nii.gz":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        assert "Stopped. The same command goes on" in run(*words, code=130).stderr
    assert not (tmp_path / "m" / "scans.csv").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").glob("*.nii.gz")}
    assert 2 <= len(done) < 8 and not [p for p in (tmp_path / "m").iterdir() if p.name.startswith(".")]
    run(*words)
    assert len(pd.read_csv(tmp_path / "m" / "scans.csv")) == 8
    assert {name: (tmp_path / "m" / name).stat().st_mtime_ns for name in done} == done


def test_a_mask_that_was_corrected_is_not_replaced(made_folder, week, tmp_path):
    """A mask in the folder that no killed run has left stops the command before it reads a scan."""
    shape_and_affine = load_image(made_folder / "s1_image.nii.gz")
    save_nifti(
        tmp_path / "m" / "s1.nii.gz", np.zeros(shape_and_affine[0].shape, np.uint8), shape_and_affine[1]
    )
    before = (tmp_path / "m" / "s1.nii.gz").read_bytes()
    words = ("segment", week, "-o", tmp_path / "m", *model_of(made_folder), "--threshold 0")
    assert "somebody may have corrected it" in run(*words, code=2).stderr
    assert (tmp_path / "m" / "s1.nii.gz").read_bytes() == before
    run(*words, "--overwrite")
    assert (tmp_path / "m" / "s1.nii.gz").read_bytes() != before


def test_an_older_mask_never_passes_for_a_new_proposal(made_folder, week, tmp_path, monkeypatch):
    """A run that ends between card and mask leaves no mask of before, so that the next one proposes anew."""
    words = ("segment", week, "-o", tmp_path / "m", *model_of(made_folder), "--threshold 0")
    array, affine = load_image(made_folder / "s1_image.nii.gz")
    save_nifti(tmp_path / "m" / "s1.nii.gz", np.zeros(array.shape, np.uint8), affine)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(nib, "save", full)
        run(*words, "--overwrite", code=2)
    run(*words)
    assert load_image(tmp_path / "m" / "s1.nii.gz")[0].any()


def test_a_scan_without_its_voxels_is_set_aside(made_folder, week, tmp_path):
    """A detached header whose voxels are gone costs itself; the scans beside it get their masks."""
    text = "NRRD0004\ntype: uint8\ndimension: 3\nspace: RAS\nsizes: 9 9 9\nencoding: raw\ndata file: a.raw\n"
    text += "space origin: (0,0,0)\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    (tmp_path / "a.nhdr").write_text(text)
    table = pd.read_csv(week).iloc[[1, 3]]
    table.loc[3, ["image", "mask"]] = [str(tmp_path / "a.nhdr"), None]
    table.to_csv(tmp_path / "two.csv", index=False)
    words = ("segment", tmp_path / "two.csv", "-o", tmp_path / "m", *model_of(made_folder), "--threshold 0")
    assert "a.raw" in run(*words).stderr
    assert (tmp_path / "m" / "s1.nii.gz").exists() and "a.raw" in (tmp_path / "m" / "errors.txt").read_text()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("manifest {f}/scans.csv -o {t}/x.csv", "x.csv"),
        ("check {f}/archive.csv -o {t}/x.csv", "x.csv"),
        ("fit {f}/archive.csv -o {t}/x.safetensors", "x.safetensors"),
        ("embed {f}/archive.csv --model {f}/model.safetensors -o {t}/x.npz", "x.npz"),
        ("places {f}/archive.csv -o {t}/x.csv", "x.csv"),
        ("index export {f}/index -o {t}/x.parquet", "x.parquet"),
        ("evaluate {f}/index -o {t}/x.csv", "x.csv"),
        ("query {f}/index {f}/s0_image.nii.gz --mask {f}/s0_mask.nii.gz --report {t}/x.html", "x.html"),
        ("query {f}/index {f}/s0_image.nii.gz --mask {f}/s0_mask.nii.gz -o {t}/x.csv", "x.csv"),
        ("query {f}/index {f}/archive.csv --report {t}", "answers.json"),
        ("segment {f}/s0_image.nii.gz -o {t}/x.nii.gz", "x.nii.gz"),
        ("demo --out {t}", "answer.html"),
    ],
)
def test_nothing_is_overwritten_unasked(made_folder, tmp_path, command, name):
    """A file of that name stops the command at once, and stays as it is."""
    (tmp_path / name).write_text("somebody's own")
    result = run(command.format(f=made_folder, t=tmp_path), code=2)
    assert f"{name}' exists already" in result.stderr and "--overwrite" in result.stderr
    assert (tmp_path / name).read_text() == "somebody's own" and len(list(tmp_path.iterdir())) == 1


def test_an_index_is_replaced_only_when_asked(made_folder, tmp_path):
    """An index that was edited keeps its tumors; with --overwrite it is built anew."""
    build = ("index build", made_folder / "archive.npz", "-o", tmp_path / "index")
    run(*build)
    run("index remove", tmp_path / "index", "s0/1")
    assert "exists already" in run(*build, code=2).stderr
    assert "tumors:        5" in run("index info", tmp_path / "index").output
    run(*build, "--overwrite")
    assert "tumors:        6" in run("index info", tmp_path / "index").output


def test_embeddings_are_replaced_where_nothing_gets_lost(made_folder, tmp_path):
    """A file of the same model and fewer tumors is; of another model, or of other tumors, it is not."""
    table = pd.read_csv(made_folder / "archive.csv")
    for column in ("image", "mask"):
        table[column] = [str(made_folder / cell) for cell in table[column]]
    table.head(3).to_csv(tmp_path / "part.csv", index=False)
    write = ("-o", tmp_path / "a.npz", "--device cpu")
    model = ("--model", made_folder / "model.safetensors")
    run("embed", tmp_path / "part.csv", *model, *write)
    assert "6 tumors" in run("embed", made_folder / "archive.csv", *model, *write).output
    assert "lacks, such as" in run("embed", tmp_path / "part.csv", *model, *write, code=2).stderr
    assert "of another model" in run("embed", made_folder / "archive.csv", *write, code=2).stderr
    assert "3 tumors" in run("embed", tmp_path / "part.csv", *model, *write, "--overwrite").output


def test_mistakes_have_their_own_sentence(made_folder, tmp_path):
    """A scan where the index belongs, no manifest to write, a value that no tumor of the archive has."""
    asked = run("query", made_folder / "s0_image.nii.gz", "--mask", made_folder / "s0_mask.nii.gz", code=2)
    assert "INDEX must be the folder of an index" in asked.stderr
    assert "Give the manifest to write" in run("manifest", made_folder / "scans.csv", code=2).stderr
    mask = ("--mask", made_folder / "s0_mask.nii.gz", *model_of(made_folder))
    scan = made_folder / "s0_image.nii.gz"
    unknown = run("query", made_folder / "index", scan, *mask, "--where type=Glioma", code=2)
    assert "meningioma" in unknown.stderr and "metastasis" in unknown.stderr


def test_signs_that_act_reach_neither_terminal_nor_page(made_folder, week, tmp_path):
    """Escape codes and marks of direction in a column are replaced in text, pages and JSON."""
    _archive_with(made_folder, tmp_path, visit="a\x1b[2J\u202eb")
    out = tmp_path / "out"
    words = ("query", tmp_path / "index", week, *model_of(made_folder), "-n 1 --show visit --threshold 0")
    shown = run(*words, "--report", out).output + run(*words, "--json").output
    pages = [path.read_text() for path in (out / "index.html", *(out / "sheets").iterdir())]
    assert len(pages) == 4 and "a\ufffd[2J\ufffdb" in shown and "a\\ufffd[2J\\ufffdb" in shown
    assert not [text for text in (shown, *pages) if re.search("[\x1b\u202e]", text)]
    assert all("\ufffd[2J\ufffdb" in page for page in pages[1:])


def test_a_full_disk_names_the_sheet(made_folder, week, tmp_path):
    """Where a file cannot grow the command says which, and leaves none of it."""
    resource = pytest.importorskip("resource")
    scan, mask = (made_folder / f"s0_{kind}.nii.gz" for kind in ("image", "mask"))
    words = ("query", made_folder / "index", scan, "--mask", mask, *model_of(made_folder))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        said = run(*words, "--report", tmp_path / "a.html", code=2).stderr
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"'{tmp_path / 'a.html'}' could not be written whole" in said and "Errno" not in said
    assert not [path for path in tmp_path.iterdir() if path != week]


def test_what_is_left_is_an_internal_error(tmp_path):
    """A library's error ends with 70 and one line; tumorsim's own with 2; an interruption with 130."""
    import typer
    from typer.testing import CliRunner

    from tumorsim._validation import check_integer
    from tumorsim.cli._app import _OneLineErrors

    app = typer.Typer(cls=_OneLineErrors)

    def fail_of(kind):
        if kind == "key":
            return {}["x"]
        if kind == "shapes":
            return np.zeros(3) + np.zeros(4)
        if kind == "own":
            return check_integer(0, "n", minimum=1)
        if kind == "gone":
            return open(tmp_path / ".a.html-abcd1234.html").read()
        raise KeyboardInterrupt

    @app.command()
    def fail(kind: str):
        fail_of(kind)

    @app.command()
    def other():
        """Make the app a group."""

    codes = {"key": 70, "shapes": 70, "own": 2, "gone": 2, "stop": 130}
    said = {}
    for kind, code in codes.items():
        result = CliRunner().invoke(app, ["fail", kind])
        assert (result.exit_code, result.stderr.count("\n")) == (code, 1), result.output
        said[kind] = result.stderr
    assert all("Internal error, please report it" in said[kind] for kind in ("key", "shapes"))
    assert "KeyError" in said["key"] and said["own"].startswith("Error: Parameter 'n'")
    assert "a.html'" in said["gone"] and "abcd1234" not in said["gone"] and "Errno" not in said["gone"]
    assert "the same command starts again" in said["stop"]


def test_answers_in_csv_start_no_formula(made_folder, week, tmp_path):
    """Text that a spreadsheet would run is marked as text in the CSV of an answer."""
    _archive_with(made_folder, tmp_path, visit="=cmd|'/c calc'!A1")
    words = ("query", tmp_path / "index", made_folder / "s0_image.nii.gz", *model_of(made_folder))
    run(*words, "--mask", made_folder / "s0_mask.nii.gz", "-o", tmp_path / "near.csv")
    assert not [
        line for line in (tmp_path / "near.csv").read_text().splitlines() if re.search(',["]?=', line)
    ]


def _archive_with(made_folder, folder, **columns):
    """Write the archive with further columns into a folder, and its index."""
    table = pd.read_csv(made_folder / "archive.csv").assign(**columns)
    for column in ("image", "mask"):
        table[column] = [str(made_folder / cell) for cell in table[column]]
    table.to_csv(folder / "archive.csv", index=False)
    run("index build", folder / "archive.csv", "-o", folder / "index", *model_of(made_folder))
