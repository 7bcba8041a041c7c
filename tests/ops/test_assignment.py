"""Assignment by predictions against loops over objects and points, written from the papers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import assignment
from tests import oracles

ALIGNED = {"count": 4, "alpha": 1.0, "beta": 6.0}
OTA = {"count": 5, "radius": 1.5, "box_weight": 3.0}
aligned = jax.jit(assignment.task_aligned, static_argnames=tuple(ALIGNED))
ota = jax.jit(assignment.sim_ota, static_argnames=tuple(OTA))


def strictly_inside(point, box):
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def task_aligned_loops(points, scores, predicted, boxes, labels, valid, *, count, alpha, beta):
    """TOOD, section 3.2, object after object."""
    n, claims = len(points), {}
    for j in np.flatnonzero(valid):
        inside = [i for i in range(n) if strictly_inside(points[i], boxes[j])]
        align = {i: scores[i, labels[j]] ** alpha * oracles.iou(predicted[i], boxes[j]) ** beta for i in inside}
        for i in sorted(inside, key=lambda i: -align[i])[:count]:
            claims.setdefault(i, []).append((oracles.iou(predicted[i], boxes[j]), align[i], j))
    owner = {i: max(found, key=lambda claim: claim[0]) for i, found in claims.items()}
    quality = np.zeros(n)
    for j in {j for _, _, j in owner.values()}:
        own = {i: (iou, align) for i, (iou, align, k) in owner.items() if k == j}
        best, largest = max(align for _, align in own.values()), max(iou for iou, _ in own.values())
        for i, (_, align) in own.items():
            quality[i] = align / best * largest if best > 0 else 0.0
    return _arrays(n, {i: j for i, (_, _, j) in owner.items()}, quality)


def sim_ota_loops(points, strides, scores, predicted, boxes, labels, valid, *, count, radius, box_weight):
    """YOLOX, section 2.1, object after object."""
    n, claims = len(points), {}
    for j in np.flatnonzero(valid):
        centre = [(boxes[j, 0] + boxes[j, 2]) / 2, (boxes[j, 1] + boxes[j, 3]) / 2]
        cost, ious = {}, {}
        for i in range(n):
            inside = strictly_inside(points[i], boxes[j])
            near = all(abs(points[i, k] - centre[k]) < radius * strides[i] for k in (0, 1))
            if not (inside or near):
                continue
            ious[i] = oracles.iou(predicted[i], boxes[j])
            wanted = np.arange(scores.shape[1]) == labels[j]
            classes = -sum(math.log(s if w else 1 - s) for s, w in zip(scores[i], wanted))
            cost[i] = classes - box_weight * math.log(max(ious[i], 1e-8)) + (0 if inside and near else 1e5)
        takes = max(int(sum(sorted(ious.values())[-count:])), 1)
        for i in sorted(cost, key=lambda i: cost[i])[:takes]:
            claims.setdefault(i, []).append((cost[i], j, ious[i]))
    owner = {i: min(found) for i, found in claims.items()}
    quality = np.array([owner[i][2] if i in owner else 0.0 for i in range(n)])
    return _arrays(n, {i: j for i, (_, j, _) in owner.items()}, quality)


def _arrays(n, owner, quality):
    return np.array([owner.get(i, 0) for i in range(n)]), np.array([i in owner for i in range(n)]), quality


def scene(rng, objects=7, valid=5):
    """Two levels of points on 64 pixels, predictions that are near some object, objects that overlap."""
    steps = [np.stack(np.meshgrid(*[np.arange(s / 2, 64, s)] * 2), -1).reshape(-1, 2) for s in (8, 16)]
    points = np.concatenate(steps).astype(np.float32)
    strides = np.repeat([8.0, 16.0], [len(s) for s in steps]).astype(np.float32)
    corner = rng.uniform(0, 40, (objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 40, (objects, 2))], 1).astype(np.float32)
    labels = rng.integers(0, 3, objects).astype(np.int32)
    near = boxes[rng.integers(0, valid, len(points))] + rng.normal(0, 4, (len(points), 4))
    predicted = np.concatenate([np.minimum(near[:, :2], points - 1), np.maximum(near[:, 2:], points + 1)], 1)
    scores = rng.uniform(0.01, 0.99, (len(points), 3)).astype(np.float32)
    objects = (boxes, labels, np.arange(objects) < valid)
    return points, strides, scores, predicted.astype(np.float32), *objects


def found_by(rule, given):
    points, strides, *others = given
    rest = [jnp.asarray(x) for x in others]
    if rule == "task_aligned":
        return aligned(jnp.asarray(points), *rest, **ALIGNED)
    return ota(jnp.asarray(points), jnp.asarray(strides), *rest, **OTA)


def expected_of(rule, given):
    if rule == "task_aligned":
        return task_aligned_loops(given[0], *given[2:], **ALIGNED)
    return sim_ota_loops(*given, **OTA)


def check(rule, given):
    found = found_by(rule, given)
    target, positive, quality = expected_of(rule, given)
    np.testing.assert_array_equal(found.positive, positive)
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_allclose(found.quality, quality, rtol=2e-4, atol=1e-6)
    return found


RULES = ("task_aligned", "sim_ota")


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_loops(rule, rng):
    shared = 0
    for _ in range(20):
        given = scene(rng)
        found = check(rule, given)
        assert 3 <= found.positive.sum() < len(given[0]) and set(np.asarray(found.target)) <= {0, 1, 2, 3, 4}
        # Taken one by one, the objects claim more points than they get together: some are contested.
        alone = [expected_of(rule, (*given[:-1], np.arange(7) == j))[1].sum() for j in range(5)]
        shared += sum(alone) - int(found.positive.sum())
    assert shared > 5


@pytest.mark.parametrize("rule", RULES)
def test_without_objects_no_point_has_one(rule, rng):
    for found in (found_by(rule, scene(rng, 7, 5)[:-1] + (np.zeros(7, bool),)), found_by(rule, no_rows(scene(rng)))):
        assert not found.positive.any() and not found.target.any() and not found.quality.any()


def no_rows(given):
    return (*given[:4], *(x[:0] for x in given[4:]))


@pytest.mark.parametrize("rule", RULES)
def test_rows_of_padding_change_nothing(rule, rng):
    points, strides, scores, predicted, boxes, labels, valid = scene(rng)
    clean = found_by(rule, (points, strides, scores, predicted, boxes, labels, valid))
    boxes, labels = boxes.copy(), labels.copy()
    boxes[~valid], labels[~valid] = [np.nan, -1e9, 1e9, np.inf], 1000
    rubbish = found_by(rule, (points, strides, scores, predicted, boxes, labels, valid))
    for one, other in zip(clean, rubbish):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_more_objects_than_points(rule, rng):
    """Twenty objects at one point: one of them gets it. An object that no point is in gets none by alignment."""
    point, strides = np.float32([[4, 4], [60, 60]]), np.float32([8, 8])
    boxes = np.concatenate([rng.uniform(0, 3, (20, 2)), rng.uniform(5, 12, (20, 2))], 1).astype(np.float32)
    boxes[-1] = [20, 20, 23, 23]
    predicted = np.float32([[0, 0, 8, 9], [56, 56, 64, 64]])
    given = (point, strides, rng.uniform(0.1, 0.9, (2, 3)).astype(np.float32), predicted, boxes)
    found = check(rule, (*given, rng.integers(0, 3, 20).astype(np.int32), np.ones(20, bool)))
    assert found.positive.tolist() == [True, False]


def test_two_objects_compete_for_one_point():
    """Alignment gives it to the larger IoU, even where the other's score is higher; SimOTA to the lesser cost."""
    point, box = np.float32([[8, 8]]), np.float32([[0, 0, 16, 16]])
    boxes, labels, valid = np.float32([[0, 0, 16, 12], [0, 0, 16, 15]]), np.int32([0, 1]), np.ones(2, bool)
    given = (point, np.float32([8]), np.float32([[0.9, 0.1]]), box, boxes, labels, valid)
    found = check("task_aligned", given)
    assert int(found.target[0]) == 1 and float(found.quality[0]) == pytest.approx(15 / 16)
    found = check("sim_ota", given)
    assert int(found.target[0]) == 0 and float(found.quality[0]) == pytest.approx(12 / 16)


