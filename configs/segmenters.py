"""What a recipe says of a model of semantic segmentation: frozen dataclasses with a `build`, one for each family."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from configs.system import System
from segjax.models.deeplab import deeplabv3
from segjax.models.fcn import fcn, fcn_vgg16
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.models.lraspp import lraspp
from segjax.models.parts import Module
from segjax.models.segmenter import PixelLoss
from segjax.types import Model, Variables


@dataclasses.dataclass(frozen=True)
class Segmenter(System, abc.ABC):
    """What models of semantic segmentation share."""

    task: ClassVar[str] = "segmentation"
    untrained: ClassVar[tuple[str, ...]] = ("clean_up",)
    loss: PixelLoss = PixelLoss()
    clean_up: Literal["", "felzenszwalb", "slic", "mean_shift"] = ""
    """Score label maps cleaned up by the superpixels of this method (`segjax.superpixels`) too."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Label maps."""
        return ("label_map",)


@dataclasses.dataclass(frozen=True)
class ResNetSegmenter(Segmenter, abc.ABC):
    """What models on a dilated ResNet share; the defaults are torchvision's."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "batch"
    width: int = 64
    """Channels of the backbone's stem; the later stages have 1, 2, 4 and 8 times as many (times 4 in bottlenecks)."""
    dilate_last: int = 2
    """Stages, of the last, whose stride is a dilation instead: 2 for maps of stride 8, 1 for 16, 0 for 32."""
    head_norm: NormName = "batch"
    auxiliary: bool = True
    """A second head, on the map before the last, that learns and does not predict; its factor is `loss.further`."""

    def backbone(self) -> Module:
        """A ResNet, its last two maps."""
        return ResNet(self.depth, self.norm, self.width, (3, 4), self.dilate_last, dtype=jnp.dtype(self.dtype))

    def options(self) -> dict[str, Any]:
        """What the functions of all these models take."""
        own = {"backbone": self.backbone(), "norm": self.head_norm, "auxiliary": self.auxiliary}
        return {**own, "loss": self.loss, "dtype": jnp.dtype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class FCNResNet(ResNetSegmenter):
    """FCN on a dilated ResNet; the defaults are torchvision's R50."""

    dropout: tuple[float, float] = (0.1, 0.1)
    """Of the head and of the auxiliary one."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        return fcn(classes, dropout=self.dropout, **self.options())


@dataclasses.dataclass(frozen=True)
class DeepLabV3(ResNetSegmenter):
    """DeepLabV3 on a dilated ResNet; the defaults are torchvision's R50."""

    rates: tuple[int, ...] = (12, 24, 36)
    """Dilations of the parallel convolutions, in cells of the last map."""
    channels: int = 256
    """Of each of them."""
    dropout: tuple[float, float] = (0.5, 0.1)
    """Of the head and of the auxiliary one."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        head = {"rates": self.rates, "channels": self.channels, "dropout": self.dropout}
        return deeplabv3(classes, **head, **self.options())


@dataclasses.dataclass(frozen=True)
class LRASPP(Segmenter):
    """Lite R-ASPP on MobileNetV3; the defaults are torchvision's."""

    size: Literal["large", "small"] = "large"
    norm: NormName = "batch"
    width: float = 1.0
    """Factor of all numbers of channels of the backbone."""
    dilated: bool = True
    """The last stride of the backbone is a dilation instead: its last map has stride 16."""
    channels: int = 128
    """Of the projection of the last map."""
    head_norm: NormName = "batch"

    def backbone(self) -> Module:
        """A MobileNetV3, its maps of stride 8 and 16 or 32."""
        options = {"dilated": self.dilated, "stages": (2, 5), "dtype": jnp.dtype(self.dtype)}
        return MobileNetV3(self.size, self.norm, self.width, **options)

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        options = {"norm": self.head_norm, "loss": self.loss, "dtype": jnp.dtype(self.dtype)}
        return lraspp(classes, backbone=self.backbone(), channels=self.channels, **options)


@dataclasses.dataclass(frozen=True)
class FCNVGG16(Segmenter):
    """FCN-32s, 16s and 8s on VGG16 (Long et al. 2015)."""

    stride: Literal[32, 16, 8] = 8
    """Of the finest map that has a say. Each finer net starts from a run of the coarser one: `--start.runs`."""
    width: int = 64
    """Channels of the first two convolutions; the later ones have 2, 4, 8 and 8 times as many."""
    norm: NormName | None = None
    """Behind each convolution; VGG16 has none, but from random weights it hardly learns without."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Channels of the classifier's hidden layers, which are convolutions here."""
    dropout: float = 0.5
    skip_scales: tuple[float, float] = (1.0, 1.0)
    """Factors of the fourth and the third stage's map; (1e-2, 1e-4) trains FCN-8s from VGG16 all at once."""
    learn_last: bool = False
    """Whether the last upsampling is learnt too."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        names = ("stride", "width", "norm", "hidden", "dropout", "skip_scales", "learn_last", "loss")
        return fcn_vgg16(classes, **{name: getattr(self, name) for name in names}, dtype=jnp.dtype(self.dtype))

    def adapted(self, weights: Variables) -> Variables:
        """The hidden layers of a classifier, which "vgg16" has for a box head, as convolutions: the first one's rows
        are the 7 x 7 cells of a map, row by row, with all channels of each. A box head of other cells has no place."""
        params = dict(weights.get("params", {}))
        layers = dict(params.pop("box", {}))
        for name, kernel in (("fc6", 7), ("fc7", 1)):
            if name in layers and layers[name]["kernel"].shape[0] % kernel**2 == 0:
                dense = layers[name]["kernel"]
                layers[name] = {**layers[name], "kernel": dense.reshape(kernel, kernel, -1, dense.shape[-1])}
        layers |= params.get("classifier", {})
        return {**weights, "params": {**params, "classifier": layers}} if layers else weights
