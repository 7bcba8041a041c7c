"""OverFeat: every window of the pyramid as it is alone, by NumPy; targets and losses by loops; that it learns."""

import dataclasses
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from configs.overfeat import OverFeat
from segjax.models.heads.dense import DenseHead
from segjax.models.heads.window import WindowHead, WindowNetwork, WindowOutputs, WindowSettings, WindowTargets, inside
from segjax.models.layers.valid import Spacing
from segjax.models.layers.windows import WindowFeatures, WindowLayer, spacing_behind, window_side
from segjax.models.overfeat import FAST, WindowPlan, overfeat
from segjax.ops.windows import WindowLayout, count_windows, level_grids, window_boxes, window_pyramid
from segjax.types import Instances
from tests import oracles, tiny
from tests.models.test_faster_rcnn import CASES, overlap, widened

CLASSES = len(tiny.CLASSES)
LAYERS, CELLS = (WindowLayer(4, 5, stride=2), WindowLayer(6, 3, pool=2)), 3
LEVELS = ((1.0, 1.0), (0.8, 2.0))
SETTINGS = WindowSettings(detections=12, candidates=64)
SMALL = {"layers": ((8, 5, 2, 1), (16, 3, 1, 2), (16, 3, 1, 1)), "hidden": (24,), "box_hidden": (24,), "norm": "layer"}
MODEL = OverFeat(**SMALL, cells=3, levels=LEVELS, stride=4, margin=4, dropout=0.0, samples=24, head=SETTINGS)


def perturbed(tree):
    """Variables away from where they start, norms and statistics too."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return structure.unflatten([x + 0.2 * jax.random.uniform(k, x.shape) for k, x in zip(keys, leaves)])


def normed(x, norm, variables, part, name):
    own = {kind: tree[part][name]["norm"] for kind, tree in variables.items() if name in tree.get(part, {})}
    if norm is None:
        return x
    scale, bias = own["params"]["scale"], own["params"]["bias"]
    if norm == "layer":
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    else:
        mean, var = own["batch_stats"]["mean"], own["batch_stats"]["var"]
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def one_window(variables, pixels, norm):
    """(logits, offsets) of one window's pixels by themselves, in NumPy."""
    backbone, head, x = variables["params"]["backbone"], variables["params"]["head"], pixels
    for i, layer in enumerate(LAYERS, start=1):
        own, k = backbone[f"conv{i}"], layer.kernel
        seen = sliding_window_view(x, (k, k), axis=(0, 1))[:: layer.stride, :: layer.stride]
        x = np.einsum("hwcij,ijcd->hwd", seen, own["kernel"]) + own.get("bias", 0)
        x = np.maximum(normed(x, norm, variables, "backbone", f"norm{i}"), 0)
        side = x.shape[0] // layer.pool
        x = x.reshape(side, layer.pool, side, layer.pool, -1).max((1, 3))
    assert x.shape[:2] == (CELLS, CELLS)
    found = []
    for name in ("class", "box"):
        own, last = head[f"{name}1"], head[f"{name}2"]
        y = np.einsum("ijc,ijcd->d", x, own["kernel"]) + own.get("bias", 0)
        y = np.maximum(normed(y, norm, variables, "head", f"{name}_norm1"), 0)
        found.append(y @ last["kernel"][0, 0] + last["bias"])
    return found


