"""SSD: a single-shot detector on priors, on VGG-16 (Liu et al. 2016) and on MobileNetV3 (Howard et al. 2019)."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.ssd import PriorSettings, SSDHead, SSDLiteNetwork, SSDNetwork, SSDSettings
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.norms import NormName
from segjax.models.layers.ssd_vgg import EXTRAS_300, EXTRAS_512, SSDVGG16, ExtraPlan
from segjax.models.layers.ssdlite import SSDLiteMobileNetV3
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model

MEAN, STD = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
"""Of the VGG-16 that SSD starts from, which has seen bytes with their mean taken off."""
LITE_MEAN = LITE_STD = (0.5, 0.5, 0.5)

SETTINGS = SSDSettings()
SSD300_VOC = PriorSettings(scales=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05))
SSD300_COCO = PriorSettings()
_RATIOS_512 = ((2.0,), *4 * ((2.0, 3.0),), (2.0,), (2.0,))
_STEPS_512 = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
SSD512_VOC = PriorSettings((0.07, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05), _RATIOS_512, _STEPS_512)
SSD512_COCO = PriorSettings((0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06), _RATIOS_512, _STEPS_512)
"""The priors of the authors' code, whose scales for COCO are smaller (section 3.4)."""
LITE_PRIORS = PriorSettings((0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0), 6 * ((2.0, 3.0),), ())
LITE_SETTINGS = SSDSettings(score_threshold=0.001, candidates=300, nms_threshold=0.55, detections=300)
"""torchvision's for SSDLite."""


def ssd300(
    classes: int,
    *,
    width: int = 64,
    norm: NormName | None = None,
    priors: PriorSettings = SSD300_COCO,
    settings: SSDSettings = SETTINGS,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """SSD300 on VGG-16, for images of 300 x 300 pixels. The defaults are torchvision's `ssd300_vgg16`.

    Args:
      classes: number of classes, without background.
      width: channels of the first two convolutions; all others are multiples of it.
      norm: behind each convolution of the backbone, which has none in the paper.
      priors: of each map. Those with `steps` are for one size of images. With entries for fewer maps, the coarsest ones
        are left out; then, and without steps, images may be of other sizes.
      settings: the numbers of the head.
      dtype: of convolutions; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class` and `box`, and `Detections` as predictions.

    Raises:
      ValueError: no class, or priors for more maps than there are, or for fewer than two; when it is traced, priors
        that do not fit the images.
    """
    return _on_vgg16(classes, EXTRAS_300, width, norm, priors, settings, dtype)


def ssd512(
    classes: int,
    *,
    width: int = 64,
    norm: NormName | None = None,
    priors: PriorSettings = SSD512_COCO,
    settings: SSDSettings = SETTINGS,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """SSD512 on VGG-16, for images of 512 x 512 pixels: one map more than `ssd300`, otherwise like it."""
    return _on_vgg16(classes, EXTRAS_512, width, norm, priors, settings, dtype)


def _on_vgg16(
    classes: int,
    extras: tuple[ExtraPlan, ...],
    width: int,
    norm: NormName | None,
    priors: PriorSettings,
    settings: SSDSettings,
    dtype: DTypeLike,
) -> Model:
    count = len(priors.ratios)
    if not 2 <= count <= len(extras) + 2:
        raise ValueError(f"priors.ratios has entries for {count} maps; give 2 to {len(extras) + 2} of them.")
    backbone = SSDVGG16(width, norm, extras[: count - 2], dtype)
    return _with_head(classes, backbone, SSDNetwork(classes, priors.per_place, dtype), priors, settings, (MEAN, STD))


def ssdlite320(
    classes: int,
    *,
    width: float = 1.0,
    norm: NormName = "batch",
    priors: PriorSettings = LITE_PRIORS,
    settings: SSDSettings = LITE_SETTINGS,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """SSDLite on MobileNetV3-Large. The defaults are torchvision's `ssdlite320_mobilenet_v3_large`.

    Its norms are trained, the epsilon 1e-3. Images may be of any size.

    Args:
      classes: number of classes, without background.
      width: factor of all numbers of channels.
      norm: behind each convolution but the last ones.
      priors: of each of the six maps.
      settings: the numbers of the head.
      dtype: of convolutions; boxes, losses and scores are float32 always.

    Returns, Raises: as `ssd300`.
    """
    backbone = SSDLiteMobileNetV3(width, norm, dtype=dtype)
    network = SSDLiteNetwork(classes, priors.per_place, norm, dtype)
    return _with_head(classes, backbone, network, priors, settings, (LITE_MEAN, LITE_STD))


def _with_head(classes, backbone: nn.Module, network: nn.Module, priors, settings, statistics) -> Model:
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    trunk = Trunk(backbone, NoNeck(), *statistics, backbone.dtype)
    return single_shot(trunk, SSDHead(network, priors, settings))
