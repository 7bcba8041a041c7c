"""SSDLite's backbone: MobileNetV3-Large with a reduced tail and further separable blocks, in torchvision's form."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.norms import NormName, norm_layer

EPSILON, MOMENTUM = 1e-3, 0.97
"""Of all norms, those of the heads too."""
normal = jax.nn.initializers.normal(0.03)
"""What torchvision starts SSDLite's own layers from."""


def conv_norm(x: Array, channels: int, kernel: int, norm: NormName, *, name: str, train: bool, **options: int) -> Array:
    """A convolution in the dtype of `x`, its norm, and min(max(x, 0), 6), of the module that calls this."""
    x = Conv(channels, kernel, kernel_init=normal, dtype=x.dtype, name=name, **options)(x)
    make = norm_layer(norm, epsilon=EPSILON, momentum=MOMENTUM, dtype=x.dtype)
    return nn.relu6(make(name=f"{name}_norm")(x, train=train))


class SSDLiteMobileNetV3(nn.Module):
    """The expansion of the fourth stage, the last convolution (Howard et al. 2019, section 6.3), and a map for each
    of `extras`, each half as large: of stride 16, 32, 64, ...

    A map of `extras` comes from a 1x1, a depthwise and another 1x1 convolution (Sandler et al. 2018, section 6.2).
    """

    width: float = 1.0
    """Factor of all numbers of channels."""
    norm: NormName = "batch"
    extras: Sequence[int] = (512, 256, 256, 128)
    """Channels of each further map."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, finest first."""
        trunk = MobileNetV3(
            norm=self.norm,
            width=self.width,
            reduced_tail=True,
            stages=(4, 5),
            expanded=(4,),
            epsilon=EPSILON,
            momentum=MOMENTUM,
            dtype=self.dtype,
            name="trunk",
        )
        maps = trunk(x, train=train)
        for i, channels in enumerate(self.extras):
            channels = max(16, int(channels * self.width))
            x, narrow = maps[-1], channels // 2
            x = conv_norm(x, narrow, 1, self.norm, name=f"extra{i}_narrow", train=train)
            x = conv_norm(x, narrow, 3, self.norm, name=f"extra{i}_depthwise", train=train, stride=2, groups=narrow)
            maps.append(conv_norm(x, channels, 1, self.norm, name=f"extra{i}_project", train=train))
        return maps
