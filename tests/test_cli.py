"""The command line: from scans to an answer, and one clear line for every mistake."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import phantoms
import pytest
from archives import TRAINING, write_cohort, write_scan_table
from typer.testing import CliRunner

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.calibration import VoteCalibration
from tumorsim.cli import app
from tumorsim.cli._parse import parse_aspects, parse_columns, parse_where
from tumorsim.io import load_embeddings, load_image, save_embeddings


def run(*parts, code=0, answers=None):
    """Run a command, words split at blanks where a part is text, and check the exit code.

    `answers` are typed where it asks.
    """
    words = [w for part in parts for w in (part.split() if isinstance(part, str) else [str(part)])]
    result = CliRunner().invoke(app, words, input=answers)
    assert result.exit_code == code, f"{words}: {result.output} {result.exception!r}"
    return result


@pytest.fixture
def folder(made_folder):
    """Return the folder that commands made."""
    return made_folder


def ask(folder, *parts, scan="s0_image.nii.gz", **kwargs):
    """Run a query of one of the folder's scans."""
    model = ("--model", folder / "model.safetensors", "--device cpu")
    return run("query", folder / "index", folder / scan, *model, *parts, **kwargs)


def test_every_step_leaves_what_it_says(folder):
    """Manifest, model, embeddings and index are there, agree with each other, and nothing else is left."""
    archive = pd.read_csv(folder / "archive.csv", dtype={"tumor_id": str})
    X, columns, _ = load_embeddings(folder / "archive.npz")
    assert len(archive) == len(X) == 6 and columns["tumor_id"] == archive["tumor_id"].tolist()
    assert columns["visit"] == ["2024-05"] * 6
    assert all(os.path.isabs(path) for path in columns["image"])
    names = {p.name for p in folder.iterdir() if not p.name.endswith(".nii.gz")}
    made = {"scans.csv", "archive.csv", "model.safetensors", "archive.npz", "index"}
    assert {n for n in names if "partial" in n or n.startswith(".")} == set() and made <= names


def test_held_out_patients_are_queries(folder, tmp_path):
    """A fit with --hold-out splits the patients, and the held-out ones are queries."""
    model = tmp_path / "model.safetensors"
    run("fit", folder / "archive.csv", "-o", model, TRAINING, "--device cpu --tasks type --hold-out 0.34")
    parts = [pd.read_csv(tmp_path / f"model-{name}.csv") for name in ("trained", "held-out")]
    assert [len(part) for part in parts] == [4, 2]
    assert not set(parts[0]["patient_id"]) & set(parts[1]["patient_id"])
    for name in ("trained", "held-out"):
        run("embed", tmp_path / f"model-{name}.csv", "--model", model, "-o", tmp_path / f"{name}.npz")
    asked = ("--queries", tmp_path / "held-out.npz", "-o", tmp_path / "knn.csv", "--overwrite")
    assert "flatter" not in run("evaluate", tmp_path / "trained.npz", *asked).output
    assert "4 of 4 tumors trained this model" in run("evaluate", tmp_path / "trained.npz").output
    assert pd.read_csv(tmp_path / "knn.csv")["n_queries"].eq(2).all()
    refused = run("evaluate", folder / "archive.npz", *asked, code=2).output
    assert "must come from one model" in refused
    assert (
        "must leave patients"
        in run(
            "fit", folder / "archive.csv", "-o", model, TRAINING, "--hold-out 0.01 --overwrite", code=2
        ).output
    )


