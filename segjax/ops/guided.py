"""Maps cleaned up by what an image shows: its edges (guided filter) or its regions (means over superpixels)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from segjax.ops.resample import bilinear

Guide = Float[Array, "*b h w g"] | UInt8[Array, "*b h w g"]
LargeGuide = Float[Array, "*b h2 w2 g"] | UInt8[Array, "*b h2 w2 g"]


def guided_filter(
    guide: Guide, x: Float[Array, "*b h w c"], *, radius: int, epsilon: float
) -> Float[Array, "*b h w c"]:
    """`x` smoothed where the guide is smooth, and with the guide's edges: the guided filter (He et al. 2010, eq. 9-11).

    In each window x is fitted by a linear function of the guide's channels, and a pixel gets the mean of what the
    windows around it say. The guide has any number of channels: 1 is the paper's grey guide, 3 its colour guide (eq.
    14-16). Differentiable in both.

    Args:
        guide: bytes, or floats in 0..1.
        x: logits or probabilities, each channel filtered alike.
        radius: the window is 2 radius + 1 pixels wide and high, and cut off at the image's border.
        epsilon: variance of the guide, in squares of 0..1, below which a window counts as smooth: 1e-4 to 1e-2.

    Raises:
        ValueError: the radius is negative or epsilon not above 0.
    """
    guide = _centred(guide)
    slopes, offset = _fits(guide, x.astype(jnp.float32), radius, epsilon)
    return _applied(guide, slopes, offset).astype(x.dtype)


def guided_upsample(
    x: Float[Array, "*b h w c"], guide: LargeGuide, *, radius: int = 2, epsilon: float = 1e-3
) -> Float[Array, "*b h2 w2 c"]:
    """`x` at the size of the guide, with the guide's edges: the fast guided filter (He and Sun 2015).

    The fits of `guided_filter` are made at the size of `x`, on the guide averaged down to it, and interpolated; the
    guide itself enters at full size. What remains there is to interpolate (g + 1) c channels: for 8 times the size and
    21 classes, a twentieth of the time of filtering.

    Args:
        x: logits or probabilities of a network's output.
        guide: [*b h2 w2 g], at least as large: bytes, or floats in 0..1.
        radius: of the windows, in cells of `x`.
        epsilon: as in `guided_filter`.

    Raises:
        ValueError: the radius is negative, epsilon not above 0, or the guide smaller than `x`.
    """
    (h, w), size = x.shape[-3:-1], guide.shape[-3:-1]
    if size[0] < h or size[1] < w:
        raise ValueError(f"guided_upsample: the guide of {size[0]} x {size[1]} is smaller than the map of {h} x {w}")
    guide = _centred(guide)
    slopes, offset = _fits(_averaged(guide, (h, w)), x.astype(jnp.float32), radius, epsilon)
    *lead, g, c = slopes.shape
    slopes = bilinear(slopes.reshape(*lead, g * c), size=size).reshape(*lead[:-2], *size, g, c)
    return _applied(guide, slopes, bilinear(offset, size=size)).astype(x.dtype)


def region_means(x: Float[Array, "*b h w c"], regions: Int[Array, "*b h w"], *, count: int) -> Float[Array, "*b h w c"]:
    """Each pixel gets the mean of `x` over its region, in float32: superpixels as the last word on a map's borders.

    Farabet et al. (2013), section 4.1, average class probabilities so. Pixels whose region is not in 0..count-1 keep
    what they have.

    Args:
        x: probabilities or logits.
        regions: the region of each pixel.
        count: regions per image, static; more than there are do no harm.

    Raises:
        ValueError: `count` is not above 0.
    """
    if count < 1:
        raise ValueError(f"region_means: count={count} must be at least 1")
    h, w, c = x.shape[-3:]

    def one(values: Array, ids: Array) -> Array:
        inside = (ids >= 0) & (ids < count)
        ids = jnp.where(inside, ids, count)
        sums = jax.ops.segment_sum(values, ids, count + 1)
        pixels = jax.ops.segment_sum(jnp.ones_like(ids, jnp.float32), ids, count + 1)
        means = sums / jnp.maximum(pixels, 1.0)[:, None]
        return jnp.where(inside[:, None], means[ids], values)

    values = x.astype(jnp.float32).reshape(-1, h * w, c)
    return jax.vmap(one)(values, regions.reshape(-1, h * w)).reshape(x.shape).astype(x.dtype)


def _centred(guide: Array) -> Array:
    """The guide in 0..1 less its mean: variances of small numbers lose fewer digits."""
    guide = guide.astype(jnp.float32) / (255.0 if guide.dtype == jnp.uint8 else 1.0)
    return guide - jnp.mean(guide, axis=(-3, -2), keepdims=True)


def _fits(guide: Array, x: Array, radius: int, epsilon: float) -> tuple[Array, Array]:
    """Slopes [*b h w g c] and offset [*b h w c], the means over the windows around each pixel."""
    if radius < 0 or epsilon <= 0:
        raise ValueError(f"a guided filter needs radius={radius} of at least 0 and epsilon={epsilon} above 0")
    g = guide.shape[-1]
    level = jnp.mean(x, axis=(-3, -2), keepdims=True)
    x = x - level
    squares = (guide[..., :, None] * guide[..., None, :]).reshape(*guide.shape[:-1], g * g)
    products = (guide[..., :, None] * x[..., None, :]).reshape(*guide.shape[:-1], -1)
    of_guide, of_x, squares, products = (_window_mean(a, radius) for a in (guide, x, squares, products))
    variance = squares.reshape(*squares.shape[:-1], g, g) - of_guide[..., :, None] * of_guide[..., None, :]
    covariance = products.reshape(*products.shape[:-1], g, -1) - of_guide[..., :, None] * of_x[..., None, :]
    slopes = _solved(variance, covariance, epsilon)
    offset = of_x - _weighted(slopes, of_guide)
    slopes = _window_mean(slopes.reshape(*slopes.shape[:-2], -1), radius).reshape(slopes.shape)
    return slopes, _window_mean(offset, radius) + level


def _applied(guide: Array, slopes: Array, offset: Array) -> Array:
    return _weighted(slopes, guide) + offset


def _weighted(slopes: Array, guide: Array) -> Array:
    # Term by term: XLA's reduction over a few values far apart takes a CPU several times as long.
    return sum(slopes[..., i, :] * guide[..., i, None] for i in range(guide.shape[-1]))


def _solved(matrix: Array, right: Array, epsilon: float) -> Array:
    """(matrix + epsilon 1)^-1 right, [.. g g] and [.. g c], by elimination over the few channels of all pixels at once.

    The matrices are variances, so that no pivot is below epsilon but for rounding.
    """
    g = matrix.shape[-1]
    rows = [[matrix[..., i, j, None] + epsilon * (i == j) for j in range(g)] for i in range(g)]
    right_rows = [right[..., i, :] for i in range(g)]
    for k in range(g):
        pivot = jnp.maximum(rows[k][k], epsilon)
        for i in range(k + 1, g):
            factor = rows[i][k] / pivot
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k])]
            right_rows[i] = right_rows[i] - factor * right_rows[k]
    solution: list[Array] = [right_rows[0]] * g
    for k in reversed(range(g)):
        rest = sum((rows[k][j] * solution[j] for j in range(k + 1, g)), start=jnp.zeros_like(right_rows[k]))
        solution[k] = (right_rows[k] - rest) / jnp.maximum(rows[k][k], epsilon)
    return jnp.stack(solution, axis=-2)


def _window_mean(x: Array, radius: int) -> Array:
    """Mean over the part of the (2 radius + 1)^2 window around each pixel that lies inside the map."""
    for axis in (-3, -2):
        n = x.shape[axis]
        at = np.arange(n)
        count = np.minimum(at + radius, n - 1) - np.maximum(at - radius, 0) + 1
        shape = (1,) * (x.ndim + axis) + (n,) + (1,) * (-axis - 1)
        x = _window_sum(x, x.ndim + axis, min(radius, n - 1)) / count.astype(np.float32).reshape(shape)
    return x


def _window_sum(x: Array, axis: int, radius: int) -> Array:
    """Sums over 2 radius + 1 neighbours, zeros outside, by doubling: differences of running sums would cancel."""
    edges = [(0, 0)] * x.ndim
    edges[axis] = (radius, radius)
    n, width = x.shape[axis], 2 * radius + 1
    part, done, total = jnp.pad(x, edges), 0, jnp.zeros_like(x)
    # `part` at i holds the sum over `size` cells from i on; the width is made up of such sizes.
    size = 1
    while size <= width:
        if width & size:
            total = total + jax.lax.slice_in_dim(part, done, done + n, axis=axis)
            done += size
        longer = part.shape[axis] - size
        if 2 * size <= width:
            low, high = (jax.lax.slice_in_dim(part, i, i + longer, axis=axis) for i in (0, size))
            part = low + high
        size *= 2
    return total


def _averaged(x: Array, size: tuple[int, int]) -> Array:
    """The mean over the part of the map that each of `size` cells covers, parts of pixels in proportion."""
    for axis, after in ((-3, size[0]), (-2, size[1])):
        n = x.shape[axis]
        edges = np.arange(after + 1) * (n / after)
        pixel = np.arange(n)
        covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        weights = jnp.asarray(np.maximum(covered, 0) * (after / n), jnp.float32)
        x = jnp.moveaxis(jnp.tensordot(x, weights, ((x.ndim + axis,), (1,)), precision="highest"), -1, axis)
    return x
