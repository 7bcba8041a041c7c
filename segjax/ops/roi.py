"""Pooling of regions of interest (RoIs) into features of a fixed size: RoIAlign, also over a pyramid, and RoIPool.

Boxes are `xyxy` in pixels of the image; `spatial_scale` (or 1 / stride) takes them to the feature map. Written for one
image; `jax.vmap` adds a batch. Coordinates and sums are float32, the result has the dtype of the features. Boxes get
no gradient, as in torchvision.

The backward passes add into the map with a scatter. On CPU it runs in a fixed order, so that equal inputs give equal
bits. On a GPU it uses atomic additions, whose order and therefore last bits vary, unless XLA is told otherwise with
`XLA_FLAGS=--xla_gpu_deterministic_ops=true`. The forward passes only gather and are deterministic everywhere.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Number = int | float
# What a step over some of the boxes may hold. On CPU that should fit in the second-level cache (the backward pass of
# RoIAlign is as fast with 1 to 4 MiB, half as fast with 16); elsewhere a step should fill the device.
CHUNK_BYTES = {"cpu": 3 << 20, "other": 256 << 20}


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: Number,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "n oh ow c"]:
    """The features of each box, resampled bilinearly to `output_size` (RoIAlign, He et al. 2017, section 3).

    A box is cut into oh x ow bins; a bin is the mean of sampling_ratio x sampling_ratio bilinear samples on a regular
    grid. A sample more than one cell outside the map counts as zero, one less far out takes the border's value. Equal
    to `torchvision.ops.roi_align` in value and gradient.

    Args:
        features: one feature map.
        boxes: `xyxy` in image pixels. They may leave the image; without `aligned`, a side shorter than one cell
            (zero and negative sides included) counts as one cell. They get no gradient.
        output_size: bins, (oh, ow) or one number for both.
        spatial_scale: cells a pixel, 1 / stride.
        sampling_ratio: samples along each side of a bin.
        aligned: shifts boxes by half a cell, which puts the centre of cell 0 at half a cell. Faster and Mask R-CNN in
            torchvision are trained without.

    Raises:
        ValueError: sampling_ratio or an output size is below 1.
    """
    size = _checked_size(output_size, sampling_ratio)
    level = jnp.zeros(boxes.shape[0], jnp.int32)
    return _align([features], boxes, level, [float(spatial_scale)], size, sampling_ratio, aligned, None)


def multilevel_roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    strides: Sequence[Number],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: Number = 224,
    canonical_level: int = 4,
    valid: Bool[Array, "n"] | None = None,
) -> Float[Array, "n oh ow c"]:
    """`roi_align` of each box on one level of a feature pyramid, the level that `box_levels` names.

    The levels are laid out as one table of cells, so that a box costs the same on any level and none is pooled twice.
    Equal to `torchvision.ops.MultiScaleRoIAlign`.

    Args:
        features: one map a level, the finest first.
        boxes: `xyxy` in image pixels; see `roi_align`.
        output_size, sampling_ratio, aligned: see `roi_align`.
        strides: pixels a cell of each level, each twice the one before.
        canonical_size, canonical_level: see `box_levels`.
        valid: where False, a box gives zeros and no gradient, and its coordinates mean nothing.

    Raises:
        ValueError: strides do not fit the levels or do not double; sampling_ratio or an output size is below 1.
    """
    size = _checked_size(output_size, sampling_ratio)
    if len(features) != len(strides):
        raise ValueError(f"Give one stride for each feature map: {len(features)} maps, but strides={tuple(strides)}.")
    boxes = boxes if valid is None else jnp.where(valid[:, None], boxes, 0)
    level = box_levels(boxes, strides=strides, canonical_size=canonical_size, canonical_level=canonical_level)
    return _align(features, boxes, level, [1 / s for s in strides], size, sampling_ratio, aligned, valid)


def box_levels(
    boxes: Float[Array, "n 4"],
    *,
    strides: Sequence[Number],
    canonical_size: Number = 224,
    canonical_level: int = 4,
) -> Int[Array, "n"]:
    """Index into `strides` of the pyramid level of each box, eq. 1 of the FPN paper (Lin et al. 2017).

    A square box of side canonical_size belongs to the level of stride 2**canonical_level, one of half that side to the
    next finer level, and so on within the levels there are. 1e-6 is added before rounding down, as torchvision does,
    so that sides of exactly 112, 224 and 448 pixels start a level. An empty box has the finest level.

    Raises:
        ValueError: strides do not double from level to level.
    """
    finest = round(math.log2(strides[0]))
    if any(stride != 2 ** (finest + i) for i, stride in enumerate(strides)):
        raise ValueError(f"strides must be powers of two that double from level to level, not {tuple(strides)}.")
    boxes = boxes.astype(jnp.float32)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = jnp.floor(canonical_level + jnp.log2(jnp.sqrt(jnp.maximum(area, 0)) / canonical_size) + 1e-6)
    return jnp.clip(level - finest, 0, len(strides) - 1).astype(jnp.int32)


def roi_pool(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: Number,
) -> Float[Array, "n oh ow c"]:
    """The largest feature in each bin of each box (RoI pooling, Girshick 2015, section 2.1), quantised to whole cells.

    Corners are rounded to cells (halves away from zero) and both belong to the box, which so has at least one cell;
    neighbouring bins may share cells. A bin outside the map is zero. The gradient goes to the largest cell of a bin,
    among equals to the first in row-major order. Equal to `torchvision.ops.roi_pool` in value and gradient.

    The bins of a few boxes at a time are walked cell by cell, as many steps as the largest bin has cells. Nothing is
    held besides the result and, where a gradient is taken, the cell of each output: 96 MiB for 1000 boxes, 7 x 7 bins
    and 512 channels.

    Args:
        features: one feature map.
        boxes: `xyxy` in image pixels. They may leave the image. They get no gradient.
        output_size: bins, (oh, ow) or one number for both.
        spatial_scale: cells a pixel, 1 / stride.

    Raises:
        ValueError: an output size is below 1.
    """
    size = _checked_size(output_size)
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32) * np.float32(spatial_scale)
    corners = jnp.sign(boxes) * jnp.floor(jnp.abs(boxes) + 0.5)
    rows = _bins(corners[:, 1], corners[:, 3], features.shape[0], size[0])
    cols = _bins(corners[:, 0], corners[:, 2], features.shape[1], size[1])
    return _pool_max(features, rows, cols)


def _checked_size(output_size: int | tuple[int, int], sampling_ratio: int = 1) -> tuple[int, int]:
    """`output_size` as (oh, ow)."""
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"output_size must be one or two numbers of bins, each 1 or more, not {output_size}.")
    if sampling_ratio < 1:
        raise ValueError(
            f"sampling_ratio must be 1 or more, not {sampling_ratio}: a grid that adapts to the box has no static size."
        )
    return size


def _align(features, boxes, level, scales, size, ratio, aligned, valid):
    """RoIAlign of each box on the map `features[level]`."""
    shapes = np.array([f.shape[:2] for f in features], np.int32)
    starts = np.cumsum([0, *shapes.prod(1)[:-1]]).astype(np.int32)
    start, height, width = (jnp.asarray(t)[level] for t in (starts, shapes[:, 0], shapes[:, 1]))
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32) * jnp.asarray(scales, jnp.float32)[level][:, None]
    boxes = boxes - 0.5 if aligned else boxes
    y, weight_y = _samples(boxes[:, 1], boxes[:, 3], height, size[0], ratio, aligned)
    x, weight_x = _samples(boxes[:, 0], boxes[:, 2], width, size[1], ratio, aligned)
    if valid is not None:
        weight_y = jnp.where(valid[:, None, None], weight_y, 0)
    rows = start[:, None, None] + y * width[:, None, None]
    cells = features[0].reshape(-1, features[0].shape[-1])
    if len(features) > 1:
        cells = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    return _weighted_sum(cells, rows, x, weight_y, weight_x)


def _samples(start, end, extent, bins, ratio, aligned):
    """Cells and weights, each [n, bins, 2 ratio], of the samples of each bin along one axis.

    start and end [n] are in cells, extent [n] is the number of cells there are.
    """
    length = (end - start)[:, None, None]
    length = length if aligned else jnp.maximum(length, 1)
    step = length / bins
    offset = (jnp.arange(ratio, dtype=jnp.float32) + 0.5)[None, None, :]
    at = start[:, None, None] + jnp.arange(bins, dtype=jnp.float32)[None, :, None] * step + offset * step / ratio
    last = (extent - 1).astype(jnp.float32)[:, None, None]
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, 0, last)
    low = jnp.floor(at)
    upper = at - low
    cells = jnp.concatenate([low, jnp.minimum(low + 1, last)], -1).astype(jnp.int32)
    weights = jnp.concatenate([jnp.where(inside, 1 - upper, 0), jnp.where(inside, upper, 0)], -1)
    return cells, weights / ratio


@jax.custom_vjp
def _weighted_sum(cells, rows, cols, weight_y, weight_x):
    """sum over i, j of weight_y[n, p, i] weight_x[n, q, j] cells[rows[n, p, i] + cols[n, q, j]], [n, p, q, c]."""
    return jax.lax.platform_dependent(cells, rows, cols, weight_y, weight_x, cpu=_gathered_by_chunks, default=_gathered)


def _gathered_by_chunks(cells, *places):
    """`_gathered`, a few boxes at a time.

    XLA fuses a sum of gathers into whatever uses it, several times over where it is used several times and in an order
    that suits the user and not the memory. A loop makes it compute the sum once.
    """
    shape = (*places[0].shape[:2], places[1].shape[1], cells.shape[-1])

    def add(start, keep, total, *places):
        return jax.lax.dynamic_update_slice_in_dim(total, _gathered(cells, *places), start, 0)

    bytes_each = cells.dtype.itemsize * math.prod(shape[1:])
    # A loop of one turn would be taken for none.
    return _by_chunks(add, jnp.zeros(shape, cells.dtype), places, shape[0], bytes_each, turns=2)


def _gathered(cells, rows, cols, weight_y, weight_x):
    total = 0.0
    # Unrolled, so that XLA makes one loop of all the gathers and keeps none of them.
    for i in range(rows.shape[2]):
        for j in range(cols.shape[2]):
            index = rows[:, :, None, i] + cols[:, None, :, j]
            weight = weight_y[:, :, None, i] * weight_x[:, None, :, j]
            found = cells.at[index].get(mode="promise_in_bounds")
            total = total + found.astype(jnp.float32) * weight[..., None]
    return total.astype(cells.dtype)


def _weighted_sum_fwd(cells, *places):
    # Of the cells only the shape and dtype are needed later; the slice keeps those without the memory.
    return _weighted_sum(cells, *places), (cells[:, :0], *places)


def _weighted_sum_bwd(saved, gradient):
    cells, *places = saved
    count, taps = places[0].shape[0], math.prod(places[0].shape[1:]) * math.prod(places[1].shape[1:])

    def add(start, keep, total, gradient, rows, cols, weight_y, weight_x):
        index = rows[:, :, :, None, None] + cols[:, None, None, :, :]
        weight = jnp.where(keep[:, None, None], weight_y, 0)[:, :, :, None, None] * weight_x[:, None, None, :, :]
        update = gradient[:, :, None, :, None].astype(jnp.float32) * weight[..., None]
        return total.at[index].add(update, mode="promise_in_bounds")

    total = jnp.zeros((cells.shape[0], gradient.shape[-1]), jnp.float32)
    total = _by_chunks(add, total, (gradient, *places), count, 4 * taps * gradient.shape[-1])
    return total.astype(cells.dtype), None, None, None, None


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _by_chunks(step, total, arrays, count, bytes_each, turns=1):
    """`total` after `step` has taken all `count` rows of `arrays`, as many at a time as suits the platform.

    There are at least as many turns, where there are that many rows.

    step(start, keep, total, *slices) -> total, where row i of the slices is row start + i; it is new where `keep`.
    """
    if count == 0:
        return total

    def run(budget, total, *arrays):
        size = min(-(-count // turns), max(1, budget // bytes_each))

        def body(i, total):
            # The last chunk reaches back into the one before; what that has had is kept out.
            start = jnp.minimum(i * size, count - size)
            keep = start + jnp.arange(size) >= i * size
            return step(start, keep, total, *(jax.lax.dynamic_slice_in_dim(a, start, size) for a in arrays))

        return jax.lax.fori_loop(0, -(-count // size), body, total)

    cpu, other = (functools.partial(run, CHUNK_BYTES[platform]) for platform in ("cpu", "other"))
    return jax.lax.platform_dependent(total, *arrays, cpu=cpu, default=other)


def _bins(start, end, extent, bins):
    """First cell and cell behind the last, [n, bins, 2], of each bin along one axis."""
    # XLA would multiply by 1 / bins, whose rounding moves the edges of some bins by a cell.
    divisor = jax.lax.optimization_barrier(jnp.full_like(start, bins))
    step = (jnp.maximum(end - start + 1, 1) / divisor)[:, None]
    at = jnp.arange(bins, dtype=jnp.float32)[None]
    low = jnp.floor(at * step) + start[:, None]
    high = jnp.ceil((at + 1) * step) + start[:, None]
    return jnp.clip(jnp.stack([low, high], -1), 0, extent).astype(jnp.int32)


@jax.custom_vjp
def _pool_max(features, rows, cols):
    """The largest feature of each bin, rows [n, oh, 2] by cols [n, ow, 2], [n, oh, ow, c]."""
    return _largest(features, rows, cols)[0]


def _pool_max_fwd(features, rows, cols):
    pooled, cell = _largest(features, rows, cols)
    return pooled, (features[:, :, :0], cell)


def _pool_max_bwd(saved, gradient):
    features, cell = saved
    (h, w, _), (n, oh, ow, c) = features.shape, gradient.shape

    def add(start, keep, total, gradient, cell):
        # The gradient of an empty bin has nowhere to go.
        index = jnp.maximum(cell, 0) * c + jnp.arange(c, dtype=jnp.int32)[None, None, None]
        gradient = jnp.where((cell >= 0) & keep[:, None, None, None], gradient.astype(jnp.float32), 0)
        return total.at[index].add(gradient, mode="promise_in_bounds")

    total = _by_chunks(add, jnp.zeros(h * w * c, jnp.float32), (gradient, cell), n, 8 * oh * ow * c)
    return total.reshape(h, w, c).astype(features.dtype), None, None


_pool_max.defvjp(_pool_max_fwd, _pool_max_bwd)


def _largest(features, rows, cols):
    """The largest feature of each bin and its cell, the first in row-major order among equals; 0 and -1 if empty."""
    w, c = features.shape[1:]
    n, oh, ow = *rows.shape[:2], cols.shape[1]
    cells = features.reshape(-1, c)

    def search(start, keep, found, rows, cols):
        (y, y_end), (x, x_end) = jnp.moveaxis(rows, -1, 0), jnp.moveaxis(cols, -1, 0)
        # All bins of a chunk are walked in step, cell by cell, for as long as the largest bin lasts.
        height, width = (jnp.max(end - first, initial=0) for first, end in ((y, y_end), (x, x_end)))

        def visit(i, best):
            value, cell = best
            row, col = (y + i // width)[:, :, None], (x + i % width)[:, None, :]
            inside = (row < y_end[:, :, None]) & (col < x_end[:, None, :])
            at = jnp.where(inside, row * w + col, 0)
            here = cells.at[at].get(mode="promise_in_bounds")
            take = inside[..., None] & ((here > value) | (cell < 0))
            return jnp.where(take, here, value), jnp.where(take, at[..., None], cell)

        shape = (rows.shape[0], oh, ow, c)
        best = jax.lax.fori_loop(
            0, height * width, visit, (jnp.zeros(shape, cells.dtype), jnp.full(shape, -1, jnp.int32))
        )
        return tuple(jax.lax.dynamic_update_slice_in_dim(f, b, start, 0) for f, b in zip(found, best))

    found = jnp.zeros((n, oh, ow, c), cells.dtype), jnp.zeros((n, oh, ow, c), jnp.int32)
    # A box waits for the largest bin of its chunk, so chunks are made small: 64 bytes an output, where 8 are held.
    return _by_chunks(search, found, (rows, cols), n, 64 * oh * ow * c)
