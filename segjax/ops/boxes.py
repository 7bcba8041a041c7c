"""Arithmetic on boxes: `xyxy`, absolute pixels, continuous coordinates (a width is x2 - x1).

Everything is computed in float32, whatever the input's dtype. Divisions are guarded on both sides, so that values and
gradients stay finite on padding and on boxes without area. An inverted box (x2 < x1 or y2 < y1) has no area.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BoxWeights = tuple[int | float, int | float, int | float, int | float]
"""Factors of the four box deltas, (x, y, width, height)."""

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Largest log-scale size change that `decode` follows, from 16 to 1000 pixels: that of torchvision's `BoxCoder`."""


def _corners(boxes: Array) -> tuple[Array, Array, Array, Array]:
    x1, y1, x2, y2 = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    return x1, y1, x2, y2


def _divide(numerator: Array, denominator: Array) -> Array:
    """The quotient where the denominator is positive, else 0; finite in value and in gradient."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)


def area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Area in square pixels; 0 for an inverted box."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.maximum(x2 - x1, 0.0) * jnp.maximum(y2 - y1, 0.0)


def clip(boxes: Float[Array, "*b n 4"], size: tuple[int, int] | Int[Array, "*s 2"]) -> Float[Array, "*b n 4"]:
    """Boxes cut to an image of `size` (height, width) in pixels: x in [0, width], y in [0, height].

    Args:
        boxes: `xyxy`.
        size: two numbers, or an array [2] for all the boxes, or [*b 2] with the size of each image.
    """
    height, width = (jnp.asarray(size[..., i], jnp.float32) for i in (0, 1)) if hasattr(size, "shape") else size
    across, down = (jnp.broadcast_to(jnp.asarray(s, jnp.float32)[..., None], boxes.shape[:-1]) for s in (width, height))
    limits = jnp.stack([across, down, across, down], axis=-1)
    return jnp.clip(boxes.astype(jnp.float32), 0.0, limits)


def _pairs(boxes1: Array, boxes2: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The corners of both sets, shaped so that arithmetic between them gives [*b n m]."""
    return tuple(c[..., :, None] for c in _corners(boxes1)), tuple(c[..., None, :] for c in _corners(boxes2))


