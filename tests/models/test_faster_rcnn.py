"""Faster R-CNN as three pure functions: what losses and predictions promise, whatever the objects in the images."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.heads.box import BoxHead, BoxOutputs
from segjax.models.heads.rpn import RPNHead, RPNSettings
from segjax.models.layers.fpn import FPN
from segjax.models.layers.resnet import ResNet
from segjax.types import Batch
from tests import tiny

TERMS = {"rpn_objectness", "rpn_box", "class", "box"}
WHOLE, PIXEL = [0, 0, 64, 64], [20, 20, 21, 21]
MANY = [[x, y, x + 14, y + 14] for x in (0, 16, 32, 48) for y in (0, 16, 32, 48)]
CASES = {
    "two objects and one": tiny.TWO,
    "no object in one image": [tiny.TWO[0], ([], [])],
    "no object at all": [([], []), ([], [])],
    "an object as large as the image": [([WHOLE], [0]), ([WHOLE, WHOLE], [1, 2])],
    "an object of one pixel": [([PIXEL], [0]), ([PIXEL, [63, 63, 64, 64]], [1, 2])],
    "more objects than samples": [(MANY, [0, 1] * 8), (MANY, [2] * 16)],
}


def widened(batch: Batch, capacity: int) -> Batch:
    """The batch with more padding behind its objects, so that all cases have one shape."""
    more = capacity - batch.instances.labels.shape[1]
    pad = lambda x: np.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))  # noqa: E731
    return batch.replace(instances=jax.tree.map(pad, batch.instances))


@pytest.fixture(scope="module")
def model():
    # Fewer samples than the 16 objects of "more objects than samples".
    rpn, sampling = (dataclasses.replace(part, samples=12) for part in (tiny.MODEL.rpn, tiny.MODEL.sampling))
    return dataclasses.replace(tiny.MODEL, rpn=rpn, sampling=sampling).build(3)


@pytest.fixture(scope="module")
def variables(model):
    """Initial variables whose last layers are made larger, so that scores spread and boxes move."""
    made = jax.jit(model.init)(jax.random.key(0), tiny.batch_of(tiny.TWO))
    layers = {"class": 40.0, "box": 300.0}
    head = {
        name: jax.tree.map(lambda x: x * layers.get(name, 1.0), part)  # noqa: B023
        for name, part in made["params"]["box"].items()
    }
    return {**made, "params": {**made["params"], "box": head}}


@pytest.fixture(scope="module")
def gradient(model):
    """(variables, batch, key) -> ((total, terms), gradient), compiled once for all cases."""

    def total(params, variables, batch, key):
        terms, _ = model.losses({**variables, "params": params}, batch, key)
        return sum(terms.values()), terms

    compute = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda variables, batch, key: compute(variables["params"], variables, widened(batch, 16), key)


@pytest.fixture(scope="module")
def predict(model):
    return jax.jit(model.predict)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_finite(case, gradient, variables, key):
    batch = tiny.batch_of(CASES[case], capacity=16)
    (_, terms), grads = gradient(variables, batch, key)
    assert set(terms) == TERMS
    chex.assert_tree_all_finite((terms, grads))
    assert all(value.dtype == jnp.float32 and value >= 0 for value in terms.values())
    empty = not batch.instances.valid.any()
    assert (float(terms["rpn_box"]) == 0) == empty
    assert (float(terms["box"]) == 0) == empty
    assert terms["rpn_objectness"] > 0.01 and terms["class"] > 0.01  # the background is learnt in every image
    reached = [float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads["backbone"])]
    assert all(reached)


def test_rows_of_padding_change_nothing(gradient, variables, key):
    batch = tiny.batch_of(tiny.TWO)
    rubbish = batch.instances.replace(
        boxes=np.where(batch.instances.valid[..., None], batch.instances.boxes, np.float32([-5, 1e6, np.nan, 3])),
        labels=np.where(batch.instances.valid, batch.instances.labels, 2).astype(np.int32),
    )
    chex.assert_trees_all_equal(
        gradient(variables, batch, key), gradient(variables, batch.replace(instances=rubbish), key)
    )


def test_bytes_in_the_padding_change_nothing(gradient, predict, variables, key):
    batch = tiny.batch_of([([[4, 4, 30, 24]], [0]), ([[10, 6, 28, 40]], [1])], sizes=[(40, 64), (64, 48)])
    noise = np.random.default_rng(1).integers(0, 256, batch.images.shape).astype(np.uint8)
    inside = [np.s_[0, :40, :], np.s_[1, :, :48]]
    for where in inside:
        noise[where] = batch.images[where]
    assert (noise != batch.images).any()
    chex.assert_trees_all_equal(gradient(variables, batch, key), gradient(variables, batch.replace(images=noise), key))
    found = predict(variables, batch.images, batch.sizes)
    assert found.valid.any()
    chex.assert_trees_all_equal(found, predict(variables, noise, batch.sizes))


def test_bytes_and_floats_agree(model, predict, variables):
    batch = tiny.batch_of(tiny.TWO)
    floats = (batch.images / np.float32(255)).astype(np.float32)
    found, again = predict(variables, batch.images, batch.sizes), predict(variables, floats, batch.sizes)
    assert found.valid.any()
    chex.assert_trees_all_close(found, again, rtol=1e-5, atol=1e-4)


def test_samples_follow_the_key_and_the_image(gradient, variables, key):
    batch = tiny.batch_of(tiny.TWO)
    loss = lambda batch, key: float(gradient(variables, batch, key)[0][0])  # noqa: E731
    assert loss(batch, key) == loss(batch, key)
    assert loss(batch, key) != loss(batch, jax.random.key(1))
    assert loss(batch, key) != loss(batch.replace(samples=batch.samples + 7), key)
    turned = jax.tree.map(lambda x: x[::-1].copy(), batch)
    np.testing.assert_allclose(loss(turned, key), loss(batch, key), rtol=1e-5)  # its place in the batch is no matter


def test_predictions_keep_their_contract(predict, variables):
    batch = tiny.batch_of([*tiny.TWO], sizes=[(40, 64), (64, 48)])
    found = jax.device_get(predict(variables, batch.images, batch.sizes))
    assert found.boxes.shape == (2, 6, 4) and found.boxes.dtype == np.float32
    assert found.scores.dtype == np.float32 and found.labels.dtype == np.int32
    for i, (height, width) in enumerate(batch.sizes):
        valid = found.valid[i]
        assert 2 <= valid.sum() and (valid == (np.arange(6) < valid.sum())).all()  # the valid ones come first
        boxes, scores = found.boxes[i, valid], found.scores[i, valid]
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (np.diff(scores) <= 0).all() and (scores > tiny.MODEL.box.score_threshold).all() and (scores <= 1).all()
        assert ((found.labels[i] >= 0) & (found.labels[i] < 3)).all()
        for rows in (found.boxes[i, ~valid], found.scores[i, ~valid], found.labels[i, ~valid]):
            assert (rows == 0).all()
    assert len(np.unique(found.labels[found.valid])) > 1


def test_detections_of_a_class_do_not_overlap_beyond_the_threshold(predict, variables):
    batch = tiny.batch_of(tiny.TWO)
    found = jax.device_get(predict(variables, batch.images, batch.sizes))
    compared = 0
    for boxes, labels, valid in zip(found.boxes, found.labels, found.valid):
        boxes, labels = boxes[valid], labels[valid]
        for i in range(len(boxes)):
            for j in range(i):
                if labels[i] == labels[j]:
                    compared += 1
                    assert overlap(boxes[i], boxes[j]) <= tiny.MODEL.box.nms_threshold + 1e-6
    assert compared


def overlap(a, b) -> float:
    """IoU of two boxes, as one would write it down."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_an_image_is_found_the_same_in_any_company(predict, variables):
    batch = tiny.batch_of([tiny.TWO[0], tiny.TWO[1]])
    other = tiny.batch_of([tiny.TWO[0], ([], [])], seed=3)
    other.images[0] = batch.images[0]
    first, second = (predict(variables, b.images, b.sizes) for b in (batch, other))
    chex.assert_trees_all_close(*(jax.tree.map(lambda x: x[0], f) for f in (first, second)), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_close_and_its_losses_are_float32(gradient, variables, key):
    low = dataclasses.replace(tiny.MODEL, dtype="bfloat16").build(3)
    batch = tiny.batch_of(tiny.TWO)
    assert jax.tree.structure(jax.eval_shape(low.init, key, batch)) == jax.tree.structure(variables)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(jax.eval_shape(low.init, key, batch)))
    full = dataclasses.replace(tiny.MODEL, dtype="float32").build(3)
    terms = jax.jit(lambda v, b, k: (low.losses(v, b, k)[0], full.losses(v, b, k)[0]))(variables, batch, key)
    for name, value in terms[0].items():
        assert value.dtype == jnp.float32
        if name.startswith("rpn"):  # what follows picks proposals, where a rounding can pick another one
            np.testing.assert_allclose(value, terms[1][name], rtol=0.03)
    predict = lambda *a: (lambda found: (found.boxes, found.scores))(low.predict(*a))  # noqa: E731
    found = jax.eval_shape(predict, variables, batch.images, batch.sizes)
    assert [x.dtype for x in found] == [jnp.float32] * 2


