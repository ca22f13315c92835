"""Embeddings of a stored scan by the shipped weights stay what they are, on every version of every library.

The scan is `make_cohort(1, random_state=9, spacing=3.0)`, rounded to 8 bits.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorsim import Case, Cohort, Tumor, TumorEmbedder

FOLDER = Path(__file__).parent / "data" / "reference"
STORED = json.loads((FOLDER / "embeddings.json").read_text(encoding="utf-8"))


def tumors():
    """Return the tumors of the stored scan."""
    case = Case(FOLDER / "scan.nii.gz", None, case_id="reference", patient_id="reference")
    return Cohort(
        Tumor(case, np.array(box), tumor_id=f"reference/{i}") for i, box in enumerate(STORED["boxes"])
    )


@pytest.mark.parametrize("name", STORED["embeddings"])
def test_embeddings_are_those_that_are_stored(name):
    """Within 1e-4 of their norm: what other versions and machines differ by is far less."""
    expected = np.array(STORED["embeddings"][name])
    found = TumorEmbedder.from_pretrained(name, device="cpu").transform(tumors())
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-4


def test_threads_of_torch_change_next_to_nothing():
    """On another number of threads sums run in another order: within 1e-5 of the norm."""
    embedder, before = TumorEmbedder.from_pretrained(device="cpu"), torch.get_num_threads()
    one = embedder.transform(tumors())
    torch.set_num_threads(3)
    try:
        three = embedder.transform(tumors())
    finally:
        torch.set_num_threads(before)
    assert np.linalg.norm(three - one) < 1e-5 * np.linalg.norm(one)
