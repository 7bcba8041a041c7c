"""Transposed convolution in torch's geometry."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

# torch counts the inputs of a transposed convolution where it says outputs.
kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class UpConv(nn.Module):
    """A transposed convolution over NHWC, `torch.nn.ConvTranspose2d` with a bias.

    Each position of the input adds its `kernel` x `kernel` stamp to the output, stamps `stride` apart and `padding`
    cells cut off on every side: h becomes (h - 1) stride - 2 padding + kernel. The parameter "kernel" is
    [kernel, kernel, in, out], its first axes in the order of the output's rows and columns, as torch has them. Where
    stamps do not overlap (kernel = stride, no padding) it is a matrix product.
    """

    features: int
    kernel: int = 2
    stride: int = 2
    padding: int = 0
    kernel_init: nn.initializers.Initializer = kaiming
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        """The upsampled map."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == self.stride and self.padding == 0:
            y = jnp.einsum("bhwc,ijcd->bhiwjd", x, weight)
            y = y.reshape(x.shape[0], x.shape[1] * self.stride, x.shape[2] * self.stride, self.features)
        else:
            y = self._overlapping(x, weight)
        return y + bias[None, None, None]

    def _overlapping(self, x: Array, weight: Array) -> Array:
        pad = self.kernel - 1 - self.padding
        return jax.lax.conv_general_dilated(
            x,
            weight[::-1, ::-1],
            window_strides=(1, 1),
            padding=[(pad, pad), (pad, pad)],
            lhs_dilation=(self.stride, self.stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
