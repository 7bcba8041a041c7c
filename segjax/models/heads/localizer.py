"""Classification and localization: one class of a whole image, and the box of its main object.

A dense head that sees the image as one place. The box is a regression beside the classification, on the same hidden
layers (Sermanet et al. 2014, "OverFeat", section 4; Krizhevsky et al. 2012 entered ILSVRC's localization task so).
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, softmax_cross_entropy
from segjax.ops import boxes as box_ops
from segjax.types import Detections, Instances, Losses


class LocalizerOutputs(NamedTuple):
    """What the network says of each image, which is one place."""

    logits: Float[Array, "*b 1 classes"]
    """Of the classes; there is no background."""
    boxes: Float[Array, "*b 1 boxes 4"]
    """(x, y, w, h): centre and size, relative to the padded image. One for each class, or one for all."""


class LocalizerNetwork(nn.Module):
    """Shared hidden layers, and on them a fully connected layer for the classes and one for the boxes."""

    hidden: nn.Module
    """(maps, train) -> [b, features]."""
    classes: int
    per_class: bool = False
    """Whether each class has a box of its own."""
    dtype: DTypeLike = jnp.float32
    """Of the classes' layer."""

    @nn.compact
    def __call__(self, features: Sequence[Float[Array, "b _ _ _"]], *, train: bool = False) -> LocalizerOutputs:
        """Logits and boxes, float32."""
        x = self.hidden(features, train=train)
        # Logits start at unit size (LeCun's initialisation), so that the hidden layers hear of the classes from the
        # first step on; boxes start from the middle of the image, half as wide and high. They are shares of it, which
        # bfloat16 would round to a pixel and more of 1333.
        logits = nn.Dense(self.classes, dtype=self.dtype, name="class")(x)
        small, middle = nn.initializers.normal(0.01), nn.initializers.constant(0.5)
        count = self.classes if self.per_class else 1
        boxes = nn.Dense(4 * count, kernel_init=small, bias_init=middle, dtype=jnp.float32, name="box")(x)
        return LocalizerOutputs(logits.astype(jnp.float32)[:, None], boxes.reshape(-1, 1, count, 4))


class LocalizerTargets(NamedTuple):
    """The main object of each image; 0 where it has none."""

    present: Bool[Array, "*b 1"]
    labels: Int[Array, "*b 1"]
    boxes: Float[Array, "*b 1 4"]
    """(x, y, w, h) as in `LocalizerOutputs`."""


@dataclasses.dataclass(frozen=True)
class LocalizerHead:
    """Images become one detection each, or a few. A `segjax.models.heads.dense.DenseHead`.

    Boxes are relative to the padded image, not to the part of it that is the image: the fully connected layers know
    positions on the padded map, and where the image ends on it they would have to learn.
    """

    network: nn.Module
    """To `LocalizerOutputs`: a `LocalizerNetwork` or another."""
    guesses: int = 1
    """Detections an image: its most probable classes."""

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Float[Array, "4"]:
        """What boxes are relative to: (width, height, width, height) of the padded image in pixels."""
        del maps
        height, width = size
        return jnp.asarray([width, height, width, height], jnp.float32)

    def targets(
        self, outputs: LocalizerOutputs, places: Float[Array, "4"], instances: Instances, size: Int[Array, "2"]
    ) -> LocalizerTargets:
        """The object of largest area, the first of equal ones."""
        del outputs, size
        # One row of padding, so that there is a largest among no objects too.
        boxes, labels = jnp.pad(instances.boxes, ((0, 1), (0, 0))), jnp.pad(instances.labels, (0, 1))
        valid = jnp.pad(instances.valid, (0, 1))
        main = jnp.argmax(jnp.where(valid, box_ops.area(boxes), -1.0))
        present = valid[main]
        box = jnp.where(present, box_ops.xyxy_to_cxcywh(boxes[main]) / places, 0.0)
        label = jnp.where(present, labels[main], 0)
        return LocalizerTargets(present[None], label[None], box[None])

    def losses(self, outputs: LocalizerOutputs, targets: LocalizerTargets, places: Float[Array, "4"]) -> Losses:
        """`class`: cross-entropy; `box`: squared errors of the four numbers, summed. Both are the mean over the images
        that have an object, the others have no influence. Of a box for each class only that of the true one is trained.
        """
        del places
        present = targets.present
        count = jnp.sum(present, dtype=jnp.float32)
        cross_entropy = softmax_cross_entropy(outputs.logits, targets.labels)
        chosen = _of_class(outputs.boxes, targets.labels)
        squares = jnp.sum((chosen - targets.boxes) ** 2, axis=-1)
        return {
            "class": safe_divide(masked_sum(cross_entropy, present), count),
            "box": safe_divide(masked_sum(squares, present), count),
        }

    def decode(self, outputs: LocalizerOutputs, places: Float[Array, "4"], size: Int[Array, "2"]) -> Detections:
        """The most probable classes with their probabilities and their boxes, cut to the image."""
        scores, labels = jax.lax.top_k(jax.nn.softmax(outputs.logits[0]), self.guesses)
        boxes = _of_class(jnp.repeat(outputs.boxes, self.guesses, axis=0), labels)
        centre, extent = boxes[:, :2], jnp.maximum(boxes[:, 2:], 0.0)
        boxes = box_ops.cxcywh_to_xyxy(jnp.concatenate([centre, extent], axis=-1) * places[None])
        valid = jnp.ones(self.guesses, bool)
        return Detections(box_ops.clip(boxes, size), scores, labels.astype(jnp.int32), valid)


def _of_class(boxes: Float[Array, "*n boxes 4"], labels: Int[Array, "*n"]) -> Float[Array, "*n 4"]:
    """The box of a class, where each has its own, else the only one."""
    index = labels if boxes.shape[-2] > 1 else jnp.zeros_like(labels)
    return jnp.take_along_axis(boxes, index[..., None, None], axis=-2)[..., 0, :]
