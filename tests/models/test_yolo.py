"""YOLO: its loss against a slow transcription of equation 3, its network, what it says of inputs that do not fit."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import CONFIGS
from configs.yolo import YOLOv1
from segjax.models.heads.dense import DenseHead
from segjax.models.heads.yolo import YOLOHead, YOLONetwork, YOLOOutputs, YOLOSettings
from segjax.models.layers.darknet import FAST, YOLO, Darknet, DarknetLayer, Layer
from segjax.models.layers.resnet import ResNet
from segjax.models.yolo import yolo_v1
from segjax.types import Instances
from tests import tiny
from tests.models.test_faster_rcnn import overlap

SIZE, GRID, BOXES, CLASSES = (60, 90), 3, 2, 4
HEAD = YOLOHead(YOLONetwork(CLASSES, GRID, BOXES), GRID)
PLACES = HEAD.places(SIZE, [])
# The second and the third object share cell (1, 1), the fourth row is padding, and the last image is empty.
OBJECTS = [
    ([[5, 3, 25, 15], [33, 22, 50, 37], [31, 25, 58, 36], [0, 0, 90, 60]], [2, 1, 3, 0], [True, True, True, False]),
    ([[60, 40, 90, 60], [70, 5, 85, 15], [0, 0, 0, 0], [0, 0, 0, 0]], [0, 1, 0, 0], [True, True, False, False]),
    ([[0, 0, 0, 0]] * 4, [0] * 4, [False] * 4),
]
INSTANCES = Instances(
    jnp.asarray([boxes for boxes, _, _ in OBJECTS], jnp.float32),
    jnp.asarray([labels for _, labels, _ in OBJECTS], jnp.int32),
    jnp.asarray([valid for _, _, valid in OBJECTS]),
)


def some_outputs(rng) -> YOLOOutputs:
    """Predictions near objects, with roots of both signs, and predictions that overlap nothing."""
    boxes = rng.normal(0.4, 0.4, (len(OBJECTS), GRID**2, BOXES, 4))
    boxes[1, 2] = [[5, 5, 0.1, 0.1], [3, 3, 0.1, 0.1]]  # no overlap with the second image's object in this cell
    confidences = rng.normal(0.3, 0.4, boxes.shape[:3])
    classes = rng.normal(0.3, 0.4, (*boxes.shape[:2], CLASSES))
    return YOLOOutputs(*(jnp.asarray(x, jnp.float32) for x in (boxes, confidences, classes)))


def plain_losses(outputs, objects, size, grid, *, coord=5.0, noobj=0.5, targets=None):
    """Equation 3, cell by cell and box by box, in float64; `targets` fixes (predictor, IoU) of each cell."""
    height, width = size
    sums, chosen = dict.fromkeys(("center", "size", "object", "no_object", "class"), 0.0), {}
    outputs = jax.tree.map(lambda x: np.asarray(x, np.float64), outputs)
    for image, (boxes, labels, valid) in enumerate(objects):
        owner = {}
        for k in range(len(labels)):
            x1, y1, x2, y2 = boxes[k]
            cell = (int((x1 + x2) / 2 // (width / grid)), int((y1 + y2) / 2 // (height / grid)))
            size_of = (x2 - x1) * (y2 - y1)
            if valid[k] and (cell not in owner or size_of > owner[cell][1]):
                owner[cell] = (k, size_of)
        for row in range(grid):
            for column in range(grid):
                i = row * grid + column
                predicted = [tuple(box) for box in outputs.boxes[image, i]]
                confidence = outputs.confidences[image, i]
                if (column, row) not in owner:
                    sums["no_object"] += noobj * sum(c**2 for c in confidence)
                    continue
                k, _ = owner[column, row]
                x1, y1, x2, y2 = boxes[k]
                x, y = (x1 + x2) / 2 / width * grid - column, (y1 + y2) / 2 / height * grid - row
                w, h = (x2 - x1) / width, (y2 - y1) / height
                corners = []
                for px, py, pw, ph in predicted:
                    cx, cy = (px + column) / grid * width, (py + row) / grid * height
                    half = (pw**2 * width / 2, ph**2 * height / 2)
                    corners.append((cx - half[0], cy - half[1], cx + half[0], cy + half[1]))
                ious = [overlap(np.array(corner), np.array(boxes[k], float)) for corner in corners]
                far = [
                    ((px - x) / grid) ** 2 + ((py - y) / grid) ** 2 + (pw**2 - w) ** 2 + (ph**2 - h) ** 2
                    for px, py, pw, ph in predicted
                ]
                j = int(np.argmax(ious)) if max(ious) > 0 else int(np.argmin(far))
                iou = ious[j]
                if targets is not None:
                    j, iou = targets[image, i]
                chosen[image, i] = (j, iou)
                px, py, pw, ph = predicted[j]
                sums["center"] += coord * ((px - x) ** 2 + (py - y) ** 2)
                sums["size"] += coord * ((pw - w**0.5) ** 2 + (ph - h**0.5) ** 2)
                sums["object"] += (confidence[j] - iou) ** 2
                sums["no_object"] += noobj * sum(c**2 for m, c in enumerate(confidence) if m != j)
                for c in range(CLASSES):
                    sums["class"] += (outputs.classes[image, i, c] - (c == labels[k])) ** 2
    return {name: value / len(objects) for name, value in sums.items()}, chosen


@jax.jit
def losses_of(outputs):
    targets = jax.vmap(HEAD.targets, in_axes=(0, None, 0, None))(
        jax.lax.stop_gradient(outputs), PLACES, INSTANCES, jnp.asarray(SIZE)
    )
    return HEAD.losses(outputs, targets, PLACES), targets


gradients_of = jax.jit(jax.grad(lambda outputs: sum(losses_of(outputs)[0].values())))


def test_the_loss_is_equation_3(rng):
    seen = set()
    for _ in range(20):
        outputs = some_outputs(rng)
        losses, targets = losses_of(outputs)
        expected, chosen = plain_losses(outputs, OBJECTS, SIZE, GRID)
        assert {name: float(value) for name, value in losses.items()} == pytest.approx(expected, rel=2e-5, abs=2e-5)
        # Two in a cell: the larger is kept, the other counted. Four cells have an object, one predictor each.
        assert targets.lost.tolist() == [1, 0, 0] and int(targets.responsible.sum()) == 4 == len(chosen)
        for (image, cell), (j, iou) in chosen.items():
            assert bool(targets.responsible[image, cell, j])
            assert float(targets.iou[image, cell, j]) == pytest.approx(iou, abs=1e-5)
            seen.add((j, iou > 0))
    assert {(0, True), (1, True), (1, False)} <= seen  # either predictor, and the nearer one where none overlaps


def test_an_empty_image_has_confidences_alone(rng):
    outputs = some_outputs(rng)
    gradients = gradients_of(outputs)
    np.testing.assert_allclose(gradients.confidences[2], 2 * 0.5 * outputs.confidences[2] / 3, rtol=1e-5)
    assert not np.any(gradients.boxes[2]) and not np.any(gradients.classes[2])


def test_gradients_are_those_of_finite_differences(rng):
    """Of the float64 transcription, the responsible predictors and their IoU being constants."""
    outputs = some_outputs(rng)
    gradients = jax.device_get(gradients_of(outputs))
    _, chosen = plain_losses(outputs, OBJECTS, SIZE, GRID)
    plain = jax.tree.map(lambda x: np.array(x, np.float64), outputs)

    def total(outputs):
        return sum(plain_losses(outputs, OBJECTS, SIZE, GRID, targets=chosen)[0].values())

    step, compared = 1e-5, 0
    for field in plain._fields:
        values = getattr(plain, field)
        for (image, cell), (j, _) in chosen.items():
            at = (image, cell, j, *([1] if field == "boxes" else []))
            at = (image, cell, 2) if field == "classes" else at
            for index in [at, (*at[:-1], (at[-1] + 1) % values.shape[-1])]:
                kept = values[index]
                values[index] = kept + step
                above = total(plain)
                values[index] = kept - step
                below = total(plain)
                values[index] = kept
                expected = (above - below) / (2 * step)
                assert getattr(gradients, field)[index] == pytest.approx(expected, rel=1e-3, abs=1e-4)
                compared += expected != 0
    assert compared > 15


@functools.partial(jax.jit, static_argnums=3)
def decode(outputs, places, sizes, head=HEAD):
    return jax.vmap(head.decode, in_axes=(0, None, 0))(outputs, places, sizes)


def test_perfect_outputs_have_no_loss_and_are_found():
    boxes, confidences = np.zeros((3, 9, 2, 4), np.float32), np.zeros((3, 9, 2), np.float32)
    classes, expected = np.zeros((3, 9, 4), np.float32), [[], [], []]
    kept = [(0, 0, 0), (0, 2, 4), (1, 0, 8), (1, 1, 2)]  # image, object, cell
    for image, k, cell in kept:
        x1, y1, x2, y2 = OBJECTS[image][0][k]
        x, y = (x1 + x2) / 2 / 30 - cell % 3, (y1 + y2) / 2 / 20 - cell // 3
        boxes[image, cell, 1] = [x, y, ((x2 - x1) / 90) ** 0.5, -(((y2 - y1) / 60) ** 0.5)]
        confidences[image, cell, 1], classes[image, cell, OBJECTS[image][1][k]] = 1, 0.5 + k / 4
        expected[image].append((0.5 + k / 4, OBJECTS[image][1][k], [x1, y1, x2, y2]))
    confidences[:, 3], classes[:, 3] = -1, -1  # two negative numbers make no score
    outputs = YOLOOutputs(jnp.asarray(boxes), jnp.asarray(confidences), jnp.asarray(classes))
    found = jax.device_get(decode(outputs, PLACES, jnp.asarray([[60, 90], [60, 80], [60, 90]])))
    for i, objects in enumerate(expected):
        objects.sort(reverse=True)
        assert found.valid[i].sum() == len(objects)
        for j, (score, label, (x1, y1, x2, y2)) in enumerate(objects):
            assert (found.scores[i, j], found.labels[i, j]) == (pytest.approx(score), label)
            # The second image is 80 pixels wide without its padding.
            clipped = [x1, y1, min(x2, 80), y2] if i == 1 else [x1, y1, x2, y2]
            np.testing.assert_allclose(found.boxes[i, j], clipped, atol=1e-4)
    roots = YOLOOutputs(jnp.abs(outputs.boxes), outputs.confidences.clip(0), (outputs.classes > 0).astype(jnp.float32))
    assert all(float(value) == pytest.approx(0, abs=1e-9) for value in losses_of(roots)[0].values())


def test_weak_and_doubled_boxes_are_dropped():
    boxes = jnp.tile(jnp.asarray([0.5, 0.5, 0.6, 0.6], jnp.float32), (9, 2, 1))
    confidences = jnp.zeros((9, 2)).at[4].set(jnp.asarray([0.9, 0.8])).at[0, 0].set(0.05)
    classes = jnp.zeros((9, 4)).at[:, 1].set(1.0).at[:, 2].set(0.5)
    outputs = jax.tree.map(lambda x: x[None], YOLOOutputs(boxes, confidences, classes))
    for threshold, count in ((0.01, 4), (0.5, 1)):
        head = dataclasses.replace(HEAD, settings=YOLOSettings(score_threshold=threshold, detections=6))
        found = jax.device_get(decode(outputs, PLACES, jnp.asarray([SIZE]), head))
        assert found.valid.sum() == count and found.scores.shape == (1, 6)
        assert (found.scores[0, 0], found.labels[0, 0]) == (pytest.approx(0.9), 1)


# The network.


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def test_the_papers_network_has_the_papers_layers(key):
    """Parameters layer by layer, from figure 3 of the paper: kernel sides, channels, weights and biases."""
    network = [(7, 64), (3, 192), (1, 128), (3, 256), (1, 256), (3, 512), *[(1, 256), (3, 512)] * 4, (1, 512),
               (3, 1024), *[(1, 512), (3, 1024)] * 2, *[(3, 1024)] * 4]  # fmt: skip
    assert len(network) == 24 and len(YOLO) == 20 and len(FAST) == 9
    channels, expected = 3, 0
    for kernel, features in network:
        expected += kernel**2 * channels * features + features
        channels = features
    expected += (7 * 7 * 1024 + 1) * 4096 + (4096 + 1) * 7 * 7 * 30
    assert expected == 271_703_550
    variables = jax.eval_shape(yolo_v1(20).init, key, tiny.batch_of([([], [])], side=448))
    assert count(variables) == expected
    assert variables["params"]["head"]["hidden1"]["kernel"].shape == (7, 7, 1024, 4096)


def test_fast_yolo(key):
    model = CONFIGS["fast_yolo_voc"].model
    variables = jax.eval_shape(
        dataclasses.replace(model, norm=None).build(20).init, key, tiny.batch_of([([], [])], side=448)
    )
    channels = (3, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024)
    convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(channels))
    assert count(variables) == convolutions + (49 * 1024 + 1) * 256 + 257 * 4096 + 4097 * 1470


@pytest.mark.parametrize(("network", "stride"), [
    (Darknet("yolo", "group", 0.1), 32), (Darknet("fast", None, 0.1), 64), (Darknet("fast", "batch", 0.01), 64),
])  # fmt: skip
def test_darknets(network, stride, key):
    (last,), variables = jax.eval_shape(
        network.init_with_output, key, jax.ShapeDtypeStruct((2, 128, 192, 3), jnp.float32)
    )
    assert network.strides == (stride,) and last.shape[:3] == (2, 128 // stride, 192 // stride)
    assert set(variables["params"]["layer1"]["conv"]) == ({"kernel"} if network.norm else {"kernel", "bias"})
    assert last.shape[3] == round(1024 * network.width)


def test_a_leak_of_a_tenth():
    """Below zero a layer's slope is a tenth of that above (equation 2); the largest of four pixels is passed on."""
    x = jnp.asarray([[-3, -2, 1, 0], [-1, -4, 2, 5]], jnp.float32)[None, ..., None]
    variables = {"params": {"conv": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.ones(1)}}}
    y = DarknetLayer(Layer(1, 1)).apply(variables, x)
    np.testing.assert_allclose(y[0, ..., 0], [[-0.2, -0.1, 2, 1], [0, -0.3, 3, 6]], rtol=1e-6)
    np.testing.assert_allclose(DarknetLayer(Layer(1, 1, pool=True)).apply(variables, x).ravel(), [0, 6])


