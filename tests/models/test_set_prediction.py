"""Detectors that predict a set: matching, losses and decoding against NumPy and SciPy, both models on a few images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from configs.set_prediction import DETR, Slots
from segjax.models.set_prediction import SetOutputs, SetSettings, decode, set_losses, valid_cells
from segjax.models.slots import grid_means
from segjax.types import Instances
from tests import tiny
from tests.ops.test_set_matching import giou

SMALL = {"depth": 18, "norm": "group", "width": 8, "stage": 3}
MODELS = {
    "detr": DETR(**SMALL, queries=6, channels=32, encoder_layers=1, decoder_layers=2, heads=4, hidden=32, dropout=0.0),
    "slots": Slots(**SMALL, slots=6, channels=16, grid=4, hidden=(64,)),
}
CLASSES = len(tiny.CLASSES)
BATCH = jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO, sizes=[(64, 64), (62, 48)]))
LAYERS, IMAGES, QUERIES, ROOM = 2, 3, 7, 5
COUNTS, SIZES = (3, 0, 5), np.array([[40, 60], [30, 30], [64, 32]], np.int32)


@pytest.fixture(scope="module")
def said():
    """(outputs, instances) of three images, one of them without objects; what padding holds must not matter."""
    rng = np.random.default_rng(3)
    logits = 2 * rng.normal(size=(LAYERS, IMAGES, QUERIES, CLASSES + 1)).astype(np.float32)
    predicted = rng.uniform(0.1, 0.9, (LAYERS, IMAGES, QUERIES, 4)).astype(np.float32)
    corner = rng.uniform(0, 15, (IMAGES, ROOM, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 15, corner.shape)], axis=-1).astype(np.float32)
    labels = rng.integers(0, CLASSES, (IMAGES, ROOM)).astype(np.int32)
    valid = np.arange(ROOM)[None] < np.array(COUNTS)[:, None]
    boxes[~valid], labels[~valid] = np.nan, 99
    outputs, instances = SetOutputs(logits, predicted), Instances(boxes, labels, valid)
    return jax.tree.map(jnp.asarray, outputs), jax.tree.map(jnp.asarray, instances)


def log_softmax(x):
    x = np.float64(x)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def expected_losses(outputs, instances, matching):
    """Image by image, object by object, in double precision: (class, box, giou) of each layer."""
    found, total = [], max(sum(COUNTS), 1)
    for logits, predicted in zip(*outputs):
        classes, weights, distance, overlap = np.zeros(4)
        for i, count in enumerate(COUNTS):
            h, w = SIZES[i]
            xyxy = np.float64(instances.boxes[i, :count])
            boxes = np.stack([xyxy[:, 0] + xyxy[:, 2], xyxy[:, 1] + xyxy[:, 3]], -1) / 2
            boxes = np.concatenate([boxes, xyxy[:, 2:] - xyxy[:, :2]], -1) / [w, h, w, h]
            own, scores = np.float64(predicted[i]), log_softmax(logits[i])
            if matching == "largest":
                order = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
            elif matching == "left":
                order = np.argsort(boxes[:, 0] - boxes[:, 2] / 2, kind="stable")
            else:
                cost = np.zeros((count, QUERIES))
                for j in range(count):
                    for q in range(QUERIES):
                        p = np.exp(scores[q, instances.labels[i, j]])
                        cost[j, q] = 5 * np.abs(own[q] - boxes[j]).sum() - p - 2 * giou(own[q], boxes[j])
                columns = linear_sum_assignment(cost)[1]
                order = np.full(QUERIES, -1)
                order[columns] = np.arange(count)
            wanted = np.full(QUERIES, CLASSES)
            for q, j in enumerate(order):
                if j >= 0:
                    wanted[q] = instances.labels[i, j]
                    distance += np.abs(own[q] - boxes[j]).sum()
                    overlap += 1 - giou(own[q], boxes[j])
            for q in range(QUERIES):
                weight = 0.1 if wanted[q] == CLASSES else 1.0
                classes, weights = classes - weight * scores[q, wanted[q]], weights + weight
        found.append((classes / weights, 5 * distance / total, 2 * overlap / total))
    return found


@pytest.mark.parametrize("matching", ["hungarian", "largest", "left"])
def test_losses_are_the_papers(said, matching):
    settings = SetSettings(matching=matching)
    losses = jax.jit(lambda *given: set_losses(*given, settings=settings))
    found = losses(*said, jnp.asarray(SIZES))
    *earlier, last = expected_losses(*jax.device_get(said), matching)
    expected = dict(zip(("class", "box", "giou"), last))
    expected |= {f"auxiliary_{name}": value for name, value in zip(("class", "box", "giou"), np.sum(earlier, axis=0))}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-5), name


def test_one_layer_has_no_auxiliary_losses_and_no_objects_no_boxes(said):
    outputs, instances = said
    one = jax.tree.map(lambda x: x[:1], outputs)
    losses = jax.jit(set_losses)(one, instances.replace(valid=jnp.zeros_like(instances.valid)), jnp.asarray(SIZES))
    assert set(losses) == {"class", "box", "giou"} and losses["box"] == losses["giou"] == 0
    assert float(losses["class"]) == pytest.approx(-log_softmax(one.logits)[..., -1].mean(), rel=1e-5)


def test_gradients_are_finite_where_objects_are_padding(said):
    outputs, instances = said
    # Boxes too small for their area to be a number but zero; no object of any size is lost to them.
    outputs = outputs._replace(boxes=outputs.boxes.at[:, 0].set(1e-25).at[:, 2].set(1e-25))
    gradient = jax.jit(jax.grad(lambda x: sum(set_losses(x, instances, jnp.asarray(SIZES)).values())))(outputs)
    assert all(np.isfinite(x).all() for x in gradient)
    assert not gradient.boxes[:, 1].any() and np.abs(gradient.logits[:, 1]).min() > 0
    assert ((np.abs(gradient.boxes[:, 2]).sum(-1) > 0).sum(-1) == COUNTS[2]).all()


def test_decoding():
    logits = np.log([[0.1, 0.3, 0.6], [0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9]]).astype(np.float32)
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.1, 0.5, 0.4, 1.0], [0.5, 0.5, 0.0, 0.2], [0.5, 0.5, 1, 1]], np.float32)
    found = jax.jit(decode)(SetOutputs(jnp.asarray(logits), jnp.asarray(boxes)), jnp.array([40, 80], jnp.int32))
    np.testing.assert_allclose(found.scores, [0.5, 0.3, 0.05, 0.0], rtol=1e-5)
    np.testing.assert_array_equal(found.labels, [0, 1, 0, 0])
    np.testing.assert_array_equal(found.valid, [True, True, True, False])  # the third of the list has no width
    expected = [[0, 0, 24, 40], [20, 10, 60, 30], [0, 0, 80, 40], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-4)


def test_cells_of_the_image():
    """A cell is the image's if the pixel that torch's nearest interpolation takes for it is."""
    sizes = np.array([[64, 64], [17, 40], [16, 1]])
    maps = [jnp.zeros((3, 4, 4, 1)), jnp.zeros((3, 3, 5, 1))]
    for cells, x in zip(valid_cells(maps, jnp.zeros((3, 64, 64, 3)), jnp.asarray(sizes)), maps):
        h, w = x.shape[1:3]
        for i, j, k in np.ndindex(3, h, w):
            assert bool(cells[i, j, k]) == (j * 64 // h < sizes[i, 0] and k * 64 // w < sizes[i, 1])


def test_grid_means_are_of_the_image(rng):
    """Parts of a map blown up so far that they cut through no cell are plain means; padding has no influence."""
    x, valid = rng.normal(size=(2, 4, 5, 3)).astype(np.float32), np.zeros((2, 4, 5), bool)
    valid[0], valid[1, :2, :3] = True, True
    filled = np.where(valid[..., None], x, 50.0).astype(np.float32)
    found = np.asarray(grid_means(jnp.asarray(filled), jnp.asarray(valid), 3))
    for i, (h, w) in enumerate(((4, 5), (2, 3))):
        blown = x[i, :h, :w].repeat(3, 0).repeat(3, 1).reshape(3, h, 3, w, 3)
        np.testing.assert_allclose(found[i], blown.mean(axis=(1, 3)), atol=1e-5)
    assert np.isfinite(grid_means(jnp.asarray(x), jnp.zeros((2, 4, 5), bool), 2)).all()


@pytest.mark.parametrize("name", MODELS)
def test_shapes(name, key):
    """Of the default settings: the losses by name, as many detections as predictions, on any size of images."""
    detector = {"detr": DETR, "slots": Slots}[name]()
    model, count = detector.build(91), {"detr": 100, "slots": 20}[name]
    variables = jax.eval_shape(model.init, key, BATCH)
    losses, after = jax.eval_shape(model.losses, variables, BATCH, key)
    terms = {"class", "box", "giou"}
    assert set(losses) == (terms | {f"auxiliary_{term}" for term in terms} if name == "detr" else terms)
    assert all(x.shape == () and x.dtype == jnp.float32 for x in losses.values())
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    images, sizes = jax.ShapeDtypeStruct((2, 96, 70, 3), np.uint8), jax.ShapeDtypeStruct((2, 2), np.int32)
    found = jax.eval_shape(lambda *given: vars(model.predict(*given)), variables, images, sizes)
    assert found["boxes"].shape == (2, count, 4) and found["labels"].dtype == jnp.int32
    half = dataclasses.replace(detector, dtype="bfloat16").build(91)
    losses, _ = jax.eval_shape(half.losses, variables, BATCH, key)
    assert all(x.dtype == jnp.float32 for x in losses.values())


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_learnt_by_heart(name):
    """Every object is found once, with its class, above all that is none; boxes are of the unpadded image."""
    model = MODELS[name].build(CLASSES)
    variables, first, last = tiny.overfit(model, BATCH, steps=150)
    assert set(variables["params"]) == {"backbone", "head"}
    assert sum(last.values()) < 0.15 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, BATCH.images, BATCH.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        n = len(boxes)
        assert (found.scores[i, :n] > 0.8).all() and (found.scores[i, n:] < 0.5).all()
        for box, label in zip(boxes, labels):
            error = np.abs(found.boxes[i, :n] - box).max(-1)
            assert error.min() < 5 and found.labels[i, error.argmin()] == label


def test_padding_of_images_is_not_seen(key):
    model = MODELS["detr"].build(CLASSES)
    variables, predict = jax.jit(model.init)(key, BATCH), jax.jit(model.predict)
    other = BATCH.images.at[1, 62:].set(255).at[1, :, 48:].set(255)
    np.testing.assert_array_equal(*(predict(variables, x, BATCH.sizes).boxes for x in (BATCH.images, other)))


@pytest.mark.parametrize("name", MODELS)
def test_more_objects_than_predictions_are_refused(name, key):
    """Where the model is made, and where a batch with more room comes later."""
    model = MODELS[name].build(CLASSES)
    crowd = jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO, capacity=7))
    message = r"room for 7 objects and the model makes 6 predictions.* make data\.capacity smaller"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, key, crowd)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.losses, jax.eval_shape(model.init, key, BATCH), crowd, key)


@pytest.mark.parametrize("name", MODELS)
def test_what_does_not_fit_is_a_sentence(name, key):
    with pytest.raises(ValueError, match="classes is 0; a detector needs at least one, 'no object' not counted"):
        MODELS[name].build(0)
    sets = dataclasses.replace(MODELS[name].sets)
    object.__setattr__(sets, "matching", "smallest")
    with pytest.raises(ValueError, match="matching is 'smallest'; choose one of 'hungarian', 'largest', 'left'"):
        dataclasses.replace(MODELS[name], sets=sets).build(2)
