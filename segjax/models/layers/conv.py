"""Convolution in torch's geometry, with 1x1 kernels as matrix products."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, section 2.2, backward form: what torchvision initialises residual networks with."""


class Conv(nn.Module):
    """A convolution over NHWC with torch's symmetric padding of `dilation * (kernel - 1) / 2`.

    A 1x1 kernel is computed as a matrix product over pixels: the same numbers, and on a CPU up to twice as fast
    forward and backward as XLA's convolution. Parameters are float32; the computation runs in `dtype`.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    bias: bool = False
    kernel_init: nn.initializers.Initializer = kaiming
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        """Convolves `x`; h2 is ceil(h / stride) for odd kernels."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            y = x[:, :: self.stride, :: self.stride] @ weight[0, 0]
        else:
            pad = self.dilation * (self.kernel - 1) // 2
            y = jax.lax.conv_general_dilated(
                x,
                weight,
                window_strides=(self.stride, self.stride),
                padding=[(pad, pad), (pad, pad)],
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def max_pool(x: Float[Array, "b h w c"], *, window: int, stride: int, padding: int) -> Float[Array, "b h2 w2 c"]:
    """Max pooling with torch's symmetric padding by minus infinity."""
    return nn.max_pool(x, (window, window), (stride, stride), ((padding, padding), (padding, padding)))
