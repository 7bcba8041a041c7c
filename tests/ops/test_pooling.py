"""Pooling to a fixed size, against loops over bins."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from segjax.ops.pooling import adaptive_average_pool


def by_loops(x, size):
    """The mean of each bin, its borders by floating point."""
    height, width, channels = x.shape
    out = np.zeros((*size, channels))
    for i in range(size[0]):
        for j in range(size[1]):
            top, bottom = int(np.floor(i * height / size[0])), int(np.ceil((i + 1) * height / size[0]))
            left, right = int(np.floor(j * width / size[1])), int(np.ceil((j + 1) * width / size[1]))
            out[i, j] = x[top:bottom, left:right].mean(axis=(0, 1))
    return out


@pytest.mark.parametrize("size", [(6, 6), (7, 13), (3, 1), (12, 4)])
@pytest.mark.parametrize("bins", [(6, 6), (1, 1), (4, 5)])
def test_bins(size, bins, rng):
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    ours = jax.jit(lambda x: adaptive_average_pool(x, size=bins))(x)
    np.testing.assert_allclose(ours, np.stack([by_loops(one, bins) for one in x]), atol=1e-6)
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(x[0]), size=bins), ours[0], atol=1e-6)


def test_low_precision_sums_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(9, 7, 2)) + 100, jnp.bfloat16)
    ours = adaptive_average_pool(x, size=(2, 2))
    assert ours.dtype == jnp.bfloat16
    expected = by_loops(np.asarray(x, np.float64), (2, 2))
    np.testing.assert_allclose(np.asarray(ours, np.float64), expected, rtol=2**-8)


def test_gradient(rng):
    x = jnp.asarray(rng.normal(size=(4, 5, 2)), jnp.float32)

    def pooled(x):
        return adaptive_average_pool(jnp.asarray(x), size=(3, 2))

    check_grads(pooled, (x,), order=1, modes=("rev",), atol=1e-2, rtol=1e-2)


def test_without_bins_or_cells():
    with pytest.raises(ValueError, match=r"\(0, 4\) cells cannot be brought to size=\(2, 2\)"):
        adaptive_average_pool(jnp.zeros((0, 4, 1)), size=(2, 2))
    with pytest.raises(ValueError, match=r"size=\(0, 2\)"):
        adaptive_average_pool(jnp.zeros((3, 4, 1)), size=(0, 2))
    chex.assert_shape(adaptive_average_pool(jnp.zeros((3, 4, 1)), size=(8, 8)), (8, 8, 1))
