"""FCOS (Tian et al. 2019, "Fully convolutional one-stage object detection"), with what its authors changed in 2020."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.fcos import FCOSHead, FCOSNetwork, FCOSSettings
from segjax.models.layers.fpn import FPN
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.resnet import ResNet
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model


def fcos(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    network: nn.Module | None = None,
    settings: FCOSSettings = FCOSSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """FCOS. The defaults are torchvision's `fcos_resnet50_fpn`, but for its output for the background.

    Args:
      classes: number of classes, without background: the head has no output for it. torchvision has one, which no
        object has as its class.
      backbone: a module from normalised images to maps of rising stride; ResNet-50 from stride 8 on, with frozen batch
        norm, by default.
      neck: a module from the backbone's maps to maps of equal channels; by default an `FPN` with two coarser maps made
        from P5.
      network: a module from the neck's maps to `FCOSOutputs`; an `FCOSNetwork` by default.
      settings: the numbers of the head. `settings.units` has one entry for each of the neck's maps.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class`, `box` and `centerness`, and `Detections` as predictions.

    Raises:
      ValueError: no class; when it is traced, units that do not fit the maps.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    backbone = ResNet(depth=50, stages=(2, 3, 4), dtype=dtype) if backbone is None else backbone
    neck = FPN(extra="convolved", dtype=dtype) if neck is None else neck
    network = FCOSNetwork(classes, dtype=dtype) if network is None else network
    return single_shot(Trunk(backbone, neck, mean, std, dtype), FCOSHead(network, settings))
