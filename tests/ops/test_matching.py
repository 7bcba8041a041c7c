import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import matching
from segjax.ops.matching import IGNORE, NEGATIVE, POSITIVE
from tests import oracles

THRESHOLDS = {"positive_threshold": 0.5, "negative_threshold": 0.3}
match = jax.jit(
    matching.match, static_argnames=("positive_threshold", "negative_threshold", "allow_low_quality", "chunk")
)


def grid_boxes(rng, n, step=4):
    """Boxes on a coarse grid, around the origin: many ties and duplicates, IoUs that are exact in float32."""
    corner = rng.integers(-6, 6, (n, 2)) * step
    return np.concatenate([corner, corner + rng.integers(1, 7, (n, 2)) * step], axis=1).astype(np.float32)


def as_arrays(matches):
    return tuple(np.asarray(field) for field in matches)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_equals_the_loops(low_quality, chunk, rng):
    anchors, boxes, valid = grid_boxes(rng, 60), grid_boxes(rng, 11), rng.uniform(size=11) < 0.8
    anchors[:3] = anchors[0]
    boxes[1], boxes[2], valid[:3] = boxes[0], [4, 4, 4, 4], True
    found = match(*map(jnp.asarray, (anchors, boxes, valid)), **THRESHOLDS, allow_low_quality=low_quality, chunk=chunk)
    target, status, quality = oracles.match(anchors, boxes, valid, 0.5, 0.3, low_quality)
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_array_equal(found.status, status)
    np.testing.assert_allclose(found.quality, quality, rtol=1e-6)
    assert {-1, 0, 1} == set(status.tolist())


def test_by_hand_with_low_quality():
    boxes = jnp.array([[0.0, 0, 10, 10], [0, 20, 10, 40]])
    anchors = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 25], [0, 20, 10, 26], [0, 34, 10, 40], [50, 50, 60, 60]])
    plain = matching.match(anchors, boxes, jnp.ones(2, bool), **THRESHOLDS)
    np.testing.assert_array_equal(plain.status, [POSITIVE, IGNORE, IGNORE, IGNORE, NEGATIVE])
    np.testing.assert_allclose(plain.quality, [1, 0.4, 0.3, 0.3, 0], rtol=1e-6)
    rescued = matching.match(anchors, boxes, jnp.ones(2, bool), **THRESHOLDS, allow_low_quality=True)
    # Both anchors with the second box's best IoU, 0.3, are claimed.
    np.testing.assert_array_equal(rescued.status, [POSITIVE, IGNORE, POSITIVE, POSITIVE, NEGATIVE])
    np.testing.assert_array_equal(rescued.target, [0, 0, 1, 1, 0])


def test_an_object_that_no_anchor_overlaps_claims_none():
    anchors = jnp.array([[0.0, 0, 8, 8], [8, 8, 16, 16]])
    far_and_empty = jnp.array([[100.0, 100, 120, 120], [4, 4, 4, 4]])
    found = matching.match(anchors, far_and_empty, jnp.ones(2, bool), **THRESHOLDS, allow_low_quality=True)
    np.testing.assert_array_equal(found.status, [NEGATIVE, NEGATIVE])


@pytest.mark.parametrize("count", [0, 4])
def test_without_valid_ground_truth_all_are_negative(count, rng):
    anchors, boxes = jnp.asarray(grid_boxes(rng, 20)), jnp.asarray(grid_boxes(rng, count))
    for positive in (0.5, 0.0):
        found = match(
            anchors,
            boxes,
            jnp.zeros(count, bool),
            positive_threshold=positive,
            negative_threshold=0.0,
            allow_low_quality=True,
        )
        np.testing.assert_array_equal(found.status, np.zeros(20))
        np.testing.assert_array_equal(found.target, np.zeros(20))
        np.testing.assert_array_equal(found.quality, np.zeros(20))


