"""Merging, against loops over all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.merge import greedy_merge
from tests import oracles


def by_loops(boxes, scores, labels, valid, threshold):
    boxes, scores, alive = np.float64(boxes), np.float64(scores), list(np.flatnonzero(valid))
    while True:
        pairs = [
            (oracles.iou(boxes[i], boxes[j]), -i, -j) for i in alive for j in alive if i < j and labels[i] == labels[j]
        ]
        if not pairs or max(pairs)[0] <= threshold:
            return boxes, scores, np.isin(np.arange(len(boxes)), alive)
        _, i, j = max(pairs)
        boxes[-i], scores[-i] = (boxes[-i] + boxes[-j]) / 2, scores[-i] + scores[-j]
        alive.remove(-j)


merge = jax.jit(greedy_merge, static_argnames="iou_threshold")


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_it_equals_the_loops(threshold, rng):
    corner = rng.uniform(0, 12, (24, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 25, (24, 2))], axis=1).astype(np.float32)
    scores, labels = rng.uniform(size=24).astype(np.float32), rng.integers(0, 2, 24).astype(np.int32)
    valid = rng.uniform(size=24) > 0.2
    found = merge(*map(jnp.asarray, (boxes, scores, labels, valid)), iou_threshold=threshold)
    expected = by_loops(boxes, scores, labels, valid, threshold)
    np.testing.assert_array_equal(found[2], expected[2])
    assert 2 <= expected[2].sum() < valid.sum() - 4
    for value, wanted in zip(found[:2], expected[:2]):
        np.testing.assert_allclose(value[expected[2]], wanted[expected[2]], rtol=1e-4)
    assert float(found[1][expected[2]].sum()) == pytest.approx(scores[valid].sum(), rel=1e-5)


def test_equal_boxes_and_none_at_all():
    boxes, zeros = jnp.asarray([[0.0, 0, 4, 4]] * 3), jnp.zeros(3, jnp.int32)
    merged = merge(boxes, jnp.asarray([0.5, 0.25, 0.125]), zeros, jnp.array([True, True, True]), iou_threshold=0.5)
    np.testing.assert_array_equal(merged[0][0], boxes[0])
    np.testing.assert_array_equal(merged[1][0], 0.875)
    np.testing.assert_array_equal(merged[2], [True, False, False])
    nothing = merge(boxes, jnp.ones(3), zeros, jnp.zeros(3, bool), iou_threshold=0.5)
    assert not nothing[2].any()
    empty = greedy_merge(
        jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), iou_threshold=0.5
    )
    assert empty[0].shape == (0, 4)
