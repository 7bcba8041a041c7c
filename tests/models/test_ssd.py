"""SSD: its layers, what its head teaches and finds, by loops, and that all of it together learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.ssd import SSD, SSDLite
from segjax.models.heads.dense import DenseHead
from segjax.models.heads.ssd import PriorSettings, SSDHead, SSDNetwork, SSDOutputs, SSDSettings, SSDTargets
from segjax.models.layers.ssd_vgg import EXTRAS_512, SSDVGG16, L2Scale
from segjax.models.layers.ssdlite import SSDLiteMobileNetV3
from segjax.models.ssd import ssd300, ssd512, ssdlite320
from segjax.types import Instances
from tests import oracles, tiny
from tests.models.test_faster_rcnn import CASES, WHOLE, overlap, widened

PRIORS = PriorSettings((0.2, 0.4, 0.65, 0.9), ((2.0,), (2.0, 3.0), (2.0,)), ())
MODEL = SSD(width=8, norm="group", priors=PRIORS, ssd=SSDSettings(candidates=20, detections=10))
STEPS = 150
CLASSES = len(tiny.CLASSES)


@pytest.fixture(scope="module")
def gradient():
    """(variables, batch) -> ((total, terms), gradient), compiled once for all cases."""
    model = MODEL.build(CLASSES)

    def total(params, variables, batch):
        terms, _ = model.losses({**variables, "params": params}, batch, jax.random.key(0))
        return sum(terms.values()), terms

    compute = jax.jit(jax.value_and_grad(total, has_aux=True))
    return lambda variables, batch: compute(variables["params"], variables, widened(batch, 16))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(MODEL.build(CLASSES).init)(jax.random.key(0), tiny.batch_of(tiny.TWO))


def head_of(**changes) -> SSDHead:
    return SSDHead(SSDNetwork(CLASSES, PRIORS.per_place), PRIORS, SSDSettings(**changes))


def places_of(head: SSDHead):
    return head.places((tiny.SIDE, tiny.SIDE), [(8, 8), (4, 4), (2, 2)])


@pytest.mark.parametrize(("make", "side", "parameters"), [
    (ssd300, 300, 35_641_826),  # in the tables of torchvision's SSD300_VGG16_Weights.COCO_V1 ...
    (ssdlite320, 320, 3_440_060),  # ... and SSDLite320_MobileNet_V3_Large_Weights.COCO_V1
])  # fmt: skip
def test_the_defaults_have_torchvisions_number_of_parameters(make, side, parameters, key):
    shapes = jax.eval_shape(make(90).init, key, tiny.batch_of([([], [])], side=side))
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == parameters


@pytest.mark.parametrize(("network", "side", "maps", "channels"), [
    (SSDVGG16(), 300, (38, 19, 10, 5, 3, 1), (512, 1024, 512, 256, 256, 256)),
    (SSDVGG16(extras=EXTRAS_512), 512, (64, 32, 16, 8, 4, 2, 1), (512, 1024, 512, 256, 256, 256, 256)),
    (SSDLiteMobileNetV3(), 320, (20, 10, 5, 3, 2, 1), (672, 480, 512, 256, 256, 128)),
])  # fmt: skip
def test_the_maps_are_the_papers(network, side, maps, channels, key):
    found, _ = jax.eval_shape(network.init_with_output, key, jnp.zeros((1, side, side, 3)))
    assert [x.shape for x in found] == [(1, n, n, c) for n, c in zip(maps, channels)]


def test_scaled_pixels_have_one_length(rng):
    x = rng.normal(size=(2, 3, 3, 5)).astype(np.float32) * 1e3
    x[0, 1, 1] = 0
    x = jnp.asarray(x)
    layer = L2Scale()
    params = {"params": {"scale": jnp.arange(5, dtype=jnp.float32)}}
    assert (layer.init(jax.random.key(0), x)["params"]["scale"] == 20).all()
    found, pull = jax.vjp(lambda x: layer.apply(params, x), x)
    length = np.linalg.norm(np.asarray(x), axis=-1, keepdims=True)
    np.testing.assert_allclose(found, np.arange(5) * np.asarray(x) / np.where(length > 0, length, 1), rtol=1e-5)
    assert not np.any(found[0, 1, 1]) and not np.any(pull(jnp.ones_like(found))[0][0, 1, 1])


def some_objects(rng, count, slots=6):
    corner = rng.uniform(0, 34, (slots, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 30, (slots, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, CLASSES, slots).astype(np.int32)
    return Instances(*map(jnp.asarray, (boxes, labels, np.arange(slots) < count)))


@pytest.mark.parametrize("count", [0, 1, 6])
def test_targets_equal_the_loops(count, rng):
    head = head_of()
    places, objects = places_of(head), some_objects(rng, count)
    assert isinstance(head, DenseHead)
    outputs = SSDOutputs(jnp.zeros((len(places), CLASSES + 1)), jnp.zeros((len(places), 4)))
    found = jax.jit(head.targets)(outputs, places, objects, jnp.array([64, 64]))
    ious = oracles.pairwise(oracles.iou, objects.boxes[:count], places)
    owner = np.full(len(places), -1)
    if count:
        owner = np.where(ious.max(0) >= 0.5, ious.argmax(0), -1)
        for g in range(count):
            owner[ious[g].argmax()] = g
    if count == 6:
        assert (ious.max(0)[owner >= 0] < 0.5).any(), "some object must have its best prior alone"
    np.testing.assert_array_equal(found.column, np.where(owner >= 0, objects.labels[owner] + 1, 0))
    for i in np.flatnonzero(owner >= 0):
        expected = oracles.encode(np.float64(objects.boxes[owner[i]]), np.float64(places[i]), (10, 10, 5, 5))
        np.testing.assert_allclose(found.deltas[i], expected, atol=1e-3)


def losses_by_loops(logits, deltas, column, target, ratio=3):
    """torchvision's, one image after the other: (class, box, the priors that the first is over)."""
    logits, deltas, target = (np.asarray(x, np.float64) for x in (logits, deltas, target))
    column, classes, box, taken = np.asarray(column), 0.0, 0.0, np.zeros(np.shape(column), bool)
    for i in range(len(column)):
        loss = np.array([np.log(np.exp(row).sum()) - row[c] for row, c in zip(logits[i], column[i])])
        positive = column[i] > 0
        negatives = sorted(np.flatnonzero(~positive), key=lambda j: (-np.float32(loss[j]), j))
        taken[i, positive], taken[i, negatives[: ratio * positive.sum()]] = True, True
        classes += loss[taken[i]].sum()
        off = np.abs(deltas[i] - target[i])[positive]
        box += np.where(off < 1, off**2 / 2, off - 0.5).sum()
    count = max((column > 0).sum(), 1)
    return classes / count, box / count, taken


