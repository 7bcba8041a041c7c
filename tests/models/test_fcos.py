"""FCOS: targets, losses and decoding against loops, sizes, what it starts from, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.fcos import fcos
from segjax.models.heads.dense import DenseHead
from segjax.models.heads.fcos import FCOSHead, FCOSNetwork, FCOSOutputs
from segjax.pretrained import model
from segjax.types import Instances
from tests import tiny
from tests.models.dense import FCOS_SMALL, MAPS, SIZE, check_detections, detections, summed_focal
from tests.models.test_faster_rcnn import overlap
from tests.ops.test_box_losses import giou_loss

CLASSES = 3
HEAD = FCOSHead(FCOSNetwork(CLASSES), FCOS_SMALL.head)
PLACES = HEAD.places(SIZE, MAPS)
UNITS = (4, 8, 16)
# (x, y, unit, near, far) of every point: 0, 16, 32 and 64 pixels bound the levels' reach.
POINTS = [
    (x * unit, y * unit, unit, near, far)
    for unit, (height, width), near, far in zip(UNITS, MAPS, (0, 32, 64), (32, 64, np.inf))
    for y in range(height)
    for x in range(width)
]
# One object in the middle of another; two of one area over the same points; one on a level's bound: from (16, 16), the
# farthest side of the fifth is at 32 pixels, where neither level has it. The last is padding.
BOXES = [[0, 0, 46, 30], [14, 8, 30, 22], [36, 4, 46, 14], [35, 4, 45, 14], [-16, 8, 48, 24], [0, 0, 48, 32]]
LABELS, VALID = [0, 1, 2, 0, 1, 2], [True, True, True, True, True, False]
OBJECTS = Instances(jnp.array(BOXES, jnp.float32), jnp.array(LABELS), jnp.array(VALID))
SIZE_ARRAY = jnp.array(SIZE)


def outputs(rng, *batch):
    logits = rng.normal(-2, 2, (*batch, len(POINTS), CLASSES)).astype(np.float32)
    distances = np.maximum(rng.normal(1.5, 1, (*batch, len(POINTS), 4)), 0).astype(np.float32)
    centerness = rng.normal(0, 1.5, (*batch, len(POINTS))).astype(np.float32)
    return FCOSOutputs(*map(jnp.asarray, (logits, distances, centerness)))


def sides(point, box):
    return point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]


def object_of(point, valid):
    """The index of the object that a point is to find, or -1."""
    best = -1
    for i, box in enumerate(BOXES):
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        central = max(abs(point[0] - middle[0]), abs(point[1] - middle[1])) < 1.5 * point[2]
        inside, farthest = min(sides(point, box)) > 0, max(sides(point, box))
        if valid[i] and central and inside and point[3] < farthest < point[4]:
            area = lambda j: (BOXES[j][2] - BOXES[j][0]) * (BOXES[j][3] - BOXES[j][1])  # noqa: E731
            best = i if best < 0 or area(i) < area(best) else best
    return best


def test_places():
    assert isinstance(HEAD, DenseHead)
    np.testing.assert_array_equal(np.concatenate([level.centers for level in PLACES]), [p[:2] for p in POINTS])
    for level, unit, reach in zip(PLACES, UNITS, ((0, 32), (32, 64), (64, np.inf))):
        assert level.unit == unit and tuple(level.reach.tolist()) == reach


@pytest.mark.parametrize("valid", [VALID, [False] * 6])
def test_targets_equal_the_loop(valid, rng):
    found = jax.jit(HEAD.targets)(outputs(rng), PLACES, OBJECTS.replace(valid=jnp.array(valid)), SIZE_ARRAY)
    mine = np.array([object_of(point, valid) for point in POINTS])
    np.testing.assert_array_equal(found.labels, np.where(mine >= 0, np.array(LABELS)[mine], -1))
    np.testing.assert_array_equal(found.boxes[mine >= 0], np.array(BOXES)[mine][mine >= 0])
    if any(valid):
        assert set(mine) == {-1, 0, 1, 2, 3, 4}


def test_the_cases_are_what_they_say():
    """Of those above: who has the points that several want, and whom the bound leaves without."""
    at = {point[:3]: object_of(point, VALID) for point in POINTS}
    assert at[20, 16, 4] == 1  # within two larger ones
    assert at[40, 8, 4] == 2  # not 3, which is as large and comes later
    bound = sides((16, 16), BOXES[4])
    assert max(bound) == 32 and min(bound) > 0
    alone = [i == 4 for i in range(6)]
    assert object_of((16, 16, 4, 0, 32), alone) == object_of((16, 16, 8, 32, 64), alone) == -1
    assert object_of((16, 16, 8, 31, 64), alone) == 4


def test_losses_equal_the_loop(rng):
    """Divided by the positives of the whole batch; one image has none."""
    nothing = OBJECTS.replace(valid=jnp.zeros(6, bool))
    objects, out = jax.tree.map(lambda *x: jnp.stack(x), OBJECTS, nothing), outputs(rng, 2)
    targets = jax.vmap(HEAD.targets, (0, None, 0, None))(out, PLACES, objects, SIZE_ARRAY)
    found = jax.jit(HEAD.losses)(out, targets, PLACES)
    sums, count = {"class": 0.0, "box": 0.0, "centerness": 0.0}, 0
    for i in range(2):
        for j, point in enumerate(POINTS):
            label, box = int(targets.labels[i, j]), np.asarray(targets.boxes[i, j])
            sums["class"] += summed_focal(out.logits[i, j], label)
            if label >= 0:
                count += 1
                left, top, right, bottom = sides(point, box)
                centre = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
                sums["box"] += giou_loss(decoded(point, np.asarray(out.distances[i, j])), box)
                p = 1 / (1 + np.exp(-np.float64(out.centerness[i, j])))
                sums["centerness"] -= np.sqrt(centre) * np.log(p) + (1 - np.sqrt(centre)) * np.log(1 - p)
    assert set(found) == set(sums) and count > 10
    for name, value in sums.items():
        np.testing.assert_allclose(found[name], value / count, rtol=1e-4)


def decoded(point, distances):
    """The box at these distances from a point, in units of its level."""
    left, top, right, bottom = distances * point[2]
    return np.array([point[0] - left, point[1] - top, point[0] + right, point[1] + bottom])


def test_nothing_but_background_is_a_finite_loss(rng):
    """Boxes and centre-ness then teach nothing, and predicted boxes without area do no harm."""
    objects, out = jax.tree.map(lambda x: x[None], OBJECTS.replace(valid=jnp.zeros(6, bool))), outputs(rng, 1)
    out = out._replace(distances=jnp.zeros_like(out.distances))
    targets = jax.vmap(HEAD.targets, (0, None, 0, None))(out, PLACES, objects, SIZE_ARRAY)
    losses, pull = jax.vjp(lambda out: HEAD.losses(out, targets, PLACES), out)
    gradients = pull({"class": jnp.float32(0), "box": jnp.float32(1), "centerness": jnp.float32(1)})[0]
    assert losses["box"] == losses["centerness"] == 0 and losses["class"] > 0
    assert not any(np.asarray(x).any() for x in gradients)


def test_decoding_equals_the_loop(rng):
    """In an image whose last rows are padding: boxes end where it ends."""
    out = outputs(rng)
    found = jax.device_get(jax.jit(HEAD.decode)(out, PLACES, jnp.array([29, 48])))
    logits, centerness = np.float64(out.logits), np.float64(out.centerness)[:, None]
    scores = np.sqrt(1 / (1 + np.exp(-logits)) / (1 + np.exp(-centerness)))
    boxes = np.stack([decoded(point, d) for point, d in zip(POINTS, np.asarray(out.distances))])
    boxes = np.clip(boxes, 0, [48, 29, 48, 29])
    levels = [len(level.centers) for level in PLACES]
    assert sum(scores[: levels[0]].ravel() > 0.05) > HEAD.settings.candidates  # the first level is cut off
    check_detections(found, detections(scores, boxes, levels, HEAD.settings))


@pytest.mark.parametrize(("make", "count"), [
    (lambda: fcos(91), 32_269_600),
    # torchvision's 91st column, of the background, is not there.
    (lambda: model("fcos_resnet50_fpn"), 32_269_600 - (9 * 256 + 1)),
])  # fmt: skip
def test_published_sizes(make, count, key):
    """As torchvision and its weights' metadata count them."""
    variables = jax.eval_shape(make().init, key, tiny.batch_of(tiny.TWO))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


