"""Archives embedded by several processes, of this machine or of a Dask cluster, all of them real."""

import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import phantoms
import pytest
from archives import write_cohort
from numpy.testing import assert_array_equal
from test_cli import run

from tumorsim import Case, TumorEmbedder
from tumorsim.io import load_embeddings, save_nifti
from tumorsim.manifest import save_manifest
from tumorsim.retrieval import _workers as workers_module
from tumorsim.retrieval import embed_archive, embed_to_file

SMALL = {"spacing": 4.0, "n_channels": 8, "n_blocks": 1, "patch_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Return a cohort of six scans in files, its folder, and an embedder."""
    folder = tmp_path_factory.mktemp("workers")
    cohort = write_cohort(phantoms.cohort(6), folder)
    return cohort, folder, TumorEmbedder(random_state=0, **SMALL).initialize(cohort)


def test_workers_write_the_same_bytes(archive, tmp_path):
    """One process or two: the same bytes; by this process the same but for rounding."""
    cohort, _, embedder = archive
    for name, workers in (("none", None), ("one", 1), ("two", 2)):
        embed_to_file(embedder, cohort, tmp_path / f"{name}.npz", workers=workers)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    X, columns, _ = load_embeddings(tmp_path / "two.npz")
    np.testing.assert_allclose(X, load_embeddings(tmp_path / "none.npz")[0], rtol=1e-5)
    assert columns["tumor_id"] == cohort.tumor_ids.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.npz", "one.npz", "two.npz"]


def test_workers_leave_nothing_behind(archive, tmp_path):
    """The command with two workers says what it wrote; Python complains of no semaphore at its end."""
    cohort, folder, embedder = archive
    embedder.save(tmp_path / "model.safetensors")
    save_manifest(cohort, folder / "cohort.csv")
    words = ["embed", str(folder / "cohort.csv"), "--model", "model.safetensors", "-o", "rows.npz"]
    done = subprocess.run(
        [sys.executable, "-m", "tumorsim", *words, "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "6 tumors" in done.stdout + done.stderr
    assert "leaked" not in done.stderr and "Warning" not in done.stderr


def killing(function, pids, killed):
    """Return a generator function that kills a process of `pids()` once `function` has yielded once."""

    def generate(*arguments, **options):
        for done in function(*arguments, **options):
            if not killed:
                killed.append(pids()[0])
                os.kill(killed[0], signal.SIGKILL)
            yield done

    return generate


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start", "work"])
def test_share_of_a_killed_worker_is_done_again(archive, tmp_path, moment, monkeypatch):
    """A worker that is killed, as it starts or on the way, costs no row."""
    cohort, _, embedder = archive
    expected, _ = embed_archive(embedder, cohort, workers=1)
    killed, hire = [], workers_module._hire

    def kill_at_start(context, embedder):
        pipe, process = hire(context, embedder)
        if not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        return pipe, process

    def children():
        alive = multiprocessing.active_children()
        return [child.pid for child in alive if "Loky" not in type(child).__name__]  # those are joblib's

    if moment == "start":
        monkeypatch.setattr(workers_module, "_hire", kill_at_start)
    else:
        each = killing(workers_module._by_processes, children, killed)
        monkeypatch.setattr(workers_module, "_by_processes", each)
    X, _ = embed_archive(embedder, cohort, workers=2, partial_dir=tmp_path / "partial")
    assert killed and X.tobytes() == expected.tobytes()
    assert not children()


class Deadly:
    """An embedder whose process dies."""

    n_features_out_ = 8
    n_jobs = 1

    def transform(self, tumors):
        """Die as the kernel's killer of memory does it."""
        os._exit(9)


@pytest.mark.slow
def test_workers_that_always_die_are_an_error(archive):
    """It names scans and the remedy, and does not try for ever."""
    with pytest.raises(RuntimeError, match=r"Workers died 3 times, .*'s0'.*fewer --workers"):
        embed_archive(Deadly(), archive[0], workers=1)


@pytest.mark.slow
def test_done_scans_are_not_done_again(archive, tmp_path, monkeypatch):
    """What an interrupted run has done is read; only the rest goes to workers."""
    cohort, _, embedder = archive
    first = [t for t in cohort if t.case.case_id in ("s0", "s3")]
    folder = tmp_path / "partial"
    embed_archive(embedder, type(cohort)(first), partial_dir=folder, workers=1)
    done, each = [], workers_module._by_processes

    def noting(*arguments):
        for key, result in each(*arguments):
            done.append(cohort[key[0][0]].case.case_id)
            yield key, result

    monkeypatch.setattr(workers_module, "_by_processes", noting)
    X, _ = embed_archive(embedder, cohort, partial_dir=folder, workers=2)
    assert sorted(done) == sorted({case.case_id for case in cohort.cases} - {"s0", "s3"})
    assert X.tobytes() == embed_archive(embedder, cohort, workers=1)[0].tobytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default:1 scan could not be used:UserWarning")
@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_scans_with_damaged_voxels_are_set_aside(archive, tmp_path, workers):
    """With --skip-bad the others are embedded, and a list says which are not, and why."""
    cohort, _, embedder = archive
    cohort = write_cohort(phantoms.cohort(3), tmp_path)
    embedder.save(tmp_path / "model.safetensors")
    save_manifest(cohort, tmp_path / "archive.csv")
    image = Case(tmp_path / "s1_image.nii.gz", case_id="s1", patient_id="p")
    voxels = image.load_image().astype(np.float32)
    voxels[0, 0, 0] = np.nan  # the header is as good as before
    save_nifti(image.image, voxels, image.affine)
    command = ["embed", tmp_path / "archive.csv", "--model", tmp_path / "model.safetensors", *workers]
    command += ["--device cpu -o", tmp_path / "a.npz"]
    assert "'s1' must be finite" in run(*command, code=2).output
    output = run(*command, "--skip-bad").output
    assert "1 scan could not be used" in output and "a.npz.errors.txt" in output
    assert (tmp_path / "a.npz.errors.txt").read_text(encoding="utf-8").startswith("case 's1': The image of")
    kept = [tumor.tumor_id for tumor in cohort if tumor.case.case_id != "s1"]
    assert load_embeddings(tmp_path / "a.npz")[1]["tumor_id"] == kept


@pytest.mark.slow
def test_dask_gives_the_same_bytes_though_a_worker_is_killed(archive, tmp_path, monkeypatch):
    """A real cluster on loopback: rows, order and bytes of one worker, also when one of two is killed."""
    distributed = pytest.importorskip("distributed")
    cohort, _, embedder = archive
    embed_to_file(embedder, cohort, tmp_path / "one.npz", workers=1)
    monkeypatch.setattr(workers_module, "_DASK_SCANS", 1)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", silence_logs=50, **options) as cluster:
        embed_to_file(embedder, cohort, tmp_path / "dask.npz", dask=cluster.scheduler_address)
        killed, each = [], workers_module._by_dask
        monkeypatch.setattr(
            workers_module,
            "_by_dask",
            killing(each, lambda: [worker.process.pid for worker in cluster.workers.values()], killed),
        )
        embed_to_file(embedder, cohort, tmp_path / "killed.npz", dask=cluster.scheduler_address)
    assert killed
    one = (tmp_path / "one.npz").read_bytes()
    assert (tmp_path / "dask.npz").read_bytes() == one == (tmp_path / "killed.npz").read_bytes()


def test_partition_is_a_pure_function(archive):
    """What a worker computes depends on its part alone, and a bad scan of it is no reason to stop."""
    cohort, _, embedder = archive
    scans = [type(cohort)([t for t in cohort if t.case is case]) for case in cohort.cases]
    whole = workers_module.embed_scans(embedder, scans)
    for scan, rows in zip(scans, whole, strict=True):
        assert_array_equal(workers_module.embed_scans(embedder, [scan])[0], rows)
