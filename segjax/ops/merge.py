"""Merging boxes that say the same, in place of keeping the best of them."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from segjax.ops import boxes as box_ops


def greedy_merge(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    labels: Int[Array, "n"],
    valid: Bool[Array, "n"],
    *,
    iou_threshold: int | float,
) -> tuple[Float[Array, "n 4"], Float[Array, "n"], Bool[Array, "n"]]:
    """Merges the two boxes of a label that match best, again and again until none match (Sermanet et al. 2014, 4.3).

    The merged box is the mean of both, its score their sum: many windows that agree outweigh a single one. The paper's
    measure of a match adds the distance of the centres, which should be small, to the shared area, which should be
    large; here it is the IoU. No gradient flows through.

    Time grows with the merges times n^2, memory with n^2: for hundreds of boxes.

    Args:
        boxes: `xyxy`.
        scores: not negative.
        labels: only boxes of one are merged.
        valid: False for rows that are none.
        iou_threshold: pairs with a larger IoU are merged; of equally good pairs the first, row by row.

    Returns:
        (boxes, scores, valid): a merged box is where the first of its boxes was, the others are no longer valid.
    """
    if boxes.shape[0] == 0:
        return boxes, scores, valid
    boxes, scores = lax.stop_gradient((boxes.astype(jnp.float32), scores.astype(jnp.float32)))
    index = jnp.arange(boxes.shape[0], dtype=jnp.int32)

    def matches(i: Array, boxes: Array, valid: Array) -> Array:
        """IoU of box i with those it may be merged with, -1 elsewhere."""
        ious = box_ops.iou(boxes[i][None], boxes)[0]
        return jnp.where(valid & valid[i] & (labels == labels[i]) & (index != i), ious, -1.0)

    ious = box_ops.iou(boxes, boxes)
    pairs = valid[:, None] & valid[None] & (labels[:, None] == labels[None]) & (index[:, None] != index[None])

    def best(ious: Array) -> Array:
        return jnp.argmax(ious).astype(jnp.int32)

    def step(state):
        boxes, scores, valid, ious = state
        at = best(ious)
        # The matrix is symmetric but for rounding.
        i, j = jnp.sort(jnp.stack([at // ious.shape[0], at % ious.shape[0]]))
        boxes = boxes.at[i].set((boxes[i] + boxes[j]) / 2)
        scores = scores.at[i].add(scores[j])
        valid = valid.at[j].set(False)
        row = matches(i, boxes, valid)
        ious = ious.at[j].set(-1.0).at[:, j].set(-1.0).at[i].set(row).at[:, i].set(row)
        return boxes, scores, valid, ious

    start = (boxes, scores, valid, jnp.where(pairs, ious, -1.0))
    return lax.while_loop(lambda state: state[3].max() > iou_threshold, step, start)[:3]
