"""SegNet (Badrinarayanan, Kendall and Cipolla 2017): VGG-16 and its mirror image, which unpools by remembered indices.

DeconvNet (Noh, Hong and Han 2015) is the same with two hidden layers in the middle and transposed convolutions behind.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.padding import Padded, crop_to_image, pad_to_multiple
from segjax.models.layers.plain import ConvNormReLU, classifier_init
from segjax.models.layers.upconv import UpConv
from segjax.models.layers.vgg import CONVOLUTIONS
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.ops import resample
from segjax.types import Model

STAGES = len(CONVOLUTIONS)
Form = Literal["segnet", "deconvnet"]


class SegNetEncoder(nn.Module):
    """The thirteen convolutions of VGG-16 and its five poolings, whose indices are kept, or the first stages of them.

    Its parameters have the names of `layers.vgg.VGG16`, so that weights of that classifier fill it. Images are padded
    below and to the right to multiples of 2 ** stages.
    """

    width: int = 64
    norm: NormName | None = "batch"
    stages: int = STAGES
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> Padded:
        """Maps (x, indices): the last pooled map, and for each stage where its pooling found the maxima."""
        size = x.shape[1:3]
        x = pad_to_multiple(x, 2**self.stages)
        padded, indices = x.shape[1:3], []
        for i, convolutions in enumerate(CONVOLUTIONS[: self.stages], start=1):
            for j in range(1, convolutions + 1):
                channels = _channels(self.width, i)
                x = Conv(channels, 3, bias=self.norm is None, dtype=self.dtype, name=f"conv{i}_{j}")(x)
                if self.norm is not None:
                    x = norm_layer(self.norm, dtype=self.dtype)(name=f"norm{i}_{j}")(x, train=train)
                x = nn.relu(x)
            x, found = resample.max_pool_indices(x, window=2)
            indices.append(found)
        return Padded((x, indices), padded, size)


class SegNetDecoder(nn.Module):
    """The mirrored stages: each unpools to where the encoder's maxima were, then makes the sparse map dense.

    segnet: convolutions, the last of which gives the logits. deconvnet: the hidden layers of VGG-16 as a 7x7 and a 1x1
    convolution, back to a map by a 7x7 transposed one; transposed convolutions in the stages; logits by a 1x1
    convolution. Unlike the paper's, its 7x7 convolutions are padded, so that images need not have 224 pixels.
    """

    classes: int
    width: int = 64
    norm: NormName | None = "batch"
    form: Form = "segnet"
    hidden: int = 4096
    """deconvnet: channels of the hidden layers."""
    deep_supervision: bool = False
    """Classify the pixels of every stage, not of the finest alone."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Padded, *, train: bool = False) -> list[Float[Array, "b _ _ classes"]]:
        """Logits of every pixel of the image, the last of the list; before them those of coarser stages, if any."""
        x, indices = features.maps
        guesses = []
        if self.form == "deconvnet":
            x = self._bottleneck(x, train)
        for i in range(len(indices), 0, -1):
            x = self._stage(x, indices[i - 1], i, train)
            if i == 1 or self.deep_supervision:
                guesses.append(crop_to_image(self._logits(x, i), features))
        return guesses

    def _logits(self, x: Array, stage: int) -> Array:
        kernel, name = 3 if (self.form, stage) == ("segnet", 1) else 1, "logits" if stage == 1 else f"logits{stage}"
        return Conv(self.classes, kernel, bias=True, kernel_init=classifier_init, dtype=self.dtype, name=name)(x)

    def _stage(self, x: Array, indices: Int[Array, "b h w c"], number: int, train: bool) -> Array:
        """A stage's unpooling and convolutions, which end with the channels of the stage before it."""
        side = 2 * x.shape[1], 2 * x.shape[2]
        x = resample.max_unpool(x, indices, size=side, window=2)
        for j in range(CONVOLUTIONS[number - 1], 0, -1):
            if (number, j) == (1, 1) and self.form == "segnet":
                return x  # the logits are this convolution
            channels = _channels(self.width, number if j > 1 else number - 1)
            x = self._convolution(x, channels, 3, f"conv{number}_{j}", train)
        return x

    def _bottleneck(self, x: Array, train: bool) -> Array:
        channels = x.shape[-1]
        x = ConvNormReLU(self.hidden, 7, self.norm, self.dtype, name="fc6")(x, train=train)
        x = ConvNormReLU(self.hidden, 1, self.norm, self.dtype, name="fc7")(x, train=train)
        return self._convolution(x, channels, 7, "fc6_back", train)

    def _convolution(self, x: Array, channels: int, kernel: int, name: str, train: bool) -> Array:
        if self.form == "segnet":
            return ConvNormReLU(channels, kernel, self.norm, self.dtype, name=name)(x, train=train)
        x = UpConv(channels, kernel, stride=1, padding=kernel // 2, dtype=self.dtype, name=name)(x)
        if self.norm is not None:
            x = norm_layer(self.norm, dtype=self.dtype)(name=f"{name}_norm")(x, train=train)
        return nn.relu(x)


def _channels(width: int, stage: int) -> int:
    """Of a stage of VGG-16; before the first there are as many as in it."""
    return width * min(2 ** max(stage - 1, 0), 8)


def segnet(
    classes: int,
    *,
    width: int = 64,
    norm: NormName | None = "batch",
    stages: int = STAGES,
    form: Form = "segnet",
    hidden: int = 4096,
    deep_supervision: bool = False,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """SegNet, or DeconvNet; the defaults are the paper's.

    Images of any size are padded to multiples of 2 ** stages and cropped again.

    Args:
      classes: number of classes.
      width: channels of the first stage, 64 in VGG-16; the others have two, four and eight times as many.
      norm: behind each convolution.
      stages: of VGG-16, from the first on; each halves the image. Five leave little of a small one.
      form: of the decoder, see `SegNetDecoder`.
      hidden: channels of DeconvNet's hidden layers.
      deep_supervision: train classifiers of the pixels of every stage of the decoder; the finest alone predicts.
      loss: what pixels are trained by; SegNet weighs classes by median frequency.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in parts "backbone" and "decoder".

    Raises:
      ValueError: there are no such stages.
    """
    if not 1 <= stages <= STAGES:
        raise ValueError(f"stages is {stages}; VGG-16 has from 1 to {STAGES}.")
    return segmenter(
        classes,
        backbone=SegNetEncoder(width, norm, stages, dtype),
        heads={"decoder": SegNetDecoder(classes, width, norm, form, hidden, deep_supervision, dtype)},
        loss=loss,
        dtype=dtype,
    )
