"""Each write, fsync and rename of models and checkpoints fails in turn: the old or the new state is read."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from phantoms import cohort, tiny

from tumorsim import TumorEmbedder
from tumorsim.exceptions import TrainingError, WeightsError
from tumorsim.training._checkpoint import CHECKPOINT

from ._disk import failing, no_room_after

OPTIONS = {"n_channels": 4, "patch_size": 8, "max_epochs": 3, "batches_per_epoch": 1}


@pytest.fixture(scope="module")
def tumors():
    """Three tumors."""
    return cohort(3)


@pytest.fixture(scope="module")
def fitted(tumors):
    """Return two embedders, each trained for a moment."""
    return [tiny(**OPTIONS, random_state=seed).fit(tumors) for seed in (0, 1)]


def only(folder, *names):
    """Check that a folder holds these files, and locks."""
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == sorted(names)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_disk_that_is_full_costs_no_model(fitted, tmp_path, share):
    """Wherever a write stops, the old model is read, no scraps are left, and the error names the file."""
    path = tmp_path / "model.safetensors"
    fitted[0].save(path)
    size = int(share * path.stat().st_size)
    with pytest.raises(OSError, match=r"model\.safetensors' could not be written whole .*unchanged"):
        with no_room_after(size):
            fitted[1].save(path)
    assert TumorEmbedder.load(path, device="cpu").fingerprint_ == fitted[0].fingerprint_
    only(tmp_path, path.name)


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_model_that_cannot_be_synced_or_renamed(fitted, tmp_path, monkeypatch, name):
    """The old model is read, and no scraps are left."""
    path = tmp_path / "model.safetensors"
    fitted[0].save(path)
    with monkeypatch.context() as patched:
        failing(patched, name, 1)
        with pytest.raises(OSError, match=r"could not be written whole \(No space left on device"):
            fitted[1].save(path)
    assert TumorEmbedder.load(path, device="cpu").fingerprint_ == fitted[0].fingerprint_
    only(tmp_path, path.name)


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_checkpoint_that_cannot_be_written(fitted, tumors, tmp_path, monkeypatch, name, at):
    """The error says how to go on; the epoch before is kept, and resumed it is the same network."""
    with monkeypatch.context() as patched:
        failing(patched, name, at)
        with pytest.raises(TrainingError, match=rf"epoch {at} cannot be written: .*\(No space.*--resume"):
            tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors)
    only(tmp_path, *([CHECKPOINT] if at > 1 else []))
    resumed = tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    assert resumed.fingerprint_ == fitted[0].fingerprint_


def test_disk_that_is_full_costs_no_checkpoint(fitted, tumors, tmp_path):
    """A write that stops midway leaves the checkpoint of the epoch before."""
    tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingError, match="epoch 1 cannot be written"):
        with no_room_after(len(before) // 2):
            tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    resumed = tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    assert resumed.fingerprint_ == fitted[0].fingerprint_


RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from phantoms import cohort, tiny
if len(sys.argv) > 3:  # die just before this call of os.replace or os.fsync
    name, at = sys.argv[3], int(sys.argv[4])
    original, calls = getattr(os, name), []
    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            os.kill(os.getpid(), 9)
        return original(*args, **kwargs)
    setattr(os, name, call)
epochs = 3 if len(sys.argv) > 3 else 10_000
options = {"n_channels": 4, "patch_size": 8, "max_epochs": epochs, "batches_per_epoch": 1}
tiny(**options, checkpoint_dir=sys.argv[2]).fit(cohort(3))
"""


def run(folder, *words):
    """Start a run of its own with checkpoints in `folder`."""
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), str(folder), *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_next_run_removes_what_a_killed_one_left(fitted, tumors, tmp_path, name):
    """A run killed while it writes leaves the old checkpoint and a scrap, which the next run removes."""
    killed = run(tmp_path, name, 2)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len([p for p in tmp_path.iterdir() if p.name.startswith(f".{CHECKPOINT}-")]) == 1
    resumed = tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    assert resumed.fingerprint_ == fitted[0].fingerprint_
    only(tmp_path, CHECKPOINT)


