"""The head of RetinaNet (Lin et al. 2017, "Focal loss for dense object detection"): every anchor of every level."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, sigmoid_focal
from segjax.models.heads.decoding import best_detections
from segjax.models.heads.pyramid import (
    Maps,
    TowerNorm,
    at_places,
    check_places,
    last_layer,
    level_candidates,
    measured_strides,
    tower,
)
from segjax.ops import boxes as box_ops
from segjax.ops.anchors import pyramid_anchors
from segjax.ops.box_losses import giou_loss
from segjax.ops.matching import IGNORE, POSITIVE, match
from segjax.types import Detections, Instances, Losses

Anchors = list[Float[Array, "_ 4"]]
"""Of each level."""


@dataclasses.dataclass(frozen=True)
class RetinaSettings:
    """The numbers of RetinaNet's head; the defaults are torchvision's."""

    # Three sizes an octave (section 4), as torchvision rounds them.
    anchor_sizes: tuple[tuple[float, ...], ...] = (
        (32.0, 40.0, 50.0),
        (64.0, 80.0, 101.0),
        (128.0, 161.0, 203.0),
        (256.0, 322.0, 406.0),
        (512.0, 645.0, 812.0),
    )
    """Square roots of the anchors' areas in pixels, one tuple per pyramid level, finest first."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    positive_threshold: float = 0.5
    """An anchor is positive from this IoU with an object on; so is each object's best anchor."""
    negative_threshold: float = 0.4
    """Below this IoU with all objects it is negative. What lies between counts for nothing."""
    box_loss: Literal["l1", "giou"] = "l1"
    """l1: of the four deltas. giou: of the box."""
    alpha: float = 0.25
    """Focal loss: weight of positives; negatives have 1 - alpha."""
    gamma: float = 2.0
    """Focal loss: exponent by which what is certain counts less."""
    score_threshold: float = 0.05
    candidates: int = 1000
    """Best (anchor, class) pairs of each level that go into NMS."""
    nms_threshold: float = 0.5
    detections: int = 300
    """Detections per image."""

    @property
    def per_position(self) -> int:
        """Anchors at each position of a map. `ValueError` unless they are as many on every map."""
        counts = {len(sizes) * len(self.ratios) for sizes in self.anchor_sizes}
        if len(counts) != 1:
            raise ValueError(f"anchor_sizes is {self.anchor_sizes}; give each map as many: one network sees all.")
        return counts.pop()


class RetinaOutputs(NamedTuple):
    """What the network says of every anchor, level by level, in the order of `anchors.grid_anchors`."""

    logits: Float[Array, "*b n classes"]
    """Of each class by itself: there is no background among them."""
    deltas: Float[Array, "*b n 4"]


class RetinaTargets(NamedTuple):
    """What every anchor should be."""

    labels: Int[Array, "*b n"]
    """Class id; -1 for the background."""
    counted: Bool[Array, "*b n"]
    """False where its IoU is between the thresholds, so that it teaches no class."""
    boxes: Float[Array, "*b n 4"]
    """`xyxy` of the object; means nothing where there is none."""


