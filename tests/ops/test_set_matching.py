"""Matching of sets against SciPy's assignment and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from segjax.ops.set_matching import hungarian, in_order, matching_cost

MANY = jax.jit(jax.vmap(hungarian))


@pytest.mark.parametrize(("m", "n"), [(5, 9), (6, 6), (1, 4), (1, 1), (12, 20)])
def test_least_cost_is_scipys(rng, m, n):
    """Random costs, costs in steps (many ties) and negative ones, with every number of objects, none and all included,
    padding anywhere."""
    cases = 120
    cost = rng.normal(size=(cases, m, n)).astype(np.float32)
    cost[::3] = rng.integers(-2, 3, (len(cost[::3]), m, n))
    count = np.arange(cases) % (m + 1)
    valid = rng.permuted(np.arange(m)[None] < count[:, None], axis=1)
    found = np.asarray(MANY(jnp.asarray(cost), jnp.asarray(valid)))
    assert found.dtype == np.int32 and (found[~valid] == n).all()
    for c, v, slots in zip(cost, valid, found):
        mine = slots[v]
        assert len(set(mine)) == len(mine) and ((mine >= 0) & (mine < n)).all()
        rows, columns = linear_sum_assignment(c[v])
        assert c[v][np.arange(v.sum()), mine].sum() == pytest.approx(c[v][rows, columns].sum(), abs=1e-4)
    distinct = (np.arange(cases) % 3 > 0) & (count > 0)
    assert distinct.sum() > 20
    for c, v, slots in zip(cost[distinct], valid[distinct], found[distinct]):
        np.testing.assert_array_equal(slots[v], linear_sum_assignment(c[v])[1])


def test_padding_has_no_influence_and_nan_ends(rng):
    cost, valid = rng.normal(size=(4, 6)).astype(np.float32), np.array([True, False, True, True])
    expected = hungarian(jnp.asarray(cost), jnp.asarray(valid))
    for value in (np.nan, np.inf, -np.inf, 7.0):
        cost[1] = value
        np.testing.assert_array_equal(hungarian(jnp.asarray(cost), jnp.asarray(valid)), expected)
    for value in (np.nan, np.inf, -np.inf):
        found = np.asarray(hungarian(jnp.full((4, 6), value, jnp.float32), jnp.asarray(valid)))
        assert len(set(found[valid])) == 3 and (found[valid] < 6).all()
    cost[0, 3] = np.nan  # one pair that is no number is the last to be taken
    assert hungarian(jnp.asarray(cost), jnp.asarray(valid))[0] != 3


def test_cost_is_the_papers(rng):
    n, m, classes = 7, 4, 3
    logits = rng.normal(size=(n, classes + 1)).astype(np.float32)
    predicted, boxes = (rng.uniform(0.1, 0.9, (k, 4)).astype(np.float32) for k in (n, m))
    labels = rng.integers(0, classes, m).astype(np.int32)
    found = matching_cost(*map(jnp.asarray, (logits, predicted, labels, boxes)))
    weighted = matching_cost(
        *map(jnp.asarray, (logits, predicted, labels, boxes)), class_weight=2.0, box_weight=0.5, giou_weight=3.0
    )
    for j in range(m):
        for i in range(n):
            p = np.exp(logits[i, labels[j]]) / np.exp(logits[i]).sum()
            distance = np.abs(boxes[j] - predicted[i]).sum()
            overlap = giou(boxes[j].astype(np.float64), predicted[i].astype(np.float64))
            assert found[j, i] == pytest.approx(-p + 5 * distance - 2 * overlap, abs=1e-5)
            assert weighted[j, i] == pytest.approx(-2 * p + 0.5 * distance - 3 * overlap, abs=1e-5)


def giou(a, b):
    """Of two boxes (cx, cy, w, h), in plain numbers."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = ((*(x[:2] - x[2:] / 2), *(x[:2] + x[2:] / 2)) for x in (a, b))
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    union = a[2] * a[3] + b[2] * b[3] - shared
    around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return shared / union - (around - union) / around


def test_order():
    boxes = jnp.array([[0.5, 0.5, 0.2, 0.2], [0.9, 0.5, 0.1, 0.9], [0.2, 0.2, 0.0, 0.0], [0.3, 0.9, 0.5, 0.5]])
    boxes = jnp.concatenate([boxes, boxes[:1]])
    valid = jnp.array([True, True, False, True, True])
    np.testing.assert_array_equal(in_order(boxes, valid, n=8), [2, 1, 8, 0, 3])
    np.testing.assert_array_equal(in_order(boxes, valid, n=5, order="left"), [1, 3, 5, 0, 2])
    np.testing.assert_array_equal(in_order(boxes, jnp.zeros(5, bool), n=5), [5] * 5)


def test_what_does_not_fit_is_a_sentence():
    with pytest.raises(ValueError, match="room for 5 objects and the model makes 4 predictions"):
        hungarian(jnp.zeros((5, 4)), jnp.ones(5, bool))
    with pytest.raises(ValueError, match="room for 3 objects and the model makes 2"):
        in_order(jnp.zeros((3, 4)), jnp.ones(3, bool), n=2)
