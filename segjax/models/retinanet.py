"""RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.retina import RetinaHead, RetinaNetwork, RetinaSettings
from segjax.models.layers.fpn import FPN
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.resnet import ResNet
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model


def retinanet(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    network: nn.Module | None = None,
    settings: RetinaSettings = RetinaSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """RetinaNet. The defaults are torchvision's `retinanet_resnet50_fpn`, but for its output for the background.

    Args:
      classes: number of classes, without background: the head has no output for it. torchvision has one, which no
        object has as its class.
      backbone: a module from normalised images to maps of rising stride; ResNet-50 from stride 8 on, with frozen batch
        norm, by default.
      neck: a module from the backbone's maps to maps of equal channels; by default an `FPN` with two coarser maps made
        from P5. The paper and torchvision's `_v2` make them from C5.
      network: a module from the neck's maps to `RetinaOutputs`; a `RetinaNetwork` by default.
      settings: the numbers of the head. `settings.anchor_sizes` has one entry for each of the neck's maps.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class` and `box`, and `Detections` as predictions.

    Raises:
      ValueError: no class; when it is traced, anchors that do not fit the maps or the network.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    backbone = ResNet(depth=50, stages=(2, 3, 4), dtype=dtype) if backbone is None else backbone
    neck = FPN(extra="convolved", dtype=dtype) if neck is None else neck
    network = RetinaNetwork(classes, settings.per_position, dtype=dtype) if network is None else network
    return single_shot(Trunk(backbone, neck, mean, std, dtype), RetinaHead(network, settings))
