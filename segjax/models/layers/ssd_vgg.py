"""VGG-16 as SSD has it (Liu et al. 2016, section 2.1, figure 2): hidden layers as convolutions, and further ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, kaiming, max_pool
from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.vgg import CONVOLUTIONS

xavier = jax.nn.initializers.xavier_uniform()
"""Glorot and Bengio 2010: what SSD's own layers start from."""


class ExtraPlan(NamedTuple):
    """A 1x1 and a larger convolution behind VGG-16, which make one more map."""

    narrow: int
    """Channels of the first, in units of the network's width."""
    out: int
    """Channels of the second, in the same units."""
    kernel: int = 3
    stride: int = 1
    padded: bool = True
    """The second, by one pixel."""


HALVING, SHRINKING = ExtraPlan(2, 4, stride=2), ExtraPlan(2, 4, padded=False)
EXTRAS_300 = (ExtraPlan(4, 8, stride=2), HALVING, SHRINKING, SHRINKING)
"""SSD300's, conv8_2 to conv11_2: maps of 10, 5, 3 and 1 cells a side."""
EXTRAS_512 = (ExtraPlan(4, 8, stride=2), HALVING, HALVING, HALVING, ExtraPlan(2, 4, kernel=4))
"""SSD512's, conv8_2 to conv12_2, as in the authors' code: maps of 16, 8, 4, 2 and 1 cells a side."""


class SSDVGG16(nn.Module):
    """Normalised conv4_3, the hidden layers as convolutions, and a map for each of `extras`: of stride 8, 16, 32, ...

    `width` is the number of channels of the first stage, 64 in the paper. With a `norm`, which the paper does not have,
    the network can be trained from scratch: each convolution is followed by one in place of its bias. The names of the
    thirteen convolutions are those of `VGG16`.
    """

    width: int = 64
    norm: NormName | None = None
    extras: tuple[ExtraPlan, ...] = EXTRAS_300
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, finest first.

        Raises:
          ValueError: the images are too small for all the maps.
        """
        size = x.shape[1:3]

        def conv(x: Array, name: str, units: int, kernel: int, *, padded: bool = True, **options: Any) -> Array:
            options = {"kernel_init": xavier, "bias": self.norm is None, "dtype": self.dtype, **options}
            x = Conv(units * self.width, kernel, name=name, **options)(x)
            # Without its border it is what a convolution without padding gives.
            x = x if padded else x[:, 1:-1, 1:-1]
            if min(x.shape[1:3]) < 1:
                raise ValueError(f"images of {size[0]} x {size[1]} pixels leave nothing of the map {name}: take fewer.")
            if self.norm is not None:
                x = norm_layer(self.norm, dtype=self.dtype)(name=f"{name}_norm")(x, train=train)
            return nn.relu(x)

        maps = []
        for i, convolutions in enumerate(CONVOLUTIONS, start=1):
            if i > 1:
                # Rounded up, so that 300 pixels become 150, 75 and 38 cells, as in the paper.
                bottom, right = (side % 2 for side in x.shape[1:3])
                x = nn.max_pool(x, (2, 2), (2, 2), ((0, bottom), (0, right)))
            for j in range(1, convolutions + 1):
                x = conv(x, f"conv{i}_{j}", min(2 ** (i - 1), 8), 3, kernel_init=kaiming)
            if i == 4:
                maps.append(L2Scale(name="conv4_3_scale")(x))
        x = max_pool(x, window=3, stride=1, padding=1)
        x = conv(x, "fc6", 16, 3, dilation=6)
        maps.append(conv(x, "fc7", 16, 1))
        for i, plan in enumerate(self.extras, start=8):
            x = conv(maps[-1], f"conv{i}_1", plan.narrow, 1)
            maps.append(conv(x, f"conv{i}_2", plan.out, plan.kernel, padded=plan.padded, stride=plan.stride))
        return maps


class L2Scale(nn.Module):
    """Each pixel's channels at length 1, times a learned scale for each channel that starts at 20 (section 3.1).

    From Liu et al. 2016, "ParseNet", section 3.3: features of an early map are far larger than those of the others.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """In float32, returned in the dtype of `x`; 0 where all channels are."""
        scale = self.param("scale", nn.initializers.constant(20.0), (x.shape[-1],), jnp.float32)
        y = x.astype(jnp.float32)
        squares = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        some = squares > 0
        y = y * jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1.0)), 0.0)
        return (y * scale[None, None, None]).astype(x.dtype)
