"""The examples run as they are written."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_find_similar_example_leaves_its_picture(tmp_path):
    """The first example ends without an error, names neighbors and writes their picture."""
    script = EXAMPLES / "plot_01_find_similar.py"
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "label_type" in result.stdout
    assert (tmp_path / "neighbors.png").stat().st_size > 10_000
