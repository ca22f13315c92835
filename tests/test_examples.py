"""The examples run as they are written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_find_similar_example_runs(tmp_path):
    """The first example ends without an error and names neighbors; the docs' build runs the others."""
    script = EXAMPLES / "plot_01_find_similar.py"
    result = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "label_type" in result.stdout
    assert not list(tmp_path.iterdir())