def test_one_run_at_a_time_writes_checkpoints(tumors, tmp_path):
    """A second run is refused before it reads a scan; an interrupt ends the first and says how to go on."""
    first = run(tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / CHECKPOINT).is_file():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(TrainingError, match="Another run is writing its checkpoints"):
            tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors)
        first.send_signal(signal.SIGINT)
        _, printed = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert "Training was stopped after" in printed and "fit again with resume=True (--resume)" in printed
    only(tmp_path, CHECKPOINT)


@pytest.mark.slow
def test_interrupted_command_leaves_its_checkpoint_and_says_how_to_go_on(tumors, tmp_path):
    """Ctrl-C in `tumorsim fit`: exit code 130, no model, no scraps, and the same command resumes."""
    from tumorsim.io import save_nifti
    from tumorsim.manifest import build_manifest

    rows = ["patient_id,case_id,image,mask,label_type"]
    for case, kind in zip(tumors.cases, ("a", "b", "a"), strict=True):
        for name in ("image", "mask"):
            save_nifti(tmp_path / f"{case.case_id}-{name}.nii.gz", *getattr(case, name))
        files = f"{case.case_id}-image.nii.gz,{case.case_id}-mask.nii.gz"
        rows.append(f"{case.patient_id},{case.case_id},{files},{kind}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    build_manifest(tmp_path / "scans.csv", tmp_path / "archive.csv")
    words = ["fit", "archive.csv", "-o", "model.safetensors", "--checkpoint-dir", "run", "--device", "cpu"]
    words += ["--spacing", "3", "--patch-size", "8", "--n-channels", "4", "--n-blocks", "1"]
    words += ["--batches-per-epoch", "1", "--max-epochs", "300"]

    def started(*more):
        command = [sys.executable, "-c", "from tumorsim.cli import main; main()", *words, *more]
        return subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=subprocess.STDOUT, text=True)

    first = started()
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / CHECKPOINT).is_file():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    printed, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "Traceback" not in printed
    assert "of 300 epochs, which 'run' keeps" in printed and "--resume" in printed
    assert not (tmp_path / "model.safetensors").exists()
    only(tmp_path / "run", CHECKPOINT)
    again = started("--resume")
    printed, _ = again.communicate(timeout=300)
    assert again.returncode == 0, printed
    assert len(TumorEmbedder.load(tmp_path / "model.safetensors").history_) == 300


def test_a_changed_number_in_a_checkpoint_is_noticed(tumors, tmp_path):
    """One flipped bit anywhere, in tensors or in the history, is a damaged checkpoint."""
    tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors)
    path = tmp_path / CHECKPOINT
    whole = bytearray(path.read_bytes())
    header = int.from_bytes(whole[:8], "little")
    for place in (whole.index(b'\\"loss\\":') + 12, header + 16, len(whole) - 3):
        changed = whole.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(TrainingError, match=r"is damaged: .*Delete it"):
            tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    path.write_bytes(whole)
    tiny(**OPTIONS, checkpoint_dir=tmp_path).fit(tumors, resume=True)


def test_sizes_that_a_model_claims_take_no_memory(fitted, tmp_path):
    """Channels and blocks beyond the file's own tensors are refused before anything is built."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    for key, value in (("n_channels", 10**6), ("n_blocks", 10**9), ("n_blocks", -1), ("n_channels", 0.5)):
        fitted[0].save(path)
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {k: file.get_tensor(k).clone() for k in file.keys()}, file.metadata()
        config = json.loads(metadata["config"])
        config["architecture"][key] = value
        empty = {"far": torch.empty((10**9, 0))}  # a large side in no bytes
        save_file(tensors | empty, path, metadata=metadata | {"config": json.dumps(config)})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(WeightsError, match=r"model\.safetensors' is damaged or not a model file"):
            TumorEmbedder.load(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipe_is_no_model(tmp_path):
    """It is refused; opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="pipe' is damaged or not a model file: it is no regular file"):
        TumorEmbedder.load(tmp_path / "pipe")
