"""What a recipe says of its model: frozen dataclasses with a `build`, one for each family of detectors."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp

from configs.system import System
from segjax.data.source import Source
from segjax.evaluation.evaluator import DetectionCollector
from segjax.models.fast_rcnn import fast_rcnn
from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.heads.box import BoxHead, BoxNetwork, BoxSettings, StageBoxNetwork
from segjax.models.heads.keypoint import KeypointHead, KeypointNetwork
from segjax.models.heads.mask import MaskHead, MaskNetwork
from segjax.models.heads.roi import PoolSettings, RoIHead, SamplingSettings
from segjax.models.heads.rpn import RPNHead, RPNSettings
from segjax.models.layers.fpn import FPN, NoNeck
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.vgg import VGG16
from segjax.models.parts import Module
from segjax.models.rpn import region_proposal_network
from segjax.types import Model, Variables

ONE_MAP = RPNSettings(anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),))
"""Anchors of all sizes on the only map there is."""


@dataclasses.dataclass(frozen=True)
class Detector(System, abc.ABC):
    """What all detectors share: how they are scored."""

    task: ClassVar[str] = "detection"
    multiple: ClassVar[int] = 32

    @property
    def fields(self) -> tuple[str, ...]:
        """What the heads learn from besides boxes and labels: "masks", "keypoints", and names of attributes."""
        return ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What COCO's scores are computed of: "boxes", "masks", "keypoints"."""
        return ("boxes", *(kind for kind in ("masks", "keypoints") if kind in self.fields))

    def scores(self, source: Source, collector: DetectionCollector) -> dict[str, float]:
        """Further scores, of what own heads found; `collector` has all detections of the images evaluated."""
        del source, collector
        return {}


