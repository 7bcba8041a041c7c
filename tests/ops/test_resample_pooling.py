"""Max-pooling with indices and back, with ties, NaN and borders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import resample
from tests import oracles_resample as oracles

CASES = [((4, 6), 2, 2, 0), ((7, 5), 2, 2, 0), ((7, 6), 3, 2, 1), ((5, 5), 3, 1, 1), ((7, 7), 2, 3, 0)]


def maps(rng, size, channels=3):
    """Few values, so that most windows have ties; a window of -inf and a few NaN."""
    x = rng.integers(0, 3, (*size, channels)).astype(np.float32)
    x[:3, :3, 0] = -np.inf
    x[2:4, 1:4, 1] = np.nan
    return x


@pytest.mark.parametrize("size, window, stride, padding", CASES)
def test_max_pool_indices(size, window, stride, padding, rng):
    x = maps(rng, size)

    def pool(x):
        return resample.max_pool_indices(x, window=window, stride=stride, padding=padding)

    (pooled, indices), back = jax.vjp(jax.jit(pool), jnp.asarray(x))
    cotangent = rng.normal(size=pooled.shape).astype(np.float32)
    expected = oracles.max_pool(x, window, stride, padding, cotangent)
    np.testing.assert_array_equal(pooled, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    assert indices.dtype == jnp.int32
    (slope,) = back((jnp.asarray(cotangent), np.zeros(indices.shape, jax.dtypes.float0)))
    np.testing.assert_allclose(slope, expected[2], rtol=1e-5, atol=1e-6)


def test_pooling_of_batches_and_half_precision(rng):
    x = jnp.asarray(np.stack([maps(rng, (6, 6)), maps(rng, (6, 6))]))
    together = resample.max_pool_indices(x, window=2)
    one_by_one = jax.vmap(lambda x: resample.max_pool_indices(x, window=2))(x)
    half = resample.max_pool_indices(x.astype(jnp.bfloat16), window=2)
    assert half[0].dtype == jnp.bfloat16
    for other in (one_by_one, half):
        for a, b in zip(together, other):
            np.testing.assert_array_equal(a, b.astype(a.dtype))


@pytest.mark.parametrize("hint", [None, 2])
@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_unpool(size, hint, rng):
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    pooled, indices = resample.max_pool_indices(jnp.asarray(x), window=2)

    def unpool(values):
        return resample.max_unpool(values, indices, size=size, window=hint)

    values = jnp.asarray(rng.normal(size=pooled.shape), jnp.float32)
    y, back = jax.vjp(jax.jit(unpool), values)
    expected = np.stack([oracles.unpool(*pair, size) for pair in zip(np.asarray(values), np.asarray(indices))])
    np.testing.assert_array_equal(y, expected)
    # Taking the values out again is the transpose of putting them in.
    np.testing.assert_array_equal(back(jnp.asarray(x))[0], pooled)


def test_unpooling_is_batched_alike(rng):
    pooled, indices = resample.max_pool_indices(jnp.asarray(rng.normal(size=(3, 4, 4, 2)), jnp.float32), window=2)
    for hint in (None, 2):
        one_by_one = jax.vmap(lambda x, i, hint=hint: resample.max_unpool(x, i, size=(4, 4), window=hint))(
            pooled, indices
        )
        np.testing.assert_array_equal(one_by_one, resample.max_unpool(pooled, indices, size=(4, 4)))


def test_the_gradient_of_the_gradient(rng):
    """Pooling is linear where nothing changes place, so the energy of the maxima has twice the maxima as slope."""
    x = jnp.asarray(rng.permutation(36).reshape(6, 6, 1), jnp.float32)

    def energy(x):
        return jnp.sum(resample.max_pool_indices(x, window=3, stride=2, padding=1)[0] ** 2)

    slope = jax.grad(energy)
    again = jax.grad(lambda x: jnp.sum(slope(x) * x))(x)
    np.testing.assert_allclose(again, 2 * np.asarray(slope(x)), rtol=1e-5)


def test_what_cannot_be_pooled_is_named():
    x = jnp.zeros((4, 4, 1))
    with pytest.raises(ValueError, match="padding=2 from 0 to half the window"):
        resample.max_pool_indices(x, window=3, padding=2)
    with pytest.raises(ValueError, match="a map of 4 x 4 is smaller than window=5"):
        resample.max_pool_indices(x, window=5)
    with pytest.raises(ValueError, match=r"size=\(7, 8\) has no room for 4 x 4 windows of window=2"):
        resample.max_unpool(x, jnp.zeros((4, 4, 1), jnp.int32), size=(7, 8), window=2)
