"""Losses of predicted boxes against the boxes they should be, pair by pair: the IoU family.

Boxes are `xyxy`, as in `segjax.ops.boxes`, whose measures are of all pairs between two sets. Everything is computed in
float32, and values and gradients stay finite for boxes without area, on either side. An inverted box has no area.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from segjax.losses import safe_divide
from segjax.ops import boxes as box_ops

FLAT = 1e-6
"""A box with a side of at most this many pixels has no aspect ratio: its gradient would be without bounds."""


class Overlap(NamedTuple):
    """How the boxes of each pair lie to one another: what the losses of the family are made of."""

    iou: Float[Array, "*b"]
    """0 where neither has an area."""
    union: Float[Array, "*b"]
    """In square pixels."""
    width: Float[Array, "*b"]
    """Of the smallest box around both, in pixels."""
    height: Float[Array, "*b"]


def paired_overlap(boxes: Float[Array, "*b 4"], targets: Float[Array, "*b 4"]) -> Overlap:
    """The overlap of each box with the one in the same place of `targets`."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (jnp.moveaxis(x.astype(jnp.float32), -1, 0) for x in (boxes, targets))
    across, down = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
    shared = jnp.where((across > 0) & (down > 0), across * down, 0.0)
    union = box_ops.area(boxes) + box_ops.area(targets) - shared
    width, height = jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1), jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1)
    return Overlap(safe_divide(shared, union), union, width, height)


def giou_loss(boxes: Float[Array, "*b 4"], targets: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """1 - the generalised IoU of each pair, in [0, 2] (Rezatofighi et al. 2019, algorithm 1).

    Boxes that do not touch have a gradient too: towards each other. Two equal boxes without area give 1.
    """
    overlap = paired_overlap(boxes, targets)
    around = overlap.width * overlap.height
    return 1.0 - overlap.iou + safe_divide(around - overlap.union, around)


def diou_loss(boxes: Float[Array, "*b 4"], targets: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """1 - the distance IoU of each pair, in [0, 2] (Zheng et al. 2020, equation 7).

    The IoU's loss and the squared distance of the centres over the squared diagonal of the box around both. Two equal
    boxes without area give 1.
    """
    return _distance_loss(boxes, targets, paired_overlap(boxes, targets))


def ciou_loss(boxes: Float[Array, "*b 4"], targets: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """1 - the complete IoU of each pair: `diou_loss`, and how far the aspect ratios differ (Zheng et al. 2020, 3.3).

    The difference of the angles arctan(width / height), squared and scaled to v in [0, 1], counts as often as
    alpha = v / (1 - IoU + v), through which no gradient flows (equations 8 to 11). A box without width or height has
    no aspect ratio, and the pair no such term.
    """
    overlap = paired_overlap(boxes, targets)
    (width, height), (other_width, other_height) = (_sides(x) for x in (boxes, targets))
    both = (jnp.minimum(width, height) > FLAT) & (jnp.minimum(other_width, other_height) > FLAT)

    def angle(width: Array, height: Array) -> Array:
        # arctan2 has no quotient that overflows; of (0, 0) it has no gradient.
        return jnp.arctan2(jnp.where(both, width, 1.0), jnp.where(both, height, 1.0))

    aspect = 4 / math.pi**2 * (angle(other_width, other_height) - angle(width, height)) ** 2
    alpha = lax.stop_gradient(safe_divide(aspect, 1.0 - overlap.iou + aspect))
    return _distance_loss(boxes, targets, overlap) + alpha * aspect


def _distance_loss(boxes: Array, targets: Array, overlap: Overlap) -> Array:
    ((x1, y1), (x2, y2)), ((u1, v1), (u2, v2)) = (_corners(x) for x in (boxes, targets))
    distance = ((x1 + x2 - u1 - u2) / 2) ** 2 + ((y1 + y2 - v1 - v2) / 2) ** 2
    return 1.0 - overlap.iou + safe_divide(distance, overlap.width**2 + overlap.height**2)


def _corners(boxes: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return (x1, y1), (x2, y2)


def _sides(boxes: Array) -> tuple[Array, Array]:
    (x1, y1), (x2, y2) = _corners(boxes)
    return x2 - x1, y2 - y1
