"""RetinaNet: targets, losses and decoding against loops, sizes, what it starts from, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.heads.dense import DenseHead
from segjax.models.heads.retina import RetinaHead, RetinaNetwork, RetinaOutputs, RetinaSettings
from segjax.models.retinanet import retinanet
from segjax.pretrained import model
from segjax.types import Instances
from tests import oracles, tiny
from tests.models.dense import MAPS, RETINA, SIZE, check_detections, detections, summed_focal
from tests.models.test_faster_rcnn import overlap
from tests.ops.test_box_losses import giou_loss

CLASSES = 3
HEAD = RetinaHead(RetinaNetwork(CLASSES, 3), RETINA.head)
PLACES = HEAD.places(SIZE, MAPS)
ANCHORS = np.concatenate(PLACES)
# Two objects whose best anchors are the same ones, a small one, and padding in the place of a fourth.
BOXES = [[4, 4, 28, 28], [5, 4, 28, 29], [30, 10, 41, 21], [0, 0, 40, 30]]
OBJECTS = Instances(jnp.array(BOXES, jnp.float32), jnp.array([2, 0, 1, 1]), jnp.array([True, True, True, False]))
SIZE_ARRAY = jnp.array(SIZE)


def outputs(rng, *batch):
    logits = rng.normal(-2, 2, (*batch, len(ANCHORS), CLASSES)).astype(np.float32)
    deltas = rng.normal(0, 0.4, (*batch, len(ANCHORS), 4)).astype(np.float32)
    return RetinaOutputs(jnp.asarray(logits), jnp.asarray(deltas))


def as_batch(*objects):
    return jax.tree.map(lambda *x: jnp.stack(x), *objects)


def test_places():
    assert [x.shape for x in PLACES] == [(8 * 12 * 3, 4), (4 * 6 * 3, 4), (2 * 3 * 3, 4)]
    assert isinstance(HEAD, DenseHead)
    # The second position of the finest map, its square anchor.
    np.testing.assert_array_equal(PLACES[0][3 + 1], [4 - 6, -6, 4 + 6, 6])


@pytest.mark.parametrize("count", [4, 1, 0])
def test_targets_equal_the_loop(count, rng):
    objects = OBJECTS.replace(valid=OBJECTS.valid & (jnp.arange(4) < count))
    found = jax.jit(HEAD.targets)(outputs(rng), PLACES, objects, SIZE_ARRAY)
    valid = np.asarray(objects.valid)
    target, status, _ = oracles.match(ANCHORS, np.float64(BOXES), valid, 0.5, 0.4, True)
    np.testing.assert_array_equal(found.labels, np.where(status == 1, np.array([2, 0, 1, 1])[target], -1))
    np.testing.assert_array_equal(found.counted, status != -1)
    np.testing.assert_array_equal(found.boxes[status == 1], np.array(BOXES)[target][status == 1])
    assert (status == 1).any() == (count > 0) and (status == -1).any() == (count > 0)
    assert set(target[status == 1]) == set(range(min(count, 3)))


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_losses_equal_the_loop(kind, rng):
    """Each image is divided by its own positives; one has none."""
    head = RetinaHead(HEAD.network, dataclasses.replace(HEAD.settings, box_loss=kind))
    objects = as_batch(OBJECTS, OBJECTS.replace(valid=jnp.zeros(4, bool)))
    out = outputs(rng, 2)
    targets = jax.vmap(head.targets, (0, None, 0, None))(out, PLACES, objects, SIZE_ARRAY)
    found = jax.jit(head.losses)(out, targets, PLACES)
    expected = {"class": [], "box": []}
    for i in range(2):
        labels, boxes = np.asarray(targets.labels[i]), np.asarray(targets.boxes[i])
        positives = np.nonzero(labels >= 0)[0]
        focal = [summed_focal(out.logits[i, a], labels[a]) for a in np.nonzero(targets.counted[i])[0]]
        box = []
        for a in positives:
            if kind == "l1":
                wanted = oracles.encode(boxes[a], ANCHORS[a], (1, 1, 1, 1))
                box.append(np.abs(np.asarray(out.deltas[i, a]) - wanted).sum())
            else:
                box.append(giou_loss(decoded(ANCHORS[a], np.asarray(out.deltas[i, a])), boxes[a]))
        expected["class"].append(sum(focal) / max(1, len(positives)))
        expected["box"].append(sum(box) / max(1, len(positives)))
    assert set(found) == set(expected) and expected["box"][1] == 0
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], np.mean(values), rtol=1e-4)


def decoded(anchor, deltas):
    side = anchor[2:] - anchor[:2]
    centre, size = (anchor[:2] + anchor[2:]) / 2 + deltas[:2] * side, side * np.exp(deltas[2:])
    return np.concatenate([centre - size / 2, centre + size / 2])


def test_what_lies_between_the_thresholds_teaches_nothing(rng):
    objects, out = as_batch(OBJECTS), outputs(rng, 1)
    targets = jax.vmap(HEAD.targets, (0, None, 0, None))(out, PLACES, objects, SIZE_ARRAY)
    gradient = jax.grad(lambda x: HEAD.losses(out._replace(logits=x), targets, PLACES)["class"])(out.logits)
    np.testing.assert_array_equal(np.asarray(gradient).any(-1), targets.counted)


def test_decoding_equals_the_loop(rng):
    """In an image whose last rows are padding: boxes end where it ends."""
    out = outputs(rng)
    found = jax.device_get(jax.jit(HEAD.decode)(out, PLACES, jnp.array([29, 48])))
    scores = 1 / (1 + np.exp(-np.float64(out.logits)))
    boxes = np.stack([decoded(a, d) for a, d in zip(ANCHORS, np.asarray(out.deltas))])
    boxes = np.clip(boxes, 0, [48, 29, 48, 29])
    levels = [len(level) for level in PLACES]
    expected = detections(scores, boxes, levels, dataclasses.replace(HEAD.settings, detections=len(found.valid)))
    assert sum(scores[: levels[0]].ravel() > 0.05) > HEAD.settings.candidates  # the first level is cut off
    check_detections(found, expected)
    nothing = jax.jit(HEAD.decode)(out._replace(logits=out.logits - 30), PLACES, SIZE_ARRAY)
    assert not nothing.valid.any() and not nothing.boxes.any()


@pytest.mark.parametrize(("make", "count"), [
    (lambda: retinanet(91), 34_014_999),
    (lambda: model("retinanet_resnet50_fpn", classes=91), 34_014_999),
    (lambda: model("retinanet_resnet50_fpn_v2", classes=91), 38_198_935),
    # torchvision's 91st column, of the background, is not there.
    (lambda: model("retinanet_resnet50_fpn"), 34_014_999 - 9 * (9 * 256 + 1)),
])  # fmt: skip
def test_published_sizes(make, count, key):
    """As torchvision and its weights' metadata count them."""
    variables = jax.eval_shape(make().init, key, tiny.batch_of(tiny.TWO))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


