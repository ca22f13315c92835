"""Read inputs damaged at random: each is read, or refused by an error of tumorsim that names the file."""

import contextlib
import importlib
import json
import logging
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tumorsim

from ._mutations import mutate

__all__ = ["Outcome", "Reader", "Session", "Tally", "all_readers", "memory_limit", "run_range"]

_PACKAGE = os.path.dirname(os.path.abspath(tumorsim.__file__)) + os.sep
_LONGEST = 3000  # characters of a message


@dataclass(frozen=True)
class Reader:
    """One reader and its true files.

    `seeds` writes true files below a folder and returns the paths that are read. A file directly in that
    folder stands alone; with a file in a subfolder goes all that lies there; a folder is read as a folder.
    `read` gets the path of a damaged copy. What it returns does not matter; its own asserts may say what
    must hold of a file that is accepted.
    """

    name: str
    seeds: Callable  # folder (Path) → list of Path
    read: Callable  # Path → anything
    words: tuple = ()  # bytes that the format knows
    extra: tuple = ()  # further mutations, (random.Random, bytes) → bytes
    needs: tuple = ()  # modules without which it cannot run
    seconds: float = 5.0  # of CPU time per input
    memory_mb: int = 400  # that one input may add at its peak
    ci: int = 200  # inputs in the test suite
    pending: str = ""  # defects that are known and not yet mended: the test may fail


@dataclass(frozen=True)
class Outcome:
    """What became of one input: ``accepted``, ``refused`` or the kind of a defect, and where it arose."""

    kind: str
    where: str = ""
    message: str = ""

    @property
    def defect(self):
        """Tell whether it is neither read nor refused as it should."""
        return self.kind not in ("accepted", "refused")


@dataclass(frozen=True)
class _Sample:
    """The bytes of one input: name below its folder → content; `entry` is read, '' is the folder."""

    files: dict
    entry: str


class _TooSlow(BaseException):
    """The time of one input is over."""


def all_readers():
    """Return name → `Reader` of every module ``readers_*`` beside this one."""
    package = __name__.rpartition(".")[0]
    names = [
        m.name for m in pkgutil.iter_modules([os.path.dirname(__file__)]) if m.name.startswith("readers_")
    ]
    found = [r for name in sorted(names) for r in importlib.import_module(f"{package}.{name}").READERS]
    return {reader.name: reader for reader in found}


class Session:
    """One reader with its true files in memory and a folder for damaged copies; input i depends on i only."""

    def __init__(self, reader, seed=0, folder=None):
        """Write the true files and read each of them once."""
        self.reader, self.seed = reader, seed
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._own = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix="faults-", dir=shm))
        origin = self.folder / "seeds"
        origin.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.samples = [_sample(Path(path), origin) for path in reader.seeds(origin)]
        shutil.rmtree(origin)
        for sample in self.samples:
            outcome = self.judge(sample)
            if outcome.kind != "accepted":
                self.close()
                raise AssertionError(f"A true file of '{reader.name}' is not read: {outcome}")

    def close(self):
        """Remove the folder."""
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def input(self, number):
        """Return the damaged sample of this number."""
        rng = random.Random(f"{self.reader.name}/{self.seed}/{number}")
        sample = rng.choice(self.samples)
        files = dict(sample.files)
        names = sorted(files)
        if len(names) > 1 and rng.random() < 0.1:
            one, other = rng.sample(names, 2)
            what = rng.randrange(3)
            if what == 0:
                del files[one]
            elif what == 1:
                files[one], files[other] = files[other], files[one]
            else:
                files[one] = b""
            return _Sample(files, sample.entry)
        for name in rng.sample(names, 1 + (len(names) > 1 and rng.random() < 0.2)):
            suffix = os.path.splitext(name)[1]
            donors = [
                content
                for other in self.samples
                for where, content in other.files.items()
                if where.endswith(suffix)
            ]
            donors = rng.sample(donors, min(len(donors), 6))
            files[name] = mutate(rng, files[name], donors, self.reader.words, self.reader.extra)
        return _Sample(files, sample.entry)

    def write(self, sample, folder):
        """Write a sample below an empty `folder`; returns the path to read."""
        for name, content in sample.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / sample.entry if sample.entry else folder

    def judge(self, sample):
        """Read a sample and return its `Outcome`."""
        folder = self.folder / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path = self.write(sample, folder)
        names = {path.name, *(os.path.basename(name) for name in sample.files)}
        before = _peak(reset=True)
        try:
            with _limits(self.reader.seconds):
                self.reader.read(path)
        except (Exception, _TooSlow) as err:
            outcome = _of_error(err, names)
        else:
            outcome = Outcome("accepted")
        grown = _peak() - before
        if grown > self.reader.memory_mb and not outcome.defect:
            return Outcome("memory", outcome.where or outcome.kind, f"{grown} MB, {outcome.message}")
        return outcome


