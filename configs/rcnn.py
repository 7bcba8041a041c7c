"""What a recipe says of R-CNN and SPP-net, which are trained in stages (`train/region_stages.py`)."""

import abc
import dataclasses
from typing import Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.fitting.linear_svm import SVMSettings
from segjax.fitting.ridge import RidgeSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.region import Says
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.layers.alexnet import AlexNet
from segjax.models.layers.norms import NormName
from segjax.models.layers.vgg import VGG16
from segjax.models.parts import Module
from segjax.models.rcnn import PAPER, SCORES, WARP, rcnn
from segjax.models.sppnet import PYRAMID, SAMPLING, sppnet
from segjax.types import Model, Variables


@dataclasses.dataclass(frozen=True)
class RegionClassifier(Detector, abc.ABC):
    """What R-CNN and SPP-net share: a backbone, hidden layers on regions, and what is made of these after training."""

    says: Says = "svm"
    """svm: all stages; the detector is the last one's. softmax: fine-tuning alone, an ordinary run. features: for the
    stages' own use."""
    network: Literal["vgg16", "alexnet"] = "vgg16"
    """alexnet has no padding in its poolings: cells of its map, on which SPP-net pools, lie half a cell (7.5 pixels)
    further to the right and below than regions are taken to."""
    width: float = 1.0
    """Factor of the numbers of channels of the network."""
    stage: int = 5
    """vgg16: the last stage, whose map has a stride of 2 ** (stage - 1)."""
    norm: NormName | None = None
    """Behind each convolution; from random weights they hardly learn without."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the hidden layers."""
    dropout: float = 0.5
    unit_logits: bool = False
    """Start with logits of about unit size, as narrow networks from random weights need."""
    sampling: SamplingSettings = PAPER
    box: BoxSettings = SCORES
    pretrain_steps: int = 0
    """Steps of an R-CNN on this backbone before fine-tuning, where there are no weights to start from: in the place of
    the papers' classification of ImageNet."""
    pretrain_pool: PoolSettings = WARP
    """How that R-CNN sees regions."""
    pretrain_sampling: SamplingSettings = PAPER
    """Which regions it sees."""
    cache: Literal["float16", "float32"] = "float16"
    """What the regions' features are kept in on disk."""
    svm: SVMSettings = SVMSettings()
    ridge: RidgeSettings = RidgeSettings()

    def backbone(self) -> Module:
        """From images, or from regions, to one map."""
        dtype = jnp.dtype(self.dtype)
        if self.network == "alexnet":
            return AlexNet(self.norm, self.width, pool=self.pool.kind == "warp", dtype=dtype)
        return VGG16(norm=self.norm, width=round(64 * self.width), stages=(self.stage,), dtype=dtype)

    def adapted(self, weights: Variables) -> Variables:
        """The hidden layers of AlexNet's classifier are those on regions; VGG16's come as such."""
        params = weights.get("params", {})
        if "classifier" not in params:
            return weights
        hidden = {name: layer for name, layer in params["classifier"].items() if name != "logits"}
        others = {name: tree for name, tree in params.items() if name != "classifier"}
        return {**weights, "params": {**others, "box": {**params.get("box", {}), **hidden}}}

    def options(self) -> dict:
        """What both models are built from."""
        return {
            "backbone": self.backbone(),
            "hidden": self.hidden,
            "dropout": self.dropout,
            "unit_logits": self.unit_logits,
            "says": self.says,
            "pool": self.pool,
            "sampling": self.sampling,
            "settings": self.box,
            "dtype": jnp.dtype(self.dtype),
        }


@dataclasses.dataclass(frozen=True)
class RCNN(RegionClassifier):
    """R-CNN; the defaults are the paper's, on VGG16."""

    pool: PoolSettings = WARP

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        return rcnn(classes, **self.options())

    def adapted(self, weights: Variables) -> Variables:
        """The backbone is part of the network of a region."""
        moved = {}
        for collection, parts in super().adapted(weights).items():
            box = {**parts.get("box", {}), **({"backbone": parts["backbone"]} if "backbone" in parts else {})}
            moved[collection] = {name: tree for name, tree in parts.items() if name != "backbone"} | {"box": box}
        return moved


@dataclasses.dataclass(frozen=True)
class SPPNet(RegionClassifier):
    """SPP-net; the defaults are the paper's, on VGG16. Recipes freeze "backbone", as the paper does."""

    sampling: SamplingSettings = SAMPLING
    pool: PoolSettings = PYRAMID

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        return sppnet(classes, **self.options())