@pytest.mark.parametrize(("options", "message"), [({"form": "v2"}, "form is 'v2'; choose one of 'yolo', 'fast'"),
                                                  ({"width": 0.0}, "width is 0.0; it multiplies")])  # fmt: skip
def test_darknet_refuses(options, message, key):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Darknet(**options).init, key, jnp.zeros((1, 64, 64, 3)))


SMALL = {"grid": 4, "convolutions": (), "hidden": (48,)}


def small(**options):
    return yolo_v1(3, backbone=ResNet(18, "group", 8, (2,)), **SMALL | options)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(small().init)(jax.random.key(0), tiny.batch_of(tiny.TWO))


def test_the_door():
    assert isinstance(HEAD, DenseHead)


def test_images_of_another_size_are_one_sentence(variables, key):
    model = small()
    for side, at in ((96, "12x12"), (32, "4x4")):
        batch = tiny.batch_of([([], [])], side=side)
        message = f"made for maps of 8x8 positions and 16 channels, and these images give {at} and 16: .*one bucket"
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.predict, variables, jnp.asarray(batch.images), jnp.asarray(batch.sizes))
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(model.losses, variables, batch, key)


def test_turned_images_do_not_pass(key):
    """A map of 1 x 2 positions has as many numbers as one of 2 x 1."""
    shapes = jax.ShapeDtypeStruct((1, 1, 2, 8), jnp.float32), jax.ShapeDtypeStruct((1, 2, 1, 8), jnp.float32)
    network = YOLONetwork(3, **SMALL)
    made = jax.eval_shape(network.init, key, [shapes[0]])
    assert jax.eval_shape(network.apply, made, [shapes[0]]).boxes.shape == (1, 16, 2, 4)
    with pytest.raises(ValueError, match="maps of 1x2 positions and 8 channels, and these images give 2x1 and 8"):
        jax.eval_shape(network.apply, made, [shapes[1]])