def test_votes_are_calibrated_on_held_out_patients(folder, tmp_path):
    """Evaluate learns it from embeddings of others; a query gives the probability, and refuses another's."""
    rng = np.random.default_rng(0)
    types = rng.integers(2, size=160)
    X = np.column_stack([3 * types + rng.normal(size=160), rng.normal(size=160)]).astype(np.float32)
    for name, rows in (("archive", slice(80)), ("new", slice(80, None))):
        ids = [str(i) for i in range(160)][rows]
        labels = np.where(types, "glioma", "metastasis")[rows].tolist()
        columns = {"tumor_id": ids, "patient_id": ids, "label_type": labels}
        save_embeddings(tmp_path / f"{name}.npz", X[rows], columns, EmbeddingSpace("f").to_dict())
    path = tmp_path / "votes.json"
    held_out = ("--queries", tmp_path / "new.npz", "--calibrate-votes", path)
    assert "one number of neighbors" in run("evaluate", tmp_path / "archive.npz", *held_out, code=2).output
    learned = run("evaluate", tmp_path / "archive.npz", *held_out, "--n-neighbors 5").output
    assert "brier_after" in learned
    asked = ("--mask", folder / "s0_mask.nii.gz", "--vote-calibration", path)
    assert "Its fingerprint is f" in ask(folder, *asked, code=2).output
    made = VoteCalibration.load(path)
    made.made_for_ = {"fingerprint": TumorIndex.load(folder / "index").space_.fingerprint, "n_neighbors": 3}
    made.save(path)
    plain = ask(folder, *asked, "-n 3 --aspect embedding").output
    assert "of such votes of held-out patients" in plain
    refused = ask(folder, *asked, "-n 3", code=2).output
    assert "Its aspects is embedding, got type 1, place 1, size 1, look 0.05. Calibrate again" in refused


def test_index_info_counts(folder):
    """Numbers of tumors and patients, fingerprint and labels are told."""
    text = run("index info", folder / "index").output
    _, _, space = load_embeddings(folder / "archive.npz")
    assert "tumors:        6" in text and "patients:      6" in text
    assert space["fingerprint"] in text and "meningioma 3" in text and "metastasis 3" in text


def test_index_of_a_manifest_is_that_of_its_embeddings(folder, tmp_path):
    """Building from the archive and the model gives the index of the embeddings file."""
    run(
        "index build",
        folder / "archive.csv",
        "--model",
        folder / "model.safetensors",
        "-o",
        tmp_path / "index",
    )
    a, b = (run("index info", path / "index").output for path in (folder, tmp_path))
    assert a == b
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_index_add_appends_and_refuses_twice(folder, tmp_path):
    """New tumors are searched afterwards; the same ones a second time are an error and change nothing."""
    new = write_cohort(phantoms.cohort(8)[6:], tmp_path)
    write_scan_table(new, tmp_path / "scans.csv")
    run("manifest", tmp_path / "scans.csv", "-o", tmp_path / "new.csv")
    run("index build", folder / "archive.npz", "-o", tmp_path / "index")
    added = ("index add", tmp_path / "index", tmp_path / "new.csv", "--model", folder / "model.safetensors")
    assert "now holds 8 tumors, 2 of them new" in run(*added).output
    again = run(*added, code=2)
    assert "Error: Every 'tumor_id' must be unique" in again.stderr
    assert "tumors:        8" in run("index info", tmp_path / "index").output


def test_shipped_weights_need_no_model(folder, tmp_path):
    """Without --model the package's weights embed, index and answer; a frozen fit keeps their embeddings."""
    run("index build", folder / "archive.csv", "-o", tmp_path / "index", "--device cpu")
    scan, mask = folder / "s0_image.nii.gz", folder / "s0_mask.nii.gz"
    asked = ("--mask", mask, "--device cpu --keep-same -o", tmp_path / "near.csv")
    result = run("query", tmp_path / "index", scan, *asked)
    assert "s0_image/1" in result.output
    assert pd.read_csv(tmp_path / "near.csv")["distance"][0] == pytest.approx(0, abs=1e-4)
    frozen = (
        "--initial-weights default --freeze-backbone --max-epochs 1 --batches-per-epoch 1 --patch-size 32"
    )
    run("fit", folder / "archive.csv", "-o", tmp_path / "heads.safetensors", frozen, "--device cpu")
    run("embed", folder / "archive.csv", "-o", tmp_path / "a.npz", "--device cpu")
    model = ("--model", tmp_path / "heads.safetensors", "--device cpu")
    run("embed", folder / "archive.csv", *model, "-o", tmp_path / "b.npz")
    a, b = (load_embeddings(tmp_path / f"{name}.npz")[0] for name in "ab")
    np.testing.assert_array_equal(a, b)


