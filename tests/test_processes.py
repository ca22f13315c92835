"""Training in several processes, started by torchrun on this machine, and in several parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from phantoms import cohort, scan, tiny

from tumorsim import Cohort, TumorEmbedder
from tumorsim.manifest import save_manifest
from tumorsim.nn import autocast, choose_device
from tumorsim.training._checkpoint import CHECKPOINT
from tumorsim.training._patches import PatchSampler
from tumorsim.training._samples import load_training_cases

ROOT = Path(__file__).parent.parent
MEETS = {"batch_size": 4, "lr": 0.0003}  # a higher rate amplifies rounding, in one process as well

SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from test_processes import mixed
from phantoms import tiny
from tumorsim.nn import process_rank
folder, options = sys.argv[2], json.loads(sys.argv[3])
embedder = tiny(cache_dir=folder + "/cache", checkpoint_dir=folder, **options).fit(mixed())
torch.save([embedder.network_.state_dict(), embedder.history_], f"{folder}/{process_rank()}.pt")
"""


def mixed():
    """Return four scans, of which one has neither mask nor labels."""
    lesion = ("meningioma", (13, 18, 17), (3, 4, 3))
    return Cohort([*cohort(3), *scan("bare", [lesion], with_mask=False, labels=False)])


def torchrun(*arguments, n_processes=2):
    """Run a script or module in processes that know of each other through the loopback device."""
    where = ["--standalone", "--nproc-per-node", str(n_processes)]
    command = [sys.executable, "-m", "torch.distributed.run", *where, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def in_processes(folder, **options):
    """Return state and history that each of two processes ends with."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    torchrun(script, ROOT / "tests", folder, json.dumps(options))
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def assert_close(first, second, **tolerance):
    """Compare two networks' tensors."""
    assert list(first) == list(second)
    for name in first:
        assert_allclose(first[name].numpy(), second[name].numpy(), err_msg=name, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [{}, {"mask_balance": 0.0, "contrastive": 0.5, "mask_dice": 0.0}])
def test_two_processes_take_the_step_of_one(tmp_path, recipe):
    """After one step of plain descent all weights are equal but for rounding, and in both processes."""
    options = {"optimizer": "sgd", "lr": 0.01, "batch_size": 4, "max_epochs": 1, "batches_per_epoch": 1}
    (first, history), (second, _) = in_processes(tmp_path, **options, **recipe)
    assert_close(first, second, rtol=0)
    one = tiny(**options, **recipe).fit(mixed())
    learned = {name for name, _ in one.network_.named_parameters()}
    assert_close(
        {name: value for name, value in first.items() if name in learned},
        {name: value for name, value in one.network_.state_dict().items() if name in learned},
        rtol=0, atol=2e-6,  # of float32 sums in another order
    )  # fmt: skip
    assert_allclose(history[0]["loss"], one.history_[0]["loss"], rtol=1e-6)


@pytest.mark.slow
def test_two_processes_reach_the_loss_of_one_and_either_goes_on(tmp_path):
    """Twenty steps agree to a thousandth; the one checkpoint is resumed by one process."""
    (_, history), (_, other) = in_processes(tmp_path, **MEETS, max_epochs=4, batches_per_epoch=5)
    one = tiny(**MEETS, max_epochs=4, batches_per_epoch=5).fit(mixed())
    for entry, same, expected in zip(history, other, one.history_, strict=True):
        assert entry["loss"] == same["loss"]
        assert_allclose(entry["loss"], expected["loss"], rtol=1e-3)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [CHECKPOINT]
    options = {"max_epochs": 4, "batches_per_epoch": 5, "checkpoint_dir": tmp_path}
    again = tiny(**MEETS, **options).fit(mixed(), resume=True)
    assert again.history_ == history


@pytest.mark.slow
def test_command_line_under_torchrun_writes_once(tmp_path):
    """The command fits in two processes, and one of them writes model and tables and talks."""
    archive, model = tmp_path / "archive.csv", tmp_path / "model.safetensors"
    save_manifest(_on_disk(tmp_path), archive)
    options = {"--batch-size": 4, "--accumulate": 2, "--hold-out": 0.25, "--cache-dir": tmp_path / "cache"}
    options |= {"--max-epochs": 1, "--batches-per-epoch": 2, "--spacing": 2, "--patch-size": 24}
    options |= {"--n-channels": 8, "--n-blocks": 1, "--precision": "mixed", "--device": "cpu"}
    words = [word for pair in options.items() for word in pair]
    done = torchrun("-m", "tumorsim", "fit", archive, "-o", model, *words)
    assert done.stdout.count("Wrote model-trained.csv") == 1
    assert done.stdout.count(f"Wrote {model}") == 1
    assert TumorEmbedder.load(model).history_[0]["epoch"] == 1


def _on_disk(folder):
    """Return four simulated scans that were written as files."""
    from tumorsim import make_cohort

    return make_cohort(4, random_state=0, spacing=4.0, output_dir=folder / "scans")


@pytest.mark.slow
def test_batch_that_cannot_be_shared_is_an_error(tmp_path):
    """Three patches for two processes are refused in words."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with pytest.raises(AssertionError, match=r"'batch_size' must be a multiple .* Got 3, 1 and 2"):
        torchrun(tmp_path / "script.py", ROOT / "tests", tmp_path, '{"batch_size": 3}')


def test_parts_of_a_batch_must_be_equal():
    """Patches that do not go into equal parts are refused."""
    with pytest.raises(ValueError, match="'batch_size' must be a multiple of 'accumulate'"):
        tiny(batch_size=3, accumulate=2).fit(cohort(4))


@pytest.mark.parametrize("n_shares", [2, 6])
def test_shares_of_a_batch_are_its_patches_once_each(n_shares):
    """All shares side by side are the whole batch, bit for bit, whatever is drawn to change the look."""
    embedder = tiny(batch_size=6)
    plan = embedder._plan(mixed(), None, 0, None)
    cases = load_training_cases(plan.tumors, plan.codes, plan.preprocessing, cache=None, n_jobs=1, verbose=0)

    def sampler(n):
        return PatchSampler(
            cases, plan.classes, patch_shape=(24, 24, 24), batch_size=6, augment=True, box_jitter=0.1,
            random_state=0, n_shares=n,
        )  # fmt: skip

    for number in range(8):
        whole = sampler(1).batch(number)
        parts = [sampler(n_shares).batch(number, share) for share in range(n_shares)]
        for name in ("image", "mask", "mask_known", "labels"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
        assert_array_equal([box for part in parts for box in part.boxes], whole.boxes)
        index = [i + n * 6 // n_shares for n, part in enumerate(parts) for i in part.index]
        assert_array_equal(index, whole.index)
        assert sum((part.case_ids for part in parts), ()) == whole.case_ids


def test_accumulated_gradients_are_the_mean_of_the_parts(monkeypatch):
    """A step in two parts is plain descent along the mean of the two parts' gradients."""
    steps = []
    monkeypatch.setattr(
        torch.optim.SGD,
        "step",
        lambda self: steps.append([p.grad.clone() for p in self.param_groups[0]["params"]]),
    )
    options = {"optimizer": "sgd", "lr": 1.0, "max_epochs": 1, "batches_per_epoch": 1, "augment": False}
    options |= {"gradient_clip": 1e9, "box_jitter": 0.0, "tasks": []}
    tumors = cohort(1)  # every patch is the whole scan
    tiny(**options, batch_size=1, patch_size=(40, 44, 36)).fit(tumors)
    tiny(**options, batch_size=2, patch_size=(40, 44, 36), accumulate=2).fit(tumors)
    for one, two in zip(*steps, strict=True):
        assert_allclose(two, one, rtol=1e-5, atol=1e-7)


def test_mixed_precision_is_for_cuda_only():
    """Where there is no CUDA device "mixed" computes in float32, and trains the same network."""
    with autocast(choose_device("cpu"), "mixed"):
        assert not torch.is_autocast_enabled("cpu")
    with autocast(choose_device("cpu"), "bfloat16"):
        assert torch.is_autocast_enabled("cpu")
    both = [tiny(precision=precision, max_epochs=1).fit(cohort(4)) for precision in ("mixed", "float32")]
    assert_close(*(embedder.network_.state_dict() for embedder in both), rtol=0)


def test_python_m_tumorsim_is_the_command_line():
    """The module runs as the script does."""
    done = subprocess.run([sys.executable, "-m", "tumorsim", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("tumorsim ")
