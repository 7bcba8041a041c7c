"""What a recipe says of classification with localization: a frozen dataclass with a `build`."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.data.source import Source
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.localization import localization_scores
from segjax.models.layers.alexnet import POOLED, AlexNet
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.localizer import localizer
from segjax.models.parts import Module
from segjax.types import Model, Variables


@dataclasses.dataclass(frozen=True)
class Localizer(Detector):
    """Classification and localization of an image's main object; the defaults are AlexNet's (Krizhevsky 2014).

    For data with `main_object`. Without, it trains on the largest object of each image all the same, and COCO's scores
    ask for all of them.
    """

    multiple: ClassVar[int] = 1
    untrained: ClassVar[tuple[str, ...]] = ("guesses",)
    form: Literal["alexnet", "resnet"] = "alexnet"
    """Of the backbone."""
    norm: NormName | None = None
    """Behind each convolution. AlexNet has none; from random weights it hardly learns without. resnet: not None."""
    width: float = 1.0
    """Factor of the numbers of channels of the backbone."""
    depth: Literal[18, 34, 50, 101, 152] = 18
    """resnet: its layers."""
    stage: int = 4
    """resnet: the last stage, whose map is taken; stage i has stride 2 ** (i + 1)."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the hidden layers that class and box share."""
    dropout: float = 0.5
    """Of the inputs of each hidden layer."""
    pooled: int = POOLED
    """Positions along each side of the map that the first hidden layer sees."""
    per_class: bool = False
    """A box for each class, of which only the true one's is trained, in place of one for all."""
    guesses: int = 1
    """Detections an image, of its most probable classes; ILSVRC allows 5."""

    def backbone(self) -> Module:
        """From images to one map."""
        dtype = jnp.dtype(self.dtype)
        if self.form == "alexnet":
            return AlexNet(self.norm, self.width, dtype=dtype)
        if self.norm is None:
            raise ValueError("model.norm is None, and a ResNet has norms: choose one for model.form 'resnet'.")
        return ResNet(self.depth, self.norm, round(64 * self.width), (self.stage,), dtype=dtype)

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        names = ("hidden", "dropout", "pooled", "per_class", "guesses")
        options = {name: getattr(self, name) for name in names}
        return localizer(classes, backbone=self.backbone(), dtype=jnp.dtype(self.dtype), **options)

    def adapted(self, weights: Variables) -> Variables:
        """The classifier's layers are the head's, its logits the class layer."""
        params = dict(weights.get("params", {}))
        if "classifier" not in params:
            return weights
        hidden = dict(params.pop("classifier"))
        logits = {"class": hidden.pop("logits")} if "logits" in hidden else {}
        return {**weights, "params": {**params, "head": {"hidden": hidden, **logits, **params.get("head", {})}}}

    def scores(self, source: Source, collector: DetectionCollector) -> dict[str, float]:
        """ILSVRC's: the share of images whose class is right, and of those where the box is too."""
        del source
        return localization_scores(collector, guesses=self.guesses)
