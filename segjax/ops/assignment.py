"""Assignment of objects to the points of a grid detector by what it predicts there now.

Both rules let an object have the points whose predictions suit it best, so that which points learn it changes while the
network does. They are functions of one image, to be `vmap`ped, and no gradient flows through them.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32

from segjax.ops import boxes as box_ops

TINY = 1e-30
"""Least score, IoU and probability in a logarithm."""
OUTSIDE = 1e5
"""Added to SimOTA's cost of a point that is not both in the box and near its centre, as YOLOX's code does it."""


class Assignment(NamedTuple):
    """What each point is to learn."""

    target: Int32[Array, "n"]
    """Row of its object; 0 where it has none."""
    positive: Bool[Array, "n"]
    """Whether it has one."""
    quality: Float[Array, "n"]
    """How sure the point should be of its object's class, in [0, 1]; 0 where it has none."""


def task_aligned(
    points: Float[Array, "n 2"],
    scores: Float[Array, "n classes"],
    predicted: Float[Array, "n 4"],
    boxes: Float[Array, "m 4"],
    labels: Int[Array, "m"],
    valid: Bool[Array, "m"],
    *,
    count: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (Feng et al. 2021, "TOOD", section 3.2).

    The alignment of a point with an object is score^alpha * IoU^beta, of the score of its class and the predicted box.
    Each object takes the `count` points inside it that are aligned best, of equals the first; a point that several
    take goes to the one with which its IoU is larger, of equals the first. The quality of an object's points is their
    alignment, scaled so that the largest among them is the largest IoU among them.

    Args:
        points: (x, y) in pixels.
        scores: of each class at each point, in [0, 1].
        predicted: the boxes predicted at the points, `xyxy` in pixels.
        boxes, labels, valid: the objects, padded; those that are not valid have no influence.
        count: points an object takes at most.
        alpha, beta: exponents.

    Raises:
        ValueError: `count` is below 1.
    """
    _check_count(count)
    if boxes.shape[0] == 0:
        return _nothing(points)
    points, scores, predicted, boxes, labels = _prepared(points, scores, predicted, boxes, labels, valid)
    ious = box_ops.iou(boxes, predicted)
    # In logarithms: the sixth power of a small IoU is no number in float32, and at first all are small.
    score = jnp.maximum(scores[:, labels].T, TINY)
    alignment = alpha * jnp.log(score) + beta * jnp.log(jnp.maximum(ious, TINY))
    alignment = jnp.where(_inside(points, boxes) & valid[:, None], alignment, -jnp.inf)
    chosen = _best(alignment, count)
    own = _resolved(chosen, ious)
    best = jnp.max(jnp.where(own, alignment, -jnp.inf), axis=1, keepdims=True)
    largest = jnp.max(jnp.where(own, ious, 0.0), axis=1, keepdims=True)
    relative = jnp.where(own, alignment, -jnp.inf) - jnp.where(jnp.isfinite(best), best, 0.0)
    return _assignment(own, jnp.exp(relative) * largest)


def sim_ota(
    points: Float[Array, "n 2"],
    strides: Float[Array, "n"],
    scores: Float[Array, "n classes"],
    predicted: Float[Array, "n 4"],
    boxes: Float[Array, "m 4"],
    labels: Int[Array, "m"],
    valid: Bool[Array, "m"],
    *,
    count: int = 10,
    radius: float = 2.5,
    box_weight: float = 3.0,
) -> Assignment:
    """SimOTA (Ge et al. 2021, "YOLOX", section 2.1; the optimal transport of Ge et al. 2021, "OTA", taken greedily).

    The candidates of an object are the points inside its box and those within `radius` strides of its centre, along
    both axes. A candidate costs the binary cross-entropy of its scores against the object's class and `box_weight`
    times -log IoU; those that are not both inside and near are taken after all others. An object takes as many of the
    cheapest as the `count` largest IoUs of its candidates add up to, rounded down, and at least one. A point that
    several take goes to the one it costs least. Of equals the first is taken. The quality of a point is its IoU.

    YOLOX's code lets an object take a candidate of another object too, should its own be fewer than it may take.

    Args:
        points, scores, predicted, boxes, labels, valid: as in `task_aligned`.
        strides: pixels from each point to its neighbours.
        count: points an object takes at most.
        radius: in strides.
        box_weight: of the boxes in the cost.

    Raises:
        ValueError: `count` is below 1.
    """
    _check_count(count)
    if boxes.shape[0] == 0:
        return _nothing(points)
    points, scores, predicted, boxes, labels = _prepared(points, scores, predicted, boxes, labels, valid)
    ious = box_ops.iou(boxes, predicted)
    inside, near = _inside(points, boxes), _near(points, boxes, radius * strides)
    candidate = (inside | near) & valid[:, None]
    yes, no = jnp.log(jnp.maximum(scores, TINY)), jnp.log(jnp.maximum(1.0 - scores, TINY))
    classes = -jnp.sum(no, axis=1)[None, :] + (no - yes)[:, labels].T
    cost = classes - box_weight * jnp.log(jnp.maximum(ious, 1e-8)) + jnp.where(inside & near, 0.0, OUTSIDE)
    largest, _ = lax.top_k(jnp.where(candidate, ious, 0.0), min(count, points.shape[0]))
    takes = jnp.maximum(jnp.floor(jnp.sum(largest, axis=1)).astype(jnp.int32), 1)
    chosen = _best(jnp.where(candidate, -cost, -jnp.inf), count, takes)
    return _assignment(_resolved(chosen, -cost), ious)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count is {count}; an object must be given at least 1 point.")


def _nothing(points: Array) -> Assignment:
    n = points.shape[0]
    return Assignment(jnp.zeros(n, jnp.int32), jnp.zeros(n, bool), jnp.zeros(n, jnp.float32))


def _prepared(points, scores, predicted, boxes, labels, valid) -> tuple[Array, ...]:
    """All without gradient, in float32, and the padding zero."""
    points, scores, predicted, boxes = (
        lax.stop_gradient(x.astype(jnp.float32)) for x in (points, scores, predicted, boxes)
    )
    return points, scores, predicted, jnp.where(valid[:, None], boxes, 0.0), jnp.where(valid, labels, 0)


def _inside(points: Array, boxes: Array) -> Array:
    """[m n]: whether a point lies in a box, not on its border."""
    x, y = points[None, :, 0], points[None, :, 1]
    x1, y1, x2, y2 = (boxes[:, i, None] for i in range(4))
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def _near(points: Array, boxes: Array, reach: Array) -> Array:
    """[m n]: whether a point is less than `reach` pixels from the centre of a box, along both axes."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    away = jnp.max(jnp.abs(points[None, :, :] - centres[:, None, :]), axis=-1)
    return away < reach[None, :]


def _best(values: Array, count: int, takes: Array | None = None) -> Array:
    """[m n]: of each row the `count` largest finite values, or as many of them as `takes` has for the row."""
    m, n = values.shape
    found, place = lax.top_k(values, min(count, n))
    taken = jnp.isfinite(found)
    if takes is not None:
        taken &= jnp.arange(found.shape[1], dtype=jnp.int32)[None, :] < takes[:, None]
    rows = jnp.broadcast_to(jnp.arange(m, dtype=jnp.int32)[:, None], place.shape)
    return jnp.zeros((m, n), bool).at[rows, place].set(taken)


def _resolved(chosen: Array, preference: Array) -> Array:
    """[m n]: of the objects that chose a point only the preferred one keeps it."""
    owner = jnp.argmax(jnp.where(chosen, preference, -jnp.inf), axis=0).astype(jnp.int32)
    return chosen & (owner[None, :] == jnp.arange(chosen.shape[0], dtype=jnp.int32)[:, None])


def _assignment(own: Array, quality: Array) -> Assignment:
    """Each column of `own` has at most one True."""
    positive = jnp.any(own, axis=0)
    target = jnp.where(positive, jnp.argmax(own, axis=0), 0).astype(jnp.int32)
    return Assignment(target, positive, jnp.sum(jnp.where(own, quality, 0.0), axis=0))
