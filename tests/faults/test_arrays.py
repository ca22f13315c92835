"""Arrays on a full disk: no byte is lost without an error."""

import io

import numpy as np
import pytest

from tumorsim.io import write_array

from ._disk import no_room_after

MADE = np.arange(24).reshape(2, 3, 4)
ARRAYS = [
    MADE.astype(np.float32),
    MADE.T,
    MADE[:, ::2],
    MADE > 3,
    np.zeros((0, 4)),
    np.float16(2),
    MADE.astype(">f8"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_arrays_are_written_as_numpy_writes_them(array):
    """C and Fortran order, neither, none, scalars and foreign byte order: the same bytes."""
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_array(ours, array)
    np.save(theirs, array)
    assert ours.getvalue() == theirs.getvalue()


def test_the_last_byte_is_missed(tmp_path):
    """Where the disk is full just before the end of the array, writing fails."""
    array = np.ones((1000, 8), dtype=np.float32)
    for missing in (1, 100, 128, 129, 5_000, 32_000, 32_100):
        with pytest.raises(OSError), no_room_after(32_128 - missing), open(tmp_path / "a.npy", "wb") as file:
            write_array(file, array)
