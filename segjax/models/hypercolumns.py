"""Hypercolumns (Hariharan et al. 2015): each pixel is classified by the features of all depths above it."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.plain import check_odd, classifier_init
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.ops import resample
from segjax.types import Model


class HypercolumnHead(nn.Module):
    """A linear classifier of hypercolumns, one for each of `grid` x `grid` places in the image.

    A hypercolumn stacks the maps of several depths, all upsampled to the finest. Upsampling and classifying are both
    linear, so each map is classified at its own resolution and the scores are upsampled and summed (section 3.2 of the
    paper): the same numbers, without the stack.
    """

    classes: int
    grid: int = 1
    """1: one classifier for the whole image."""
    kernel: int = 1
    """Side of the neighbourhood, in positions of each map, that its classifier sees."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> Float[Array, "b h w classes"]:
        """Logits at the resolution of the first map, which should be the finest. float32."""
        size = features[0].shape[1:3]
        total = jnp.zeros((features[0].shape[0], *size, self.grid**2 * self.classes), jnp.float32)
        for i, x in enumerate(features):
            options = {"bias": i == 0, "kernel_init": classifier_init, "dtype": self.dtype, "name": f"level{i + 1}"}
            scores = Conv(total.shape[-1], self.kernel, **options)(x).astype(jnp.float32)
            total = total + (scores if scores.shape[1:3] == size else resample.bilinear(scores, size=size))
        return interpolate_classifiers(total.reshape(*total.shape[:3], self.grid, self.grid, self.classes))


def interpolate_classifiers(scores: Float[Array, "b h w k k c"]) -> Float[Array, "b h w c"]:
    """At each pixel the scores of a k x k grid of classifiers, interpolated bilinearly to where the pixel lies.

    Classifier (i, j) is in charge of the middle of cell (i, j) when the image is cut into k x k cells; outside the
    middles of the outermost cells the nearest ones count alone. Hariharan et al. 2015, section 3.1, lay the grid over
    an object's box and interpolate probabilities; here it lies over the image and logits are interpolated, so that the
    usual losses apply.
    """
    height, width, k = scores.shape[1:4]
    if k == 1:
        return scores[:, :, :, 0, 0]
    return jnp.einsum("bhwijc,hi,wj->bhwc", scores, _weights(height, k), _weights(width, k))


def _weights(pixels: int, cells: int) -> Float[Array, "pixels cells"]:
    """How much each cell's classifier counts at each pixel of a row; rows add up to 1."""
    where = jnp.clip((jnp.arange(pixels, dtype=jnp.float32) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    return jnp.maximum(1 - jnp.abs(where[:, None] - jnp.arange(cells, dtype=jnp.float32)[None]), 0)


def hypercolumns(
    classes: int,
    *,
    backbone: nn.Module,
    grid: int = 1,
    kernel: int = 1,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A model of hypercolumns of any backbone.

    Args:
      classes: number of classes.
      backbone: gives maps of several depths, finest first: a `VGG16` or `ResNet` with several `stages`.
      grid: location-specific classifiers along each side of the image; 1 for none.
      kernel: of the classifiers, odd.
      loss: what pixels are trained by.
      dtype: of the computation.

    Returns:
      The `Model`; its variables are in parts "backbone" and "classifier".

    Raises:
      ValueError: a grid without cells, or an even kernel.
    """
    if grid < 1:
        raise ValueError(f"grid is {grid}; it has at least one classifier along each side.")
    check_odd(kernel)
    head = HypercolumnHead(classes, grid, kernel, dtype)
    return segmenter(classes, backbone=backbone, heads={"classifier": head}, loss=loss, dtype=dtype)