def test_it_starts_as_a_sceptic(key):
    """Of unit features, every class has about one percent; distances are not negative."""
    maps = [jax.random.normal(key, (1, 4, 6, 32)), jax.random.normal(key, (1, 2, 3, 32))]
    out, variables = FCOSNetwork(5).init_with_output(key, maps)
    assert out.logits.shape == (1, 30, 5) and out.distances.shape == (1, 30, 4) and out.centerness.shape == (1, 30)
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits), 0.01, atol=1e-2)
    assert (np.asarray(out.distances) >= 0).all() and (np.asarray(out.distances) > 0).any()
    # As in torchvision, the convolutions have biases beside their norms.
    assert {"class_norm3", "class_conv3", "box_norm3"} <= set(variables["params"])
    assert "bias" in variables["params"]["class_conv3"]


def test_settings_that_do_not_fit_are_named(key):
    with pytest.raises(ValueError, match=r"units is \(4\.0, 8\.0, 16\.0\) for 2 feature maps; give one number each"):
        HEAD.places(SIZE, MAPS[:2])
    with pytest.raises(ValueError, match="classes is 0; a detector needs at least one"):
        fcos(0)
    large = dataclasses.replace(FCOS_SMALL, extra="convolved").build(3)
    with pytest.raises(ValueError, match=r"for 5 feature maps"):
        jax.eval_shape(large.init, key, tiny.batch_of(tiny.TWO))


def test_it_overfits_one_batch():
    small, batch = FCOS_SMALL.build(3), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(small, batch, steps=200)
    assert set(first) == {"class", "box", "centerness"}
    # Centre-ness is a cross-entropy against shares, which does not reach 0.
    assert last["class"] < 0.1 * first["class"] and last["box"] < 0.3 * first["box"]
    assert last["centerness"] < first["centerness"]
    found = jax.device_get(jax.jit(small.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        for box, label in zip(boxes, labels):
            best = max(range(len(boxes)), key=lambda j: overlap(found.boxes[i, j], box))
            assert found.valid[i, best]
            assert overlap(found.boxes[i, best], box) > 0.6 and found.labels[i, best] == label
