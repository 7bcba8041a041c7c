"""Fully convolutional networks: on VGG-16 as in Long et al. 2015, and on a dilated ResNet as in torchvision."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.pixel import FCNHead, SkipHead
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.vgg import VGG16
from segjax.models.segmenter import PixelLoss, segmenter
from segjax.types import Model

STAGES = {32: (5,), 16: (4, 5), 8: (3, 4, 5)}
"""Stages of VGG-16 that FCN-32s, 16s and 8s look at."""


def fcn(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    norm: NormName = "batch",
    dropout: tuple[float, float] = (0.1, 0.1),
    auxiliary: bool = True,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """FCN on the last map of a backbone. The defaults are torchvision's `fcn_resnet50` with auxiliary loss.

    Args:
      classes: number of classes, the background among them.
      backbone: a module from normalised images to maps; ResNet-50 at stride 8 with trained batch norm by default.
      norm: of the heads.
      dropout: rates in the head and in the auxiliary one.
      auxiliary: whether a second head learns from the map before the last, called "auxiliary"; it predicts nothing.
      loss: what the logits are trained by.
      dtype: of convolutions and matrix products; logits and losses are float32 always.

    Returns:
      A `Model` as `segmenter` makes it, with the losses "cross_entropy" and "auxiliary".
    """
    backbone = ResNet(50, "batch", stages=(3, 4), dilate_last=2, dtype=dtype) if backbone is None else backbone
    heads = {"classifier": FCNHead(classes, norm=norm, dropout=dropout[0], dtype=dtype)}
    if auxiliary:
        heads["auxiliary"] = FCNHead(classes, -2, norm=norm, dropout=dropout[1], dtype=dtype)
    return segmenter(classes, backbone=backbone, heads=heads, loss=loss, dtype=dtype)


def fcn_vgg16(
    classes: int,
    *,
    stride: int = 8,
    width: int = 64,
    norm: NormName | None = None,
    hidden: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
    skip_scales: tuple[float, float] = (1.0, 1.0),
    learn_last: bool = False,
    loss: PixelLoss = PixelLoss(),
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """FCN-32s, 16s and 8s on VGG-16 (Long et al. 2015); images may have any size.

    Args:
      classes: number of classes, the background among them.
      stride: 32, 16 or 8: of the finest map that has a say. Each finer net is trained from the coarser one.
      width: channels of VGG-16's first stage.
      norm: behind each convolution, in place of its bias; None in the paper, which starts from ImageNet weights.
      hidden: channels of the first hidden layer, with a 7x7 kernel, and of those after it.
      dropout, skip_scales, learn_last: see `SkipHead`.
      loss: what the logits are trained by.
      dtype: of convolutions and matrix products; logits and losses are float32 always.

    Returns:
      A `Model` as `segmenter` makes it, whose one head is called "classifier".

    Raises:
      ValueError: the stride is none of the three.
    """
    if stride not in STAGES:
        raise ValueError(f"stride is {stride}; FCN on VGG-16 has a stride of 32, 16 or 8.")
    backbone = VGG16(norm, width, STAGES[stride], dtype)
    head = SkipHead(classes, stride, hidden, norm, dropout, skip_scales, learn_last, dtype)
    return segmenter(classes, backbone=backbone, heads={"classifier": head}, loss=loss, stride=32, dtype=dtype)
