"""Transposed convolution against its definition: every input cell adds its stamp to the output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.transposed import transposed_convolution
from tests import oracles_resample as oracles

# Kernel, then stride, padding, output_padding, dilation, groups. Between them they take each way of computing it.
CASES = [
    ((2, 2), 2, 0, 0, 1, 1),
    ((4, 4), 2, 1, 0, 1, 1),
    ((3, 3), 2, 1, 1, 1, 1),
    ((3, 2), 1, 1, 0, 1, 1),
    ((2, 3), 3, 0, 2, 1, 2),
    ((3, 3), 2, 2, 1, 2, 2),
    ((1, 1), 3, 1, 0, 1, 1),
    ((7, 5), 2, 3, 0, 1, 1),
]


@pytest.mark.parametrize("kernel, stride, padding, output_padding, dilation, groups", CASES)
def test_transposed_convolution(kernel, stride, padding, output_padding, dilation, groups, rng):
    options = {
        "stride": stride,
        "padding": padding,
        "output_padding": output_padding,
        "dilation": dilation,
        "groups": groups,
    }
    x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    weight = rng.normal(size=(*kernel, 4, 3)).astype(np.float32)
    expected = oracles.transposed_convolution(x, weight, **options)
    y, back = jax.vjp(
        jax.jit(lambda x, weight: transposed_convolution(x, weight, **options)), jnp.asarray(x), jnp.asarray(weight)
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    # The map is linear in either argument, so <cotangent, map(x, other)> = <gradient, other>.
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    of_x, of_weight = back(jnp.asarray(cotangent))
    other = rng.normal(size=x.shape)
    reached = np.sum(oracles.transposed_convolution(other, weight, **options) * cotangent)
    np.testing.assert_allclose(np.sum(other * of_x), reached, rtol=1e-4, atol=1e-3)
    other = rng.normal(size=weight.shape)
    reached = np.sum(oracles.transposed_convolution(x, other, **options) * cotangent)
    np.testing.assert_allclose(np.sum(other * of_weight), reached, rtol=1e-4, atol=1e-3)


def test_bias_leading_axes_and_half_precision(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 2)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(4, 4, 2, 3)), jnp.float32)
    bias = jnp.array([1.0, 2, 3])
    y = transposed_convolution(x, weight, bias, stride=2, padding=1)
    plain = transposed_convolution(x[1], weight, stride=2, padding=1)
    np.testing.assert_allclose(y[1], np.asarray(plain) + np.asarray(bias), rtol=1e-5, atol=1e-6)
    by_vmap = jax.vmap(lambda x: transposed_convolution(x, weight, bias, stride=2, padding=1))(x)
    np.testing.assert_allclose(by_vmap, y, rtol=1e-5, atol=1e-6)
    half = [a.astype(jnp.bfloat16) for a in (x, weight, bias)]
    assert jax.eval_shape(lambda *a: transposed_convolution(*a, stride=2), *half).dtype == jnp.bfloat16


def test_bad_geometry_is_named():
    x, weight = jnp.zeros((3, 3, 4)), jnp.zeros((2, 2, 4, 1))
    with pytest.raises(ValueError, match="4 channels do not divide into groups=3"):
        transposed_convolution(x, weight, groups=3)
    with pytest.raises(ValueError, match="output_padding=2 from 0 to below the larger of stride and dilation"):
        transposed_convolution(x, weight, stride=2, output_padding=2)
    with pytest.raises(ValueError, match="padding=2 leaves nothing of 3 cells with a kernel of 2"):
        transposed_convolution(x, weight, padding=2)
