"""What a recipe says of YOLO: a frozen dataclass with a `build`."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from configs.data import Data
from configs.detectors import Detector
from segjax.data.cells import objects_without_cell
from segjax.data.source import Source
from segjax.models.heads.yolo import YOLOSettings
from segjax.models.layers.darknet import DETECTION, Darknet, Layer
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.parts import Module
from segjax.models.yolo import yolo_v1
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class YOLOv1(Detector):
    """YOLO, first version (Redmon et al. 2016); the defaults are the paper's, with batch norm.

    The data must have one bucket: the fully connected layers are made for one size of images.
    """

    form: Literal["yolo", "fast", "resnet"] = "yolo"
    """Of the backbone. yolo: the paper's first twenty convolutions, stride 32; fast: Fast YOLO's nine, stride 64."""
    norm: NormName | None = "batch"
    """Behind each convolution. The paper has none; from random weights it hardly learns without. resnet: not None."""
    width: float = 1.0
    """Factor of the numbers of channels of the backbone."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """resnet: its layers."""
    stage: int = 4
    """resnet: the last stage, whose map is taken; stage i has stride 2 ** (i + 1)."""
    convolutions: tuple[tuple[int, int], ...] = tuple((layer.channels, layer.stride) for layer in DETECTION)
    """(channels, stride) of the 3x3 convolutions behind the backbone."""
    hidden: tuple[int, ...] = (4096,)
    """Widths of the fully connected layers before the last."""
    dropout: float = 0.5
    """Of the last hidden layer."""
    grid: int = 7
    """Cells along each side of the image; each finds one object at most."""
    boxes: int = 2
    """Predictors of each cell."""
    yolo: YOLOSettings = YOLOSettings()

    def backbone(self) -> Module:
        """From images to one map."""
        dtype = jnp.dtype(self.dtype)
        if self.form != "resnet":
            return Darknet(self.form, self.norm, self.width, dtype=dtype)
        if self.norm is None:
            raise ValueError("model.norm is None, and a ResNet has norms: choose one for model.form 'resnet'.")
        return ResNet(self.depth, self.norm, round(64 * self.width), (self.stage,), dtype=dtype)

    def left_out(self, source: Source, data: Data) -> dict[str, int]:
        """Objects whose cell has a larger one."""
        count = objects_without_cell(source, grid=self.grid, buckets=data.buckets, stretch=data.stretch)
        return {"objects without a cell": count}

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        return yolo_v1(
            classes,
            grid=self.grid,
            boxes=self.boxes,
            backbone=self.backbone(),
            convolutions=tuple(Layer(channels, stride=stride) for channels, stride in self.convolutions),
            hidden=self.hidden,
            dropout=self.dropout,
            norm=self.norm,
            settings=self.yolo,
            dtype=jnp.dtype(self.dtype),
        )
