"""SPP-net (He et al. 2014): the convolutions see an image once, and regions are pooled from it by a spatial pyramid."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.box import BoxSettings
from segjax.models.heads.region import RegionHead, RegionNetwork, Says
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.vgg import VGG16
from segjax.models.rcnn import SCORES
from segjax.models.trunk import Trunk
from segjax.models.two_stage import Regions, two_stage
from segjax.types import Model

PYRAMID = PoolSettings(kind="pyramid")
SAMPLING = SamplingSettings(negatives=(0.1, 0.5), samples=128)
"""Section 4.3: a quarter of IoU 0.5 and more with an object, the others from 0.1 to 0.5."""


def sppnet(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
    unit_logits: bool = False,
    says: Says = "softmax",
    pool: PoolSettings = PYRAMID,
    sampling: SamplingSettings = SAMPLING,
    settings: BoxSettings = SCORES,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """SPP-net on proposals that come with the images, at one scale of the image.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised images to one map, with its `strides`; VGG16 by default. The paper does not
        train it further: freeze "backbone".
      pool: the pyramid; the paper's by default.
      hidden, dropout, unit_logits, says, sampling, settings, mean, std: as in `segjax.models.rcnn.rcnn`.

    Returns:
      A `Model` with the loss `class`. Its batches carry `proposals`, and so does `predict`. Its SVMs and ridge
      regression are at `params/box/svm` and `params/box/ridge`.

    Raises:
      ValueError: there is no class, or `pool` is of another kind.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    if pool.kind != "pyramid":
        raise ValueError(f"pool.kind is {pool.kind!r}; SPP-net pools over several grids, which is 'pyramid'.")
    backbone = VGG16(dtype=dtype) if backbone is None else backbone
    network = RegionNetwork(classes, hidden, dropout, linear=says == "svm", unit_logits=unit_logits, dtype=dtype)
    head = RegionHead(network, settings, pool, says)
    trunk = Trunk(backbone, NoNeck(), mean, std, dtype)
    return two_stage(trunk, None, Regions({"box": head}, sampling, tuple(backbone.strides)))
