"""A single-shot detector without anchors, of our own composition, whose assignment follows its predictions."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.grid import GridHead, GridSettings
from segjax.models.heads.grid_network import GridNetwork
from segjax.models.layers.csp import CSPNet
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.pan import PAN
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model


def gridnet(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    network: nn.Module | None = None,
    strides: tuple[int, ...] | None = None,
    settings: GridSettings = GridSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A grid detector: every point of every map predicts a class and the four sides of a box.

    A cross-stage partial network (Wang et al. 2020) and a path aggregation network (Liu et al. 2018), a decoupled head
    (Ge et al. 2021), task-aligned assignment (Feng et al. 2021) or SimOTA, and the complete-IoU loss (Zheng et al.
    2020). The defaults are those of the papers; docs/results.md has what has been measured of them.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised images to maps of rising stride, with a `strides` attribute; a `CSPNet` with
        maps of stride 8, 16 and 32 by default.
      neck: a module from the backbone's maps to maps of equal channels; a `PAN` by default.
      network: a module from the neck's maps to `GridOutputs`; a `GridNetwork` by default.
      strides: of the neck's maps; the backbone's by default. An `FPN` with coarser maps of its own has more.
      settings: the numbers of the head.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class` and `box`, `distribution` where boxes are distributions and `objectness` where
      there is such, and `Detections` as predictions.

    Raises:
      ValueError: no class, or settings that there are none of; when it is traced, strides that are not the maps'.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one class.")
    backbone = CSPNet(dtype=dtype) if backbone is None else backbone
    neck = PAN(dtype=dtype) if neck is None else neck
    network = GridNetwork(classes, dtype=dtype) if network is None else network
    head = GridHead(network, tuple(backbone.strides) if strides is None else strides, settings)
    return single_shot(Trunk(backbone, neck, mean, std, dtype), head)
