"""What a recipe says of DeepPose: a frozen dataclass with a `build`."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp

from configs.detectors import Detector
from segjax.data.source import Source
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.pck import pose_scores
from segjax.models.layers.alexnet import AlexNet, AlexNetClassifier
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.vgg import VGG16
from segjax.models.parts import Module
from segjax.models.pose import PoseSettings, pose_regression
from segjax.types import Model, Variables


@dataclasses.dataclass(frozen=True)
class DeepPose(Detector):
    """DeepPose (Toshev and Szegedy 2014): one pose an image. The defaults are the paper's first stage.

    Images must show one person each: crop to them with `data.crops`.
    """

    multiple: ClassVar[int] = 1
    form: Literal["alexnet", "resnet", "vgg16"] = "alexnet"
    """Of the backbone."""
    norm: NormName | None = None
    """Behind each convolution. The paper's has local response normalisation. resnet: not None."""
    width: float = 1.0
    """Factor of the numbers of channels of the backbone."""
    depth: Literal[18, 34, 50, 101, 152] = 50
    """resnet: its layers."""
    stage: int = 4
    """resnet: the last stage, whose map is taken; stage i has stride 2 ** (i + 1)."""
    crop_stage: int | None = None
    """resnet: the same of later stages' networks, whose images are smaller; `stage` where None."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the fully connected layers before the last."""
    dropout: float = 0.6
    """Of the inputs of each hidden layer."""
    pooled: int = 6
    """Positions along each side of the map that the first hidden layer sees."""
    crop_pooled: int = 6
    """The same of later stages."""
    pose: PoseSettings = PoseSettings()
    alphas: tuple[float, ...] = (0.2, 0.5)
    """Shares of the torso, or of the box's larger side, within which a joint counts as found."""
    untrained: ClassVar[tuple[str, ...]] = ("alphas",)

    @property
    def fields(self) -> tuple[str, ...]:
        """Keypoints."""
        return ("keypoints",)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Keypoints alone: boxes are given."""
        return ("keypoints",)

    def scores(self, source: Source, collector: DetectionCollector) -> dict[str, float]:
        """Shares of correct joints and the mean OKS."""
        del source
        return pose_scores(collector, alphas=self.alphas)

    def backbone(self, stage: int) -> Module:
        """From what a stage sees to one map, that of a ResNet's `stage`."""
        dtype = jnp.dtype(self.dtype)
        if self.form == "alexnet":
            return AlexNet(self.norm, self.width, dtype=dtype)
        if self.form == "vgg16":
            return VGG16(self.norm, round(64 * self.width), dtype=dtype)
        if self.norm is None:
            raise ValueError("model.norm is None, and a ResNet has norms: choose one for model.form 'resnet'.")
        return ResNet(self.depth, self.norm, round(64 * self.width), (stage,), dtype=dtype)

    def head(self, joints: int, pooled: int) -> Module:
        """From the map to two numbers a joint: AlexNet's fully connected layers."""
        return AlexNetClassifier(2 * joints, self.hidden, self.dropout, pooled, dtype=jnp.dtype(self.dtype))

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for objects that have this many joints."""
        del classes
        if joints < 1:
            raise ValueError("this model needs data with keypoints; the source names no joints.")
        return pose_regression(
            joints,
            backbone=self.backbone(self.stage),
            head=self.head(joints, self.pooled),
            crop_backbone=self.backbone(self.crop_stage or self.stage),
            crop_head=self.head(joints, self.crop_pooled),
            settings=self.pose,
            dtype=jnp.dtype(self.dtype),
        )

    def adapted(self, weights: Variables) -> Variables:
        """The hidden layers of AlexNet's classifier are the first stage's; its logits are of other things.

        torchvision's first hidden layer fits where `pooled` is 6.
        """
        params = dict(weights.get("params", {}))
        if "classifier" not in params:
            return weights
        hidden = {name: layer for name, layer in params.pop("classifier").items() if name != "logits"}
        return {**weights, "params": {**params, "head": {**hidden, **params.get("head", {})}}}
