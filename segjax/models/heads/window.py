"""The head of OverFeat (Sermanet et al. 2014): the class and the box of what every window of a pyramid shows."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, smooth_l1, softmax_cross_entropy
from segjax.models.heads.decoding import best_detections, detections_of
from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.plain import classifier_init
from segjax.models.layers.valid import Spacing, ValidConv
from segjax.ops import boxes as box_ops
from segjax.ops.matching import IGNORE, POSITIVE, claim_best, match
from segjax.ops.merge import greedy_merge
from segjax.ops.sampling import hardest
from segjax.ops.windows import WindowLayout, decode_edges, encode_edges, level_grids, window_boxes
from segjax.types import Detections, Instances, Losses

Maps = Sequence[Float[Array, "b _ _ _"]]


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """The numbers of the head. The paper states few of them: only the regressor's threshold of one half is from it."""

    positive_threshold: float = 0.5
    """IoU with an object from which a window is the object's; so is each object's best window."""
    negative_threshold: float = 0.3
    """Below this IoU with all objects it is background. What lies between counts for nothing."""
    box_threshold: float = 0.5
    """IoU with its object from which a window teaches the regressor."""
    box_loss: Literal["l2", "smooth_l1"] = "l2"
    """Of the four offsets; l2: of their squares."""
    unit: float = 0.2
    """Share of the window's side by which an output of 1 moves an edge."""
    negatives: float = 3.0
    """Trained densely: negatives that are learnt from, the hardest of each image, for each of its positives ..."""
    least_negatives: int = 16
    """... and at least so many."""
    score_threshold: float = 0.05
    candidates: int = 512
    """Best (window, class) pairs of an image that go into NMS, or are merged."""
    combine: Literal["nms", "merge"] = "nms"
    """How detections come of pairs that overlap. nms: the best one suppresses the others. merge: they are merged, as in
    the paper (`segjax.ops.merge`); a sum of scores s becomes s / (1 + s), which keeps their order."""
    nms_threshold: float = 0.5
    """IoU from which two boxes of a class overlap."""
    detections: int = 100
    """Detections per image."""


class WindowOutputs(NamedTuple):
    """What the network says of every window. Column 0 is the background; class id c is column c + 1."""

    logits: Float[Array, "*b n columns"]
    offsets: Float[Array, "*b n boxes 4"]
    """Of the edges, in `WindowSettings.unit`: one box, or one for each class."""


class WindowTargets(NamedTuple):
    """What each window should be."""

    column: Int[Array, "*b n"]
    """Its object's column, 0 for the background."""
    counted: Bool[Array, "*b n"]
    """False where its IoU is between the thresholds, or it is about padding: it teaches nothing."""
    offsets: Float[Array, "*b n 4"]
    regressed: Bool[Array, "*b n"]
    """Whether the offsets are learnt."""

    @property
    def status(self) -> Int[Array, "*b n"]:
        """POSITIVE, NEGATIVE or IGNORE, as `segjax.ops.matching` has them."""
        return jnp.where(self.counted, (self.column > 0).astype(jnp.int32), IGNORE)


class WindowNetwork(nn.Module):
    """Fully connected layers over what the convolutions leave of a window: as convolutions over maps of many windows.

    Classes and boxes each have their own (section 4.1): the boxes' are none where `box_hidden` is empty.
    """

    classes: int
    cells: int
    """Side of what is left of a window."""
    spacing: Spacing
    """Of the maps of all windows."""
    hidden: Sequence[int] = (3072, 4096)
    """Widths of the hidden layers before the classes."""
    box_hidden: Sequence[int] = (4096, 1024)
    """Widths of those before the boxes."""
    per_class: bool = False
    """A box for each class; else one box, whatever the class."""
    norm: NormName | None = None
    """Behind each hidden layer, in place of its bias."""
    dropout: float = 0.5
    """Share of the units of each hidden layer left out in training."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, alone: bool = False, train: bool = False) -> WindowOutputs:
        """Of all windows of the levels; or, `alone`, of one window for each map of a batch, of `cells` x `cells`."""
        boxes = self.classes if self.per_class else 1
        normal = nn.initializers.normal(0.01)
        logits = self._branch("class", self.hidden, self.classes + 1, classifier_init)
        offsets = self._branch("box", self.box_hidden, 4 * boxes, normal)
        spacing = Spacing(1) if alone else self.spacing
        return WindowOutputs(
            _at_windows([logits(x, spacing, train) for x in maps], self.classes + 1),
            _at_windows([offsets(x, spacing, train) for x in maps], boxes, 4),
        )

    def _branch(self, name: str, hidden: Sequence[int], features: int, init: nn.initializers.Initializer):
        """(map, spacing, train) -> map of what one of the two says; its layers are made once, for all levels."""
        layers = []
        for i, (width, kernel) in enumerate(zip((*hidden, features), (self.cells, *[1] * len(hidden))), start=1):
            last = i > len(hidden)
            own = {"kernel_init": init} if last else {}
            convolution = ValidConv(
                width, kernel, last or self.norm is None, dtype=self.dtype, name=f"{name}{i}", **own
            )
            norm = norm_layer(self.norm, dtype=self.dtype)(name=f"{name}_norm{i}") if self.norm and not last else None
            layers.append((convolution, norm, last))
        dropout = nn.Dropout(self.dropout, name=f"{name}_dropout")

        def run(x: Array, spacing: Spacing, train: bool) -> Array:
            for i, (convolution, norm, last) in enumerate(layers):
                x = convolution(x, dilation=spacing.dilation, stride=spacing.left) if i == 0 else convolution(x)
                if not last:
                    x = nn.relu(x if norm is None else norm(x, train=train))
                    x = dropout(x, deterministic=not train)
            return x.astype(jnp.float32)

        return run


def _at_windows(maps: list[Array], *shape: int) -> Array:
    """[b, n, *shape] of all levels, in the order of `window_boxes`."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, *shape) for x in maps], axis=1)