@pytest.mark.parametrize(("stride", "norm"), [(4, "layer"), (2, "batch"), (3, None), (8, "layer")])
def test_a_window_alone_and_among_all_the_same(stride, norm, rng):
    """Windows that NumPy cuts from levels, against the dense outputs, and against those cut out by the network itself.

    For strides that all, some and none of the layers' strides divide.
    """
    layout = WindowLayout(LEVELS, window_side(LAYERS, CELLS), stride, margin=3)
    spacing = spacing_behind(LAYERS, stride)
    network = WindowNetwork(2, CELLS, spacing, (7,), (6,), per_class=True, norm=norm, dropout=0.5)
    features = WindowFeatures(LAYERS, layout, norm)
    images = jnp.asarray(rng.normal(size=(2, 33, 30, 3)), jnp.float32)

    def init(key):
        maps, own = features.init_with_output(key, images)
        return {"backbone": own, "head": network.init(key, maps)}

    own = {name: perturbed(tree) for name, tree in jax.jit(init)(jax.random.key(0)).items()}
    dense = jax.jit(lambda own: network.apply(own["head"], features.apply(own["backbone"], images)))(own)
    grids = level_grids(layout, (33, 30))
    count = sum(grid.windows for grid in grids)
    assert dense.logits.shape == (2, count, 3) and dense.offsets.shape == (2, count, 2, 4)
    chosen = jnp.asarray(np.stack([rng.permutation(count)[:7], rng.permutation(count)[:7]]), jnp.int32)

    def some(own, chosen):
        return network.apply(own["head"], features.apply(own["backbone"], images, windows=chosen), alone=True)

    cut = jax.jit(some)(own, chosen)
    assert cut.logits.shape == (14, 1, 3)
    levels = jax.device_get(jax.jit(lambda images: window_pyramid(images, layout))(images))
    dense, cut, first = jax.device_get(dense), jax.device_get(cut), np.cumsum([0, *(grid.windows for grid in grids)])
    own = jax.device_get(own)
    collected = {
        kind: {part: own[part][kind] for part in own if kind in own[part]} for kind in ("params", "batch_stats")
    }
    corners = {0, first[1] - 1, first[1], count - 1}  # of both levels
    for b in range(2):
        for k, index in enumerate([*chosen[b].tolist(), *corners]):
            level = int(np.searchsorted(first[1:], index, side="right"))
            row, column = divmod(int(index - first[level]), grids[level].columns)
            y, x = row * stride, column * stride
            pixels = levels[level][b, y : y + layout.side, x : x + layout.side]
            logits, offsets = one_window(collected, pixels, norm)
            np.testing.assert_allclose(dense.logits[b, index], logits, atol=1e-4)
            np.testing.assert_allclose(dense.offsets[b, index].reshape(-1), offsets, atol=1e-4)
            if k < 7:
                np.testing.assert_allclose(cut.logits[7 * b + k, 0], logits, atol=1e-4)
                np.testing.assert_allclose(cut.offsets[7 * b + k, 0].reshape(-1), offsets, atol=1e-4)
    assert (np.std(dense.logits, axis=(0, 1)) > 0.02).all(), "logits that are all alike would show nothing"


def test_the_papers_windows():
    """231 pixels (section 3.1); with the strides of table 1, 32 pixels apart, and closer by dilation."""
    assert window_side(FAST, 3) == 231
    assert spacing_behind(FAST, 32) == Spacing(1, 1) and spacing_behind(FAST, 16) == Spacing(1, 2)
    assert spacing_behind(FAST, 64) == Spacing(2, 1) and spacing_behind(FAST, 12) == Spacing(3, 8)


