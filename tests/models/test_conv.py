"""Wide convolutions have a gradient of their own: it is that of the plain convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import conv


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 2, 1)])
@pytest.mark.parametrize("size", [(7, 6), (8, 5)])
def test_weight_gradient_by_products_is_xlas(rng, size, kernel, stride, dilation):
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(kernel, kernel, 6, 4)), jnp.float32)
    y, vjp = jax.vjp(lambda w: conv._convolve(x, w, stride, dilation), weight)
    cotangent = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    found = conv._weight_gradient(x, cotangent, kernel=kernel, stride=stride, dilation=dilation)
    np.testing.assert_allclose(found, vjp(cotangent)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_wide_layer_has_the_gradients_of_the_plain_one(rng, dtype, monkeypatch):
    x = jnp.asarray(rng.normal(size=(2, 6, 7, conv.WIDE)), dtype)
    layer = conv.Conv(conv.WIDE, 3, 2, bias=True, dtype=dtype)
    variables = layer.init(jax.random.key(0), x)

    def gradients():
        run = lambda v, x: jnp.sum(jnp.sin(layer.apply(v, x).astype(jnp.float32)))  # noqa: E731
        return jax.jit(jax.grad(run, argnums=(0, 1)))(variables, x)

    wide = gradients()
    assert "custom_vjp" in str(jax.make_jaxpr(lambda v: layer.apply(v, x))(variables))
    monkeypatch.setattr(conv, "WIDE", conv.WIDE + 1)
    plain = gradients()
    tolerance = 1e-4 if dtype == jnp.float32 else 3e-2
    for found, expected in zip(jax.tree.leaves(wide), jax.tree.leaves(plain)):
        assert found.dtype == expected.dtype
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found.astype(jnp.float32), expected.astype(jnp.float32), atol=tolerance * scale)


def test_the_gradient_lowers_for_every_platform():
    spec = jax.ShapeDtypeStruct((1, 8, 8, conv.WIDE), jnp.float32)
    weight = jax.ShapeDtypeStruct((3, 3, conv.WIDE, conv.WIDE), jnp.float32)
    gradient = jax.grad(lambda w, x: jnp.sum(conv._convolve_wide(x, w, 1, 1)))
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(weight, spec)
    assert exported.out_avals[0].shape == weight.shape
