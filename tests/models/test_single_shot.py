"""The door for dense heads, as a user's own head sees it: one is written here, and trains; what is none is refused."""

import dataclasses
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jaxtyping import Array, Float

from segjax.losses import masked_sum, safe_divide, softmax_cross_entropy
from segjax.models.heads.decoding import best_detections
from segjax.models.heads.dense import MEMBERS, DenseHead
from segjax.models.layers.conv import Conv
from segjax.models.layers.fpn import NoNeck
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.ops import boxes as box_ops
from segjax.ops.anchors import grid_points
from tests import tiny
from tests.models.test_faster_rcnn import overlap

CLASSES = 3
BATCH = jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO, sizes=[(64, 64), (62, 48)]))


class Backbone(nn.Module):
    """Three convolutions down to stride 8; counts the steps that it was trained for."""

    @nn.compact
    def __call__(self, x, *, train=False):
        steps = self.variable("batch_stats", "steps", jnp.zeros, ())
        if train:
            steps.value = steps.value + 1
        for i, width in enumerate((8, 16, 32)):
            x = nn.relu(Conv(width, 5, 2, bias=True, name=f"conv{i}")(x))
        return [x]


class Cells(nn.Module):
    """Columns of classes, the background first, and a box's logarithmic sides, of every cell."""

    @nn.compact
    def __call__(self, maps, *, train=False):
        x = maps[0].reshape(maps[0].shape[0], -1, maps[0].shape[-1])
        return {"logits": nn.Dense(CLASSES + 1, name="class")(x), "sides": nn.Dense(2, name="sides")(x)}


class Wanted(NamedTuple):
    column: Array
    sides: Float[Array, "*b n 2"]


@dataclasses.dataclass(frozen=True)
class CellHead:
    """A cell finds the object whose middle is in it or near it; its box is around the cell's own middle."""

    network: nn.Module = Cells()  # noqa: RUF009
    near: float = 6.0

    def places(self, size, maps):
        return grid_points(maps[0], stride=size[0] // maps[0][0])

    def targets(self, outputs, places, instances, size):
        middle = (instances.boxes[:, :2] + instances.boxes[:, 2:]) / 2
        distance = jnp.abs(places[:, None] - middle[None]).max(-1)
        distance = jnp.where(instances.valid[None], distance, jnp.inf)
        target, mine = distance.argmin(1), distance.min(1) < self.near
        sides = (instances.boxes[:, 2:] - instances.boxes[:, :2])[target]
        return Wanted(jnp.where(mine, instances.labels[target] + 1, 0), jnp.log(jnp.where(mine[:, None], sides, 1.0)))

    def losses(self, outputs, targets, places):
        positive = targets.column > 0
        error = jnp.abs(outputs["sides"] - targets.sides).sum(-1)
        count = jnp.sum(positive, dtype=jnp.float32)
        return {
            "class": softmax_cross_entropy(outputs["logits"], targets.column).mean(),
            "sides": safe_divide(masked_sum(error, positive), count),
        }

    def decode(self, outputs, places, size):
        scores = jax.nn.softmax(outputs["logits"])[:, 1:]
        best, order = jax.lax.top_k(scores.max(1), len(scores))
        half = jnp.exp(outputs["sides"][order]) / 2
        boxes = box_ops.clip(jnp.concatenate([places[order] - half, places[order] + half], axis=-1), size)
        return best_detections(boxes, best, scores[order].argmax(1), best > 0.5, iou_threshold=0.3, count=5)


def made(head):
    return single_shot(Trunk(Backbone(), NoNeck()), head)


def test_a_head_of_ones_own_trains():
    """Nothing of the library is changed. Its parts are named, statistics go along, the padding has no boxes."""
    assert isinstance(CellHead(), DenseHead) and set(MEMBERS) <= set(dir(CellHead()))
    model = made(CellHead())
    variables, first, last = tiny.overfit(model, BATCH, steps=200)
    assert set(variables["params"]) == {"backbone", "head"}
    assert variables["batch_stats"]["backbone"]["steps"] == 200
    assert set(first) == {"class", "sides"} and sum(last.values()) < 0.1 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, BATCH.images, BATCH.sizes))
    assert found.boxes.shape == (2, 5, 4) and (found.boxes[1] <= [48, 62, 48, 62]).all()
    for i, (boxes, labels) in enumerate(tiny.TWO):
        assert found.valid[i].sum() == len(boxes)
        for box, label in zip(boxes, labels):
            best = max(range(len(boxes)), key=lambda j: overlap(found.boxes[i, j], box))
            assert overlap(found.boxes[i, best], box) > 0.5 and found.labels[i, best] == label