def some_objects(rng, count, slots=5):
    corner = rng.uniform(0, 34, (slots, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 30, (slots, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, CLASSES, slots).astype(np.int32)
    return Instances(*map(jnp.asarray, (boxes, labels, np.arange(slots) < count)))


def head_of(**changes) -> WindowHead:
    layout = WindowPlan(LAYERS, CELLS, LEVELS, stride=6, margin=4).layout()
    network = WindowNetwork(CLASSES, CELLS, spacing_behind(LAYERS, 6), (8,), (8,))
    return WindowHead(network, layout, dataclasses.replace(SETTINGS, **changes))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_targets_equal_the_loops(count, rng):
    """In an image of 50 x 60 on a canvas of 64 x 64."""
    head, objects = head_of(), some_objects(rng, count)
    assert isinstance(head, DenseHead)
    places = np.asarray(jax.jit(lambda: head.places((64, 64), [(1, 1), (1, 1)]))())
    found = jax.jit(head.targets, static_argnums=0)(None, jnp.asarray(places), objects, jnp.array([50, 60]))
    ious = oracles.pairwise(oracles.iou, objects.boxes[:count], places)
    owner, counted = np.full(len(places), -1), np.zeros(len(places), bool)
    best = ious.max(0) if count else np.zeros(len(places))
    for i, (x1, y1, x2, y2) in enumerate(places):
        if best[i] >= 0.5:
            owner[i] = ious[:, i].argmax()
        middle = 0 <= (x1 + x2) / 2 <= 60 and 0 <= (y1 + y2) / 2 <= 50
        counted[i] = owner[i] >= 0 or (best[i] < 0.3 and middle)
    for g in range(count):
        owner[ious[g].argmax()], counted[ious[g].argmax()] = g, True
    np.testing.assert_array_equal(found.column, np.where(owner >= 0, objects.labels[owner] + 1, 0))
    np.testing.assert_array_equal(found.counted, counted)
    np.testing.assert_array_equal(found.status, np.where(owner >= 0, 1, np.where(counted, 0, -1)))
    own = np.array([owner[i] >= 0 and ious[owner[i], i] >= 0.5 for i in range(len(places))])
    np.testing.assert_array_equal(found.regressed, own)
    for i in np.flatnonzero(owner >= 0):
        box, (x1, y1, x2, y2) = np.float64(objects.boxes[owner[i]]), places[i]
        off = (box - places[i]) / [x2 - x1, y2 - y1, x2 - x1, y2 - y1]
        np.testing.assert_allclose(found.offsets[i], off / 0.2, atol=1e-4)
    assert count < 5 or ((owner >= 0) & ~own).any(), "some object must have its best window alone"


def loss_by_loops(outputs, targets, learnt, squares):
    classes, boxes = [], []
    for b, i in zip(*np.nonzero(learnt)):
        logits, column = np.float64(outputs.logits[b, i]), int(targets.column[b, i])
        classes.append(np.log(np.exp(logits).sum()) - logits[column])
        if targets.regressed[b, i]:
            row = column - 1 if outputs.offsets.shape[2] > 1 else 0
            off = np.abs(np.float64(outputs.offsets[b, i, row]) - np.float64(targets.offsets[b, i]))
            boxes.append((off**2 if squares else np.where(off < 1, off**2 / 2, off - 0.5)).sum())
    return np.mean(classes) if classes else 0.0, np.mean(boxes) if boxes else 0.0


@pytest.mark.parametrize(("loss", "per_class"), [("l2", False), ("smooth_l1", True)])
@pytest.mark.parametrize("positives", [(0, 0), (1, 5)])
def test_losses_equal_the_loops(loss, per_class, positives, rng):
    """Over given windows, and over the positives and the hardest negatives of each image."""
    n, shape = 30, (2, 30, CLASSES if per_class else 1, 4)
    column = np.zeros((2, n), np.int32)
    for i, count in enumerate(positives):
        column[i, rng.permutation(n)[:count]] = rng.integers(1, CLASSES + 1, count)
    counted = (rng.uniform(size=(2, n)) > 0.3) | (column > 0)
    regressed = (column > 0) & (rng.uniform(size=(2, n)) > 0.2)
    outputs = WindowOutputs(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, n, CLASSES + 1), shape)))
    offsets = jnp.asarray(rng.normal(size=(2, n, 4)), jnp.float32)
    targets = WindowTargets(jnp.asarray(column), jnp.asarray(counted), offsets, jnp.asarray(regressed))
    head, learnt = head_of(box_loss=loss, least_negatives=2), jnp.asarray(rng.uniform(size=(2, n)) > 0.5)
    found = jax.jit(head.losses_of)(outputs, targets, learnt)
    outputs, targets, learnt = jax.device_get((outputs, targets, learnt))
    expected = loss_by_loops(outputs, targets, learnt, loss == "l2")
    np.testing.assert_allclose([found["class"], found["box"]], expected, rtol=1e-5)
    hard = column > 0
    for b in range(2):
        logits = np.float64(outputs.logits[b])
        hardness = np.log(np.exp(logits).sum(1)) - logits[:, 0]
        negatives = sorted(np.flatnonzero(counted[b] & (column[b] == 0)), key=lambda i: -hardness[i])
        hard[b, negatives[: max(3 * positives[b], 2)]] = True
    assert hard.sum() == sum(positives) + sum(max(3 * count, 2) for count in positives)
    found = jax.jit(head.losses)(outputs, targets, jnp.zeros((n, 4)))
    expected = loss_by_loops(outputs, targets, hard, loss == "l2")
    np.testing.assert_allclose([found["class"], found["box"]], expected, rtol=1e-5)


