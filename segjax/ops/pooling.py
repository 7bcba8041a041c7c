"""Pooling of whole maps to a fixed size."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def adaptive_average_pool(x: Float[Array, "*b h w c"], *, size: tuple[int, int]) -> Float[Array, "*b h2 w2 c"]:
    """The mean of each of `size` = (height, width) bins that cover a map of any size: torch's AdaptiveAvgPool2d.

    Bin i of m along a side of n cells has those from floor(i n / m) up to, without, ceil((i + 1) n / m): bins overlap
    where m does not divide n, and repeat cells where m is larger. Summed in float32; a map of that size stays as it is.

    Raises:
        ValueError: there is no bin, or no cell.
    """
    sides = x.shape[-3:-1]
    if min(*size, *sides) < 1:
        raise ValueError(f"adaptive_average_pool: a map of {sides} cells cannot be brought to size={size}")
    if sides == tuple(size):
        return x
    rows, columns = (jnp.asarray(_shares(n, m)) for n, m in zip(sides, size))
    exact = jax.lax.Precision.HIGHEST
    pooled = jnp.einsum("yh,...hwc,xw->...yxc", rows, x.astype(jnp.float32), columns, precision=exact)
    return pooled.astype(x.dtype)


def _shares(cells: int, bins: int) -> Float[np.ndarray, "bins cells"]:
    """What each cell counts in the mean of each bin."""
    i, cell = np.arange(bins)[:, None], np.arange(cells)[None]
    inside = (cell >= i * cells // bins) & (cell < -(-(i + 1) * cells // bins))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
