"""Lite R-ASPP on MobileNetV3 (Howard et al. 2019) in torchvision's form."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.pixel import LRASPPHead
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.norms import NormName
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.types import Model


def lraspp(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    channels: int = 128,
    norm: NormName = "batch",
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Lite R-ASPP, without an auxiliary loss. The defaults are torchvision's `lraspp_mobilenet_v3_large`.

    Args:
      classes: number of classes, the background among them.
      backbone: a module from normalised images to maps, of which the first and the last are used; by default
        MobileNetV3-Large at strides 8 and 16 with trained batch norm.
      channels: of the projection of the coarser map.
      norm: of the head.
      loss: what the logits are trained by.
      dtype: of convolutions and matrix products; logits and losses are float32 always.

    Returns:
      A `Model` as `segmenter` makes it, with the loss "cross_entropy".
    """
    if backbone is None:
        backbone = MobileNetV3(norm="batch", dilated=True, stages=(2, 5), dtype=dtype)
    head = LRASPPHead(classes, channels, norm, dtype)
    return segmenter(classes, backbone=backbone, heads={"classifier": head}, loss=loss, dtype=dtype)