def test_query_by_mask_finds_itself(folder, tmp_path):
    """Kept, the scan's own tumor is the nearest at distance 0, and marked; by default it is named only."""
    mask = ("--mask", folder / "s0_mask.nii.gz")
    told = ask(folder, *mask).output
    assert "\nNote: Left out, same scan as the query: s0/1." in told
    assert "of 5 neighbors, 5 patients" in told
    kept = ask(folder, *mask, "--keep-same -o", tmp_path / "near.csv").output
    assert "never counted" in kept and "of 4 neighbors, 4 patients" in kept
    near = pd.read_csv(tmp_path / "near.csv")
    assert near["rank"].tolist() == [1, 2, 3, 4, 5]
    assert near["tumor_id"][0] == "s0/1" and near["distance"][0] == pytest.approx(0, abs=1e-3)
    assert near["query_tumor_id"].tolist() == ["s0_image/1"] * 5
    ask(folder, *mask, "--patient-id patient-s0 --exclude same_patient -n 9 -o", tmp_path / "other.csv")
    assert "s0/1" not in pd.read_csv(tmp_path / "other.csv")["tumor_id"].tolist()
    ask(folder, *mask, "--case-id s0 --exclude same_case -n 9 -o", tmp_path / "case.csv")
    assert "s0/1" not in pd.read_csv(tmp_path / "case.csv")["tumor_id"].tolist()


def test_a_manifest_is_a_query_too(folder, tmp_path):
    """All tumors of a manifest are queries at once, each with its own patient left out."""
    result = ask(folder, "--exclude same_patient -n 2 -o", tmp_path / "near.csv", scan="archive.csv")
    near = pd.read_csv(tmp_path / "near.csv")
    assert len(near) == 12 and near["query_tumor_id"].nunique() == 6
    assert not (near["query_tumor_id"] == near["tumor_id"]).any() and "s5/1: " in result.output


def test_query_by_box_equals_query_by_mask(folder, tmp_path):
    """A box is all that an embedding needs: the answer is that of the mask, but for the measured size."""
    plain = ("--aspect", "embedding", "-o")
    ask(folder, "--mask", folder / "s1_mask.nii.gz", *plain, tmp_path / "mask.csv", scan="s1_image.nii.gz")
    archive = pd.read_csv(folder / "archive.csv").set_index("case_id").loc["s1"]
    box = " ".join(str(archive[name]) for name in ("x0", "y0", "z0", "x1", "y1", "z1"))
    ask(folder, "--box", box, *plain, tmp_path / "box.csv", scan="s1_image.nii.gz")
    by_mask, by_box = (pd.read_csv(tmp_path / name) for name in ("mask.csv", "box.csv"))
    assert by_mask["tumor_id"].tolist() == by_box["tumor_id"].tolist()
    np.testing.assert_allclose(by_mask["distance"], by_box["distance"], atol=1e-5)


def test_query_with_nothing_asks_the_model(folder):
    """Lesions are proposed, and said to be; where there are none that is an error of one line."""
    result = ask(folder, "--threshold 0 -n 2")
    assert "(proposed by the model), confidence" in result.output and "s0_image/1" in result.output
    assert "No verdict: " in result.output and "base rate" not in result.output
    accepted = ask(folder, "--threshold 0 -n 3 --accept 1").output
    assert "No verdict: " not in accepted and "base rate" in accepted
    nothing = ask(folder, "--threshold 1", code=2)
    assert (
        nothing.stderr.startswith("Error: The model proposes no lesion") and nothing.stderr.count("\n") == 1
    )


def test_query_conditions_hold(folder, tmp_path):
    """Only tumors that meet --where are returned; --show adds a column; --aspect adds its distance."""
    mask = ("--mask", folder / "s0_mask.nii.gz")
    where = "--where type=metastasis --where volume_mm3>=500"
    ask(folder, *mask, where, "--keep-same -o", tmp_path / "a.csv")
    found = pd.read_csv(tmp_path / "a.csv")
    archive = pd.read_csv(folder / "archive.csv")
    expected = archive[(archive["label_type"] == "metastasis") & (archive["volume_mm3"] >= 500)]
    assert set(found["tumor_id"]) == set(expected["tumor_id"])
    text = ask(folder, *mask, "--aspect type=1 --show visit -n 1").output
    assert "distance_type" in text and "2024-05" in text
    assert "No tumor of the archive meets" in ask(folder, *mask, "--where volume_mm3>1e9").output


