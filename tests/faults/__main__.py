"""Run the faults of one reader for long, in a process of its own, resumably; or show one input."""

import argparse
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers of the tests

from ._engine import Outcome, Session, Tally, all_readers, memory_limit, run_range

_HANGS = 60  # times the limit of an input after which the process is stopped from outside


def _work(reader, stop, seed, state, current):
    """Read inputs in this process; `current` holds the number of the one in hand and when it began."""

    def note(number):
        current[:16] = struct.pack("<qd", number, time.time())

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_range(reader, stop, seed, Tally(reader.name, seed, state), note)


def _run(reader, n, seed, state):
    """Read `n` inputs; a process that dies or hangs is a defect of the input that it had in hand."""
    current = mmap.mmap(-1, 16)
    while True:
        tally = Tally(reader.name, seed, state)
        if tally.values["done"] >= n:
            return tally
        current[:16] = struct.pack("<qd", -1, time.time())
        process = multiprocessing.get_context("fork").Process(
            target=_work, args=(reader, n, seed, state, current)
        )
        process.start()
        while process.is_alive():
            process.join(2.0)
            number, began = struct.unpack("<qd", current[:16])
            if number >= 0 and time.time() - began > _HANGS * reader.seconds:
                process.kill()
        if process.exitcode == 0:
            continue
        number, _ = struct.unpack("<qd", current[:16])
        if number < 0 or process.exitcode > 0:
            sys.exit(f"The run of '{reader.name}' stopped with exit code {process.exitcode}.")
        tally = Tally(reader.name, seed, state)
        for again in range(tally.values["done"], number):  # those since the file was last written
            session = Session(reader, seed)
            tally.add(again, session.judge(session.input(again)))
            session.close()
        tally.add(number, Outcome("crash", signal.Signals(-process.exitcode).name))
        tally.save()


def _show(reader, number, seed, folder):
    """Write one input below `folder`, read it, and print what happens."""
    session = Session(reader, seed)
    sample = session.input(number)
    with memory_limit():
        print(session.judge(sample))
    target = Path(folder or f"fault-{reader.name}-{number}")
    target.mkdir(parents=True, exist_ok=True)
    path = session.write(sample, target)
    session.close()
    print(f"written: {path}")
    try:
        with memory_limit():
            print(type(reader.read(path)))
    except Exception:
        traceback.print_exc()


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    readers = all_readers()
    parser.add_argument("reader", choices=[*readers, "list"])
    parser.add_argument("--n", type=int, default=1000, help="inputs in all, those of earlier runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--state", help="file that keeps the counts; a run with it goes on where the last stopped"
    )
    parser.add_argument(
        "--show", type=int, metavar="NUMBER", help="write and read one input, with its traceback"
    )
    parser.add_argument("--out", help="folder for --show")
    given = parser.parse_args()
    if given.reader == "list":
        print("\n".join(readers))
        return
    reader = readers[given.reader]
    if given.show is not None:
        _show(reader, given.show, given.seed, given.out)
        return
    state = given.state or f"/tmp/faults-{os.getpid()}.json"
    print(_run(reader, given.n, given.seed, state))
    if given.state is None:
        os.unlink(state)


if __name__ == "__main__":
    main()