def test_vmap_equals_one_image_at_a_time(rng):
    anchors = jnp.asarray(grid_boxes(rng, 40))
    boxes = jnp.stack([jnp.asarray(grid_boxes(rng, 10)) for _ in range(3)])
    # The images run through different numbers of chunks, the last through none.
    valid = jnp.arange(10)[None] < jnp.array([[10], [3], [0]])
    one = functools.partial(match, **THRESHOLDS, allow_low_quality=True, chunk=4)
    together = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))(anchors, boxes, valid)
    for i in range(3):
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x[i], together), one(anchors, boxes[i], valid[i]))  # noqa: B023


def test_bfloat16_is_cast_up_and_no_gradient_flows(rng):
    anchors, boxes, valid = jnp.asarray(grid_boxes(rng, 20)), jnp.asarray(grid_boxes(rng, 5)), jnp.ones(5, bool)
    expected = match(anchors, boxes, valid, **THRESHOLDS)
    found = match(anchors.astype(jnp.bfloat16), boxes.astype(jnp.bfloat16), valid, **THRESHOLDS)
    chex.assert_trees_all_equal(found, expected)
    gradients = jax.grad(lambda a, b: match(a, b, valid, **THRESHOLDS).quality.sum(), argnums=(0, 1))(anchors, boxes)
    chex.assert_trees_all_equal(gradients, (jnp.zeros((20, 4)), jnp.zeros((5, 4))))


def test_memory_is_bounded_for_10_000_boxes_and_200_000_anchors():
    shapes = [
        jax.ShapeDtypeStruct(*s) for s in (((200_000, 4), jnp.float32), ((10_000, 4), jnp.float32), ((10_000,), bool))
    ]
    memory = match.lower(*shapes, **THRESHOLDS, allow_low_quality=True).compile().memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert peak < 32e6  # one full IoU matrix is 8e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positive_threshold": 0.3, "negative_threshold": 0.5}, "negative_threshold=0.5"),
        ({**THRESHOLDS, "chunk": 0}, "chunk=0"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        matching.match(jnp.zeros((2, 4)), jnp.zeros((2, 4)), jnp.ones(2, bool), **options)


def claims_by_loops(anchors, boxes, valid, target, status):
    """Box after box takes the anchor that it overlaps best, the first of equals, from whichever box had it."""
    target, status = target.copy(), status.copy()
    for g in np.flatnonzero(valid):
        ious = [oracles.iou(anchor, boxes[g]) for anchor in anchors.astype(np.float64)]
        if max(ious) > 0:
            target[np.argmax(ious)], status[np.argmax(ious)] = g, POSITIVE
    return target, status


@pytest.mark.parametrize("boxes", [0, 1, 5, 19])
def test_claims_equal_the_loops(boxes, rng):
    """With twins among anchors and boxes, boxes without area, and far ones."""
    anchors, boxes = grid_boxes(rng, 30), grid_boxes(rng, boxes)
    anchors[1], valid = anchors[0], rng.uniform(size=len(boxes)) < 0.8
    if len(boxes) >= 5:
        boxes[1], boxes[2], boxes[3], valid[:5] = boxes[0], [4, 4, 4, 4], [900, 900, 910, 910], True
    given = tuple(map(jnp.asarray, (anchors, boxes, valid)))
    plain = match(*given, **THRESHOLDS)
    found = jax.jit(matching.claim_best)(plain, *given)
    target, status = claims_by_loops(anchors, boxes, valid, *map(np.asarray, (plain.target, plain.status)))
    np.testing.assert_array_equal(found.target, target)
    np.testing.assert_array_equal(found.status, status)
    np.testing.assert_array_equal(found.quality, plain.quality)
    if len(boxes) >= 5:
        assert (np.asarray(found.status) > np.asarray(plain.status)).any()


def test_the_last_box_has_an_anchor_that_two_claim():
    """Its own best object is the first, which it then loses."""
    anchors = jnp.array([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    boxes = jnp.array([[0.0, 0, 10, 9], [0, 0, 10, 2], [0, 0, 10, 3]])
    plain = match(anchors, boxes, jnp.array([True, True, False]), **THRESHOLDS)
    found = matching.claim_best(plain, anchors, boxes, jnp.array([True, True, False]))
    assert (plain.target[0], found.target[0]) == (0, 1)
    np.testing.assert_array_equal(found.status, [POSITIVE, NEGATIVE])