def test_query_tells_closeness_votes_and_summary(folder):
    """Six patients are too few for a p-value; labels are counted, columns summarized, aspects worded."""
    mask = ("--mask", folder / "s0_mask.nii.gz")
    text = ask(folder, *mask, "--aspect size=1 --show volume_mm3,visit -n 4").output
    assert "Too few patients to say whether the nearest case is close." in text
    assert "type: no vote (neighbors are mixed); meningioma 2, metastasis 2 of 4 neighbors, 4 pat" in text
    assert "volume_mm3: median" in text and "visit: 2024-05 4 (n = 4)" in text
    assert "distance_size" in text and "nearer than random pairs" in text and "agrees" not in text
    text = ask(folder, *mask, "--alpha 0.5 -n 2 --exclude s0/1,s1/1").output
    assert ("of the tumors searched have" in text) != ("sual among the tumors searched" in text)
    assert "s0/1" not in text and "s1/1" not in text


def test_query_report_shows_the_neighbors(folder, tmp_path):
    """The answer sheet has three pictures for the query and each neighbor, from any folder."""
    ask(folder, "--mask", folder / "s0_mask.nii.gz", "-n 3 --report", tmp_path / "answer.html")
    page = (tmp_path / "answer.html").read_text()
    assert page.count("<image ") == 12 and page.count('class="outline"') == 12
    _, _, space = load_embeddings(folder / "archive.npz")
    assert space["fingerprint"][:12] in page and "Research use only" in page


def test_whole_heads_are_written_only_after_a_yes(folder, tmp_path):
    """--full asks; no, and no answer at all, leave nothing; yes writes the scan, and the page says so."""
    asked = ("--mask", folder / "s0_mask.nii.gz", "-n 1 --full --report", tmp_path / "answer.html")
    for answers in ("n\n", ""):
        assert "Whole heads show faces" in ask(folder, *asked, code=1, answers=answers).output
        assert not list(tmp_path.iterdir())
    ask(folder, *asked, answers="y\n")
    page = (tmp_path / "answer.html").read_text()
    assert "shows faces" in page and '"shape": [40, 44, 36]' in page


def test_evaluate_reads_embeddings_and_index(folder, tmp_path):
    """Both give one table, with chance and intervals, also as CSV."""
    by_file = run("evaluate", folder / "archive.npz", "--n-neighbors 1,3 -o", tmp_path / "knn.csv").output
    by_index = run("evaluate", folder / "index", "--n-neighbors 1,3").output
    assert by_file.startswith(by_index.rstrip("\n"))
    assert "6 of 6 tumors trained this model: these scores flatter. To measure on new patients" in by_index
    table = pd.read_csv(tmp_path / "knn.csv")
    assert {"type", "hemisphere", "log_volume"} <= set(table["task"]) and set(table["k"]) == {1, 3}


def test_segment_writes_a_mask_on_the_scans_grid(folder, tmp_path):
    """Shape and affine are the scan's; values are 0 and 1."""
    scan = folder / "s0_image.nii.gz"
    run("segment", scan, "--model", folder / "model.safetensors", "--threshold 0 -o", tmp_path / "m.nii.gz")
    (mask, affine), (image, expected) = load_image(tmp_path / "m.nii.gz"), load_image(scan)
    assert mask.shape == image.shape and set(np.unique(mask)) == {1}
    np.testing.assert_allclose(affine, expected, atol=1e-5)


def test_fit_resumes(folder, tmp_path):
    """A second run from the checkpoint ends with the fingerprint of the first."""
    common = (TRAINING, "--device cpu --checkpoint-dir", tmp_path / "run", "--resume")
    first = run("fit", folder / "archive.csv", "-o", tmp_path / "a.safetensors", *common).output
    second = run("fit", folder / "archive.csv", "-o", tmp_path / "b.safetensors", *common).output
    assert first.split("fingerprint ")[1].split(",")[0] == second.split("fingerprint ")[1].split(",")[0]


