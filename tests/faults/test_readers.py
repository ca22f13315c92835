"""Every reader reads a damaged file or refuses it by an error that names it: a few hundred inputs each."""

import importlib.util

import pytest

from ._engine import Session, Tally, all_readers, memory_limit

READERS = all_readers()


@pytest.mark.filterwarnings("ignore")  # files that libraries leave open
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name):
    """No traceback, no hang, no memory that grows; `python -m tests.faults` runs the same for long."""
    reader = READERS[name]
    for module in reader.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"'{module}' is not installed")
    session, tally = Session(reader), Tally(name, 0)
    try:
        with memory_limit():
            for number in range(reader.ci):
                tally.add(number, session.judge(session.input(number)))
    finally:
        session.close()
    if reader.pending and tally.values["defects"]:
        pytest.xfail(f"{reader.pending}\n{tally}")
    assert not tally.values["defects"], str(tally)
    assert tally.values["refused"] or reader.ci < 100  # mutations reach what is read


def test_an_input_depends_on_its_number_alone():
    """Input 7 is the same bytes in another session, whatever was drawn before; DICOM has new UIDs in each."""
    reader = READERS["nifti"]
    first, second = Session(reader), Session(reader)
    try:
        assert [first.input(n) for n in (3, 7)][1] == second.input(7)
        assert first.input(7) != first.input(8)
    finally:
        first.close()
        second.close()
