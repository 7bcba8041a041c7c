"""DeepLabV3 (Chen et al. 2017) in torchvision's form."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.pixel import DeepLabHead, FCNHead
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.types import Model


def deeplabv3(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    rates: Sequence[int] = (12, 24, 36),
    channels: int = 256,
    norm: NormName = "batch",
    dropout: tuple[float, float] = (0.5, 0.1),
    auxiliary: bool = True,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """DeepLabV3. The defaults are torchvision's `deeplabv3_resnet50` with auxiliary loss.

    Args:
      classes: number of classes, the background among them.
      backbone: a module from normalised images to maps; ResNet-50 at stride 8 with trained batch norm by default.
      rates: dilations of the convolutions on the last map, in its cells: (12, 24, 36) at stride 8, (6, 12, 18) at 16.
      channels: of each of them.
      norm: of the heads.
      dropout: rates in the head and in the auxiliary one.
      auxiliary: whether an `FCNHead` learns from the map before the last, called "auxiliary"; it predicts nothing.
      loss: what the logits are trained by.
      dtype: of convolutions and matrix products; logits and losses are float32 always.

    Returns:
      A `Model` as `segmenter` makes it, with the losses "cross_entropy" and "auxiliary".
    """
    backbone = ResNet(50, "batch", stages=(3, 4), dilate_last=2, dtype=dtype) if backbone is None else backbone
    heads: dict[str, nn.Module] = {
        "classifier": DeepLabHead(classes, channels, rates, norm, dropout[0], dtype),
    }
    if auxiliary:
        heads["auxiliary"] = FCNHead(classes, -2, norm=norm, dropout=dropout[1], dtype=dtype)
    return segmenter(classes, backbone=backbone, heads=heads, loss=loss, dtype=dtype)