ASK = "query {f}/index {f}/s0_image.nii.gz --model {f}/model.safetensors"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("manifest {f}/gone.csv -o {t}/a.csv", "gone.csv"),
        ("manifest {f}/archive.csv -o {t}/a.csv", "is a manifest already"),
        ("fit {f}/scans.csv -o {t}/m.safetensors", "This is a scan table"),
        ("fit {f}/archive.csv -o {t}", "is a folder"),
        ("fit {f}/archive.csv -o {t}/m.safetensors --patch-size 30", "multiples of 4"),
        ("embed {f}/archive.csv --model {f}/gone.safetensors -o {t}/a.npz", "gone.safetensors"),
        ("embed {f}/archive.csv --model {f}/scans.csv -o {t}/a.npz", "scans.csv"),
        ("index build {f}/model.safetensors -o {t}/index", "is no embeddings file"),
        ("index build {f}/scans.csv -o {t}/index", "This is a scan table"),
        ("embed {f}/archive.csv --model t1c-v0 -o {t}/a.npz", "t1c-v0"),
        ("fit {f}/archive.csv -o {t}/m.safetensors --paper --initial-weights default", "Give one of them"),
        ("fit {f}/archive.csv -o {t}/m.safetensors --freeze-backbone", "'initial_weights'"),
        ("index build {f}/archive.npz -o {f}", "holds no tumorsim index"),
        ("index info {f}/gone", "does not exist"),
        ("evaluate {f}/gone.npz", "does not exist"),
        ("evaluate {f}/archive.npz --n-neighbors five", "whole numbers such as"),
        ("segment {f}/s0_image.nii.gz --model {f}/model.safetensors -o {t}/m.png", "must end in .nii"),
        ("query {f}/index {f}/gone.nii.gz --model {f}/model.safetensors --box 0 0 0 5 5 5", "gone.nii.gz"),
        (f"{ASK} --box 0 0 0 99 5 5", "inside the image"),
        (f"{ASK} --mask {{f}}/gone.nii.gz", "gone.nii.gz"),
        (f"{ASK} --exclude same_patient", "--patient-id"),
        (f"{ASK} --exclude same_case", "--case-id"),
        (f"{ASK} --exclude same_case --patient-id patient-s0", "--case-id"),
        (f"{ASK} --where type", "such as 'type=meningioma'"),
        (f"{ASK} --where volume_mm3>big", "holds numbers"),
        (f"{ASK} --where dose=1", "dose"),
        (f"{ASK} --show dose", "Got 'dose'"),
        (f"{ASK} --aspect type=x", "such as 'type=1'"),
        (f"{ASK} --report {{t}}", "is a folder"),
        (f"{ASK} --full", "Give --report too"),
        (f"{ASK} --mask {{f}}/s0_mask.nii.gz --exclude same_patent", "same_case, or tumor ids of the index"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, command, message):
    """Exit code 2, the reason in one line on stderr, no traceback, and no output file."""
    result = run(command.format(f=folder, t=tmp_path), code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_embeddings_of_another_model_are_refused(folder, tmp_path):
    """A model of another fingerprint can neither query the index nor add to it."""
    other = tmp_path / "other.safetensors"
    run("fit", folder / "archive.csv", "-o", other, TRAINING, "--device cpu --random-state 1")
    scan, mask = folder / "s0_image.nii.gz", folder / "s0_mask.nii.gz"
    result = run("query", folder / "index", scan, "--model", other, "--mask", mask, code=2)
    assert "come from different embedders" in result.stderr
    result = run("index add", folder / "index", folder / "archive.csv", "--model", other, code=2)
    assert "come from different embedders" in result.stderr


@pytest.mark.filterwarnings("default")
def test_bad_scans_are_listed_and_can_be_skipped(folder, tmp_path):
    """All bad rows are named at once; --skip-bad goes on without them and says so."""
    table = pd.read_csv(folder / "scans.csv")
    table.loc[1, "image"], table.loc[3, "mask"] = "gone.nii.gz", "gone_mask.nii.gz"
    table.to_csv(tmp_path / "scans.csv", index=False)
    command = ("manifest", tmp_path / "scans.csv", "-o", tmp_path / "archive.csv")
    result = run(*command, code=2)
    assert "line 3" in result.stderr and not (tmp_path / "archive.csv").exists()
    skipped = run(*command, "--skip-bad")
    assert "4 tumors in 4 scans" in skipped.output
    assert skipped.stderr.startswith("Warning: ") and "test_cli" not in skipped.stderr.splitlines()[0]


def test_debug_lets_the_traceback_through(folder):
    """With --debug the exception itself arrives."""
    result = CliRunner().invoke(app, ["--debug", "index", "info", str(folder / "gone")])
    assert isinstance(result.exception, FileNotFoundError)


def _names(group, prefix=()):
    """Yield the words of every command."""
    for name, command in group.commands.items():
        yield (*prefix, name)
        if hasattr(command, "commands"):
            yield from _names(command, (*prefix, name))


def test_every_command_teaches():
    """Help works for every command at 40 columns too, has an example each, and holds no escape codes."""
    import typer.main

    names = list(_names(typer.main.get_command(app)))
    assert {"demo", "manifest", "fit", "embed", "query", "evaluate", "segment"} <= {n[0] for n in names}
    assert {("index", "build"), ("index", "add"), ("index", "info")} <= set(names)
    for name in names:
        for columns in ("40", "100"):
            text = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": columns}).output
            assert "\x1b" not in text
            assert name == ("index",) or f"tumorsim {' '.join(name)}" in text.split("Example", 1)[1]


@pytest.mark.parametrize("group", ["", "index", "weights"])
def test_lists_of_commands_say_whole_sentences(group):
    """No command's summary is cut off."""
    listed = run(group, "--help").output.partition("Commands:")[2]
    assert len(listed.splitlines()) > 4 and "..." not in listed


def test_help_and_version_are_quick_and_light():
    """They import neither torch nor pandas nor Matplotlib."""
    code = (
        "import sys\nfrom tumorsim.cli import app\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code in (0, None)\n"
        "heavy = {'torch', 'pandas', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for option in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, option], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "tumorsim" in done.stdout or "Usage" in done.stdout


def test_entry_point_ends_with_two_and_no_escape_codes(folder):
    """As a program of its own: exit code 2, one line on stderr, nothing for a terminal only."""
    code = "from tumorsim.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "index", "info", str(folder / "gone")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("Error: Index")
        and "\x1b" not in done.stderr
        and "Traceback" not in done.stderr
    )


def test_a_terminal_that_lacks_signs_stops_nothing(folder):
    """Where text cannot be encoded its signs are replaced, and the command ends as ever."""
    code = "from tumorsim.cli import main; main()"
    words = [sys.executable, "-c", code, "weights", "path", "t1c-ä→"]
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(words, capture_output=True, env=env, check=False)
    assert done.returncode == 2 and "Got 't1c-ä?'".encode("latin-1") in done.stderr


def test_aspects_and_columns_are_pairs():
    """An aspect without a weight has 1, and a quoted column may hold a comma."""
    assert parse_aspects(["type=1", "region=0.5", "size"]) == {"type": 1.0, "region": 0.5, "size": 1.0}
    assert parse_aspects(["embedding"]) == "embedding" and parse_aspects([]) is None
    columns = parse_columns('patient_id=MRN,"label_type=Type, WHO"')
    assert columns == {"patient_id": "MRN", "label_type": "Type, WHO"} and parse_columns(None) is None
    for parse, bad in ((parse_aspects, ["type=much"]), (parse_columns, "image=a,image=b")):
        with pytest.raises(ValueError, match="Got"):
            parse(bad)


def test_conditions_take_the_columns_kind():
    """Numbers, text that looks like numbers, booleans, lists and ranges are told apart by the column."""
    table = pd.DataFrame(
        {"visit": ["1", "2"], "age": [1, 2], "proven": [True, False], "label_type": ["a", "b"]}
    )
    assert parse_where(["visit=1", "age>=1", "age<5"], table) == {
        "visit": ("==", "1"),
        "age": [(">=", 1.0), ("<", 5.0)],
    }
    assert parse_where(["proven=true", "type=a,b"], table) == {"proven": ("==", True), "type": ["a", "b"]}
    assert parse_where(["type="], table) == {"type": ("==", None)}
    assert parse_where(None, table) is None
    for bad in ("proven=perhaps", "age>1,2", "=3"):
        with pytest.raises(ValueError, match="Got"):
            parse_where([bad], table)