def test_it_starts_as_a_sceptic(key):
    """Of unit features, every class has about one percent, and boxes are about the anchors."""
    maps = [jax.random.normal(key, (1, 4, 6, 32)), jax.random.normal(key, (1, 2, 3, 32))]
    out, variables = RetinaNetwork(5, 3).init_with_output(key, maps)
    assert out.logits.shape == (1, (24 + 6) * 3, 5) and out.deltas.shape == (1, 90, 4)
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits), 0.01, atol=1e-3)
    assert np.abs(out.deltas).max() < 0.1
    assert "class_norm0" not in variables["params"] and "bias" in variables["params"]["class_conv3"]
    out, variables = RetinaNetwork(5, 3, norm="group").init_with_output(key, maps)
    assert "bias" not in variables["params"]["box_conv3"] and "box_norm3" in variables["params"]


def test_levels_do_not_mix(key):
    """A place's outputs come from its own level, in the order of the levels."""
    maps = [jax.random.normal(key, (1, 4, 6, 8)), jax.random.normal(key, (1, 2, 3, 8))]
    network = RetinaNetwork(2, 3, depth=1)
    variables = network.init(key, maps)
    both = network.apply(variables, maps)
    for part, one in ((slice(72), maps[0]), (slice(72, None), maps[1])):
        alone = network.apply(variables, [one])
        np.testing.assert_allclose(both.logits[:, part], alone.logits, rtol=1e-5)
        np.testing.assert_allclose(both.deltas[:, part], alone.deltas, atol=1e-7)


def test_settings_that_do_not_fit_are_named(key, rng):
    with pytest.raises(ValueError, match=r"anchor_sizes has 3 entries for 2 feature maps; give one tuple each"):
        HEAD.places(SIZE, MAPS[:2])
    with pytest.raises(ValueError, match="give each map as many: one network sees all"):
        _ = RetinaSettings(anchor_sizes=((8.0,), (8.0, 16.0))).per_position
    with pytest.raises(ValueError, match="classes is 0; a detector needs at least one"):
        retinanet(0)
    few = RetinaOutputs(jnp.zeros((9, 2)), jnp.zeros((9, 4)))
    for function in (
        lambda: HEAD.decode(few, PLACES, SIZE_ARRAY),
        lambda: HEAD.targets(few, PLACES, OBJECTS, SIZE_ARRAY),
    ):
        with pytest.raises(
            ValueError, match=r"speaks of 9 places and the settings make 378, \(288, 72, 18\) on the levels"
        ):
            function()
    small = dataclasses.replace(RETINA, extra="convolved").build(3)
    with pytest.raises(ValueError, match=r"anchor_sizes has 3 entries for 5 feature maps"):
        jax.eval_shape(small.init, key, tiny.batch_of(tiny.TWO))


def test_it_overfits_one_batch():
    small, batch = RETINA.build(3), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(small, batch, steps=200)
    assert set(first) == {"class", "box"} and sum(last.values()) < 0.2 * sum(first.values())
    found = jax.device_get(jax.jit(small.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        for box, label in zip(boxes, labels):
            best = max(range(len(boxes)), key=lambda j: overlap(found.boxes[i, j], box))
            assert found.valid[i, best]
            assert overlap(found.boxes[i, best], box) > 0.6 and found.labels[i, best] == label
