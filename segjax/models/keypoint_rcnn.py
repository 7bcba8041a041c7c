"""Mask R-CNN for human pose (He et al. 2017, section 5): Faster R-CNN with the joints of every detection."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.heads.keypoint import KeypointHead, KeypointNetwork
from segjax.models.heads.roi import RoIHead
from segjax.types import Model


def keypoint_rcnn(
    classes: int = 1,
    *,
    joints: int = 17,
    heads: Mapping[str, RoIHead] | None = None,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Model:
    """`faster_rcnn` with a keypoint head. The defaults are torchvision's `keypointrcnn_resnet50_fpn`.

    Args:
      classes: number of classes, without background; all of them have the same joints.
      joints: of each object.
      heads: further heads, or others in the place of "box" and "keypoint".
      **options: as `faster_rcnn` takes them.

    Returns:
      A `Model` with the further loss `keypoint`, trained on `Instances.keypoints`; its `Detections` have `keypoints`.
    """
    if joints < 1:
        raise ValueError(f"joints is {joints}; a keypoint head needs at least one: read data that has keypoints.")
    keypoint = KeypointHead(KeypointNetwork(joints, dtype=dtype))
    return faster_rcnn(classes, heads={"keypoint": keypoint, **(heads or {})}, dtype=dtype, **options)
