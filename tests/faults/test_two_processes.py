"""Several processes at once: one key file, one voxel cache, whatever else happens to their files."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

KEYS = """
import sys
from pathlib import Path
from tumorsim.manifest import Pseudonyms
folder = Path(sys.argv[1])
(folder / f"{sys.argv[2]}.ready").touch()
while len(list(folder.glob("*.ready"))) < int(sys.argv[3]):
    pass
for number in range(300):
    print(Pseudonyms.of_file(folder / f"{number}.key").patient("12345"))
"""

CACHE = """
import os, random, sys
import numpy as np
from pathlib import Path
from tumorsim import Case
from tumorsim.preprocessing import Preprocessing, VoxelCache
folder, role = Path(sys.argv[1]), sys.argv[2]
preprocessing, cache = Preprocessing(2.0), VoxelCache(folder, max_bytes=6000)
rng = np.random.default_rng(0)
cases = [Case((rng.random((16, 18, 20)), np.eye(4)), case_id=str(i), patient_id="p") for i in range(4)]
plain = [preprocessing.prepare_case(c).image for c in cases]
for i in range(150):
    if role == "removes":
        for file in folder.glob("[!.]*.npy"):
            if random.random() < 0.3:
                file.unlink(missing_ok=True)
    volume = preprocessing.prepare_case(cases[i % 4], cache=cache)
    assert np.array_equal(volume.image, plain[i % 4])
"""


def together(script, *arguments):
    """Run a script in several processes at once; returns what each prints."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    runs = [
        subprocess.Popen([*command, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for given in arguments
    ]
    done = [run.communicate(timeout=180) for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), "\n".join(errors for _, errors in done)
    return [text for text, _ in done]


def test_processes_that_make_one_key_agree(tmp_path):
    """Three imports that find no key file at the same moment get one key, one pseudonym per patient."""
    names = together(KEYS, *([str(tmp_path), str(n), "3"] for n in range(3)))
    assert names[0] == names[1] == names[2] and len(set(names[0].split())) == 300
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".key", ".ready", ".lock")]


def test_cache_serves_while_its_files_vanish(tmp_path):
    """Two processes read and write a cache that is too small while a third deletes files of it."""
    together(CACHE, [str(tmp_path), "reads"], [str(tmp_path), "reads"], [str(tmp_path), "removes"])
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