@pytest.mark.parametrize("boxes", [1, CLASSES])
def test_decoding_equals_the_loops(boxes, rng):
    head, size = head_of(score_threshold=0.2, candidates=60, nms_threshold=0.3, detections=25), (50, 60)
    places = np.asarray(jax.jit(lambda: window_boxes((64, 64), head.layout))())
    logits = rng.normal(0, 1.5, (len(places), CLASSES + 1)).astype(np.float32)
    offsets = rng.normal(0, 1, (len(places), boxes, 4)).astype(np.float32)
    given = WindowOutputs(*map(jnp.asarray, (logits, offsets)))
    found = jax.jit(head.decode)(given, jnp.asarray(places), jnp.array(size))
    scores = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[:, 1:]
    usable = np.asarray(inside(jnp.asarray(places), jnp.array(size)))
    assert 0.3 < usable.mean() < 0.9
    pairs = [(scores[i, c], i, c) for i in np.flatnonzero(usable) for c in range(CLASSES) if scores[i, c] > 0.2]
    pairs = sorted(pairs, reverse=True)[:60]
    rows = []
    for score, i, c in pairs:
        window, off = places[i], np.clip(offsets[i, c if boxes > 1 else 0] * 0.2, -1, 1)
        box = window + off * np.tile(window[2:] - window[:2], 2)
        box = np.clip(box, 0, [60, 50, 60, 50])
        if box[0] < box[2] and box[1] < box[3]:
            rows.append((score, c, *box))
    rows = np.array(rows)
    rows = rows[oracles.nms(rows[:, 2:], rows[:, 0], 0.3, labels=rows[:, 1])][:25]
    kept = np.asarray(found.valid)
    assert len(rows) == kept.sum() > 10 and len(set(rows[:, 1])) == CLASSES
    np.testing.assert_allclose(np.asarray(found.scores)[kept], rows[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.labels)[kept], rows[:, 1])
    np.testing.assert_allclose(np.asarray(found.boxes)[kept], rows[:, 2:], atol=1e-3)


def test_windows_that_agree_are_merged(rng):
    """Of two objects, seen by three windows and by one, that with more windows comes first, at their mean."""
    head = head_of(combine="merge", score_threshold=0.3, detections=4)
    places = jnp.asarray([[0.0, 0, 20, 20], [2, 2, 22, 22], [40, 40, 60, 60], [0, 2, 20, 22], [0, 0, 9, 9]])
    odds = np.array([1.0, 1.0, 3.0, 1.0, 0.1])  # against the background
    logits = jnp.asarray(
        np.stack([np.zeros(5), np.log(odds), *[np.full(5, -20.0)] * (CLASSES - 1)], axis=1), jnp.float32
    )
    found = jax.jit(head.decode)(WindowOutputs(logits, jnp.zeros((5, 1, 4))), places, jnp.array([64, 64]))
    np.testing.assert_array_equal(found.valid, [True, True, False, False])
    # The first two that are merged are equals of the third, whose IoU with the first of them is larger.
    np.testing.assert_allclose(found.boxes[0], [1.0, 1.5, 21, 21.5])
    np.testing.assert_allclose(found.boxes[1], places[2])
    np.testing.assert_allclose(found.scores[:2], [1.5 / 2.5, 0.75 / 1.75], rtol=1e-5)


