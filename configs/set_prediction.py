"""What a recipe says of detectors that predict a set, DETR and slots: frozen dataclasses with a `build`."""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.data.source import Source
from segjax.evaluation.by_count import scores_by_count
from segjax.evaluation.evaluator import DetectionCollector
from segjax.models.detr import DETRNetwork, detr
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.transformer import Transformer
from segjax.models.parts import Module
from segjax.models.set_prediction import SetSettings
from segjax.models.slots import SLOTS, SlotNetwork, slot_detector
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class SetDetector(Detector, abc.ABC):
    """What they share: one map of a ResNet."""

    multiple: ClassVar[int] = 1
    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Channels of the backbone's stem."""
    stage: int = 4
    """The last stage, whose map is taken; stage i has stride 2 ** (i + 1)."""
    dilate_last: int = 0
    """Stages at the end that keep the resolution, by dilation; 1 makes DETR-DC5."""

    def backbone(self) -> Module:
        """A ResNet."""
        options = {"stages": (self.stage,), "dilate_last": self.dilate_last, "dtype": jnp.dtype(self.dtype)}
        return ResNet(self.depth, self.norm, self.width, **options)

    def scores(self, source: Source, collector: DetectionCollector) -> dict[str, float]:
        """Those of images with few, more and many objects, and how well these are counted."""
        del source
        return scores_by_count(collector)


@dataclasses.dataclass(frozen=True)
class DETR(SetDetector):
    """DETR; the defaults are those of its authors' `detr_resnet50`."""

    queries: int = 100
    """Predictions of an image; there can be no more objects in one (`data.capacity`)."""
    channels: int = 256
    """Width of the transformer, a multiple of 4 and of `heads`."""
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    hidden: int = 2048
    """Units between the two matrices behind each attention."""
    dropout: float = 0.1
    sets: SetSettings = SetSettings()

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        dtype = jnp.dtype(self.dtype)
        names = ("encoder_layers", "decoder_layers", "heads", "hidden", "dropout")
        transformer = Transformer(**{name: getattr(self, name) for name in names}, dtype=dtype)
        network = DETRNetwork(classes, transformer, self.queries, self.channels, dtype)
        return detr(classes, backbone=self.backbone(), network=network, settings=self.sets, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Slots(SetDetector):
    """Detection as regression: slots of fully connected layers, in a fixed order of the objects or matched."""

    slots: int = 20
    """Predictions of an image; there can be no more objects in one (`data.capacity`)."""
    channels: int = 64
    """To which a 1x1 convolution brings the backbone's map."""
    grid: int = 5
    """Parts along each side of the image, of whose means the hidden layers are made."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the fully connected layers before the last."""
    dropout: float = 0.0
    """Of the last hidden layer."""
    sets: SetSettings = SLOTS

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        dtype = jnp.dtype(self.dtype)
        network = SlotNetwork(classes, self.slots, self.channels, self.grid, self.hidden, self.dropout, dtype=dtype)
        return slot_detector(classes, backbone=self.backbone(), network=network, settings=self.sets, dtype=dtype)
