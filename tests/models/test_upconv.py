"""The transposed convolution that starts as bilinear upsampling. `test_heads.py` has its geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers.upconv import UpConv, bilinear_init
from segjax.ops.resample import bilinear


@pytest.mark.parametrize("kernel, stride, padding", [(4, 2, 1), (16, 8, 4)])
def test_bilinear_init_interpolates(kernel, stride, padding, rng, key):
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)), jnp.float32)
    layer = UpConv(3, kernel, stride, padding, bias=False, kernel_init=bilinear_init)
    variables = layer.init(key, x)
    assert set(variables["params"]) == {"kernel"}
    y = jax.jit(layer.apply)(variables, x)
    expected = bilinear(x, size=(4 * stride, 5 * stride))
    inside = (slice(None), slice(stride // 2, -stride // 2), slice(stride // 2, -stride // 2))
    np.testing.assert_allclose(y[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_bilinear_init_of_an_odd_kernel_keeps_the_channels_apart():
    kernel = np.asarray(bilinear_init(None, (3, 3, 2, 2)))
    np.testing.assert_array_equal(kernel[:, :, 0, 0], np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]))
    np.testing.assert_array_equal(kernel[:, :, 0, 1], np.zeros((3, 3)))


def test_bilinear_init_needs_as_many_channels_out_as_in():
    with pytest.raises(ValueError, match="2 channels in must be as many as out, and those are 3"):
        bilinear_init(None, (4, 4, 2, 3))
