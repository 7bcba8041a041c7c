"""Layers without padding, whose windows may lie closer than their strides let them: what slides over an image.

Over a window alone a network of such layers gives one position. Over an image it gives one for each window, and the
same numbers: nothing that it computes depends on where a window ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.plain import he


class Spacing(NamedTuple):
    """Where the positions of a map stand that belong to windows some pixels apart."""

    left: int
    """Positions from window to window that are still to be thinned out by strides."""
    dilation: int = 1
    """Positions between neighbours that belong to one window."""

    def by(self, factor: int) -> tuple[int, "Spacing"]:
        """(the stride, the spacing behind it) of a layer whose stride over a window alone is `factor`.

        A stride thins out windows that are wanted unless it divides what is left. Where it does not, the layer is
        taken at every position, and all later layers reach across the positions that belong to the windows in between
        (the filter rarefaction of Long et al. 2015, section 3.2).
        """
        if self.left % factor == 0:
            return factor, Spacing(self.left // factor, self.dilation)
        return 1, Spacing(self.left, self.dilation * factor)


def convolve(
    x: Float[Array, "b h w c"], weight: Float[Array, "k k c d"], *, dilation: int = 1, stride: int = 1
) -> Float[Array, "b h2 w2 d"]:
    """A convolution without padding."""
    return jax.lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding="VALID",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def maximum(
    x: Float[Array, "b h w c"], window: int, *, dilation: int = 1, stride: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """Of `window` positions, `dilation` apart, along both axes. Of slices: dilated windows are slow on a CPU."""
    for axis in (1, 2):
        last = x.shape[axis] - dilation * (window - 1) - 1
        slices = [
            jax.lax.slice_in_dim(x, i * dilation, i * dilation + last + 1, stride, axis=axis) for i in range(window)
        ]
        x = slices[0]
        for other in slices[1:]:
            x = jnp.maximum(x, other)
    return x


class ValidConv(nn.Module):
    """A convolution without padding that several maps may go through, each with its own stride and dilation."""

    features: int
    kernel: int
    bias: bool = True
    kernel_init: nn.initializers.Initializer = he
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, dilation: int = 1, stride: int = 1
    ) -> Float[Array, "b h2 w2 features"]:
        """Convolves `x`; over all there is where kernel and map are of one size, as a matrix product."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        weight = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.kernel == 1:
            y = x[:, ::stride, ::stride] @ weight[0, 0]
        elif x.shape[1:3] == (self.kernel, self.kernel):
            y = jnp.tensordot(x, weight, axes=3)[:, None, None]
        else:
            y = convolve(x, weight, dilation=dilation, stride=stride)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y
