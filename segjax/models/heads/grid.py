"""A grid head without anchors: at every point a class and the distances to the four sides of a box."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import (
    distribution_focal,
    masked_sum,
    quality_focal,
    sigmoid_cross_entropy,
    varifocal,
)
from segjax.models.heads.decoding import best_detections
from segjax.models.heads.grid_network import GridOutputs
from segjax.models.heads.pyramid import level_candidates
from segjax.ops import boxes as box_ops
from segjax.ops.anchors import grid_points
from segjax.ops.assignment import Assignment, sim_ota, task_aligned
from segjax.ops.box_losses import ciou_loss, diou_loss, giou_loss
from segjax.types import Detections, Instances, Losses

AssignmentName = Literal["task_aligned", "sim_ota"]
ClassLoss = Literal["cross_entropy", "varifocal", "quality_focal"]
BoxLoss = Literal["giou", "diou", "ciou"]

CLASS_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": sigmoid_cross_entropy,
    "varifocal": varifocal,
    "quality_focal": quality_focal,
}
BOX_LOSSES: dict[str, Callable[[Array, Array], Array]] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


@dataclasses.dataclass(frozen=True)
class GridSettings:
    """The numbers of a grid head."""

    assignment: AssignmentName = "task_aligned"
    points: int = 13
    """Points an object is given at most: 13 in TOOD; SimOTA's usual number is 10."""
    alpha: float = 1.0
    beta: float = 6.0
    """task_aligned: exponents of the score and of the IoU."""
    radius: float = 2.5
    """sim_ota: points this near to an object's centre are candidates, in strides."""
    class_loss: ClassLoss = "cross_entropy"
    box_loss: BoxLoss = "ciou"
    box_weight: float = 2.0
    """Factor of the loss of boxes."""
    distribution_weight: float = 0.25
    """Factor of the loss of distributions, where the network has them: that of GFL."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    candidates: int = 1000
    """Best (point, class) pairs of each level that go into NMS."""
    detections: int = 100
    """Detections per image."""
    min_size: float = 1e-2
    """Detections with a smaller side, in pixels, are dropped."""


Points = list[Float[Array, "_ 2"]]
"""(x, y) in pixels of the centres of each level's positions."""


class Grid(NamedTuple):
    """Points of any levels, each with the size of its cell."""

    points: Float[Array, "n 2"]
    """(x, y) in pixels."""
    strides: Float[Array, "n 1"]
    """In pixels."""


class GridTargets(NamedTuple):
    """What each point should say."""

    labels: Int[Array, "*b n"]
    positive: Bool[Array, "*b n"]
    quality: Float[Array, "*b n"]
    """What its class's score should be; 0 where it has no object."""
    boxes: Float[Array, "*b n 4"]


