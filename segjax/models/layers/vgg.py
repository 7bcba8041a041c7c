"""VGG-16 (Simonyan and Zisserman 2015, configuration D) as a backbone."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName, norm_layer

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""3x3 convolutions in each of the five stages, between which maxima over 2x2 pixels are taken: table 1 of the paper."""


class VGG16(nn.Module):
    """The thirteen convolutions of VGG-16, without the last pooling: by default one map, conv5_3, of stride 16.

    `width` is the number of channels of the first stage, 64 in the paper; the others have two, four and eight times as
    many. `stages` picks what is returned, by number from 1: the map of a stage before it is pooled, of stride
    2 ** (i - 1). Stages beyond the last one asked for are not built. With a `norm`, which the paper does not have,
    the network can be trained from scratch: each convolution is followed by one in place of its bias.
    """

    norm: NormName | None = None
    width: int = 64
    stages: Sequence[int] = (5,)
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of each returned map."""
        return tuple(2 ** (i - 1) for i in sorted(self.stages))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, one for each of `stages`."""
        outputs = []
        for i in range(1, max(self.stages) + 1):
            if i > 1:
                x = max_pool(x, window=2, stride=2, padding=0)
            for j in range(1, CONVOLUTIONS[i - 1] + 1):
                channels = self.width * min(2 ** (i - 1), 8)
                x = Conv(channels, 3, bias=self.norm is None, dtype=self.dtype, name=f"conv{i}_{j}")(x)
                if self.norm is not None:
                    x = norm_layer(self.norm, dtype=self.dtype)(name=f"norm{i}_{j}")(x, train=train)
                x = nn.relu(x)
            if i in self.stages:
                outputs.append(x)
        return outputs