def intersection(boxes1: Float[Array, "*b n 4"], boxes2: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """Area in square pixels that each box of the first set shares with each of the second."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _pairs(boxes1, boxes2)
    width = jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1)
    height = jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1)
    return jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)


def _intersection_union(boxes1: Array, boxes2: Array) -> tuple[Array, Array]:
    shared = intersection(boxes1, boxes2)
    return shared, area(boxes1)[..., :, None] + area(boxes2)[..., None, :] - shared


def iou(boxes1: Float[Array, "*b n 4"], boxes2: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """Intersection over union of each pair, in [0, 1]; 0 where neither box has an area."""
    return _divide(*_intersection_union(boxes1, boxes2))


def _enclosing(boxes1: Array, boxes2: Array) -> tuple[Array, Array]:
    """Width and height of the smallest box around each pair."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _pairs(boxes1, boxes2)
    width = jnp.maximum(ax2, bx2) - jnp.minimum(ax1, bx1)
    height = jnp.maximum(ay2, by2) - jnp.minimum(ay1, by1)
    return jnp.maximum(width, 0.0), jnp.maximum(height, 0.0)


def giou(boxes1: Float[Array, "*b n 4"], boxes2: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """Generalised IoU of each pair, in [-1, 1] (Rezatofighi et al. 2019, algorithm 1).

    The IoU less the share of the enclosing box that neither box covers. A share of an empty enclosing box counts as
    0, so two equal boxes without area give 0.
    """
    shared, union = _intersection_union(boxes1, boxes2)
    width, height = _enclosing(boxes1, boxes2)
    return _divide(shared, union) - _divide(width * height - union, width * height)


def diou(boxes1: Float[Array, "*b n 4"], boxes2: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """Distance IoU of each pair, in [-1, 1] (Zheng et al. 2020, equation 7).

    The IoU less the squared distance of the centres over the squared diagonal of the enclosing box; two equal boxes
    without area give 0.
    """
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _pairs(boxes1, boxes2)
    width, height = _enclosing(boxes1, boxes2)
    distance = ((ax1 + ax2 - bx1 - bx2) / 2) ** 2 + ((ay1 + ay2 - by1 - by2) / 2) ** 2
    return iou(boxes1, boxes2) - _divide(distance, width**2 + height**2)


def xyxy_to_cxcywh(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x1, y1, x2, y2) as (centre x, centre y, width, height), pixels."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=-1)


def cxcywh_to_xyxy(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(centre x, centre y, width, height) as (x1, y1, x2, y2), pixels."""
    cx, cy, width, height = _corners(boxes)
    return jnp.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], axis=-1)


def xyxy_to_xywh(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x1, y1, x2, y2) as (x1, y1, width, height), the format of COCO files, pixels."""
    x1, y1, x2, y2 = _corners(boxes)
    return jnp.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)


def xywh_to_xyxy(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x1, y1, width, height) as (x1, y1, x2, y2), pixels."""
    x1, y1, width, height = _corners(boxes)
    return jnp.stack([x1, y1, x1 + width, y1 + height], axis=-1)


def flip_horizontal(boxes: Float[Array, "*b 4"], width: int | float | Int[Array, ""]) -> Float[Array, "*b 4"]:
    """Boxes in the mirror image of an image `width` pixels wide."""
    x1, y1, x2, y2 = _corners(boxes)
    across = jnp.broadcast_to(jnp.asarray(width, jnp.float32), x1.shape)
    return jnp.stack([across - x2, y1, across - x1, y2], axis=-1)


def encode(
    boxes: Float[Array, "*b n 4"], anchors: Float[Array, "*b n 4"], *, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)
) -> Float[Array, "*b n 4"]:
    """The deltas that turn each anchor into its box.

    The parametrisation of R-CNN (Girshick et al. 2014, appendix C): shifts of the centre in units of the anchor's size
    and logarithms of the change in size, each multiplied by its weight.

    Args:
        boxes: targets, `xyxy` in pixels; without width (height) the size delta is 0.
        anchors: `xyxy` in pixels; without width (height) both deltas along that axis are 0.
        weights: (x, y, width, height).
    """
    cx, cy, width, height = jnp.moveaxis(xyxy_to_cxcywh(boxes), -1, 0)
    ax, ay, across, down = jnp.moveaxis(xyxy_to_cxcywh(anchors), -1, 0)
    deltas = (_divide(cx - ax, across), _divide(cy - ay, down), _log_ratio(width, across), _log_ratio(height, down))
    return jnp.stack([w * d for w, d in zip(weights, deltas, strict=True)], axis=-1)


def _log_ratio(numerator: Array, denominator: Array) -> Array:
    positive = (numerator > 0) & (denominator > 0)
    return jnp.log(jnp.where(positive, numerator, 1.0) / jnp.where(positive, denominator, 1.0))


def decode(
    deltas: Float[Array, "*b n 4"], anchors: Float[Array, "*b n 4"], *, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)
) -> Float[Array, "*b n 4"]:
    """The boxes that `deltas` describe relative to `anchors`: the inverse of `encode`.

    Size deltas are clamped at log(1000 / 16), as torchvision does, so no prediction overflows. An anchor without width
    (height) gives a box without width (height) in the same place.

    Args:
        deltas: (x, y, width, height), each already multiplied by its weight.
        anchors: `xyxy` in pixels.
        weights: (x, y, width, height), none of them 0.
    """
    dx, dy, dw, dh = (d / w for d, w in zip(_corners(deltas), weights, strict=True))
    ax, ay, across, down = jnp.moveaxis(xyxy_to_cxcywh(anchors), -1, 0)
    width = jnp.exp(jnp.minimum(dw, MAX_LOG_SCALE)) * across
    height = jnp.exp(jnp.minimum(dh, MAX_LOG_SCALE)) * down
    return cxcywh_to_xyxy(jnp.stack([ax + dx * across, ay + dy * down, width, height], axis=-1))
