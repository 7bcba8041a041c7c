"""Classification with localization: its losses against loops, one row an image, what it says of what does not fit."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import CONFIGS
from configs.localizers import Localizer
from segjax.evaluation.evaluator import DetectionCollector
from segjax.models.heads.dense import DenseHead
from segjax.models.heads.localizer import LocalizerHead, LocalizerNetwork, LocalizerOutputs
from segjax.models.layers.alexnet import AlexNetClassifier
from segjax.models.localizer import localizer
from segjax.pretrained import merge
from segjax.types import Instances
from tests import tiny
from tests.evaluation.listed import ListedSource, feed, objects
from tests.models.test_faster_rcnn import overlap

SIZE, CLASSES = (60, 90), 4
HEAD = LocalizerHead(LocalizerNetwork(AlexNetClassifier(hidden=(8,)), CLASSES))
PLACES = HEAD.places(SIZE, [])
# The largest is the second, the third is padding; two of one size, of which the first is meant; no object.
OBJECTS = [
    ([[5, 3, 25, 15], [33, 22, 70, 37], [0, 0, 90, 60]], [2, 1, 3], [True, True, False]),
    ([[60, 40, 90, 60], [0, 0, 20, 30], [0, 0, 0, 0]], [3, 1, 0], [True, True, False]),
    ([[0, 0, 0, 0]] * 3, [0] * 3, [False] * 3),
]
MAIN = [1, 0, None]
INSTANCES = Instances(
    jnp.asarray([boxes for boxes, _, _ in OBJECTS], jnp.float32),
    jnp.asarray([labels for _, labels, _ in OBJECTS], jnp.int32),
    jnp.asarray([valid for _, _, valid in OBJECTS]),
)
SMALL = Localizer(norm="group", width=0.125, hidden=(32,), dropout=0.0, pooled=3)


def some_outputs(rng, boxes):
    logits = jnp.asarray(rng.normal(size=(len(OBJECTS), 1, CLASSES)), jnp.float32)
    return LocalizerOutputs(logits, jnp.asarray(rng.normal(0.5, 0.3, (len(OBJECTS), 1, boxes, 4)), jnp.float32))


def targets_of(instances, outputs):
    sizes = jnp.full((len(OBJECTS), 2), 50)
    return jax.vmap(HEAD.targets, in_axes=(0, None, 0, 0))(outputs, PLACES, instances, sizes)


def plain_losses(outputs):
    """Image by image, in float64."""
    terms = {"class": [], "box": []}
    for i, ((boxes, labels, _), main) in enumerate(zip(OBJECTS, MAIN)):
        if main is None:
            continue
        logits, label = np.asarray(outputs.logits[i, 0], np.float64), labels[main]
        terms["class"].append(-logits[label] + np.log(np.exp(logits).sum()))
        x1, y1, x2, y2 = boxes[main]
        wanted = [(x1 + x2) / 2 / 90, (y1 + y2) / 2 / 60, (x2 - x1) / 90, (y2 - y1) / 60]
        of = label if outputs.boxes.shape[2] > 1 else 0
        terms["box"].append(((np.asarray(outputs.boxes[i, 0, of], np.float64) - wanted) ** 2).sum())
    return {name: np.mean(values) for name, values in terms.items()}


@pytest.mark.parametrize("boxes", [1, CLASSES])
def test_losses_against_loops(boxes, rng):
    outputs = some_outputs(rng, boxes)
    losses = jax.jit(lambda o: HEAD.losses(o, targets_of(INSTANCES, o), PLACES))(outputs)
    expected = plain_losses(outputs)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5)


def test_of_a_box_for_each_class_only_the_true_one_is_trained(rng):
    outputs = some_outputs(rng, CLASSES)
    gradient = jax.grad(lambda o: HEAD.losses(o, targets_of(INSTANCES, o), PLACES)["box"])(outputs)
    moved = np.abs(gradient.boxes).sum(axis=-1)[:, 0] > 0
    assert np.argwhere(moved).tolist() == [[0, 1], [1, 3]]
    assert not np.any(gradient.logits)


def test_without_objects_the_losses_and_gradients_are_zero(rng):
    empty = jax.tree.map(jnp.zeros_like, INSTANCES)
    outputs = some_outputs(rng, 1)
    value, gradient = jax.value_and_grad(
        lambda o: sum(HEAD.losses(o, targets_of(empty, o), PLACES).values()),
    )(outputs)
    assert float(value) == 0
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, gradient))


def test_what_stands_in_padding_has_no_influence(rng):
    outputs = some_outputs(rng, 1)
    loud = INSTANCES.replace(boxes=jnp.where(INSTANCES.valid[..., None], INSTANCES.boxes, jnp.nan))
    chex.assert_trees_all_equal(targets_of(loud, outputs), targets_of(INSTANCES, outputs))
    none = Instances(*(x[:, :0] for x in (INSTANCES.boxes, INSTANCES.labels, INSTANCES.valid)))
    assert not targets_of(none, outputs).present.any()


@pytest.mark.parametrize("guesses", [1, 3])
@pytest.mark.parametrize("boxes", [1, CLASSES])
def test_decoding(guesses, boxes, rng):
    """The most probable classes, and the box of each in the unpadded image."""
    outputs, size = some_outputs(rng, boxes), (50, 80)
    outputs = outputs._replace(boxes=outputs.boxes.at[1].set(jnp.asarray([0.5, 0.5, -0.2, 3.0])))
    head = dataclasses.replace(HEAD, guesses=guesses)
    decode = jax.jit(jax.vmap(lambda o: head.decode(o, PLACES, jnp.asarray(size))))
    found = decode(outputs)
    assert found.valid.all() and found.boxes.shape == (len(OBJECTS), guesses, 4)
    for i in range(len(OBJECTS)):
        logits = np.asarray(outputs.logits[i, 0], np.float64)
        order = np.argsort(-logits)[:guesses]
        np.testing.assert_array_equal(found.labels[i], order)
        np.testing.assert_allclose(found.scores[i], (np.exp(logits) / np.exp(logits).sum())[order], rtol=1e-5)
        for j, label in enumerate(order):
            x, y, w, h = np.asarray(outputs.boxes[i, 0, label if boxes > 1 else 0]) * [90, 60, 90, 60]
            w = max(w, 0)
            box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [80, 50, 80, 50])
            np.testing.assert_allclose(found.boxes[i, j], box, atol=1e-4)


def test_a_target_decodes_to_its_object():
    outputs = some_outputs(np.random.default_rng(0), 1)
    targets = targets_of(INSTANCES, outputs)
    exact = outputs._replace(boxes=targets.boxes[:, :, None])
    for i, main in enumerate(MAIN[:2]):
        found = HEAD.decode(jax.tree.map(lambda x: x[i], exact), PLACES, jnp.asarray(SIZE))  # noqa: B023
        np.testing.assert_allclose(found.boxes[0], OBJECTS[i][0][main], atol=1e-4)


def test_it_is_a_dense_head():
    assert isinstance(HEAD, DenseHead)


@pytest.mark.parametrize("per_class", [False, True])
def test_shapes_at_any_size(per_class, key):
    """One set of variables for both buckets: nothing depends on the size of the images."""
    model = dataclasses.replace(SMALL, per_class=per_class, guesses=2).build(3)
    trees = []
    for side in (64, 96):
        batch = tiny.batch_of(tiny.TWO, side=side)
        variables = jax.eval_shape(model.init, key, batch)
        trees.append(jax.tree.map(lambda x: x.shape, variables))
        given = (variables, jnp.asarray(batch.images), jnp.asarray(batch.sizes))
        found = jax.eval_shape(lambda *given: jax.tree.leaves(model.predict(*given)), *given)
        assert [x.shape for x in found] == [(2, 2, 4), (2, 2), (2, 2), (2, 2)]
    assert trees[0] == trees[1]
    assert trees[0]["params"]["head"]["box"]["kernel"] == (32, 12 if per_class else 4)


def test_the_paper_form_has_alexnets_layers_and_takes_its_weights(key):
    recipe = CONFIGS["localization_voc"]
    batch = tiny.batch_of([([], [])], side=224)
    shapes = jax.eval_shape(recipe.model.build(20).init, key, batch)
    # 61 100 840 in the table of AlexNet_Weights, of which the last layer has 1000 classes.
    outputs = sum(x.size for name in ("class", "box") for x in jax.tree.leaves(shapes["params"]["head"][name]))
    assert sum(x.size for x in jax.tree.leaves(shapes)) - outputs == 61_100_840 - 1000 * 4097
    assert outputs == 4097 * (20 + 4)


def test_weights_of_a_classifier_reach_the_head(key):
    model = dataclasses.replace(SMALL, norm=None, hidden=(6, 5))
    variables = jax.jit(model.build(3).init)(key, tiny.batch_of(tiny.TWO))
    rng = np.random.default_rng(1)
    own = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), variables["params"])
    hidden, logits = own["head"]["hidden"], own["head"]["class"]
    loaded = {"params": {"backbone": own["backbone"], "classifier": {**hidden, "logits": logits}}}
    merged, unused = merge(variables, model.adapted(loaded))
    assert not unused
    expected = {**own, "head": {**own["head"], "box": variables["params"]["head"]["box"]}}
    chex.assert_trees_all_equal(merged["params"], expected)
    backbone = {"params": {"backbone": own["backbone"]}}
    assert model.adapted(backbone) == backbone


@pytest.mark.parametrize(("classes", "options", "message"), [
    (0, {}, "classes is 0; classification with localization needs at least one"),
    (3, {"guesses": 0}, "guesses is 0; classification with localization needs at least one"),
    (3, {"guesses": 4}, "guesses is 4, and there are 3 classes"),
    (3, {"pooled": 0}, "pooled is 0"),
    (3, {"hidden": ()}, "hidden is empty"),
])  # fmt: skip
def test_what_cannot_be(classes, options, message):
    with pytest.raises(ValueError, match=message):
        localizer(classes, **options)


def test_its_scores_are_those_of_its_guesses():
    """What stands in the report beside COCO's."""
    truth = objects([[10, 10, 30, 30]], [1])
    source = ListedSource([truth])
    collector = DetectionCollector(source, classes=source.classes)
    box = [10, 10, 30, 30]
    feed(collector, source, [[(box, 0.5, 0), (box, 0.4, 2), (box, 0.1, 1)]])
    scores = Localizer(guesses=3).scores(source, collector)
    assert (scores["top1"], scores["top3"], scores["localization_top3"]) == (0, 1, 1)
    assert "top3" not in Localizer().scores(source, collector)


def test_a_resnet_needs_a_norm():
    with pytest.raises(ValueError, match="model.norm is None, and a ResNet has norms"):
        Localizer(form="resnet").build(3)


def test_it_overfits_one_batch():
    """Adam brings the losses of four images down, and predict then finds what is in each, a box for each class."""
    things = [([[6, 8, 30, 40]], [0]), ([[10, 20, 50, 60]], [2]), ([[36, 4, 60, 28]], [1]), ([], [])]
    batch = jax.tree.map(jnp.asarray, tiny.batch_of(things, sizes=[(64, 64), (64, 60), (48, 64), (64, 64)]))
    model = dataclasses.replace(SMALL, per_class=True).build(3)
    variables, first, last = tiny.overfit(model, batch, steps=150)
    assert last["class"] < 0.05 * first["class"] and last["box"] < 0.05 * first["box"]
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    assert found.boxes.shape == (4, 1, 4)
    for i, (boxes, labels) in enumerate(things[:3]):
        assert found.labels[i, 0] == labels[0] and overlap(found.boxes[i, 0], boxes[0]) > 0.7