@dataclasses.dataclass(frozen=True)
class WindowHead:
    """OverFeat's head: a `segjax.models.heads.dense.DenseHead`. Its places are the windows, [n, 4] `xyxy` in pixels."""

    network: nn.Module
    """To `WindowOutputs`: a `WindowNetwork`, or another."""
    layout: WindowLayout
    settings: WindowSettings = WindowSettings()

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Float[Array, "n 4"]:
        """What each window covers of the image. `ValueError` where there are not as many maps as levels."""
        levels = level_grids(self.layout, size)
        if len(maps) != len(levels):
            raise ValueError(f"the backbone gives {len(maps)} maps for {len(levels)} levels; give one each.")
        return window_boxes(size, self.layout)

    def targets(
        self, outputs: WindowOutputs | None, places: Float[Array, "n 4"], instances: Instances, size: Int[Array, "2"]
    ) -> WindowTargets:
        """The object that each window has the best IoU with, if it is good enough; each object claims its best window.

        Windows whose middle is in the padding teach nothing.
        """
        del outputs
        settings, valid = self.settings, instances.valid
        found = match(
            places,
            instances.boxes,
            valid,
            positive_threshold=settings.positive_threshold,
            negative_threshold=settings.negative_threshold,
        )
        found = claim_best(found, places, instances.boxes, valid)
        own, positive = instances.boxes[found.target], found.status == POSITIVE
        overlap = jax.vmap(lambda a, b: box_ops.iou(a[None], b[None])[0, 0])(own, places)
        return WindowTargets(
            column=jnp.where(positive, instances.labels[found.target] + 1, 0),
            counted=(found.status != IGNORE) & (inside(places, size) | positive),
            offsets=encode_edges(own, places) / settings.unit,
            regressed=positive & (overlap >= settings.box_threshold),
        )

    def losses(self, outputs: WindowOutputs, targets: WindowTargets, places: Float[Array, "n 4"]) -> Losses:
        """The losses over all windows: over the positives and the hardest negatives of each image (section 4)."""
        del places
        settings, positive = self.settings, targets.counted & (targets.column > 0)
        hardness = softmax_cross_entropy(outputs.logits, targets.column)
        wanted = settings.negatives * jnp.sum(positive, axis=1, dtype=jnp.float32)
        wanted = jnp.maximum(jnp.ceil(wanted).astype(jnp.int32), settings.least_negatives)
        negative = jax.vmap(hardest)(hardness, targets.counted & ~positive, wanted)
        return self.losses_of(outputs, targets, positive | negative)

    def losses_of(self, outputs: WindowOutputs, targets: WindowTargets, learnt: Bool[Array, "b s"]) -> Losses:
        """Cross-entropy of the windows learnt from, and the loss of the offsets of those that teach the regressor.

        Each is the mean over its windows of the whole batch.
        """
        classes = softmax_cross_entropy(outputs.logits, targets.column)
        row = jnp.maximum(targets.column - 1, 0) if outputs.offsets.shape[2] > 1 else jnp.zeros_like(targets.column)
        own = jnp.take_along_axis(outputs.offsets, row[..., None, None], axis=2)[:, :, 0]
        squares = self.settings.box_loss == "l2"
        error = jnp.square(own - targets.offsets) if squares else smooth_l1(own, targets.offsets)
        regressed = learnt & targets.regressed
        return {
            "class": _mean(classes, learnt),
            "box": _mean(error.sum(-1), regressed),
        }

    def decode(self, outputs: WindowOutputs, places: Float[Array, "n 4"], size: Int[Array, "2"]) -> Detections:
        """The best pairs of a window and a class, the boxes moved to where the regressor says, then combined."""
        settings = self.settings
        scores = jax.nn.softmax(outputs.logits)[:, 1:]
        classes = scores.shape[1]
        usable = inside(places, size)[:, None] & (scores > settings.score_threshold)
        scores = jnp.where(usable, scores, -jnp.inf).reshape(-1)
        scores, top = jax.lax.top_k(scores, min(settings.candidates, scores.size))
        row, label = top // classes, top % classes
        offsets = outputs.offsets[row, label if outputs.offsets.shape[1] > 1 else jnp.zeros_like(label)]
        boxes = box_ops.clip(decode_edges(offsets * settings.unit, places[row]), size)
        valid = jnp.isfinite(scores) & (box_ops.area(boxes) > 0)
        if settings.combine == "merge":
            scores = jnp.where(valid, scores, 0.0)
            boxes, scores, valid = greedy_merge(boxes, scores, label, valid, iou_threshold=settings.nms_threshold)
            return detections_of(boxes, scores / (1.0 + scores), label, valid, count=settings.detections)
        return best_detections(
            boxes, scores, label, valid, iou_threshold=settings.nms_threshold, count=settings.detections
        )


def inside(windows: Float[Array, "n 4"], size: Int[Array, "2"]) -> Bool[Array, "n"]:
    """Whether the middle of each window lies in the image, not in its padding or its margin."""
    middle = (windows[:, :2] + windows[:, 2:]) / 2
    limit = jnp.flip(size).astype(jnp.float32)[None]
    return jnp.all((middle >= 0) & (middle <= limit), axis=-1)


def _mean(values: Array, mask: Array) -> Array:
    return safe_divide(masked_sum(values, mask), jnp.sum(mask, dtype=jnp.float32))
