"""Mask R-CNN (He et al. 2017): Faster R-CNN with a mask for every detection."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.heads.mask import MaskHead, MaskNetwork
from segjax.models.heads.roi import RoIHead
from segjax.types import Model


def mask_rcnn(
    classes: int,
    *,
    heads: Mapping[str, RoIHead] | None = None,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Model:
    """`faster_rcnn` with a mask head. The defaults are torchvision's `maskrcnn_resnet50_fpn`.

    Args:
      classes: number of classes, without background.
      heads: further heads, or others in the place of "box" and "mask".
      **options: as `faster_rcnn` takes them.

    Returns:
      A `Model` with the further loss `mask`, trained on `Instances.masks`; its `Detections` have `masks`.
    """
    mask = MaskHead(MaskNetwork(classes, dtype=dtype))
    return faster_rcnn(classes, heads={"mask": mask, **(heads or {})}, dtype=dtype, **options)
