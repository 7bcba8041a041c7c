"""Faster R-CNN (Ren et al. 2016) on a feature pyramid (Lin et al. 2017) or a single map, with any heads on regions."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.box import BoxHead, BoxNetwork
from segjax.models.heads.roi import RoIHead, SamplingSettings
from segjax.models.heads.rpn import RPNHead, RPNSettings
from segjax.models.layers.fpn import FPN
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.resnet import ResNet
from segjax.models.trunk import Trunk
from segjax.models.two_stage import RegionProposals, Regions, two_stage
from segjax.types import Model


def faster_rcnn(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    rpn_head: nn.Module | None = None,
    heads: Mapping[str, RoIHead] | None = None,
    rpn: RPNSettings = RPNSettings(),
    sampling: SamplingSettings = SamplingSettings(),
    roi_strides: tuple[int, ...] | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Faster R-CNN, trained jointly. The defaults are torchvision's `fasterrcnn_resnet50_fpn`.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised images to maps of rising stride, with a `strides` attribute; ResNet-50 with
        frozen batch norm by default.
      neck: a module from the backbone's maps to maps of equal channels; an `FPN` by default, which adds a coarser one.
        `NoNeck` leaves the backbone's single map as it is.
      rpn_head: a module from the neck's maps to `RPNOutputs`; an `RPNHead` by default.
      heads: heads on regions by name, called in this order. They are added to the box head, called "box", unless one
        of them has that name: `heads={"mask": MaskHead(...)}` makes Mask R-CNN.
      rpn: the numbers of the first stage. `rpn.anchor_sizes` has one entry for each of the neck's maps.
      sampling: which regions the heads are trained on.
      roi_strides: strides of those of the neck's maps, from the first on, that regions are pooled from; the backbone's
        strides by default. They must double from map to map.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `rpn_objectness`, `rpn_box`, `class` and `box` and those of further heads, and
      `Detections` as predictions. Image sides should be multiples of the largest stride, as the data pipeline makes
      them.

    Raises:
      ValueError: no class, or a head whose name is taken; when it is traced, anchors that do not fit the maps.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    backbone = ResNet(depth=50, dtype=dtype) if backbone is None else backbone
    strides = tuple(backbone.strides) if roi_strides is None else roi_strides
    neck = FPN(dtype=dtype) if neck is None else neck
    rpn_head = RPNHead(rpn.per_position, dtype=dtype) if rpn_head is None else rpn_head
    box = BoxHead(BoxNetwork(classes, dtype=dtype))
    trunk = Trunk(backbone, neck, mean, std, dtype)
    regions = Regions({"box": box, **(heads or {})}, sampling, strides)
    return two_stage(trunk, RegionProposals(rpn_head, rpn), regions)
