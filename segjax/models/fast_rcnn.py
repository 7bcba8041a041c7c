"""Fast R-CNN (Girshick 2015): heads on regions that were proposed beforehand."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.box import BoxHead, BoxNetwork
from segjax.models.heads.roi import PoolSettings, RoIHead, SamplingSettings
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.vgg import VGG16
from segjax.models.trunk import Trunk
from segjax.models.two_stage import Regions, two_stage
from segjax.types import Model

PAPER = SamplingSettings(negatives=(0.1, 0.5), samples=64)
"""Section 2.3: 64 regions of each image, a quarter of IoU 0.5 and more, the others from 0.1 to 0.5."""


def fast_rcnn(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    heads: Mapping[str, RoIHead] | None = None,
    sampling: SamplingSettings = PAPER,
    roi_strides: tuple[int, ...] | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Fast R-CNN. The defaults are the paper's: VGG16, RoI pooling of one map, two layers of 4096 with dropout.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised images to maps, with a `strides` attribute; VGG16 by default.
      neck: a module from the backbone's maps to maps of equal channels; by default there is none.
      heads: heads on regions by name, called in this order, added to the box head as in `faster_rcnn`. For a pyramid,
        give a "box" head that pools by RoIAlign.
      sampling: which of the proposals the heads are trained on; the ground truth is always among them.
      roi_strides, mean, std, dtype: as in `faster_rcnn`.

    Returns:
      A `Model` with the losses `class` and `box`. Its batches carry `proposals`, and so does `predict`:
      `predict(variables, images, sizes, proposals)`.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    backbone = VGG16(dtype=dtype) if backbone is None else backbone
    strides = tuple(backbone.strides) if roi_strides is None else roi_strides
    box = BoxHead(BoxNetwork(classes, hidden=(4096, 4096), dropout=0.5, dtype=dtype), pool=PoolSettings(kind="pool"))
    trunk = Trunk(backbone, NoNeck() if neck is None else neck, mean, std, dtype)
    return two_stage(trunk, None, Regions({"box": box, **(heads or {})}, sampling, strides))
