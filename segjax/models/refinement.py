"""Recurrent refinement (Pinheiro and Collobert 2014): a network that sees the image and its own last prediction."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName
from segjax.models.layers.padding import Padded, crop_to_image, pad_to_multiple
from segjax.models.layers.plain import PlainNet, check_odd, classifier_init
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.ops import resample
from segjax.types import Model


class Pixels(nn.Module):
    """No backbone: the images themselves, padded below and to the right to multiples of `multiple`."""

    multiple: int = 1

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> Padded:
        """The padded images."""
        padded = pad_to_multiple(x, self.multiple)
        return Padded(padded, padded.shape[1:3], x.shape[1:3])


class RefinementHead(nn.Module):
    """The same network, `iterations` times: each sees the image beside the class probabilities of the one before.

    The first sees zeros in their place, which no probabilities are: it can tell that nothing is known yet. Norms, which
    the paper has not, are each iteration's own, since inputs differ in their statistics.
    """

    classes: int
    network: PlainNet = PlainNet()
    iterations: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Padded, *, train: bool = False) -> list[Float[Array, "b h w classes"]]:
        """Logits of every pixel after each iteration, all of which gradients go through. float32."""
        images, size = features.maps, features.padded
        last = Conv(self.classes, 1, bias=True, kernel_init=classifier_init, dtype=self.dtype, name="logits")
        guess = jnp.zeros((images.shape[0], *size, self.classes), images.dtype)
        guesses = []
        for use in ["", *(f"_iteration{i}" for i in range(2, self.iterations + 1))]:
            logits = last(self.network(jnp.concatenate([images, guess], axis=-1), train=train, use=use))
            logits = resample.bilinear(logits.astype(jnp.float32), size=size)
            guess = jax.nn.softmax(logits).astype(images.dtype)
            guesses.append(crop_to_image(logits, features))
        return guesses


def refinement(
    classes: int,
    *,
    channels: Sequence[int] = (25, 50, 100),
    kernel: int = 7,
    iterations: int = 2,
    norm: NormName | None = None,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A recurrent convolutional network for scene labelling.

    All iterations are trained, each by the loss of its own guess, with the gradient of the later ones reaching back
    through the earlier ones' predictions; the last one's is the prediction. Every iteration sees the image at full
    size. The paper's networks, which pad nothing, lose resolution in every iteration and see the image scaled down to
    match; and the paper picks one number of iterations at a time to train.

    Args:
      classes: number of classes.
      channels: of the network's convolutions, between which maps are halved.
      kernel: their side, odd.
      iterations: how often the network is applied. It has no part in the number of parameters, but for norms.
      norm: behind each convolution.
      loss: what pixels are trained by.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in the part "refinement". Guesses before the last have loss terms of their own,
      "cross_entropy_1" and so on.

    Raises:
      ValueError: no iteration, or an even kernel.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; the network is applied at least once.")
    check_odd(kernel)
    network = PlainNet(tuple(channels), kernel, norm, dtype)
    return segmenter(
        classes,
        backbone=Pixels(network.stride),
        heads={"refinement": RefinementHead(classes, network, iterations, dtype)},
        loss=loss,
        dtype=dtype,
    )
