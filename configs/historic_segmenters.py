"""What a recipe says of the models that led to today's segmenters: frozen dataclasses with a `build`, one for each."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from configs.segmenters import Segmenter
from segjax.models.hypercolumns import hypercolumns
from segjax.models.layers.norms import NormName
from segjax.models.layers.vgg import VGG16
from segjax.models.multi_scale import multi_scale
from segjax.models.refinement import refinement
from segjax.models.segnet import segnet
from segjax.models.sliding_window import LAYERS, Layer, PatchNet, sliding_window
from segjax.models.unet import unet
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class UNet(Segmenter):
    """U-Net (Ronneberger et al. 2015); the defaults are the paper's."""

    width: int = 64
    """Channels of the finest level; each further one has twice as many."""
    levels: int = 4
    """How often the image is halved."""
    norm: NormName | None = None
    """Behind each 3x3 convolution; the paper has none."""
    up: Literal["transposed", "bilinear"] = "transposed"
    """How maps are upsampled: by a transposed 2x2 convolution, or bilinearly and a 1x1 convolution."""
    dropout: float = 0.5
    """Of the coarsest map."""
    deep_supervision: bool = False
    """Train a classifier of the pixels of every level; the finest predicts."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        return unet(classes, **_options(self, "width", "levels", "norm", "up", "dropout", "deep_supervision"))


@dataclasses.dataclass(frozen=True)
class SegNet(Segmenter):
    """SegNet (Badrinarayanan et al. 2017), or DeconvNet (Noh et al. 2015); the defaults are SegNet's."""

    width: int = 64
    """Channels of the first stage; the later ones have 2, 4, 8 and 8 times as many."""
    norm: NormName | None = "batch"
    """Behind each convolution."""
    stages: int = 5
    """Of VGG16, from the first on; each halves the image. Five leave little of a small one."""
    form: Literal["segnet", "deconvnet"] = "segnet"
    """Of the decoder. deconvnet: hidden layers in the middle, transposed convolutions behind."""
    hidden: int = 4096
    """deconvnet: channels of its hidden layers."""
    deep_supervision: bool = False
    """Train a classifier of the pixels of every stage; the finest predicts."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        return segnet(classes, **_options(self, "width", "norm", "stages", "form", "hidden", "deep_supervision"))


@dataclasses.dataclass(frozen=True)
class Hypercolumns(Segmenter):
    """Hypercolumns (Hariharan et al. 2015) of VGG16."""

    width: int = 64
    """Channels of the first stage; the later ones have 2, 4, 8 and 8 times as many."""
    norm: NormName | None = None
    """Behind each convolution; VGG16 has none, but from random weights it hardly learns without."""
    stages: tuple[int, ...] = (2, 3, 4, 5)
    """Whose maps are in the hypercolumn; stage i has stride 2 ** (i - 1)."""
    grid: int = 5
    """Location-specific classifiers along each side of the image; 1 for none."""
    kernel: int = 1
    """Side of the neighbourhood, in positions of each map, that its classifier sees."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        backbone = VGG16(self.norm, self.width, self.stages, dtype=jnp.dtype(self.dtype))
        return hypercolumns(classes, backbone=backbone, **_options(self, "grid", "kernel"))


@dataclasses.dataclass(frozen=True)
class MultiScale(Segmenter):
    """The multi-scale network of Farabet et al. 2013; the defaults are the paper's sizes."""

    channels: tuple[int, ...] = (16, 64, 256)
    """Of the convolutions of the network that all scales share."""
    kernel: int = 7
    """Their side, odd."""
    scales: int = 3
    """1, 1/2, 1/4 and so on."""
    pyramid: Literal["laplacian", "gaussian"] = "laplacian"
    """laplacian: each scale but the last has only what the next coarser one lacks."""
    hidden: tuple[int, ...] = (1024,)
    """Widths of the hidden layers of the classifier of each pixel."""
    norm: NormName | None = None
    """Behind each convolution and hidden layer."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        return multi_scale(classes, **_options(self, "channels", "kernel", "scales", "pyramid", "hidden", "norm"))


@dataclasses.dataclass(frozen=True)
class Refinement(Segmenter):
    """The recurrent network of Pinheiro and Collobert 2014: it sees the image beside its own last prediction."""

    channels: tuple[int, ...] = (25, 50, 100)
    """Of the network's convolutions."""
    kernel: int = 7
    """Their side, odd."""
    iterations: int = 2
    """How often the network is applied, in training and in prediction."""
    norm: NormName | None = None
    """Behind each convolution."""

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        return refinement(classes, **_options(self, "channels", "kernel", "iterations", "norm"))


@dataclasses.dataclass(frozen=True)
class SlidingWindow(Segmenter):
    """A classifier of patches, and the windows or the fully convolutional form that it labels images by."""

    patch: int = 44
    """Side of the patches in pixels."""
    layers: tuple[tuple[int, int, int], ...] = tuple(tuple(layer) for layer in LAYERS)
    """Channels, kernel and pooling of each convolution."""
    hidden: int = 128
    """Width of the layer behind them."""
    stride: int = 4
    """Pixels between the windows that are classified in prediction."""
    inference: Literal["convolutional", "windows"] = "convolutional"
    """Two ways to the same predictions, the latter slow."""
    samples: int = 32
    """Patches an image in training."""
    balanced: bool = True
    """Draw the classes that an image has equally often, else its pixels."""

    def network(self, classes: int) -> PatchNet:
        """The classifier of patches."""
        layers = tuple(Layer(*layer) for layer in self.layers)
        return PatchNet(classes, self.patch, layers, self.hidden, dtype=jnp.dtype(self.dtype))

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        options = _options(self, "stride", "inference", "samples", "balanced")
        return sliding_window(classes, network=self.network(classes), **options)


def _options(model: Segmenter, *names: str) -> dict[str, Any]:
    """What a model's function is given: the fields of these names, the loss and the dtype."""
    return {**{name: getattr(model, name) for name in names}, "loss": model.loss, "dtype": jnp.dtype(model.dtype)}
