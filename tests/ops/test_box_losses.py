"""Losses of paired boxes against a loop, numerical gradients, and what must not become NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from segjax.ops import box_losses
from tests.ops.test_boxes import jitted, random_boxes


def giou_loss(a, b):
    """Of two boxes, in double precision."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = np.float64(a), np.float64(b)
    shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return 1 - (shared / union if union else 0) + ((around - union) / around if around else 0)


POINT, LINE = [3.0, 3, 3, 3], [0.0, 5, 20, 5]


@pytest.mark.parametrize("jit", [True, False])
def test_giou_loss_equals_the_loop(jit, rng):
    boxes, targets = random_boxes(rng, 2, 40), random_boxes(rng, 2, 40)
    boxes[0, :5], targets[0, :5] = targets[0, :5], targets[0, :5]  # the same
    boxes[0, 5:9] = [POINT, LINE, POINT, LINE]
    targets[0, 7:9] = [POINT, LINE]
    function = jax.jit(box_losses.giou_loss) if jit else box_losses.giou_loss
    found = function(jnp.asarray(boxes), jnp.asarray(targets))
    expected = np.array([[giou_loss(a, b) for a, b in zip(*pair)] for pair in zip(boxes, targets)])
    assert found.shape == (2, 40) and (expected > 1).any() and (expected[0, 7:9] == 1).all()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_gradients(rng):
    """Where no two sides are at one place, for there the maximum has a corner."""
    boxes, targets = random_boxes(rng, 12), random_boxes(rng, 12)
    targets[:6] = boxes[:6] + rng.uniform(2, 6, (6, 4))
    check_grads(jitted(box_losses.giou_loss), (boxes / 50, targets / 50), order=1, modes=("rev",), eps=1e-3, rtol=2e-2)


def test_apart_they_are_drawn_together():
    move = jax.grad(lambda box: box_losses.giou_loss(box, jnp.array([50.0, 0, 60, 10])))(jnp.array([0.0, 0, 10, 10]))
    assert move[2] < 0  # a larger x2 comes closer


@pytest.mark.parametrize("box", [POINT, LINE, [5.0, 5, 1, 1], [0.0, 0, 0, 0]])
@pytest.mark.parametrize("target", [POINT, LINE, [0.0, 0, 0, 0], [1.0, 1, 9, 9]])
def test_boxes_without_area_have_finite_gradients(box, target):
    value, gradients = jax.value_and_grad(box_losses.giou_loss, argnums=(0, 1))(jnp.array(box), jnp.array(target))
    assert 0 <= value <= 2 and all(np.isfinite(g).all() for g in gradients)


def test_half_precision_is_computed_in_single(rng):
    boxes, targets = jnp.asarray(random_boxes(rng, 9)).astype(jnp.bfloat16), jnp.asarray(random_boxes(rng, 9))
    found = box_losses.giou_loss(boxes, targets)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, box_losses.giou_loss(boxes.astype(jnp.float32), targets))