@dataclasses.dataclass(frozen=True)
class GridHead:
    """Points become detections. A `segjax.models.heads.dense.DenseHead`."""

    network: nn.Module
    """To `GridOutputs`: a `GridNetwork`, or another."""
    strides: tuple[int, ...] = (8, 16, 32)
    """Of the maps, in pixels."""
    settings: GridSettings = GridSettings()

    def __post_init__(self):
        settings = self.settings
        for field, known in (("class_loss", CLASS_LOSSES), ("box_loss", BOX_LOSSES)):
            if getattr(settings, field) not in known:
                raise ValueError(f"{field} is {getattr(settings, field)!r}; choose one of {', '.join(known)}.")
        if settings.assignment not in ("task_aligned", "sim_ota"):
            raise ValueError(f"assignment is {settings.assignment!r}; choose task_aligned or sim_ota.")

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Points:
        """The centres of the positions. `ValueError` where the strides are not those of the maps."""
        if len(maps) != len(self.strides) or any(
            (height, width) != (-(-size[0] // stride), -(-size[1] // stride))
            for (height, width), stride in zip(maps, self.strides, strict=False)
        ):
            raise ValueError(
                f"images of {size[0]}x{size[1]} pixels have maps of {', '.join(f'{h}x{w}' for h, w in maps)}, which do "
                f"not fit the strides {self.strides} of the head; give it one stride for each map."
            )
        return [grid_points(shape, stride=stride) for shape, stride in zip(maps, self.strides)]

    def _grid(self, places: Points) -> Grid:
        strides = [jnp.full((len(points), 1), stride, jnp.float32) for points, stride in zip(places, self.strides)]
        return Grid(jnp.concatenate(places), jnp.concatenate(strides))

    def targets(self, outputs: GridOutputs, places: Points, instances: Instances, size: Int[Array, "2"]) -> GridTargets:
        """The object that each point is given, by what the network says now."""
        del size
        assigned = self._assigned(outputs, self._grid(places), instances)
        if not instances.boxes.shape[0]:
            return GridTargets(assigned.target, assigned.positive, assigned.quality, jnp.zeros_like(outputs.distances))
        labels = jnp.where(assigned.positive, instances.labels[assigned.target], 0)
        boxes = jnp.where(assigned.positive[:, None], instances.boxes[assigned.target], 0.0)
        return GridTargets(labels, assigned.positive, assigned.quality, boxes)

    def _assigned(self, outputs: GridOutputs, grid: Grid, instances: Instances) -> Assignment:
        settings, scores = self.settings, outputs.scores
        objects = (instances.boxes, instances.labels, instances.valid)
        boxes = _boxes(outputs.distances, grid)
        if settings.assignment == "task_aligned":
            exponents = {"alpha": settings.alpha, "beta": settings.beta}
            return task_aligned(grid.points, scores, boxes, *objects, count=settings.points, **exponents)
        if outputs.objectness is not None:
            scores = jnp.sqrt(scores)  # the product of two probabilities: YOLOX's code takes their geometric mean
        options = {"count": settings.points, "radius": settings.radius}
        return sim_ota(grid.points, grid.strides[:, 0], scores, boxes, *objects, **options)

    def losses(self, outputs: GridOutputs, targets: GridTargets, places: Points) -> Losses:
        """The losses of classes towards the quality, and of boxes, of the points that have an object.

        With task-aligned assignment a box counts as much as its quality, and all is divided by the sum of the batch's
        qualities, at least 1 (TOOD, section 3.2); with SimOTA, by the number of points that have an object
        (YOLOX). Where the network has objectness, classes are learnt at these points alone, as in YOLOX.
        """
        settings = self.settings
        aligned = settings.assignment == "task_aligned"
        weights = targets.quality if aligned else targets.positive.astype(jnp.float32)
        total = jnp.maximum(jnp.sum(weights), 1.0)

        def mean(values: Array) -> Array:
            return masked_sum(values * weights, targets.positive) / total

        wanted = jax.nn.one_hot(targets.labels, outputs.logits.shape[-1]) * targets.quality[..., None]
        classes = jnp.sum(CLASS_LOSSES[settings.class_loss](outputs.logits, wanted), axis=-1)
        if outputs.objectness is not None:
            classes = jnp.where(targets.positive, classes, 0.0)
        # A point without an object is given its own box as target, whose losses have no gradient that is not finite.
        grid = self._grid(places)
        predicted = _boxes(outputs.distances, grid)
        wanted_boxes = jnp.where(targets.positive[..., None], targets.boxes, jax.lax.stop_gradient(predicted))
        terms = {"class": jnp.sum(classes) / total}
        terms["box"] = settings.box_weight * mean(BOX_LOSSES[settings.box_loss](predicted, wanted_boxes))
        if outputs.objectness is not None:
            terms["objectness"] = jnp.sum(sigmoid_cross_entropy(outputs.objectness, targets.positive)) / total
        if outputs.bins is not None:
            sides = distribution_focal(outputs.bins, _distances(wanted_boxes, grid))
            terms["distribution"] = settings.distribution_weight * mean(sides.mean(-1))
        return terms

    def decode(self, outputs: GridOutputs, places: Points, size: Int[Array, "2"]) -> Detections:
        """The best (point, class) pairs of each level, thinned by NMS per class."""
        settings = self.settings
        levels = [len(points) for points in places]
        found = level_candidates(outputs.scores, levels, threshold=settings.score_threshold, count=settings.candidates)
        grid = Grid(*(values[found.places] for values in self._grid(places)))
        boxes = box_ops.clip(_boxes(outputs.distances[found.places], grid), size)
        valid = jnp.isfinite(found.scores) & jnp.all(boxes[:, 2:] - boxes[:, :2] >= settings.min_size, axis=-1)
        return best_detections(
            boxes, found.scores, found.labels, valid, iou_threshold=settings.nms_threshold, count=settings.detections
        )


def _boxes(distances: Array, grid: Grid) -> Array:
    """[..., n, 4] boxes with these distances, in strides, from the points to their sides."""
    pixels = distances * jnp.broadcast_to(grid.strides, distances.shape)
    points = jnp.broadcast_to(grid.points, (*distances.shape[:-1], 2))
    return jnp.concatenate([points - pixels[..., :2], points + pixels[..., 2:]], axis=-1)


def _distances(boxes: Array, grid: Grid) -> Array:
    """The inverse of `_boxes`."""
    points = jnp.broadcast_to(grid.points, (*boxes.shape[:-1], 2))
    pixels = jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)
    return pixels / jnp.broadcast_to(grid.strides, boxes.shape)
