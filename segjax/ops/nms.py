"""Exact greedy non-maximum suppression at static shape.

Boxes are taken best first, a block at a time. A block is first compared with the boxes kept so far, which lie close
together in a buffer, so that the work follows the number of boxes that survive. Within the block a box is kept if no
earlier kept box of the block overlaps it; this is found by iterating the rule until nothing changes, which happens
after as many rounds as the longest chain of suppressions, a handful, and gives what the greedy loop gives. There
is no n x n matrix and no loop over single boxes.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

WORD = 32
BLOCK = 256
NO_LABEL = jnp.iinfo(jnp.int32).max


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    *,
    iou_threshold: int | float | Float[Array, ""],
    valid: Bool[Array, "n"] | None = None,
    max_output: int | None = None,
    sorted: bool = False,
) -> Bool[Array, "n"]:
    """Which boxes greedy non-maximum suppression keeps.

    Best first, each box is kept unless its IoU with a box already kept is greater than `iou_threshold`. Equal to the
    sequential algorithm at every threshold; of equal scores the lower index goes first.

    Args:
        boxes: `xyxy`; negative coordinates and boxes without area (IoU 0) are fine.
        scores: any range. A box whose score is NaN is neither kept nor suppresses others.
        iou_threshold: a number in [0, 1], which may be traced.
        valid: False for rows that are neither kept nor suppress others.
        max_output: keep at most this many, the best; the search ends when they are found.
        sorted: the boxes come best first already, the invalid ones among them in any place; saves the sort.
    """
    return _nms(boxes, scores, None, iou_threshold, valid, max_output, sorted)


def batched_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    labels: Int[Array, "n"],
    *,
    iou_threshold: int | float | Float[Array, ""],
    valid: Bool[Array, "n"] | None = None,
    max_output: int | None = None,
    sorted: bool = False,
) -> Bool[Array, "n"]:
    """Which boxes are kept when only boxes of the same label (class, pyramid level) suppress each other.

    Labels are compared as they are; boxes are not shifted apart, so coordinates of any sign and size are exact. The
    work is that of one `nms` a label.

    Args:
        boxes, scores, iou_threshold, valid, sorted: as in `nms`.
        labels: integers below 2**31 - 1.
        max_output: keep at most this many over all labels, the best by score.
    """
    return _nms(boxes, scores, labels, iou_threshold, valid, max_output, sorted)


def top_detections(
    scores: Float[Array, "n"], keep: Bool[Array, "n"], *, count: int
) -> tuple[Int[Array, "count"], Bool[Array, "count"]]:
    """Indices of the `count` best boxes of `keep`, best first, and which of them are there.

    Args:
        scores: equal ones in order of index.
        keep: as `nms` gives it.
        count: may exceed n.

    Returns:
        (indices, valid); the index is 0 where not valid.
    """
    found = min(count, scores.shape[0])
    order = _best_first(scores, keep)[:found]
    valid = keep[order]
    padding = (0, count - found)
    return jnp.pad(jnp.where(valid, order, 0), padding), jnp.pad(valid, padding)


def _best_first(scores: Array, valid: Array) -> Array:
    keys = jnp.where(valid, -scores.astype(jnp.float32), jnp.inf)
    return jnp.argsort(keys, stable=True).astype(jnp.int32)


def _nms(boxes, scores, labels, threshold, valid, max_output, is_sorted) -> Array:
    n = scores.shape[0]
    if max_output is not None and max_output < 1:
        raise ValueError(f"max_output must be at least 1, got max_output={max_output}.")
    if n == 0:
        return jnp.zeros(0, bool)
    boxes, scores = lax.stop_gradient((boxes.astype(jnp.float32), scores.astype(jnp.float32)))
    valid = ~jnp.isnan(scores) if valid is None else valid & ~jnp.isnan(scores)
    order = None if is_sorted else _best_first(scores, valid)
    if order is not None:
        boxes, valid, labels = boxes[order], valid[order], None if labels is None else labels[order]
    threshold = jnp.asarray(threshold, jnp.float32)
    if labels is None:
        keep = _greedy(boxes, None, valid, threshold, n if max_output is None else max_output)
    else:
        keep = _greedy_by_label(boxes, labels, valid, threshold)
    if max_output is not None:
        keep &= jnp.cumsum(keep, dtype=jnp.int32) <= max_output
    return keep if order is None else jnp.zeros(n, bool).at[order].set(keep)


def _greedy_by_label(boxes: Array, labels: Array, valid: Array, threshold: Array) -> Array:
    """`keep` of boxes sorted best first. Label after label, so that a block meets the kept boxes of few labels only."""
    groups = jnp.where(valid, labels.astype(jnp.int32), NO_LABEL)
    order = jnp.argsort(groups, stable=True).astype(jnp.int32)
    keep = _greedy(boxes[order], groups[order], valid[order], threshold, limit=labels.shape[0])
    return jnp.zeros_like(keep).at[order].set(keep)


def _overlap(a: Array, b: Array, labels: tuple[Array, Array] | None, threshold: Array) -> Array:
    """[5 p] and [5 q] (corners, area) -> [p q]: whether the IoU exceeds the threshold. False where a row is NaN."""
    (ax1, ay1, ax2, ay2, a_area), (bx1, by1, bx2, by2, b_area) = a[:, :, None], b[:, None, :]
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0.0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0.0)
    shared = width * height
    union = a_area + b_area - shared
    exceeds = shared / jnp.where(union > 0, union, 1.0) > threshold
    return exceeds if labels is None else exceeds & (labels[0][:, None] == labels[1][None, :])


def _pack(flags: Array) -> Array:
    """[32 w, ...] booleans -> [w, ...] words of 32 bits."""
    bits = flags.reshape(-1, WORD, *flags.shape[1:]).astype(jnp.uint32)
    shifts = jnp.arange(WORD, dtype=jnp.uint32).reshape(1, WORD, *[1] * (flags.ndim - 1))
    return jnp.sum(bits << shifts, axis=1, dtype=jnp.uint32)


def _solve_block(overlap: Array, alive: Array) -> Array:
    """Greedy suppression in a block, best first, by iterating its rule to the fixed point.

    After k rounds the first k boxes are settled, so the fixed point is unique. Rows are packed in words: on a CPU the
    rounds would otherwise cost more than the overlaps.
    """
    size = alive.shape[0]
    earlier = jnp.arange(size)[:, None] < jnp.arange(size)[None, :]
    suppressors = _pack(overlap & earlier)

    def step(state):
        keep, _ = state
        new = alive & ((suppressors & _pack(keep)[:, None]) == 0).all(axis=0)
        return new, (new != keep).any()

    return lax.while_loop(lambda state: state[1], step, (alive, jnp.any(alive)))[0]


def _greedy(boxes: Array, labels: Array | None, valid: Array, threshold: Array, limit: int) -> Array:
    """`keep` of boxes sorted by label, then best first; ends after the block in which `limit` are found."""
    n = boxes.shape[0]
    block = min(BLOCK, n + -n % WORD)
    padding = -n % block
    x1, y1, x2, y2 = jnp.pad(boxes, ((0, padding), (0, 0))).T
    rows = jnp.stack([x1, y1, x2, y2, jnp.maximum(x2 - x1, 0.0) * jnp.maximum(y2 - y1, 0.0)])
    valid = jnp.pad(valid, (0, padding))
    labels = None if labels is None else jnp.pad(labels, (0, padding), constant_values=NO_LABEL)
    # Rows of the buffer that hold no kept box yet are NaN, which overlaps nothing.
    buffer = jnp.full_like(rows, jnp.nan)
    buffer_labels = None if labels is None else jnp.full_like(labels, NO_LABEL)
    last = jnp.max(jnp.where(valid, jnp.arange(n + padding, dtype=jnp.int32) + 1, 0))

    def step(state):
        i, keep, count, buffer, buffer_labels = state
        rows_i = lax.dynamic_slice_in_dim(rows, i * block, block, axis=1)
        labels_i = None if labels is None else lax.dynamic_slice_in_dim(labels, i * block, block)

        def suppress(j, alive):
            kept = lax.dynamic_slice_in_dim(buffer, j * block, block, axis=1)
            pair = None if labels is None else (lax.dynamic_slice_in_dim(buffer_labels, j * block, block), labels_i)
            return alive & ~_overlap(kept, rows_i, pair, threshold).any(axis=0)

        # Kept boxes of labels before this block's first cannot matter.
        first = 0 if labels is None else jnp.sum(buffer_labels < labels_i[0], dtype=jnp.int32) // block
        alive = lax.dynamic_slice_in_dim(valid, i * block, block)
        alive = lax.fori_loop(first, (count + block - 1) // block, suppress, alive)
        alive = _solve_block(
            _overlap(rows_i, rows_i, None if labels is None else (labels_i, labels_i), threshold), alive
        )

        keep = lax.dynamic_update_slice_in_dim(keep, alive, i * block, axis=0)
        position = jnp.where(alive, count + jnp.cumsum(alive, dtype=jnp.int32) - 1, n + padding)
        buffer = buffer.at[:, position].set(rows_i, mode="drop")
        if labels is not None:
            buffer_labels = buffer_labels.at[position].set(labels_i, mode="drop")
        return i + 1, keep, count + alive.sum(dtype=jnp.int32), buffer, buffer_labels

    start = (jnp.int32(0), jnp.zeros(n + padding, bool), jnp.int32(0), buffer, buffer_labels)
    keep = lax.while_loop(lambda state: (state[0] * block < last) & (state[2] < limit), step, start)[1]
    return keep[:n]
