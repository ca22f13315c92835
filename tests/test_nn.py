"""The network: pooling, folding, both architectures, the multitask loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional
from torch.nn.functional import softplus

from tumorsim import Recipe, TumorEmbedder, roi_pool
from tumorsim.nn import (
    ARCHITECTURES,
    Network,
    choose_device,
    multitask_loss,
    pad_to_cells,
    roi_pool_upsampled,
)
from tumorsim.nn._losses import balanced_cross_entropy, dice_loss, supervised_contrastive
from tumorsim.nn._network import fold, unfold, upsample


def cells_of(network, image):
    """Return the backbone's cells (n, c, x/4, y/4, z/4) of images (n, 1, x, y, z)."""
    return network.blocks(network.stem.cells(network.stem.detail(image)))


@st.composite
def maps_and_boxes(draw, factor=1):
    """Draw a feature map (n, c, x, y, z), boxes on it `factor` times as fine, and their elements."""
    n, c = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    m = draw(st.integers(0, 4))
    boxes = np.zeros((m, 2, 3), np.int64)
    for box in boxes:
        for axis, size in enumerate(shape):
            start = draw(st.integers(0, size * factor - 1))
            box[:, axis] = start, draw(st.integers(start + 1, size * factor))
    index = np.array([draw(st.integers(0, n - 1)) for _ in range(m)], dtype=np.int64)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return torch.randn((n, c, *shape), generator=generator), boxes, index


@settings(max_examples=60, deadline=None)
@given(maps_and_boxes())
def test_roi_pool_equals_a_slow_loop(drawn):
    """Every channel's maximum over the box's voxels, start inside and stop outside."""
    features, boxes, index = drawn
    expected = np.full((len(boxes), features.shape[1]), -np.inf, np.float32)
    for row, (box, element) in enumerate(zip(boxes, index, strict=True)):
        for x in range(box[0, 0], box[1, 0]):
            for y in range(box[0, 1], box[1, 1]):
                for z in range(box[0, 2], box[1, 2]):
                    expected[row] = np.maximum(expected[row], features[element, :, x, y, z].numpy())
    assert_array_equal(roi_pool(features, boxes, index).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(maps_and_boxes(factor=4))
def test_pooling_cells_equals_pooling_the_whole_map(drawn):
    """Interpolating only under a box gives what the whole upsampled map gives."""
    coarse, boxes, index = drawn
    expected = roi_pool(upsample(coarse), boxes, index)
    assert_allclose(roi_pool_upsampled(coarse, boxes, index, factor=4), expected, atol=1e-6)  # float32


def test_pooling_interpolates_only_the_ends_of_intervals(monkeypatch):
    """A box of 20 × 24 × 28 voxels is known by 2 of 4 voxels an axis, at the edges of the map by fewer."""
    coarse = torch.randn(1, 3, 5, 6, 7, generator=torch.Generator().manual_seed(5))
    sizes, lerp = [], torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda *a: sizes.append(tuple((r := lerp(*a)).shape)) or r)
    whole = roi_pool_upsampled(coarse, [[(0, 0, 0), (20, 24, 28)]], factor=4)
    assert sizes == [(3, 8, 6, 7), (3, 8, 10, 7), (3, 8, 10, 12)]
    assert_allclose(whole, upsample(coarse).amax(dim=(2, 3, 4)), atol=1e-6)  # float32


