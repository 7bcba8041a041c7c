"""Keypoints as heat maps over a box: the cell a joint falls in, the joint a map names, and how near two poses are.

Keypoint R-CNN (Mask R-CNN for joints, He et al. 2017, section 5) says of each joint of a region how likely it is in
each of size x size cells of the box.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int

# Pixels of a box that are looked at in one step, (rows, columns), and boxes at once off the CPU, where a step should
# fill the device.
TILE = (64, 32)
BOXES = 128
NOWHERE = np.int32(2**31 - 1)


def heatmap_targets(
    keypoints: Float[Array, "s k 3"], boxes: Float[Array, "s 4"], *, size: int = 56
) -> tuple[Int[Array, "s k"], Bool[Array, "s k"]]:
    """The cell, row * size + column, that each joint falls in when its box is cut into size x size, and if it does.

    A joint on the right or bottom border of the box belongs to the last cell; one outside the box, or not labelled
    (visibility 0), has no cell: index 0, not valid. Equal to torchvision's `keypoints_to_heatmap`.

    Args:
        keypoints: (x, y, visibility) of each joint of the object of each box.
        boxes: `xyxy` in the same pixels. Nothing is inside a box without area.
        size: cells along a side.

    Raises:
        ValueError: size is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be 1 or more cells, not {size}.")
    keypoints, boxes = keypoints.astype(jnp.float32), boxes.astype(jnp.float32)
    first, last = boxes[:, None, :2], boxes[:, None, 2:]
    side = last - first
    # torch divides a number by a tensor through the reciprocal; on the border of two cells the last bit decides.
    scale = jnp.where(side > 0, 1 / jnp.where(side > 0, side, 1), 0) * size
    at = keypoints[..., :2]
    cell = jnp.where(at == last, size - 1, jnp.floor((at - first) * scale))
    inside = (side > 0) & (cell >= 0) & (cell < size)
    valid = inside.all(-1) & (keypoints[..., 2] > 0)
    column, row = (jnp.where(valid, cell[..., i], 0).astype(jnp.int32) for i in (0, 1))
    return row * size + column, valid


def decode_heatmaps(
    maps: Float[Array, "n size size k"], boxes: Float[Array, "n 4"], *, max_size: tuple[int, int]
) -> Float[Array, "n k 3"]:
    """Where each joint is, (x, y, score): the largest value of its map when that is laid over the pixels of its box.

    The map is resized bicubically (a = -0.75, border cells repeated) to the box's sides rounded up to whole pixels; of
    equal values the first in row-major order counts; the score is the value there. Equal to torchvision's
    `heatmaps_to_keypoints`. The pixels are made tile by tile and forgotten, as many tiles as each box needs, so time
    goes with the area of the boxes and nothing the size of an image is held.

    Args:
        maps: a heat map for each joint over each box.
        boxes: `xyxy` in pixels. One without area (padding) gives zeros.
        max_size: (height, width) that no box exceeds, of the image say. The map of a larger one is resized to this.

    Raises:
        ValueError: a side of max_size is below 1.
    """
    if min(max_size) < 1:
        raise ValueError(f"max_size must be a height and width of 1 pixel or more, not {max_size}.")
    if 0 in maps.shape:
        return jnp.zeros((maps.shape[0], maps.shape[-1], 3), jnp.float32)

    def decode(chunk, maps, boxes):
        return jax.lax.map(lambda region: _decode(*region, max_size), (maps, boxes), batch_size=chunk)

    maps = jax.lax.stop_gradient(maps)
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    # One box after the other is fastest on CPU, also under vmap.
    cpu = sequential_vmap(functools.partial(decode, None))
    other = functools.partial(decode, min(BOXES, boxes.shape[0]))
    return jax.lax.platform_dependent(maps, boxes, cpu=cpu, default=other)


