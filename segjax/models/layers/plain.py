"""Plain stacks of convolutions, for networks that are not built on a classifier's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName, norm_layer

he = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""He et al. 2015, forward form: keeps the variance of rectified activations from layer to layer."""
classifier_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
"""Of last layers: logits of about unit size. From logits near zero, a small normal start, narrow networks find objects
and not their classes: at first every class but the background pulls at the features in the same direction."""


def check_odd(kernel: int) -> None:
    """`ValueError` where the side of a kernel is even: maps would neither keep their size nor lie over each other."""
    if kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel}; it must be odd, so that maps keep their size.")


class ConvNormReLU(nn.Module):
    """A convolution, a norm in place of its bias where one is asked for, a rectifier.

    Where one convolution is used several times, each `use` but the first, "", has a norm of its own: statistics over
    several uses at once would be those of none, and predictions, which are made with running ones, worthless.
    """

    features: int
    kernel: int = 3
    norm: NormName | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False, use: str = ""
    ) -> Float[Array, "b h w features"]:
        """The map, of the same size for odd kernels."""
        conv = Conv(self.features, self.kernel, bias=self.norm is None, kernel_init=he, dtype=self.dtype, name="conv")
        x = conv(x)
        if self.norm is not None:
            x = norm_layer(self.norm, dtype=self.dtype)(name=f"norm{use}")(x, train=train)
        return nn.relu(x)


class PlainNet(nn.Module):
    """Convolutions with the maximum over 2x2 pixels between them: one map, of stride 2 ** (len(channels) - 1).

    Used several times, it has the same convolutions and norms for each `use`, see `ConvNormReLU`.
    """

    channels: Sequence[int] = (16, 64, 256)
    """Of each convolution."""
    kernel: int = 7
    """Odd."""
    norm: NormName | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def stride(self) -> int:
        """Pixels between neighbouring positions of the map."""
        return 2 ** (len(self.channels) - 1)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False, use: str = "") -> Float[Array, "b h2 w2 c2"]:
        """The last convolution's map."""
        for i, features in enumerate(self.channels):
            if i:
                x = max_pool(x, window=2, stride=2, padding=0)
            layer = ConvNormReLU(features, self.kernel, self.norm, self.dtype, name=f"conv{i + 1}")
            x = layer(x, train=train, use=use)
        return x
