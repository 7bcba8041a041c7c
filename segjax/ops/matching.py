"""Matching of anchors (or proposals) to ground truth by IoU."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from segjax.ops import boxes as box_ops

IGNORE, NEGATIVE, POSITIVE = -1, 0, 1


class Matches(NamedTuple):
    """What each anchor is to learn."""

    target: Int32[Array, "n"]
    """Index of the ground-truth box with the best IoU, the first of equals; 0 where there is none."""
    status: Int32[Array, "n"]
    """IGNORE (-1), NEGATIVE (0) or POSITIVE (1)."""
    quality: Float[Array, "n"]
    """The best IoU; 0 where there is no ground truth."""


def match(
    anchors: Float[Array, "n 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, "m"],
    *,
    positive_threshold: int | float,
    negative_threshold: int | float,
    allow_low_quality: bool = False,
    chunk: int = 8,
) -> Matches:
    """Labels each anchor by its best IoU with the valid ground truth.

    POSITIVE at `positive_threshold` and above, NEGATIVE below `negative_threshold`, else IGNORE: the rule of Faster
    R-CNN (Ren et al. 2015, section 3.1.2) as torchvision's `Matcher` reads it. No gradient flows through.

    Args:
        anchors: `xyxy` in pixels.
        boxes: ground truth, `xyxy` in pixels.
        valid: False for padding, which is never matched.
        positive_threshold, negative_threshold: IoU in [0, 1].
        allow_low_quality: also make POSITIVE each anchor whose IoU with some ground truth is the best that ground truth
            gets from any anchor, equals included. Such an anchor keeps its own best ground truth as its target.
            Unlike in torchvision, where an object that no anchor overlaps makes all the anchors with IoU 0 positive,
            such an object claims none.
        chunk: ground-truth boxes handled at a time. Memory grows with n * min(m, chunk), not with n * m: 10 000 boxes
            against 200 000 anchors peak at 13 MB, arguments (3 MB) and results (2 MB) included, by `memory_analysis` of
            the program compiled for a CPU.

    Raises:
        ValueError: negative_threshold > positive_threshold, or chunk < 1.
    """
    if negative_threshold > positive_threshold:
        raise ValueError(
            "negative_threshold must not exceed positive_threshold, "
            f"got negative_threshold={negative_threshold}, positive_threshold={positive_threshold}."
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got chunk={chunk}.")
    quality, target, claimed = _best(*lax.stop_gradient((anchors, boxes)), valid, chunk)
    status = jnp.where(quality < negative_threshold, NEGATIVE, IGNORE)
    status = jnp.where(quality >= positive_threshold, POSITIVE, status)
    if allow_low_quality:
        status = jnp.where(claimed, POSITIVE, status)
    # Without ground truth the best IoU is 0, which a threshold of 0 would call positive.
    status = jnp.where(valid.any(), status, NEGATIVE)
    return Matches(target, status.astype(jnp.int32), quality)


def claim_best(
    matches: Matches, anchors: Float[Array, "n 4"], boxes: Float[Array, "m 4"], valid: Bool[Array, "m"]
) -> Matches:
    """`matches`, in which each valid box has got the anchor that it overlaps best, whatever their IoU.

    The first step of SSD's matching (Liu et al. 2016, section 2.2) as torchvision's `SSDMatcher` takes it: of anchors
    that overlap a box equally well the first is claimed, and of boxes that claim one anchor the last has it. The anchor
    is POSITIVE and its target is the box, even where it overlaps another one better. A box that no anchor overlaps
    claims none. `quality` stays what it is. No gradient flows through.

    Args:
        matches: of these anchors and boxes.
        anchors, boxes: `xyxy` in pixels.
        valid: False for padding.
    """
    n, m = anchors.shape[0], boxes.shape[0]
    if n == 0 or m == 0:
        return matches
    anchors, boxes = lax.stop_gradient((anchors, boxes))

    def best(box):
        ious = box_ops.iou(box[None], anchors)[0]
        return jnp.where(ious.max() > 0, jnp.argmax(ious).astype(jnp.int32), n)

    # A few boxes at a time, so that memory does not grow with n * m.
    claimed = lax.map(best, jnp.where(valid[:, None], boxes, 0), batch_size=8)
    # Written at once, two boxes would have one anchor in either order; the maximum of their indices is the last.
    owner = jnp.full(n, -1, jnp.int32).at[claimed].max(jnp.arange(m, dtype=jnp.int32), mode="drop")
    target = jnp.where(owner >= 0, owner, matches.target)
    return Matches(target, jnp.where(owner >= 0, POSITIVE, matches.status).astype(jnp.int32), matches.quality)


def _best(anchors: Array, boxes: Array, valid: Array, chunk: int) -> tuple[Array, Array, Array]:
    """Best IoU of each anchor, which box it is with, and whether the anchor is the best of some box."""
    n, m = anchors.shape[0], boxes.shape[0]
    start = (jnp.zeros(n, jnp.float32), jnp.zeros(n, jnp.int32), jnp.zeros(n, bool))
    if n == 0 or m == 0:
        return start
    chunk = min(chunk, m)
    padding = -m % chunk
    # A box without area has IoU 0 with everything, which is how padding stays out.
    boxes = jnp.pad(jnp.where(valid[:, None], boxes, 0), ((0, padding), (0, 0)))

    def step(i, best):
        quality, target, claimed = best
        ious = box_ops.iou(lax.dynamic_slice_in_dim(boxes, i * chunk, chunk), anchors)
        peaks = ious.max(axis=1)
        # One box after the other: this is element-wise and fuses with the IoU, where max and argmax over the chunk
        # make strided passes over [chunk, n] that take a CPU ten times as long.
        for k in range(chunk):
            claimed |= (ious[k] == peaks[k]) & (peaks[k] > 0)
            # Strictly greater: the first of equals keeps the anchor.
            target = jnp.where(ious[k] > quality, i * chunk + k, target)
            quality = jnp.maximum(quality, ious[k])
        return quality, target, claimed

    # Only as far as the last valid box: padding costs nothing.
    last = jnp.max(jnp.where(valid, jnp.arange(m, dtype=jnp.int32) + 1, 0))
    return lax.fori_loop(0, (last + chunk - 1) // chunk, step, start)
