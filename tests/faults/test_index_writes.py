"""Faults while an index is written or searched: the old or the new state is read, whatever fails."""

import errno
import io
import os
import stat
import time

import numpy as np
import pytest

from tumorsim import EmbeddingSpace, TumorIndex
from tumorsim.exceptions import IndexMismatchError
from tumorsim.index import _store

from ._disk import failing, no_room_after

SPACE = EmbeddingSpace("f")


def make_index(n, generation):
    """Return an index whose rows and metadata tell their generation."""
    table = {"tumor_id": [f"t{i}" for i in range(n)], "generation": [generation] * n}
    return TumorIndex().fit(np.full((n, 8), generation, dtype=float), metadata=table, space=SPACE)


def state_of(directory):
    """Return the generation that embeddings and metadata of a folder agree on, and check the folder."""
    TumorIndex.verify(directory)
    index = TumorIndex.load(directory)
    found = {*np.unique(index.embeddings_), *index.metadata_["generation"]}
    assert len(found) == 1
    return int(found.pop())


def names(directory):
    """Return the names of the files in a folder but the lock."""
    return sorted(entry.name for entry in directory.iterdir() if entry.name != _store.LOCK)


def change(how, directory):
    """Write generation 2: over the index, by an edit of it, or where nothing was before."""
    rows = make_index(500, 2)
    if how != "edit":
        rows.save(directory)
        return
    with TumorIndex.edit(directory) as index:
        index.update(rows.embeddings_, metadata=rows.metadata_)


@pytest.mark.parametrize("how", ["save", "edit", "new"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
@pytest.mark.parametrize("name", ["fsync", "replace", "open", "unlink", "chmod"])
def test_each_call_that_fails_leaves_the_old_index_or_the_new(tmp_path, monkeypatch, name, code, how):
    """Call after call of one kind fails: the error names the index, the next save goes well."""
    for at in range(1, 40):
        directory = tmp_path / f"index{at}"
        if how != "new":
            make_index(500, 1).save(directory)
        failed = False
        with monkeypatch.context() as patched:
            calls = failing(patched, name, at, code)
            try:
                change(how, directory)
            except (OSError, IndexMismatchError) as err:
                failed = True
                assert str(directory) in str(err)
        if how == "new" and failed and "manifest.json" not in names(directory):
            with pytest.raises((IndexMismatchError, FileNotFoundError)):
                TumorIndex.load(directory)
        else:
            assert state_of(directory) in ((1, 2) if failed else (2,))
        change(how, directory)
        assert state_of(directory) == 2
        assert len(names(directory)) == 3
        if len(calls) < at:
            return
    raise AssertionError("more calls than expected")


@pytest.mark.parametrize("how", ["save", "edit", "new"])
def test_a_full_disk_costs_no_index(tmp_path, how):
    """Wherever a write stops, the old index is read, no scraps are left, and the error names the file."""
    for size in (0, 1, 64, 200, 600, 1_000, 5_000, 16_000, 16_127):
        directory = tmp_path / f"index{size}"
        if how != "new":
            make_index(500, 1).save(directory)
        before = names(directory) if how != "new" else []
        with (
            pytest.raises(OSError, match=r"what it held before is whole.*(npy|npz|json)'$") as caught,
            no_room_after(size),
        ):
            change(how, directory)
        assert str(directory) in str(caught.value)
        assert names(directory) == before
        if how != "new":
            assert state_of(directory) == 1
        change(how, directory)
        assert state_of(directory) == 2


def test_leftovers_of_a_killed_writer_go_with_the_next(tmp_path):
    """Data files of a generation that no manifest names, and temporary ones, do not stay."""
    for directory, before in ((tmp_path / "index", True), (tmp_path / "new", False)):
        if before:
            make_index(3, 1).save(directory)
        directory.mkdir(exist_ok=True)
        for name in (
            "embeddings-7.npy",
            "metadata-7.npz",
            ".manifest.json-ab12cd34.json",
            ".embeddings-7.npy-x.npy",
        ):
            (directory / name).write_bytes(b"half")
        make_index(3, 2).save(directory)
        assert names(directory) == ["embeddings-8.npy", "manifest.json", "metadata-8.npz"]
        assert state_of(directory) == 2


def test_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    """Whatever the clock says: it jumps back between two saves, and an edit is no different."""
    contents = []
    for now in (time.time(), 1e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        monkeypatch.setattr(time, "time_ns", lambda now=now: int(now * 1e9))
        directory = tmp_path / f"index{now}"
        make_index(500, 1).save(directory)
        os.utime(directory / "manifest.json", (now, now))
        change("edit", directory)
        contents.append({name: (directory / name).read_bytes() for name in names(directory)})
        assert state_of(directory) == 2
    assert contents[0] == contents[1]
    with io.BytesIO() as file:
        np.save(file, make_index(500, 2).embeddings_)
        assert file.getvalue() == contents[0]["embeddings-2.npy"]


def test_files_keep_their_modes(tmp_path):
    """What is private stays so through save and edit, whatever the umask, which is never set."""
    directory = tmp_path / "index"
    make_index(3, 1).save(directory)
    for entry in directory.iterdir():
        entry.chmod(0o640 if entry.name != _store.LOCK else 0o600)
    make_index(500, 2).save(directory)
    with TumorIndex.edit(directory) as index:
        index.remove("t3")
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in directory.iterdir()}
    assert set(modes.values()) - {modes.pop(_store.LOCK, None)} == {0o640}, modes


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="this system has no links")
def test_no_link_leads_out_of_a_folder(tmp_path):
    """Files that are links to elsewhere, named pipes and a lock that is a link are refused, and untouched."""
    make_index(3, 1).save(tmp_path / "index")
    outside = tmp_path / "outside.npy"
    file = tmp_path / "index" / "embeddings-1.npy"
    outside.write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(outside)
    with pytest.raises(IndexMismatchError, match=r"embeddings-1\.npy is a link out of the folder"):
        TumorIndex.load(tmp_path / "index")
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(IndexMismatchError, match=r"embeddings-1\.npy is .* or no file"):
        TumorIndex.load(tmp_path / "index")
    (tmp_path / "other").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "other" / _store.LOCK).symlink_to(victim)
    with pytest.raises(OSError, match=_store.LOCK):
        make_index(3, 1).save(tmp_path / "other")
    assert victim.read_text() == "mine"
