"""What a recipe says of RetinaNet and FCOS: frozen dataclasses with a `build`."""

import abc
import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.models.fcos import fcos
from segjax.models.heads.fcos import FCOSNetwork, FCOSSettings
from segjax.models.heads.pyramid import TowerNorm
from segjax.models.heads.retina import RetinaNetwork, RetinaSettings
from segjax.models.layers.fpn import FPN, Extra
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.parts import Module
from segjax.models.retinanet import retinanet
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class PyramidDetector(Detector, abc.ABC):
    """What dense detectors with a ResNet and a feature pyramid share; the defaults are torchvision's R50-FPN."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Channels of the backbone's stem; the later stages have 1, 2, 4 and 8 times as many (times 4 in bottlenecks)."""
    stages: tuple[int, ...] = (2, 3, 4)
    """Stages of the backbone that the pyramid is built on; stage i has stride 2 ** (i + 1)."""
    channels: int = 256
    """Channels of the pyramid and of the head's towers."""
    extra: Extra = "convolved"
    """Coarser levels of the pyramid: none, or two more, convolved from its last map or (convolved_input) from the
    backbone's; subsampled is one more."""
    tower_depth: int = 4
    """3x3 convolutions before the outputs."""

    def backbone(self) -> Module:
        """A ResNet."""
        return ResNet(self.depth, self.norm, self.width, self.stages, dtype=jnp.dtype(self.dtype))

    def neck(self) -> Module:
        """A feature pyramid."""
        return FPN(self.channels, extra=self.extra, dtype=jnp.dtype(self.dtype))

    def parts(self) -> dict[str, Any]:
        """What the functions of all these models take."""
        return {"backbone": self.backbone(), "neck": self.neck(), "dtype": jnp.dtype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class RetinaNet(PyramidDetector):
    """RetinaNet; the defaults are torchvision's R50-FPN."""

    head: RetinaSettings = RetinaSettings()
    tower_norm: TowerNorm | None = None
    """Behind each convolution of the towers."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        dtype = jnp.dtype(self.dtype)
        network = RetinaNetwork(classes, self.head.per_position, self.tower_depth, self.tower_norm, dtype=dtype)
        return retinanet(classes, network=network, settings=self.head, **self.parts())


@dataclasses.dataclass(frozen=True)
class FCOS(PyramidDetector):
    """FCOS; the defaults are torchvision's R50-FPN."""

    head: FCOSSettings = FCOSSettings()
    tower_norm: TowerNorm | None = "group"
    """Behind each convolution of the towers."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        network = FCOSNetwork(classes, self.tower_depth, self.tower_norm, dtype=jnp.dtype(self.dtype))
        return fcos(classes, network=network, settings=self.head, **self.parts())
