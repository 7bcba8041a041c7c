"""What a recipe says of a grid detector."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.models.gridnet import gridnet
from segjax.models.heads.grid import GridSettings
from segjax.models.heads.grid_network import Distances, GridNetwork
from segjax.models.layers.csp import CSPNet
from segjax.models.layers.fpn import FPN
from segjax.models.layers.norms import NormName
from segjax.models.layers.pan import PAN
from segjax.models.layers.resnet import ResNet
from segjax.models.parts import Module
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class GridNet(Detector):
    """A grid detector on a CSPNet or a ResNet, with a PAN or a feature pyramid between."""

    head: GridSettings = GridSettings()
    backbone: Literal["csp", "resnet"] = "csp"
    csp_channels: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """csp: channels of the stem and of the four stages."""
    csp_blocks: tuple[int, int, int, int] = (1, 2, 2, 1)
    """csp: residual blocks of the four stages."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """resnet: its depth."""
    width: int = 64
    """resnet: channels of its stem."""
    norm: NormName = "batch"
    """Of the backbone."""
    stages: tuple[int, ...] = (2, 3, 4)
    """Stages of the backbone that the neck is built on; stage i has stride 2 ** (i + 1)."""
    neck: Literal["pan", "fpn"] = "pan"
    channels: int = 128
    """Of the neck and of the head."""
    neck_blocks: int = 1
    """pan: blocks wherever two maps are mixed."""
    head_norm: NormName = "batch"
    """Of the neck and of the head."""
    towers: int = 2
    """Convolutions in each of the head's two towers."""
    shared: bool = True
    """Whether all levels go through the same towers."""
    distances: Distances = "exp"
    distance_count: int = 17
    """distribution: the distances from 0 to one less than this, in strides."""
    objectness: bool = False

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        dtype = jnp.dtype(self.dtype)
        backbone: Module
        if self.backbone == "csp":
            backbone = CSPNet(self.csp_channels, self.csp_blocks, self.stages, self.norm, dtype)
        else:
            backbone = ResNet(self.depth, self.norm, self.width, self.stages, dtype=dtype)
        neck: Module
        if self.neck == "pan":
            neck = PAN(self.channels, self.neck_blocks, self.head_norm, dtype)
        else:
            neck = FPN(self.channels, self.head_norm, extra="none", dtype=dtype)
        network = GridNetwork(
            classes,
            self.towers,
            self.shared,
            self.distances,
            self.distance_count,
            self.objectness,
            self.head_norm,
            dtype,
        )
        return gridnet(classes, backbone=backbone, neck=neck, network=network, settings=self.head, dtype=dtype)