class RetinaNetwork(nn.Module):
    """Two towers that all levels go through, one to the classes and one to the boxes (section 4 and figure 3)."""

    classes: int
    anchors: int = 9
    """At each position."""
    depth: int = 4
    """Convolutions of a tower, of as many channels as the maps."""
    norm: TowerNorm | None = None
    """Behind each convolution, in place of its bias."""
    prior: float = 0.01
    """Probability of every class at the start."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool = False) -> RetinaOutputs:
        """Logits and deltas of all anchors."""
        options = {"depth": self.depth, "norm": self.norm, "bias": self.norm is None, "dtype": self.dtype}
        towers = {name: tower(name, maps[0].shape[-1], **options) for name in ("class", "box")}
        classify = last_layer("class", self.anchors * self.classes, probability=self.prior, dtype=self.dtype)
        regress = last_layer("box", 4 * self.anchors, dtype=self.dtype)
        return RetinaOutputs(
            at_places([classify(towers["class"](x)) for x in maps], self.classes),
            at_places([regress(towers["box"](x)) for x in maps], 4),
        )


@dataclasses.dataclass(frozen=True)
class RetinaHead:
    """Anchors on every level, each with a box and with every class by itself. A `DenseHead`."""

    network: nn.Module
    """To `RetinaOutputs`: a `RetinaNetwork`, or another."""
    settings: RetinaSettings = RetinaSettings()

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Anchors:
        """The anchors of each level. `ValueError` where the settings are for another number of levels."""
        sizes = self.settings.anchor_sizes
        if len(maps) != len(sizes):
            raise ValueError(
                f"anchor_sizes has {len(sizes)} entries for {len(maps)} feature maps; give one tuple each."
            )
        strides = measured_strides(size, maps)
        return pyramid_anchors(maps, strides=strides, sizes=sizes, ratios=self.settings.ratios)

    def targets(
        self, outputs: RetinaOutputs, places: Anchors, instances: Instances, size: Int[Array, "2"]
    ) -> RetinaTargets:
        """The object that each anchor has the best IoU with, if it is good enough (section 4, "Anchors")."""
        del size
        check_places(len(outputs.logits), [len(level) for level in places])
        matches = match(
            jnp.concatenate(places),
            instances.boxes,
            instances.valid,
            positive_threshold=self.settings.positive_threshold,
            negative_threshold=self.settings.negative_threshold,
            allow_low_quality=True,
        )
        labels = jnp.where(matches.status == POSITIVE, instances.labels[matches.target], -1)
        return RetinaTargets(labels, matches.status != IGNORE, instances.boxes[matches.target])

    def losses(self, outputs: RetinaOutputs, targets: RetinaTargets, places: Anchors) -> Losses:
        """Focal loss of all anchors that count, and the loss of the positive ones' boxes.

        Both are summed over an image, divided by its number of positive anchors, and the mean over images, as in
        torchvision.
        """
        settings, anchors = self.settings, jnp.concatenate(places)
        positive = targets.labels >= 0
        # A label of -1 is no class's.
        wanted = jax.nn.one_hot(targets.labels, outputs.logits.shape[-1], dtype=bool)
        focal = sigmoid_focal(outputs.logits, wanted, alpha=settings.alpha, gamma=settings.gamma).sum(-1)

        def box_loss(deltas, boxes):
            if settings.box_loss == "giou":
                return giou_loss(box_ops.decode(deltas, anchors), boxes)
            return jnp.abs(deltas - box_ops.encode(boxes, anchors)).sum(-1)

        def of_image(focal, counted, box, positive):
            count = jnp.maximum(jnp.sum(positive, dtype=jnp.float32), 1.0)
            return masked_sum(focal, counted) / count, masked_sum(box, positive) / count

        box = jax.vmap(box_loss)(outputs.deltas, targets.boxes)
        terms = jax.vmap(of_image)(focal, targets.counted, box, positive)
        return dict(zip(("class", "box"), map(jnp.mean, terms)))

    def decode(self, outputs: RetinaOutputs, places: Anchors, size: Int[Array, "2"]) -> Detections:
        """The best pairs of each level above the threshold, decoded and thinned by NMS per class (section 4.1)."""
        settings, anchors = self.settings, jnp.concatenate(places)
        best = level_candidates(
            jax.nn.sigmoid(outputs.logits),
            [len(level) for level in places],
            threshold=settings.score_threshold,
            count=settings.candidates,
        )
        boxes = box_ops.clip(box_ops.decode(outputs.deltas[best.places], anchors[best.places]), size)
        valid = jnp.isfinite(best.scores)
        return best_detections(
            boxes, best.scores, best.labels, valid, iou_threshold=settings.nms_threshold, count=settings.detections
        )