def test_roi_pool_refuses_bad_boxes():
    """Boxes outside, empty, broken or of no known element are named."""
    features = torch.zeros(2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"inside the feature map of shape \(4, 5, 6\)"):
        roi_pool(features, [[(0, 0, 0), (5, 5, 6)]], [0])
    with pytest.raises(ValueError, match="non-empty"):
        roi_pool(features, [[(2, 0, 0), (2, 5, 6)]], [0])
    with pytest.raises(ValueError, match=r"\[\[-1, 0, 0\]"):
        roi_pool(features, [[(-1, 0, 0), (2, 5, 6)]], [0])
    with pytest.raises(ValueError, match="whole numbers"):
        roi_pool(features, [[(0.5, 0, 0), (2, 5, 6)]], [0])
    with pytest.raises(ValueError, match=r"shape \(m, 2, 3\)"):
        roi_pool(features, [[0, 0, 0, 2, 5, 6]], [0])
    with pytest.raises(ValueError, match="'index' must say which of the 2"):
        roi_pool(features, [[(0, 0, 0), (2, 5, 6)]])
    with pytest.raises(ValueError, match="'index' must hold one number from 0 to 1"):
        roi_pool(features, [[(0, 0, 0), (2, 5, 6)]], [2])
    with pytest.raises(ValueError, match="inside the feature map of shape"):
        roi_pool_upsampled(features, [[(0, 0, 0), (17, 20, 24)]], [0], factor=4)


def test_fold_and_unfold_undo_each_other():
    """A cell's 64 channels are its own 4×4×4 voxels, and folding twice by two keeps them together."""
    x = torch.randn(2, 1, 8, 12, 16)
    cells = fold(x, 4)
    assert cells.shape == (2, 64, 2, 3, 4)
    assert torch.equal(unfold(cells, 4), x)
    twice = fold(fold(x, 2), 2)
    assert torch.equal(twice.sort(dim=1).values, cells.sort(dim=1).values)
    assert torch.equal(unfold(unfold(twice, 2), 2), x)
    assert torch.equal(cells[1, :, 1, 2, 3].sort().values, x[1, 0, 4:8, 8:12, 12:16].flatten().sort().values)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_network_has_a_head_for_everything(architecture):
    """Mask logits lie on the input's grid, an embedding has a number a channel, tasks their classes."""
    network = Network({"type": 3, "side": 2}, n_channels=8, n_blocks=1, architecture=architecture)
    boxes = np.array([[(0, 0, 0), (3, 4, 5)], [(1, 2, 3), (12, 16, 20)], [(5, 5, 5), (6, 6, 6)]])
    outputs = network(torch.randn(2, 1, 12, 16, 20), boxes, [0, 1, 1])
    assert {name: tuple(t.shape) for name, t in outputs.items()} == {
        "mask": (2, 1, 12, 16, 20), "embedding": (3, 8), "type": (3, 3), "side": (3, 2),
    }  # fmt: skip
    outputs["type"].sum().backward()
    assert all(p.grad is not None for p in network.stem.parameters())  # the backbone learns from tasks


def test_a_frozen_backbone_stays_as_it_is():
    """Neither weights nor batch norms of stem and blocks move in training mode; heads learn."""
    network = Network({"t": 2}, n_channels=8, n_blocks=1).freeze_backbone().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    outputs = network(torch.randn(1, 1, 16, 16, 16), [[(1, 2, 3), (7, 9, 11)]])
    (outputs["t"][0, 0] + outputs["mask"].mean()).backward()
    optimizer.step()
    after = network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith(("stem", "blocks")) for name in moved)
    assert {"heads.0.weight", "mask_head.logit.weight"} <= moved


