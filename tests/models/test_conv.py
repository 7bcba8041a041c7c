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


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 1, 2)])
@pytest.mark.parametrize("size", [(7, 6), (8, 5)])
def test_depthwise_taps_are_xlas_grouped_convolution(rng, size, kernel, stride, dilation):
    """Values and both gradients."""
    x = jnp.asarray(rng.normal(size=(2, *size, 6)), jnp.float32)
    layer = conv.Conv(6, kernel, stride, dilation, groups=6)
    variables = layer.init(jax.random.key(0), x)
    weight = variables["params"]["kernel"]
    assert weight.shape == (kernel, kernel, 1, 6)

    @jax.jit
    def values_and_gradients(cotangent):
        y, vjp = jax.vjp(lambda v, x: layer.apply(v, x), variables, x)
        y2, vjp2 = jax.vjp(lambda w, x: conv._convolve(x, w, stride, dilation, groups=6), weight, x)
        of_variables, of_x = vjp(cotangent)
        return (y, of_variables["params"]["kernel"], of_x), (y2, *vjp2(cotangent))

    shape = jax.eval_shape(layer.apply, variables, x).shape
    found, expected = values_and_gradients(jnp.asarray(rng.normal(size=shape), jnp.float32))
    for ours, xlas in zip(found, expected):
        np.testing.assert_allclose(ours, xlas, rtol=1e-4, atol=1e-4)


def test_groups_of_several_channels(rng):
    """Each half of the output sees its half of the input."""
    x = jnp.asarray(rng.normal(size=(1, 5, 4, 6)), jnp.float32)
    variables = conv.Conv(4, 3, groups=2).init(jax.random.key(0), x)
    weight = variables["params"]["kernel"]
    assert weight.shape == (3, 3, 3, 4)
    halves = [conv.Conv(2, 3).apply({"params": {"kernel": weight[..., s]}}, x[..., t]) for s, t in _HALVES]
    np.testing.assert_allclose(
        conv.Conv(4, 3, groups=2).apply(variables, x), jnp.concatenate(halves, axis=-1), rtol=1e-5, atol=1e-5
    )


_HALVES = [(slice(0, 2), slice(0, 3)), (slice(2, 4), slice(3, 6))]


@pytest.mark.parametrize("convolve", [conv._convolve_wide, conv._convolve_depthwise])
def test_the_gradient_lowers_for_every_platform(convolve):
    spec = jax.ShapeDtypeStruct((1, 8, 8, conv.WIDE), jnp.float32)
    inputs = 1 if convolve is conv._convolve_depthwise else conv.WIDE
    weight = jax.ShapeDtypeStruct((3, 3, inputs, conv.WIDE), jnp.float32)
    gradient = jax.grad(lambda w, x: jnp.sum(convolve(x, w, 1, 1)))
    exported = jax.export.export(jax.jit(gradient), platforms=("cpu", "cuda", "tpu"))(weight, spec)
    assert exported.out_avals[0].shape == weight.shape
