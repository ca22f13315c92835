"""Work that is counted, not timed: multiplications, bytes read, passes of the network, copies of volumes."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from tumorsim import Case, Cohort, Tumor, TumorEmbedder, TumorIndex
from tumorsim.index import _exact as exact_module
from tumorsim.index._exact import Coordinates
from tumorsim.io import _images as images_module
from tumorsim.io import save_nifti

SHAPE = (240, 240, 155)
MKLDNN = getattr(torch.ops.aten, "mkldnn_convolution", None)


@pytest.fixture(scope="module")
def embedder():
    """Return the embedder of the shipped weights."""
    return TumorEmbedder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Return the file of a bright ball of 240 x 240 x 155 voxels of 1 mm."""
    grid = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij", sparse=True)
    noise = np.random.default_rng(0).integers(0, 20, SHAPE)
    image = np.where(sum(axis**2 for axis in grid) < 75**2, 900 + noise, noise).astype(np.int16)
    path = tmp_path_factory.mktemp("counted") / "scan.nii.gz"
    save_nifti(path, image, np.eye(4))
    return path


def tumors_in(scan, corners, side):
    """Return tumors with cubic boxes from their first corners."""
    case = Case(scan, case_id="a", patient_id="p")
    boxes = [np.array([corner, np.add(corner, side)]) for corner in corners]
    return Cohort(Tumor(case, box, tumor_id=str(i)) for i, box in enumerate(boxes))


def count_flops(x, w, *unused, out_shape, **others):
    """Return the operations of oneDNN's convolution."""
    return conv_flop_count(x, w, out_shape)


def gflop(embedder, tumors):
    """Return the counted operations of embedding tumors, in units of 10⁹."""
    mapping = {} if MKLDNN is None else {MKLDNN: count_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        embedder.transform(tumors)
    return counter.get_total_flops() / 1e9


def test_one_tumor_needs_half_of_the_whole_scan(embedder, scan):
    """40 mm in the middle: layers see less and less of the scan."""
    one = gflop(embedder, tumors_in(scan, [(100, 100, 60)], 40))
    whole = gflop(embedder, tumors_in(scan, [(0, 0, 0)], SHAPE))
    assert one < 0.6 * whole and whole < 31


def test_ten_tumors_need_less_than_the_whole_scan_does(embedder, scan):
    """Tumors far apart have parts of their own; together they never need more than the whole."""
    corners = [(40 + 30 * (i % 5), 60 + 90 * (i // 5), 40 + 8 * i) for i in range(10)]
    whole = gflop(embedder, tumors_in(scan, [(0, 0, 0)], SHAPE))
    assert gflop(embedder, tumors_in(scan, corners, 10)) < whole


def test_a_scan_is_read_once_and_passed_once(embedder, scan, monkeypatch):
    """Ten tumors of a scan: its voxels are decompressed once, the stem runs once."""
    read, passes = [], []
    load, stem = images_module.load_image, embedder.network_.stem.detail
    monkeypatch.setattr("tumorsim.records._case.load_image", lambda path: read.append(path) or load(path))
    monkeypatch.setattr(embedder.network_.stem, "detail", lambda x: passes.append(x.shape) or stem(x))
    embedder.transform(tumors_in(scan, [(60 + 10 * i, 100, 60) for i in range(10)], 8))
    assert len(read) == len(passes) == 1


def test_bytes_of_the_file_are_read_twice_at_most(embedder, scan, monkeypatch):
    """Headers are read in advance, voxels once: no more than the file's size and some blocks per header."""
    read, opened = [], open

    class Counting(images_module._Stream):
        def readinto(self, buffer):
            n = super().readinto(buffer)
            read.append(n)
            return n

    monkeypatch.setattr(images_module, "_Stream", Counting)
    embedder.transform(tumors_in(scan, [(100, 100, 60)], 20))
    voxels = 2 * math.prod(SHAPE)
    assert voxels <= sum(read) < 1.05 * voxels and opened is open


def test_volume_is_not_copied_more_often_than_it_must(scan):
    """Its own bytes and its float32 are held, and half a float32 more; axes stay as in the file."""
    import tracemalloc

    case = Case(scan, case_id="a", patient_id="p")
    preparing = TumorEmbedder.from_pretrained(device="cpu").preprocessing_
    preparing.prepare_case(case)
    tracemalloc.start()
    preparing.prepare_case(case)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    voxels = math.prod(SHAPE)
    assert peak < (2 + 4 + 2) * voxels
    array = case.load_image()
    assert array.flags.f_contiguous and array.dtype == np.int16
    assert np.array_equal(array, np.asanyarray(nib.load(scan).dataobj))


def test_one_query_of_a_large_archive_takes_one_product_and_few_distances(monkeypatch):
    """All rows are compared at once in float32, and only a few more than the neighbors in float64."""
    X = np.random.default_rng(0).normal(size=(50_000, 20)).astype(np.float32)
    index = TumorIndex().fit(X, metadata={"patient_id": [f"p{i}" for i in range(len(X))]})
    index.kneighbors(X[:1])
    bounds, pairs = [], []
    minima, distances = exact_module._group_minima, Coordinates.distances
    monkeypatch.setattr(exact_module, "_group_minima", lambda p, n: bounds.append(p.shape) or minima(p, n))

    def counted(self, X, rows, *others):
        pairs.append(len(rows))
        return distances(self, X, rows, *others)

    monkeypatch.setattr(Coordinates, "distances", counted)
    index.kneighbors(X[:1] + 0.1, 10)
    assert bounds == [(1, len(X))] and len(pairs) == 1 and 10 <= pairs[0] < 20