def test_targets_are_given_no_gradient(key):
    """What a head computes of its own outputs in `targets` is a constant of the loss."""

    class Echo(CellHead):
        def targets(self, outputs, places, instances, size):
            return outputs["sides"]

        def losses(self, outputs, targets, places):
            return {"echo": jnp.sum(outputs["sides"] * targets)}

    model = made(Echo())
    variables = model.init(key, BATCH)
    loss = lambda params: model.losses({**variables, "params": params}, BATCH, key)[0]["echo"]  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(variables["params"])
    # Of x * x with one of them held: x, and so, for a last layer, once the value rather than twice.
    last = variables["params"]["head"]["sides"]
    slope = sum(jnp.sum(last[name] * gradient["head"]["sides"][name]) for name in last)
    np.testing.assert_allclose(slope, value, rtol=1e-4)


def test_places_are_asked_for_what_the_maps_are(key):
    seen = []

    class Asked(CellHead):
        def places(self, size, maps):
            seen.append((size, list(maps)))
            return super().places(size, maps)

    jax.eval_shape(made(Asked()).init, key, BATCH)
    assert seen == [((64, 64), [(8, 8)])]


def test_what_is_no_head_is_refused():
    # As users call it: without the checks of annotations that tests run with, which would speak first.
    unchecked = inspect.unwrap(single_shot)
    with pytest.raises(ValueError, match=r"^head 'head' is the class CellHead; give an instance of it\.$"):
        unchecked(Trunk(Backbone(), NoNeck()), CellHead)

    class Half:
        network = Cells()
        targets = losses = None

    with pytest.raises(ValueError, match=r"^head 'head', a Half, has no places and no decode: see DenseHead\.$"):
        unchecked(Trunk(Backbone(), NoNeck()), Half())


class Uneven(nn.Module):
    """Speaks of one place less in one of its outputs."""

    @nn.compact
    def __call__(self, maps, *, train=False):
        outputs = Cells(name="cells")(maps)
        return {**outputs, "sides": outputs["sides"][:, 1:]}


class Mean(CellHead):
    def losses(self, outputs, targets, places):
        return {"class": softmax_cross_entropy(outputs["logits"], targets.column)}


class Total(CellHead):
    def losses(self, outputs, targets, places):
        return jnp.sum(outputs["sides"])


class Uncut(CellHead):
    def decode(self, outputs, places, size):
        return super().decode(outputs, places, size).replace(extra={"angle": jnp.zeros(64)})


@pytest.mark.parametrize(("head", "function", "message"), [
    (CellHead(Uneven()), "losses", r"the network of the head gave an array\['sides'\] of shape \(2, 63, 2\); it must "
     r"begin with \(2, 64\), images and places"),
    (CellHead(Uneven()), "predict", r"the network of the head gave an array\['sides'\] of shape \(2, 63, 2\)"),
    (Mean(), "losses", r"loss 'class' of head 'head' has the shape \(2, 64\); return a scalar"),
    (Total(), "losses", r"the losses of head 'head' are a \w+; return a dict, \{name: scalar\}"),
    (Uncut(), "predict", r"`decode` of the head gave an array\.extra\['angle'\] of shape \(2, 64\); it must begin with "
     r"\(2, 5\), images and detections"),
])  # fmt: skip
def test_what_does_not_fit_is_named(head, function, message, key):
    """In one sentence, while it is traced."""
    model = made(head)
    variables = jax.eval_shape(model.init, key, BATCH)
    given = (BATCH, key) if function == "losses" else (BATCH.images, BATCH.sizes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(getattr(model, function), variables, *given)