@pytest.fixture(scope="module", params=["windows", "dense"])
def trained(request):
    """(training, its variables, (variables, batch) -> ((total, terms), gradient))."""
    model = dataclasses.replace(MODEL, training=request.param).build(CLASSES)

    def total(params, variables, batch):
        terms, _ = model.losses({**variables, "params": params}, batch, jax.random.key(0))
        return sum(terms.values()), terms

    compute = jax.jit(jax.value_and_grad(total, has_aux=True))
    variables = jax.jit(model.init)(jax.random.key(0), tiny.batch_of(tiny.TWO))
    return lambda batch: compute(variables["params"], variables, widened(batch, 16))


def test_losses_and_gradients_are_finite(trained):
    for case in CASES.values():
        batch = tiny.batch_of(case, capacity=16)
        (_, terms), grads = trained(batch)
        assert set(terms) == {"class", "box"}
        chex.assert_tree_all_finite((terms, grads))
        # Images without objects teach what the background is.
        assert float(terms["class"]) > 0 and (batch.instances.valid.any() or float(terms["box"]) == 0)
    batch = tiny.batch_of(tiny.TWO)
    (_, terms), grads = trained(batch)
    assert float(terms["box"]) > 0 and all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_it_overfits_one_batch():
    """From scratch, Adam brings the losses of two images down, and predict then finds their objects."""
    model, batch = MODEL.build(CLASSES), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(model, batch, steps=150)
    assert set(variables["params"]) == {"backbone", "head"}
    assert sum(last.values()) < 0.1 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    assert found.boxes.shape == (2, 12, 4)
    for i, (boxes, labels) in enumerate(tiny.TWO):
        for box, label in zip(boxes, labels):
            best = max(range(12), key=lambda j: overlap(found.boxes[i, j], box) * found.valid[i, j])
            assert overlap(found.boxes[i, best], box) > 0.6 and found.labels[i, best] == label
            assert found.scores[i, best] > 0.5


def test_scores_say_how_many_windows():
    """Two images of one size and one of another."""
    sizes = {0: (64, 48), 3: (64, 48), 5: (32, 32)}
    found = MODEL.scores(None, types.SimpleNamespace(sizes=sizes))
    counts = [sum(count_windows(size, MODEL.layout())) for size in sizes.values()]
    assert found == {"windows_per_image": pytest.approx(np.mean(counts))} and counts[0] == counts[1] > counts[2]


@pytest.mark.parametrize(("change", "message"), [
    ({"norm": "group"}, "norm is 'group', whose statistics are of a whole map"),
    ({"norm": "batch", "training": "dense"}, "norm is 'batch' and training 'dense': each level would have"),
    ({"layers": ()}, r"layers is \(\) and cells 3; give one layer or more"),
    ({"layers": ((8, 5, 0, 1),)}, "all numbers at least 1"),
    ({"cells": 0}, "cells 0; give one layer or more, all numbers at least 1"),
    ({"stride": 0}, "stride 0 and margin 4; side and stride must be at least 1"),
    ({"samples": 0}, "count must be at least 1, got count=0"),
])  # fmt: skip
def test_what_cannot_be_is_refused(change, message, key):
    with pytest.raises(ValueError, match=message):
        model = dataclasses.replace(MODEL, **change).build(CLASSES)
        jax.eval_shape(model.losses, jax.eval_shape(model.init, key, BATCH), BATCH, key)


BATCH = tiny.batch_of(tiny.TWO)


def test_a_detector_needs_a_class():
    with pytest.raises(ValueError, match="classes is 0; OverFeat needs at least one"):
        overfeat(0)


def test_a_map_for_each_level():
    with pytest.raises(ValueError, match="the backbone gives 1 maps for 2 levels; give one each"):
        head_of().places((64, 64), [(3, 3)])
