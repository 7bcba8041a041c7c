"""From scored boxes to detections: the last step of all heads that find objects."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segjax.ops.nms import batched_nms, top_detections
from segjax.types import Detections


def best_detections(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    labels: Int[Array, "n"],
    valid: Bool[Array, "n"],
    *,
    iou_threshold: float,
    count: int,
) -> Detections:
    """The best candidates that survive non-maximum suppression within their class, at most `count` and best first.

    Args:
      boxes: `xyxy`.
      scores: of the candidates, which come best first, as `jax.lax.top_k` leaves them.
      labels: class ids.
      valid: False for candidates that are none.
      iou_threshold: what a box may overlap a better one of its class.
      count: slots of the result.
    """
    keep = batched_nms(boxes, scores, labels, iou_threshold=iou_threshold, valid=valid, max_output=count, sorted=True)
    return detections_of(boxes, scores, labels, keep, count=count)


def detections_of(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    labels: Int[Array, "n"],
    keep: Bool[Array, "n"],
    *,
    count: int,
) -> Detections:
    """The best of those to be kept, at most `count` and best first, with zeros behind them."""
    best, valid = top_detections(scores, keep, count=count)
    return Detections(
        boxes=jnp.where(valid[:, None], boxes[best], 0.0),
        scores=jnp.where(valid, scores[best], 0.0),
        labels=jnp.where(valid, labels[best], 0).astype(jnp.int32),
        valid=valid,
    )