@dataclasses.dataclass(frozen=True)
class RegionDetector(Detector, abc.ABC):
    """What detectors of two stages share."""

    system: Literal["faster_rcnn", "rpn", "fast_rcnn"] = "faster_rcnn"
    """faster_rcnn: both stages, trained jointly. rpn: the region proposal network alone, which knows no classes.
    fast_rcnn: heads alone, on proposals from files (`data.proposals`)."""
    rpn: RPNSettings = RPNSettings()
    sampling: SamplingSettings = SamplingSettings()
    box: BoxSettings = BoxSettings()
    pool: PoolSettings = PoolSettings()
    """Of the box head."""

    @abc.abstractmethod
    def backbone(self) -> Module:
        """From images to maps."""

    @abc.abstractmethod
    def neck(self) -> Module:
        """From the backbone's maps to those that the heads see."""

    @abc.abstractmethod
    def box_network(self, classes: int) -> Module:
        """The network of the box head."""

    def rpn_head(self) -> Module:
        """The network of the region proposals."""
        return RPNHead(self.rpn.per_position, dtype=jnp.dtype(self.dtype))

    def roi_strides(self) -> tuple[int, ...] | None:
        """Strides of the maps that regions are pooled from; None where they are the backbone's."""
        return None

    def heads(self, classes: int, joints: int) -> Mapping[str, RoIHead]:
        """Heads on regions beside the box head: this is what to override to add one's own."""
        del classes, joints
        return {}

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes, whose objects have this many joints."""
        trunk = {"backbone": self.backbone(), "neck": self.neck(), "dtype": jnp.dtype(self.dtype)}
        if self.system == "rpn":
            return region_proposal_network(rpn_head=self.rpn_head(), rpn=self.rpn, **trunk)
        box = BoxHead(self.box_network(classes), settings=self.box, pool=self.pool)
        regions = {
            "heads": {"box": box, **self.heads(classes, joints)},
            "sampling": self.sampling,
            "roi_strides": self.roi_strides(),
        }
        if self.system == "fast_rcnn":
            return fast_rcnn(classes, **trunk, **regions)
        return faster_rcnn(classes, rpn_head=self.rpn_head(), rpn=self.rpn, **trunk, **regions)


@dataclasses.dataclass(frozen=True)
class FasterRCNN(RegionDetector):
    """Faster R-CNN with a ResNet and a feature pyramid; the defaults are torchvision's R50-FPN."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Channels of the backbone's stem; the later stages have 1, 2, 4 and 8 times as many (times 4 in bottlenecks)."""
    stages: tuple[int, ...] = (1, 2, 3, 4)
    """Stages of the backbone that the pyramid is built on; stage i has stride 2 ** (i + 1)."""
    channels: int = 256
    """Channels of the pyramid."""
    hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the box head's hidden layers."""
    box_channels: tuple[int, ...] = ()
    """Channels of convolutions in the box head, before its hidden layers."""
    rpn_depth: int = 1
    """3x3 convolutions before the proposals."""
    head_norm: NormName | None = None
    """Behind each convolution of the pyramid and the heads."""

    def backbone(self) -> Module:
        """A ResNet."""
        return ResNet(self.depth, self.norm, self.width, self.stages, dtype=jnp.dtype(self.dtype))

    def neck(self) -> Module:
        """A feature pyramid."""
        return FPN(self.channels, norm=self.head_norm, dtype=jnp.dtype(self.dtype))

    def rpn_head(self) -> Module:
        """As many convolutions as are asked for."""
        return RPNHead(self.rpn.per_position, self.rpn_depth, dtype=jnp.dtype(self.dtype))

    def box_network(self, classes: int) -> Module:
        """Convolutions, if any, and hidden layers."""
        return BoxNetwork(classes, self.hidden, self.box_channels, self.head_norm, dtype=jnp.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class MaskRCNN(FasterRCNN):
    """Mask R-CNN; the defaults are torchvision's R50-FPN."""

    mask_channels: tuple[int, ...] = (256, 256, 256, 256)
    """Channels of the mask head's convolutions; the transposed one behind them has as many as the last."""
    mask_pool: PoolSettings = PoolSettings(size=14)

    @property
    def fields(self) -> tuple[str, ...]:
        """Masks."""
        return ("masks",)

    def heads(self, classes: int, joints: int) -> Mapping[str, RoIHead]:
        """A mask head."""
        del joints
        channels, dtype = self.mask_channels, jnp.dtype(self.dtype)
        network = MaskNetwork(classes, channels, self.head_norm, upsampled=channels[-1], dtype=dtype)
        return {"mask": MaskHead(network, pool=self.mask_pool, size=2 * self.mask_pool.size)}


@dataclasses.dataclass(frozen=True)
class KeypointRCNN(FasterRCNN):
    """Keypoint R-CNN; the defaults are torchvision's R50-FPN."""

    keypoint_channels: tuple[int, ...] = (512,) * 8
    """Channels of the keypoint head's convolutions."""
    keypoint_pool: PoolSettings = PoolSettings(size=14)

    @property
    def fields(self) -> tuple[str, ...]:
        """Keypoints."""
        return ("keypoints",)

    def heads(self, classes: int, joints: int) -> Mapping[str, RoIHead]:
        """A keypoint head."""
        del classes
        if joints < 1:
            raise ValueError("this model needs data with keypoints; the source names no joints.")
        network = KeypointNetwork(joints, self.keypoint_channels, self.head_norm, dtype=jnp.dtype(self.dtype))
        return {"keypoint": KeypointHead(network, pool=self.keypoint_pool, size=4 * self.keypoint_pool.size)}


@dataclasses.dataclass(frozen=True)
class SingleMapRCNN(RegionDetector):
    """Faster R-CNN on one map of a ResNet, without a pyramid (Ren et al. 2016; He et al. 2016, appendix)."""

    rpn: RPNSettings = ONE_MAP
    pool: PoolSettings = PoolSettings(size=14)
    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Channels of the backbone's stem."""
    form: Literal["c4", "c5"] = "c4"
    """c4: the fourth stage's map, and the last stage on every region. c5: the last stage's map, dilated to stride 16,
    and hidden layers on every region; `pool.size` is then usually 7."""
    hidden: tuple[int, ...] = (1024, 1024)
    """c5: widths of the box head's hidden layers."""

    def backbone(self) -> Module:
        """A ResNet down to stride 16."""
        c5 = self.form == "c5"
        stages = (4,) if c5 else (3,)
        return ResNet(self.depth, self.norm, self.width, stages, dilate_last=c5, dtype=jnp.dtype(self.dtype))

    def neck(self) -> Module:
        """None."""
        return NoNeck()

    def box_network(self, classes: int) -> Module:
        """The ResNet's last stage, or hidden layers."""
        dtype = jnp.dtype(self.dtype)
        if self.form == "c4":
            return StageBoxNetwork(classes, self.depth, self.norm, self.width, dtype=dtype)
        return BoxNetwork(classes, hidden=self.hidden, dtype=dtype)

    def adapted(self, weights: Variables) -> Variables:
        """c4: the last stage is the box head's."""
        if self.form == "c5":
            return weights
        moved = {}
        for collection, parts in weights.items():
            backbone = dict(parts.get("backbone", {}))
            last = {"layer4": backbone.pop("layer4")} if "layer4" in backbone else {}
            moved[collection] = {**parts, "backbone": backbone, "box": {**last, **parts.get("box", {})}}
        return moved


@dataclasses.dataclass(frozen=True)
class VGG16RCNN(RegionDetector):
    """Fast and Faster R-CNN on VGG16 (Girshick 2015; Ren et al. 2016): RoI pooling of one map, two hidden layers."""

    rpn: RPNSettings = ONE_MAP
    pool: PoolSettings = PoolSettings(kind="pool")
    width: int = 64
    """Channels of the first two convolutions; the later ones have 2, 4, 8 and 8 times as many."""
    norm: NormName | None = None
    """Behind each convolution; VGG16 has none, but from random weights it hardly learns without."""
    stage: int = 5
    """The last stage of the backbone, whose map has a stride of 2 ** (stage - 1): 4 for a finer map."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the box head's hidden layers."""
    dropout: float = 0.5

    def backbone(self) -> Module:
        """VGG16's convolutions."""
        return VGG16(norm=self.norm, width=self.width, stages=(self.stage,), dtype=jnp.dtype(self.dtype))

    def neck(self) -> Module:
        """None."""
        return NoNeck()

    def box_network(self, classes: int) -> Module:
        """Hidden layers."""
        return BoxNetwork(classes, hidden=self.hidden, dropout=self.dropout, dtype=jnp.dtype(self.dtype))


@dataclasses.dataclass(frozen=True)
class MobileNetRCNN(RegionDetector):
    """Faster R-CNN on MobileNetV3-Large with a feature pyramid; the defaults are torchvision's."""

    rpn: RPNSettings = RPNSettings(anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),) * 3, score_threshold=0.05)
    norm: NormName = "frozen_batch"
    channels: int = 256
    """Channels of the pyramid."""
    hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the box head's hidden layers."""

    def backbone(self) -> Module:
        """The last two stages, both of stride 32."""
        return MobileNetV3(norm=self.norm, epsilon=1e-5, dtype=jnp.dtype(self.dtype))

    def roi_strides(self) -> tuple[int, ...] | None:
        """Regions of every size come from the first map."""
        return (32,)

    def neck(self) -> Module:
        """A feature pyramid."""
        return FPN(self.channels, dtype=jnp.dtype(self.dtype))

    def box_network(self, classes: int) -> Module:
        """Hidden layers."""
        return BoxNetwork(classes, self.hidden, dtype=jnp.dtype(self.dtype))
