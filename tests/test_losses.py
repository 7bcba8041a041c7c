"""The losses against their formulas, far from zero and at masked or empty places."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import losses


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1(beta, rng):
    a, b = rng.normal(0, 2 * beta, (2, 50)).astype(np.float32)
    d = np.abs(a - b).astype(np.float64)
    expected = np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)
    assert (d < beta).any() and (d > beta).any()
    np.testing.assert_allclose(
        losses.smooth_l1(jnp.asarray(a), jnp.asarray(b), beta=beta), expected, rtol=1e-5, atol=1e-6
    )


def test_smooth_l1_has_slope_one_far_away():
    slope = jax.grad(lambda x: losses.smooth_l1(x, jnp.float32(0), beta=1 / 9))
    assert float(slope(jnp.float32(5))) == pytest.approx(1) and float(slope(jnp.float32(-1e6))) == pytest.approx(-1)


def test_sigmoid_cross_entropy(rng):
    x, positive = rng.normal(0, 3, 40).astype(np.float32), rng.random(40) < 0.5
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    expected = -np.where(positive, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(jnp.asarray(x), jnp.asarray(positive)), expected, rtol=1e-5)
    far = losses.sigmoid_cross_entropy(jnp.array([1e4, -1e4]), jnp.array([False, True]))
    np.testing.assert_allclose(far, [1e4, 1e4])


def test_softmax_cross_entropy(rng):
    x, labels = rng.normal(0, 3, (20, 5)).astype(np.float32), rng.integers(0, 5, 20)
    logits, columns = jnp.asarray(x), jnp.asarray(labels, jnp.int32)
    p = np.exp(x.astype(np.float64))
    expected = -np.log((p / p.sum(1, keepdims=True))[np.arange(20), labels])
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, columns), expected, rtol=1e-5)
    assert losses.softmax_cross_entropy(logits.astype(jnp.bfloat16), columns).dtype == jnp.float32


def test_masked_places_have_no_influence():
    values, mask = jnp.array([1.0, jnp.nan, 3.0, jnp.inf]), jnp.array([True, False, True, False])
    total, slope = jax.value_and_grad(lambda x: losses.masked_sum(x, mask))(values)
    assert float(total) == 4
    np.testing.assert_array_equal(slope, [1, 0, 1, 0])
    # Through a function that is infinite at a masked place, as encode is for a zero-size box.
    assert np.isfinite(jax.grad(lambda x: losses.masked_sum(x * x, mask))(jnp.array([1.0, 5, 2, 7]))).all()


def test_safe_divide():
    divide = jax.jit(jax.value_and_grad(losses.safe_divide, argnums=(0, 1)))
    value, slopes = divide(jnp.float32(6), jnp.float32(3))
    assert float(value) == 2 and [float(s) for s in slopes] == pytest.approx([1 / 3, -2 / 3])
    value, slopes = divide(jnp.float32(6), jnp.float32(0))
    assert float(value) == 0 and [float(s) for s in slopes] == [0, 0]
