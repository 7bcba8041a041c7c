"""A region proposal network alone (Ren et al. 2016, section 3.1): boxes that may hold objects, of no class."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.rpn import RPNHead, RPNSettings
from segjax.models.layers.fpn import FPN
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.resnet import ResNet
from segjax.models.trunk import Trunk
from segjax.models.two_stage import RegionProposals, two_stage
from segjax.types import Model


def region_proposal_network(
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    rpn_head: nn.Module | None = None,
    rpn: RPNSettings = RPNSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """The first stage of `faster_rcnn` as a model of its own; the arguments are those of `faster_rcnn`.

    Returns:
      A `Model` with the losses `rpn_objectness` and `rpn_box`. Its predictions are the proposals, as `Detections` of
      class 0 whose scores are their objectness.
    """
    backbone = ResNet(depth=50, dtype=dtype) if backbone is None else backbone
    neck = FPN(dtype=dtype) if neck is None else neck
    rpn_head = RPNHead(rpn.per_position, dtype=dtype) if rpn_head is None else rpn_head
    return two_stage(Trunk(backbone, neck, mean, std, dtype), RegionProposals(rpn_head, rpn), None)
