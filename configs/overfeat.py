"""What a recipe says of OverFeat: a frozen dataclass with a `build`."""

import collections
import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from configs.detectors import Detector
from segjax.data.source import Source
from segjax.evaluation.evaluator import DetectionCollector
from segjax.models.heads.window import WindowSettings
from segjax.models.layers.norms import NormName
from segjax.models.layers.windows import WindowLayer
from segjax.models.overfeat import FAST, LEVELS, WindowPlan, overfeat
from segjax.models.parts import Module
from segjax.ops.windows import WindowLayout, count_windows
from segjax.types import Model


@dataclasses.dataclass(frozen=True)
class OverFeat(Detector):
    """OverFeat (Sermanet et al. 2014); the defaults are the layers of the paper's fast network, without padding."""

    multiple: ClassVar[int] = 1
    layers: tuple[tuple[int, int, int, int], ...] = tuple(tuple(layer) for layer in FAST)
    """Channels, kernel, stride and pooling of each convolution."""
    cells: int = 3
    """Side in positions of what they leave of a window; so the side of the windows follows."""
    levels: tuple[tuple[float, float], ...] = LEVELS
    """(scale, aspect) of each level: its windows cover their side / scale pixels and are so much wider than high."""
    stride: int = 16
    """Pixels of the levels from window to window."""
    margin: int = 48
    """Zeros around the levels, in pixels: windows may reach so far over the border."""
    hidden: tuple[int, ...] = (3072, 4096)
    """Widths of the hidden layers before the classes."""
    box_hidden: tuple[int, ...] = (4096, 1024)
    """Widths of those before the boxes."""
    per_class: bool = False
    """A box regressor for each class."""
    norm: NormName | None = None
    """Behind each convolution and hidden layer: "layer" or "batch"; "group" is refused, see `overfeat`."""
    dropout: float = 0.5
    """Of the hidden layers."""
    training: Literal["windows", "dense"] = "windows"
    """windows: on windows drawn from each image. dense: on all windows, with the hardest of the negatives."""
    samples: int = 64
    """windows: how many an image."""
    positive_fraction: float = 0.5
    """windows: share of positives among them, at most."""
    head: WindowSettings = WindowSettings()

    def plan(self) -> WindowPlan:
        """The windows and the layers that see them."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(WindowPlan)}
        return WindowPlan(**{**given, "layers": tuple(WindowLayer(*layer) for layer in self.layers)})

    def layout(self) -> WindowLayout:
        """Which windows an image has."""
        return self.plan().layout()

    def scores(self, source: Source, collector: DetectionCollector) -> dict[str, float]:
        """`windows_per_image`: the mean over images of `count_windows` of their sizes in the batch, without padding."""
        del source
        sizes, layout = collections.Counter(collector.sizes.values()), self.layout()
        counts = [sum(count_windows(size, layout)) for size in sizes]
        return {"windows_per_image": float(np.average(counts, weights=list(sizes.values())))} if sizes else {}

    def networks(self, classes: int) -> tuple[Module, Module]:
        """What sees pixels, and what says of windows what they show."""
        return self.plan().networks(classes, jnp.dtype(self.dtype))

    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes."""
        del joints
        options = {name: getattr(self, name) for name in ("training", "samples", "positive_fraction")}
        return overfeat(classes, plan=self.plan(), settings=self.head, **options, dtype=jnp.dtype(self.dtype))
