"""The networks of YOLO and Fast YOLO (Redmon et al. 2016, figure 3) as backbones."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName, norm_layer

SLOPE = 0.1
"""Of the leaky rectifier below 0: equation 2."""
leaky_init = jax.nn.initializers.variance_scaling(2.0 / (1.0 + SLOPE**2), "fan_in", "normal")
"""He et al. 2015, equation 15: keeps the variance of leakily rectified activations from layer to layer."""


class Layer(NamedTuple):
    """One convolution of such a network."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False
    """Whether the maximum over 2x2 pixels is taken behind it."""


YOLO = (
    Layer(64, 7, 2, pool=True),
    Layer(192, pool=True),
    *(Layer(128, 1), Layer(256), Layer(256, 1), Layer(512, pool=True)),
    *(Layer(256, 1), Layer(512)) * 4,
    *(Layer(512, 1), Layer(1024, pool=True)),
    *(Layer(512, 1), Layer(1024)) * 2,
)
"""The first twenty convolutions, the paper's pre-trained part. The last four are the detector's (section 2.2)."""
DETECTION = (Layer(1024), Layer(1024, stride=2), Layer(1024), Layer(1024))
"""The four convolutions that detection adds."""
FAST = (
    *(Layer(channels, pool=True) for channels in (16, 32, 64, 128, 256, 512)),
    *(Layer(1024) for _ in range(3)),
)
"""The nine convolutions of Fast YOLO, as in Darknet's yolo-tiny.cfg; the paper gives their number alone."""
LAYERS = {"yolo": YOLO, "fast": FAST}


class DarknetLayer(nn.Module):
    """A convolution, a norm in place of its bias where one is asked for, a leaky rectifier, and pooling."""

    layer: Layer
    norm: NormName | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 c2"]:
        """The map."""
        channels, kernel, stride, pool = self.layer
        bias = self.norm is None
        x = Conv(channels, kernel, stride, bias=bias, kernel_init=leaky_init, dtype=self.dtype, name="conv")(x)
        if self.norm is not None:
            x = norm_layer(self.norm, dtype=self.dtype)(name="norm")(x, train=train)
        x = nn.leaky_relu(x, SLOPE)
        return max_pool(x, window=2, stride=2, padding=0) if pool else x


class Darknet(nn.Module):
    """YOLO's convolutions without those that detection adds, of stride 32, or Fast YOLO's nine, of stride 64: one map.

    `width` multiplies the number of channels of every layer. With a `norm`, which the paper does not have, the network
    can be trained from random weights: each convolution is followed by one in place of its bias.
    """

    form: str = "yolo"
    """A name in `LAYERS`: "yolo", "fast"."""
    norm: NormName | None = None
    width: float = 1.0
    dtype: DTypeLike = jnp.float32

    @property
    def layers(self) -> Sequence[Layer]:
        """The convolutions in order. ValueError where there is no such form, or `width` leaves no channel."""
        if self.form not in LAYERS:
            raise ValueError(f"form is {self.form!r}; choose one of {', '.join(map(repr, LAYERS))}.")
        if self.width <= 0:
            raise ValueError(f"width is {self.width}; it multiplies numbers of channels and must be above 0.")
        return [layer._replace(channels=max(round(layer.channels * self.width), 1)) for layer in LAYERS[self.form]]

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of the map."""
        total = 1
        for layer in self.layers:
            total *= layer.stride * (2 if layer.pool else 1)
        return (total,)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """The last map of a batch of normalised images."""
        for i, layer in enumerate(self.layers, start=1):
            x = DarknetLayer(layer, self.norm, self.dtype, name=f"layer{i}")(x, train=train)
        return [x]
