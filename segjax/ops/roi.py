"""Pooling of regions of interest (RoIs) into features of a fixed size: RoIAlign, also over a pyramid, and RoIPool.

Boxes are `xyxy` in pixels of the image; `spatial_scale` (or 1 / stride) takes them to the feature map. Written for one
image; `jax.vmap` adds a batch. Coordinates and sums are float32, the result has the dtype of the features. Boxes get
no gradient, as in torchvision: what pooling does to a box is not smooth, and detectors learn boxes by regression.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float | int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "n oh ow c"]:
    """The features of each box, resampled bilinearly to `output_size` (RoIAlign, He et al. 2017, section 3).

    A box is cut into oh x ow bins; a bin is the mean of sampling_ratio x sampling_ratio bilinear samples on a regular
    grid. A sample more than one cell outside the map counts as zero, one less far out takes the border's value.

    Args:
        features: one feature map.
        boxes: `xyxy` in image pixels. They may leave the image; without `aligned`, a side shorter than one cell
            (zero and negative sides included) counts as one cell. They get no gradient.
        output_size: bins, (oh, ow) or one number for both.
        spatial_scale: cells a pixel, 1 / stride.
        sampling_ratio: samples along each side of a bin.
        aligned: True puts the centre of cell 0 at half a cell, as it should be; False is what torchvision's Faster
            and Mask R-CNN weights were trained with.

    Raises:
        ValueError: sampling_ratio is below 1.
    """
    return multilevel_roi_align(
        [features],
        boxes,
        output_size=output_size,
        strides=[1 / spatial_scale],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )


def multilevel_roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    strides: Sequence[float | int],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: float | int = 224,
    canonical_level: int = 4,
    valid: Bool[Array, "n"] | None = None,
) -> Float[Array, "n oh ow c"]:
    """`roi_align` of each box on the one pyramid level that `box_levels` gives it."""
    if sampling_ratio < 1:
        raise ValueError(f"sampling_ratio must be 1 or more, not {sampling_ratio}: an adaptive grid has no fixed size.")
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    level = box_levels(boxes, strides=strides, canonical_size=canonical_size, canonical_level=canonical_level)
    shapes = np.array([f.shape[:2] for f in features], np.int32)
    starts = np.cumsum([0, *shapes.prod(1)[:-1]]).astype(np.int32)
    scales = np.array([1 / s for s in strides], np.float32)
    height, width = jnp.asarray(shapes)[level].T
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32) * jnp.asarray(scales)[level][:, None]
    boxes = boxes - (0.5 if aligned else 0.0)
    y, wy = _samples(boxes[:, 1], boxes[:, 3], height, size[0], sampling_ratio, aligned)
    x, wx = _samples(boxes[:, 0], boxes[:, 2], width, size[1], sampling_ratio, aligned)
    if valid is not None:
        wy = wy * valid[:, None, None].astype(wy.dtype)
    table = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    index = jnp.asarray(starts)[level][:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None, :]
    weight = wy[:, :, None] * wx[:, None, :]
    pooled = jnp.zeros((boxes.shape[0], *size, table.shape[1]), jnp.float32)
    k = 2 * sampling_ratio
    index = index.reshape(-1, size[0], k, size[1], k)
    weight = weight.reshape(-1, size[0], k, size[1], k)
    for i in range(k):
        for j in range(k):
            pooled = pooled + table[index[:, :, i, :, j]].astype(jnp.float32) * weight[:, :, i, :, j, None]
    return pooled.astype(table.dtype)


def box_levels(
    boxes: Float[Array, "n 4"],
    *,
    strides: Sequence[float | int],
    canonical_size: float | int = 224,
    canonical_level: int = 4,
) -> Int[Array, "n"]:
    """Index into `strides` of the pyramid level of each box, eq. 1 of the FPN paper (Lin et al. 2017).

    A box as large as canonical_size x canonical_size belongs to the level of stride 2**canonical_level, one of half
    its side to the next finer level, and so on, within the levels there are. 1e-6 is added before rounding down, as
    torchvision does, so that a side of exactly 112, 224 or 448 starts a level. An empty box has the finest level.
    """
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    area = jnp.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 0)
    level = jnp.floor(canonical_level + jnp.log2(jnp.sqrt(area) / canonical_size) + 1e-6)
    finest, coarsest = (round(np.log2(s)) for s in (strides[0], strides[-1]))
    return jnp.clip(level, finest, coarsest).astype(jnp.int32) - finest


def _samples(start, end, extent, bins, ratio, aligned):
    """Cells [n, bins * 2 ratio] that the samples along one axis touch, with their weights.

    start, end [n] in cells, extent [n] cells on the axis.
    """
    length = end - start
    length = length if aligned else jnp.maximum(length, 1)
    step = (length / bins)[:, None, None]
    bin_start = start[:, None, None] + jnp.arange(bins, dtype=jnp.float32)[None, :, None] * step
    at = bin_start + (jnp.arange(ratio, dtype=jnp.float32) + 0.5)[None, None, :] * step / ratio
    last = (extent - 1).astype(jnp.float32)[:, None, None]
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, 0, last)
    low = jnp.floor(at)
    high = jnp.minimum(low + 1, last)
    upper = at - low
    cells = jnp.stack([low, high], -1).astype(jnp.int32)
    weights = jnp.where(inside[..., None], jnp.stack([1 - upper, upper], -1), 0) / ratio
    n = start.shape[0]
    return cells.reshape(n, -1), weights.reshape(n, -1)


def roi_pool(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    output_size: int | tuple[int, int],
    spatial_scale: float | int,
) -> Float[Array, "n oh ow c"]:
    """The largest feature in each bin of each box (RoI pooling, Girshick 2015, section 2.1), quantised to whole cells.

    Corners are rounded to cells (halves away from zero) and both belong to the box, so a box has at least one cell;
    bins may share cells. A bin outside the map is zero. The gradient goes to the largest cell of a bin, among equals to
    the first in row-major order. Boxes get no gradient.
    """
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32) * np.float32(spatial_scale)
    corners = jnp.sign(boxes) * jnp.floor(jnp.abs(boxes) + 0.5)
    rows = _bins(corners[:, 1], corners[:, 3], features.shape[0], size[0])
    cols = _bins(corners[:, 0], corners[:, 2], features.shape[1], size[1])
    return _pool_max(features, rows, cols)


def _bins(start, end, extent, bins):
    """First cell and cell behind the last, [n, bins, 2], of each bin along one axis."""
    # XLA would multiply by 1 / bins, whose rounding moves the edges of some bins by a cell.
    divisor = jax.lax.optimization_barrier(jnp.full_like(start, bins))
    step = (jnp.maximum(end - start + 1, 1) / divisor)[:, None]
    at = jnp.arange(bins, dtype=jnp.float32)[None]
    low = jnp.floor(at * step) + start[:, None]
    high = jnp.ceil((at + 1) * step) + start[:, None]
    return jnp.clip(jnp.stack([low, high], -1), 0, extent).astype(jnp.int32)


def _larger(a, b):
    """The pair (value, cell) with the larger value, among equals with the lower cell."""
    take = (b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
    return jnp.where(take, b[0], a[0]), jnp.where(take, b[1], a[1])


def _doubled(pair, axis):
    """Maxima over runs of 1, 2, 4, ... cells along `axis` (a sparse table), stacked in front. Runs stop at the edge."""
    levels, run = [pair], 1
    extent = pair[0].shape[axis]
    while run < extent:
        index = jnp.minimum(jnp.arange(extent) + run, extent - 1)
        levels.append(_larger(levels[-1], tuple(jnp.take(t, index, axis) for t in levels[-1])))
        run *= 2
    return tuple(jnp.stack(t) for t in zip(*levels))


@jax.custom_vjp
def _pool_max(features, rows, cols):
    return _argmax_pool(features, rows, cols)[0]


def _argmax_pool(features, rows, cols):
    """Largest value of each bin and its cell, -1 in empty bins: two overlapping runs along each axis cover a bin."""
    h, w, c = features.shape
    cells = jnp.broadcast_to(jnp.arange(h * w, dtype=jnp.int32).reshape(h, w, 1), features.shape)
    table = _doubled(_doubled((features, cells), 0), 2)
    heights, widths = rows[..., 1] - rows[..., 0], cols[..., 1] - cols[..., 0]
    ky, kx = (31 - jax.lax.clz(jnp.maximum(t, 1)) for t in (heights, widths))
    levels_y = table[0].shape[1]
    pair = None
    for y in (rows[..., 0], rows[..., 1] - (1 << ky)):
        for x in (cols[..., 0], cols[..., 1] - (1 << kx)):
            index = (kx[:, None, :] * levels_y + ky[:, :, None]) * h + y[:, :, None]
            index = index * w + x[:, None, :]
            found = tuple(t.reshape(-1, c)[index] for t in table)
            pair = found if pair is None else _larger(pair, found)
    empty = (heights <= 0)[:, :, None, None] | (widths <= 0)[:, None, :, None]
    return jnp.where(empty, 0, pair[0]), jnp.where(empty, -1, pair[1])


def _pool_max_fwd(features, rows, cols):
    pooled, cell = _argmax_pool(features, rows, cols)
    return pooled, (cell, features)


def _pool_max_bwd(saved, gradient):
    cell, features = saved
    h, w, c = features.shape
    channel = jnp.arange(c, dtype=jnp.int32)
    where = jnp.where(cell < 0, h * w, cell)
    total = (
        jnp.zeros((h * w + 1, c), jnp.float32)
        .at[where, jnp.broadcast_to(channel, where.shape)]
        .add(gradient.astype(jnp.float32))
    )
    return total[:-1].reshape(h, w, c).astype(features.dtype), None, None


_pool_max.defvjp(_pool_max_fwd, _pool_max_bwd)
