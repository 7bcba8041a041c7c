"""The dense head of YOLO (Redmon et al. 2016): boxes, confidences and classes of the cells of a grid, all at once.

As Darknet does, the network predicts the square roots of widths and heights that the loss compares (equation 3), not
the sizes: a size is the square of what is predicted, so that no prediction is without a root, and none has a size below
zero.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum
from segjax.models.heads.decoding import best_detections
from segjax.models.layers.darknet import DETECTION, SLOPE, DarknetLayer, Layer, leaky_init
from segjax.models.layers.norms import NormName
from segjax.ops import boxes as box_ops
from segjax.ops.grid import cell_places, decode_cells, encode_cells
from segjax.types import Detections, Instances, Losses


@dataclasses.dataclass(frozen=True)
class YOLOSettings:
    """The numbers of the loss (the paper's) and of decoding (Darknet's, as it is evaluated)."""

    lambda_coord: float = 5.0
    """Weight of centres and sizes."""
    lambda_noobj: float = 0.5
    """Weight of the confidences of predictors without an object."""
    score_threshold: float = 0.001
    """Of class probability times confidence; pairs of a box and a class that do not exceed it are dropped."""
    nms_threshold: float = 0.5
    candidates: int = 4096
    """Best (box, class) pairs per image that go into NMS; the paper's grid has 1960."""
    detections: int = 100
    """Detections per image."""
    min_size: float = 1e-2
    """Detections with a smaller side, in pixels, are dropped."""


class YOLOOutputs(NamedTuple):
    """What the network says of each of n cells, which has `p` predictors of a box and one set of classes."""

    boxes: Float[Array, "*b n p 4"]
    """(x, y, square root of w, square root of h): see `segjax.ops.grid`. Roots of either sign mean the same size."""
    confidences: Float[Array, "*b n p"]
    """IoU that the box is thought to have with an object; 0 for none."""
    classes: Float[Array, "*b n classes"]
    """Probability of each class if there is an object. Not normalised: all outputs are linear."""


class YOLONetwork(nn.Module):
    """The detector's last convolutions, hidden layers over the whole map, and one output for each number of the grid.

    Every weight of the hidden layers belongs to a position of the map: images have to be of the size that the variables
    were made with.
    """

    classes: int
    grid: int = 7
    boxes: int = 2
    """Predictors of each cell."""
    convolutions: tuple[Layer, ...] = DETECTION
    hidden: tuple[int, ...] = (4096,)
    """Widths of the fully connected layers before the last. With none, and a position of the map for a cell, the last
    begins as a 1x1 convolution."""
    dropout: float = 0.5
    """Share of the last hidden layer's units left out in training."""
    norm: NormName | None = None
    """Behind each convolution."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool = False) -> YOLOOutputs:
        """What each cell predicts, float32.

        Raises:
          ValueError: there are several maps, or the map is of another size than the variables are for.
        """
        if len(features) != 1:
            raise ValueError(f"YOLO sees one map, and the backbone gives {len(features)}: take its last stage alone.")
        (x,) = features
        for i, layer in enumerate(self.convolutions, start=1):
            x = DarknetLayer(layer, self.norm, self.dtype, name=f"conv{i}")(x, train=train)
        self._check_size(x)
        axes: tuple[int, ...] = (-3, -2, -1)
        for i, width in enumerate(self.hidden, start=1):
            # The kernel keeps the map's axes: 4 x 5 positions do not pass for 5 x 4.
            layer = nn.DenseGeneral(width, axes, kernel_init=leaky_init, dtype=self.dtype, name=f"hidden{i}")
            x, axes = nn.leaky_relu(layer(x), SLOPE), (-1,)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        cells, predictors = self.grid**2, self.boxes
        # Without hidden layers each cell begins by reading its own position, all in the same way: from independent
        # readings the convolutions, which all cells share, learn where objects are long before they learn classes.
        own = not self.hidden and x.shape[1:3] == (self.grid, self.grid)
        init = _same_for_each_position(cells) if own else nn.initializers.normal(0.01)
        x = nn.DenseGeneral(
            cells * (5 * predictors + self.classes), axes, kernel_init=init, dtype=self.dtype, name="output"
        )(x)
        x = x.reshape(-1, cells, 5 * predictors + self.classes).astype(jnp.float32)
        boxes = x[..., : 5 * predictors].reshape(-1, cells, predictors, 5)
        return YOLOOutputs(boxes[..., :4], boxes[..., 4], x[..., 5 * predictors :])

    def _check_size(self, x: Array) -> None:
        """`ValueError` where the first layer over the whole map was made for another one."""
        name = "hidden1" if self.hidden else "output"
        if self.is_initializing() or not self.has_variable("params", name):
            return
        made = jnp.shape(self.variables["params"][name]["kernel"])[:3]
        if made != x.shape[1:]:
            raise ValueError(
                f"YOLO's fully connected layers were made for maps of {made[0]}x{made[1]} positions and {made[2]} "
                f"channels, and these images give {x.shape[1]}x{x.shape[2]} and {x.shape[3]}: all images, in training "
                "and prediction, must have one (padded) size, so give the data one bucket."
            )


def _same_for_each_position(positions: int) -> nn.initializers.Initializer:
    """From all positions' channels to all cells' numbers, beginning as a 1x1 convolution of small outputs."""

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        channels, numbers = shape[0] // positions, shape[1] // positions
        one = 0.1 * jax.nn.initializers.lecun_normal()(key, (channels, numbers), dtype)
        return jnp.einsum("pq,cn->pcqn", jnp.eye(positions, dtype=dtype), one).reshape(shape)

    return init


class YOLOPlaces(NamedTuple):
    """The cells, and the frame that they divide: the padded image."""

    cells: Int[Array, "n 2"]
    """(column, row)."""
    size: Int[Array, "2"]
    """(height, width) in pixels."""


class YOLOTargets(NamedTuple):
    """What each of n cells should predict; 0 where it has no object."""

    responsible: Bool[Array, "*b n p"]
    """The predictor of the cell's object: of every cell with an object, one."""
    boxes: Float[Array, "*b n 4"]
    """(x, y, square root of w, square root of h)."""
    iou: Float[Array, "*b n p"]
    """Of each predicted box with the cell's object."""
    classes: Float[Array, "*b n classes"]
    """1 for the object's class, else 0."""
    lost: Int[Array, "*b"]
    """Objects that are not trained on because their cell has a larger one."""


