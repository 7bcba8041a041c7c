"""The head of SSD (Liu et al. 2016): the classes and the box of an object at every prior of every map."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from segjax.losses import masked_sum, safe_divide, smooth_l1, softmax_cross_entropy
from segjax.models.heads.decoding import best_detections
from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName
from segjax.models.layers.ssd_vgg import xavier
from segjax.models.layers.ssdlite import conv_norm, normal
from segjax.ops import boxes as box_ops
from segjax.ops.matching import POSITIVE, claim_best, match
from segjax.ops.priors import pyramid_priors
from segjax.ops.sampling import hardest
from segjax.types import Detections, Instances, Losses

Maps = list[Float[Array, "b _ _ _"]]


@dataclasses.dataclass(frozen=True)
class PriorSettings:
    """The priors of each map, finest first (`segjax.ops.priors`); the defaults are torchvision's for SSD300."""

    scales: tuple[float, ...] = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    """Sides as shares of the image, one for each map and one more."""
    ratios: tuple[tuple[float, ...], ...] = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    """Width / height, for each map, besides 1; each stands for its inverse too."""
    steps: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)
    """Pixels from cell to cell of each map; without, the cells share the image out evenly."""

    @property
    def per_place(self) -> tuple[int, ...]:
        """Priors of a cell, of each map."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


@dataclasses.dataclass(frozen=True)
class SSDSettings:
    """The numbers of the head; the defaults are torchvision's for SSD300."""

    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Weights of (x, y, w, h) in the box deltas."""
    positive_threshold: float = 0.5
    """IoU with an object from which a prior is the object's."""
    negatives: float = 3.0
    """Negatives that are learnt from, the hardest of each image, for each of its positives."""
    score_threshold: float = 0.01
    candidates: int = 400
    """Best priors of each class that go into NMS."""
    nms_threshold: float = 0.45
    detections: int = 200
    """Detections per image."""


class SSDOutputs(NamedTuple):
    """What the network says of every prior. Column 0 is the background; class id c is column c + 1."""

    logits: Float[Array, "*b n columns"]
    deltas: Float[Array, "*b n 4"]


class SSDTargets(NamedTuple):
    """What each prior should be."""

    column: Int[Array, "*b n"]
    """Its object's column, 0 for the background."""
    deltas: Float[Array, "*b n 4"]
    """Mean something where the column is not 0."""


class SSDNetwork(nn.Module):
    """A 3x3 convolution of each map for the classes, and one for the boxes."""

    classes: int
    per_place: Sequence[int]
    """Priors of a cell, of each map."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool = False) -> SSDOutputs:
        """Logits and deltas of every prior."""
        del train

        def predict(x: Array, channels: int, name: str) -> Array:
            return Conv(channels, 3, bias=True, kernel_init=xavier, dtype=self.dtype, name=name)(x)

        return _of_all_maps(predict, maps, self.per_place, self.classes)


class SSDLiteNetwork(nn.Module):
    """The same with separable convolutions (Sandler et al. 2018, section 6.2): a depthwise one, its norm, a 1x1 one."""

    classes: int
    per_place: Sequence[int]
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool = False) -> SSDOutputs:
        """Logits and deltas of every prior."""

        def predict(x: Array, channels: int, name: str) -> Array:
            own = x.shape[-1]
            x = conv_norm(x, own, 3, self.norm, name=f"{name}_depthwise", train=train, groups=own)
            return Conv(channels, 1, bias=True, kernel_init=normal, dtype=self.dtype, name=name)(x)

        return _of_all_maps(predict, maps, self.per_place, self.classes)


def _of_all_maps(predict, maps: Maps, per_place: Sequence[int], classes: int) -> SSDOutputs:
    """Outputs of all maps, row by row, column by column, prior by prior: the order of `grid_priors`."""
    outputs = []
    for name, columns in (("class", classes + 1), ("box", 4)):
        each = enumerate(zip(maps, per_place, strict=True))
        values = [predict(x, count * columns, f"{name}{i}") for i, (x, count) in each]
        flat = [x.reshape(x.shape[0], -1, columns).astype(jnp.float32) for x in values]
        outputs.append(jnp.concatenate(flat, axis=1))
    return SSDOutputs(*outputs)


@dataclasses.dataclass(frozen=True)
class SSDHead:
    """SSD's head: a `segjax.models.heads.dense.DenseHead`. Its places are the priors, [n, 4] `xyxy` in pixels."""

    network: nn.Module
    """To `SSDOutputs`: an `SSDNetwork`, an `SSDLiteNetwork`, or another."""
    priors: PriorSettings = PriorSettings()
    settings: SSDSettings = SSDSettings()

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Float[Array, "n 4"]:
        """The priors of all maps, cut in size but not at the image's borders."""
        given = self.priors
        return jnp.concatenate(
            pyramid_priors(maps, size=size, scales=given.scales, ratios=given.ratios, steps=given.steps)
        )

    def targets(
        self, outputs: SSDOutputs, places: Float[Array, "n 4"], instances: Instances, size: Int[Array, "2"]
    ) -> SSDTargets:
        """Of each prior the object with the best IoU, if it is large enough, and of each object its best prior."""
        del outputs, size
        threshold = self.settings.positive_threshold
        found = match(
            places, instances.boxes, instances.valid, positive_threshold=threshold, negative_threshold=threshold
        )
        found = claim_best(found, places, instances.boxes, instances.valid)
        column = jnp.where(found.status == POSITIVE, instances.labels[found.target] + 1, 0)
        deltas = box_ops.encode(instances.boxes[found.target], places, weights=self.settings.weights)
        return SSDTargets(column, deltas)

    def losses(self, outputs: SSDOutputs, targets: SSDTargets, places: Float[Array, "n 4"]) -> Losses:
        """Cross-entropy over positives and the hardest negatives, smooth L1 over the positives (equations 1 to 3).

        Both are divided by the positives of the whole batch, as torchvision does; the paper divides by those of an
        image. An image without objects teaches nothing.
        """
        del places
        classes = softmax_cross_entropy(outputs.logits, targets.column)
        positive = targets.column > 0
        wanted = self.settings.negatives * jnp.sum(positive, axis=1, dtype=jnp.float32)
        negative = jax.vmap(hardest)(classes, ~positive, jnp.ceil(wanted).astype(jnp.int32))
        box = masked_sum(smooth_l1(outputs.deltas, targets.deltas).sum(-1), positive)
        count = jnp.sum(positive, dtype=jnp.float32)
        return {
            "class": safe_divide(masked_sum(classes, positive | negative), count),
            "box": safe_divide(box, count),
        }

    def decode(self, outputs: SSDOutputs, places: Float[Array, "n 4"], size: Int[Array, "2"]) -> Detections:
        """The best priors of each class, decoded and thinned by NMS, then the best of all classes."""
        settings = self.settings
        boxes = box_ops.clip(box_ops.decode(outputs.deltas, places, weights=settings.weights), size)
        scores = jax.nn.softmax(outputs.logits)[:, 1:].T
        scores = jnp.where(scores > settings.score_threshold, scores, -jnp.inf)
        scores, prior = jax.lax.top_k(scores, min(settings.candidates, scores.shape[1]))
        order = jnp.argsort(-scores.ravel(), stable=True)
        best, label = scores.ravel()[order], order // scores.shape[1]
        return best_detections(
            boxes[prior.ravel()[order]],
            best,
            label,
            jnp.isfinite(best),
            iou_threshold=settings.nms_threshold,
            count=settings.detections,
        )