def test_a_start_takes_over_what_both_know():
    """Backbone and known classes come from the other network, whatever their order; new classes do not."""
    old, new = Network({"t": 2, "u": 2}, n_channels=8), Network({"t": 3}, n_channels=8)
    fresh = new.heads[0].weight.detach().clone()
    new.start_from(old, {"t": ["a", "b", "c"]}, {"t": ["c", "a"], "u": ["x", "y"]})
    assert torch.equal(new.heads[0].weight[0], old.heads[0].weight[1])
    assert torch.equal(new.heads[0].weight[2], old.heads[0].weight[0])
    assert torch.equal(new.heads[0].weight[1], fresh[1])
    for name, value in old.state_dict().items():
        if not name.startswith("heads"):
            assert torch.equal(new.state_dict()[name], value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_feature_map_has_the_shape_of_the_input(architecture):
    """The whole feature map, pooled over a box, is the embedding that the heads read."""
    network = Network({"t": 2}, n_channels=8, n_blocks=1, architecture=architecture).eval()
    x, box = torch.randn(1, 1, 12, 16, 20), [[(1, 2, 3), (7, 9, 11)]]
    with torch.no_grad():
        features = upsample(cells_of(network, x))
        assert features.shape == (1, 8, 12, 16, 20)
        assert_allclose(network(x, box)["embedding"], roi_pool(features, box), atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_halo_is_what_a_feature_can_see(architecture, n_blocks):
    """A change just beyond the halo changes nothing, and one of the cell at its rim can be seen."""
    network = Network({}, n_channels=4, n_blocks=n_blocks, architecture=architecture).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()  # with positive weights no influence cancels or dies in a ReLU
        size = network.halo + 2
        image = torch.rand(1, 1, 4 * size, 8, 8)
        changed = [image.clone(), image.clone()]
        changed[0][:, :, 4 * (network.halo + 1) :] += 10
        changed[1][:, :, 4 * network.halo :] += 10
        first = [cells_of(network, x)[:, :, 0] for x in (image, *changed)]
    assert torch.equal(first[0], first[1])
    assert not torch.allclose(first[0], first[2])


def test_pad_to_cells_adds_air_at_the_far_ends():
    """Sides become multiples of 4, and voxels keep their numbers."""
    image = np.ones((5, 8, 3), np.float32)
    padded = pad_to_cells(image)
    assert padded.shape == (8, 8, 4)
    assert padded[:5, :, :3].min() == 1 and padded.sum() == image.sum()


def test_paper_recipe_has_the_papers_numbers():
    """`paper()` follows section 2 of the paper to the letter, and overrides win."""
    values = Recipe.named("paper").get_params()
    expected = {
        "architecture": "paper", "n_channels": 64, "optimizer": "sgd", "max_epochs": 120,
        "batches_per_epoch": 200, "batch_size": 2, "lr": 0.1, "lr_schedule": "milestones",
        "lr_milestones": (90, 105), "mask_dice": 0.0, "mask_balance": 0.0,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    embedder = TumorEmbedder.paper(n_channels=16, recipe__box_jitter=0.1)
    assert embedder.n_channels == 16
    assert embedder.recipe.get_params() == values | {"box_jitter": 0.1}


def test_paper_network_is_the_papers():
    """The stem has two convolutions at full resolution; blocks keep C channels; heads are linear."""
    network = Network({"type": 3}, n_channels=16, n_blocks=3, architecture="paper")
    convolutions = [m for m in network.stem.modules() if isinstance(m, torch.nn.Conv3d)]
    assert [(m.kernel_size[0], m.stride[0]) for m in convolutions] == [(3, 1), (3, 1), (4, 4)]
    assert len(network.blocks) == 3
    assert [type(head) for head in network.heads] == [torch.nn.Linear]
    assert not any(isinstance(m, torch.nn.ConvTranspose3d) for m in network.modules())


def small_batch():
    """Return outputs and a batch of two patches and three tumors, some labels missing."""
    generator = torch.Generator().manual_seed(3)
    outputs = {
        "mask": torch.randn((2, 1, 4, 4, 4), generator=generator),
        "embedding": torch.zeros(3, 5),
        "type": torch.randn((3, 3), generator=generator),
        "side": torch.randn((3, 2), generator=generator),
    }
    batch = SimpleNamespace(
        mask=(torch.rand((2, 1, 4, 4, 4), generator=generator) > 0.7).float(),
        mask_known=torch.tensor([True, False]),
        labels=torch.tensor([[2, -1], [-1, -1], [0, 1]]),
    )
    return outputs, batch


def by_hand(outputs, batch):
    """Return each head's cross-entropy in NumPy, over what is known."""
    logit, target = outputs["mask"][0].double().numpy(), batch.mask[0].double().numpy()
    p = 1 / (1 + np.exp(-logit))
    parts = {"mask": -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()}
    for column, task in enumerate(("type", "side")):
        rows = [r for r in range(3) if batch.labels[r, column] >= 0]
        q = np.exp(outputs[task].double().numpy())
        q /= q.sum(axis=1, keepdims=True)
        parts[task] = -np.mean([np.log(q[r, batch.labels[r, column]]) for r in rows])
    return parts


def test_missing_labels_and_masks_drop_their_terms():
    """The loss is the weighted sum over what is known, as worked out by hand."""
    outputs, batch = small_batch()
    weights = {"mask": 10.0, "type": 1.0, "side": 0.5}
    total, parts = multitask_loss(outputs, batch, task_weights=weights)
    expected = by_hand(outputs, batch)
    assert_allclose([float(parts[n]) for n in weights], [expected[n] for n in weights], rtol=1e-5)
    assert_allclose(float(total), sum(weights[n] * expected[n] for n in weights), rtol=1e-5)


def test_head_without_any_label_is_not_in_the_loss():
    """With no mask known and one task unlabelled, one head is left, and NaN elsewhere does no harm."""
    outputs, batch = small_batch()
    expected = by_hand(outputs, batch)["type"]
    batch.mask_known[:] = False
    batch.labels[:, 1] = -1
    outputs["mask"][:] = torch.nan
    weights = {"mask": 10.0, "type": 1.0, "side": 0.5}
    total, parts = multitask_loss(outputs, batch, task_weights=weights)
    assert list(parts) == ["type"]
    assert_allclose(float(total), expected, rtol=1e-5)


def test_class_weights_weigh_classes():
    """A class's factor multiplies its tumors' share of the mean."""
    outputs, batch = small_batch()
    factors = {"type": torch.tensor([3.0, 1.0, 0.5]), "side": torch.ones(2)}
    _, parts = multitask_loss(
        outputs, batch, task_weights={"mask": 1, "type": 1, "side": 1}, class_weights=factors
    )
    log_p = torch.log_softmax(outputs["type"].double(), dim=1)
    expected = -(0.5 * log_p[0, 2] + 3.0 * log_p[2, 0]) / 3.5
    assert_allclose(float(parts["type"]), float(expected), rtol=1e-5)


def test_dice_counts_every_element_alike():
    """A small tumor that is missed costs half of a batch, however large the other one is."""
    target = torch.zeros(2, 1, 8, 8, 8)
    target[0, :, :6], target[1, :, 0, 0, :4] = 1, 1
    logits = 60 * target - 30
    logits[1] = -30
    assert_allclose(float(dice_loss(logits, target)), 0.5 * (1 - 1 / (4 + 1)), rtol=1e-4)


def test_dice_is_overlap():
    """Perfect prediction costs nothing, its opposite nearly one; `mask_dice` adds it."""
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2] = 1
    assert float(dice_loss(60 * target - 30, target)) < 1e-6
    assert float(dice_loss(30 - 60 * target, target)) > 0.97
    outputs, batch = small_batch()
    weights = {"mask": 1.0, "type": 1.0, "side": 1.0}
    plain = multitask_loss(outputs, batch, task_weights=weights)[1]["mask"]
    more = multitask_loss(outputs, batch, task_weights=weights, mask_dice=0.5)[1]["mask"]
    assert_allclose(more - plain, 0.5 * dice_loss(outputs["mask"][:1], batch.mask[:1]), rtol=1e-4)


def test_balance_weighs_rare_tumor_voxels():
    """0 is plain cross-entropy; 1 gives 4 tumor voxels of 512 half of the say; elements count alike."""
    target = torch.zeros(1, 1, 8, 8, 8)
    target[0, 0, :4, 0, 0] = 1
    logits = torch.full_like(target, -2.0)  # every voxel is called air
    missed, right = float(softplus(torch.tensor(2.0))), float(softplus(torch.tensor(-2.0)))
    plain = functional.binary_cross_entropy_with_logits(logits, target)
    assert_allclose(balanced_cross_entropy(logits, target, balance=0.0), plain)
    whole = balanced_cross_entropy(logits, target, balance=1.0)
    assert_allclose(whole, (128 * 4 * missed + 508 * right) / (128 * 4 + 508), rtol=1e-5)
    pair = balanced_cross_entropy(logits.repeat(2, 1, 1, 1, 1), torch.cat([target, 0 * target]), balance=1.0)
    assert_allclose(pair, (float(whole) + right) / 2, rtol=1e-5)
    outputs, batch = small_batch()
    weights = {"mask": 1.0, "type": 1.0, "side": 1.0}
    mask = multitask_loss(outputs, batch, task_weights=weights, mask_balance=0.5)[1]["mask"]
    assert_allclose(mask, balanced_cross_entropy(outputs["mask"][:1], batch.mask[:1]), rtol=1e-5)


def slow_contrastive(embeddings, labels, temperature):
    """Return equation 2 of arXiv:2004.11362 as it is written, tumor by tumor."""
    known = [i for i, label in enumerate(labels) if label >= 0]
    unit = {i: embeddings[i] / np.linalg.norm(embeddings[i]) for i in known}
    losses = []
    for i in known:
        others = [a for a in known if a != i]
        alike = [p for p in others if labels[p] == labels[i]]
        if not alike:
            continue
        below = sum(np.exp(unit[i] @ unit[a] / temperature) for a in others)
        losses.append(-np.mean([np.log(np.exp(unit[i] @ unit[p] / temperature) / below) for p in alike]))
    return np.mean(losses)


@pytest.mark.parametrize("labels", [[0, 0, 1], [2, 0, -1, 2, 2, 0, 1, -1], [1, 1], [0, 1, 1, -1, 2]])
def test_contrastive_loss_against_a_slow_loop(labels):
    """The loss is that of a slow loop: a lonely tumor is no anchor, one without a label is not there."""
    embeddings = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(1)).double()
    for temperature in (0.1, 1.0):
        found = supervised_contrastive(embeddings, torch.tensor(labels), temperature=temperature)
        expected = slow_contrastive(embeddings.numpy(), labels, temperature)
        assert_allclose(float(found), expected, rtol=1e-9, atol=1e-12)


def test_contrastive_loss_needs_two_of_a_class():
    """Where no two labels agree, or nothing is known, there is no loss; its gradient is finite elsewhere."""
    embeddings = torch.eye(3, requires_grad=True)
    for labels in ([0, 1, 2], [0, -1, -1], [-1, -1, -1]):
        assert supervised_contrastive(embeddings, torch.tensor(labels)) is None
    supervised_contrastive(embeddings, torch.tensor([0, 0, 1])).backward()
    assert bool(embeddings.grad.isfinite().all()) and float(embeddings.grad.abs().max()) > 0


def test_contrastive_term_takes_types_labels():
    """It compares by task `type` where there is one, else by the first; 0 leaves all as it is."""
    outputs, batch = small_batch()
    outputs["embedding"] = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    batch.labels = torch.tensor([[1, 1], [1, 0], [0, 1]])
    weights = {"mask": 10.0, "type": 1.0, "side": 0.5}
    plain, parts = multitask_loss(outputs, batch, task_weights=weights)
    assert list(parts) == ["mask", "type", "side"]
    for names, column in ((("type", "side"), 0), (("side", "type"), 1), (("side", "area"), 0)):
        renamed = {"mask": outputs["mask"], "embedding": outputs["embedding"]}
        renamed |= dict(zip(names, (outputs["type"], outputs["side"]), strict=True))
        total, parts = multitask_loss(
            renamed, batch, task_weights=dict.fromkeys(("mask", *names), 0.0), contrastive=2.0
        )
        expected = supervised_contrastive(outputs["embedding"], batch.labels[:, column])
        assert_allclose(float(parts["contrastive"]), float(expected))
        assert_allclose(float(total), 2 * float(expected), rtol=1e-6)
    assert float(multitask_loss(outputs, batch, task_weights=weights, contrastive=0.0)[0]) == float(plain)


def test_device_that_is_not_there_is_named():
    """An unknown device is refused with the parameter's name."""
    for device in ("abacus", "cuda:99", 7.5):
        with pytest.raises(ValueError, match="Parameter 'device'"):
            choose_device(device)