@pytest.mark.parametrize("sizes, message", [
    (((8.0,), (16.0,)), "rpn.anchor_sizes has 2 entries for 5 feature maps; give one tuple each"),
    (((8.0,), (16.0,), (24.0,), (32.0,), (8.0, 9.0)), "give each map as many"),
])  # fmt: skip
def test_anchors_must_fit_the_maps(sizes, message, key):
    with pytest.raises(ValueError, match=message):
        config = dataclasses.replace(tiny.MODEL, rpn=RPNSettings(anchor_sizes=sizes))
        jax.eval_shape(config.build(3).init, key, tiny.batch_of(tiny.TWO))


@pytest.mark.parametrize("classes", [0, -1])
def test_a_detector_needs_a_class(classes):
    with pytest.raises(ValueError, match=f"classes is {classes}"):
        faster_rcnn(classes)


@pytest.mark.parametrize("norm", ["batch", "group", "frozen_batch"])
def test_statistics_belong_to_batch_norm_alone(norm, key):
    model = dataclasses.replace(tiny.MODEL, norm=norm).build(3)
    batch = tiny.batch_of(tiny.TWO)
    shapes = jax.eval_shape(model.init, key, batch)
    collections = {"batch": {"params", "batch_stats"}, "group": {"params"}, "frozen_batch": {"params", "frozen"}}
    assert set(shapes) == collections[norm]
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes["params"])}
    assert any("norm" in name for name in names) == (norm != "frozen_batch")
    _, after = jax.eval_shape(model.losses, shapes, batch, key)
    assert jax.tree.structure(after) == jax.tree.structure(shapes)