def test_dropout_is_of_training_alone(variables):
    batch = jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    losses = jax.jit(small().losses)
    keys = jax.random.split(jax.random.key(1), 2)
    one, again, other = (losses(variables, batch, key)[0] for key in (keys[0], keys[0], keys[1]))
    chex.assert_trees_all_equal(one, again)
    assert float(one["class"]) != float(other["class"])
    chex.assert_tree_all_finite(one)


def test_without_hidden_layers_each_cell_begins_by_reading_its_own_position_as_all_others_do(key):
    network = YOLONetwork(3, grid=2, convolutions=(), hidden=(), dropout=0.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 6)), jnp.float32)
    variables = network.init(key, [x])
    numbers = lambda x: jnp.concatenate(  # noqa: E731
        [jnp.reshape(part, (4, -1)) for part in network.apply(variables, [x])], axis=-1
    )
    before = numbers(x)
    assert float(jnp.abs(before).max()) > 1e-3
    # The positions in another order give the same cells in that order: every one reads itself, and all alike.
    chex.assert_trees_all_close(numbers(x[:, ::-1, ::-1]), before[::-1], atol=1e-6)
    # What one position holds is nothing to the others.
    changed = numbers(x.at[0, 0, 1].add(1.0)) - before
    assert np.flatnonzero(np.abs(np.asarray(changed)).max(axis=1) > 1e-6).tolist() == [1]