def _sample(path, root):
    """Return the `_Sample` of a true file or folder."""
    if path.parent == root and path.is_file():
        return _Sample({path.name: path.read_bytes()}, path.name)
    top = root / path.relative_to(root).parts[0]
    files = {p.relative_to(top).as_posix(): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}
    entry = path.relative_to(top).as_posix()
    return _Sample(files, "" if entry == "." else entry)


@contextlib.contextmanager
def _limits(seconds):
    """Raise `_TooSlow` after so much CPU time, or twenty times as much of the clock."""

    def stop(number, frame):
        raise _TooSlow(f"more than {seconds} s")

    before = [(s, signal.signal(s, stop)) for s in (signal.SIGPROF, signal.SIGALRM)]
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
        logging.disable(level)


def _peak(reset=False):
    """Return the peak memory of this process in MB; with `reset`, from now on (Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (
            2**20 if sys.platform == "darwin" else 1024
        )


def _of_error(err, names):
    """Return the `Outcome` of an exception that reading files called `names` has raised."""
    frames = traceback.extract_tb(err.__traceback__)
    own = [f for f in frames if os.path.abspath(f.filename).startswith(_PACKAGE)]
    if isinstance(err, _TooSlow):
        frames = frames[:-1]  # the alarm's own
    last = own[-1] if own else frames[-1]
    place = f"{type(err).__name__} {os.path.basename(last.filename)}:{last.name}"
    message = str(err)
    raised_by_us = bool(frames) and frames[-1] in own
    if isinstance(err, _TooSlow):
        return Outcome("slow", place, message)
    if isinstance(err, OSError) and err.filename is not None:
        raised_by_us = True  # the system's own words, which name the file
    if not isinstance(err, ValueError | OSError) or not raised_by_us:
        foreign = f"{place} <- {os.path.basename(frames[-1].filename)}:{frames[-1].name}"
        return Outcome("traceback", foreign, message[:300])
    if not any(name in message for name in names):
        return Outcome("no file name", f"{place}:{last.lineno}", message[:300])
    if any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n" for c in message):
        return Outcome("control characters", f"{place}:{last.lineno}", repr(message[:300]))
    if len(message) > _LONGEST:
        return Outcome("long message", f"{place}:{last.lineno}", message[:300])
    return Outcome("refused", place, message[:300])


class Tally:
    """Counts of outcomes, kept in a file so that a run goes on where it stopped."""

    def __init__(self, reader, seed, path=None):
        """Read the file if it is there and of the same reader and seed."""
        self.path = None if path is None else Path(path)
        self.values = {"reader": reader, "seed": seed, "done": 0, "accepted": 0, "refused": 0, "defects": {}}
        if self.path is not None and self.path.exists():
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if (kept["reader"], kept["seed"]) != (reader, seed):
                raise ValueError(f"'{path}' is of reader {kept['reader']} and seed {kept['seed']}.")
            self.values = kept

    def add(self, number, outcome):
        """Count one outcome."""
        self.values["done"] = number + 1
        if not outcome.defect:
            self.values[outcome.kind] += 1
            return
        first = {"count": 0, "first": number, "message": outcome.message}
        entry = self.values["defects"].setdefault(f"{outcome.kind}: {outcome.where}", first)
        entry["count"] += 1

    def save(self):
        """Write the file, the old one or the new one at any time."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(self.path.name + ".new")
            temporary.write_text(json.dumps(self.values, indent=1), encoding="utf-8")
            os.replace(temporary, self.path)

    def __str__(self):
        """Return counts on one line, and a line for each kind of defect."""
        v = self.values
        n_defects = sum(entry["count"] for entry in v["defects"].values())
        lines = [f"{v['reader']}: {v['done']} inputs, {v['accepted']} accepted, {v['refused']} refused, "
                 f"{n_defects} defects of {len(v['defects'])} kinds (seed {v['seed']})"]  # fmt: skip
        for where, entry in sorted(v["defects"].items(), key=lambda item: -item[1]["count"]):
            lines.append(
                f"  {entry['count']:6d} x {where} (first: input {entry['first']}): {entry['message']!r}"
            )
        return "\n".join(lines)


def run_range(reader, stop, seed, tally, on_number=None, save_every=30.0):
    """Read the inputs from where `tally` stands up to `stop`."""
    session = Session(reader, seed)
    saved = time.monotonic()
    try:
        with memory_limit():
            for number in range(tally.values["done"], stop):
                if on_number is not None:
                    on_number(number)
                tally.add(number, session.judge(session.input(number)))
                if time.monotonic() - saved > save_every:
                    tally.save()
                    saved = time.monotonic()
    finally:
        tally.save()
        session.close()
    return tally


@contextlib.contextmanager
def memory_limit(gigabytes=3):
    """Refuse this process more address space than it has now and so much more, while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + gigabytes * 2**30, hard))
    except (OSError, ValueError):  # not Linux
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