def test_alignment_of_hardly_overlapping_boxes_is_still_ranked():
    """IoU^6 would be zero in float32 for all of them; quality is relative to the best."""
    points = np.float32([[4, 4], [12, 4], [20, 4]])
    predicted = np.concatenate([points - np.float32([[1e-3], [2e-3], [4e-3]]), points + 1e-3], 1).astype(np.float32)
    objects = (np.float32([[0, 0, 64, 64]]), np.int32([0]), np.ones(1, bool))
    given = [jnp.asarray(x) for x in (points, np.full((3, 1), 0.01, np.float32), predicted, *objects)]
    found = aligned(*given, count=1, alpha=1.0, beta=6.0)
    assert found.positive.tolist() == [False, False, True]
    assert float(found.quality[2]) == pytest.approx(oracles.iou(predicted[2], [0, 0, 64, 64]), rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_images_at_once_and_no_gradient(rule, rng):
    scenes = [scene(rng), scene(rng)]
    points, strides = jnp.asarray(scenes[0][0]), jnp.asarray(scenes[0][1])
    rest = [jnp.stack([jnp.asarray(x) for x in pair]) for pair in zip(*(s[2:] for s in scenes))]

    def run(scores, predicted, *objects):
        if rule == "task_aligned":
            return assignment.task_aligned(points, scores, predicted, *objects, **ALIGNED)
        return assignment.sim_ota(points, strides, scores, predicted, *objects, **OTA)

    together = jax.jit(jax.vmap(run))(*rest)
    for i, one in enumerate(scenes):
        for both, single in zip(together, found_by(rule, one)):
            np.testing.assert_allclose(both[i], single, rtol=1e-6)
    slopes = jax.grad(lambda s, p: run(s, p, *[x[0] for x in rest[2:]]).quality.sum(), argnums=(0, 1))(
        rest[0][0], rest[1][0]
    )
    assert not any(slope.any() for slope in slopes)


def test_a_count_below_one_is_refused(rng):
    given = [jnp.asarray(x) for x in scene(rng)]
    with pytest.raises(ValueError, match="count is 0; an object must be given at least 1 point"):
        assignment.task_aligned(given[0], *given[2:], count=0)
    with pytest.raises(ValueError, match="count is 0"):
        assignment.sim_ota(*given, count=0)
