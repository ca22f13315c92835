"""Damaged embeddings (npz) and vote calibrations (JSON)."""

import json

import numpy as np

from tumorsim.calibration import VoteCalibration
from tumorsim.io import load_embeddings, save_embeddings

from ._engine import Reader


def _npz(folder):
    """Write two embeddings files."""
    for n in (3, 5):
        columns = {
            "tumor_id": [f"sub-{i}/1" for i in range(n)],
            "label_type": ["glioma", None] * (n // 2) + ["x"],
        }
        columns["volume_mm3"] = [100.5 * i for i in range(n)]
        space = {"fingerprint": "ab" * 32, "aspects": {"look": [0, 4]}, "scale": [1.0] * 4}
        save_embeddings(folder / f"{n}.npz", np.ones((n, 4)) * np.arange(4), columns, space)
    return sorted(folder.iterdir())


def _read_npz(path):
    """Read embeddings; what is accepted is a matrix with a table and a space."""
    X, columns, space = load_embeddings(path)
    assert X.ndim == 2 and X.dtype == np.float32 and isinstance(columns, dict) and isinstance(space, dict)
    assert all(len(values) == len(X) for values in columns.values()) and "tumor_id" in columns


def _calibration(folder):
    """Write a vote calibration as `VoteCalibration.save` does."""
    report = [
        {
            "task": "type",
            "n": 12,
            "brier_before": 0.2,
            "ece_before": 0.1,
            "brier_after": 0.1,
            "ece_after": 0.05,
        }
    ]
    calibration = VoteCalibration()
    calibration.curves_ = {"type": (1.0, -0.3), "region": (0.4, 0.0)}
    calibration.made_for_ = {"fingerprint": "ab" * 32, "n_neighbors": 5}
    import pandas as pd

    calibration.report_ = pd.DataFrame(report)
    calibration.save(folder / "votes.json")
    json.loads((folder / "votes.json").read_text(encoding="utf-8"))
    return [folder / "votes.json"]


def _read_calibration(path):
    """Read a calibration; its curves are pairs of finite numbers."""
    calibration = VoteCalibration.load(path)
    assert all(np.isfinite(curve).all() and len(curve) == 2 for curve in calibration.curves_.values())
    assert isinstance(calibration.made_for_, dict) and len(calibration.report_.columns)


_NPY_WORDS = (
    *(b"'descr': ", b"'<f4'", b"'|O'", b"'<U9'", b"'>f8'", b"'<c16'", b"'fortran_order': ", b"'shape': "),
    *(b"(3, 4)", b"(9999999999,)", b"(0,)", b"()", b"(-1, 4)", b"\x93NUMPY", b"__import__", b"True"),
)

READERS = [
    Reader("npz", _npz, _read_npz, _NPY_WORDS, ci=250),
    Reader(
        "calibration",
        _calibration,
        _read_calibration,
        (b"format", b"curves", b"made_for", b"report"),
        ci=300,
    ),
]
