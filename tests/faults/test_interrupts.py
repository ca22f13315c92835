"""Ctrl-C in the middle of a long command: exit code 130, no half file, words how to go on, and it goes on."""

import functools
import json
import os
import re
import subprocess
import sys
import textwrap

import phantoms
import pytest
from archives import write_cohort, write_scan_table

pytestmark = pytest.mark.slow

TRAINING = "--max-epochs 3 --batches-per-epoch 4 --batch-size 2 --patch-size 32 --n-channels 8 --n-blocks 1"

# The command line, which gets SIGINT when it does `event` on a path that holds `pattern`, the n-th time.
_STOPPED = """
import atexit, json, os, signal, sys
event, pattern, times, words = json.loads(sys.argv[1])
seen = 0
def stop(name, args):
    global seen
    if name == event and any(pattern in str(a) for a in args[:2]):
        seen += 1
        if seen == times:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(stop)
atexit.register(lambda: print("seen", seen))
from tumorsim.cli import main
sys.argv = ["tumorsim", *words]
main()
"""


def command(folder, words, *, event="", pattern="", times=0):
    """Run a command in `folder`, stopped at an event; returns the finished process."""
    given = json.dumps([event, pattern, times, words.split()])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_STOPPED), given],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def content(folder):
    """Return path → bytes of all that lies below a folder, without the voxel cache and locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """Return a folder with scans, their table, an archive, a model, embeddings and an index."""
    folder = tmp_path_factory.mktemp("origin")
    write_scan_table(write_cohort(phantoms.cohort(6), folder), folder / "scans.csv")
    for words in (
        "manifest scans.csv -o archive.csv",
        f"fit archive.csv -o model.safetensors --device cpu {TRAINING}",
        "embed archive.csv --model model.safetensors --device cpu -o archive.npz",
        "index build archive.npz -o index",
    ):
        done = command(folder, words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function: exit code and files of a command that is not stopped."""

    @functools.cache
    def run(words):
        folder = tmp_path_factory.mktemp("whole")
        (folder / "out").mkdir()
        return command(folder, words).returncode, frozenset(content(folder / "out"))

    return run


MODEL = "--model {origin}/model.safetensors --device cpu"
PLACES = "places {origin}/archive.csv -o out/placed.csv --min-quality 0"
FIT = f"fit {{origin}}/archive.csv -o out/model.safetensors --device cpu {TRAINING}"
EMBED = f"embed {{origin}}/archive.csv {MODEL} -o out/archive.npz"
EVALUATE = "evaluate {origin}/archive.npz -o out/knn.csv"
BUILD = "index build {origin}/archive.npz -o out/index"
SEGMENT = f"segment {{origin}}/s0_image.nii.gz -o out/mask.nii.gz {MODEL}"

# name → (command, what it does when it is stopped, part of the path, which time)
CASES = {
    "manifest reads scans": ("manifest {origin}/scans.csv -o out/a.csv", "open", "_mask.nii.gz", 4),
    "manifest puts its table": ("manifest {origin}/scans.csv -o out/a.csv", "os.rename", "a.csv", 1),
    "check reads scans": ("check {origin}/archive.csv -o out/found.csv", "open", "_image.nii.gz", 4),
    "fit reads scans": (FIT, "open", "_image.nii.gz", 4),
    "fit writes a checkpoint": (FIT + " --checkpoint-dir out/run", "os.rename", "out/run", 2),
    "fit puts its model": (FIT, "os.rename", "model.safetensors", 1),
    "embed reads scans": (EMBED, "open", "_image.nii.gz", 4),
    "embed puts its file": (EMBED, "os.rename", "archive.npz", 1),
    "index build writes": (BUILD, "open", "out/index", 3),
    "index build puts its manifest": (BUILD, "os.rename", "manifest.json", 1),
    "evaluate puts its table": (EVALUATE, "os.rename", "knn.csv", 1),
    "segment reads the scan": (SEGMENT, "open", "s0_image.nii.gz", 1),
    "segment puts its mask": (SEGMENT, "os.rename", "mask.nii.gz", 1),
    "places registers": (PLACES, "open", "_image.nii.gz", 3),
    "places puts its table": (PLACES, "os.rename", "placed.csv", 1),
    "demo writes": ("demo --out out/demo --n-patients 8 --n-jobs 1", "open", "out/demo", 3),
}


@pytest.mark.parametrize("name", CASES)
def test_stopped_command_leaves_nothing_half_done(name, origin, whole, tmp_path):
    """It ends with 130 and says how to go on; what is there is whole; the same command then does it all."""
    words, event, pattern, times = CASES[name]
    words = words.format(origin=origin)
    (tmp_path / "out").mkdir()
    stopped = command(tmp_path, words, event=event, pattern=pattern, times=times)
    assert stopped.returncode == 130, (stopped.returncode, stopped.stdout, stopped.stderr)
    assert "Traceback" not in stopped.stderr
    assert re.search(r"(?i)stopped|interrupted", stopped.stderr), stopped.stderr
    assert re.search(r"(?i)again|goes on|go on|resume", stopped.stderr), stopped.stderr
    left = content(tmp_path / "out")
    outputs = {
        "a.csv",
        "found.csv",
        "model.safetensors",
        "archive.npz",
        "knn.csv",
        "mask.nii.gz",
        "placed.csv",
    }
    assert not outputs & set(left), "a file of the result is there though the command was stopped"
    hidden = [path for path in left if os.path.basename(path).startswith(".")]
    assert not hidden, hidden

    again = command(tmp_path, words)
    code, expected = whole(words)
    assert again.returncode == code, again.stderr
    assert set(content(tmp_path / "out")) == expected


@pytest.mark.parametrize("words", [PLACES, EMBED], ids=["places", "embed"])
def test_a_stopped_run_goes_on_where_it_was(words, origin, tmp_path):
    """What was done before Ctrl-C is not done again: the second run keeps fewer scans than a whole one."""
    (tmp_path / "out").mkdir()
    kept = []
    for stop in (4, 0):
        done = command(
            tmp_path, words.format(origin=origin), event="os.rename", pattern=".partial", times=stop
        )
        assert done.returncode == (130 if stop else 0), done.stderr
        kept.append(int(done.stdout.rpartition("seen")[2]))
    assert kept == [4, 6 - 3]
