"""AlexNet in the form of Krizhevsky 2014 ("One weird trick for parallelizing CNNs"), which torchvision has too.

It is the network of Krizhevsky et al. 2012 in one column instead of two, with other widths and without local response
normalisation.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName, norm_layer
from segjax.ops.pooling import adaptive_average_pool

he_init = nn.initializers.he_normal()
"""He et al. 2015, equation 10: keeps the variance of rectified activations from layer to layer, without norms too."""


class Layer(NamedTuple):
    """One of the convolutions."""

    channels: int
    kernel: int
    pool: bool = False
    """Whether the maximum over 3x3 positions, every second of them, is taken before it."""


LAYERS = (Layer(64, 11), Layer(192, 5, pool=True), Layer(384, 3, pool=True), Layer(256, 3), Layer(256, 3))
"""The first has a stride of 4."""
POOLED = 6
"""Side of the map that the fully connected layers see, which images of 224x224 pixels give."""


class AlexNet(nn.Module):
    """The five convolutions: one map, of stride 32 with the pooling behind the last (`pool`), else conv5, of stride 16.

    The first convolution is padded by 2 pixels on each side and no pooling is, so that maps are a little smaller than
    the image divided by the stride: 224x224 pixels give 13x13 positions, pooled 6x6. `width` multiplies the number of
    channels of every layer. With a `norm`, which the paper does not have, the network can be trained from random
    weights: each convolution is followed by one in place of its bias.
    """

    norm: NormName | None = None
    width: float = 1.0
    pool: bool = True
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of the map."""
        return (32 if self.pool else 16,)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """The map of a batch of normalised images, in a list of one.

        Raises:
          ValueError: the images are so small that nothing is left of them, or the width leaves a layer no channel.
        """
        size = x.shape[1:3]
        for i, layer in enumerate(LAYERS, start=1):
            x = self._pooled(x, size) if layer.pool else x
            x = self._convolution(layer, i)(x)
            if self.norm is not None:
                x = norm_layer(self.norm, dtype=self.dtype)(name=f"norm{i}")(x, train=train)
            x = nn.relu(x)
        return [self._pooled(x, size) if self.pool else x]

    def _convolution(self, layer: Layer, i: int) -> nn.Module:
        channels, bias, name = round(layer.channels * self.width), self.norm is None, f"conv{i}"
        if channels < 1:
            raise ValueError(f"AlexNet of width {self.width} has no channel in its layer {i}: use a larger width.")
        if i > 1:
            return Conv(channels, layer.kernel, bias=bias, kernel_init=he_init, dtype=self.dtype, name=name)
        # `Conv` pads by half of the kernel, 5, which the first convolution does not.
        kernel, strides = (layer.kernel, layer.kernel), (4, 4)
        return nn.Conv(
            channels, kernel, strides, padding=2, use_bias=bias, kernel_init=he_init, dtype=self.dtype, name=name
        )

    def _pooled(self, x: Array, size: tuple[int, ...]) -> Array:
        if min(x.shape[1:3]) < 3:
            least = 63 if self.pool else 31
            raise ValueError(f"images of {size[0]}x{size[1]} pixels are too small for AlexNet, which takes {least}.")
        return max_pool(x, window=3, stride=2, padding=0)


class AlexNetClassifier(nn.Module):
    """The fully connected layers, over the backbone's map brought to 6x6 positions: so images may have any size.

    As in torchvision there is dropout before each hidden layer, and none before the logits.
    """

    classes: int | None = None
    """Of the logits; None for the last hidden layer's features instead."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the hidden layers."""
    dropout: float = 0.5
    """Share of the inputs of each hidden layer left out in training."""
    pooled: int = POOLED
    """Positions along each side of the map that the first of them sees."""
    dtype: DTypeLike = jnp.float32
    """Of the hidden layers."""

    @nn.compact
    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> Float[Array, "b features_or_classes"]:
        """Features, in `dtype`, or logits, float32.

        Raises:
          ValueError: there are several maps.
        """
        if len(features) != 1:
            raise ValueError(f"AlexNet's classifier sees one map, and the backbone gives {len(features)}.")
        x = adaptive_average_pool(features[0], size=(self.pooled, self.pooled))
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden, start=6):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(width, kernel_init=he_init, dtype=self.dtype, name=f"fc{i}")(x))
        if self.classes is None:
            return x
        init = nn.initializers.normal(0.01)
        # They may be coordinates, which bfloat16 would round to a pixel and more.
        return nn.Dense(self.classes, kernel_init=init, dtype=jnp.float32, name="logits")(x)