@pytest.mark.parametrize("positives", [(0, 0, 0), (2, 0, 5), (1, 9, 30)])
def test_losses_equal_the_loops(positives, rng):
    """Logits of a few values: most negatives are as hard as others. With 30 of 40 positive there are too few."""
    n = 40
    column = np.zeros((3, n), np.int32)
    for i, count in enumerate(positives):
        column[i, rng.permutation(n)[:count]] = rng.integers(1, CLASSES + 1, count)
    logits = jnp.asarray(rng.integers(0, 2, (3, n, CLASSES + 1)), jnp.float32)
    deltas, target = (jnp.asarray(rng.normal(0, 2, (3, n, 4)), jnp.float32) for _ in range(2))
    head, targets = head_of(), SSDTargets(jnp.asarray(column), target)

    def terms(logits):
        found = head.losses(SSDOutputs(logits, deltas), targets, jnp.zeros((n, 4)))
        return found["class"], found["box"]

    (found, box), gradient = jax.jit(jax.value_and_grad(terms, has_aux=True))(logits)
    expected, expected_box, taken = losses_by_loops(logits, deltas, column, target)
    np.testing.assert_allclose([found, box], [expected, expected_box], rtol=1e-5)
    # Only what was chosen is learnt from, which shows the choice among equals.
    np.testing.assert_array_equal(np.any(np.asarray(gradient), axis=2), taken)
    assert (float(found) > 0) == (sum(positives) > 0)


def test_decoding_equals_the_loops(rng):
    head = head_of(score_threshold=0.15, candidates=12, nms_threshold=0.3, detections=25)
    places, size = np.asarray(places_of(head)), (50, 64)
    logits = rng.normal(0, 1.5, (len(places), CLASSES + 1)).astype(np.float32)
    deltas = rng.normal(0, 1, (len(places), 4)).astype(np.float32)
    found = jax.jit(head.decode)(SSDOutputs(*map(jnp.asarray, (logits, deltas))), jnp.asarray(places), jnp.array(size))
    centre, extent = (places[:, :2] + places[:, 2:]) / 2, places[:, 2:] - places[:, :2]
    centre, extent = centre + deltas[:, :2] / 10 * extent, np.exp(deltas[:, 2:] / 5) * extent
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
    boxes = np.clip(boxes, 0, [size[1], size[0]] * 2)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = []
    for label in range(CLASSES):
        own = scores[:, label + 1]
        best = [i for i in np.argsort(-own, kind="stable")[:12] if own[i] > 0.15]
        rows += [(own[best[k]], label, *boxes[best[k]]) for k in oracles.nms(boxes[best], own[best], 0.3)]
    rows = np.array(sorted(rows, reverse=True)[:25])
    kept = np.asarray(found.valid)
    assert len(rows) == kept.sum() > 15 and len(set(rows[:, 1])) == CLASSES
    np.testing.assert_allclose(np.asarray(found.scores)[kept], rows[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.labels)[kept], rows[:, 1])
    np.testing.assert_allclose(np.asarray(found.boxes)[kept], rows[:, 2:], atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_finite(case, gradient, variables):
    batch = tiny.batch_of(CASES[case], capacity=16)
    (_, terms), grads = gradient(variables, batch)
    assert set(terms) == {"class", "box"}
    chex.assert_tree_all_finite((terms, grads))
    empty = not batch.instances.valid.any()
    assert (float(terms["box"]) == 0) == empty and (float(terms["class"]) == 0) == empty
    # Of the heads of a map nothing is learnt where none of its priors is chosen.
    trunk = [part for name, part in grads["backbone"].items() if name < "conv5"]
    assert len(trunk) == 21
    assert empty or all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(trunk))