@dataclasses.dataclass(frozen=True)
class YOLOHead:
    """YOLO's head: cells become detections. A `segjax.models.heads.dense.DenseHead`."""

    network: nn.Module
    """To `YOLOOutputs` of grid x grid cells, row by row: a `YOLONetwork` or another."""
    grid: int = 7
    settings: YOLOSettings = YOLOSettings()

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> YOLOPlaces:
        """The cells of the padded image; its maps have no part in it."""
        del maps
        return YOLOPlaces(cell_places(self.grid), jnp.asarray(size, jnp.int32))

    def targets(
        self, outputs: YOLOOutputs, places: YOLOPlaces, instances: Instances, size: Int[Array, "2"]
    ) -> YOLOTargets:
        """The object of each cell, and which predictor is responsible: the one of highest IoU with it.

        Where no predictor's box overlaps the object it is the one whose centre and size are nearest to the object's, as
        in Darknet; of equal ones the first.
        """
        del size
        given = (instances.boxes, instances.labels, instances.valid)
        cells = encode_cells(*given, grid=self.grid, size=places.size)
        of_each = jnp.broadcast_to(places.cells[:, None], (*outputs.boxes.shape[:2], 2))
        predicted = decode_cells(_squared(outputs.boxes), of_each, grid=self.grid, size=places.size)
        objects = decode_cells(cells.boxes, places.cells, grid=self.grid, size=places.size)
        iou = box_ops.iou(predicted, objects[:, None])[..., 0]
        differences = _squared(outputs.boxes) - cells.boxes[:, None]
        distance = jnp.sum(differences[..., :2] ** 2, axis=-1) / self.grid**2 + jnp.sum(differences[..., 2:] ** 2, -1)
        merit = jnp.where(jnp.any(iou > 0, axis=-1, keepdims=True), iou, -distance)
        best = jax.nn.one_hot(jnp.argmax(merit, axis=-1), iou.shape[-1], dtype=bool)
        classes = jax.nn.one_hot(cells.labels, outputs.classes.shape[-1])
        return YOLOTargets(
            best & cells.present[:, None],
            jnp.concatenate([cells.boxes[:, :2], jnp.sqrt(cells.boxes[:, 2:])], axis=-1),
            jnp.where(cells.present[:, None], iou, 0.0),
            jnp.where(cells.present[:, None], classes, 0.0),
            cells.lost,
        )

    def losses(self, outputs: YOLOOutputs, targets: YOLOTargets, places: YOLOPlaces) -> Losses:
        """The five sums of equation 3, weights included, each the mean over the images of the batch.

        `center` and `size` are of responsible predictors; `object` and `no_object` of the confidences of those that are
        responsible, whose target is their IoU, and of all others, whose target is 0; `class` is of cells with objects.
        """
        del places
        settings, responsible = self.settings, targets.responsible
        present = jnp.any(responsible, axis=-1)
        boxes = (outputs.boxes - targets.boxes[..., None, :]) ** 2
        confidence = (outputs.confidences - jnp.where(responsible, targets.iou, 0.0)) ** 2
        classes = jnp.sum((outputs.classes - targets.classes) ** 2, axis=-1)
        sums = {
            "center": settings.lambda_coord * masked_sum(jnp.sum(boxes[..., :2], axis=-1), responsible),
            "size": settings.lambda_coord * masked_sum(jnp.sum(boxes[..., 2:], axis=-1), responsible),
            "object": masked_sum(confidence, responsible),
            "no_object": settings.lambda_noobj * masked_sum(confidence, ~responsible),
            "class": masked_sum(classes, present),
        }
        return {name: value / responsible.shape[0] for name, value in sums.items()}

    def decode(self, outputs: YOLOOutputs, places: YOLOPlaces, size: Int[Array, "2"]) -> Detections:
        """The best (box, class) pairs by class probability times confidence (equation 1), thinned by NMS per class.

        The score of a pair whose probability or confidence is negative, which linear outputs can be, is 0.
        """
        settings, classes = self.settings, outputs.classes.shape[-1]
        scores = jax.nn.relu(outputs.confidences)[..., None] * jax.nn.relu(outputs.classes)[:, None]
        scores = jnp.where(scores > settings.score_threshold, scores, -jnp.inf).reshape(-1)
        scores, top = jax.lax.top_k(scores, min(settings.candidates, scores.size))
        cell, predictor, label = jnp.unravel_index(top, (*outputs.confidences.shape, classes))
        boxes = _squared(outputs.boxes[cell, predictor])
        boxes = box_ops.clip(decode_cells(boxes, places.cells[cell], grid=self.grid, size=places.size), size)
        valid = jnp.isfinite(scores) & jnp.all(boxes[:, 2:] - boxes[:, :2] >= settings.min_size, axis=-1)
        return best_detections(
            boxes, scores, label, valid, iou_threshold=settings.nms_threshold, count=settings.detections
        )


def _squared(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x, y, w, h) from predictions of the roots of w and h."""
    return jnp.concatenate([boxes[..., :2], boxes[..., 2:] ** 2], axis=-1)
