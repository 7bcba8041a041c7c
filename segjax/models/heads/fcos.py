"""The head of FCOS (Tian et al. 2019): every position of every level is a point that may lie in an object."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, sigmoid_cross_entropy, sigmoid_focal
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
from segjax.ops.anchors import grid_points
from segjax.ops.box_losses import giou_loss
from segjax.types import Detections, Instances, Losses


@dataclasses.dataclass(frozen=True)
class FCOSSettings:
    """The numbers of FCOS's head; the defaults are torchvision's."""

    units: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 128.0)
    """Pixels that distances on each level are measured in, finest first: the strides of the maps."""
    reach: tuple[float, float] = (4.0, 8.0)
    """The objects of a point are those whose farthest side is between these distances from it, in units of its level;
    on the finest level from 0 on, on the coarsest to any distance (section 3.2)."""
    radius: float = 1.5
    """A point is of an object only this near to its centre, on both axes, in units (Tian et al. 2020, "A simple and
    strong anchor-free object detector", section 3.3)."""
    alpha: float = 0.25
    """Focal loss: weight of positives; negatives have 1 - alpha."""
    gamma: float = 2.0
    """Focal loss: exponent by which what is certain counts less."""
    score_threshold: float = 0.2
    candidates: int = 1000
    """Best (point, class) pairs of each level that go into NMS."""
    nms_threshold: float = 0.6
    detections: int = 100
    """Detections per image."""


class Points(NamedTuple):
    """Those of a level."""

    centers: Float[Array, "n 2"]
    """(x, y) in pixels."""
    unit: Float[Array, ""]
    """Of distances."""
    reach: Float[Array, "2"]
    """In pixels."""


class FCOSOutputs(NamedTuple):
    """What the network says of every point, level by level, row by row."""

    logits: Float[Array, "*b n classes"]
    """Of each class by itself: there is no background among them."""
    distances: Float[Array, "*b n 4"]
    """To the left, upper, right and lower side, in units of the level; 0 or more."""
    centerness: Float[Array, "*b n"]
    """Logits."""


class FCOSTargets(NamedTuple):
    """What every point should be."""

    labels: Int[Array, "*b n"]
    """Class id; -1 for the background."""
    boxes: Float[Array, "*b n 4"]
    """`xyxy` of the object; means nothing where there is none."""


class FCOSNetwork(nn.Module):
    """Two towers that all levels go through; centre-ness is read off the boxes' (Tian et al. 2020, section 3.3)."""

    classes: int
    depth: int = 4
    """Convolutions of a tower, of as many channels as the maps."""
    norm: TowerNorm | None = "group"
    """Behind each convolution, which has a bias with it too."""
    prior: float = 0.01
    """Probability of every class at the start."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Maps, *, train: bool = False) -> FCOSOutputs:
        """Logits, distances and centre-ness of all points."""
        options = {"depth": self.depth, "norm": self.norm, "bias": True, "dtype": self.dtype}
        towers = {name: tower(name, maps[0].shape[-1], **options) for name in ("class", "box")}
        classify = last_layer("class", self.classes, probability=self.prior, dtype=self.dtype)
        regress = last_layer("box", 4, dtype=self.dtype)
        center = last_layer("centerness", 1, dtype=self.dtype)
        boxes = [towers["box"](x) for x in maps]
        return FCOSOutputs(
            at_places([classify(towers["class"](x)) for x in maps], self.classes),
            at_places([nn.relu(regress(x)) for x in boxes], 4),
            at_places([center(x) for x in boxes], 1)[..., 0],
        )


@dataclasses.dataclass(frozen=True)
class FCOSHead:
    """Points on every level, each with a box and with every class by itself. A `DenseHead`."""

    network: nn.Module
    """To `FCOSOutputs`: an `FCOSNetwork`, or another."""
    settings: FCOSSettings = FCOSSettings()

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> list[Points]:
        """The points of each level. `ValueError` where the settings are for another number of levels.

        They lie at the cells' upper left corners, as torchvision's do; the paper has them half a cell further.
        """
        settings = self.settings
        if len(maps) != len(settings.units):
            raise ValueError(f"units is {settings.units} for {len(maps)} feature maps; give one number each.")
        levels = []
        for i, (shape, stride) in enumerate(zip(maps, measured_strides(size, maps))):
            unit = settings.units[i]
            near = 0.0 if i == 0 else settings.reach[0] * unit
            far = jnp.inf if i == len(maps) - 1 else settings.reach[1] * unit
            corners = grid_points(shape, stride=stride) - 0.5 * jnp.asarray(stride[::-1], jnp.float32)[None]
            levels.append(Points(corners, jnp.float32(unit), jnp.asarray([near, far], jnp.float32)))
        return levels

    def targets(
        self, outputs: FCOSOutputs, places: list[Points], instances: Instances, size: Int[Array, "2"]
    ) -> FCOSTargets:
        """The smallest object that a point lies in, near its centre and at its level's reach (section 3.2).

        Of objects of one area it is the first. torchvision subtracts areas from 1e8 in float32 and so takes the first
        of those whose areas are within a few square pixels.
        """
        del size
        check_places(len(outputs.logits), [len(level.centers) for level in places])
        area = box_ops.area(instances.boxes)
        mine = jnp.concatenate([_mine(points, instances, self.settings.radius) for points in places])
        target = jnp.argmin(jnp.where(mine, area[None], jnp.inf), axis=1)
        labels = jnp.where(jnp.any(mine, axis=1), instances.labels[target], -1)
        return FCOSTargets(labels, instances.boxes[target])

    def losses(self, outputs: FCOSOutputs, targets: FCOSTargets, places: list[Points]) -> Losses:
        """Focal loss of all points; of the positive ones the boxes' GIoU loss and centre-ness's cross-entropy.

        All are sums over the batch divided by its number of positive points, as in torchvision.
        """
        settings, positive = self.settings, targets.labels >= 0
        # A label of -1 is no class's.
        wanted = jax.nn.one_hot(targets.labels, outputs.logits.shape[-1], dtype=bool)
        focal = sigmoid_focal(outputs.logits, wanted, alpha=settings.alpha, gamma=settings.gamma)
        box = giou_loss(jax.vmap(_boxes, in_axes=(0, None))(outputs.distances, places), targets.boxes)
        center = sigmoid_cross_entropy(
            outputs.centerness, jax.vmap(_centerness, in_axes=(0, None))(targets.boxes, places)
        )
        count = jnp.maximum(jnp.sum(positive, dtype=jnp.float32), 1.0)
        return {
            "class": focal.sum() / count,
            "box": masked_sum(box, positive) / count,
            "centerness": masked_sum(center, positive) / count,
        }

    def decode(self, outputs: FCOSOutputs, places: list[Points], size: Int[Array, "2"]) -> Detections:
        """The best pairs of each level above the threshold, decoded and thinned by NMS per class.

        The score is the geometric mean of class and centre-ness (Tian et al. 2020, section 3.4).
        """
        settings = self.settings
        centerness = jax.nn.sigmoid(outputs.centerness)[:, None]
        best = level_candidates(
            jnp.sqrt(jax.nn.sigmoid(outputs.logits) * centerness),
            [len(level.centers) for level in places],
            threshold=settings.score_threshold,
            count=settings.candidates,
        )
        boxes = box_ops.clip(_boxes(outputs.distances, places)[best.places], size)
        valid = jnp.isfinite(best.scores)
        return best_detections(
            boxes, best.scores, best.labels, valid, iou_threshold=settings.nms_threshold, count=settings.detections
        )


def _sides(centers: Float[Array, "*b 2"], boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Distances in pixels from points to the left, upper, right and lower side of boxes; negative outside."""
    return jnp.concatenate([centers - boxes[..., :2], boxes[..., 2:] - centers], axis=-1)


def _mine(points: Points, instances: Instances, radius: float) -> Bool[Array, "n m"]:
    """Which objects each point of a level may be of."""
    centers = jnp.broadcast_to(points.centers[:, None], (len(points.centers), len(instances.boxes), 2))
    boxes = jnp.broadcast_to(instances.boxes[None], (*centers.shape[:2], 4))
    sides = _sides(centers, boxes)
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = jnp.max(jnp.abs(centers - middle), axis=-1) < radius * points.unit
    farthest = sides.max(-1)
    reached = (farthest > points.reach[0]) & (farthest < points.reach[1])
    return near & (sides.min(-1) > 0) & reached & instances.valid[None]


def _boxes(distances: Float[Array, "n 4"], places: list[Points]) -> Float[Array, "n 4"]:
    """The boxes that these distances from the points make."""
    units = jnp.concatenate([jnp.full(len(level.centers), level.unit) for level in places])
    centers = jnp.concatenate([level.centers for level in places])
    pixels = distances * units[:, None]
    return jnp.concatenate([centers - pixels[:, :2], centers + pixels[:, 2:]], axis=-1)


def _centerness(boxes: Float[Array, "n 4"], places: list[Points]) -> Float[Array, "n"]:
    """1 in the middle of a box, 0 on its border (section 3.3, equation 3); 0 outside."""
    sides = jnp.maximum(_sides(jnp.concatenate([level.centers for level in places]), boxes), 0.0)
    nearer, farther = jnp.minimum(sides[:, :2], sides[:, 2:]), jnp.maximum(sides[:, :2], sides[:, 2:])
    return jnp.sqrt(jnp.prod(safe_divide(nearer, farther), axis=-1))
