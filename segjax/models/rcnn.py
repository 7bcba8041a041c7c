"""R-CNN (Girshick et al. 2014): each region of an image is warped to one size and run through a network of its own."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.box import BoxSettings
from segjax.models.heads.region import RegionHead, RegionNetwork, Says
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.pixels import Pixels
from segjax.models.layers.vgg import VGG16
from segjax.models.trunk import Trunk
from segjax.models.two_stage import Regions, two_stage
from segjax.types import Model

WARP = PoolSettings(kind="warp", size=227, context=16, chunk=16)
"""Appendix A: 227 pixels, 16 of them on each side showing what is around the region."""
PAPER = SamplingSettings(samples=128)
"""Section 2.3: 128 regions, a quarter of IoU 0.5 and more with an object, the others background."""
SCORES = BoxSettings(nms_threshold=0.3, weights=(1.0, 1.0, 1.0, 1.0))
"""The authors' NMS, and the deltas of appendix C."""


def rcnn(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    halve: bool | None = None,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
    unit_logits: bool = False,
    says: Says = "softmax",
    pool: PoolSettings = WARP,
    sampling: SamplingSettings = PAPER,
    settings: BoxSettings = SCORES,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """R-CNN on proposals that come with the images.

    The network of a region is the part "box": its backbone is at `params/box/backbone`, its SVMs and ridge regression
    at `params/box/svm` and `params/box/ridge`.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised pixels to one map; VGG16 by default.
      halve: as in `RegionNetwork`; by default for VGG16 alone.
      hidden, dropout: widths of the hidden layers, and the share of units left out behind each in training.
      unit_logits: as in `RegionNetwork`: for narrow networks from random weights.
      says: what `predict` says of regions; training is the same for all.
      pool: how regions are warped; its `chunk` bounds the memory.
      sampling: which regions of an image fine-tuning sees; the ground truth is always among them.
      settings: of the detections.
      mean, std: what images are normalised by. Outside the image regions show the mean.

    Returns:
      A `Model` with the loss `class`. Its batches carry `proposals`, and so does `predict`.

    Raises:
      ValueError: there is no class, or `pool` is of another kind.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    if pool.kind != "warp":
        raise ValueError(f"pool.kind is {pool.kind!r}; R-CNN warps pixels, which is 'warp'.")
    halve = backbone is None or isinstance(backbone, VGG16) if halve is None else halve
    backbone = VGG16(dtype=dtype) if backbone is None else backbone
    network = RegionNetwork(
        classes, hidden, dropout, backbone, halve, linear=says == "svm", unit_logits=unit_logits, dtype=dtype
    )
    head = RegionHead(network, settings, pool, says)
    trunk = Trunk(Pixels(), NoNeck(), mean, std, dtype)
    return two_stage(trunk, None, Regions({"box": head}, sampling, (1,)))
