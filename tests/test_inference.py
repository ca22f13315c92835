"""Inference: exactness against the plain formula."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tumorsim import Case, Cohort, Tumor, TumorEmbedder, roi_pool
from tumorsim.inference import TILE, embed_boxes, mask_probability
from tumorsim.nn import ARCHITECTURES, FACTOR, Network, pad_to_cells
from tumorsim.nn._network import Convolution, upsample

BOXES = np.array(
    [
        [(0, 0, 0), (1, 1, 1)],  # corner
        [(40, 30, 29), (47, 37, 30)],  # far border, sides no multiple of 4
        [(0, 0, 0), (47, 37, 30)],  # everything
        [(11, 5, 8), (19, 20, 13)],
        [(22, 15, 16), (24, 16, 24)],
    ]
)


def cells_of(network, image):
    """Return the backbone's cells (n, c, x/4, y/4, z/4) of images (n, 1, x, y, z)."""
    return network.blocks(network.stem.cells(network.stem.detail(image)))


def trained_like(architecture, *, n_blocks=2, n_channels=8):
    """Return a network whose batch norms have statistics of their own, in evaluation mode."""
    torch.manual_seed(1)
    network = Network({"t": 2}, n_channels=n_channels, n_blocks=n_blocks, architecture=architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.02, 0.2)  # small: differences grow from layer to layer
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def image_of(shape, seed=0):
    """Return a float16 image with structure of all sizes."""
    return np.random.default_rng(seed).gamma(2, 0.5, shape).astype(np.float16)


def plain(network, image, boxes):
    """Return embeddings by the formula: the whole feature map at full resolution, then RoiPool."""
    with torch.no_grad():
        whole = pad_to_cells(image.astype(np.float32))[None, None]
        return roi_pool(upsample(cells_of(network, whole)), boxes).numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_embeddings_equal_the_plain_formula(architecture, n_blocks):
    """One box or all at once, at borders or inside: what is left out could not be seen."""
    network, image = trained_like(architecture, n_blocks=n_blocks), image_of((47, 37, 30))
    expected = plain(network, image, BOXES)
    assert np.median(expected.std(axis=0)) > 0.1  # the test can fail
    for boxes, rows in ((BOXES, slice(None)), *((BOXES[i : i + 1], slice(i, i + 1)) for i in range(5))):
        assert_allclose(embed_boxes(network, image, boxes), expected[rows], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_image_of_several_tiles_equals_the_plain_formula(architecture):
    """The stem's tiles leave no seams."""
    network, image = trained_like(architecture, n_blocks=1, n_channels=4), image_of((167, 26, 21))
    network.stem.tile = TILE
    boxes = np.array([[(70, 3, 2), (90, 20, 19)], [(150, 0, 0), (167, 26, 21)], [(3, 3, 3), (166, 9, 8)]])
    assert image.shape[0] > 2 * TILE * FACTOR
    assert_allclose(embed_boxes(network, image, boxes), plain(network, image, boxes), atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tumors_far_apart_equal_the_plain_formula(architecture):
    """Parts of the blocks' input that part, join and touch borders give what the whole image gives."""
    network, image = trained_like(architecture, n_blocks=3, n_channels=4), image_of((190, 44, 42))
    starts = np.array([(0, 0, 0), (30, 20, 20), (36, 22, 18), (100, 5, 30), (101, 6, 31), (183, 38, 36)])
    boxes = np.stack([starts, starts + np.array((5, 6, 6))], axis=1)
    found = embed_boxes(network, image, boxes)
    assert_allclose(found, plain(network, image, boxes), atol=1e-4)
    assert_allclose(embed_boxes(network, image, boxes[::-1])[::-1], found, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mask_of_several_tiles_equals_that_of_the_whole(architecture):
    """The mask's head works tile by tile and gives what the whole map gives, at the image's own size."""
    network, image = trained_like(architecture, n_blocks=1, n_channels=4), image_of((170, 27, 90))
    with torch.no_grad():
        detail = network.stem.detail(pad_to_cells(image.astype(np.float32))[None, None])
        cells = network.blocks(network.stem.cells(detail))
        expected = network.mask_head(cells, detail).sigmoid()[0, 0].numpy()[:170, :27, :90]
    found = mask_probability(network, image)
    assert found.shape == image.shape and found.dtype == np.float32
    assert expected.std() > 0.01
    assert_allclose(found, expected, atol=1e-5)


def test_image_smaller_than_a_cell_works():
    """A stack of three slices is padded, not refused."""
    network, image = trained_like("fast"), image_of((9, 10, 3))
    boxes = np.array([[(2, 2, 0), (6, 7, 3)]])
    assert_allclose(embed_boxes(network, image, boxes), plain(network, image, boxes), atol=1e-4)
    assert mask_probability(network, image).shape == (9, 10, 3)


def test_inference_leaves_the_network_trainable():
    """Nothing of inference mode sticks to the parameters."""
    network = trained_like("fast")
    embed_boxes(network, image_of((16, 16, 16)), np.array([[(2, 2, 2), (6, 7, 9)]]))
    network.train()(torch.randn(2, 1, 8, 8, 8), [[(0, 0, 0), (3, 3, 3)]], [1])["t"].sum().backward()
    assert network.stem.mix.weight.grad is not None


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_convolution_takes_the_slow_way(architecture, monkeypatch):
    """One small image runs by oneDNN throughout, where torch by itself takes a loop, and gives the same."""
    network, image = trained_like(architecture), image_of((47, 37, 30))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = embed_boxes(network, image, BOXES), mask_probability(network, image)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert "aten::slow_conv3d_forward" not in counts
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    assert counts["aten::mkldnn_convolution"] >= len(convolutions)
    monkeypatch.setattr(Convolution, "forward", torch.nn.Conv3d.forward)
    slow = embed_boxes(network, image, BOXES), mask_probability(network, image)
    for one, other in zip(found, slow, strict=True):
        assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def resident():
    """Return the memory of this process, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("what", ["embed", "segment"])
def test_memory_does_not_grow_with_the_number_of_scans(what):
    """Boxes or scans of 25 sizes need arrays of 25 sizes; without `return_memory` they took 300 MB more."""
    image, rng = image_of((120, 120, 120)).astype(np.float32), np.random.default_rng(0)
    tumors = []
    for i, start in enumerate(rng.integers(30, 80, size=(30, 3))):
        part = image if what == "embed" else np.ascontiguousarray(image[tuple(slice(n + 40) for n in start)])
        case = Case((part, np.diag([2.0, 2, 2, 1])), case_id=f"{i}", patient_id=f"{i}")
        tumors.append(Tumor(case, [start, start + 6], tumor_id=f"{i}/1"))
    embedder = TumorEmbedder.from_pretrained(device="cpu")

    def work(some):
        if what == "embed":
            embedder.transform(Cohort(some))
        for tumor in some if what == "segment" else ():
            embedder.segment(tumor.case)

    work(tumors[:5])
    before = resident()
    work(tumors[5:])
    assert resident() < before + 120