def test_a_resnet_as_backbone(key):
    model = yolo_v1(3, backbone=ResNet(18, "group", 8, (3,)), **SMALL)
    batch = tiny.batch_of(tiny.TWO)
    made = jax.eval_shape(model.init, key, batch)
    assert made["params"]["head"]["hidden1"]["kernel"].shape == (4, 4, 32, 48)
    losses, after = jax.eval_shape(model.losses, made, batch, key)
    assert set(losses) == {"center", "size", "object", "no_object", "class"}
    chex.assert_trees_all_equal_shapes(made, after)
    with pytest.raises(ValueError, match="YOLO sees one map, and the backbone gives 2"):
        jax.eval_shape(yolo_v1(3, backbone=ResNet(18, "group", 8, (2, 3)), **SMALL).init, key, batch)


@pytest.mark.parametrize("name", ["classes", "grid", "boxes"])
def test_none_of_something_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0; YOLO needs at least one"):
        yolo_v1(**{"classes": 3, name: 0})


def test_a_recipe_builds_what_it_says(key):
    image = tiny.batch_of([([], [])])
    options = {"hidden": (8, 8), "convolutions": ((8, 2), (4, 1)), "grid": 3, "boxes": 3}
    model = YOLOv1(form="resnet", depth=18, width=0.125, stage=3, norm="group", **options).build(5)
    made = jax.eval_shape(model.init, key, image)["params"]
    assert set(made["head"]) == {"conv1", "conv2", "hidden1", "hidden2", "output"}
    assert made["head"]["hidden1"]["kernel"].shape == (2, 2, 4, 8)
    assert made["head"]["output"]["kernel"].shape == (8, 9 * (5 * 3 + 5))
    with pytest.raises(ValueError, match="model.norm is None, and a ResNet has norms"):
        YOLOv1(form="resnet", norm=None).build(5)


def test_it_overfits_two_images():
    """From scratch, Adam brings the losses down, and predict then finds the objects."""
    model, batch = small(dropout=0.0), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(model, batch, steps=100)
    assert sum(last.values()) < 0.05 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        assert (found.scores[i, : len(boxes)] > 0.5).all() and not (found.scores[i, len(boxes) :] > 0.5).any()
        for box, label in zip(boxes, labels):
            best = max(range(len(boxes)), key=lambda j: overlap(found.boxes[i, j], box))
            assert overlap(found.boxes[i, best], box) > 0.7 and found.labels[i, best] == label
