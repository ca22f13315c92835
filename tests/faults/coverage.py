"""Damage one reader's files guided by coverage, with atheris.

Run ``python -m tests.faults.coverage READER -max_total_time=300`` in a clone. Further arguments are
libFuzzer's. A defect stops the run and leaves the input in a file ``crash-…``; the same command with its name
reads it again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers of the tests


def main():
    """Read what libFuzzer makes of the true files until its time is over or a defect is found."""
    import atheris  # not among the packages of the tests

    with atheris.instrument_imports(include=["tumorsim", "nrrd", "nibabel", "pydicom", "numpy.lib"]):
        from ._engine import Session, _Sample, all_readers

        session = Session(all_readers()[sys.argv.pop(1)])  # reads true files, so that lazy imports are done
    samples = session.samples
    corpus = Path(session.folder) / "corpus"
    corpus.mkdir()
    for number, sample in enumerate(samples):  # first byte: which sample; second: which of its files
        for place, name in enumerate(sorted(sample.files)):
            (corpus / f"{number}-{place}").write_bytes(bytes([number, place]) + sample.files[name])

    def read(data):
        if len(data) < 2:
            return
        sample = samples[data[0] % len(samples)]
        names = sorted(sample.files)
        files = sample.files | {names[data[1] % len(names)]: data[2:]}
        outcome = session.judge(_Sample(files, sample.entry))
        if outcome.defect:
            raise AssertionError(outcome)

    files = any(Path(one).is_file() for one in sys.argv[1:])
    atheris.Setup([*sys.argv, *([] if files else [str(corpus)]), "-rss_limit_mb=4096"], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
