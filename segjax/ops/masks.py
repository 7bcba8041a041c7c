"""Instance masks: packing into bits, the targets a mask head is trained on, pasting what it predicts, overlap.

Masks over an image are 0 or 1 and mostly travel packed, eight pixels a byte along a row, the leftmost in the highest
bit, as `numpy.packbits` has them. What a mask head says of a region is a small square of probabilities (Mask R-CNN,
He et al. 2017, section 3).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, UInt8

# Rows of a mask unpacked at once, and regions cropped at once off the CPU, where a step should fill the device.
ROWS = 64
REGIONS = 64
# Bytes of float32 pixels that mask_iou holds at once.
CHUNK_BYTES = 32 << 20


def pack(
    masks: Bool[Array | np.ndarray, "*b h w"] | UInt8[Array | np.ndarray, "*b h w"],
) -> UInt8[Array | np.ndarray, "*b h bytes"]:
    """Eight pixels a byte: `masks` with rows of ceil(w / 8) bytes, the last one filled up with zeros.

    A NumPy array gives a NumPy array, so that a data loader stays on the host; a JAX array gives a JAX array.

    Args:
        masks: any pixel that is not 0 is set.
    """
    if isinstance(masks, np.ndarray):
        return np.packbits(masks, axis=-1)
    return jnp.packbits(masks, axis=-1)


def unpack(packed: UInt8[Array | np.ndarray, "*b h bytes"], width: int) -> Bool[Array | np.ndarray, "*b h w"]:
    """The masks, `width` pixels wide, that `pack` made `packed` of. NumPy gives NumPy, JAX gives JAX.

    Raises:
        ValueError: rows of `width` pixels do not take as many bytes as those of `packed`.
    """
    _check_width(packed, width)
    if isinstance(packed, np.ndarray):
        return np.unpackbits(packed, axis=-1, count=width).view(bool)
    return _bits(packed)[..., :width].astype(bool)


def crop_targets(
    masks: UInt8[Array, "n h bytes"],
    target: Int[Array, "s"],
    boxes: Float[Array, "s 4"],
    *,
    size: int = 28,
    width: int | Int[Array, ""],
    height: int | Int[Array, ""] | None = None,
) -> Float[Array, "s size size"]:
    """What a mask head should say of each box: the mask of its object, resampled to size x size, values in 0..1.

    RoIAlign of the mask (He et al. 2017, section 3) with as many samples as keep them at most a pixel apart,
    ceil(side / size) along each side of a bin; equal to what torchvision trains with. RoIAlign is a product of one
    matrix for the rows and one for the columns, and only the rows under a box are unpacked, `ROWS` at a time: no mask
    ever exists as a whole, and the time goes with the height of the boxes. No gradient flows.

    Args:
        masks: the objects of one image, packed (`pack`).
        target: index among the masks of the object of each box, brought into range where it is not.
        boxes: `xyxy` in pixels of the masks. They may leave the image, where there is no mask; a side shorter than a
            pixel counts as one, so that boxes of zeros (padding) give finite numbers.
        size: bins along a side.
        width, height: of the image in pixels, where the masks may be padded below and to the right; the height is that
            of the masks by default. Samples beyond an edge of the image take the pixel at the edge.

    Raises:
        ValueError: `width` is a plain number and rows of it do not take as many bytes, or size is below 1.
    """
    if isinstance(width, int | np.integer):
        _check_width(masks, width)
    height = masks.shape[1] if height is None else height
    if size < 1:
        raise ValueError(f"size must be 1 or more bins, not {size}.")
    if 0 in (*masks.shape, boxes.shape[0]):
        return jnp.zeros((boxes.shape[0], size, size), jnp.float32)

    extent = jnp.asarray(height, jnp.float32), jnp.asarray(width, jnp.float32)

    def crop(chunk, masks, target, boxes, extent):
        one = lambda region: _crop(masks, *region, size, extent)  # noqa: E731
        return jax.lax.map(one, (target, boxes), batch_size=chunk)

    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    # One region after the other is fastest on CPU, also under vmap.
    cpu = sequential_vmap(functools.partial(crop, None))
    other = functools.partial(crop, min(REGIONS, boxes.shape[0]))
    return jax.lax.platform_dependent(masks, target, boxes, extent, cpu=cpu, default=other)


def paste(masks: Float[Array, "n m m"], boxes: Float[Array, "n 4"], *, size: tuple[int, int]) -> Float[Array, "n h w"]:
    """Each mask laid over the image where its box is: the probability of every pixel, 0 outside the box.

    The mask gets a border of one zero cell, the box grows with it and is cut to whole pixels (towards zero), and the
    mask is resized bilinearly to these: torchvision's `paste_masks_in_image`. The mask is where it is at least 0.5.

    Args:
        masks: probabilities over m x m cells of each box.
        boxes: `xyxy` in pixels of the image; what lies outside of it is cut off. A box of zeros (padding) covers no
            more than the pixel at the top left.
        size: (height, width) of the image in pixels; the result takes 4 n height width bytes.
    """
    m = masks.shape[-1]
    padded = jnp.pad(masks.astype(jnp.float32), [(0, 0), (1, 1), (1, 1)])
    first, last = _pasted_corners(boxes.astype(jnp.float32), (m + 2) / m)
    columns, rows = (
        _bilinear_weights(first[:, axis], last[:, axis], extent, m + 2) for axis, extent in ((0, size[1]), (1, size[0]))
    )
    # Products in float32 on every device, or a threshold of the result would depend on it.
    across = jnp.einsum("nij,nwj->niw", padded, columns, precision="highest")
    return jnp.einsum("nhi,niw->nhw", rows, across, precision="highest")


def mask_iou(masks1: Bool[Array, "n h w"], masks2: Bool[Array, "m h w"]) -> Float[Array, "n m"]:
    """Intersection over union of every pair of masks, in pixels; 0 for two empty ones.

    Counts are exact. Bands of rows are worked on one after the other, which hold `CHUNK_BYTES` or one row of all masks.
    """
    (n, h, w), m = masks1.shape, masks2.shape[0]
    rows = min(h, max(1, CHUNK_BYTES // (4 * w * (n + m)))) if n + m and w else h
    if rows == 0:
        return jnp.zeros((n, m), jnp.float32)

    def count(i, sums):
        # The last band reaches back into the one before; the rows that has had are left out.
        start = jnp.minimum(i * rows, h - rows)
        keep = (start + jnp.arange(rows) >= i * rows)[None, :, None]
        bands = [jax.lax.dynamic_slice_in_dim(masks, start, rows, 1) & keep for masks in (masks1, masks2)]
        a, b = (band.reshape(band.shape[0], rows * w).astype(jnp.float32) for band in bands)
        found = (a @ b.T, a.sum(1), b.sum(1))
        return tuple(total + part.astype(jnp.int32) for total, part in zip(sums, found))

    zeros = tuple(jnp.zeros(shape, jnp.int32) for shape in ((n, m), (n,), (m,)))
    both, area1, area2 = jax.lax.fori_loop(0, -(-h // rows), count, zeros)
    union = area1[:, None] + area2[None, :] - both
    return jnp.where(union > 0, both / jnp.maximum(union, 1), 0.0)


def _check_width(packed, width: int):
    if -(-width // 8) != packed.shape[-1]:
        raise ValueError(
            f"Rows of width={width} pixels take {-(-width // 8)} bytes, the masks have {packed.shape[-1]}."
        )


def _bits(packed):
    """The bits of each byte in turn, 0 or 1, the highest first."""
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8).reshape((1,) * packed.ndim + (8,))
    bits = (packed[..., None] >> shifts) & jnp.uint8(1)
    return bits.reshape(*packed.shape[:-1], 8 * packed.shape[-1])


def _crop(masks, target, box, size, extent):
    """RoIAlign [size, size] of one packed mask, of which `extent` (height, width) is the image."""
    _, all_rows, row_bytes = masks.shape
    height, width = extent
    rows = min(ROWS, all_rows)
    x1, y1, x2, y2 = box
    # Samples reach a pixel beyond the box, and a box is at least a pixel high.
    first = jnp.clip(jnp.floor(y1) - 1, 0, height).astype(jnp.int32)
    behind = jnp.clip(jnp.ceil(jnp.maximum(y2, y1 + 1)) + 2, 0, height).astype(jnp.int32)

    def add(i, total):
        # The last band may reach back into the one before; the rows that has had are left out.
        begin = first + i * rows
        start = jnp.minimum(begin, all_rows - rows)
        band = jax.lax.dynamic_slice(masks, (target, start, jnp.int32(0)), (1, rows, row_bytes))[0]
        cells = start + jnp.arange(rows, dtype=jnp.int32)
        weights = jnp.where((cells >= begin)[None, :], _bin_weights(y1, y2, cells, height, size), 0)
        return total + jnp.matmul(weights, _bits(band).astype(jnp.float32), precision="highest")

    total = jnp.zeros((size, 8 * row_bytes), jnp.float32)
    total = jax.lax.fori_loop(0, (behind - first + rows - 1) // rows, add, total)
    columns = _bin_weights(x1, x2, jnp.arange(8 * row_bytes, dtype=jnp.int32), width, size)
    return jnp.matmul(total, columns.T, precision="highest")


def _bin_weights(start, end, cells, extent, bins):
    """What each of `cells` adds to each bin of the side from start to end, [bins, cells]: the mean over its samples."""
    side = jnp.maximum(end - start, 1)
    # XLA would multiply by 1 / bins, whose rounding gives some sides another number of samples.
    step = side / jax.lax.optimization_barrier(jnp.float32(bins))
    samples = jnp.ceil(step)
    # The minimum changes nothing, but has the product rounded before it is added, as in torchvision, and not fused into
    # one step: 500 pixels from the corner the last bit of a coordinate shows in the fifth digit of the result.
    corner = start + jnp.minimum(jnp.arange(bins, dtype=jnp.float32) * step, side)[:, None]
    cells = cells.astype(jnp.float32)[None, :]
    # Only samples less than a cell away count. Where a bin has several they are half a cell apart or more, so these are
    # five in a row at most, and a sixth allows for rounding where they begin.
    earliest = jnp.clip(jnp.floor((cells - 1 - corner) * samples / step - 0.5), 0, samples)
    total = jnp.zeros((bins, cells.shape[1]), jnp.float32)
    for i in range(6):
        sample = earliest + i
        at = corner + (sample + 0.5) * step / samples
        counts = (sample < samples) & (at >= -1) & (at <= extent)
        distance = jnp.abs(cells - jnp.clip(at, 0, extent - 1))
        total = total + jnp.where(counts, jnp.maximum(1 - distance, 0), 0)
    return total / samples


def _pasted_corners(boxes, scale):
    """First and last pixel (x, y), each [n, 2], that a mask with its border of zeros covers."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    # The maximum has the product rounded before it is added, and not fused into one step: an edge that falls on a pixel
    # might otherwise be cut to its neighbour.
    half = jnp.maximum(half * np.float32(scale), 0)
    # Far outside is far enough; the conversion truncates.
    corners = jnp.clip(jnp.concatenate([centre - half, centre + half], 1), -1e6, 1e6).astype(jnp.int32)
    return corners[:, :2], corners[:, 2:]


def _bilinear_weights(first, last, extent, cells):
    """Weights [n, extent, cells] of a resize of `cells` to the pixels first..last (half-pixel centres); 0 outside."""
    length = jnp.maximum(last - first + 1, 1).astype(jnp.float32)[:, None]
    pixel = jnp.arange(extent, dtype=jnp.int32)[None, :] - first[:, None]
    at = jnp.maximum((pixel.astype(jnp.float32) + 0.5) * (cells / length) - 0.5, 0)
    distance = jnp.abs(jnp.minimum(at, cells - 1)[..., None] - jnp.arange(cells, dtype=jnp.float32)[None, None, :])
    inside = (pixel >= 0) & (pixel <= (last - first)[:, None])
    return jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
