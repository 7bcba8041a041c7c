"""U-Net (Ronneberger, Fischer and Brox 2015): down to the context, up to the pixels, joined at every resolution."""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName
from segjax.models.layers.padding import Padded, crop_to_image, pad_to_multiple
from segjax.models.layers.plain import ConvNormReLU, classifier_init, he
from segjax.models.layers.upconv import UpConv
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.ops import resample
from segjax.types import Model

Up = Literal["transposed", "bilinear"]


class UNetEncoder(nn.Module):
    """The contracting path: two convolutions, halve, double the channels, `levels` times, and two more at the bottom.

    Images are padded below and to the right to multiples of 2 ** levels.
    """

    width: int = 64
    """Channels of the first two convolutions."""
    levels: int = 4
    norm: NormName | None = None
    dropout: float = 0.0
    """Behind the bottom, the only place where the paper has any."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> Padded:
        """`levels + 1` maps, finest first: map i has stride 2 ** i and width * 2 ** i channels."""
        size = x.shape[1:3]
        x = pad_to_multiple(x, 2**self.levels)
        padded, maps = x.shape[1:3], []
        for i in range(self.levels + 1):
            if i:
                x = max_pool(x, window=2, stride=2, padding=0)
            for j in (1, 2):
                x = ConvNormReLU(self.width * 2**i, 3, self.norm, self.dtype, name=f"conv{i}_{j}")(x, train=train)
            maps.append(x)
        maps[-1] = nn.Dropout(self.dropout, deterministic=not train)(maps[-1])
        return Padded(maps, padded, size)


class UNetDecoder(nn.Module):
    """The expanding path: upsample, halve the channels, stack on the encoder's map of that size, two convolutions."""

    classes: int
    norm: NormName | None = None
    up: Up = "transposed"
    """transposed: a 2x2 convolution with stride 2, as in the paper. bilinear: interpolation, then a 1x1 convolution."""
    deep_supervision: bool = False
    """Classify the pixels of every level, not of the finest alone."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Padded, *, train: bool = False) -> list[Float[Array, "b _ _ classes"]]:
        """Logits of every pixel of the image, the last of the list; before them those of coarser levels, if any."""
        *skips, x = features.maps
        guesses = []
        for i, skip in reversed(list(enumerate(skips))):
            channels = skip.shape[-1]
            x = jnp.concatenate([skip, self._upsampled(x, channels, f"up{i}")], axis=-1)
            for j in (1, 2):
                x = ConvNormReLU(channels, 3, self.norm, self.dtype, name=f"conv{i}_{j}")(x, train=train)
            if i == 0 or self.deep_supervision:
                guesses.append(crop_to_image(self._logits(x, f"logits{i}" if i else "logits"), features))
        return guesses

    def _logits(self, x: Array, name: str) -> Array:
        return Conv(self.classes, 1, bias=True, kernel_init=classifier_init, dtype=self.dtype, name=name)(x)

    def _upsampled(self, x: Array, channels: int, name: str) -> Array:
        if self.up == "transposed":
            return UpConv(channels, dtype=self.dtype, name=name)(x)
        # The 1x1 convolution is linear and so may come first, on a quarter of the pixels.
        x = Conv(channels, 1, bias=True, kernel_init=he, dtype=self.dtype, name=name)(x)
        return resample.bilinear(x, size=(2 * x.shape[1], 2 * x.shape[2]))


def unet(
    classes: int,
    *,
    width: int = 64,
    levels: int = 4,
    norm: NormName | None = None,
    up: Up = "transposed",
    dropout: float = 0.5,
    deep_supervision: bool = False,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """U-Net; the defaults are the paper's 23 convolutions.

    Convolutions are padded, so that images need no frame to lose, and images of any size are padded to multiples of
    2 ** levels and cropped again. The paper's weights of pixels between touching cells need instances and are not here.

    Args:
      classes: number of classes.
      width: channels of the finest level; each further one has twice as many.
      levels: how often the image is halved.
      norm: behind each 3x3 convolution; the paper has none.
      up: how maps are upsampled, see `UNetDecoder`.
      dropout: share of the coarsest map's values left out in training.
      deep_supervision: train classifiers of the pixels of every level of the decoder, as nnU-Net does (Isensee et al.
        2021); the finest alone predicts. Narrow networks learn classes much sooner with it (docs/results.md).
      loss: what pixels are trained by.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in parts "backbone" and "decoder".
    """
    return segmenter(
        classes,
        backbone=UNetEncoder(width, levels, norm, dropout, dtype),
        heads={"decoder": UNetDecoder(classes, norm, up, deep_supervision, dtype)},
        loss=loss,
        dtype=dtype,
    )