def test_rows_of_padding_change_nothing(gradient, variables):
    batch = tiny.batch_of(tiny.TWO)
    valid = batch.instances.valid
    rubbish = batch.instances.replace(
        boxes=np.where(valid[..., None], batch.instances.boxes, np.float32(WHOLE)),
        labels=np.where(valid, batch.instances.labels, 2).astype(np.int32),
    )
    chex.assert_trees_all_equal(gradient(variables, batch), gradient(variables, batch.replace(instances=rubbish)))


def test_it_overfits_one_batch():
    """From scratch, Adam brings the losses of two images down, and predict then finds their objects."""
    model, batch = MODEL.build(CLASSES), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(model, batch, steps=STEPS)
    assert sum(last.values()) < 0.1 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        for box, label in zip(boxes, labels):
            best = max(range(len(boxes)), key=lambda j: overlap(found.boxes[i, j], box))
            assert overlap(found.boxes[i, best], box) > 0.7 and found.labels[i, best] == label
            assert found.scores[i, best] > 0.7


@pytest.mark.parametrize("make", [ssd300, ssd512, ssdlite320])
def test_a_detector_needs_a_class(make):
    with pytest.raises(ValueError, match="classes is 0"):
        make(0)


@pytest.mark.parametrize(("model", "side", "message"), [
    (SSD(), 320, "an image of 320 x 320 pixels has a map of 3 x 3 cells, which steps of 100.0"),
    (SSD(), 64, "images of 64 x 64 pixels leave nothing of the map conv10_2"),
    (SSD(form="512"), 512, "steps of 100.0 pixels do not cover"),
    (SSDLite(priors=PRIORS), 64, "6 maps need as many ratios, one scale more, .* got 3 ratios"),
])  # fmt: skip
def test_images_that_the_priors_do_not_fit(model, side, message, key):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.build(CLASSES).init, key, tiny.batch_of([([], [])], side=side))


def test_priors_of_maps_that_are_not_there():
    with pytest.raises(ValueError, match="entries for 7 maps; give 2 to 6 of them"):
        ssd300(3, priors=PriorSettings(8 * (0.5,), 7 * ((),), ()))


@pytest.mark.parametrize("known", [True, False])
def test_hidden_layers_of_a_classifier_are_thinned_out(known, rng):
    """Of 7x7x2 inputs and 12 units, 3x3x2 and 3 are left; of a file without them, the convolutions alone."""
    fc6 = {"kernel": rng.normal(size=(98, 12)), "bias": rng.normal(size=12) if known else np.full(12, np.nan)}
    fc7 = {"kernel": rng.normal(size=(12, 8)), "bias": rng.normal(size=8)}
    weights = {"params": {"backbone": {"conv1_1": {}}, "box": {"fc6": fc6, "fc7": fc7, "class": {}}}}
    backbone = SSD().adapted(weights)["params"]["backbone"]
    assert set(backbone) == ({"conv1_1", "fc6", "fc7"} if known else {"conv1_1"})
    if known:
        assert backbone["fc6"]["kernel"].shape == (3, 3, 2, 3) and backbone["fc7"]["kernel"].shape == (1, 1, 3, 2)
        assert backbone["fc6"]["kernel"][2, 1, 1, 2] == fc6["kernel"][(6 * 7 + 3) * 2 + 1, 8]
        assert (
            backbone["fc7"]["kernel"][0, 0, 2, 1] == fc7["kernel"][8, 4]
            and backbone["fc7"]["bias"][1] == fc7["bias"][4]
        )
    assert SSD().adapted({"params": {"backbone": {}}}) == {"params": {"backbone": {}}}