def test_batch_norm_learns_statistics_in_training_alone():
    """The running averages move towards the batch's moments by a tenth, as `momentum` says."""
    from segjax.models.layers.norms import BatchNorm

    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (4, 5, 5, 6)), jnp.float32)
    norm = BatchNorm()
    start = norm.init(jax.random.key(0), x)
    y, new = norm.apply(start, x, train=True, mutable=["batch_stats"])
    values = np.asarray(x)
    mean, var = values.mean((0, 1, 2)), values.var((0, 1, 2))
    moved = new["batch_stats"]["norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * var, rtol=1e-4)
    np.testing.assert_allclose(y, (values - mean) / np.sqrt(var + 1e-5), rtol=1e-3, atol=1e-4)
    still, kept = norm.apply(start, x, mutable=["batch_stats"])
    chex.assert_trees_all_equal(kept["batch_stats"], start["batch_stats"])
    np.testing.assert_allclose(still, x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_the_default_has_torchvisions_number_of_parameters(key):
    """41 755 286 in the table of FasterRCNN_ResNet50_FPN_Weights.COCO_V1: 91 classes with the background.

    The scales and shifts of frozen norms are buffers there, and in no gradient's reach here.
    """
    shapes = jax.eval_shape(faster_rcnn(90).init, key, tiny.batch_of([([], [])]))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == 41_755_286
    assert sum(x.size for x in jax.tree.leaves(shapes["frozen"])) == 4 * 26_560


class LinearBoxNetwork(nn.Module):
    """A box network of a user's own: one layer."""

    @nn.compact
    def __call__(self, features, *, valid, train=False):
        x = features.reshape(*valid.shape, -1)
        deltas = nn.Dense(16, name="box")(x).reshape(*valid.shape, 4, 4)
        return BoxOutputs(nn.Dense(4, name="class")(x), deltas)


def test_heads_and_neck_can_be_brought_along():
    config = tiny.MODEL
    model = faster_rcnn(
        3,
        backbone=ResNet(18, "group", 8),
        neck=FPN(8),
        rpn_head=RPNHead(3),
        heads={"box": BoxHead(LinearBoxNetwork(), config.box, config.pool)},
        rpn=config.rpn,
        sampling=config.sampling,
    )
    batch = tiny.batch_of(tiny.TWO)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    assert set(variables["params"]["box"]) == {"box", "class"}
    assert variables["params"]["neck"]["layer0"]["kernel"].shape == (3, 3, 8, 8)
    losses, _ = jax.jit(model.losses)(variables, batch, jax.random.key(1))
    assert set(losses) == TERMS and all(np.isfinite(value) for value in losses.values())
