"""Training: learning, reproducibility, interruption."""

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import cohort, scan, tiny

from tumorsim import Cohort
from tumorsim.exceptions import TrainingError
from tumorsim.training import Recipe
from tumorsim.training._checkpoint import CHECKPOINT, saved_seed
from tumorsim.training._loop import _learning_rate


@pytest.fixture(scope="module")
def tumors():
    """Four tumors of two types on two sides."""
    return cohort(4)


@pytest.fixture(scope="module")
def plain(tumors):
    """Return an embedder trained for a moment; tests must not change it."""
    return tiny().fit(tumors)


def assert_same_network(one, other):
    """Compare two embedders' tensors bit for bit."""
    first, second = (e.network_.state_dict() for e in (one, other))
    assert list(first) == list(second)
    for name in first:
        assert torch.equal(first[name], second[name]), name


def without_seconds(history):
    """Return a history without what the clock says."""
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


@pytest.mark.parametrize("architecture", ["fast", "paper"])
def test_loss_halves_on_four_tumors(tumors, architecture):
    """The network learns masks and labels of four tumors, each head its own."""
    embedder = tiny(
        architecture=architecture, patch_size=16, augment=False, lr=0.02, max_epochs=4, batches_per_epoch=15
    ).fit(tumors)
    first, last = embedder.history_[0], embedder.history_[-1]
    assert last["loss"] < first["loss"] / 2
    assert all(last[f"loss_{head}"] < first[f"loss_{head}"] for head in ("mask", "type", "hemisphere"))


def test_history_has_every_head(tumors):
    """One entry per epoch with loss, learning rate, time, and each head's loss; the sum fits."""
    embedder = tiny(max_epochs=3, task_weights={"mask": 2.0, "type": 0.5}).fit(tumors)
    assert [entry["epoch"] for entry in embedder.history_] == [1, 2, 3]
    for entry in embedder.history_:
        assert list(entry) == ["epoch", "lr", "loss", "loss_mask", "loss_type", "loss_hemisphere", "seconds"]
        expected = 2 * entry["loss_mask"] + 0.5 * entry["loss_type"] + entry["loss_hemisphere"] / 3
        assert_allclose(entry["loss"], expected, rtol=1e-5)
        assert entry["seconds"] > 0
    assert json.loads(json.dumps(embedder.history_)) == embedder.history_


def test_same_seed_same_embedding(tumors, plain):
    """The seed fixes the result, whatever the number of threads; another seed gives another."""
    assert_same_network(plain, tiny(n_jobs=3).fit(tumors))
    assert_array_equal(plain.transform(tumors), tiny().fit(tumors).transform(tumors))
    assert not np.allclose(plain.transform(tumors), tiny(random_state=1).fit(tumors).transform(tumors))


def test_callers_random_numbers_are_left_alone(tumors):
    """Neither torch's nor NumPy's global generator moves."""
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002, the global one
    tiny(max_epochs=1).fit(tumors)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def test_result_does_not_depend_on_the_callers_random_numbers(tumors):
    """Whatever was drawn before, the seed decides."""
    first = tiny(max_epochs=1).fit(tumors)
    torch.manual_seed(99)
    assert_same_network(first, tiny(max_epochs=1).fit(tumors))


RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from phantoms import cohort, tiny
tiny(max_epochs=3, batches_per_epoch=20, checkpoint_dir=sys.argv[2]).fit(cohort(4))
"""


def wait_for(path, process, seconds=90):
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_run_goes_on_bit_for_bit(tumors, tmp_path):
    """A run killed within an epoch and resumed equals one that was never interrupted."""
    run = subprocess.Popen([sys.executable, "-c", RUN, str(Path(__file__).parent), str(tmp_path)])
    try:
        wait_for(tmp_path / CHECKPOINT, run)
        time.sleep(0.05)  # into the next epoch
    finally:
        run.kill()
        run.wait()
    long = {"max_epochs": 3, "batches_per_epoch": 20}
    resumed = tiny(**long, checkpoint_dir=tmp_path, n_jobs=2)
    seconds = _epochs_in(tmp_path)
    assert 1 <= len(seconds) < 3
    resumed.fit(tumors, resume=True)
    assert [e["seconds"] for e in resumed.history_][: len(seconds)] == seconds  # these were not done again
    whole = tiny(**long).fit(tumors)
    assert_same_network(resumed, whole)
    assert without_seconds(resumed.history_) == without_seconds(whole.history_)
    assert resumed.space_ == whole.space_


def _epochs_in(directory):
    """Return the seconds of each epoch in a checkpoint."""
    from safetensors import safe_open

    with safe_open(directory / CHECKPOINT, framework="pt") as file:
        return [entry["seconds"] for entry in json.loads(file.metadata()["history"])]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_interrupted_run_goes_on_bit_for_bit(tumors, tmp_path, monkeypatch, interruptible, optimizer):
    """Ctrl-C within the third epoch costs that epoch only, with either optimizer."""
    options = {"optimizer": optimizer, "lr": 0.01, "max_epochs": 4, "batches_per_epoch": 25}
    steps, original = itertools.count(1), torch.Tensor.backward

    def backward(loss):
        original(loss)
        if next(steps) == 60:  # of 25 an epoch
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.Tensor, "backward", backward)
        tiny(**options, checkpoint_dir=tmp_path).fit(tumors)
    assert 2 <= len(_epochs_in(tmp_path)) < 4
    resumed = tiny(**options, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    assert_same_network(resumed, tiny(**options).fit(tumors))


def test_resume_with_nothing_there_begins(tumors, tmp_path):
    """An empty or missing folder is a beginning; a finished run is returned as it is."""
    options = {"checkpoint_dir": tmp_path / "new"}
    first = tiny(**options).fit(tumors, resume=True)
    again = tiny(**options).fit(tumors, resume=True)
    assert_same_network(first, again)
    assert again.history_ == first.history_  # seconds too: nothing was done again


def test_resume_without_a_folder_is_an_error(tumors):
    """Nothing can be resumed where nothing was written."""
    with pytest.raises(ValueError, match="'checkpoint_dir' must name a folder"):
        tiny().fit(tumors, resume=True)


def test_fit_without_resume_begins_anew(tumors, plain, tmp_path):
    """A checkpoint is only taken up when asked for."""
    tiny(checkpoint_dir=tmp_path, random_state=1).fit(tumors)
    assert_same_network(tiny(checkpoint_dir=tmp_path).fit(tumors), plain)


@pytest.fixture(scope="module")
def checkpoint(tumors, tmp_path_factory):
    """Return the checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    tiny(checkpoint_dir=folder, max_epochs=1).fit(tumors)
    return folder / CHECKPOINT


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": 0.01},
        {"n_channels": 12},
        {"random_state": 1},
        {"box_jitter": 0.0},
        {"max_epochs": 3},
        {"tumors": 1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_checkpoint_of_another_run_is_refused(tumors, tmp_path, checkpoint, changed):
    """Other parameters or tumors cannot go on from it."""
    shutil.copy(checkpoint, tmp_path)
    changed = dict(changed)
    others = cohort(3) if changed.pop("tumors", None) else tumors
    with pytest.raises(TrainingError, match=r"checkpoint\.safetensors' must come from the same tumors"):
        tiny(**({"checkpoint_dir": tmp_path, "max_epochs": 1} | changed)).fit(others, resume=True)


def test_damaged_checkpoint_is_named(tumors, tmp_path):
    """A file that is no checkpoint is an error with a remedy, not a fresh start."""
    (tmp_path / CHECKPOINT).write_bytes(b"nothing of use")
    with pytest.raises(TrainingError, match=r"is damaged.*Delete it"):
        tiny(checkpoint_dir=tmp_path).fit(tumors, resume=True)


def test_resume_without_a_seed_takes_the_runs_own(tumors, tmp_path):
    """With `random_state=None` a resumed run goes on with the seed that it had drawn."""
    first = tiny(random_state=None, checkpoint_dir=tmp_path).fit(tumors)
    again = tiny(random_state=None, checkpoint_dir=tmp_path).fit(tumors, resume=True)
    assert_same_network(first, again)
    assert isinstance(saved_seed(tmp_path), int)
    assert saved_seed(tmp_path / "none") is None


def test_loss_that_is_not_finite_names_the_scans(tumors):
    """Training that blows up stops at once and says on which cases."""
    with pytest.raises(TrainingError, match=r"must stay finite\. Got total nan.*of the cases s\d, s\d.*'lr'"):
        tiny(optimizer="sgd", lr=1e30, lr_schedule="milestones").fit(tumors)


def test_nan_of_the_last_step_is_noticed(tumors):
    """Weights ruined by the very last step never become an embedder."""
    embedder = tiny(lr=1e30, lr_schedule="milestones", max_epochs=1, batches_per_epoch=1)
    with pytest.raises(TrainingError, match="embeddings must be finite"):
        embedder.fit(tumors)
    assert not hasattr(embedder, "network_")


def test_learning_rate_of_the_paper():
    """0.1 up to epoch 90, then a tenth, and a hundredth from epoch 105 on."""
    paper = Recipe(lr=0.1, lr_schedule="milestones", lr_milestones=(90, 105), max_epochs=120)
    found = [_learning_rate(paper, epoch) for epoch in (0, 89.995, 90, 104.995, 105, 119.995)]
    assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_cosine_warms_up_and_ends_near_zero():
    """The rate climbs for a twentieth of the time, peaks at `lr`, and falls to nothing."""
    cosine = Recipe(lr=0.003, lr_schedule="cosine", lr_milestones=(), max_epochs=20)
    found = np.array([_learning_rate(cosine, epoch) for epoch in np.arange(0, 20, 0.01)])
    assert_allclose(found.max(), 0.003, rtol=1e-6)
    assert found.argmax() == 100
    assert (np.diff(found[100:]) <= 0).all() and (np.diff(found[:100]) >= 0).all()
    assert 0 < found[-1] < 1e-8 and found[0] == pytest.approx(0.0003)


def test_batch_norms_end_with_their_own_statistics(tumors):
    """In evaluation mode the network sees what it saw in training: features of the patches have its scale."""
    embedder = tiny(max_epochs=3).fit(tumors)
    norms = [m for m in embedder.network_.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert not embedder.network_.training
    assert {m.momentum for m in norms} == {0.1}
    assert {int(m.num_batches_tracked) for m in norms} == {10}


def test_scans_without_labels_and_masks_train_along():
    """Missing labels and masks in some scans leave the losses of the others."""
    tumors = [
        *cohort(3),
        *scan("bare", [("meningioma", (13, 18, 17), (3, 4, 3))], with_mask=False, labels=False),
    ]
    embedder = tiny(max_epochs=3, batch_size=1).fit(Cohort(tumors))
    assert set(embedder.history_[0]) >= {"loss_mask", "loss_type", "loss_hemisphere"}


def test_progress_shows_time_left_and_losses(tumors, capfd):
    """Without a terminal one line per epoch gives each head's loss and time left; verbose=0 is silent."""
    tiny(verbose=1).fit(tumors)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(re.search(r"loss [\d.]+, mask .*type .*hemisphere .*min left", line) for line in lines)
    tiny().fit(tumors)
    out, err = capfd.readouterr()
    assert out == err == ""
