"""Convolution in torch's geometry, with 1x1 kernels as matrix products."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, section 2.2, backward form: what torchvision initialises residual networks with."""

WIDE = 256
"""Channels in and out from which a CPU takes the weight gradient as matrix products (see docs/benchmarks.md)."""


class Conv(nn.Module):
    """A convolution over NHWC with torch's symmetric padding of `dilation * (kernel - 1) / 2`.

    A 1x1 kernel is computed as a matrix product over pixels: the same numbers, and on a CPU up to twice as fast
    forward and backward as XLA's convolution. From `WIDE` channels on, larger kernels have a reverse-mode derivative of
    their own, whose weight gradient a CPU gets from matrix products. With `groups`, each group of output channels sees
    its own group of input channels; as many groups as channels make a depthwise convolution. Parameters are float32;
    the computation runs in `dtype`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = False
    kernel_init: nn.initializers.Initializer = kaiming
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        """Convolves `x`; h2 is ceil(h / stride) for odd kernels."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        weight = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.groups > 1:
            depthwise = self.groups == x.shape[-1] == self.features
            convolve = _convolve_depthwise if depthwise else functools.partial(_convolve, groups=self.groups)
            y = convolve(x, weight, self.stride, self.dilation)
        elif self.kernel == 1:
            y = x[:, :: self.stride, :: self.stride] @ weight[0, 0]
        else:
            wide = min(x.shape[-1], self.features) >= WIDE
            y = (_convolve_wide if wide else _convolve)(x, weight, self.stride, self.dilation)
        if self.bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def _convolve(x: Array, weight: Array, stride: int, dilation: int, groups: int = 1) -> Array:
    pad = dilation * (weight.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding=[(pad, pad), (pad, pad)],
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_wide(x: Array, weight: Array, stride: int, dilation: int) -> Array:
    """`_convolve`, with a weight gradient that suits the platform. Reverse mode only."""
    return _convolve(x, weight, stride, dilation)


def _convolve_wide_fwd(x, weight, stride, dilation):
    return _convolve(x, weight, stride, dilation), (x, weight)


def _convolve_wide_bwd(stride, dilation, saved, gradient):
    x, weight = saved
    (of_x,) = jax.linear_transpose(lambda x: _convolve(x, weight, stride, dilation), x)(gradient)
    by_products = functools.partial(_weight_gradient, kernel=weight.shape[0], stride=stride, dilation=dilation)

    def by_convolution(x, gradient):
        return jax.linear_transpose(lambda w: _convolve(x, w, stride, dilation), weight)(gradient)[0]

    return of_x, jax.lax.platform_dependent(x, gradient, cpu=by_products, default=by_convolution)


_convolve_wide.defvjp(_convolve_wide_fwd, _convolve_wide_bwd)


def _weight_gradient(
    x: Array, gradient: Array, *, kernel: int, stride: int, dilation: int, depthwise: bool = False
) -> Array:
    """One product over all pixels for each tap of the kernel: of matrices or, depthwise, of vectors.

    XLA writes this gradient as a convolution whose kernel is as large as the map, which on a CPU takes up to six times
    as long on the finest maps of a pyramid. The taps are taken in turn, so that only one shifted map is held.
    """
    pad = dilation * (kernel - 1) // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (stride * (n - 1) + 1 for n in gradient.shape[1:3])
    pixels = gradient.reshape(-1, gradient.shape[-1])

    def tap(corner: Array) -> Array:
        seen = jax.lax.dynamic_slice(x, (0, corner[0], corner[1], 0), (x.shape[0], height, width, x.shape[-1]))
        seen = seen[:, ::stride, ::stride].reshape(-1, x.shape[-1])
        if depthwise:
            return jnp.sum(seen.astype(jnp.float32) * pixels.astype(jnp.float32), axis=0).astype(x.dtype)
        return jnp.matmul(seen.T, pixels, preferred_element_type=jnp.float32).astype(x.dtype)

    corners = dilation * jnp.indices((kernel, kernel), dtype=jnp.int32).reshape(2, -1).T
    return jax.lax.map(tap, corners).reshape(kernel, kernel, -1, gradient.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_depthwise(x: Array, weight: Array, stride: int, dilation: int) -> Array:
    """`_convolve` with a group for each channel, in a form that suits the platform. Reverse mode only.

    On a CPU XLA's grouped convolution takes ten to a hundred times as long as a multiplication for each tap.
    """
    taps = functools.partial(_sum_taps, stride=stride, dilation=dilation)
    return jax.lax.platform_dependent(x, weight, cpu=taps, default=_grouped(stride, dilation))


def _grouped(stride: int, dilation: int) -> Callable[[Array, Array], Array]:
    return lambda x, weight: _convolve(x, weight, stride, dilation, groups=x.shape[-1])


def _sum_taps(x: Array, weight: Array, *, stride: int, dilation: int) -> Array:
    """The depthwise convolution as a sum of shifted maps, each times its tap of the kernel, in float32."""
    kernel = weight.shape[0]
    pad = dilation * (kernel - 1) // 2
    height, width = (-(-n // stride) for n in x.shape[1:3])
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), jnp.float32)
    for i, j in itertools.product(range(kernel), repeat=2):
        rows = slice(i * dilation, i * dilation + stride * (height - 1) + 1, stride)
        columns = slice(j * dilation, j * dilation + stride * (width - 1) + 1, stride)
        total = total + padded[:, rows, columns] * weight[i, j].astype(jnp.float32)[None, None]
    return total.astype(x.dtype)


def _convolve_depthwise_fwd(x, weight, stride, dilation):
    return _convolve_depthwise(x, weight, stride, dilation), (x, weight)


def _convolve_depthwise_bwd(stride, dilation, saved, gradient):
    def by_taps(x, weight, gradient):
        of_weight = _weight_gradient(
            x, gradient, kernel=weight.shape[0], stride=stride, dilation=dilation, depthwise=True
        )
        # The convolution turned around: the kernel mirrored, the gradient spread to where its pixels lie in x.
        ends = ((n - stride * (m - 1) - 1) for n, m in zip(x.shape[1:3], gradient.shape[1:3]))
        spread = jax.lax.pad(
            gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *((0, end, stride - 1) for end in ends), (0, 0, 0))
        )
        return _sum_taps(spread, weight[::-1, ::-1], stride=1, dilation=dilation), of_weight

    def by_convolution(x, weight, gradient):
        grouped = _grouped(stride, dilation)
        return jax.vjp(grouped, x, weight)[1](gradient)

    return jax.lax.platform_dependent(*saved, gradient, cpu=by_taps, default=by_convolution)


_convolve_depthwise.defvjp(_convolve_depthwise_fwd, _convolve_depthwise_bwd)


def max_pool(x: Float[Array, "b h w c"], *, window: int, stride: int, padding: int) -> Float[Array, "b h2 w2 c"]:
    """Max pooling with torch's symmetric padding by minus infinity."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))
