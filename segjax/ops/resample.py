"""Down- and upsampling of images and feature maps, with torch's geometry.

Maps are NHWC with free leading axes, `*b h w c`. What an image guides is in
`segjax.ops.guided`, the learned transposed convolution in `segjax.ops.transposed`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

UNROLLED = 20
"""Terms a cell that an interpolation sums up in one pass: enough for upsampling by 8 and its transpose. More are taken
in turns of so many, which compile faster."""


def block_mean(x: Float[Array, "*b h w c"], *, size: int) -> Float[Array, "*b h2 w2 c"]:
    """The mean of each `size` x `size` block: the sum over the block divided by size^2, in float32.

    Raises:
        ValueError: the height or the width is no multiple of `size`.
    """
    *lead, h, w, c = x.shape
    if size < 1 or h % size or w % size:
        raise ValueError(f"block_mean: {h} x {w} does not divide into blocks of size={size}; crop or pad it first")
    blocks = x.reshape(*lead, h // size, size, w // size, size, c).astype(jnp.float32)
    return (blocks.sum(axis=(-4, -2)) / size**2).astype(x.dtype)


def strided(x: Shaped[Array, "*b h w c"], *, stride: int) -> Shaped[Array, "*b h2 w2 c"]:
    """Every `stride`-th row and column, the first ones included; h2 is ceil(h / stride)."""
    if stride < 1:
        raise ValueError(f"strided: stride={stride} must be at least 1")
    return x[..., ::stride, ::stride, :]


def nearest(x: Shaped[Array, "*b h w c"], *, size: tuple[int, int], exact: bool = False) -> Shaped[Array, "*b h2 w2 c"]:
    """Nearest-neighbour resize to `size` = (height, width), of any dtype.

    Cell i takes cell floor(i * in / out), torch's "nearest"; with `exact`, floor((i + 1/2) * in / out), torch's
    "nearest-exact", which is the nearest by centres, as Pillow has it. Both are computed in float32, as in torch.
    """
    return _resized(x, "nearest", size, exact)


def bed_of_nails(x: Shaped[Array, "*b h w c"], *, scale: int) -> Shaped[Array, "*b h2 w2 c"]:
    """Maps `scale` times as large: each value at the top left of its `scale` x `scale` block, zeros elsewhere."""
    if scale < 1:
        raise ValueError(f"bed_of_nails: scale={scale} must be at least 1")
    nails = (0, scale - 1, scale - 1)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 3) + [nails, nails, (0, 0, 0)])


def bilinear(
    x: Float[Array, "*b h w c"], *, size: tuple[int, int], align_corners: bool = False
) -> Float[Array, "*b h2 w2 c"]:
    """Bilinear resize to `size` = (height, width), torch's `interpolate(mode="bilinear", antialias=False)`.

    Cell i lies at (i + 1/2) * in / out - 1/2 of the input, or with `align_corners` at i * (in - 1) / (out - 1), where
    the centres of the corner cells of both fall together. Outside the outermost centres the value is that of the
    border. Computed in float32; differentiable in reverse mode.
    """
    return _resized(x.astype(jnp.float32), "bilinear", size, align_corners).astype(x.dtype)


def bicubic(
    x: Float[Array, "*b h w c"], *, size: tuple[int, int], align_corners: bool = False
) -> Float[Array, "*b h2 w2 c"]:
    """Bicubic resize to `size` = (height, width), torch's `interpolate(mode="bicubic", antialias=False)`.

    Keys' convolution kernel (1981) with a = -0.75 over four cells each way, the map continued by its border cells;
    places as in `bilinear`. Results overshoot at edges. Computed in float32; differentiable in reverse mode.
    """
    return _resized(x.astype(jnp.float32), "bicubic", size, align_corners).astype(x.dtype)


class _Table:
    """A linear map along one axis: the few input cells that each output cell sums up, and their weights [out taps]."""

    def __init__(self, index: np.ndarray, weight: np.ndarray):
        self.index, self.weight = index.astype(np.int32), weight.astype(np.float32)

    def transposed(self, before: int) -> "_Table":
        """The map from the outputs to `before` input cells."""
        cells, weights = self.index.ravel(), self.weight.ravel()
        rows = np.repeat(np.arange(len(self.index)), self.index.shape[1])
        order = np.argsort(cells, kind="stable")
        count = np.bincount(cells, minlength=before)
        slot = np.arange(len(cells)) - np.repeat(np.cumsum(count) - count, count)
        index, weight = np.zeros((2, before, max(count.max(), 1)))
        index[cells[order], slot] = rows[order]
        weight[cells[order], slot] = weights[order]
        return _Table(index, weight)

    def apply(self, x: Array, axis: int) -> Array:
        """The outputs along `axis`, which is negative."""
        if self.index.shape[1] == 1 and (self.weight == 1).all():
            return jnp.take(x, self.index[:, 0], axis=axis, mode="clip")
        shape = (1,) * (x.ndim + axis) + (-1,) + (1,) * (-axis - 1)

        def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
            index, weight = tap
            return total + jnp.take(x, index, axis=axis, mode="clip") * weight.reshape(shape).astype(x.dtype), None

        start = jnp.zeros((*x.shape[:axis], len(self.index), *x.shape[x.ndim + axis + 1 :]), x.dtype)
        taps = (self.index.T, self.weight.T)
        return jax.lax.scan(add, start, taps, unroll=min(len(taps[0]), UNROLLED))[0]


# Both the map and its transpose are gathers: JAX would transpose a gather to a scatter, which a CPU takes one cell at a
# time and a GPU in no fixed order. The gradient for [8 16 20 21] from 128 x 160 took 0.6 ms, 12 ms by scatter and 5 ms
# as matrix products.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _mix(x: Array, axis: int, table: _Table) -> Array:
    return table.apply(x, axis)


def _mix_fwd(x, axis, table):
    return table.apply(x, axis), x.shape[axis]


def _mix_bwd(axis, table, before, gradient):
    # Through `_mix` again, so that a gradient of the gradient is as cheap.
    return (_mix(gradient, axis, table.transposed(before)),)


_mix.defvjp(_mix_fwd, _mix_bwd)


def _resized(x: Array, mode: str, size: tuple[int, int], option: bool) -> Array:
    _check_size(mode, size)
    return _along_both(x, mode, tuple(size), option)


# Compiled here as well, so that it is compiled once where the caller does not.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _along_both(x: Array, mode: str, size: tuple[int, int], option: bool) -> Array:
    # Rows last: of the two passes it writes the larger array, in longer runs.
    for axis, out in ((-2, size[1]), (-3, size[0])):
        before = x.shape[axis]
        if out != before:
            x = _mix(x, axis, _taps_of[mode](before, out, option))
    return x


def _nearest_taps(before: int, after: int, exact: bool) -> _Table:
    place = (np.arange(after, dtype=np.float32) + np.float32(0.5 * exact)) * (np.float32(before) / np.float32(after))
    index = np.minimum(place.astype(np.int32), before - 1)[:, None]
    return _Table(index, np.ones(index.shape))


def _places(before: int, after: int, align_corners: bool) -> np.ndarray:
    """Where the output cells lie in cells of the input, whose first centre is 0."""
    if align_corners:
        return np.arange(after) * ((before - 1) / max(after - 1, 1))
    return (np.arange(after) + 0.5) * (before / after) - 0.5


def _linear_taps(before: int, after: int, align_corners: bool) -> _Table:
    place = np.clip(_places(before, after, align_corners), 0, before - 1)
    low = np.floor(place).astype(np.int32)
    part = place - low
    return _Table(np.stack([low, np.minimum(low + 1, before - 1)], axis=1), np.stack([1 - part, part], axis=1))


def _cubic_taps(before: int, after: int, align_corners: bool, a: float = -0.75) -> _Table:
    place = _places(before, after, align_corners)
    low = np.floor(place)
    cells = low[:, None] + np.arange(-1, 3)
    d = np.abs(place[:, None] - cells)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return _Table(np.clip(cells, 0, before - 1), np.where(d <= 1, near, far))


_taps_of = {"nearest": _nearest_taps, "bilinear": _linear_taps, "bicubic": _cubic_taps}


def _check_size(name: str, size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name}: size={size} must be a height and a width of at least 1")


def max_pool_indices(
    x: Float[Array, "*b h w c"], *, window: int, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "*b h2 w2 c"], Int[Array, "*b h2 w2 c"]]:
    """Maxima of `window` x `window` cells and where they were, torch's `max_pool2d(return_indices=True)`.

    Args:
        x: the maps. Of equal maxima the first counts, row by row; a NaN is larger than any number, and of several the
            last counts, as in torch.
        window: side of the window.
        stride: step from window to window; None is `window`.
        padding: cells around the map that are never chosen; at most half the window.

    Returns:
        the maxima, h2 = floor((h + 2 padding - window) / stride) + 1, and the int32 places of each in the h * w cells
        of its channel (row * w + column). The gradient goes to the chosen cell.

    Raises:
        ValueError: the padding is more than half the window, or the map smaller than a window.
    """
    stride = window if stride is None else stride
    h, w = x.shape[-3:-1]
    if window < 1 or stride < 1 or not 0 <= 2 * padding <= window:
        raise ValueError(
            f"max_pool_indices: window={window} and stride={stride} must be at least 1 and padding={padding} from 0 to "
            "half the window"
        )
    if min(h, w) + 2 * padding < window:
        raise ValueError(f"max_pool_indices: a map of {h} x {w} is smaller than window={window} less the padding")
    return _max_pool(x, window, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: Array, window: int, stride: int, padding: int) -> tuple[Array, Array]:
    h, w = x.shape[-3:-1]
    ahead, border = x.ndim - 3, (padding, padding, 0)
    padded = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [(0, 0, 0)] * ahead + [border, border, (0, 0, 0)])
    top, left = (np.arange((n + 2 * padding - window) // stride + 1) * stride - padding for n in (h, w))
    shape = (*x.shape[:-3], len(top), len(left), x.shape[-1])

    def places(row: np.ndarray, col: np.ndarray) -> Array:
        flat = (row[:, None] * w + col).reshape((1,) * ahead + (len(top), len(left), 1))
        return jnp.broadcast_to(jnp.asarray(flat, jnp.int32), shape)

    # Where nothing beats -inf, torch names the first cell inside the map.
    best, index = jnp.full(shape, -jnp.inf, x.dtype), places(np.maximum(top, 0), np.maximum(left, 0))
    for i, j in np.ndindex(window, window):
        cells = padded[..., i::stride, j::stride, :][..., : len(top), : len(left), :]
        better = (cells > best) | jnp.isnan(cells)
        best, index = jnp.where(better, cells, best), jnp.where(better, places(top + i, left + j), index)
    return best, index


def _max_pool_fwd(x, window, stride, padding):
    pooled, indices = _max_pool(x, window, stride, padding)
    return (pooled, indices), (indices, x.shape[-3:-1])


def _max_pool_bwd(window, stride, padding, saved, gradients):
    indices, size = saved
    return (_spread(gradients[0], indices, size, window, stride, padding),)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _spread(x: Array, indices: Array, size: tuple[int, int], window: int, stride: int, padding: int) -> Array:
    """The sum of the values chosen from each cell of a map, without a scatter: each asks the windows that see it."""
    ahead = x.ndim - 3
    place = jnp.arange(size[0] * size[1], dtype=jnp.int32).reshape((1,) * ahead + (*size, 1))
    total = jnp.zeros((*x.shape[:-3], *size, x.shape[-1]), x.dtype)
    # The last window that may see a cell, and those before it.
    last = [(np.arange(n) + padding) // stride for n in size]
    for back in np.ndindex(-(-window // stride), -(-window // stride)):
        values, chosen, real = x, indices, True
        for axis, (at, step) in enumerate(zip(last, back), start=-3):
            count = x.shape[axis]
            values, chosen = (jnp.take(a, np.clip(at - step, 0, count - 1), axis=axis) for a in (values, chosen))
            inside = (at - step >= 0) & (at - step < count)
            real = real & inside.reshape((1,) * (x.ndim + axis) + (-1,) + (1,) * (-axis - 1))
        total += jnp.where((chosen == place) & real, values, jnp.zeros((), x.dtype))
    return total


def _spread_fwd(x, indices, size, window, stride, padding):
    return _spread(x, indices, size, window, stride, padding), indices


def _spread_bwd(size, window, stride, padding, indices, gradient):
    return _picked(gradient, indices), np.zeros(indices.shape, jax.dtypes.float0)


_spread.defvjp(_spread_fwd, _spread_bwd)


def _picked(x: Array, indices: Array) -> Array:
    """The values of maps [*b h2 w2 c] at flat places [*b h w c] of their channels, 0 outside."""
    *lead, h, w, c = x.shape
    places = indices.reshape(*lead, -1, c)
    taken = jnp.take_along_axis(x.reshape(*lead, h * w, c), places, axis=-2, mode="fill", fill_value=0)
    return taken.reshape(indices.shape)


def max_unpool(
    x: Float[Array, "*b h w c"], indices: Int[Array, "*b h w c"], *, size: tuple[int, int], window: int | None = None
) -> Float[Array, "*b h2 w2 c"]:
    """Maps of `size` = (height, width) with each value of `x` at its place and zeros elsewhere: torch's `max_unpool2d`.

    Args:
        x: the values; the gradient of each is that of the cell it is put into.
        indices: the place of each in the height * width cells of its channel, as `max_pool_indices` gives them for a
            map of this size. Of values with the same place one stays, and which is not said. Those outside are dropped.
        size: of the result, the size of the map that was pooled.
        window: the window of the pooling, where it had `stride=window` and no padding (SegNet's, Badrinarayanan et al.
            2017). The result is the same and on a CPU a multiple faster: no scatter is needed.

    Raises:
        ValueError: `size` has no room for `h` x `w` windows.
    """
    _check_size("max_unpool", size)
    if window is None:
        return _scattered(x, indices, tuple(size))
    h, w = x.shape[-3:-1]
    if h * window > size[0] or w * window > size[1]:
        raise ValueError(f"max_unpool: size={size} has no room for {h} x {w} windows of window={window}")
    return _spread(x, indices, tuple(size), window, window, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scattered(x: Array, indices: Array, size: tuple[int, int]) -> Array:
    def one(values, places):
        empty = jnp.zeros((size[0] * size[1], values.shape[-1]), values.dtype)
        return empty.at[places, jnp.arange(values.shape[-1])[None]].set(values, mode="drop")

    *lead, h, w, c = x.shape
    return jax.vmap(one)(x.reshape(-1, h * w, c), indices.reshape(-1, h * w, c)).reshape(*lead, *size, c)


def _scattered_fwd(x, indices, size):
    return _scattered(x, indices, size), indices


def _scattered_bwd(size, indices, gradient):
    return _picked(gradient, indices), np.zeros(indices.shape, jax.dtypes.float0)


_scattered.defvjp(_scattered_fwd, _scattered_bwd)