def oks(
    predicted: Float[Array, "*b n k _"],
    truth: Float[Array, "*b m k 3"],
    areas: Float[Array, "*b m"],
    *,
    sigmas: Sequence[float],
) -> Float[Array, "*b n m"]:
    """Object keypoint similarity of every prediction with every object, 0..1 (COCO keypoint evaluation).

    The mean over the labelled joints of exp(-d^2 / (2 area (2 sigma)^2)). An object without labelled joints has
    similarity 0 with everything (COCO's evaluation measures there by the box instead, to leave such objects out).

    Args:
        predicted: (x, y) of each joint, and anything behind.
        truth: (x, y, visibility) of each joint; visibility 0 is not labelled.
        areas: of the objects, in square pixels.
        sigmas: of each joint, the k numbers of the data set.

    Raises:
        ValueError: sigmas are not k positive numbers.
    """
    joints = truth.shape[-2]
    if len(sigmas) != joints or min(sigmas, default=1) <= 0:
        raise ValueError(f"sigmas must be {joints} positive numbers, one a joint, not {tuple(sigmas)}.")
    apart = predicted[..., :, None, :, :2].astype(jnp.float32) - truth[..., None, :, :, :2].astype(jnp.float32)
    spread = 2 * jnp.square(2 * jnp.asarray(sigmas, jnp.float32))
    # The small number is the one of COCO's evaluation: an object without area still resembles itself.
    spread = (areas.astype(jnp.float32)[..., None] + np.spacing(1)) * spread.reshape((1,) * areas.ndim + (joints,))
    near = jnp.exp(-jnp.square(apart).sum(-1) / spread[..., None, :, :])
    labelled = (truth[..., 2] > 0)[..., None, :, :]
    return jnp.where(labelled, near, 0).sum(-1) / jnp.maximum(labelled.sum(-1, dtype=jnp.float32), 1)


def _decode(maps, box, max_size):
    """Joints [k, 3] of one box from its maps [size, size, k]."""
    size, _, joints = maps.shape
    maps = jnp.moveaxis(maps.astype(jnp.float32), -1, 0)
    corner, side = box[:2], box[2:] - box[:2]
    present = (side > 0).all()
    side = jnp.maximum(side, 1)
    pixels = jnp.minimum(jnp.ceil(side), jnp.asarray(max_size[::-1], jnp.float32)).astype(jnp.int32)
    tile = [min(t, m) for t, m in zip(TILE, max_size)]
    across, down = jnp.where(present, -(-pixels[0] // tile[1]), 0), -(-pixels[1] // tile[0])

    def strip(i, best):
        columns = i * tile[1] + jnp.arange(tile[1], dtype=jnp.int32)
        weights = _bicubic_weights(columns, pixels[0], size)
        wide = jnp.einsum("kyx,cx->kyc", maps, weights, precision="highest")

        def look(j, best):
            rows = j * tile[0] + jnp.arange(tile[0], dtype=jnp.int32)
            values = jnp.einsum("ry,kyc->krc", _bicubic_weights(rows, pixels[1], size), wide, precision="highest")
            inside = (rows < pixels[1])[:, None] & (columns < pixels[0])[None, :]
            index = rows[:, None] * pixels[0] + columns[None, :]
            return _better(best, _first_largest(values, jnp.where(inside, index, NOWHERE)))

        return jax.lax.fori_loop(0, down, look, best)

    start = jnp.full(joints, -jnp.inf), jnp.full(joints, NOWHERE)
    value, index = jax.lax.fori_loop(0, across, strip, start)
    found = jnp.stack([index % pixels[0], index // pixels[0]], -1).astype(jnp.float32)
    within = (found + 0.5) * (side / pixels.astype(jnp.float32))[None]
    # The minimum changes nothing, but has the product rounded before it is added, as in torch, not fused into one step.
    at = jnp.minimum(within, side[None]) + corner[None]
    return jnp.where(present, jnp.concatenate([at, value[:, None]], -1), 0)


def _first_largest(values, index):
    """The largest of values [k, r, c], and the smallest index [r, c] of those equal to it; NOWHERE does not count."""
    values = jnp.where((index < NOWHERE)[None], values, -jnp.inf)
    # One axis after the other: the first reduction then runs along whole rows.
    largest = values.max(1).max(1)
    where = jnp.where(values == largest[:, None, None], index[None], NOWHERE)
    return largest, where.min(1).min(1)


def _better(one, other):
    """The larger value of two, or of equals that with the smaller index."""
    take = (other[0] > one[0]) | ((other[0] == one[0]) & (other[1] < one[1]))
    return jnp.where(take, other[0], one[0]), jnp.where(take, other[1], one[1])


def _bicubic_weights(pixel, pixels, cells):
    """Weights [pixel, cells] of a bicubic resize of `cells` to `pixels` at each `pixel` (Keys 1981 with a = -0.75)."""
    a = -0.75
    at = (pixel.astype(jnp.float32) + 0.5) * (cells / pixels.astype(jnp.float32)) - 0.5
    low = jnp.floor(at)
    total = 0.0
    for tap in (-1, 0, 1, 2):
        d = jnp.abs(at - low - tap)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        # The middle two taps are within a cell, the outer two beyond one.
        weight = near if tap in (0, 1) else far
        cell = jnp.clip(low + tap, 0, cells - 1)
        hit = cell[:, None] == jnp.arange(cells, dtype=jnp.float32)[None, :]
        total = total + jnp.where(hit, weight[:, None], 0)
    return total
