"""DIoU and CIoU of paired boxes against loops, numerical gradients, and what must not become NaN."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from segjax.ops import box_losses
from tests import oracles
from tests.ops.test_boxes import random_boxes


def aspect(a, b):
    """(v, alpha) of Zheng et al. 2020, equations 9 and 11."""
    (aw, ah), (bw, bh) = ((x[2] - x[0], x[3] - x[1]) for x in (a, b))
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return v, v / (1 - oracles.iou(a, b) + v) if v > 0 else 0.0


def diou_loss(a, b):
    return 1 - oracles.diou(a, b)


def ciou_loss(a, b):
    v, alpha = aspect(a, b)
    return diou_loss(a, b) + alpha * v


LOSSES = {"diou": (box_losses.diou_loss, diou_loss), "ciou": (box_losses.ciou_loss, ciou_loss)}


def solid_boxes(rng, *shape):
    """None without area: such have no aspect ratio."""
    corner = rng.uniform(-60, 60, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 50, (*shape, 2))], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop(name, rng):
    ours, loop = LOSSES[name]
    boxes, targets = solid_boxes(rng, 2, 40), solid_boxes(rng, 2, 40)
    targets[0, :4] = boxes[0, :4]
    targets[1, :4] = boxes[1, :4] * 2  # the same aspect ratio
    expected = np.array([[loop(a, b) for a, b in zip(*pair)] for pair in zip(boxes.tolist(), targets.tolist())])
    found = jax.jit(ours)(jnp.asarray(boxes), jnp.asarray(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert (expected[0, :4] == 0).all() and expected.max() > 1


def test_gradients_are_those_of_the_formula_with_alpha_held(rng):
    boxes = solid_boxes(rng, 10)
    targets = boxes + rng.uniform(2, 6, (10, 4)).astype(
        np.float32
    )  # no two sides at one place, where minima have corners
    arguments = tuple(jnp.asarray(x / 50) for x in (boxes, targets))
    check_grads(jax.jit(box_losses.diou_loss), arguments, order=1, modes=("rev",), eps=1e-3, rtol=2e-2)
    ours = jax.grad(lambda a, b: box_losses.ciou_loss(a, b).sum())(jnp.asarray(boxes), jnp.asarray(targets))
    for row, (a, b) in enumerate(zip(boxes.astype(np.float64), targets.astype(np.float64))):
        held = aspect(a, b)[1]
        for k in range(4):
            step = np.eye(4)[k] * 1e-4
            up, down = (diou_loss(x, b) + held * aspect(x, b)[0] for x in (a + step, a - step))
            assert float(ours[row, k]) == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-6)


POINT, LINE = [3.0, 3, 3, 3], [0.0, 5, 20, 5]


@pytest.mark.parametrize("name", LOSSES)
def test_boxes_without_area_have_finite_gradients(name):
    odd = [POINT, LINE, [0.0, 0, 0, 0], [0, 0, 1e-30, 1e-30], [0, 0, 1e-8, 9]]
    pairs = [(a, b) for a in (*odd, [5.0, 5, 1, 1]) for b in (*odd, [1.0, 1, 9, 9])]
    boxes, targets = (jnp.asarray(x, jnp.float32) for x in zip(*pairs))
    slopes = jax.jit(jax.grad(lambda a, b: LOSSES[name][0](a, b).sum(), argnums=(0, 1)))(boxes, targets)
    values = LOSSES[name][0](boxes, targets)
    assert all(np.isfinite(x).all() for x in (values, *slopes)) and (values >= 0).all()
    assert (values[boxes[:, 2] >= boxes[:, 0]] <= 3).all()  # an inverted one is as far away as it likes


@pytest.mark.parametrize("name", LOSSES)
def test_apart_they_are_drawn_together(name):
    move = jax.grad(lambda box: LOSSES[name][0](box, jnp.array([50.0, 0, 60, 10])))(jnp.array([0.0, 0, 10, 10]))
    assert move[0] + move[2] < 0  # to the right


def test_half_precision_is_computed_in_single(rng):
    boxes, targets = jnp.asarray(random_boxes(rng, 9)).astype(jnp.bfloat16), jnp.asarray(random_boxes(rng, 9))
    for ours, _ in LOSSES.values():
        assert ours(boxes, targets).dtype == jnp.float32
        np.testing.assert_array_equal(ours(boxes, targets), ours(boxes.astype(jnp.float32), targets))
