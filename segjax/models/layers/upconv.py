"""Transposed convolution as a layer, and the start that makes it a bilinear upsampling."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from segjax.ops.transposed import transposed_convolution

# torch counts the inputs of a transposed convolution where it says outputs.
kaiming = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def bilinear_init(
    key: Key[Array, ""] | None, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Float[Array, "kh kw c out"]:
    """The kernel [kh kw in out] with which a transposed convolution interpolates: FCN's start (Long et al. 2015, 4.3).

    Channel i makes channel i and no other, by a tent that is 1 at the kernel's centre and falls to 0 one stride away,
    a stride being half of the side, rounded up. A kernel of 2s with stride s and padding s / 2 is then bilinear
    upsampling by s, but for the border, where zeros are mixed in. `key` is not used.

    Raises:
        ValueError: the layer does not have as many channels out as in.
    """
    kh, kw, channels, features = shape
    if channels != features:
        raise ValueError(f"bilinear_init: {channels} channels in must be as many as out, and those are {features}")
    tent = _tent(kh)[:, None] * _tent(kw)[None]
    return jnp.asarray(tent[:, :, None, None] * np.eye(channels), dtype)


def _tent(side: int) -> np.ndarray:
    stride = (side + 1) // 2
    return 1 - np.abs(np.arange(side) - (side - 1) / 2) / stride


class UpConv(nn.Module):
    """A transposed convolution over NHWC, `torch.nn.ConvTranspose2d`.

    Each position of the input adds its `kernel` x `kernel` stamp to the output, stamps `stride` apart and `padding`
    cells cut off on every side: h becomes (h - 1) stride - 2 padding + kernel. The parameter "kernel" is
    [kernel, kernel, in, out], its first axes in the order of the output's rows and columns, as torch has them.
    Parameters are float32; the computation runs in `dtype`.
    """

    features: int
    kernel: int = 2
    stride: int = 2
    padding: int = 0
    bias: bool = True
    kernel_init: nn.initializers.Initializer = kaiming
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 features"]:
        """The upsampled map."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        bias = None
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(self.dtype)
        return transposed_convolution(x.astype(self.dtype), weight, bias, stride=self.stride, padding=self.padding)
