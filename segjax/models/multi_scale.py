"""Multi-scale networks (Farabet et al. 2013): one convnet at several scales, a classifier of what it sees at all."""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName
from segjax.models.layers.padding import Padded, crop_to_image, pad_to_multiple
from segjax.models.layers.plain import ConvNormReLU, PlainNet, check_odd, classifier_init
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.ops import resample
from segjax.types import Model

Pyramid = Literal["laplacian", "gaussian"]


def image_pyramid(x: Float[Array, "b h w c"], *, levels: int, kind: Pyramid) -> list[Float[Array, "b _ _ c"]]:
    """The image at scales 1, 1/2, 1/4, ..., `levels` of them.

    gaussian: each the one before at half its size, bilinearly (where sides are even, means of 2x2 pixels). laplacian
    (Burt and Adelson 1983): of each what the next one, upsampled again, does not tell; the last in full.
    """
    smaller = [x]
    for _ in range(levels - 1):
        height, width = smaller[-1].shape[1:3]
        smaller.append(resample.bilinear(smaller[-1], size=(-(-height // 2), -(-width // 2))))
    if kind == "gaussian":
        return smaller
    details = [fine - resample.bilinear(coarse, size=fine.shape[1:3]) for fine, coarse in itertools.pairwise(smaller)]
    return [*details, smaller[-1]]


class MultiScaleNet(nn.Module):
    """One network with the same convolutions on every level of the image's pyramid, its maps brought to one size.

    Norms, which the paper has not, are each level's own: levels differ in their statistics.
    Images are padded below and to the right so that the levels' maps lie over each other exactly.
    """

    network: PlainNet = PlainNet()
    scales: int = 3
    pyramid: Pyramid = "laplacian"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> Padded:
        """One map of the finest level's size, with the channels of all levels."""
        size = x.shape[1:3]
        x = pad_to_multiple(x, self.network.stride * 2 ** (self.scales - 1))
        levels = image_pyramid(x, levels=self.scales, kind=self.pyramid)
        uses = ["", *(f"_scale{i}" for i in range(1, self.scales))]
        maps = [self.network(level, train=train, use=use) for level, use in zip(levels, uses)]
        side = maps[0].shape[1:3]
        stack = [maps[0], *(resample.bilinear(level, size=side) for level in maps[1:])]
        return Padded(jnp.concatenate(stack, axis=-1), x.shape[1:3], size)


class PixelClassifier(nn.Module):
    """A classifier of each position of a map by itself, with hidden layers."""

    classes: int
    hidden: Sequence[int] = (1024,)
    norm: NormName | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Padded, *, train: bool = False) -> Float[Array, "b h w classes"]:
        """Logits at the map's resolution; at the images' where they were padded."""
        x = features.maps
        for i, channels in enumerate(self.hidden):
            x = ConvNormReLU(channels, 1, self.norm, self.dtype, name=f"hidden{i + 1}")(x, train=train)
        logits = Conv(self.classes, 1, bias=True, kernel_init=classifier_init, dtype=self.dtype, name="logits")(x)
        return crop_to_image(logits, features)


def multi_scale(
    classes: int,
    *,
    channels: Sequence[int] = (16, 64, 256),
    kernel: int = 7,
    scales: int = 3,
    pyramid: Pyramid = "laplacian",
    hidden: Sequence[int] = (1024,),
    norm: NormName | None = None,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """The multi-scale network; the defaults are the paper's sizes (section 3 and 5).

    Rectifiers take the place of its tanh. Trained at once where the paper trains the features first; its local
    normalisation in 15x15 windows and its random cuts between filters and planes are left out, as is YUV. The clean-up
    by superpixels is a matter of what is done with the predictions.

    Args:
      classes: number of classes.
      channels: of the shared network's convolutions, between which maps are halved.
      kernel: their side, odd.
      scales: levels of the pyramid: 1, 1/2, 1/4 and so on.
      pyramid: see `image_pyramid`.
      hidden: widths of the hidden layers of the classifier of each pixel.
      norm: behind each convolution and hidden layer.
      loss: what pixels are trained by.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in parts "backbone" and "classifier".

    Raises:
      ValueError: no scale, or an even kernel.
    """
    if scales < 1:
        raise ValueError(f"scales is {scales}; there is at least one, the image itself.")
    check_odd(kernel)
    network = PlainNet(tuple(channels), kernel, norm, dtype)
    return segmenter(
        classes,
        backbone=MultiScaleNet(network, scales, pyramid),
        heads={"classifier": PixelClassifier(classes, tuple(hidden), norm, dtype)},
        loss=loss,
        dtype=dtype,
    )
